"""A bus over a broker's publish and subscribe: fast, kept by nobody, and so at most once.

This server's readers get an event when it is published; the other servers' when it arrives. So
each server has an order and numbers of its own, and nobody can resume on another. What gets lost
is lost for good, but never in silence: events are counted, each server's in each room, and whoever
sees the count jump, in an event or in a beat, gets a `Gap` with the exact number. While the broker
can't be reached, what is published is heard here only; the others see the count jump later.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from wslessons.backplane.items import Beat, Event, Gap, Move, encode, join
from wslessons.backplane.presence import BEATS
from wslessons.backplane.remote import Remote
from wslessons.backplane.seam import ROOMS
from wslessons.backplane.tasks import Unreachable
from wslessons.backplane.transport import Transport

__all__ = ["PubSub"]

BATCH = 1000
"""Events in one message."""
BATCH_BYTES = 2**18


class PubSub(Remote):
    """See `wslessons.backplane.pubsub`, and `Remote` for the arguments."""

    def __init__(self, transport: Transport, **options: Any) -> None:
        super().__init__(transport, **options)
        self._mine: OrderedDict[str, int] = OrderedDict()
        """How many events this server has published in each room of late."""
        self._rests: dict[str, int] = {}
        """For rooms in `_mine`, beats since the last event."""
        self._theirs: dict[str, dict[str, int]] = {}
        """The same for each other server: how many events of it have arrived or are missing."""
        self._unsure: dict[str, dict[str, int]] = {}
        """For servers that have sent no beat: how many events there were before the first heard."""
        self._sending = False

    def publish(self, event: Event) -> None:
        """Let this server's readers have the event, and send it to the others."""
        if event.key and event.key in self._keys:
            return
        event.nth = self._mine.get(event.room, 0) + 1
        data = self._stamp(event)
        self._is_repeat(event.key)
        self._mine[event.room] = event.nth
        self._mine.move_to_end(event.room)
        self._rests[event.room] = 0
        if len(self._mine) > ROOMS:
            del self._rests[self._mine.popitem(last=False)[0]]
        if self.status.state == "connected" and self._waiting.has_room(data):
            self._waiting.put(event, data)
        else:
            self.unsent += 1
        self._deliver_here(event)

    async def flush(self) -> None:
        """Wait until the broker has all that was published, or until it is known to be lost."""
        await super().flush()
        try:
            await self._transport.flush()
        except Unreachable:
            return

    async def _send_all(self) -> None:
        while True:
            await self._waiting.changed.wait()
            self._sending = True
            batch = self._waiting.take(BATCH, min(BATCH_BYTES, self._transport.limit - 2))
            try:
                await self._transport.tell(join([data for _, data in batch]))
            except Unreachable:
                self.unsent += sum(isinstance(part, Event) for part, _ in batch)
            finally:
                self._sending = False
            self._sent.set()

    def _is_sending(self) -> bool:
        return self._sending or bool(self._waiting)

    def _tell(self, part: Beat | Move) -> None:
        # In one line with the events, as a beat says how many there have been.
        data = encode(part)
        if self.status.state == "connected" and self._waiting.has_room(data):
            self._waiting.put(part, data)

    def _published(self) -> dict[str, int]:
        for room, rests in list(self._rests.items()):
            if room in self._presence.mine or rests < BEATS:
                self._rests[room] = rests + 1
            else:
                # The others forget it too, as the beat leaves it out; it begins with 1 again.
                del self._rests[room], self._mine[room]
        return dict(self._mine)

    def _take_event(self, event: Event) -> None:
        known = self._presence.heard(event.node).known
        rooms = self._theirs.setdefault(event.node, {})
        if not known and event.room not in rooms:
            self._unsure.setdefault(event.node, {})[event.room] = event.nth - 1
        # A server whose beat we had has told us of all its rooms, so this one is new.
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
        # A server that is younger than we are: we ought to have heard all it ever published.
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
        self._put(gap)
        self._progress(0, gap.offset)
