"""Child processes: what they are with a guardian, and that they end with their owner."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

import psutil
import pytest
from waits import until

from wslessons import guardian
from wslessons.processes import PORTS, free_ports, guarded, memory

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no guardian")

OWNER = """
import subprocess, sys, time
from pathlib import Path
from wslessons import guardian, processes

processes.guardian.__file__ = sys.argv[1]
home = Path(sys.argv[2])
for code in sys.argv[3:]:
    command = processes.guarded(sys.executable, "-c", code, home=home)
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    child.stdout.readline()
    if code is not sys.argv[-1]:
        child.kill()
        child.wait()
print("ready", flush=True)
time.sleep(60)
"""
WAIT = "import time; print(flush=True); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {WAIT}"
HASTY = f"""
import os, sys
sys.path.insert(0, {str(Path(guardian.__file__).parent)!r})
import guardian

guardian.TIMEOUT = 0.1
{{more}}
guardian.main()
"""


async def output(*command: str) -> tuple[int | None, int, bytes, bytes]:
    """Run a guarded command to its end: its exit code, process id, stdout and stderr."""
    async with asyncio.timeout(30):
        process = await asyncio.create_subprocess_exec(*guarded(*command), stdout=PIPE, stderr=PIPE)
        out, errors = await process.communicate()
        return process.returncode, process.pid, out, errors


async def test_process_id_exit_code_and_output_are_the_commands_own():
    """Whoever started it sees what it would see of a plain child."""
    code = "import os, sys; print(os.getpid(), file=sys.stderr); print('out'); sys.exit(7)"
    returned, pid, out, errors = await output(sys.executable, "-c", code)
    assert (returned, out, errors) == (7, b"out\n", f"{pid}\n".encode())


async def test_a_command_that_can_not_be_run_says_so():
    """One line on its stderr, and an exit code of 1."""
    returned, _, _, errors = await output("/no/such/program")
    assert returned == 1
    assert errors == b"/no/such/program can't be run: No such file or directory\n"


@pytest.mark.parametrize("more", ["", "del os.pidfd_open"], ids=["told", "polling"])
@pytest.mark.parametrize(
    "commands",
    [[WAIT], [STUBBORN], [WAIT, WAIT]],
    ids=["one that obeys", "one that does not", "one that was started again"],
)
async def test_it_ends_with_a_killed_owner_and_its_folder_goes(
    more: str, commands: list[str], tmp_path: Path
):
    """SIGTERM, then SIGKILL, then the folder; also where the system does not tell of an end."""
    script, home = tmp_path / "guardian.py", tmp_path / "home"
    script.write_text(HASTY.format(more=more if hasattr(os, "pidfd_open") else ""))
    home.mkdir()
    async with asyncio.timeout(40):
        owner = await asyncio.create_subprocess_exec(
            sys.executable, "-c", OWNER, str(script), str(home), *commands, stdout=PIPE
        )
        assert owner.stdout is not None
        assert await owner.stdout.readline() == b"ready\n"
        family = psutil.Process(owner.pid).children(recursive=True)
        assert len(family) >= 2
        owner.kill()
        await owner.communicate()
        assert (await asyncio.to_thread(psutil.wait_procs, family, 20))[1] == []
        await until(lambda: not home.exists())


async def test_the_guardian_goes_with_its_command():
    """While the owner lives on, nothing is left of a command that has ended."""
    async with asyncio.timeout(30):
        process = await asyncio.create_subprocess_exec(
            *guarded(sys.executable, "-c", WAIT), stdout=PIPE, stderr=DEVNULL
        )
        assert process.stdout is not None
        await process.stdout.readline()
        family = psutil.Process(process.pid).children()
        assert len(family) == 1
        process.send_signal(signal.SIGTERM)
        await process.communicate()
        assert (await asyncio.to_thread(psutil.wait_procs, family, 20))[1] == []
        assert process.returncode == -signal.SIGTERM


def test_memory_is_that_of_the_process():
    """Ours and another's agree with what the system says; a process that is gone has none."""
    own = memory()
    assert own == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    assert memory(os.getppid()) == pytest.approx(
        psutil.Process(os.getppid()).memory_info().rss, rel=0.5
    )
    assert memory(2**22 + 1) == 0


def test_ports_that_are_drawn_are_not_given_to_connections():
    """A server that was killed finds its port free, however many connections were made since."""
    assert len(set(free_ports(50))) == 50
    given = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if given.exists():
        low, high = map(int, given.read_text().split())
        assert set(PORTS).isdisjoint(range(low, high + 1))
