"""The lab in a real kernel: the stop button, quiet logs, clear errors, nothing left behind."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from kernels import CellError, Kernel, no_task_left_behind, shared_kernel  # noqa: F401

from wslessons.errors import UserError
from wslessons.lab import kernel as lab_kernel

in_the_kernel = pytest.mark.asyncio(loop_scope="module")
"""Runs a test on the loop of the kernel that these tests share."""


@pytest_asyncio.fixture(loop_scope="module")
async def cells(shared: Kernel) -> AsyncIterator[Kernel]:
    """A kernel without servers, in which the first cell of a lesson has run."""
    async with asyncio.timeout(50):
        await shared.run(
            "from wslessons import lab; from wslessons.echo import echo; import asyncio\n"
            "for server in lab.servers():\n"
            "    await server.stop()"
        )
        assert await shared.run("print(lab.servers())") == "[]\n"
        yield shared


@in_the_kernel
async def test_stop_button_ends_a_quiet_await(cells: Kernel):
    """An interrupt ends `await asyncio.sleep(60)` in under a second, and the kernel works on."""
    waits = []
    for _ in range(3):
        sleeping = cells.start("print('awake'); await asyncio.sleep(60)")
        await cells.printed.wait()
        began = time.monotonic()
        await cells.manager.interrupt_kernel()
        with pytest.raises(CellError):
            await sleeping
        waits.append(time.monotonic() - began)
    # The best of three: a busy machine may delay one of them.
    assert min(waits) < 1
    assert await cells.run("print(1 + 1)") == "2\n"


@in_the_kernel
@pytest.mark.parametrize(
    ("code", "where"),
    [
        ("await asyncio.sleep(60)", "in line 2: await asyncio.sleep(60)"),
        ("for _ in range(10**12):\n    pass", "in line "),
        (
            "server = await lab.serve('echo', echo)\n"
            "from websockets import connect\n"
            "async with connect(server.url, proxy=None) as client:\n"
            "    await client.recv()",
            "in line 5: await client.recv()",
        ),
        (
            "async with asyncio.TaskGroup() as group:\n"
            "    group.create_task(asyncio.sleep(60))\n"
            "    group.create_task(asyncio.sleep(60))",
            "in line 2: async with asyncio.TaskGroup() as group:",
        ),
    ],
)
async def test_a_stopped_cell_ends_in_one_line(cells: Kernel, code: str, where: str):
    """The line says where in the cell it was; not where in the libraries."""
    running = cells.start(f"print('awake', flush=True)\n{code}")
    await cells.printed.wait()
    # The cell is past its first line when it waits, or for ever on its way.
    await asyncio.sleep(0.3)
    await cells.manager.interrupt_kernel()
    with pytest.raises(CellError) as stopped:
        await running
    assert str(stopped.value).startswith(f"wslessons: stopped {where}")
    assert "\n" not in str(stopped.value)


@in_the_kernel
async def test_a_cancellation_of_ones_own_is_no_stop(cells: Kernel):
    """A task that a learner cancels and awaits is shown as Python shows it."""
    with pytest.raises(CellError, match="CancelledError") as error:
        await cells.run("task = asyncio.create_task(asyncio.sleep(1)); task.cancel(); await task")
    assert "stopped" not in str(error.value)


@in_the_kernel
async def test_servers_live_on_when_a_cell_is_stopped(cells: Kernel):
    """Stopping a cell ends that cell's await, not the servers in the background."""
    await cells.run("server = await lab.serve('echo', echo)")
    sleeping = cells.start("print('awake'); await asyncio.sleep(60)")
    await cells.printed.wait()
    await cells.manager.interrupt_kernel()
    with pytest.raises(CellError):
        await sleeping
    talk = """
from websockets import connect
async with connect(server.url, proxy=None) as client:
    await client.send("hi")
    print(await client.recv())
"""
    assert await cells.run(talk) == "Echo: hi\n"


@in_the_kernel
async def test_running_a_cell_again_replaces_the_server(cells: Kernel):
    """The same cell twice: one server, the same text, the old one's clients closed with 1012."""
    cell = "server = await lab.serve('echo', echo); server"
    assert await cells.run(cell) == "<server 'echo', running>"
    await cells.run("from websockets import connect; old = await connect(server.url, proxy=None)")
    assert await cells.run(cell) == "<server 'echo', running>"
    assert await cells.run("print(lab.servers())") == "[<server 'echo', running>]\n"
    assert await cells.run("await old.wait_closed(); print(old.close_code)") == "1012\n"


@in_the_kernel
async def test_what_servers_log_stays_out_of_the_cells(cells: Kernel):
    """Connects, disconnects and crashes go to the logbook; no cell's output changes."""
    crash = """
async def broken(connection):
    raise ZeroDivisionError("on purpose")
from websockets import connect
server = await lab.serve("broken", broken)
async with connect(server.url, proxy=None) as client:
    await client.wait_closed()
print(client.close_code)
"""
    assert await cells.run(crash) == "1011\n"
    lines = await cells.run("print(lab.kernel.logbook.lines()[-1])")
    assert lines == "connection handler failed: ZeroDivisionError: on purpose\n"


@in_the_kernel
async def test_a_users_error_is_one_sentence_without_traceback(cells: Kernel):
    """A port in use, in a cell: the learner reads a sentence and nothing else."""
    await cells.run("first = await lab.serve('a', echo)")
    with pytest.raises(CellError) as error:
        await cells.run("await lab.serve('b', echo, port=int(first.url.rsplit(':')[-1]))")
    assert str(error.value).startswith("wslessons: port ")
    assert str(error.value).endswith("is in use: choose another port, or 0 for a free one.")
    assert "Traceback" not in str(error.value)


@in_the_kernel
async def test_a_restarted_kernel_leaves_no_server_behind(cells: Kernel):
    """After a restart the port of a server is free again."""
    port = (await cells.run("s = await lab.serve('e', echo); print(s.url.rsplit(':')[-1])")).strip()
    await cells.manager.restart_kernel(now=True)
    await cells.client.wait_for_ready()
    with pytest.raises(OSError, match=port):
        await asyncio.open_connection("127.0.0.1", int(port))


@in_the_kernel
async def test_another_event_loop_is_named(cells: Kernel):
    """With %autoawait off, the set-up says what is in the way and how to undo it."""
    await cells.run("%autoawait off")
    with pytest.raises(CellError, match="run %autoawait asyncio"):
        await cells.run("lab.setup()")
    await cells.run("%autoawait asyncio")
    assert await cells.run("lab.setup()") == ""


def test_setup_outside_a_kernel_is_refused():
    """In a script `setup` says where the lab works."""
    with pytest.raises(UserError, match="works inside a Jupyter kernel"):
        lab_kernel.setup()


def test_importing_the_lab_in_a_script_does_nothing():
    """`import wslessons.lab` outside a kernel neither raises nor starts anything."""
    assert "wslessons.lab" in sys.modules
    assert lab_kernel._ticker is None


@pytest.mark.parametrize(
    ("text", "numbers"), [("7.4.0", (7, 4, 0)), ("7.4.0rc1", (7, 4, 0)), ("17.4", (17, 4))]
)
def test_versions_are_read_by_their_numbers(text: str, numbers: tuple[int, ...]):
    """A version's leading numbers decide."""
    assert lab_kernel.release(text) == numbers


def test_a_package_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch):
    """An old ipykernel is named with the command that cures it."""
    monkeypatch.setattr(lab_kernel.importlib.metadata, "version", lambda package: "7.2.0")
    with pytest.raises(UserError, match=r"ipykernel 7\.2\.0 is too old .* 'ipykernel>=7\.4'"):
        lab_kernel.check_versions()
