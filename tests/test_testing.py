"""The pytest plugin, as a user's tests have it, and the hostile server against our own client."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest
from websockets import ConnectionClosed, InvalidHandshake, InvalidMessage, connect

from wslessons.client import ChatClient
from wslessons.errors import UserError
from wslessons.testing.hostile import BEHAVIOURS, Hostile

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
[OF_README] = re.findall(r"(?ms)^```python\n# test_mine\.py\n(.*?)^```", README)
USERS = """
import asyncio
import pytest
from websockets import ConnectionClosed, connect
from wslessons.testing import connections, frame, wire

pytest_plugins = ["wslessons.testing.plugin"]


async def echo(connection):
    async for message in connection:
        if message == "bug":
            raise ZeroDivisionError("the fault")
        await connection.send(message)


async def test_passes(ws_serve, ws_link, ws_hostile, ws_dial):
    url = await ws_serve(echo)
    link = await ws_link(url)
    async with connect(link.url, proxy=None) as connection:
        await connection.send("hi")
        assert await connection.recv() == "hi"
        link.cut()
        with pytest.raises(ConnectionClosed):
            await connection.recv()
    raw = await ws_dial(url)
    await raw.handshake("/")
    raw.send(frame(3))
    assert (await raw.closing())[0] == 1002
    hostile = await ws_hostile("drop")
    async with connect(hostile.url, proxy=None) as connection:
        await connection.send("hi")
        with pytest.raises(ConnectionClosed):
            await connection.recv()
    assert hostile.connections == 1


async def test_fails_with_its_handler(ws_serve):
    async with connect(await ws_serve(echo), proxy=None) as connection:
        await connection.send("bug")
        with pytest.raises(ConnectionClosed):
            await connection.recv()


def test_an_hour_in_no_time(virtual_run):
    async def main():
        server, client = connections(up=lambda: 0.1, down=lambda: 0.1)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for _ in range(60):
            await asyncio.sleep(60)
            assert abs(await (await server.ping()) - 0.2) < 1e-6
        assert loop.time() - begun > 3600
        wire(server).abort()
        wire(client).abort()
        await asyncio.sleep(1)

    virtual_run(main())
"""


def test_fixtures_as_a_user_has_them(tmp_path: Path) -> None:
    """They work, and a handler that fails is a test that fails, with its own exception.

    So does the test that the README shows, word for word.
    """
    (tmp_path / "test_users.py").write_text(USERS)
    (tmp_path / "test_mine.py").write_text(OF_README)
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    # It is there for notebooks, and takes a second to load.
    command += ["-p", "no:nbval"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert "5 passed, 1 error" in done.stdout, done.stdout
    assert "ERROR test_users.py::test_fails_with_its_handler" in done.stdout
    assert "a handler failed" in done.stdout
    assert "ZeroDivisionError: the fault" in done.stdout


QUIET = {"no close", "half a frame"}
"""What nobody can tell from a server of plain text that has nothing to say."""


async def talk(url: str) -> int:
    """Connect with our client, and read until the end; return the number of events."""
    async with ChatClient(
        url, "ann", attempts=1, timeout=0.3, open_timeout=0.3, close_timeout=0.3
    ) as client:
        return len([event async for event in client])


# What a flood of pings does is held by tests/client/test_hostile.py.
@pytest.mark.parametrize("behaviour", sorted(BEHAVIOURS.keys() - QUIET - {"ping flood"}))
async def test_our_client_says_what_a_hostile_server_does(behaviour: str) -> None:
    """In one sentence, in bounded time, and never a traceback of another kind."""
    async with asyncio.timeout(30), Hostile(behaviour) as server:
        with pytest.raises(UserError) as error:
            await talk(server.url)
        assert str(error.value).endswith(".")
        assert "\n" not in str(error.value)
        assert server.connections == 1


@pytest.mark.parametrize("behaviour", sorted(QUIET))
async def test_our_client_leaves_who_says_nothing(behaviour: str) -> None:
    """Whether it answers our Close or not."""
    async with asyncio.timeout(30), Hostile(behaviour) as server:
        async with ChatClient(server.url, "ann", timeout=0.3, close_timeout=0.3) as client:
            await client.send("hi")
        assert server.connections == 1


@pytest.mark.parametrize("behaviour", ["drop", "unknown opcode", "no utf-8", "masked"])
async def test_the_library_notices_what_it_must(behaviour: str) -> None:
    """What the server does is what it is called: a proper client fails the connection."""
    async with asyncio.timeout(30), Hostile(behaviour) as server:
        # By itself the library ends a failed connection with its next keepalive only.
        async with connect(
            server.url, proxy=None, close_timeout=0.2, ping_interval=0.2
        ) as connection:
            if behaviour == "drop":
                await connection.send("hi")
            with pytest.raises(ConnectionClosed) as closed:
                await connection.recv()
        sent = closed.value.sent
        code = {"unknown opcode": 1002, "masked": 1002, "no utf-8": 1007}.get(behaviour)
        assert (sent.code if sent else None) == code


@pytest.mark.parametrize("behaviour", ["no http", "refuse", "wrong key"])
async def test_the_library_notices_a_bad_handshake(behaviour: str) -> None:
    """Before anything is said."""
    async with asyncio.timeout(30), Hostile(behaviour) as server:
        with pytest.raises((InvalidHandshake, InvalidMessage)):
            async with connect(server.url, proxy=None):
                pass


async def test_a_behaviour_of_ones_own() -> None:
    """A function of two streams; one that does not exist is a sentence."""

    async def teapot(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 418 I'm a teapot\r\nContent-Length: 0\r\n\r\n")

    async with asyncio.timeout(30), Hostile(teapot) as server:
        with pytest.raises(InvalidHandshake, match="418"):
            async with connect(server.url, proxy=None):
                pass
    with pytest.raises(ValueError, match=r"no behaviour 'rude'; there are: silent, no http"):
        Hostile("rude")
