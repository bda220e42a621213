"""A server's own events that have no number yet, and what to do when that takes too long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container

from wslessons.scaling.bus.items import Event

__all__ = ["Unnumbered"]


class Unnumbered:
    """Events on their way to the log and back.

    Once one has waited too long, all of them are delivered, and every further one at once, until
    the last has come back: so they stay in order.

    Args:
        timeout: seconds that an event may be under way.
        deliver: called with each event that is to be delivered without a number.
        most: up to how many are `few`.
    """

    def __init__(self, timeout: float, deliver: Callable[[Event], None], most: int) -> None:
        self._timeout, self._deliver, self._most = timeout, deliver, most
        self.few = asyncio.Event()
        """Set while no more are under way than there should be."""
        self.few.set()
        self._events: dict[int, Event] = {}
        """All of them, by sequence number."""
        self._delivered: dict[int, str] = {}
        """The keys of those that have been delivered."""
        self._keys: set[str] = set()
        self._alone = False
        self._timer: asyncio.TimerHandle | None = None

    def add(self, event: Event) -> None:
        """Wait for an event's number."""
        self._events[event.seq] = event
        if len(self._events) > self._most:
            self.few.clear()
        if self._alone:
            self.deliver(event)
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._timeout, self._time_out)

    def deliver(self, event: Event) -> None:
        """Deliver an event without a number, unless it has been."""
        if event.seq in self._events and event.seq not in self._delivered:
            self._delivered[event.seq] = event.key
            if event.key:
                self._keys.add(event.key)
            self._deliver(event)

    def remove(self, seq: int) -> bool:
        """Wait no longer; return whether the event has been delivered without a number."""
        self._events.pop(seq, None)
        if len(self._events) <= self._most:
            self.few.set()
        delivered = seq in self._delivered
        if delivered:
            self._keys.discard(self._delivered.pop(seq))
        if not self._events:
            self.stop()
        return delivered

    def has_delivered(self, key: str) -> bool:
        """Whether an event with this key has been delivered without a number."""
        return key in self._keys

    def keep(self, seqs: Container[int]) -> None:
        """Wait for these only: the others were in a log that is no more."""
        for seq in [seq for seq in self._events if seq not in seqs]:
            self.remove(seq)

    def stop(self) -> None:
        """End the waiting."""
        self._alone = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_out(self) -> None:
        self._timer = None
        self._alone = True
        for event in list(self._events.values()):
            self.deliver(event)
