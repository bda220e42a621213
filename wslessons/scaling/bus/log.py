"""A bus over a broker's log: one order and one numbering for all servers, and nothing lost.

An event reaches all readers, those of its own server too, when it comes back from the log with its
number. So a client can leave one server and resume on another.

**Once and in order.** A server has one message under way to the broker at a time, with all the
events that became ready meanwhile, and repeats it until the broker has it. A repeat that turns out
to be one is recognized by its sequence number and delivered to nobody.

**While the broker can't be reached**, an event that has no number after `timeout` seconds is
delivered to this server's readers without one (offset 0), so that local conversation goes on. It
stays in the backlog, is published when the broker is back, and then gets its number: readers that
had it get `Committed`, and need not show it twice. If the backlog is full the oldest goes: a
`Dropped` here, and in the log a note in its place, which is a `Gap` with the exact count everywhere
else.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Coroutine, Iterable
from typing import Any

from wslessons.errors import UserError
from wslessons.scaling.bus.early import Unnumbered
from wslessons.scaling.bus.items import (
    Beat,
    Committed,
    Dropped,
    Event,
    Gap,
    PresenceChange,
    decode,
    encode,
    join,
)
from wslessons.scaling.bus.remote import Outbox, Remote, logger
from wslessons.scaling.bus.transport import LogTransport, Unreachable

__all__ = ["Log"]

BATCH = 500
"""Events in one entry of the log; below `PLACES` of the brokers that number entries only."""
BATCH_BYTES = 2**18
RETRY = 0.05
"""Seconds before an entry is repeated that the broker did not take."""
NODES = 10_000
"""Servers whose last sequence number is remembered."""


class Log(Remote):
    """One order and one numbering for all servers, and nothing lost.

    Args:
        transport: the connection to the broker.
        timeout: seconds that local readers wait for an event's number (default 1).
        options: the other arguments of `Remote`.
    """

    has_log = True

    def __init__(self, transport: LogTransport, *, timeout: float = 1.0, **options: Any) -> None:
        super().__init__(transport, **options)
        self._log = transport
        transport.history = self._channel.capacity
        self._beside: Outbox[None] = Outbox(1000, 2**20)
        """Signs of life, which go beside the log."""
        self._seqs: OrderedDict[tuple[str, str], int] = OrderedDict()
        """The newest sequence number of each server and group."""
        self._unnumbered = Unnumbered(timeout, self._put, 2 * self._waiting.most)
        self._notes: dict[str, Event] = {}
        """For each room, the note in place of events that were dropped."""
        self._in_flight: list[Event] = []
        self._opened = False

    async def start_up(self) -> None:
        """Connect, and read what the log has kept.

        Raises:
            UserError: the broker can't be reached, refuses us, or does not give its history.
        """
        await super().start_up()
        try:
            async with asyncio.timeout(10):
                for partition, number in self._log.tail.items():
                    await self._reached(partition, number)
        except TimeoutError:
            raise UserError(f"{self._log.label} does not give its history in time.") from None

    async def stop(self) -> None:
        """Send in a second what can be sent, and disconnect. Idempotent."""
        self._unnumbered.stop()
        await super().stop()
        if lost := len(self._in_flight) + self.backlog:
            logger.info("stopped with %d events that %s never got", lost, self._log.label)
        self._in_flight = []
        self._waiting.clear()

    def publish(self, event: Event) -> None:
        """Take an event on its way to the log.

        Raises:
            UserError: it is too large or no JSON, or the bus was stopped.
        """
        if event.key and event.key in self._keys:
            return
        event.nth = 0
        data = self._stamp(event)
        while self._waiting and not self._waiting.has_room(data):
            self._drop()
        self._waiting.put(event, data)
        self._unnumbered.add(event)

    # What a transport with a log calls as well: see `LogHost`.

    def on_opened(self, epoch: str, before: dict[int, int]) -> None:
        """Take note which life of the log this is, and where reading begins."""
        if not self._opened:
            self._opened, self.epoch = True, epoch
        else:
            logger.info("%s has lost its log, and begins a new one", self._log.label)
            self._seqs.clear()
            self._unnumbered.keep({event.seq for event in [*self._in_flight, *self._waiting]})
            self._begin_anew(epoch)
        self._before |= before
        self._at |= before

    def on_entry(self, partition: int, first: int, step: int, data: bytes) -> None:
        """Deliver the events of one entry."""
        try:
            parts = decode(data)
        except ValueError as exc:
            logger.info("skipped an entry from elsewhere in %s: %s", self._log.label, exc)
            parts = []
        for place, event in enumerate(parts):
            if isinstance(event, Event):
                self._take(event, first + place * step)
        self._progress(partition, first + max(0, len(parts) - 1) * step)

    def on_trimmed(self, partition: int, number: int, count: int | None) -> None:
        """Report what the log did not keep until we could read it."""
        self.missed += count or 0
        self._before[partition] = number
        for room in [room for room in self._newest if self.partition(room) == partition]:
            del self._newest[room]
        self._put(Gap(count, None, "", number), number)
        self._progress(partition, number)

    def partition(self, room: str) -> int:
        """Return the partition of the log that `room` is in."""
        return self._log.partition(room)

    def _take(self, event: Event, number: int) -> None:
        seqs, source = self._seqs, (event.node, self._log.group(event.room))
        if event.seq <= seqs.get(source, 0):
            return
        seqs[source] = event.seq
        seqs.move_to_end(source)
        if len(seqs) > NODES:
            seqs.popitem(last=False)
        ours = event.node == self.node
        early = ours and self._unnumbered.remove(event.seq)
        early = early or self._unnumbered.has_delivered(event.key)
        if self._is_repeat(event.key):
            return
        event.epoch = self.epoch
        if event.lost and not ours:
            self.missed += event.lost
            gap = Gap(event.lost, event.room, event.node)
            self._number(gap, event.room, number)
            self._put(gap, number)
            return
        self._number(event, event.room, number)
        self._put(Committed(event) if early or event.lost else event, number)

    def _drop(self) -> None:
        """Give up the oldest event that waits, and leave a note in its place."""
        event, _ = self._waiting.pop()
        self._unnumbered.deliver(event)
        self._unnumbered.remove(event.seq)
        note = self._notes.setdefault(event.room, Event(event.room, node=self.node))
        note.lost += 1
        self.unsent += 1
        note.seq = event.seq
        self._put(Dropped([event]))

    # To the broker.

    def _work(self) -> list[Coroutine[Any, Any, None]]:
        """Return what is to run while the bus does."""
        return [*super()._work(), self._send_beside()]

    async def _send_all(self) -> None:
        while True:
            await self._waiting.changed.wait()
            await self._unnumbered.few.wait()
            batch = self._take_notes() or self._waiting.take(
                BATCH, min(BATCH_BYTES, self._log.limit - 2)
            )
            self._in_flight = [event for event, _ in batch]
            groups: dict[str, list[tuple[Event, bytes]]] = {}
            for event, data in batch:
                groups.setdefault(self._log.group(event.room), []).append((event, data))
            appending = [self._append(group, groups[group]) for group in groups]
            # A task for each takes time, and mostly there is one.
            await (appending[0] if len(appending) == 1 else asyncio.gather(*appending))
            self._in_flight = []
            self._sent.set()

    def _take_notes(self) -> list[tuple[Event, bytes]]:
        notes = sorted(self._notes.values(), key=lambda note: note.seq)
        self._notes = {note.room: note for note in notes[BATCH:]}
        return [(note, encode(note)) for note in notes[:BATCH]]

    async def _append(self, group: str, batch: Iterable[tuple[Event, bytes]]) -> None:
        events = [event for event, _ in batch]
        data = join([data for _, data in batch])
        id, last = f"{self.node}:{events[0].seq}", events[-1].seq
        while True:
            try:
                await self._log.append(group, data, id, len(events), last)
                return
            except Unreachable as exc:
                logger.debug("not in the log yet: %s", exc)
                await asyncio.sleep(RETRY)

    async def _send_beside(self) -> None:
        while True:
            await self._beside.changed.wait()
            batch = self._beside.take(BATCH, min(BATCH_BYTES, self._log.limit - 2))
            try:
                await self._log.publish(join([data for _, data in batch]))
            except Unreachable as exc:
                logger.debug("not sent beside the log: %s", exc)

    def _announce(self, part: Beat | PresenceChange) -> None:
        data = encode(part)
        if self.status.state == "connected" and self._beside.has_room(data):
            self._beside.put(None, data)

    def _is_sending(self) -> bool:
        return bool(self._in_flight or self._waiting or self._notes)

    def _take_event(self, event: Event) -> None:
        """Events come through the log; what is here was sent by a bus without one."""
        logger.info("a server without a log uses the same name on %s", self._log.label)
