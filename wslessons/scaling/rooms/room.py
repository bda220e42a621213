"""A room that several servers share, over a bus: see `wslessons.scaling.bus`.

What is said goes to the bus, and into the room's log when the bus delivers it, with the bus's
number and epoch. With a log behind the bus these are the same on all servers, so a client may
resume on another; numbers then have holes, where events of other rooms are, and each event says
which number of its room came before (`prev`).

While the broker of such a log is away, nothing is delivered: what is said waits, and whoever said
it has no acknowledgement. When too much waits, the room refuses what is said, and who comes.

Not handled here: names beyond the first hundred of each other server.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import msgspec

from wslessons.chat.codecs import JsonCodec, Record, TextCodec
from wslessons.chat.events import Ack, Error, Hello, Joined, Left, Message, Missed, RoomEvent
from wslessons.chat.room import IDS, ROSTER, Admission, Room, memory
from wslessons.errors import UserError
from wslessons.scaling.bus import Bus, Event, Gap

__all__ = ["SharedRoom"]

logger = logging.getLogger(__name__)

CATCH_UP = 2.0
"""Seconds for which one who comes from another server waits until this one has read as far."""
TRY_AGAIN = 1013
"""Close code for those who can't come in now (IANA's registry: try again later)."""


@dataclass(slots=True, eq=False)
class SharedRecord(Record):
    """A record that says which number came before it."""

    prev: int = 0


class SharedJson(JsonCodec):
    """The subprotocol ``chat.v1+json`` with the numbers of the bus.

    Args:
        number: returns the bus's number of a place in the room's own log.
    """

    def __init__(self, number: Callable[[int], int]) -> None:
        self._number = number

    def missed(self, count: int | None, offset: int) -> bytes:
        """Return the notice of a gap; `offset` is one of the room's own log."""
        return super().missed(count, self._number(offset))


class SharedRoom(Room):
    """A room whose members may be on several servers.

    Args:
        path: as for `Room`.
        capacity: as for `Room`.
        bus: one that is running.
        drain: lets all rooms take what the bus has ready.
    """

    def __init__(self, path: str, capacity: int, bus: Bus, drain: Callable[[], None]) -> None:
        super().__init__(path, capacity)
        self.epoch = bus.epoch
        self._shared, self._drain = bus, drain
        self._floor = bus.newest(path)
        """A number after which all that happened is in the log, while the log is empty."""
        self._json = SharedJson(self.number)
        # What the bus has kept of this room: a client of another server may resume in it.
        for _, item in bus.items():
            if isinstance(item, Event | Gap) and item.room in (path, None):
                self.take(item)

    def codec(self, codec: TextCodec | JsonCodec) -> TextCodec | JsonCodec:
        """Return how this room's events look in one of the two protocols."""
        return self._json if isinstance(codec, JsonCodec) else codec

    # Whoever comes, from here or from another server.

    async def admit(self, hello: Hello) -> Admission:
        """Return where somebody begins, who may have seen more than this server has read yet."""
        log, since, bus = self.log, hello.since, self._shared
        if since is None:
            cursor = log.subscribe()
            return Admission(cursor, self.number(cursor.offset), False)
        connected = bus.status.state == "connected"
        if since and bus.has_log and hello.epoch in ("", bus.epoch) and connected:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CATCH_UP):
                    await bus.reached(self.path, since)
        self._drain()
        places = list(enumerate(log, log.oldest))
        floor = _prev(places[0][1]) if places else self._floor
        # Nobody can have seen what has not been read here, unless this server is the one behind.
        unheard_of = not bus.has_read(self.path, since) and bus.status.state == "connected"
        if (hello.epoch and hello.epoch != self.epoch) or since < floor or unheard_of:
            cursor = log.subscribe(since=log.oldest - 1)
            return Admission(cursor, self.number(cursor.offset), True)
        seen = [place for place, record in places if record.event.offset <= since]
        cursor = log.subscribe(since=seen[-1] if seen else log.oldest - 1)
        return Admission(cursor, max(self.number(cursor.offset), since), False)

    def number(self, offset: int) -> int:
        """Return the bus's number of what stands at `offset` of the room's own log."""
        number = self._floor
        for place, record in enumerate(self.log, self.log.oldest):
            if place > offset:
                return _prev(record)
            number = record.event.offset
        return number

    def enter(self, id: str, name: str) -> tuple[int, str] | None:
        """Add somebody and tell everyone, the newcomer too, unless too much waits."""
        # First, so that whoever hears of the newcomer knows where they are.
        self._shared.enter(self.path, id, name)
        try:
            return super().enter(id, name)
        except UserError as exc:
            self._shared.leave(self.path, id)
            del self.members[id]
            return TRY_AGAIN, str(exc)

    def leave(self, id: str) -> None:
        """Remove somebody and tell everyone who is left."""
        self._shared.leave(self.path, id)
        self.fanout.leave(id)
        self._announce(Left(self.members.pop(id)))

    def roster(self) -> tuple[list[str], int]:
        """Return the first names, this server's first, and how many there are on all servers."""
        names, count = super().roster()
        others, more = self._shared.members(self.path)
        return names + list(islice(others.values(), ROSTER - len(names))), count + more

    def say(
        self, id: str, text: str, message_id: str = "", session: str = ""
    ) -> Ack | Error | None:
        """Publish what `id` says, unless the session has published that message before."""
        try:
            return super().say(id, text, message_id, session)
        except UserError as exc:
            return Error("refused", str(exc), message_id)

    def _publish(self, event: RoomEvent, origin: str = "", key: str = "") -> None:
        event.time = time.time()
        try:
            self._shared.publish(Event(self.path, event, origin, key))
        except UserError:
            self._published.pop(key, None)
            raise

    def _announce(self, event: RoomEvent, connection: str = "", key: str = "") -> None:
        """Publish what became of somebody who had come in, however much waits for the broker."""
        event.time = time.time()
        with contextlib.suppress(UserError):  # the bus was stopped
            self._shared.publish(Event(self.path, event, connection, key), force=True)

    # What the bus delivers.

    def take(self, item: Event | Gap) -> None:
        """Put what the bus delivers into the log, for everyone to get."""
        if isinstance(item, Gap):
            number = item.offset or self._shared.newest(self.path)
            record = SharedRecord(Missed(item.count, number), prev=item.prev or number)
            self.fanout.send(record)
            return
        asked = self._published.get(item.key)
        if item.key:
            self._published[item.key] = item.offset
            if len(self._published) > IDS:
                self._published.popitem(last=False)
        try:
            happened = _decode(item)
        except msgspec.ValidationError as exc:
            logger.info("ignored an event that is none of the chat's: %s", exc)
            return
        happened.offset, happened.prev = item.offset, item.prev
        origin = ""
        if isinstance(happened, Message):
            # It may have been repeated since, on another connection.
            origin = asked if isinstance(asked, str) else item.connection
        size = memory(happened)
        self.fanout.send(SharedRecord(happened, origin, prev=item.prev, size=size))
        if isinstance(happened, Left) and item.connection in self.members:
            # Others could not hear us, and took this one for gone.
            self._announce(Joined(self.members[item.connection]))

    def gone(self, connection: str, name: str) -> None:
        """Tell that somebody is gone with their server."""
        if self._shared.has_log:
            # All other servers say so too, and the first is heard.
            self._announce(Left(name), connection, f"left {connection}")
        else:
            left = Left(name, time=time.time())
            self._shared.publish_here(Event(self.path, left, connection))

    def back(self, name: str) -> None:
        """Tell that somebody is back with their server, which had only been cut off."""
        if not self._shared.has_log:
            self._shared.publish_here(Event(self.path, Joined(name, time=time.time())))


def _prev(record: Record) -> int:
    assert isinstance(record, SharedRecord)
    return record.prev


def _decode(event: Event) -> RoomEvent:
    if isinstance(event.data, RoomEvent):
        # The one who published it may change its numbers while others still read them.
        return msgspec.structs.replace(event.data)
    return msgspec.convert(event.data, RoomEvent)
