"""A reader of a bus."""

from __future__ import annotations

from typing import Protocol, Self

from wslessons.chat.channel import Closed, Lagged, Receiver
from wslessons.scaling.bus.items import Event, Gap, Item, Numbered

__all__ = ["Bus", "Subscription", "offset_of"]


class Bus(Protocol):
    """What a reader needs of its bus."""

    missed: int


def offset_of(item: Item) -> int:
    """Return an item's number in the log, 0 if it has none."""
    if isinstance(item, Numbered):
        return item.event.offset
    return item.offset if isinstance(item, Event | Gap) else 0


class Subscription:
    """A reader of a bus: an async iterator of `Item`, which ends when the bus is stopped.

    One that reads too slowly gets a `Gap` with the exact number of items it lost.
    """

    def __init__(self, bus: Bus, receiver: Receiver[Item], *, gap: bool = False) -> None:
        self._bus, self._receiver = bus, receiver
        self._gap = [Gap(None)] if gap else []

    @property
    def place(self) -> int:
        """Its place in the local copy (see `Backplane.items`)."""
        return self._receiver.offset

    async def recv(self) -> Item:
        """Wait for the next item. Raises `wslessons.chat.channel.Closed`. Cancelling is safe."""
        if self._gap:
            return self._gap.pop()
        try:
            return await self._receiver.recv()
        except Lagged as lag:
            self._bus.missed += lag.skipped
            return Gap(lag.skipped)

    def take_ready(self) -> list[Item]:
        """Return all that is ready. Raises `wslessons.chat.channel.Closed`."""
        items: list[Item] = [*self._gap]
        self._gap = []
        try:
            return items + self._receiver.take_ready()
        except Lagged as lag:
            self._bus.missed += lag.skipped
            return [*items, Gap(lag.skipped), *self._receiver.take_ready()]

    def close(self) -> None:
        """Stop reading. Idempotent."""
        self._receiver.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        try:
            return await self.recv()
        except Closed:
            raise StopAsyncIteration from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
