"""One connection's heartbeat: pings, what counts as an answer, and the end of a silent peer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import State

from wslessons.heartbeat.pacer import Pacer

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from websockets.asyncio.connection import Connection

__all__ = ["Beat", "Heartbeat"]

REASON = "heartbeat timeout"
PAYLOAD = b"beat "
MOST_UNANSWERED = 16
"""Pings of a connection whose times are kept: a peer may send data for ever and never a pong."""

HOOK = "events_received"


@dataclass(frozen=True, slots=True)
class Beat:
    """A ping that was answered: the how manieth, and its round-trip time in seconds.

    It is as exact as the event loop's clock; uvloop's counts whole milliseconds.
    """

    number: int
    rtt: float


class Heartbeat:
    """The heartbeat of one open connection, client's or server's, while its ``with`` block runs.

    Args:
        connection: from `websockets.connect`, or as a handler of `websockets.serve` gets it.
        interval: seconds from one ping to the next, at most; the first goes out at a random point
            of it, lest all clients of a restarted server beat at once.
        timeout: seconds of silence after a ping, until the connection is dropped.
        on_beat: called soon after each pong, with its `Beat`.
        on_drop: called soon after the connection was dropped, with this heartbeat.

    A dropped connection gets a Close frame with 1011 if there is room for it, and the socket is
    closed at once; `recv` raises `ConnectionClosed` as with any other end.

    Raises:
        ValueError: the interval or the timeout is not above 0.
        RuntimeError: on entering, when the connection has a heartbeat already.
    """

    def __init__(
        self,
        connection: Connection,
        interval: float = 15,
        timeout: float = 45,
        *,
        on_beat: Callable[[Beat], object] | None = None,
        on_drop: Callable[[Heartbeat], object] | None = None,
    ) -> None:
        if not (interval > 0 and timeout > 0):
            raise ValueError("a heartbeat needs an interval and a timeout above 0 seconds")
        self._connection: Connection | None = connection
        self.interval, self.timeout = interval, timeout
        self.beats = 0
        """Pings sent so far."""
        self.rtt: float | None = None
        """The newest round-trip time in seconds; None before the first pong."""
        self.dropped = False
        """Whether the connection was dropped for its silence."""
        self._on_beat, self._on_drop = on_beat, on_drop
        self._pacer: Pacer | None = None
        self._due = 0.0
        self._silent_since: float | None = None
        self._sent: tuple[tuple[int, float], ...] = ()
        self._listeners: list[asyncio.Queue[Beat | None]] | None = None

    @property
    def longest_to_notice(self) -> float:
        """Seconds within which a peer that vanishes is noticed, whenever that happens."""
        return self.interval + self.timeout

    @property
    def silent_since(self) -> float | None:
        """The loop's time of the first ping that nothing has followed; None if all is well."""
        return self._silent_since

    @property
    def slack(self) -> float:
        """Seconds by which a ping may be early, so that the timer serves several at once."""
        return min(0.05, self.interval / 20)

    @property
    def ended(self) -> bool:
        """Whether it was stopped, by itself or by `stop`."""
        return self._connection is None

    def __enter__(self) -> Self:
        connection = self._connection
        if connection is None or self._pacer is not None:
            raise RuntimeError("a heartbeat is entered once: make a new one")
        protocol = connection.protocol
        if getattr(protocol, HOOK).__self__ is not protocol:
            raise RuntimeError("this connection has a heartbeat already")
        # Behind the library's back, as the writing of pings and of the last Close frame below: it
        # calls this method of its Sans-I/O layer once for each piece of data from the network, on
        # every kind of loop and transport.
        setattr(protocol, HOOK, self._events_received)
        now = connection.loop.time()
        self._due = now + random.random() * (self.interval - self.slack)
        self._pacer = Pacer.for_running_loop()
        self._pacer.add(self, self._due)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End it; the connection stays as it is. Stopping again does nothing."""
        connection, self._connection = self._connection, None
        if connection is None or self._pacer is None:
            return
        delattr(connection.protocol, HOOK)
        self._silent_since, self._sent = None, ()
        self._pacer.forget()
        for queue in self._listeners or ():
            queue.put_nowait(None)

    async def __aiter__(self) -> AsyncGenerator[Beat]:
        """Yield the beats from now on, until the heartbeat stops; a slow reader loses none."""
        queue: asyncio.Queue[Beat | None] = asyncio.Queue()
        if self._connection is None:
            return
        self._listeners = [*(self._listeners or ()), queue]
        try:
            while (beat := await queue.get()) is not None:
                yield beat
        finally:
            self._listeners = [other for other in self._listeners or () if other is not queue]

    def _events_received(self) -> list[Any]:
        """Do what the library's method does, and see the signs of life (any data) and the pongs."""
        connection = self._connection
        assert connection is not None
        protocol = connection.protocol
        events = type(protocol).events_received(protocol)
        self._silent_since = None
        for event in events:
            if isinstance(event, Frame) and event.opcode is Opcode.PONG and self._sent:
                self._pong(bytes(event.data), connection.loop)
        if protocol.state is not State.OPEN:
            self.stop()
        return events

    def _pong(self, payload: bytes, loop: asyncio.AbstractEventLoop) -> None:
        for i, (number, sent) in enumerate(self._sent):
            if payload == PAYLOAD + b"%d" % number:
                beat = Beat(number, loop.time() - sent)
                # A peer may answer only the newest of several pings (section 5.5.3).
                self._sent, self.rtt = self._sent[i + 1 :], beat.rtt
                # Soon and not now: what a callback raises must not reach the library.
                if self._on_beat is not None:
                    loop.call_soon(self._on_beat, beat)
                for queue in self._listeners or ():
                    queue.put_nowait(beat)
                return

    def tick(self, now: float, late: float) -> float | None:
        """Do what is due; the `Pacer` calls it, and is told when to call again."""
        connection = self._connection
        if connection is None:
            return None
        if connection.protocol.state is not State.OPEN or connection.transport.is_closing():
            self.stop()
            return None
        if self._silent_since is not None and now >= self._silent_since + self.timeout:
            # An answer may be there unread: our loop stood still, or our handler does not read.
            if late < self.timeout / 10 and connection.transport.is_reading():
                self._drop(connection, now)
                return None
            self._silent_since = now - self.timeout * 0.9
        if now >= self._due - self.slack:
            self._ping(connection, now)
            # In step with the first one, else beats that share a timer would become a herd.
            period = self.interval - self.slack
            self._due = self._due + period if self._due + period > now else now + period
        if self._silent_since is None:
            return self._due
        return min(self._due, self._silent_since + self.timeout)

    def _ping(self, connection: Connection, now: float) -> None:
        self.beats += 1
        # Not `connection.ping`, which waits until a full buffer has drained, maybe for ever.
        connection.protocol.send_ping(PAYLOAD + b"%d" % self.beats)
        connection.send_data()
        self._sent = (*self._sent[1 - MOST_UNANSWERED :], (self.beats, now))
        if self._silent_since is None:
            self._silent_since = now

    def _drop(self, connection: Connection, now: float) -> None:
        self.dropped = True
        if self._on_drop is not None:
            connection.loop.call_soon(self._on_drop, self)
        self.stop()
        # What the kernel takes now still leaves after the abort: Close and FIN. What a full socket
        # does not take would never leave anyway, and nobody waits for it.
        connection.protocol.fail(CloseCode.INTERNAL_ERROR, REASON)
        connection.send_data()
        connection.transport.abort()
