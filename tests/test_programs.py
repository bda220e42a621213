"""The programs of the README: each is short, type-checked, and does what it is there for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import aiohttp
import pytest
from websockets import connect

from wslessons.chat import ChatServer
from wslessons.chat.events import Message
from wslessons.client import ChatClient, Refused
from wslessons.link import Link
from wslessons.scaling import brokers
from wslessons.serving import urls

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
PROGRAMS = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", README, re.DOTALL))
OF_PYTEST = PROGRAMS.pop("test_mine.py")
"""Run by tests/test_testing.py, beside a user's other tests."""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Write the programs to a folder, word for word."""
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


class Running:
    """A program that runs, and its lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self, words: str) -> str:
        """Wait for a line with these words in it."""
        assert self.process.stdout is not None
        seen = []
        while line := (await self.process.stdout.readline()).decode():
            seen.append(line)
            if words in line:
                return line.strip()
        raise AssertionError(f"it ended without {words!r}: {seen}")

    async def interrupt(self) -> tuple[int, str]:
        """Press Ctrl-C; return the exit code, and what it still says."""
        assert self.process.stdout is not None
        self.process.send_signal(signal.SIGINT)
        said = (await self.process.stdout.read()).decode()
        return await self.process.wait(), said

    async def kill(self) -> None:
        """End it with SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


@contextlib.asynccontextmanager
async def running(folder: Path, *command: str) -> AsyncGenerator[Running]:
    """Run a program inside a timeout; it is killed at the end."""
    async with asyncio.timeout(60):
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, cwd=folder,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        one = Running(process)
        try:
            yield one
        finally:
            await one.kill()


async def heard(client: ChatClient, count: int) -> list[str]:
    """Return the next messages."""
    lines = []
    async for event in client:
        if isinstance(event, Message):
            lines.append(f"{event.sender}: {event.text}")
            if len(lines) == count:
                break
    return lines


def test_there_are_six_and_they_are_short() -> None:
    """Under 40 lines each, and there is no other Python in the README."""
    assert list(PROGRAMS) == [
        *("bot.py", "logger.py", "app.py", "devices.py", "servers.py", "watch.py")
    ]
    assert README.count("```python") == len(PROGRAMS) + 1
    assert max(len(text.splitlines()) for text in PROGRAMS.values()) < 40


@pytest.mark.timeout(180)
def test_type_checkers_read_them(programs: Path) -> None:
    """As a user's own would."""
    command = [sys.executable, "-m", "mypy", "--strict", *PROGRAMS]
    done = subprocess.run(command, cwd=programs, capture_output=True, text=True, timeout=170)
    assert (done.returncode, "Success" in done.stdout) == (0, True), done.stdout


async def test_a_bot_welcomes_and_rolls(programs: Path) -> None:
    """It hears a command, and refuses who shouts."""
    async with (
        running(programs, "bot.py", "0") as bot,
        ChatClient(f"{await bot.line('ws://')}/rooms/tea", "ann") as ann,
    ):
        assert await heard(ann, 1) == ["bot: welcome, ann! I know /roll"]
        await ann.send("/roll")
        [rolled] = await heard(ann, 1)
        assert re.fullmatch("bot: ann rolls [1-6]", rolled)
        with pytest.raises(Refused, match="please do not shout"):
            await ann.send("THIS IS VERY IMPORTANT")
        assert await bot.interrupt() == (0, "")


async def test_a_logger_writes_each_line_once_over_restarts(programs: Path) -> None:
    """Of itself, and of what is said while it is away."""
    log, place = programs / "room.log", programs / "room.place"

    async def written(count: int) -> None:
        while not log.exists() or len(log.read_text().splitlines()) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async with asyncio.timeout(60), ChatServer().serve() as server:
        url = urls(server)[0]
        async with ChatClient(url, "ann") as ann:
            for round in range(3):
                async with running(programs, "logger.py", url, str(log)) as logger:
                    if round == 0:
                        # It begins with what is said after it came.
                        while "logger" not in str(await anext(aiter(ann))):
                            pass
                    await ann.send(f"line {2 * round}")
                    await written(2 * round + 1)
                    while json.loads(place.read_text())[0] < (ann.offset or 0):  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
                    if round == 2:
                        assert await logger.interrupt() == (0, "")
                await ann.send(f"line {2 * round + 1}")
    assert log.read_text().splitlines() == [f"ann: line {n}" for n in range(5)]


async def test_an_application_speaks_in_the_chat_that_it_mounts(programs: Path) -> None:
    """The page is there, its WebSocket too, and a route pushes."""
    async with running(programs, "-m", "uvicorn", "app:app", "--port", "0") as app:
        url = re.findall(r"http://[\d.:]+", await app.line("running on"))[0]
        async with ChatClient(f"{url.replace('http', 'ws')}/chat/ws", "ann") as ann:
            async with aiohttp.ClientSession() as session:
                async with session.get(f"{url}/chat/") as answer:
                    assert "<title>" in await answer.text()
                async with session.post(f"{url}/deploys/1.2") as answer:
                    assert await answer.json() == {"told": ["ann"]}
            assert await heard(ann, 1) == ["deploys: version 1.2 is live"]


async def test_a_device_whose_line_dies_is_noticed(programs: Path) -> None:
    """The program's own numbers, a tenth of them: its minute would be ours."""
    text = PROGRAMS["devices.py"].replace("interval=15, timeout=45", "interval=0.15, timeout=0.45")
    (programs / "devices.py").write_text(text)
    async with (
        running(programs, "devices.py", "0") as devices,
        Link(await devices.line("ws://")) as link,
        connect(f"{link.url}/pump", proxy=None, close_timeout=0.1) as pump,
    ):
        await pump.send("7 bar")
        assert await devices.line("says") == "pump says 7 bar"
        with link.stall():
            assert await devices.line("gone") == "pump is gone: 1006"
        assert await devices.interrupt() == (0, "")


async def test_a_link_shows_what_is_said_and_it_ends(programs: Path) -> None:
    """The handshake, the texts and the close, each with its direction."""
    async with running(programs, "watch.py") as watch:
        assert await watch.line("hello") == "client->server hello"
        assert await watch.line("hello") == "server->client Echo: hello"
        assert await watch.process.wait() == 0


async def test_two_servers_share_rooms_and_history(programs: Path) -> None:
    """What was said on one is there for a newcomer on the other."""
    async with (
        asyncio.timeout(60),
        brokers.run("redis") as redis,
        running(programs, "servers.py", redis.url, "0", "0") as servers,
    ):
        one, other = await servers.line("ws://"), await servers.line("ws://")
        async with ChatClient(one, "ann") as ann:
            await ann.send("before bob came")
            async with ChatClient(other, "bob", since=0) as bob:
                assert await heard(bob, 1) == ["ann: before bob came"]
                await ann.send("and now")
                assert await heard(bob, 1) == ["ann: and now"]
        assert await servers.interrupt() == (0, "")
