"""Lesson 7's experiments: what sending to many, a round trip and a connection cost.

CPU is that of the thread that does the work, so what else runs on the machine changes it little.
Whoever listens reads only after the sending: read in between, it would be part of the cost.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import html
import socket
import statistics
import sys
import threading
import time
import tracemalloc
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import FrameType
from typing import Any, cast

from websockets import ServerConnection

from wslessons import serving
from wslessons.bench.tools import Child
from wslessons.chat import fanout
from wslessons.connection import LoggedConnection
from wslessons.errors import extra
from wslessons.fast import Echo
from wslessons.lab.panel import Panel
from wslessons.lab.theme import BLUE
from wslessons.testing.raw import handshake

with extra("lab"):
    import ipywidgets


__all__ = [
    "Cost",
    "Costs",
    "Way",
    "bare_echo",
    "bytes_per_connection",
    "costs",
    "nagle",
    "round_trip",
]

TIMEOUT = 30.0
"""Seconds that an experiment may take."""
ROUNDS = 3
"""How often a way is measured; the cheapest counts, as others only had more in their way."""
CLIENTS = 10
"""Who send messages for round trips."""

Way = Callable[[list[LoggedConnection], list[str]], Awaitable[None]]
"""A way to send every line to every connection."""

DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"


@dataclass(frozen=True)
class Cost:
    """What one way to send has cost.

    Attributes:
        name: the way's.
        deliveries: lines that should have arrived, of all receivers together.
        heard: lines that arrived, in order and unchanged.
        writes: system calls that sent something.
        cpu: microseconds of CPU per delivery, of the sender.
    """

    name: str
    deliveries: int
    heard: int
    writes: int
    cpu: float


class Costs(Panel):
    """Several ways side by side: a table, and bars in a live notebook.

    Args:
        rows: one for each way.
    """

    def __init__(self, rows: list[Cost]) -> None:
        self.rows = rows
        text = str(self)
        super().__init__("costs", text=text, picture=f"<pre>{html.escape(text)}</pre>")
        most = max(row.cpu for row in rows)
        bars = "".join(
            f"<tr><td>{html.escape(row.name)}</td><td>{row.writes:,}</td>"
            f"<td>{row.heard:,} of {row.deliveries:,}</td><td style='width:40%'>"
            f"<div style='background:{BLUE};height:1em;"
            f"width:{row.cpu / most:.1%}'></div></td><td>{row.cpu:.2f} us</td></tr>"
            for row in rows
        )
        head = "<th>writes</th><th>heard</th><th colspan=2>CPU per delivery</th>"
        table = (
            "<table style='width:100%;text-align:right;border-spacing:8px 2px'>"
            f"<tr><th></th>{head}</tr>{bars}</table>"
        )
        self.fill(ipywidgets.HTML(table))

    def __getitem__(self, name: str) -> Cost:
        return next(row for row in self.rows if row.name == name)

    def __str__(self) -> str:
        width = max(len(row.name) for row in self.rows)
        lines = [f"{'':{width}}  {'writes':>6}  {'heard':>15}  CPU per delivery"]
        for row in self.rows:
            heard = f"{row.heard} of {row.deliveries}"
            lines.append(f"{row.name:{width}}  {row.writes:>6}  {heard:>15}  ~{row.cpu:.2f} us")
        return "\n".join(lines)

    __repr__ = __str__


async def costs(*ways: Way, members: int = 100, lines: int = 100) -> Costs:
    """Let each way send every line to every member, over real sockets; tell what it cost.

    Args:
        ways: coroutine functions that get the server's connections and the lines.
        members: how many connections there are.
        lines: how many lines are sent, of some 20 characters.

    Returns:
        What each way has cost.
    """
    texts = [f"line number {number}" for number in range(lines)]
    deliveries, rows = members * lines, []
    for way in ways:
        name = getattr(way, "__name__", "a way")
        spent, heard = min([await _spent(way, members, texts) for _ in range(ROUNDS)])
        writes = await _writes(way, members, texts)
        rows.append(Cost(name, deliveries, heard, writes, spent / deliveries * 1e6))
    return Costs(rows)


async def _spent(way: Way, members: int, texts: list[str]) -> tuple[float, int]:
    """Return the seconds of CPU that one round has cost, and how many lines were heard."""
    async with _members(members) as (connections, clients):
        begin = time.thread_time()
        await way(connections, texts)
        await asyncio.sleep(0)
        spent = time.thread_time() - begin
        return spent, sum([await _heard(client, texts) for client in clients])


async def _writes(way: Way, members: int, texts: list[str]) -> int:
    """Return how many writes one round takes; counting them slows it down, so it is not timed."""
    async with _members(members) as (connections, _):
        with _counted_writes() as writes:
            await way(connections, texts)
            await asyncio.sleep(0)
    return writes[0]


@contextlib.contextmanager
def _counted_writes() -> Any:
    """Count the calls of a socket's `send` in this thread."""
    count = [0]

    def see(frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and function.__name__ == "send":
            count[0] += isinstance(function.__self__, socket.socket)

    # What `map` calls, nobody is told of: so it gets a function that Python runs.
    plain, fanout._send = fanout._send, lambda sock, data: sock.send(data)
    sys.setprofile(see)
    try:
        yield count
    finally:
        sys.setprofile(None)
        fanout._send = plain


@contextlib.asynccontextmanager
async def _members(
    count: int, headers: str = "", **options: Any
) -> AsyncGenerator[tuple[list[LoggedConnection], list[socket.socket]]]:
    """Give a server's connections, and the bare sockets at their other ends."""
    ends: list[LoggedConnection] = []
    arrived = asyncio.Semaphore(0)

    async def handler(connection: ServerConnection) -> None:
        ends.append(cast("LoggedConnection", connection))
        arrived.release()
        await connection.wait_closed()

    clients: list[socket.socket] = []
    options.setdefault("compression", None)
    async with asyncio.timeout(TIMEOUT), serving.running(handler, **options) as server:
        try:
            for _ in range(count):
                clients.append(await _client(server.sockets[0].getsockname(), headers))
                await arrived.acquire()
            yield ends, clients
        finally:
            for client in clients:
                client.close()


async def _client(address: tuple[str, int], headers: str = "") -> socket.socket:
    """Connect a bare socket and make the handshake."""
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setblocking(False)
    await loop.sock_connect(sock, address[:2])
    await loop.sock_sendall(sock, handshake(more=headers))
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += await loop.sock_recv(sock, 4096)
    return sock


async def _heard(client: socket.socket, texts: list[str]) -> int:
    """Return how many of `texts` have arrived, in this order, whatever stands before each."""
    loop = asyncio.get_running_loop()
    data, heard = b"", 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2):
            while heard < len(texts) and (more := await loop.sock_recv(client, 2**16)):
                data += more
                # Short text frames without a mask, as a server sends them (RFC 6455, section 5.2).
                while len(data) >= 2 and len(data) >= 2 + data[1]:
                    payload, data = data[2 : 2 + data[1]], data[2 + data[1] :]
                    if heard == len(texts) or not payload.endswith(texts[heard].encode()):
                        return heard
                    heard += 1
    return heard


async def round_trip(
    server: Callable[[], AbstractAsyncContextManager[Any]], trips: int = 2000
) -> float:
    """Send messages and wait for their echoes, again and again; tell what each costs the server.

    The server runs in a thread of its own, whose CPU is counted. Ten clients send, and each waits
    for its echo before the next: a server that slept in between would be woken for each message,
    and that costs more than the message.

    Args:
        server: starts the server, such as `Echo.serve`.
        trips: how many messages go there and back in each of three rounds.

    Returns:
        Microseconds of the server's CPU per round trip, of the cheapest round.
    """
    return await asyncio.to_thread(_round_trip, server, trips)


def _round_trip(server: Callable[[], AbstractAsyncContextManager[Any]], trips: int) -> float:
    started, times = threading.Event(), list[float]()
    address: list[Any] = []
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with server() as running:
            address.append(running.sockets[0].getsockname())
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    try:
        if not started.wait(TIMEOUT):
            raise TimeoutError("the server did not start in time")
        port, each = str(address[0][1]), trips // CLIENTS
        module = "wslessons.bench.echo_load"
        with Child(port, str(CLIENTS), module=module, timeout=TIMEOUT) as clients:
            for _ in range(ROUNDS):
                begin = _thread_time(loop)
                clients.ask(each)
                times.append((_thread_time(loop) - begin) / (each * CLIENTS) * 1e6)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(TIMEOUT)
        loop.close()
    return min(times)


def _thread_time(loop: asyncio.AbstractEventLoop) -> float:
    """Return the CPU seconds that the thread of `loop` has taken."""

    async def ask() -> float:
        return time.thread_time()

    return asyncio.run_coroutine_threadsafe(ask(), loop).result(TIMEOUT)


class _Bare(Echo):
    """What is left of the lean echo without frames: after the handshake bytes come, as many go."""

    def data_received(self, data: bytes) -> None:
        if not self._opened:
            super().data_received(data)
        elif self.direct is None:
            self.transport.write(data)
        else:
            self.direct(data)


def bare_echo() -> AbstractAsyncContextManager[asyncio.Server]:
    """Serve an echo that gives bytes back and knows no frames: a floor to compare with.

    Returns:
        What runs the server for the length of an ``async with`` block.
    """
    return _Bare.serve()


async def nagle(on: bool, rounds: int = 20) -> float:
    """Send two small pieces, wait for the answer to both, and tell how long that took.

    With Nagle's algorithm a small piece waits until the one before it is acknowledged (RFC 896);
    and a receiver that has nothing to say delays its acknowledgement (RFC 1122, section 4.2.3.2).

    Args:
        on: whether the sender uses the algorithm, as sockets do unless TCP_NODELAY is set.
        rounds: how often; the first ones do not count, as TCP acknowledges faster at first.

    Returns:
        The median, in milliseconds.
    """
    return await asyncio.to_thread(_nagle, on, rounds)


def _nagle(on: bool, rounds: int) -> float:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        sender = socket.create_connection(listening.getsockname(), TIMEOUT)
        receiver, _ = listening.accept()
        receiver.settimeout(TIMEOUT)

        def answer() -> None:
            waiting = 0
            while data := receiver.recv(100):
                waiting += len(data)
                if waiting == 2:
                    waiting = 0
                    receiver.sendall(b"!")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with receiver, sender:
            sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, not on)
            times = []
            for _ in range(rounds):
                begin = time.perf_counter()
                sender.sendall(b"a")
                sender.sendall(b"b")
                sender.recv(1)
                times.append(time.perf_counter() - begin)
            sender.shutdown(socket.SHUT_WR)
            thread.join(TIMEOUT)
    return statistics.median(times[rounds // 4 :]) * 1000


async def bytes_per_connection(count: int = 50, *, compression: bool = False) -> int:
    """Return how much memory Python takes for each open connection of the library.

    Args:
        count: how many connections to divide by.
        compression: whether they negotiate permessage-deflate.

    Returns:
        The bytes.
    """
    headers, options = (DEFLATE, {"compression": "deflate"}) if compression else ("", {})
    # What exists once is not counted: it is there after the first ones.
    async with _members(3, headers, **options):
        pass
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        async with _members(count, headers, **options):
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return round((after - before) / count)
