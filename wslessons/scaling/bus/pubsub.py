"""A bus over a broker's publish and subscribe: fast, kept by nobody, and so at most once.

This server's readers get an event when it is published; the other servers' when it arrives. So
each server has an order and numbers of its own, and nobody can resume on another. What gets lost
is lost for good, and reported: events are counted, each server's in each room, and whoever sees the
count jump, in an event or in a beat, gets a `Gap` with the exact number. While the broker can't be
reached, what is published reaches this server's readers only; the others see the count jump later.
"""

from __future__ import annotations

import contextlib
from typing import Any

from wslessons.scaling.bus.bus import ROOMS
from wslessons.scaling.bus.items import Beat, Event, Gap, PresenceChange, encode, join
from wslessons.scaling.bus.presence import BEATS
from wslessons.scaling.bus.remote import Remote
from wslessons.scaling.bus.transport import Transport, Unreachable

__all__ = ["PubSub"]

BATCH = 1000
"""Events in one message."""
BATCH_BYTES = 2**18


class _Published:
    """What this server has published in a room: how many events, and how many beats ago."""

    __slots__ = ("count", "rests")

    def __init__(self) -> None:
        self.count = self.rests = 0


class PubSub(Remote):
    """Available at all times, at most once; losses are counted.

    Args:
        transport: the connection to the broker.
        options: the other arguments of `Remote`.
    """

    def __init__(self, transport: Transport, **options: Any) -> None:
        super().__init__(transport, **options)
        self._mine: dict[str, _Published] = {}
        """What this server has published of late, by room."""
        self._theirs: dict[str, dict[str, int]] = {}
        """The same for each other server: how many events of it have arrived or are missing."""
        self._unsure: dict[str, dict[str, int]] = {}
        """For servers that have sent no beat: how many events there were before its first."""
        self._sending = False

    def publish(self, event: Event, *, force: bool = False) -> None:
        """Deliver the event to this server's readers, and send it to the others.

        Raises:
            UserError: it is too large or no JSON, or the bus was stopped.
        """
        if event.key and event.key in self._keys:
            return
        mine = self._mine.get(event.room) or self._new_room(event.room)
        event.nth = mine.count + 1
        data = self._stamp(event)
        mine.count, mine.rests = event.nth, 0
        self._is_repeat(event.key)
        if self.status.state == "connected" and self._waiting.has_room(data):
            self._waiting.put(event, data)
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
            try:
                await self._transport.publish(join([data for _, data in batch]))
            except Unreachable:
                self.unsent += sum(isinstance(part, Event) for part, _ in batch)
            finally:
                self._sending = False
            self._sent.set()

    def _is_sending(self) -> bool:
        return self._sending or bool(self._waiting)

    def _announce(self, part: Beat | PresenceChange) -> None:
        # In one line with the events, as a beat says how many there have been.
        data = encode(part)
        if self.status.state == "connected" and self._waiting.has_room(data):
            self._waiting.put(part, data)

    def _published(self) -> dict[str, int]:
        for room, mine in list(self._mine.items()):
            mine.rests += 1
            if mine.rests > BEATS and room not in self._presence.mine:
                # The others forget it too, as the beat leaves it out; it begins with 1 again.
                del self._mine[room]
        return {room: mine.count for room, mine in self._mine.items()}

    def _new_room(self, room: str) -> _Published:
        if len(self._mine) >= ROOMS:
            del self._mine[next(iter(self._mine))]
        mine = self._mine[room] = _Published()
        return mine

    def _take_event(self, event: Event) -> None:
        known = self._presence.take_sign(event.node).known
        rooms = self._theirs.setdefault(event.node, {})
        if not known and event.room not in rooms:
            self._unsure.setdefault(event.node, {})[event.room] = event.nth - 1
        # A server whose beat we had has named all its rooms, so this one is new.
        due = rooms.get(event.room, 0 if known else event.nth - 1) + 1
        # Less than is due: it had forgotten the room, and counts from 1 again.
        lost = event.nth - due if event.nth >= due else event.nth - 1
        rooms[event.room] = event.nth
        if lost:
            self._report(event.node, event.room, lost)
        if not self._is_repeat(event.key):
            self._deliver_here(event)

    def _take_beat(self, beat: Beat) -> None:
        rooms = self._theirs.setdefault(beat.node, {})
        peer = self._presence.peers.get(beat.node)
        # A server that is younger than we are: we ought to have had all it ever published.
        news = (peer is not None and peer.known) or beat.age < self._presence.age
        unsure = self._unsure.pop(beat.node, {})
        if peer is None or not peer.known:
            for room, count in unsure.items():
                if news and count:
                    self._report(beat.node, room, count)
        for room, there in beat.rooms.items():
            before = rooms.get(room, 0 if news else there.nth)
            if there.nth > before:
                self._report(beat.node, room, there.nth - before)
            rooms[room] = there.nth
        super()._take_beat(beat)
        peer = self._presence.peers.get(beat.node)
        if beat.last and peer is not None:
            for room in rooms.keys() - peer.rooms.keys():
                del rooms[room]
        for node in self._theirs.keys() - self._presence.peers.keys():
            del self._theirs[node]

    def _report(self, node: str, room: str, count: int) -> None:
        self.missed += count
        gap = Gap(count, room, node)
        self._number(gap, room, self._channel.offset + 1)
        self._put(gap, gap.offset)
        self._progress(0, gap.offset)
