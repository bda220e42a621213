"""The chat on the web in a real kernel: start, run again, stop, interrupt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from kernels import CellError, Kernel, no_task_left_behind, shared_kernel  # noqa: F401

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVE = "server = await lab.serve_app('web', web.application(chat), **web.OPTIONS); server"
JOIN = """
client = await connect(server.ws_url + "/ws", proxy=None)
await client.send("alice")
print(await client.recv())
"""


@pytest_asyncio.fixture(loop_scope="module")
async def cells(shared: Kernel) -> AsyncIterator[Kernel]:
    """A kernel in which the first cells of the lesson have run, and no other one."""
    async with asyncio.timeout(50):
        await shared.run("%reset -f")
        await shared.run(
            "from wslessons import lab, web\n"
            "from wslessons.chat import ChatServer\n"
            "from websockets import connect\n"
            "import asyncio\n"
            "for server in lab.servers():\n"
            "    await server.stop()\n"
            "chat = ChatServer()"
        )
        assert await shared.run(SERVE) == "<server 'web', running>"
        yield shared


async def test_running_the_cell_again_replaces_the_application(cells: Kernel):
    """The old one's clients get 1012, the new one serves the same room, one server is left."""
    assert await cells.run(JOIN) == "Welcome, alice!\n"
    await cells.run("old = client")
    assert await cells.run(SERVE) == "<server 'web', running>"
    assert await cells.run("await old.wait_closed(); print(old.close_code)") == "1012\n"
    assert await cells.run("print(lab.servers())") == "[<server 'web', running>]\n"
    assert await cells.run(JOIN) == "Welcome, alice!\n"


async def test_the_stop_button_leaves_it_alone(cells: Kernel):
    """Interrupting a cell ends that cell; the application and its signal handlers live on."""
    sleeping = cells.start("print('awake'); await asyncio.sleep(60)")
    await cells.printed.wait()
    await cells.manager.interrupt_kernel()
    with pytest.raises(CellError):
        await sleeping
    assert await cells.run(JOIN) == "Welcome, alice!\n"


async def test_it_stops_and_leaves_nothing_behind(cells: Kernel):
    """After `stop` clients are gone with 1012, nobody is in the room, and no task is left."""
    await cells.run(JOIN)
    await cells.run("await server.stop(); await client.wait_closed()")
    assert await cells.run("print(client.close_code, chat.people())") == "1012 []\n"
    left = "print([t.get_name() for t in asyncio.all_tasks() if 'watch_loop' in repr(t)])"
    assert await cells.run(left) == "[]\n"
    assert await cells.run("print(lab.servers())") == "[]\n"


async def test_what_it_logs_stays_out_of_the_cells(cells: Kernel):
    """The request log is in the logbook."""
    assert await cells.run(JOIN) == "Welcome, alice!\n"
    found = "print([l for l in lab.logbook.lines() if 'WebSocket /ws 101' in l] != [])"
    assert await cells.run(found) == "True\n"


async def test_a_page_is_reached_where_the_kernel_is_elsewhere(cells: Kernel):
    """Here it is the server's own address; on a hub it is the proxy's, under the user's prefix."""
    await cells.run("url = lab.page_url(server, '/?name=a'); port = server.url.rpartition(':')[2]")
    assert await cells.run("print(url == server.url + '/?name=a')") == "True\n"
    await cells.run("import os; os.environ['JUPYTERHUB_SERVICE_PREFIX'] = '/user/ann/'")
    hub = "print(lab.page_url(server, '/?name=a') == f'/user/ann/proxy/{port}/?name=a')"
    assert await cells.run(hub) == "True\n"
    await cells.run("del os.environ['JUPYTERHUB_SERVICE_PREFIX']")
    assert await cells.run("lab.page_panel(server, title='page', height=9)") == "[page]"
