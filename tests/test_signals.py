"""Ctrl-C and the end of a terminal, at any moment, for every command, in a real pseudo-terminal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from wslessons.chat import ChatServer
from wslessons.serving import shut, urls

pytestmark = [
    pytest.mark.timeout(170),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

COMMANDS = {
    "echo": ["echo", "--port", "0"],
    "fast echo": ["echo", "--fast", "--port", "0"],
    "chat": ["chat", "--port", "0"],
    "web": ["web", "--port", "0"],
    "cluster": ["cluster", "--servers", "1", "--bus", "memory"],
    "client": ["client", "ws://127.0.0.1:1"],
    "bench": ["bench", "echo"],
    "check": ["check", "--url", "ws://127.0.0.1:1", "--as", "echo"],
    "lab": ["lab", "--no-browser", "--dir"],
}
SERVING = ("echo", "fast echo", "chat", "web", "cluster")
ENDED = {0, 130, -signal.SIGINT}
"""What a shell takes for a clean end, and for one by Ctrl-C."""


class Terminal:
    """A command in a terminal of its own, from whose keyboard it may be interrupted."""

    def __init__(self, master: int) -> None:
        self.master = master
        self.process: Process | None = None
        self.screen = ""
        self._more = asyncio.Event()
        asyncio.get_running_loop().add_reader(master, self._read)

    def _read(self) -> None:
        try:
            self.screen += os.read(self.master, 65536).decode(errors="replace")
        except OSError:  # the last one has closed its end
            asyncio.get_running_loop().remove_reader(self.master)
        self._more.set()

    async def shows(self, text: str) -> None:
        """Wait until `text` is on the screen."""
        while text not in self.screen:
            self._more.clear()
            await self._more.wait()

    async def begun(self) -> None:
        """Wait until the first lines of `wslessons` have run: before that it is Python's turn."""
        assert self.process is not None
        loop = asyncio.get_running_loop()
        bit = 1 << signal.SIGINT - 1
        seen = 0.0
        while self.process.returncode is None:
            with contextlib.suppress(OSError):
                caught = re.search(r"^SigCgt:\s*(\w+)", self._status(), re.MULTILINE)
                # Python itself catches it at first, and a command does later: on a busy machine we
                # may have seen the second only.
                if not (caught and int(caught[1], 16) & bit):
                    if seen:
                        return
                elif not seen:
                    seen = loop.time()
                elif loop.time() - seen > 5:
                    return
            await asyncio.sleep(0.001)

    def _status(self) -> str:
        assert self.process is not None
        return Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")

    async def ends(self) -> tuple[int, list[str]]:
        """Wait for the end; return the exit code, and the lines said since Ctrl-C, or in all."""
        assert self.process is not None
        code = await self.process.wait()
        await asyncio.sleep(0)
        text = self.screen.replace("^C", "").replace("\r", "\n")
        return code, [line for line in text.split("\n") if line.strip()]

    def press_ctrl_c(self) -> None:
        """Interrupt what runs in the foreground; what was shown before is forgotten."""
        self.screen = ""
        os.write(self.master, b"\x03")


@contextlib.asynccontextmanager
async def terminal(
    *words: str, home: Path, program: tuple[str, str] = ("-m", "wslessons")
) -> AsyncGenerator[Terminal]:
    """Run a command in a terminal while the block runs."""
    master, slave = os.openpty()
    shown = Terminal(master)
    # The leader of a session gets the first terminal that it opens (it is a child of nobody's).
    name = os.ttyname(slave)
    script = f'exec "$@" <{name} >{name} 2>&1'
    shown.process = await asyncio.create_subprocess_exec(
        *("sh", "-c", script, "sh", sys.executable, *program, *words),
        start_new_session=True,
        env=os.environ | {"HOME": str(home), "TERM": "xterm"},
    )
    try:
        yield shown
    finally:
        if shown.process.returncode is None:
            shown.process.kill()
            await shown.process.wait()
        asyncio.get_running_loop().remove_reader(master)
        os.close(slave)
        os.close(master)


@pytest.mark.parametrize("name", COMMANDS)
async def test_ctrl_c_ends_a_command_at_any_moment(name: str, tmp_path: Path) -> None:
    """From its first line on, with a sentence at most, and never with a traceback."""

    async def at(moment: float) -> tuple[int, list[str]]:
        home = tmp_path / str(moment)
        home.mkdir()
        words = [*COMMANDS[name], *([str(home / "work")] if name == "lab" else [])]
        async with terminal(*words, home=home) as shown:
            await shown.begun()
            await asyncio.sleep(moment)
            shown.press_ctrl_c()
            return await shown.ends()

    async with asyncio.timeout(160):
        ends = await asyncio.gather(*map(at, (0, 0.2, 0.6, 1.2)))
    for code, lines in ends:
        # These two may have come to their own end before: nobody listens where they look.
        assert code in ENDED or (code == 1 and name in ("client", "check")), lines
        assert len([line for line in lines if "://" not in line]) <= 1, lines


WHILE_IT_LOADS = """
import os, signal, sys
from jupyter_server.serverapp import ServerApp
from wslessons.__main__ import main

load = ServerApp.load_server_extensions

def interrupted(server):
    os.kill(os.getpid(), signal.SIGINT)
    load(server)

ServerApp.load_server_extensions = interrupted
sys.exit(main())
"""


async def test_ctrl_c_while_jupyterlab_loads_its_parts_ends_it(tmp_path: Path) -> None:
    """Where Jupyter's own handler would ask for a "y", and go on without one."""
    async with (
        asyncio.timeout(160),
        terminal(
            *COMMANDS["lab"], str(tmp_path / "work"), home=tmp_path, program=("-c", WHILE_IT_LOADS)
        ) as shown,
    ):
        code, lines = await shown.ends()
        assert code == 0
        assert not [line for line in lines if "Shut down" in line]


HALF_A_LOOP = """
import asyncio, sys
from wslessons.cli import main

def interrupted(loop):
    raise KeyboardInterrupt

asyncio.SelectorEventLoop._make_self_pipe = interrupted
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("words", [("echo", "--port", "0"), ("client", "ws://127.0.0.1:1")])
async def test_ctrl_c_while_the_loop_is_made_says_nothing(words: tuple[str, ...]) -> None:
    """What asyncio has half made, and a coroutine that waits for its loop, say so on their end."""
    async with asyncio.timeout(40):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", HALF_A_LOOP, *words),
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate()
    assert (process.returncode, errors) == (130, b"")


@pytest.mark.parametrize("name", SERVING)
async def test_the_end_of_its_terminal_stops_a_server_as_ctrl_c_does(
    name: str, tmp_path: Path
) -> None:
    """A server that is ready ends with 0, whether by the keyboard or since its terminal closes."""
    async with asyncio.timeout(160):
        for number in (signal.SIGINT, signal.SIGHUP):
            async with terminal(*COMMANDS[name], home=tmp_path) as shown:
                await shown.shows("://")
                assert shown.process is not None
                if number == signal.SIGINT:
                    shown.press_ctrl_c()
                else:
                    shown.process.send_signal(number)
                code, lines = await shown.ends()
                assert code == 0, lines


async def test_ctrl_c_ends_a_client_that_waits_for_its_next_attempt(tmp_path: Path) -> None:
    """Its server is gone, and the client is between two attempts."""
    async with asyncio.timeout(160):
        server = await ChatServer().serve()
        words = ["client", urls(server)[0], "--name", "ann"]
        async with terminal(*words, home=tmp_path) as shown:
            await shown.shows("ann joined")
            await shut(server)
            await shown.shows("next attempt")
            shown.press_ctrl_c()
            code, _ = await shown.ends()
            assert code in ENDED
            assert "Traceback" not in shown.screen
