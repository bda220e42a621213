"""A room: members who hear each other, and the log of what happened among them.

Whatever happens, somebody comes, talks or goes, is one record, and goes into the room's log (a
`Channel`) for everyone to get, at once. Where several servers share the room, a bus stands between,
which puts the records of all of them in order: see `wslessons.scaling.bus.rooms`.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from wslessons.chat.channel import Channel, Receiver
from wslessons.chat.codecs import JsonCodec, Record, TextCodec
from wslessons.chat.events import Ack, Error, Hello, Joined, Left, Message, Missed, RoomEvent
from wslessons.chat.fanout import Fanout

if TYPE_CHECKING:
    from wslessons.chat.connection import Connection

__all__ = ["Admission", "Room"]

ROSTER = 100
"""Names in one roster; beyond them it only counts, or 2,000 joining would be sent 2 million."""
OVERHEAD = 600
"""Bytes of memory that the shortest event takes in a log."""
IDS = 4096
"""Ids of published messages that a room remembers."""


# Under which a message is known: with the session's length, so that no two pairs make one key.
_KEY = "{}:{}/{}".format


def memory(event: RoomEvent | Missed) -> int:
    """Return about how many bytes of memory an event takes in a log, its frames included."""
    if isinstance(event, Message):
        # The text as Python has it, one to four bytes a character, and as UTF-8 for each codec.
        return OVERHEAD + sys.getsizeof(event.text) + 2 * len(event.text)
    return OVERHEAD


class Admission(NamedTuple):
    """Where a member begins."""

    cursor: Receiver[Record]
    """Its place in the room's log."""
    offset: int
    """The number after which its events begin, for its `welcome`."""
    gap: bool
    """Whether an unknown number of events is missing before that."""


class Room:
    """Members who hear each other, and the log of what happened among them.

    Args:
        path: the request's path by which the room is known.
        capacity: events kept in its log.
    """

    def __init__(self, path: str, capacity: int = 256) -> None:
        self.path = path
        self.epoch = secrets.token_hex(8)
        """Name of this life of the room: offsets mean nothing in another."""
        self.log: Channel[Record] = Channel(capacity)
        self.fanout: Fanout[Record] = Fanout(self.log)
        self.members: dict[str, str] = {}
        """Names by connection id, in the order in which they came."""
        self.visitors = 0
        """Connections that are here, those on their way in too."""
        self.connections: dict[str, Connection] = {}
        """The connections of `members`."""
        self._published: OrderedDict[str, int | str] = OrderedDict()
        """By session and id of a message: its offset, or while it has none, whom to acknowledge."""

    async def admit(self, hello: Hello, first: int = 0) -> Admission:
        """Begin for somebody who says `hello`: now, or after what they have seen.

        When `hello.epoch` is over nobody knows what was missed: then they begin at the oldest kept.

        Args:
            hello: what they said; of its epoch only the life of the room.
            first: a number of this life; what is not after it is not for them.

        Returns:
            A cursor, the first offset, and whether something may be missing between.
        """
        log, since, gap = self.log, hello.since, False
        if since is None:
            cursor = log.subscribe()
        elif hello.epoch and hello.epoch != self.epoch:
            cursor, gap = log.subscribe(since=log.oldest - 1), True
        else:
            cursor = log.subscribe(since=min(max(since, first), log.offset))
        return Admission(cursor, cursor.offset, gap)

    def codec(self, codec: TextCodec | JsonCodec) -> TextCodec | JsonCodec:
        """Choose how this room's events look in one of the two protocols.

        Args:
            codec: that of the protocol.

        Returns:
            The codec to use in this room.
        """
        return codec

    def enter(self, id: str, name: str) -> tuple[int, str] | None:
        """Add somebody and tell everyone, the newcomer too.

        Args:
            id: the newcomer's connection.
            name: what the others call them.

        Returns:
            None, or the close code and the reason for which they can't come in.
        """
        self.members[id] = name
        self._publish(Joined(name))
        return None

    def leave(self, id: str) -> None:
        """Remove somebody and tell everyone who is left.

        Args:
            id: the connection of the one who leaves.
        """
        self.fanout.leave(id)
        self._publish(Left(self.members.pop(id)))

    def say(
        self, id: str, text: str, message_id: str = "", session: str = ""
    ) -> Ack | Error | None:
        """Publish what `id` says, unless the session has published that message before.

        Args:
            id: the connection of the member who says it.
            text: what it says.
            message_id: the id that the member gave it, for the acknowledgement.
            session: where a message with an id is published only once.

        Returns:
            What to answer at once; None where the answer comes with the event itself.
        """
        key = _KEY(len(session), session, message_id) if message_id else ""
        if key:
            known = self._published.get(key)
            if isinstance(known, int):
                # The acknowledgement is of the past, and not in the log again.
                return Ack(message_id, known, time.time())
            # As `_remember`, without a call: this is the way of every line.
            self._published[key] = id
            if known is not None:
                return None
            if len(self._published) > IDS:
                self._published.popitem(last=False)
        offset = self._publish(Message(self.members[id], text, message_id), id, key)
        return Ack(message_id, offset, time.time()) if offset else None

    def announce(self, sender: str, text: str) -> None:
        """Publish what somebody, who need not be here, says.

        Args:
            sender: the name under which it appears.
            text: what is said.
        """
        self._publish(Message(sender, text))

    def was_said(self, message_id: str, session: str) -> bool:
        """Tell whether a message is known already, so that nobody has to judge it again.

        Args:
            message_id: the id that the member gave it.
            session: the member's session.

        Returns:
            Whether it is.
        """
        return _KEY(len(session), session, message_id) in self._published

    def take_note(self, message_id: str, session: str) -> None:
        """Remember a message that was taken and is not for the room: a repeat is none either.

        Args:
            message_id: the id that the member gave it.
            session: the member's session.
        """
        self._remember(_KEY(len(session), session, message_id), 0)

    def roster(self) -> tuple[list[str], int]:
        """Return the first names, and how many there are."""
        return list(islice(self.members.values(), ROSTER)), len(self.members)

    def _remember(self, key: str, known: int | str) -> None:
        """Keep what is known of a message, and forget the oldest of too many."""
        self._published[key] = known
        if len(self._published) > IDS:
            self._published.popitem(last=False)

    def _publish(self, event: RoomEvent, origin: str = "", key: str = "") -> int:
        """Give the event its number and put it into the log, for everyone to get.

        Returns:
            0, or the number under which it had been published before.
        """
        event.time = time.time()
        event.offset = self.log.offset + 1
        if key:
            self._published[key] = event.offset
        self.fanout.send(Record(event, origin, key, size=memory(event)))
        return 0
