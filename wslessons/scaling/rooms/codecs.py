"""What a room that is shared has in its log, and how it looks on the wire."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from wslessons.chat.codecs import JsonCodec, Record, TextCodec
from wslessons.chat.events import Ack, Error, Message, Missed, RoomEvent, encode

__all__ = ["SharedJson", "SharedRecord", "SharedText"]


@dataclass(slots=True, eq=False)
class SharedRecord(Record):
    """A record with its place in the bus's numbering."""

    # Only a log on a bus has gaps in it, and only the codecs below see them.
    event: RoomEvent | Missed  # ty: ignore[incompatible-attribute-override]
    told: bool = False
    """Whether it has been told before, without a number."""
    lost: str = ""
    """Why nobody else will hear it: then it is only for the one who said it."""
    prev: int = 0
    number: int = field(init=False)

    def __post_init__(self) -> None:
        self.number = self.event.offset


class SharedText(TextCodec):
    """Plain text; numbers are no part of it."""

    def encode(self, item: Record) -> bytes:
        """Return the line for everybody, if there is anything to say."""
        assert isinstance(item, SharedRecord)
        if item.told or item.lost:
            return b""
        if isinstance(item.event, Missed):
            return self.missed(item.event.count, 0)
        return super().encode(item)

    def to_sender(self, item: Record) -> bytes | None:
        """Return the notice that what was said got lost, or nothing."""
        lost = isinstance(item, SharedRecord) and item.lost
        return self.system(lost) if lost else None


class SharedJson(JsonCodec):
    """The subprotocol ``chat.v1+json`` with the numbers of the bus.

    Args:
        number: returns the bus's number of a place in the room's own log.
    """

    def __init__(self, number: Callable[[int], int]) -> None:
        self._number = number

    def encode(self, item: Record) -> bytes:
        """Return the event for everybody, or only its number if they have had it."""
        assert isinstance(item, SharedRecord)
        if item.lost:
            return b""
        return encode(Missed(0, item.number)) if item.told else super().encode(item)

    def to_sender(self, item: Record) -> bytes | None:
        """Return the acknowledgement of what was said, once it has a number."""
        assert isinstance(item, SharedRecord)
        event = item.event
        if not isinstance(event, Message):
            return None
        if item.lost:
            return self.answer(Error("lost", item.lost, event.id))
        if not item.number:
            return None
        return encode(Ack(event.id, item.number, event.time, item.prev))

    def missed(self, count: int | None, offset: int) -> bytes:
        """Return the notice of a gap; `offset` is one of the room's own log."""
        return super().missed(count, self._number(offset))
