"""What travels between servers, and what a reader of a bus is given.

On the wire a message is a JSON array of `Event`, `Beat` and `PresenceChange`, told apart by
``type``, so that what became ready in one turn of the loop is one message, and ``nats sub`` shows a
person what is going on. A reader gets `Event`, and, in its place in the order, whatever else there
is to know.

Whoever can reach the broker can publish, so what comes from it is checked as what comes from a
socket is: the lengths of texts and the range of numbers here, what they mean by those who use them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from wslessons.errors import UserError

__all__ = [
    "Beat",
    "Counts",
    "CountsWanted",
    "Event",
    "Gap",
    "Item",
    "Members",
    "NewEpoch",
    "NodeDown",
    "NodeUp",
    "Occupancy",
    "PresenceChange",
    "Status",
    "Unsent",
    "Wire",
    "check",
    "count_events",
    "decode",
    "encode",
    "join",
]

MOST_TEXT = 256
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""What a JSON reader of any kind can count with."""
Text = Annotated[str, msgspec.Meta(max_length=MOST_TEXT)]
"""The name of a server, a room or a connection, or a key."""
Part = Annotated[int, msgspec.Meta(ge=1, le=1000)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
Members = dict[str, str]
"""Names by connection id."""


class Event(msgspec.Struct, tag="event", omit_defaults=True, gc=False):
    """Something that happened in a room.

    The publisher gives `room`, `data` and perhaps `connection` and `key`; `data` is anything
    JSON can hold. What the bus fills in when it delivers is not on the wire.
    """

    room: Text
    data: Any = None
    connection: Text = ""
    """Id of the connection it came from."""
    key: Text = ""
    """An event whose key has been published before is delivered to nobody."""
    node: Text = ""
    """The server it came from; filled in by `publish`, as are the next two."""
    seq: Count = 0
    """Its sequence number among all events of that server."""
    nth: Count = 0
    """Its sequence number among that server's events in this room, where events can get lost."""
    offset: int = 0
    """Its number in the log; filled in on delivery, as are the next two."""
    prev: int = 0
    """No event of this room has a number between this one and `offset`."""
    epoch: str = ""
    """The life of the log in which `offset` means something."""

    @property
    def id(self) -> str:
        """Different for each event."""
        return f"{self.node}:{self.seq}"


class Gap(msgspec.Struct):
    """`count` events are gone for this reader; None where nobody can know how many."""

    count: int | None
    room: str | None = None
    """Where they happened; None for anywhere."""
    node: str = ""
    """The server they came from, where that is known."""
    offset: int = 0
    """The number up to which they are gone; 0 where losses have no number."""
    prev: int = 0
    key: str = ""
    """That of what is gone as it was delivered before, so that its sender can be answered."""


class Status(msgspec.Struct, frozen=True):
    """How the bus stands with its broker."""

    state: Literal["connected", "reconnecting", "closed"]
    why: str = ""


class Unsent(msgspec.Struct):
    """The broker will never take an event of this server, so nobody gets it."""

    event: Event
    why: str


class NewEpoch(msgspec.Struct):
    """The log has begun anew: its old numbers mean nothing any more."""

    epoch: str


class NodeDown(msgspec.Struct):
    """A server has given no sign of life for so long that its members count as gone."""

    node: str
    rooms: dict[str, Members]


class NodeUp(msgspec.Struct):
    """A server that counted as gone is back, with its members."""

    node: str
    rooms: dict[str, Members]


Item = Event | Gap | Status | Unsent | NewEpoch | NodeDown | NodeUp


class Occupancy(msgspec.Struct, omit_defaults=True):
    """One server's members in one room: the first by name, and how many there are."""

    members: Annotated[dict[Text, Text], msgspec.Meta(max_length=1000)]
    count: Count


class Beat(msgspec.Struct, tag="beat", omit_defaults=True):
    """A server's sign of life, with its members; in several parts when there are many rooms."""

    node: Text
    rooms: Annotated[dict[Text, Occupancy], msgspec.Meta(max_length=1000)]
    number: Count
    """The beat's sequence number, the same in all its parts."""
    seq: Count = 0
    """The sequence number of the server's newest event."""
    part: Part = 1
    """Which of its parts this is."""
    parts: Part = 1
    """How many there are: a room in none of them is empty."""
    ask: bool = False
    """Whether the server is new and wants everybody's beat at once."""
    gone: bool = False
    """Whether the server stops, and its members go with it."""


class PresenceChange(msgspec.Struct, tag="presence", omit_defaults=True):
    """Somebody came, with a name, or went, with none; the next beat says the same again."""

    node: Text
    room: Text
    connection: Text
    name: Text = ""


class CountsWanted(msgspec.Struct, tag="counts wanted", omit_defaults=True):
    """A server misses events of another, and asks in which rooms they were."""

    node: Text
    of: Text
    """The server that is asked; all of them if empty."""
    since: Count
    """The sequence number up to which it is sure to miss none."""
    age: Seconds = 0
    """If it does not know what had been said before it came: how long it has listened."""


class Counts(msgspec.Struct, tag="counts", omit_defaults=True):
    """How many events a server has published in each room; in several parts if that is much."""

    node: Text
    seq: Count
    """The sequence number of its newest event."""
    since: Count
    """Rooms in which nothing happened after this sequence number are left out."""
    rooms: Annotated[dict[Text, Count], msgspec.Meta(max_length=1000)]
    part: Part = 1
    parts: Part = 1
    to: Text = ""
    """The server that has asked how it was when that one came, if this is the answer."""
    age: Seconds = 0
    """How long that one had listened when it asked."""
    known: bool = True
    """Whether that is remembered; else this is how it was at the earliest moment that is."""


Wire = Event | Beat | PresenceChange | CountsWanted | Counts

encode = msgspec.json.Encoder().encode
"""Return one part of a message as JSON."""
_decoder: msgspec.json.Decoder[list[Wire]] = msgspec.json.Decoder(list[Wire])


def join(parts: Sequence[bytes]) -> bytes:
    """Make one message of encoded parts.

    Args:
        parts: encoded, one at least.

    Returns:
        The message.
    """
    return b"[" + b",".join(parts) + b"]"


def decode(data: bytes) -> list[Wire]:
    """Return the parts of a message.

    Args:
        data: the message.

    Returns:
        Its parts.

    Raises:
        ValueError: it is none of ours.
    """
    try:
        return _decoder.decode(data)
    except RecursionError:
        raise ValueError("too many brackets within each other") from None


def count_events(data: bytes) -> int:
    """Return how many numbers an entry of a log takes, at least one.

    Args:
        data: the entry.

    Returns:
        The count.
    """
    try:
        return max(1, len(decode(data)))
    except ValueError:
        return 1


def check(event: Event) -> None:
    """Refuse an event that others would not take.

    Args:
        event: which is to be published.

    Raises:
        UserError: a text of it is too long.
    """
    for name in ("room", "connection", "key"):
        if len(getattr(event, name)) > MOST_TEXT:
            raise UserError(f"the {name} of an event has at most {MOST_TEXT} characters.")
