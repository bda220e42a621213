"""The rooms of a chat that several servers share, over a bus.

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
from collections.abc import Callable, Coroutine, Mapping
from itertools import islice
from typing import Any

import msgspec

from wslessons.chat.codecs import JSON, TEXT, JsonCodec, Record, TextCodec, clean_text
from wslessons.chat.connection import Connection, Gone
from wslessons.chat.events import (
    SUBPROTOCOL,
    Ack,
    Error,
    Hello,
    Joined,
    Left,
    Message,
    Missed,
    RoomEvent,
)
from wslessons.chat.identity import Denied
from wslessons.chat.room import IDS, ROSTER, Admission, Room, memory
from wslessons.chat.rules import clean_name
from wslessons.errors import UserError
from wslessons.scaling.bus.bus import Bus, Recent
from wslessons.scaling.bus.items import Event, Gap, Item, NewEpoch, NodeDown, NodeUp, Status, Unsent
from wslessons.serving import start_task

__all__ = ["SharedRoom", "SharedRooms"]

logger = logging.getLogger(__name__)

LATEST = 1e11
"""A time that pages and programs can still write as a date."""
MOST_TEXT = 2**17
"""Characters of a message from elsewhere."""
MOST_ID = 64

CATCH_UP = 2.0
"""Seconds for which one who comes from another server waits until this one has read as far."""
RESTART = 1012, "the room begins anew"
"""Close code for those whose room's log is no more (IANA's registry: service restart)."""
TRY_AGAIN = 1013
"""Close code for those who can't come in now (IANA's registry: try again later)."""


class SharedRecord(Record, eq=False):
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
    """

    def __init__(self, path: str, capacity: int, bus: Bus) -> None:
        super().__init__(path, capacity)
        self.epoch = bus.epoch
        self.ended = False
        """Whether the bus's log has begun anew, so that this room's numbers mean nothing."""
        self._bus = bus
        self._json = SharedJson(self.number)
        self._gone: Recent[None] = Recent(IDS)
        """Connections that have left or are gone with their server, so that it is told once."""
        kept = [item for _, item in bus.items() if isinstance(item, Event | Gap)]
        kept = [item for item in kept if item.room in (path, None)]
        self._newest = bus.newest(path)
        """Number of the newest event in the log, or while that is empty, one after which nothing
        has happened."""
        if kept:
            self._newest = kept[0].offset if kept[0].room is None else kept[0].prev
        # A client of another server may resume in what the bus has kept.
        for item in kept:
            self.take(item)

    def codec(self, codec: TextCodec | JsonCodec) -> TextCodec | JsonCodec:
        """Return how this room's events look in one of the two protocols."""
        return self._json if isinstance(codec, JsonCodec) else codec

    # Whoever comes, from here or from another server.

    async def admit(self, hello: Hello, first: int = 0) -> Admission:
        """Return where somebody begins, who may have seen more than this server has read yet.

        Args:
            hello: as for `Room.admit`.
            first: as for `Room.admit`.

        Returns:
            The same.

        Raises:
            Denied: the room's life is over, or this server can't be sure that it isn't.
        """
        log, since, bus = self.log, hello.since, self._bus
        elsewhere = bool(hello.epoch) and hello.epoch != self.epoch
        if since is None or (elsewhere and not bus.has_log):
            # Without a log each server has a life of its own, and keeps what they heard elsewhere.
            cursor = log.subscribe()
            return Admission(cursor, self.number(cursor.offset), since is not None)
        connected = bus.status.state == "connected"
        # One of the two lives is over. Were it this one, what they have heard would come again.
        if elsewhere and not (connected and await self._is_current()):
            raise Denied("the room may have begun anew: try again.", code=TRY_AGAIN)
        unheard_of = not elsewhere and connected and not bus.has_read(self.path, since)
        if unheard_of and bus.has_log:
            try:
                async with asyncio.timeout(CATCH_UP):
                    await bus.reached(self.path, since)
                unheard_of = False
            except TimeoutError:
                # Nobody can have seen what is not in the log, unless this server is the one that is
                # behind, and has not noticed.
                unheard_of = await self._is_current() and not bus.has_read(self.path, since)
        if self.ended:
            raise Denied(RESTART[1], code=RESTART[0])
        gap = elsewhere or since < self.number(log.oldest - 1) or unheard_of
        # The number that is proved is one of another life then.
        after = 0 if elsewhere else first if gap else since
        later = sum(record.event.offset > after for record in log)
        cursor = log.subscribe(since=log.offset - later)
        return Admission(cursor, self.number(cursor.offset) if gap else since, gap)

    async def _is_current(self) -> bool:
        """Return whether the bus is sure in time which life of its log is the current one."""
        try:
            async with asyncio.timeout(CATCH_UP):
                await self._bus.confirm()
        except (TimeoutError, UserError):
            return False
        return True

    def number(self, offset: int) -> int:
        """Return the bus's number of what stands at `offset` of the room's own log.

        Args:
            offset: a place in the room's own log.

        Returns:
            The number.
        """
        for record in islice(self.log, max(0, offset + 1 - self.log.oldest), None):
            assert isinstance(record, SharedRecord)
            return record.prev
        return self._newest

    def enter(self, id: str, name: str) -> tuple[int, str] | None:
        """Add somebody and tell everyone, the newcomer too, unless too much waits."""
        if self.ended:
            return RESTART
        # First, so that whoever hears of the newcomer knows where they are.
        self._bus.enter(self.path, id, name)
        try:
            return super().enter(id, name)
        except UserError as exc:
            self._bus.leave(self.path, id)
            del self.members[id]
            return TRY_AGAIN, str(exc)

    def leave(self, id: str) -> None:
        """Remove somebody and tell everyone who is left."""
        self._bus.leave(self.path, id)
        self.fanout.leave(id)
        self._announce(Left(self.members.pop(id)), id)

    def roster(self) -> tuple[list[str], int]:
        """Return the first names, this server's first, and how many there are on all servers."""
        names, count = super().roster()
        others, more = self._bus.members(self.path)
        return names + list(islice(others.values(), ROSTER - len(names))), count + more

    def say(
        self, id: str, text: str, message_id: str = "", session: str = ""
    ) -> Ack | Error | None:
        """Publish what `id` says, unless the session has published that message before."""
        try:
            return super().say(id, text, message_id, session)
        except UserError as exc:
            return Error("refused", str(exc), message_id)

    def _publish(self, event: RoomEvent, origin: str = "", key: str = "") -> int:
        event.time = time.time()
        try:
            offset = self._bus.publish(Event(self.path, event, origin, key))
        except UserError:
            self._published.pop(key, None)
            raise
        if offset:
            # The room had forgotten it, and the bus has not.
            self._published[key] = offset
        return offset

    def _announce(self, event: RoomEvent, connection: str = "") -> None:
        """Publish what became of somebody who had come in, however much waits for the broker."""
        event.time = time.time()
        with contextlib.suppress(UserError):  # the bus was stopped
            self._bus.publish(Event(self.path, event, connection), force=True)

    # What the bus delivers.

    def take(self, item: Event | Gap) -> None:
        """Put what the bus delivers into the log, for everyone to get.

        Args:
            item: which is for this room.
        """
        if isinstance(item, Gap):
            if item.key:
                # Whoever asks again, as they do after such a notice, is answered.
                self._remember(item.key, item.offset)
            elif item.count is None:
                # Who is gone may have been said in what is lost. What was said there by somebody of
                # ours is lost without a word of the broker: whoever asks again, says it again.
                self._gone.clear()
                waiting = [key for key, known in self._published.items() if isinstance(known, str)]
                for key in waiting:
                    del self._published[key]
            self._append(Missed(item.count, item.offset or self._newest))
            return
        asked = self._published.get(item.key)
        if item.key:
            self._remember(item.key, item.offset)
        try:
            happened = _decode(item)
        except ValueError as exc:
            logger.info("ignored an event that is none of the chat's: %s", exc)
            return
        # Numbers that the room ignores are in no `prev`, or they would look like gaps.
        happened.offset, happened.prev = item.offset, self._newest
        if isinstance(happened, Message):
            # It may have been repeated since, on another connection.
            self._append(happened, asked if isinstance(asked, str) else item.connection)
        elif isinstance(happened, Joined):
            self._gone.pop(item.connection, None)
            self._append(happened)
        elif item.connection not in self._gone:
            self._append(happened)
            if item.connection:
                self._gone[item.connection] = None
            if item.connection in self.members:
                # Others could not hear us, and took this one for gone.
                self._announce(Joined(self.members[item.connection]), item.connection)

    def forget(self, key: str) -> str:
        """Forget what never came; return the connection that waits for it, if any.

        Args:
            key: the message's.

        Returns:
            The connection's id, empty if nobody waits.
        """
        asked = self._published.pop(key, "")
        return asked if isinstance(asked, str) else ""

    def gone(self, connection: str, name: str) -> None:
        """Tell that somebody is gone with their server.

        Args:
            connection: the id.
            name: what the others call them.
        """
        if self._bus.has_log:
            # All other servers say so too, and the first is heard.
            self._announce(Left(name), connection)
        else:
            left = Left(name, time=time.time())
            self._bus.publish_here(Event(self.path, left, connection))

    def back(self, connection: str, name: str) -> None:
        """Tell that somebody is back with their server, which had only been cut off.

        Args:
            connection: the id.
            name: what the others call them.
        """
        if not self._bus.has_log:
            joined = Joined(name, time=time.time())
            self._bus.publish_here(Event(self.path, joined, connection))

    def _append(self, event: RoomEvent | Missed, origin: str = "") -> None:
        record = SharedRecord(event, origin, size=memory(event), prev=self._newest)
        self._newest = event.offset
        self.fanout.send(record)


class SharedRooms:
    """The rooms of one server that are on a bus, each of which is given what is for it.

    Args:
        bus: one that is running when the first room is opened.
        rooms: all rooms of the server by path.
        forget: called with the path of a room that the bus has ended.
    """

    def __init__(self, bus: Bus, rooms: Mapping[str, Room], forget: Callable[[str], None]) -> None:
        self._bus, self._rooms, self._forget = bus, rooms, forget
        self._listening = False
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self, path: str, capacity: int) -> SharedRoom:
        """Return a new room that keeps `capacity` events, with what the bus has kept of it.

        Args:
            path: the room's.
            capacity: events that it keeps.

        Returns:
            The room.
        """
        if not self._listening:
            if self._bus.status.state == "closed" or not self._bus.started:
                raise RuntimeError("the chat's bus does not run: async with from_url(...) as bus")
            self._bus.listen(self._take)
            self._listening = True
        return SharedRoom(path, capacity, self._bus)

    def _take(self, item: Item) -> None:
        match item:
            case Event(room=path) | Gap(room=str(path)):
                for room in self._at(path):
                    room.take(item)
            case Gap():
                for room in self._all():
                    room.take(item)
            case NodeDown(rooms=rooms):
                for path, members in rooms.items():
                    for room in self._at(path):
                        for connection, name in members.items():
                            room.gone(connection, name)
            case NodeUp(rooms=rooms):
                for path, members in rooms.items():
                    for room in self._at(path):
                        for connection, name in members.items():
                            room.back(connection, name)
            case Unsent(event=event, why=why):
                for room in self._at(event.room):
                    self._refuse(room, event, why)
            case NewEpoch():
                for room in self._all():
                    self._end(room)
            case Status(state=state, why=why):
                logger.info("the bus is %s%s", state, f": {why}" if why else "")

    def _at(self, path: str) -> list[SharedRoom]:
        """Return the room at `path`, if there is one."""
        room = self._rooms.get(path)
        return [room] if isinstance(room, SharedRoom) else []

    def _all(self) -> list[SharedRoom]:
        return [room for room in self._rooms.values() if isinstance(room, SharedRoom)]

    def _end(self, room: SharedRoom) -> None:
        """End a room whose numbers mean nothing now; its members may come back to a new one."""
        self._forget(room.path)
        room.ended = True
        for connection in room.connections.values():
            self._do(connection.close(*RESTART))

    def _refuse(self, room: SharedRoom, event: Event, why: str) -> None:
        """Answer whoever said what the broker will never take."""
        asked = room.forget(event.key) or event.connection
        connection = room.connections.get(asked)
        if isinstance(event.data, Message) and connection is not None:
            text = f"this can't be said here: {why}."
            codec = room.codec(JSON if connection.subprotocol == SUBPROTOCOL else TEXT)
            answer = codec.answer(Error("refused", text, event.data.id))
            self._do(_send(connection, answer))

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what nobody waits for."""
        task = start_task(work, "telling a member what the bus has done")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _send(connection: Connection, payload: bytes) -> None:
    with contextlib.suppress(Gone):
        await connection.send(payload)


def _decode(event: Event) -> RoomEvent:
    """Return what happened.

    Raises:
        ValueError: no server of ours would publish it.
    """
    if isinstance(event.data, RoomEvent):
        # The one who published it may change its numbers while others still read them.
        return msgspec.structs.replace(event.data)
    happened = msgspec.convert(event.data, RoomEvent)
    # Whoever can reach the broker can publish.
    if not 0 <= happened.time <= LATEST:
        raise ValueError("no such time")
    if not isinstance(happened, Message):
        happened.name = clean_name(happened.name)
        return happened
    happened.sender, happened.text = clean_name(happened.sender), clean_text(happened.text)
    if not happened.text or len(happened.text) > MOST_TEXT or len(happened.id) > MOST_ID:
        raise ValueError("a text that is blank or too long")
    return happened
