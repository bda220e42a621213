"""What a room that is shared has in its log, and how it looks on the wire."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from wslessons.chat.codecs import JsonForm, Record, TextForm
from wslessons.chat.events import Ack, Message, Missed, RoomEvent, encode

__all__ = ["SharedJson", "SharedRecord", "SharedText"]


class SharedRecord(Record):
    """A record with its place in the bus's numbering."""

    __slots__ = ("lost", "number", "prev", "told")

    def __init__(
        self, event: RoomEvent | Missed, origin: str = "", *, told: bool = False, lost: str = ""
    ) -> None:
        # Only a log on a bus has gaps in it, and only its own forms see them.
        super().__init__(cast(RoomEvent, event), origin)
        self.told = told
        """Whether it has been told before, without a number."""
        self.lost = lost
        """Why nobody else will hear it: then it is only for the one who said it."""
        self.number = event.offset
        self.prev = 0


class SharedText(TextForm):
    """Plain text; numbers are no part of it."""

    def encode(self, item: Record) -> bytes:
        """Return the line for everybody, if there is anything to say."""
        assert isinstance(item, SharedRecord)
        if item.told or item.lost:
            return b""
        if isinstance(item.event, Missed):
            return self.missed(item.event.count, 0)
        return super().encode(item)

    def own(self, item: Record) -> bytes | None:
        """Whoever said it knows it, unless it got lost."""
        lost = isinstance(item, SharedRecord) and item.lost
        return self.system(lost) if lost else None


class SharedJson(JsonForm):
    """`chat.v1+json` with the numbers of the bus.

    In: `number`, which returns the bus's number of a place in the room's own log.
    """

    def __init__(self, number: Callable[[int], int]) -> None:
        self._number = number

    def encode(self, item: Record) -> bytes:
        """Return the event for everybody, or only its number if they have had it."""
        assert isinstance(item, SharedRecord)
        if item.lost:
            return b""
        return encode(Missed(0, item.number)) if item.told else super().encode(item)

    def own(self, item: Record) -> bytes | None:
        """Return the acknowledgement of what was said, once it has a number."""
        assert isinstance(item, SharedRecord)
        event = item.event
        if not isinstance(event, Message):
            return None
        if item.lost:
            return self.error("lost", item.lost, event.id)
        if not item.number:
            return None
        return encode(Ack(event.id, item.number, event.time, item.prev))

    def missed(self, count: int | None, offset: int) -> bytes:
        """Return the notice of a gap; `offset` is one of the room's own log."""
        return super().missed(count, self._number(offset))
