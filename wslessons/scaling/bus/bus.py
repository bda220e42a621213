"""The bus: what a server needs of it, whichever broker is behind it, and its readers.

A bus keeps a local, bounded copy of the shared log (a `Channel`), and its readers are cursors in
that copy. So a slow reader costs nothing and is told what it lost, as in lesson 2. `Bus` has all
that needs no broker; `Memory` needs nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self, TypeVar

import msgspec

from wslessons.chat.channel import Channel, Lagged, Receiver
from wslessons.chat.room import Room
from wslessons.errors import UserError
from wslessons.scaling.bus.items import Event, Gap, Item, Members, NewEpoch, Status

__all__ = ["Bus", "Memory", "Recent", "Subscription"]

logger = logging.getLogger(__name__)

V = TypeVar("V")

ORDERS = ""
"""The room that is none: what happens there is for the servers themselves."""
ROOMS = 10_000
"""Rooms of which the newest number is remembered, and of each server's how many events."""
KEYS = 16_384
"""Keys of published events that are remembered, so that none is delivered twice."""
CLOSED = "the bus is closed: nothing goes out or comes in any more."


class Recent(OrderedDict[str, V]):
    """A dictionary that keeps so many entries: those that were set last.

    Args:
        most: how many.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def __setitem__(self, key: str, value: V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > self.most:
            self.popitem(last=False)


class Bus:
    """A bus: what one server publishes, the readers of all servers get. An async context manager.

    Args:
        node: this server's name. A random part is added to it, since a name is used again when the
            server comes back, or by another one.
        keep: items in the local copy of the log (default 4,096).
    """

    has_log = False
    """Whether the broker keeps and numbers events, the same for all servers."""
    secret: bytes | None = None
    """What signs the proofs of a chat's members, where the log keeps one."""

    def __init__(self, *, node: str = "", keep: int = 4096) -> None:
        self.node = f"{node}-{secrets.token_hex(4)}" if node else secrets.token_hex(4)
        self.epoch = secrets.token_hex(8)
        """The life of the log: its numbers mean nothing in another."""
        self.status = Status("reconnecting", "not started yet")
        self.started = False
        self.missed = 0
        """Events that are known to be gone for this server."""
        self.unsent = 0
        """Events of this server that are known to be gone for the others."""
        self.reconnects = 0
        """How often the broker was reached again after it had been lost."""
        self._channel: Channel[Item] = Channel(keep)
        self._seq = 0
        """Sequence number of the newest event that was published here."""
        self._newest: OrderedDict[str, int] = OrderedDict()
        """The newest number in each room."""
        self._start = 0
        """The number after which reading began, or up to which we forgot what quiet rooms had."""
        self._at = 0
        """The newest number read."""
        self._kept: deque[int] = deque()
        """The numbers of what is in the local copy, 0 for what has none."""
        self._fallen = 0
        """The newest number that is not in the local copy any more."""
        self._born = 0
        """The place in the local copy after which this life of the log begins."""
        self._keys: Recent[int] = Recent(KEYS)
        """By key of an event that was delivered, its number."""
        self._listeners: list[Callable[[Item], object]] = []
        self._awaited: list[tuple[int, asyncio.Future[None]]] = []

    # What a server uses.

    @property
    def backlog(self) -> int:
        """How many events the broker has not acknowledged."""
        return 0

    @property
    def lag(self) -> float:
        """How many seconds this server's events take to where all can get them: see `Remote`."""
        return 0.0

    def stats(self) -> dict[str, float]:
        """Count what an operator watches; ``GET /metrics`` of `wslessons.web` shows it.

        Returns:
            `connected` (1 or 0), `backlog`, `lag` in seconds, and what happened since the start:
            `missed`, `unsent` and `reconnects`.
        """
        return {
            "connected": float(self.status.state == "connected"),
            "backlog": self.backlog,
            "lag": self.lag,
            "missed": self.missed,
            "unsent": self.unsent,
            "reconnects": self.reconnects,
        }

    def publish(self, event: Event, *, force: bool = False) -> int:
        """Take a copy of an event on its way to all readers of all servers. Never waits.

        Args:
            event: what happened; the bus says in the copy where it comes from.
            force: take it even if too many wait for the broker.

        Returns:
            The number of the event that was delivered with the same key, which makes this one
            superfluous; else 0.

        Raises:
            UserError: too many wait, the event is too large or no JSON, or the bus was stopped.
        """
        self._check_open()
        if event.key in self._keys:
            return self._keys[event.key]
        changes = {"node": self.node, "seq": self._seq + 1, "nth": 0, "offset": 0, "prev": 0}
        self._send(msgspec.structs.replace(event, epoch="", **changes), force)
        return 0

    def publish_here(self, event: Event) -> None:
        """Deliver an event to this server's readers only.

        Not on a bus with a log, where it could have no number.

        Args:
            event: what happened.

        Raises:
            UserError: the bus was stopped.
        """
        self._check_open()
        self._deliver_here(msgspec.structs.replace(event, node=self.node))

    def subscribe(self, since: int | None = None) -> Subscription:
        """Return a reader, which first gets a `Gap` if something it wants is no longer kept here.

        Args:
            since: the number after which it begins; None for now, 0 for all that is kept.

        Returns:
            The reader.
        """
        if since is None:
            return Subscription(self, self._channel.offset)
        place = max(self._channel.oldest - 1, self._born)
        for local, item in self.items():
            if 0 < _offset_of(item) <= since:
                place = local
        return Subscription(self, place, gap=max(self._fallen, self._start) > since)

    async def flush(self, most: int = 0) -> None:
        """Wait until few events wait for the broker. Bound it with a timeout.

        Args:
            most: how many may still wait; with 0 the broker has them all.

        Raises:
            UserError: the bus was stopped before.
        """

    async def reached(self, room: str, offset: int) -> None:
        """Wait until this server has read up to a number. Bound it with a timeout.

        Args:
            room: the room whose number it is.
            offset: the number.

        Raises:
            UserError: the bus was stopped before.
        """
        if not self.has_read(room, offset):
            self._check_open()
            waiter = offset, asyncio.get_running_loop().create_future()
            self._awaited.append(waiter)
            try:
                await waiter[1]
            finally:
                self._awaited.remove(waiter)

    def has_read(self, room: str, offset: int) -> bool:
        """Tell whether this server has read up to a number of a room.

        Args:
            room: the room's path.
            offset: a number of it.

        Returns:
            Whether it has.
        """
        return self._at >= offset

    async def confirm(self) -> None:
        """Wait until it is sure that `epoch` is the life in which events are numbered now.

        A server may not know yet that the log has begun anew. Bound it with a timeout.

        Raises:
            UserError: too much waits for the broker, or the bus was stopped.
        """

    def items(self) -> Iterator[tuple[int, Item]]:
        """Iterate over the local copy of this life of the log, the oldest item first.

        Yields:
            Each item with its place.
        """
        for place, item in enumerate(self._channel, self._channel.oldest):
            if place > self._born:
                yield place, item

    def newest(self, room: str) -> int:
        """Look up a number after which nothing has happened in a room.

        Args:
            room: the room's path.

        Returns:
            The number.
        """
        return self._newest.get(room, self._start)

    def listen(self, listener: Callable[[Item], object]) -> None:
        """Hand each item from now on to `listener` as soon as there is one.

        Args:
            listener: called within `publish`, or whatever brings the item.
        """
        self._listeners.append(listener)

    def room_factory(
        self, rooms: Mapping[str, Room], forget: Callable[[str], None]
    ) -> Callable[[str, int], Room]:
        """Bring the rooms of a chat server: see `wslessons.chat.server.RoomSource`.

        Args:
            rooms: the chat's, by their paths.
            forget: called with the path of a room that the bus has ended.

        Returns:
            Opens a room, given its path and its capacity in events.
        """
        raise NotImplementedError

    def orders(self, obey: Callable[[Any], None]) -> Callable[[Any], None]:
        """Return what hands something to the chats on all servers, this one included.

        Args:
            obey: called with what any of them hands over; from elsewhere it comes as JSON has it.

        Returns:
            The function that hands it over, however much waits for the broker.
        """

        def take(item: Item) -> None:
            if isinstance(item, Event) and item.room == ORDERS and item.data is not None:
                obey(item.data)

        def order(data: Any) -> None:
            self.publish(Event(ORDERS, data), force=True)

        self.listen(take)
        return order

    # Who is where: see `wslessons.scaling.bus.presence`.

    def enter(self, room: str, connection: str, name: str) -> None:
        """Let the other servers know that somebody is here.

        Args:
            room: the room's path.
            connection: whose id is different for each on all servers.
            name: what the others call them.
        """

    def leave(self, room: str, connection: str) -> None:
        """Let the other servers know that somebody is not here any more.

        Args:
            room: the room's path.
            connection: the id that `enter` was given.
        """

    def members(self, room: str) -> tuple[Members, int]:
        """Look up who is in a room on other servers.

        Args:
            room: the room's path.

        Returns:
            Names by connection id, of some; and how many there are.
        """
        return {}, 0

    # Life.

    async def start_up(self) -> None:
        """Connect.

        Raises:
            UserError: it can't be done; the sentence says why.
        """
        self.started = True
        self._set_status(Status("connected"))

    async def stop(self) -> None:
        """Disconnect; readers get what is left and end. Idempotent."""
        self._set_status(Status("closed"))
        self._channel.close()
        for _, future in self._awaited:
            if not future.done():
                future.set_exception(UserError(CLOSED))

    async def __aenter__(self) -> Self:
        try:
            await self.start_up()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    # For the implementations.

    def _check_open(self) -> None:
        if self._channel.closed:
            raise UserError(CLOSED)

    def _send(self, event: Event, force: bool) -> None:
        """Take an event on its way; raise `UserError` and take nothing if that can't be."""
        raise NotImplementedError

    def _put(self, item: Item, number: int = 0) -> None:
        """Deliver an item, which has this number if any, to this server's readers."""
        channel = self._channel
        if channel.closed:
            return
        self._kept.append(number)
        if len(self._kept) > channel.capacity:
            self._fallen = self._kept.popleft() or self._fallen
        channel.send(item)
        for listener in self._listeners:
            try:
                listener(item)
            except Exception:
                # What one item does to one listener must not end what brings all of them.
                logger.exception("a listener of the bus failed with %r", item)

    def _number(self, event: Event | Gap, room: str, offset: int) -> None:
        """Give an event its place in its room, and remember its key."""
        event.prev, event.offset = self.newest(room), offset
        if event.key:
            self._keys[event.key] = offset
        newest = self._newest
        if room in newest:
            newest[room] = offset
            newest.move_to_end(room)
            return
        newest[room] = offset
        if len(newest) > ROOMS:
            self._start = max(self._start, newest.popitem(last=False)[1])

    def _deliver_here(self, event: Event) -> None:
        """Deliver an event with the next number of this server, where the broker has none."""
        event.epoch = self.epoch
        number = self._channel.offset + 1
        self._number(event, event.room, number)
        self._put(event, number)
        self._progress(number)

    def _progress(self, offset: int) -> None:
        self._at = offset
        for wanted, future in self._awaited:
            if wanted <= offset and not future.done():
                future.set_result(None)

    def _set_status(self, status: Status) -> None:
        before, self.status = self.status, status
        # A broker that is away for long gives many reasons, which would drive out the events.
        if status.state != before.state:
            self._put(status)

    def _begin_anew(self, epoch: str) -> None:
        """Forget the numbers of a log that is no more."""
        self.epoch, self._fallen, self._start, self._at = epoch, 0, 0, 0
        self._born = self._channel.offset
        self._kept = deque([0] * len(self._kept))
        self._newest.clear()
        self._keys.clear()
        self._put(NewEpoch(epoch))


class Memory(Bus):
    """The bus of a single server: it delivers at once, in this process, and nothing else.

    Args:
        node: as for `Bus`.
        keep: as for `Bus`.
    """

    def room_factory(
        self, rooms: Mapping[str, Room], forget: Callable[[str], None]
    ) -> Callable[[str, int], Room]:
        """Return what opens rooms; shared ones would only be a longer way to the log."""
        return Room

    def _send(self, event: Event, force: bool) -> None:
        self._seq = event.seq
        self._deliver_here(event)


class Subscription(Receiver[Item]):
    """A reader of a bus: an async iterator of `Item`, which ends when the bus is stopped.

    One that reads too slowly gets a `Gap` with the exact number of items it lost. `Bus.subscribe`
    makes it.

    Args:
        bus: whose items.
        offset: its place in the local copy (see `Bus.items`).
        gap: whether it begins with a `Gap` of unknown size.
    """

    def __init__(self, bus: Bus, offset: int, *, gap: bool = False) -> None:
        super().__init__(bus._channel, offset)
        self._bus = bus
        self._gap = [Gap(None)] if gap else []

    def recv_nowait(self) -> Item:
        """Return the next item.

        Raises:
            wslessons.chat.channel.Empty: nothing is ready now.
            wslessons.chat.channel.Closed: the bus is stopped, and this reader has had everything.
        """
        if self._gap:
            return self._gap.pop()
        try:
            return super().recv_nowait()
        except Lagged as lag:
            return self._gap_of(lag)

    async def recv(self) -> Item:
        """Wait for the next item. Cancelling is safe.

        Returns:
            The item.

        Raises:
            wslessons.chat.channel.Closed: the bus is stopped, and this reader has had everything.
        """
        if self._gap:
            return self._gap.pop()
        try:
            return await super().recv()
        except Lagged as lag:
            return self._gap_of(lag)

    def take_ready(self) -> list[Item]:
        """Return all that is ready, without waiting.

        Returns:
            The items, the oldest first; none if there is nothing new.

        Raises:
            wslessons.chat.channel.Closed: the bus is stopped, and this reader has had everything.
        """
        items: list[Item] = [*self._gap]
        self._gap = []
        try:
            return items + super().take_ready()
        except Lagged as lag:
            return [*items, self._gap_of(lag), *super().take_ready()]

    def _gap_of(self, lag: Lagged) -> Gap:
        self._bus.missed += lag.skipped
        return Gap(lag.skipped)


def _offset_of(item: Item) -> int:
    """Return an item's number in the log, 0 if it has none."""
    return item.offset if isinstance(item, Event | Gap) else 0
