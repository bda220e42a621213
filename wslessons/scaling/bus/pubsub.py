"""A bus over a broker's publish and subscribe: fast, kept by nobody, and so at most once.

This server's readers get an event when it is published; the other servers' when it arrives. So
each server has an order and numbers of its own, and nobody can resume on another.

What gets lost is lost for good, and reported, however long it took: a `Gap` has the exact number.
A server counts its events, all together and in each room. An event brings both counts, so whoever
gets the next one of a room sees what is missing before it. A beat brings the first: a server to
which that shows that it misses something asks for the counts of the rooms. While the broker can't
be reached, what is published reaches this server's readers only; it is lost for the others.

A server that comes asks each other one how many there had been when it began to listen: all later
ones are for it. That one remembers when it has published what, and the two clocks need not agree,
as the question says how long ago that was.

Not handled here: the room of an event is unknown if it is lost in a server's last moment, or if
that server has since published in 10,000 other rooms. Then it is told as an unknown number in each
room, and counted right in all (`Bus.missed`). And so is what was lost to a newcomer that could ask
only after 10,000 other moments in which something was published.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec

from wslessons.scaling.bus.bus import ROOMS, Recent
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
PROMPT = 1.0
"""Seconds in which an answer has to come: the question may have been as long under way, and how
long ago something was is said in it."""
TRIES = 5
"""Questions after which a later answer is better than none."""
MOMENT = 0.01
"""Seconds in which a room's events count as published at once."""
MOMENTS = 10_000
"""Moments at which something was published that are remembered."""


class _Heard:
    """How many events of another server have arrived here, or are known to be missing."""

    def __init__(self) -> None:
        self.total = 0
        self.newest = 0
        """Its newest sequence number that is known; a beat that has less was long under way."""
        self.rooms: Recent[int] = Recent(2 * ROOMS)
        self.whole = 0
        """Up to this sequence number none is missing unreported."""
        self.begun = False
        """Whether it is known which events came before we listened. Until then:"""
        self.before: dict[str, int] = {}
        """How many there were in a room before the first that arrived."""
        self.asked = 0
        """How often it has been asked for them."""
        self._counts = (0, 0, 0.0)
        self._parts: dict[int, dict[str, int]] = {}

    def take(self, room: str, count: int) -> int:
        """Take in how many there have been in a room; return how many of them are missing."""
        before = self.rooms.get(room, 0)
        self.rooms[room] = count
        # Fewer than before: it had forgotten the room, and began with 1 again.
        missing = count - before if count >= before else count
        self.total += missing
        return missing

    def gather(self, part: Counts) -> dict[str, int] | None:
        """Take note of a part of its counts; return them all if that was the last missing part."""
        counts = part.seq, part.since, part.age
        if self._counts != counts:
            self._counts, self._parts = counts, {}
        self._parts[part.part] = part.rooms
        if len(self._parts) < part.parts:
            return None
        return {room: count for rooms in self._parts.values() for room, count in rooms.items()}


class _Moment:
    """When so many events were published in a room."""

    __slots__ = ("at", "count", "room")

    def __init__(self, at: float, room: str) -> None:
        self.at, self.room, self.count = at, room, 1


class PubSub(Remote):
    """Available at all times, at most once; losses are counted.

    Args:
        transport: the connection to the broker.
        options: the other arguments of `Remote`.
    """

    def __init__(self, transport: Transport, **options: Any) -> None:
        super().__init__(transport, **options)
        self._mine: Recent[tuple[int, int]] = Recent(ROOMS)
        """For each room how many events this server has published, and the sequence number of the
        newest, in the order of these numbers."""
        self._heard: Recent[_Heard] = Recent(PEERS)
        """What is known of each other server."""
        self._wanted: int | None = None
        """The sequence number since which others want our counts, and wait for them."""
        self._newcomers: dict[str, tuple[float, float]] = {}
        """When each began to listen that wants the counts of then, and its age as it asked."""
        self._told = 0.0
        self._moments: deque[_Moment] = deque()
        """What this server has published when, as far as it is remembered."""
        self._forgotten = -math.inf
        """The last moment that is not."""
        self._sending = False

    async def start_up(self) -> None:
        """Connect, and ask the others how much they have said before.

        Raises:
            UserError: the broker can't be reached, or refuses us.
        """
        await super().start_up()
        self._announce(CountsWanted(self.node, "", 0, self._presence.age))

    def _send(self, event: Event, force: bool) -> None:
        """Deliver the event to this server's readers, and send it to the others."""
        event.nth = self._mine.get(event.room, (0, 0))[0] + 1
        data = self._encode(event)
        self._seq = event.seq
        self._mine[event.room] = event.nth, event.seq
        self._remember(event.room)
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
        heard.newest = max(heard.newest, event.seq)
        if not heard.begun and event.room not in heard.rooms and len(heard.before) < ROOMS:
            heard.rooms[event.room] = heard.before[event.room] = event.nth - 1
        self._report(heard.take(event.room, event.nth) - 1, event.room, event.node)
        if event.key not in self._keys:
            self._deliver_here(event)

    def _take_beat(self, beat: Beat) -> None:
        heard = self._heard_of(beat.node)
        late, heard.newest = beat.seq < heard.newest, max(heard.newest, beat.seq)
        if beat.seq == 0 and not heard.begun and not late:
            # It has said nothing yet, so all that it will say is for us.
            self._begin(heard, beat.node, 0, {})
        super()._take_beat(beat)
        if beat.part < beat.parts or late:
            return
        if heard.begun and heard.total >= beat.seq:
            heard.total = heard.whole = beat.seq
        elif not beat.gone:
            self._ask(heard, beat.node)
        elif heard.begun:
            self._report(beat.seq - heard.total, None, beat.node)
        if beat.gone:
            del self._heard[beat.node]

    def _ask(self, heard: _Heard, node: str) -> None:
        """Ask another server for what we lack of its counts."""
        if heard.begun:
            self._announce(CountsWanted(self.node, node, heard.whole))
            return
        # When we started we asked all at once.
        if heard.asked or self._presence.age > self._presence.beat:
            self._announce(CountsWanted(self.node, node, 0, self._presence.age))
        heard.asked += 1

    def _take_counts(self, part: Counts | CountsWanted) -> None:
        if isinstance(part, CountsWanted):
            if part.of in ("", self.node):
                self._take_wanted(part)
            return
        heard = self._heard_of(part.node)
        if part.to:
            if part.to == self.node and not heard.begun:
                self._take_beginning(heard, part)
        elif heard.begun:
            for room, count in part.rooms.items():
                self._report(heard.take(room, count), room, part.node)
            if heard.gather(part) is not None and part.since <= heard.whole:
                self._report(part.seq - heard.total, None, part.node)
                heard.total = heard.whole = part.seq

    def _take_beginning(self, heard: _Heard, part: Counts) -> None:
        """Take in a part of how many there had been when we began to listen."""
        if self._presence.age - part.age > PROMPT and heard.asked < TRIES:
            return
        rooms = heard.gather(part)
        if rooms is not None:
            if not part.known:
                self._put(Gap(None, None, part.node))
            self._begin(heard, part.node, part.seq, rooms)

    def _begin(self, heard: _Heard, node: str, seq: int, rooms: dict[str, int]) -> None:
        """Count from now on, given how many there had been, in all and in each room."""
        heard.begun, heard.total, heard.whole = True, seq, seq
        arrived = dict(heard.rooms)
        heard.rooms.clear()
        heard.rooms.update(rooms)
        for room, before in heard.before.items():
            already = rooms.get(room, 0)
            heard.rooms[room] = max(already, arrived[room])
            heard.total += heard.rooms[room] - already
            self._report(before - already, room, node)
        heard.before.clear()

    # What others want to know.

    def _take_wanted(self, wanted: CountsWanted) -> None:
        loop, due = asyncio.get_running_loop(), self._told + COUNTS_TIME
        waiting = self._wanted is not None or bool(self._newcomers)
        if not wanted.age:
            since = self._wanted
            self._wanted = wanted.since if since is None else min(since, wanted.since)
        elif len(self._newcomers) < PEERS:
            self._newcomers[wanted.node] = time.monotonic() - wanted.age, wanted.age
        if not waiting:
            loop.call_at(due, self._tell) if due > loop.time() else self._tell()

    def _tell(self) -> None:
        since, self._wanted = self._wanted, None
        newcomers, self._newcomers = self._newcomers, {}
        self._told = asyncio.get_running_loop().time()
        if since is not None:
            self._tell_counts(Counts(self.node, self._seq, since, dict(self._newer(since))))
        for node, (came, age) in newcomers.items():
            seq, rooms = self._counts_at(came)
            known = came >= self._forgotten
            self._tell_counts(Counts(self.node, seq, 0, rooms, to=node, age=age, known=known))

    def _tell_counts(self, counts: Counts) -> None:
        """Send counts, in as many parts as they need."""
        names = list(counts.rooms)
        parts = [names[i : i + PART] for i in range(0, len(names), PART)] or [[]]
        for part, some in enumerate(parts, 1):
            rooms = {room: counts.rooms[room] for room in some}
            self._announce(
                msgspec.structs.replace(counts, rooms=rooms, part=part, parts=len(parts))
            )

    def _remember(self, room: str) -> None:
        """Take note that something is published in a room now."""
        now, moments = time.monotonic(), self._moments
        if moments and moments[-1].room == room and now < moments[-1].at + MOMENT:
            moments[-1].count += 1
            return
        moments.append(_Moment(now, room))
        if len(moments) > MOMENTS:
            self._forgotten = moments.popleft().at

    def _counts_at(self, then: float) -> tuple[int, dict[str, int]]:
        """Return how many events there had been at a moment, in all and in each room."""
        seq, rooms = self._seq, {room: count for room, (count, _) in self._mine.items()}
        for moment in reversed(self._moments):
            if moment.at <= then:
                break
            seq -= moment.count
            if moment.room in rooms:
                rooms[moment.room] -= moment.count
        return seq, {room: count for room, count in rooms.items() if count > 0}

    def _newer(self, since: int) -> Iterator[tuple[str, int]]:
        """Yield the rooms with events after a sequence number, and the count of each."""
        for room in reversed(self._mine):
            count, seq = self._mine[room]
            if seq <= since:
                return
            yield room, count

    def _heard_of(self, node: str) -> _Heard:
        heard = self._heard[node] = self._heard.get(node) or _Heard()
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
