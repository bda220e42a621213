"""Lesson 2's experiments: a flood that only bob reads, and the memory of idle connections."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Protocol

from websockets import ClientConnection, ConnectionClosed, Server, ServerConnection, connect

from wslessons import serving
from wslessons.lab.commands import memory
from wslessons.lab.commands import serving as serving_command

__all__ = ["LINES", "LINE_SIZE", "Flood", "memory_per_connection", "slow_reader"]

LINES = 400
LINE_SIZE = 65_536
"""Bytes of a line. Long ones, because the buffers of two kernels hold close to 3 MB on loopback
before a sender notices that nobody reads."""


class Chat(Protocol):
    """What `slow_reader` can try out: a chat whose members say their name first."""

    def handler(self, connection: ServerConnection) -> Awaitable[None]:
        """Serve one connection."""
        ...


@dataclass(frozen=True)
class Flood:
    """What became of alice's lines.

    Attributes:
        said: how many lines she had.
        heard: how many of them bob heard while mallory read nothing.
        held: bytes that the server kept for mallory alone at that time.
        got: how many lines mallory got once she read again.
        missed: how many lines the chat told her that she missed.
    """

    said: int
    heard: int
    held: int
    got: int
    missed: int


async def slow_reader(chat: Chat, *, lines: int = LINES, timeout: float = 2.0) -> Flood:
    """Let alice say `lines` to bob, who reads them, and to mallory, who reads only afterwards.

    Args:
        chat: an object with a `handler`, and `options` for the server if it has any. It must take
            messages of 64 KiB: `ChatServer(max_size=2**17)`.
        lines: how many, of 64 KiB each.
        timeout: seconds without a line after which bob gives up.

    Returns:
        What became of the lines.
    """
    options: dict[str, Any] = {"max_size": 2 * LINE_SIZE, **getattr(chat, "options", {})}
    options |= {"ping_interval": None, "compression": None}
    async with serving.running(chat.handler, **options) as server:
        alice, bob, mallory = [await _join(server, name) for name in ("alice", "bob", "mallory")]
        await _until(bob, "[system] >>> mallory joined the chat")
        mallory.transport.pause_reading()
        async with asyncio.TaskGroup() as tasks:
            speaking = tasks.create_task(_speak(alice, lines))
            deaf = tasks.create_task(_drain(alice))
            heard = await _hear(bob, lines, timeout)
            held = _held(chat, server, mallory)
            mallory.transport.resume_reading()
            drained = tasks.create_task(_drain(bob))
            got, missed = await _catch_up(mallory)
            await speaking
            for connection in (alice, bob, mallory):
                await connection.close()
            await asyncio.wait([deaf, drained])
        return Flood(lines, heard, held, got, missed)


async def _join(server: Server, name: str) -> ClientConnection:
    url = serving.urls(server)[0]
    client = await connect(url, proxy=None, compression=None, max_size=None, ping_interval=None)
    await client.send(name)
    return client


async def _until(client: ClientConnection, line: str) -> None:
    async with asyncio.timeout(10):
        while await client.recv() != line:
            pass


async def _speak(alice: ClientConnection, lines: int) -> None:
    line = "x" * LINE_SIZE
    for _ in range(lines):
        await alice.send(line)
    await alice.send("that was all")


async def _drain(client: ClientConnection) -> None:
    try:
        while True:
            await client.recv()
    except ConnectionClosed:
        pass


async def _hear(bob: ClientConnection, lines: int, timeout: float) -> int:
    heard = 0
    try:
        while heard < lines:
            async with asyncio.timeout(timeout):
                heard += str(await bob.recv()).startswith("[alice] x")
    except TimeoutError:
        pass
    return heard


def _held(chat: Chat, server: Server, mallory: ClientConnection) -> int:
    """Bytes of the server that wait for mallory: in her connection's buffer, and in her queue."""
    port = mallory.local_address[1]
    connection = next(each for each in server.connections if each.remote_address[1] == port)
    queues: dict[ServerConnection, asyncio.Queue[str]] = getattr(chat, "queues", {})
    queued = queues[connection].qsize() * LINE_SIZE if connection in queues else 0
    return queued + connection.transport.get_write_buffer_size()


async def _catch_up(mallory: ClientConnection) -> tuple[int, int]:
    """Read all that mallory is sent; count the lines, and those that she is told she missed."""
    got = missed = 0
    async with asyncio.timeout(30):
        while (line := str(await mallory.recv())) != "[alice] that was all":
            if line.startswith("[system] you missed"):
                missed += int(line.split()[3])
            elif line.startswith("[alice]"):
                got += 1
    return got, missed


async def memory_per_connection(*words: str, clients: int = 200) -> float:
    """Return the bytes of memory that an idle connection costs a server of its own process.

    Args:
        words: of the command that serves, such as "chat".
        clients: how many connect.

    Returns:
        The bytes.
    """
    async with serving_command(*words, "--port", "0") as command:
        before = memory(command.process.pid)
        idle = [await connect(command.url, proxy=None) for _ in range(clients)]
        after = memory(command.process.pid)
        await asyncio.gather(*(client.close() for client in idle))
    return (after - before) / clients
