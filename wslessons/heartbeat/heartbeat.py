"""One connection's heartbeat: pings, what counts as an answer, and the end of a silent peer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from websockets.frames import CloseCode
from websockets.protocol import State

from wslessons.heartbeat.pacer import Pacer

if TYPE_CHECKING:
    from websockets.asyncio.connection import Connection

__all__ = ["Beat", "Heartbeat"]

REASON = "heartbeat timeout"
PAYLOAD = b"beat "
MOST_UNANSWERED = 16
"""Pings of a connection whose times are kept: a peer may send data for ever and never a pong."""

EVENTS, PONG = "events_received", "acknowledge_pings"
"""Methods of the library behind whose back we stand; see `Heartbeat.start`."""
OWN = "heartbeat"
"""The attribute of a connection that needs none of that."""


@dataclass(frozen=True, slots=True)
class Beat:
    """A ping that was answered: its sequence number, and the round-trip time in seconds.

    It is as exact as the event loop's clock; uvloop's counts whole milliseconds.
    """

    number: int
    rtt: float


class Heartbeat:
    """The heartbeat of one open connection, client's or server's, while its ``with`` block runs.

    Args:
        connection: from `websockets.connect`, or as a handler of `websockets.serve` gets it. One
            that has an attribute `heartbeat`, as those of `wslessons.serving`, counts by itself
            what arrives (`received`) and hands over its pongs; it may say itself whether it reads
            (`is_reading`).
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
        self._counted = 0
        self._heard = 0
        """What had arrived when the first ping went out that nothing has followed."""
        self._unsent = 0
        """Bytes that the socket has not taken, as of the last look."""
        self._sent: tuple[tuple[int, float], ...] = ()
        self._listeners: list[asyncio.Queue[Beat | None]] | None = None

    @property
    def longest_to_notice(self) -> float:
        """Seconds within which a peer that vanishes is noticed, whenever that happens."""
        return self.interval + self.timeout

    @property
    def silent_since(self) -> float | None:
        """The loop's time of the first ping that nothing has followed; None if all is well."""
        self._listen()
        return self._silent_since

    @property
    def slack(self) -> float:
        """Seconds by which a ping may be early, so that the timer serves several at once."""
        return min(0.05, self.interval / 20)

    @property
    def ended(self) -> bool:
        """Whether it was stopped, by itself or by `stop`."""
        return self._connection is None

    def start(self) -> Self:
        """Begin; it ends with the connection, or by `stop`. ``with`` does both.

        Raises:
            RuntimeError: the connection has a heartbeat already, or this one was begun before.
        """
        connection = self._connection
        if connection is None or self._pacer is not None:
            raise RuntimeError("a heartbeat is entered once: make a new one")
        if PONG in vars(connection) or getattr(connection, OWN, None) is not None:
            raise RuntimeError("this connection has a heartbeat already")
        if hasattr(connection, OWN):
            setattr(connection, OWN, self)
        else:
            # Behind the library's back, as the writing of pings and of the last Close frame below:
            # it calls the first method for each pong, and the second, of its Sans-I/O layer, for
            # each piece of data from the network, on every kind of loop and transport.
            setattr(connection, PONG, self._acknowledge_pings)
            setattr(connection.protocol, EVENTS, self._events_received)
        connection.connection_lost_waiter.add_done_callback(self._lost)
        now = connection.loop.time()
        self._due = now + random.random() * (self.interval - self.slack)
        self._pacer = Pacer.for_running_loop()
        self._pacer.add(self, self._due)
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it; the connection stays as it is. Stopping again does nothing."""
        connection, self._connection = self._connection, None
        if connection is None or self._pacer is None:
            return
        if hasattr(connection, OWN):
            setattr(connection, OWN, None)
        else:
            delattr(connection, PONG)
            delattr(connection.protocol, EVENTS)
        connection.connection_lost_waiter.remove_done_callback(self._lost)
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

    def _lost(self, _: asyncio.Future[None]) -> None:
        self.stop()

    def _events_received(self) -> list[Any]:
        """Do what the library's method does, and count the signs of life."""
        assert self._connection is not None
        self._counted += 1
        protocol = self._connection.protocol
        return type(protocol).events_received(protocol)

    def _received(self) -> int:
        return getattr(self._connection, "received", self._counted)

    def _listen(self) -> None:
        """Take note of signs of life since the last look.

        Any data is one. So is a full buffer that shrinks: TCP empties it as fast as the peer reads,
        and what the peer sends meanwhile may be left unread, see `wslessons.serving`.
        """
        connection = self._connection
        if self._silent_since is None or connection is None:
            return
        unsent = connection.transport.get_write_buffer_size() if connection.paused else 0
        if self._received() != self._heard or unsent < self._unsent:
            self._silent_since = None
        self._unsent = unsent

    def _acknowledge_pings(self, payload: bytes) -> None:
        connection = self._connection
        if not self.pong(payload) and connection is not None:
            type(connection).acknowledge_pings(connection, payload)

    def pong(self, payload: bytes) -> bool:
        """Take a pong.

        Args:
            payload: what the pong carries.

        Returns:
            Whether it answers a ping of ours.
        """
        connection = self._connection
        if connection is None:
            return False
        for i, (number, sent) in enumerate(self._sent):
            if payload == PAYLOAD + b"%d" % number:
                beat = Beat(number, connection.loop.time() - sent)
                # A peer may answer only the newest of several pings (section 5.5.3).
                self._sent, self.rtt = self._sent[i + 1 :], beat.rtt
                # Soon and not now: what a callback raises must not reach the library.
                if self._on_beat is not None:
                    connection.loop.call_soon(self._on_beat, beat)
                for queue in self._listeners or ():
                    queue.put_nowait(beat)
                return True
        return False

    def tick(self, now: float, late: float) -> float | None:
        """Do what is due, for the `Pacer` that calls it.

        Args:
            now: the loop's clock, in seconds.
            late: seconds for which the loop stood still, and could not call.

        Returns:
            When to call again, by the same clock; None for never.
        """
        connection = self._connection
        if connection is None:
            return None
        if connection.protocol.state is not State.OPEN or connection.transport.is_closing():
            self.stop()
            return None
        self._listen()
        if self._silent_since is not None and now >= self._silent_since + self.timeout:
            # An answer may be there unread: our loop stood still, or our handler does not read.
            # A peer that does not take what we send is another matter: what it sends is left
            # unread because of that.
            is_reading = getattr(connection, "is_reading", connection.transport.is_reading)
            reading = is_reading() or connection.paused
            if late < self.timeout / 10 and reading:
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
            self._silent_since, self._heard = now, self._received()
            self._unsent = connection.transport.get_write_buffer_size() if connection.paused else 0

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
