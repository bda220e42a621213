"""A bus over a broker's publish and subscribe: fast, kept by nobody, and so at most once.

This server's readers get an event when it is published; the other servers' when it arrives. So
each server has an order and numbers of its own, and nobody can resume on another.

What gets lost is lost for good, and reported, however long it took: a `Gap` has the exact number.
A server counts its events, all together and in each room. An event brings both counts, so whoever
gets the next one of a room sees what is missing before it. A beat brings the first: a server to
which that shows that it misses something asks for the counts of the rooms. While the broker can't
be reached, what is published reaches this server's readers only; it is lost for the others.

Not handled here: the room of an event is unknown if it is lost in a server's last moment, or if
that server has since published in 10,000 other rooms. Then it is told as an unknown number in each
room, and counted right in all (`Bus.missed`). And a server that is cut off in the very moment in
which it starts does not know yet what the others had said before.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from wslessons.scaling.bus.bus import ROOMS
from wslessons.scaling.bus.items import Beat, Counts, CountsWanted, Event, Gap, encode, join
from wslessons.scaling.bus.presence import PART, PEERS
from wslessons.scaling.bus.remote import Remote, Signal
from wslessons.scaling.bus.transport import Transport, Unreachable

__all__ = ["PubSub"]

BATCH = 1000
"""Events in one message."""
BATCH_BYTES = 2**18


COUNTS_TIME = 0.05
"""Seconds between two answers with our counts: several who want them then are answered together."""


class _Heard:
    """How many events of another server have arrived here, or are known to be missing."""

    def __init__(self) -> None:
        self.total = 0
        self.rooms: OrderedDict[str, int] = OrderedDict()
        self.whole = 0
        """Up to this sequence number none is missing unreported."""
        self.begun = False
        """Whether it is known which events came before we listened. Until then:"""
        self.before: dict[str, int] = {}
        """How many there were in a room before the first that arrived."""
        self.asked = False
        """Whether it has been asked for its counts."""
        self._counts = (0, 0)
        self._parts: set[int] = set()

    def take(self, room: str, count: int) -> int:
        """Take in how many there have been in a room; return how many of them are missing."""
        before = self.rooms.get(room, 0)
        self.rooms[room] = count
        self.rooms.move_to_end(room)
        if len(self.rooms) > 2 * ROOMS:
            self.rooms.popitem(last=False)
        # Fewer than before: it had forgotten the room, and began with 1 again.
        missing = count - before if count >= before else count
        self.total += missing
        return missing

    def is_whole(self, counts: Counts) -> bool:
        """Take note of a part of its counts; return whether that was the last that was missing."""
        if self._counts != (counts.seq, counts.since):
            self._counts, self._parts = (counts.seq, counts.since), set()
        self._parts.add(counts.part)
        return len(self._parts) >= counts.parts


class PubSub(Remote):
    """Available at all times, at most once; losses are counted.

    Args:
        transport: the connection to the broker.
        options: the other arguments of `Remote`.
    """

    def __init__(self, transport: Transport, **options: Any) -> None:
        super().__init__(transport, **options)
        self._mine: OrderedDict[str, tuple[int, int]] = OrderedDict()
        """For each room how many events this server has published, and the sequence number of the
        newest, in the order of these numbers."""
        self._heard: OrderedDict[str, _Heard] = OrderedDict()
        """What is known of each other server."""
        self._wanted: int | None = None
        """The sequence number since which others want our counts, and wait for them."""
        self._told = 0.0
        self._sending = False

    async def start_up(self) -> None:
        """Connect, and ask the others how much they have said before.

        Raises:
            UserError: the broker can't be reached, or refuses us.
        """
        await super().start_up()
        self._announce(CountsWanted(self.node, "", 0))

    def _send(self, event: Event, force: bool) -> None:
        """Deliver the event to this server's readers, and send it to the others."""
        event.nth = self._mine.get(event.room, (0, 0))[0] + 1
        data = self._encode(event)
        self._seq = event.seq
        self._mine[event.room] = event.nth, event.seq
        self._mine.move_to_end(event.room)
        if len(self._mine) > ROOMS:
            self._mine.popitem(last=False)
        if self.status.state == "connected" and self._waiting.has_room(data):
            self._waiting.put(event, data)
            self._leaves(event.seq)
        else:
            self.unsent += 1
        self._deliver_here(event)

    async def flush(self, most: int = 0) -> None:
        """Wait as `Remote.flush` does; what is known to be lost does not wait any more.

        Args:
            most: how many events may still wait.
        """
        await super().flush(most)
        with contextlib.suppress(Unreachable):
            if most == 0:
                await self._transport.flush()

    async def _send_all(self) -> None:
        while True:
            await self._waiting.changed.wait()
            self._sending = True
            batch = self._waiting.take(BATCH, min(BATCH_BYTES, self._transport.limit - 2))
            events = [part for part, _ in batch if isinstance(part, Event)]
            lost = len(events)
            try:
                with contextlib.suppress(Unreachable):
                    await self._transport.publish(join([data for _, data in batch]))
                    lost = 0
            finally:
                self.unsent += lost
                self._sending = False
                if events:
                    self._arrives(events[-1].seq)
            self._sent.set()

    def _is_sending(self) -> bool:
        return self._sending or bool(self._waiting)

    def _announce(self, part: Signal) -> None:
        # In one line with the events, as a beat says how many there have been.
        data = encode(part)
        if self.status.state == "connected" and self._waiting.has_room(data):
            self._waiting.put(part, data)

    # What is missing.

    def _take_event(self, event: Event) -> None:
        self._presence.take_sign(event.node)
        heard = self._heard_of(event.node)
        if not heard.begun and event.room not in heard.rooms and len(heard.before) < ROOMS:
            heard.rooms[event.room] = heard.before[event.room] = event.nth - 1
        self._report(heard.take(event.room, event.nth) - 1, event.room, event.node)
        if event.key not in self._keys:
            self._deliver_here(event)

    def _take_beat(self, beat: Beat) -> None:
        heard = self._heard_of(beat.node)
        if not heard.begun and beat.age < self._presence.age:
            # It is younger than we are: we ought to have had all it ever published.
            before = dict(heard.before)
            self._begin(heard)
            for room, count in before.items():
                heard.total += count
                self._report(count, room, beat.node)
        super()._take_beat(beat)
        if beat.part < beat.parts:
            return
        if heard.begun and heard.total >= beat.seq:
            heard.total = heard.whole = beat.seq
        elif not beat.gone:
            # When we started we asked all at once.
            if heard.begun or heard.asked:
                self._announce(CountsWanted(self.node, beat.node, heard.whole))
            heard.asked = True
        elif heard.begun:
            self._report(beat.seq - heard.total, None, beat.node)
        if beat.gone:
            del self._heard[beat.node]

    def _take_counts(self, part: Counts | CountsWanted) -> None:
        if isinstance(part, CountsWanted):
            if part.of in ("", self.node):
                self._take_wanted(part.since)
            return
        heard = self._heard_of(part.node)
        for room, count in part.rooms.items():
            if heard.begun or room in heard.rooms:
                self._report(heard.take(room, count), room, part.node)
            else:
                # It was there before us, and so was what it said in this room.
                heard.rooms[room] = count
        if heard.is_whole(part) and part.since <= heard.whole:
            if heard.begun:
                self._report(part.seq - heard.total, None, part.node)
            self._begin(heard)
            heard.total = heard.whole = part.seq

    def _take_wanted(self, since: int) -> None:
        loop, due = asyncio.get_running_loop(), self._told + COUNTS_TIME
        if self._wanted is not None:
            self._wanted = min(self._wanted, since)
        else:
            self._wanted = since
            loop.call_at(due, self._tell) if due > loop.time() else self._tell()

    def _tell(self) -> None:
        since, self._wanted = self._wanted or 0, None
        self._told = asyncio.get_running_loop().time()
        rooms = dict(self._newer(since))
        names = list(rooms)
        parts = [names[i : i + PART] for i in range(0, len(names), PART)] or [[]]
        for part, some in enumerate(parts, 1):
            counts = {room: rooms[room] for room in some}
            self._announce(Counts(self.node, self._seq, since, counts, part, len(parts)))

    def _newer(self, since: int) -> Iterator[tuple[str, int]]:
        """Yield the rooms with events after a sequence number, and the count of each."""
        for room in reversed(self._mine):
            count, seq = self._mine[room]
            if seq <= since:
                return
            yield room, count

    def _begin(self, heard: _Heard) -> None:
        heard.begun = True
        heard.before.clear()

    def _heard_of(self, node: str) -> _Heard:
        heard = self._heard.setdefault(node, _Heard())
        self._heard.move_to_end(node)
        if len(self._heard) > PEERS:
            self._heard.popitem(last=False)
        return heard

    def _report(self, count: int, room: str | None, node: str) -> None:
        if count <= 0:
            return
        self.missed += count
        if room is None:
            self._put(Gap(None, None, node))
            return
        gap = Gap(count, room, node)
        self._number(gap, room, self._channel.offset + 1)
        self._put(gap, gap.offset)
        self._progress(gap.offset)
