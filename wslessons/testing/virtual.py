"""An event loop whose clock jumps, and WebSocket connections over a wire in memory."""

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from websockets.asyncio.connection import Connection
from websockets.protocol import Protocol, Side

__all__ = ["MemoryTransport", "VirtualLoop", "connections", "run", "wire"]


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop that, in place of waiting for its next timer, moves its clock there."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        """The virtual time in seconds."""
        return self.now


class _Jumping(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready now; if nothing is, let `timeout` seconds have passed."""
        events = super().select(0)
        if not events and timeout is None:
            raise RuntimeError("everything waits, and no timer will ever come")
        if not events and timeout:
            self._loop.now += timeout
        return events


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` in virtual time, on a loop of its own.

    Args:
        main: what to run; it may use timers and what stands in memory, but no real sockets.

    Raises:
        RuntimeError: everything waits, and no timer will ever come.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main)


class MemoryTransport(asyncio.Transport):
    """One end of a wire: what is written here arrives at the `other` end `delay()` seconds later.

    In order, as on TCP. While `stalled` nothing arrives, and nobody is told.

    Args:
        connection: the one that writes here.
        delay: gives the seconds that the next bytes take.
    """

    def __init__(self, connection: Connection, delay: Callable[[], float]) -> None:
        super().__init__()
        self.connection, self.delay = connection, delay
        self.stalled = False
        self.unsent = 0
        """What `get_write_buffer_size` says."""
        self.sent: list[tuple[float, bytes]] = []
        self._loop = asyncio.get_running_loop()
        self._closing = self._paused = False
        self._flying: deque[bytes] = deque()
        self._held: deque[bytes] = deque()
        self._arrives = 0.0

    other: MemoryTransport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send."""
        now = self._loop.time()
        self.sent.append((now, bytes(data)))
        self._arrives = max(self._arrives, now + self.delay())
        # The loop keeps no order among timers of the same moment; the wire does.
        self._flying.append(bytes(data))
        self._loop.call_at(self._arrives, self._land)

    def _land(self) -> None:
        data = self._flying.popleft()
        if not self.stalled:
            self.other._receive(data)

    def _receive(self, data: bytes) -> None:
        if self._closing:
            return
        if self._paused:
            self._held.append(data)
        else:
            self.connection.data_received(data)

    def pause_reading(self) -> None:
        """Leave what arrives in the socket."""
        self._paused = True

    def resume_reading(self) -> None:
        """Read it."""
        self._paused = False
        while self._held and not self._paused:
            self.connection.data_received(self._held.popleft())

    def is_reading(self) -> bool:
        """Whether what arrives is read."""
        return not self._paused

    def is_closing(self) -> bool:
        """Whether it was aborted."""
        return self._closing

    def abort(self) -> None:
        """Close."""
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self.connection.connection_lost, None)

    close = abort

    def get_write_buffer_size(self) -> int:
        """Return the bytes that the socket has not taken, as the test says."""
        return self.unsent

    def can_write_eof(self) -> bool:
        """Whether it can be closed half; the wire in memory can't."""
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing: the wire in memory takes everything."""


def connections(
    up: Callable[[], float] = lambda: 0.0, down: Callable[[], float] = lambda: 0.0
) -> tuple[Connection, Connection]:
    """Return the two ends of an open connection over a wire in memory.

    Args:
        up: gives the seconds that the next bytes to the server take.
        down: gives the seconds that the next bytes to the client take.

    Returns:
        The server's end and the client's.
    """
    server, client = Connection(Protocol(Side.SERVER)), Connection(Protocol(Side.CLIENT))
    ends = MemoryTransport(server, down), MemoryTransport(client, up)
    ends[0].other, ends[1].other = ends[1], ends[0]
    server.connection_made(ends[0])
    client.connection_made(ends[1])
    return server, client


def wire(connection: Connection) -> MemoryTransport:
    """Return the end of the wire that `connection` writes to.

    Args:
        connection: one of those that `connections` returned.

    Returns:
        Its transport.
    """
    assert isinstance(connection.transport, MemoryTransport)
    return connection.transport
