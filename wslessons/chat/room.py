"""A room: people who hear each other, and the log of what happened among them.

Whatever happens, somebody comes, talks or goes, is one record, and goes into the room's log (a
`Channel`) for everyone to get, at once. Where several servers share the room, a bus stands between,
which puts the records of all of them in order: see `wslessons.scaling.rooms`.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from itertools import islice
from typing import Protocol

from wslessons.chat.channel import Channel, Receiver
from wslessons.chat.codecs import JsonForm, Record, TextForm
from wslessons.chat.events import Joined, Left, Message, RoomEvent
from wslessons.chat.fanout import Fanout

__all__ = ["Room"]

ROSTER = 100
"""Names in one roster; beyond them it only counts, or 2,000 joining would be sent 2 million."""
IDS = 4096
"""Ids of published messages that a room remembers."""


class Closing(Protocol):
    """A connection, as far as a room needs it."""

    async def close(self, code: int, reason: str) -> None:
        """Complete the closing handshake, in bounded time."""
        ...


class Room:
    """People who hear each other, and the log of what happened among them."""

    def __init__(self, path: str, capacity: int = 256) -> None:
        self.path = path
        self.epoch = secrets.token_hex(8)
        """Name of this life of the room: offsets mean nothing in another."""
        self.log: Channel[Record] = Channel(capacity)
        self.fanout: Fanout[Record] = Fanout(self.log)
        self.people: dict[str, str] = {}
        """Names by connection id, in the order in which people came."""
        self.visitors = 0
        """Connections that are here, those on their way in too."""
        self.connections: dict[str, Closing] = {}
        """The connections of `people`, to close them by."""
        self._published: OrderedDict[str, int] = OrderedDict()

    def resume(self, since: int | None, epoch: str) -> tuple[Receiver[Record], bool]:
        """Return a cursor for someone who saw `since` in `epoch`, and whether the epoch is over.

        With the epoch over nobody knows what was missed, and the cursor is at the oldest kept.
        """
        if since is None:
            return self.log.subscribe(), False
        if epoch and epoch != self.epoch:
            return self.log.subscribe(since=self.log.oldest - 1), True
        return self.log.subscribe(since=min(since, self.log.offset)), False

    async def catch_up(self, since: int | None, epoch: str) -> None:
        """Wait, in bounded time, until all that somebody who saw `since` has seen is here."""

    def begins_after(self, cursor: Receiver[Record], since: int | None) -> int:
        """Return the offset after which somebody with this cursor begins, who saw `since`."""
        return cursor.offset

    def form(self, form: TextForm | JsonForm) -> TextForm | JsonForm:
        """Return how this room's events look in one of the two protocols."""
        return form

    def enter(self, id: str, name: str) -> None:
        """Add somebody and tell everyone, the newcomer too."""
        self.people[id] = name
        self._publish(Joined(name))

    def leave(self, id: str) -> None:
        """Remove somebody and tell everyone who is left."""
        self.fanout.leave(id)
        self._publish(Left(self.people.pop(id)))

    def say(self, id: str, text: str, message_id: str = "", key: str = "") -> int | None:
        """Publish what `id` says, unless `key` says that it has been published before.

        Returns None, or else the offset that it has had since (0 while it is on its way).
        """
        if key:
            if key in self._published:
                return self._published[key]
            self._published[key] = 0
            if len(self._published) > IDS:
                self._published.popitem(last=False)
        self._publish(Message(self.people[id], text, message_id), id, key)
        return None

    def deliver(self, record: Record) -> None:
        """Give the record its number and put it into the log, for everyone to get."""
        record.event.offset = self.log.offset + 1
        if record.key:
            self._published[record.key] = record.event.offset
        self.fanout.send(record)

    def roster(self) -> tuple[list[str], int]:
        """Return the first names, and how many there are."""
        return list(islice(self.people.values(), ROSTER)), len(self.people)

    def _publish(self, event: RoomEvent, origin: str = "", key: str = "") -> None:
        event.time = time.time()
        self.deliver(Record(event, origin, key))
