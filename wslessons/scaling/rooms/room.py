"""A room that several servers share, over a bus: see `wslessons.scaling.bus`.

What is said goes to the bus, and into the room's log when the bus delivers it, with the bus's
number and epoch. With a log behind the bus these are the same on all servers, so a client may
resume on another; numbers then have holes, where events of other rooms are, and each event says
which number of its room came before (`prev`).

While the broker is away, a bus with a log delivers this server's events without a number, and later
says which number they got. Whoever had them is only told the number: by `ack` if it was their own,
else by a `missed` of 0 events.

Not handled here: names beyond the first hundred of each other server.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from itertools import islice

import msgspec

from wslessons.chat.codecs import JsonCodec, Record, TextCodec
from wslessons.chat.events import Hello, Joined, Left, Message, Missed, RoomEvent
from wslessons.chat.room import IDS, ROSTER, Admission, Room
from wslessons.errors import UserError
from wslessons.scaling.bus import Bus, Committed, Event, Gap
from wslessons.scaling.rooms.codecs import SharedJson, SharedRecord, SharedText

__all__ = ["SharedRoom"]

logger = logging.getLogger(__name__)

CATCH_UP = 2.0
"""Seconds for which one who comes from another server waits until this one has read as far."""
LOST = "the broker was away for too long: say it again"


class SharedRoom(Room):
    """A room whose members may be on several servers.

    In: the `bus`, which is running; `drain`, which lets all rooms take what the bus has ready.
    """

    def __init__(self, path: str, capacity: int, bus: Bus, drain: Callable[[], None]) -> None:
        super().__init__(path, capacity)
        self.epoch = bus.epoch
        self._shared, self._drain = bus, drain
        self._floor = bus.newest(path)
        """A number after which all that happened is in the log, while the log is empty."""
        self._asked: dict[str, str] = {}
        """For keys that are under way: the connection to acknowledge, if not the one it was."""
        self._codecs = SharedText(), SharedJson(self.number)
        # What the bus has kept of this room: a client of another server may resume in it.
        for _, item in bus.items():
            if isinstance(item, Event | Committed | Gap):
                about = item.event if isinstance(item, Committed) else item
                if about.room in (path, None):
                    self.take(item)

    def codec(self, codec: TextCodec | JsonCodec) -> TextCodec | JsonCodec:
        """Return how this room's events look in one of the two protocols."""
        return self._codecs[isinstance(codec, JsonCodec)]

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
        kept = [(n, r) for n, r in enumerate(log, log.oldest) if _number(r)]
        floor = _prev(kept[0][1]) if kept else self._floor
        # Nobody can have seen what has not been read here, unless this server is the one behind.
        unheard_of = not bus.has_read(self.path, since) and bus.status.state == "connected"
        if (hello.epoch and hello.epoch != self.epoch) or since < floor or unheard_of:
            cursor = log.subscribe(since=log.oldest - 1)
            return Admission(cursor, self.number(cursor.offset), True)
        places = [place for place, record in kept if _number(record) <= since]
        cursor = log.subscribe(since=places[-1] if places else log.oldest - 1)
        return Admission(cursor, max(self.number(cursor.offset), since), False)

    def number(self, offset: int) -> int:
        """Return the bus's number of what stands at `offset` of the room's own log."""
        number = None
        for place, record in enumerate(self.log, self.log.oldest):
            if not _number(record):
                continue
            if place > offset:
                return _prev(record) if number is None else number
            number = _number(record)
        return self._floor if number is None else number

    def enter(self, id: str, name: str) -> None:
        """Add somebody and tell everyone, the newcomer too."""
        self._shared.enter(self.path, id, name)
        super().enter(id, name)

    def leave(self, id: str) -> None:
        """Remove somebody and tell everyone who is left."""
        self._shared.leave(self.path, id)
        super().leave(id)

    def roster(self) -> tuple[list[str], int]:
        """Return the first names, this server's first, and how many there are on all servers."""
        names, count = super().roster()
        others, more = self._shared.members(self.path)
        return names + list(islice(others.values(), ROSTER - len(names))), count + more

    def say(self, id: str, text: str, message_id: str = "", key: str = "") -> int | None:
        """Publish what `id` says, unless `key` says that it has been published before."""
        offset = super().say(id, text, message_id, key)
        if key and offset == 0:
            self._asked[key] = id
        return offset

    def _publish(self, event: RoomEvent, origin: str = "", key: str = "") -> None:
        event.time = time.time()
        try:
            self._shared.publish(Event(self.path, event, origin, key))
        except UserError as exc:
            self._published.pop(key, None)
            self._append(SharedRecord(event, origin, lost=str(exc)), 0)

    # What the bus delivers.

    def take(self, item: Event | Committed | Gap) -> None:
        """Put what the bus delivers into the log, for everyone to get."""
        if isinstance(item, Gap):
            number = item.offset or self._shared.newest(self.path)
            self._append(SharedRecord(Missed(item.count, number)), item.prev or number)
            return
        event = item.event if isinstance(item, Committed) else item
        told = isinstance(item, Committed)
        if event.key:
            self._published[event.key] = event.offset
            if len(self._published) > IDS:
                self._published.popitem(last=False)
        if event.lost:
            self._append(SharedRecord(Missed(0, event.offset)), event.prev)
            return
        try:
            happened = _decode(event)
        except msgspec.ValidationError as exc:
            logger.info("ignored an event that is none of the chat's: %s", exc)
            return
        happened.offset = event.offset
        if event.offset:
            happened.prev = event.prev
        said = isinstance(happened, Message)
        origin = self._asked.get(event.key, event.connection) if said else ""
        if event.offset:
            self._asked.pop(event.key, None)
        self._append(SharedRecord(happened, origin, told=told), event.prev)
        if isinstance(happened, Left) and event.connection in self.members:
            # Others could not hear us, and took this one for gone.
            self._publish(Joined(self.members[event.connection]))

    def take_dropped(self, item: Event) -> None:
        """Tell the one who said it that the others will never hear it."""
        self._published.pop(item.key, None)
        origin = self._asked.pop(item.key, item.connection)
        self._append(SharedRecord(_decode(item), origin, lost=LOST), 0)

    def gone(self, connection: str, name: str) -> None:
        """Tell that somebody is gone with their server."""
        left = Left(name, time=time.time())
        if self._shared.has_log:
            # All other servers say so too, and the first is heard.
            self._shared.publish(Event(self.path, left, connection, f"left {connection}"))
        else:
            self._shared.publish_here(Event(self.path, left, connection))

    def back(self, name: str) -> None:
        """Tell that somebody is back with their server, which had only been cut off."""
        if not self._shared.has_log:
            self._shared.publish_here(Event(self.path, Joined(name, time=time.time())))

    def _append(self, record: SharedRecord, prev: int) -> None:
        record.prev = prev
        self.fanout.send(record)


def _number(record: Record) -> int:
    return record.number if isinstance(record, SharedRecord) else 0


def _prev(record: Record) -> int:
    return record.prev if isinstance(record, SharedRecord) else 0


def _decode(event: Event) -> RoomEvent:
    if isinstance(event.data, RoomEvent):
        # The one who published it may change its numbers while others still read them.
        return msgspec.structs.replace(event.data)
    return msgspec.convert(event.data, RoomEvent)
