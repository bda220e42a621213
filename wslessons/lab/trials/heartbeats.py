"""Lesson 5's experiments: clients that vanish, full sockets, and loops that are blocked."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import FunctionType

from websockets import ClientConnection, ConnectionClosed, Server, ServerConnection, connect

from wslessons import serving
from wslessons.heartbeat import Heartbeat
from wslessons.lab.kernel import LogBook
from wslessons.link import Link

__all__ = [
    "Held",
    "bury",
    "client_in_a_thread",
    "deaths",
    "full_socket",
    "line_of",
    "round_trips",
    "slow_steps",
]


@dataclass(frozen=True)
class Held:
    """What a server holds: connections, tasks of its handler, and open descriptors."""

    connections: int
    tasks: int
    descriptors: int

    def __str__(self) -> str:
        return f"{self.connections} connections, {self.tasks} tasks, {self.descriptors} descriptors"


def _serve(handler: serving.Handler) -> AbstractAsyncContextManager[Server]:
    # Zeros would shrink to nothing.
    return serving.running(handler, timeout=0.2, ping_interval=None, compression=None)


async def _connect(url: str) -> ClientConnection:
    return await connect(
        url, proxy=None, compression=None, ping_interval=None, close_timeout=0.1, open_timeout=20
    )


async def bury(handler: serving.Handler, *, clients: int = 10, after: float = 2.0) -> Held:
    """Connect clients to a server, pull the plug, and then let them die: it is told nothing.

    Args:
        handler: the server's; the library's own keepalive is off.
        clients: how many.
        after: seconds from their death to the count.

    Returns:
        What the server holds for them by then.
    """
    running = 0

    async def counted(connection: ServerConnection) -> None:
        nonlocal running
        running += 1
        try:
            await handler(connection)
        finally:
            running -= 1

    async with _serve(counted) as server, Link(serving.urls(server)[0]) as link:
        connections = [await _connect(link.url) for _ in range(clients)]
        link.stall()
        for connection in connections:
            connection.transport.abort()
        await asyncio.sleep(after)
        sockets = [each.transport.get_extra_info("socket") for each in server.connections]
        held = Held(len(sockets), running, sum(sock.fileno() != -1 for sock in sockets))
        link.heal()
        return held


async def deaths(interval: float, timeout: float, *, count: int = 20) -> list[float]:
    """Let clients die in silence, each at its own moment of the heartbeat's interval.

    Args:
        interval: of the server's `Heartbeat`, in seconds.
        timeout: of the same.
        count: how many clients.

    Returns:
        The seconds that the server took to notice each death, the shortest first.
    """
    took: list[float] = []

    async def timed(connection: ServerConnection) -> None:
        with Heartbeat(connection, interval, timeout):
            died = float(await connection.recv())
            await connection.wait_closed()
        took.append(time.monotonic() - died)

    async def die() -> None:
        async with _serve(timed) as server, Link(serving.urls(server)[0]) as link:
            client = await _connect(link.url)
            await asyncio.sleep(random.uniform(0, 3 * interval))
            await client.send(str(time.monotonic()))
            await link.connections[0].wait_for(lambda r: getattr(r, "opcode", "") == "TEXT")
            link.stall()
            while tasks := list(server.handler_tasks):
                await asyncio.wait(tasks)

    await asyncio.gather(*(die() for _ in range(count)))
    return sorted(took)


async def full_socket(handler: serving.Handler) -> None:
    """Serve one client, pull the plug, and wait until the handler has returned.

    Args:
        handler: one that sends until its socket is full.
    """
    async with _serve(handler) as server, Link(serving.urls(server)[0]) as link:
        client = await _connect(link.url)
        link.stall()
        while tasks := list(server.handler_tasks):
            await asyncio.wait(tasks)
        client.transport.abort()


async def round_trips(link: Link, count: int = 15) -> list[float]:
    """Connect through `link`, and return the round-trip times of so many beats in milliseconds.

    Args:
        link: which leads to a server.
        count: how many.

    Returns:
        The times.
    """
    found: list[float] = []
    async with connect(link.url, proxy=None) as client:
        with Heartbeat(client, interval=0.05, timeout=5) as heartbeat:
            async for beat in heartbeat:
                found.append(1000 * beat.rtt)
                if len(found) == count:
                    break
    return found


def _run(url: str, work: Callable[[], Awaitable[object]], debug: bool) -> str:
    async def client() -> str:
        async with connect(url, proxy=None) as connection:
            await work()
            await connection.send("finished")
            return str(await connection.recv())

    try:
        return asyncio.run(client(), debug=debug)
    except ConnectionClosed as closed:
        return str(closed)


async def client_in_a_thread(
    url: str, work: Callable[[], Awaitable[object]], *, debug: bool = False
) -> str:
    """Let a client with a thread and an event loop of its own connect, work, and ask the server.

    Args:
        url: of the server.
        work: what the client does before it asks.
        debug: whether asyncio's debug mode is on in its loop.

    Returns:
        The server's answer, or how the connection was closed.
    """
    return await asyncio.to_thread(_run, url, work, debug)


async def slow_steps(
    url: str, work: Callable[[], Awaitable[object]], *, longer_than: float = 1.0
) -> list[tuple[str, float]]:
    """Run `client_in_a_thread` in asyncio's debug mode, and return what it reports.

    Args:
        url: of the server.
        work: what the client does.
        longer_than: seconds; shorter steps are left out.

    Returns:
        The name of each coroutine that held the loop for so long in one step, and the seconds.
    """
    logger, log = logging.getLogger("asyncio"), LogBook()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(log)
    try:
        await client_in_a_thread(url, work, debug=True)
    finally:
        logger.removeHandler(log)
        logger.propagate = propagate
    said = re.findall(r"coro=<([\w.<>]+)\(.* took ([\d.]+) seconds", "\n".join(log.lines()))
    steps = [(name.rpartition(".")[2], float(seconds)) for name, seconds in said]
    return [(name, seconds) for name, seconds in steps if seconds > longer_than]


async def line_of(thread: threading.Thread, function: FunctionType) -> str:
    """Return the line at which `thread` stands in `function`, once it is there.

    Args:
        thread: one that has been started.
        function: what it runs.

    Returns:
        The function's name and the line; or that it has ended.
    """
    while thread.ident is not None and thread.is_alive():
        frame = sys._current_frames().get(thread.ident)
        for each in traceback.extract_stack(frame):
            if each.name == function.__name__:
                return f"{each.name}: {each.line}"
        await asyncio.sleep(0.01)
    return f"{function.__name__} has ended"
