"""One direction of a connection through the link: bytes in, faults, bytes out.

A small state machine without tasks: whatever happens (bytes, a timer, a fault set or undone, room
in the target's buffer) calls `Pipe.pump`, which does all that can be done now and sets a timer for
what can be done later.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wslessons.link.faults import Fault, Faults, Kind
from wslessons.wire import Direction

if TYPE_CHECKING:
    from wslessons.link.relay import Connection

__all__ = ["ON_RESET", "Pipe", "reset"]

# A throttled pipe writes what it may in slices of this many seconds.
_SLICE = 0.05

ON_RESET = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)


def reset(transport: asyncio.Transport) -> None:
    """Break the connection off with an RST: SO_LINGER on, and no time to linger.

    Args:
        transport: of a TCP socket.
    """
    sock = transport.get_extra_info("socket")
    with suppress(OSError):  # it may have been closed already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ON_RESET)
    transport.abort()


@dataclass(slots=True)
class _Arrival:
    """Something the source sent: bytes, or its end (b"" and what kind of)."""

    time: float
    luck: float
    data: bytes
    end: str = ""


class Pipe:
    """What one side sent, on its way to the other.

    `received`, `forwarded` and `held` count bytes: come in, given to the target's socket, and kept
    here in between.

    Args:
        connection: whose pipe it is.
        direction: which of its two.
        faults: looked into at every step.
        rng: draws the jitter.
        buffer: bytes from which on nothing is read, so an end behind them is seen later; `held`
            stays below this plus one read (256 KiB).
    """

    def __init__(
        self,
        connection: Connection,
        direction: Direction,
        *,
        faults: Faults,
        rng: random.Random,
        buffer: int,
    ) -> None:
        self._connection = connection
        self.direction: Direction = direction
        self.received = self.forwarded = self.held = 0
        self.fin_sent = False
        self.source: asyncio.Transport | None = None
        self.target: asyncio.Transport | None = None
        self.target_full = False
        self._faults, self._rng, self._buffer = faults, rng, buffer
        self._loop = asyncio.get_running_loop()
        self._arrivals: deque[_Arrival] = deque()
        self._source_ended = self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._limit: Fault | None = None
        self._allowed = 0
        self._throttle: Fault | None = None
        self._free_at = 0.0

    def push(self, data: bytes) -> None:
        """Take bytes from the source.

        Args:
            data: what was received.
        """
        self.received += len(data)
        self.held += len(data)
        self._arrivals.append(_Arrival(self._loop.time(), self._rng.uniform(-1, 1), data))
        self.pump()

    def push_end(self, end: str) -> None:
        """Take the source's "FIN" or "RST", which goes on after the bytes before it.

        Args:
            end: which of the two.
        """
        self._source_ended = True
        self._arrivals.append(_Arrival(self._loop.time(), self._rng.uniform(-1, 1), b"", end))
        self.pump()

    def close(self) -> None:
        """Pass nothing on any more."""
        self._closed = True
        self._arrivals.clear()
        self.held = 0
        if self._timer is not None:
            self._timer.cancel()

    def pump(self) -> None:
        """Pass on what may be passed on now, and see to what must wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wait = self._step()
        if self._closed:
            return
        if wait is not None:
            self._timer = self._loop.call_later(wait, self.pump)
        if self.source is not None and not self._source_ended:
            if self.held >= self._buffer:
                self.source.pause_reading()
            elif self.held <= self._buffer // 2:
                self.source.resume_reading()

    def _step(self) -> float | None:
        """Pass on what may go now; return the seconds until more may, or None if an event tells."""
        while not self._closed:
            self._note_faults()
            if self._fault("cut"):
                self._connection.cut("The link reset both sides.", self.direction)
                return None
            # A full target ends a step here, so what was counted as passed on has left the process.
            if self.target is None or self.target.is_closing() or self.target_full:
                return None
            if self._fault("stall"):
                return None
            if self._limit is not None and self._allowed <= 0:
                text = f"The link reset both sides after {self._limit.limit} bytes."
                self._connection.cut(text, self.direction)
                return None
            if self._fault("close_half"):
                self._send_fin(self.target)
            if not self._arrivals:
                return None
            wait = self._wait(self._arrivals[0])
            if wait > 0:
                return wait
            self._pass_on(self._arrivals[0], self.target)
        return None

    def _fault(self, kind: Kind) -> Fault | None:
        return self._faults.fault(self.direction, kind)

    def _note_faults(self) -> None:
        """Begin counting where a fault that counts is a new one."""
        limit, throttle = self._fault("drop_after"), self._fault("throttle")
        if limit is not self._limit:
            self._limit, self._allowed = limit, limit.limit if limit else 0
        if throttle is not self._throttle:
            self._throttle, self._free_at = throttle, 0.0

    def _wait(self, arrival: _Arrival) -> float:
        due = self._free_at if arrival.data else 0.0
        if delay := self._fault("delay"):
            due = max(due, arrival.time + delay.latency + arrival.luck * delay.jitter)
        return due - self._loop.time()

    def _pass_on(self, arrival: _Arrival, target: asyncio.Transport) -> None:
        if arrival.end:
            self._arrivals.popleft()
            if arrival.end == "FIN":
                self._send_fin(target)
            else:
                self._connection.reset_passed()
            return
        size = len(arrival.data)
        if not self.fin_sent:
            if self._throttle is not None:
                size = max(1, int(min(size, self._throttle.rate * _SLICE)))
            if self._limit is not None:
                size = min(size, self._allowed)
                self._allowed -= size
            target.write(arrival.data[:size])
            self.forwarded += size
            if self._throttle is not None:
                begin = max(self._loop.time(), self._free_at)
                self._free_at = begin + size / self._throttle.rate
        self.held -= size
        arrival.data = arrival.data[size:]
        if not arrival.data:
            self._arrivals.popleft()
        self._connection.changed()

    def _send_fin(self, target: asyncio.Transport) -> None:
        if self.fin_sent:
            return
        self.fin_sent = True
        with suppress(OSError):  # the target may have reset the connection a moment ago
            target.write_eof()
        self._connection.fin_passed()
