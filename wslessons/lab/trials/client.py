"""Lesson 3's experiments: clients that write before they read, wait for a key, or all come back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from heapq import heapify, heappop, heappush
from typing import Any

from websockets import ClientConnection, ServerConnection, connect

from wslessons import serving
from wslessons.chat import ChatServer
from wslessons.chat.events import Joined, Left, Message, Missed
from wslessons.client import ChatClient, full_jitter
from wslessons.echo import echo_raw
from wslessons.link import Link

__all__ = [
    "LINE",
    "QUICK",
    "Talk",
    "accepted_by_the_deaf",
    "comeback",
    "heard_by_bob",
    "talk_to_echo",
    "texts",
    "too_late",
    "turns_during",
]

LINE = "x" * 65_536
"""A line for floods: long, so that a few of them fill the buffers between two ends."""

QUICK = partial(full_jitter, base=0.01, cap=0.1)
"""Delays between attempts to reconnect for a lesson, where nobody wants to wait for seconds."""


async def heard_by_bob(
    chatter: Callable[[str, Sequence[str]], Awaitable[object]],
    lines: Sequence[str] = ("one", "two", "three"),
    timeout: float = 2.0,
) -> list[str]:
    """Let `chatter` say `lines` in a chat in which bob listens; return what he heard.

    Args:
        chatter: called with the chat's URL and the lines; says them as one member, and leaves.
        lines: what there is to say.
        timeout: seconds after which the chatter is cancelled.

    Returns:
        The lines, in the order in which he heard them.
    """
    chat = ChatServer()
    async with serving.running(chat.handler, **chat.options) as server:
        url = serving.urls(server)[0]
        async with ChatClient(url, "bob") as bob:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await chatter(url, lines)
            async with asyncio.timeout(10):
                return await _told(bob, until=Left)


async def texts(client: ChatClient, count: int) -> list[str]:
    """Return the next `count` texts that somebody else says.

    Args:
        client: who listens.
        count: how many.

    Returns:
        The texts.
    """
    heard = []
    async for event in client:
        if isinstance(event, Message):
            heard.append(event.text)
        if len(heard) == count:
            break
    return heard


async def too_late(*, capacity: int = 8, lines: int = 20, text: bool = False) -> list[str]:
    """Cut bob off a room while alice says `lines`; return what he is told when he is back.

    Args:
        capacity: how many events the room keeps.
        lines: how many alice says: "0", "1" and so on.
        text: whether bob speaks plain text, which has no offsets.

    Returns:
        What he is told, in order.
    """
    chat = ChatServer(capacity=capacity)
    async with (
        asyncio.timeout(20),
        serving.running(chat.handler, **chat.options) as server,
        Link(serving.urls(server)[0]) as link,
        ChatClient(serving.urls(server)[0], "alice") as alice,
        ChatClient(link.url, "bob", text=text, reconnect_delays=QUICK) as bob,
    ):
        await _told(bob, until=Joined)
        with link.cut():
            await _told(alice, until=Left)
            for number in range(lines):
                await alice.send(str(number))
        return await _told(bob, until=Joined)


async def _told(client: ChatClient, until: type) -> list[str]:
    told = []
    async for event in client:
        if isinstance(event, Missed):
            told.append(f"missed {event.count}")
        elif isinstance(event, Message):
            told.append(event.text)
        elif isinstance(event, until):
            break
    return told


class _Counted:
    """A connection that counts what goes each way."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self.sent = self.received = 0

    async def send(self, message: Any) -> None:
        await self._connection.send(message)
        self.sent += 1

    async def recv(self) -> Any:
        message = await self._connection.recv()
        self.received += 1
        return message


@dataclass(frozen=True)
class Talk:
    """How far a client came: messages sent, answers received, and whether it came to its end."""

    sent: int
    received: int
    finished: bool


async def talk_to_echo(talk: Callable[[Any], Awaitable[object]], timeout: float = 1.0) -> Talk:
    """Let `talk` use a connection to an echo server for at most `timeout` seconds.

    Args:
        talk: called with a connection that has `send` and `recv`.
        timeout: seconds after which it is cancelled.

    Returns:
        What was sent and received, and whether `talk` came to its end.
    """
    async with serving.running(echo_raw, compression=None) as server:
        connection = await connect(serving.urls(server)[0], proxy=None, compression=None)
        counted = _Counted(connection)
        finished = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await talk(counted)
                finished = True
        # Nobody reads: a closing handshake would wait behind all that was written.
        connection.transport.abort()
        return Talk(counted.sent, counted.received, finished)


async def accepted_by_the_deaf(write_limit: int, timeout: float = 1.0) -> int:
    """Send 64 KiB messages to a server that reads none, until `send` waits.

    Args:
        write_limit: of the client's connection, in bytes, as `websockets.connect` takes it.
        timeout: seconds that a `send` may wait.

    Returns:
        The bytes in the connection's write buffer at that time.
    """

    async def mute(connection: ServerConnection) -> None:
        await connection.wait_closed()

    async with serving.running(mute, compression=None) as server:
        url = serving.urls(server)[0]
        connection = await connect(url, proxy=None, compression=None, write_limit=write_limit)
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(timeout):
                    await connection.send(LINE)
        size = connection.transport.get_write_buffer_size()
        connection.transport.abort()
        return size


async def turns_during(
    read_line: Callable[[int], Awaitable[bytes]], after: float = 0.3
) -> tuple[bytes, int]:
    """Let somebody type a line in a while; count the turns of the event loop until it is read.

    Args:
        read_line: called with the descriptor of a pipe, as a keyboard would be.
        after: seconds until the line is typed.

    Returns:
        The line, and how many turns a ticker had that wants one every 0.01 seconds.
    """
    keyboard, fingers = os.pipe()
    typing = threading.Timer(after, os.write, [fingers, b"hello"])
    turns = 0

    async def tick() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    typing.start()
    ticking = asyncio.create_task(tick())
    try:
        return await read_line(keyboard), turns
    finally:
        ticking.cancel()
        typing.join()
        os.close(keyboard)
        os.close(fingers)


def comeback(
    delays: Callable[[], Iterator[float]],
    clients: int = 1000,
    back_after: float = 30,
    room: int = 50,
) -> Counter[int]:
    """Simulate the return of all clients of a server that is away for a while.

    Args:
        delays: makes the generator of one client's delays, in seconds, as `full_jitter` does.
        clients: how many lose the server, all at second 0.
        back_after: seconds until it is back.
        room: how many it takes in a tenth of a second; the others try again.

    Returns:
        How many attempts there were in each tenth of a second.
    """
    attempts: Counter[int] = Counter()
    accepted: Counter[int] = Counter()
    waiting = [(next(own), n, own) for n, own in enumerate(delays() for _ in range(clients))]
    heapify(waiting)
    while waiting:
        now, n, own = heappop(waiting)
        slot = int(now * 10)
        attempts[slot] += 1
        if now < back_after or accepted[slot] == room:
            heappush(waiting, (now + next(own), n, own))
        else:
            accepted[slot] += 1
    return attempts
