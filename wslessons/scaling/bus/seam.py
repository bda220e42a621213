"""The seam: what a server needs of a bus, whichever broker is behind it.

A bus keeps a local, bounded copy of the shared log (a `Channel`), and its readers are cursors in
that copy. So a slow reader costs nothing and is told what it lost, as in lesson 2.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Self

from wslessons.chat.channel import Channel
from wslessons.chat.room import Room
from wslessons.errors import UserError
from wslessons.scaling.bus.items import Event, Gap, Item, NewEpoch, People, Status
from wslessons.scaling.bus.subscription import Subscription, offset_of

__all__ = ["Backplane"]

ROOMS = 10_000
"""Rooms of which the newest number is remembered, and of each server's how many events."""
KEYS = 16_384
"""Keys of published events that are remembered, so that none is delivered twice."""


class Backplane:
    """A bus: `publish` on one server is heard by the readers of all. An async context manager.

    In: `node`, this server's name, made up if not given; `keep`, items in the local copy of the
    log. This class has all that needs no broker.
    """

    local = False
    """Whether it reaches nobody outside this process."""
    has_log = False
    """Whether the broker keeps and numbers events, the same for all servers."""

    def __init__(self, *, node: str = "", keep: int = 4096) -> None:
        self.node = node or secrets.token_hex(4)
        self.epoch = secrets.token_hex(8)
        """The life of the log: its numbers mean nothing in another."""
        self.status = Status("reconnecting", "not started yet")
        self.started = False
        self.missed = 0
        """Events that are known to be gone for this server."""
        self.unsent = 0
        """Events of this server that are known to be gone for the others."""
        self._channel: Channel[Item] = Channel(keep)
        self._newest: OrderedDict[str, int] = OrderedDict()
        """The newest number in each room."""
        self._before: dict[int, int] = {}
        """For each lane (see `lane`): the number up to which we know nothing of quiet rooms."""
        self._at: dict[int, int] = {}
        """For each lane, the newest number read."""
        self._kept: deque[int] = deque()
        """The numbers of what is in the local copy, 0 for what has none."""
        self._fallen = 0
        """The newest number that is not in the local copy any more."""
        self._keys: OrderedDict[str, None] = OrderedDict()
        self._awaited: list[tuple[int, int, asyncio.Future[None]]] = []

    # What a server uses.

    @property
    def backlog(self) -> int:
        """How many events wait for the broker."""
        return 0

    def publish(self, event: Event) -> None:
        """Take an event on its way to all readers of all servers. Never waits.

        Raises `UserError` for one that is too large, and after `stop`.
        """
        raise NotImplementedError

    def tell_here(self, event: Event) -> None:
        """Let this server's readers have an event that is for nobody else.

        Not on a bus with a log, where it could have no number.
        """
        self._check_open()
        event.node = self.node
        self._deliver_here(event)

    def subscribe(self, since: int | None = None) -> Subscription:
        """Return a reader that begins after number `since`, None for now and 0 for all kept.

        It first says so, with a `Gap`, if something after `since` is no longer kept here.
        """
        if since is None:
            return Subscription(self, self._channel.subscribe())
        place = self._channel.oldest - 1
        for local, item in self.items():
            if 0 < offset_of(item) <= since:
                place = local
        return Subscription(
            self, self._channel.subscribe(since=place), gap=max(self._fallen, self.start) > since
        )

    async def flush(self, most: int = 0) -> None:
        """Wait until at most `most` events wait for the broker, and with 0 until it has them all.

        Bound it with a timeout.
        """

    async def reached(self, room: str, offset: int) -> None:
        """Wait until this server has read up to number `offset`; bound it with a timeout."""
        await self._reached(self.lane(room), offset)

    async def _reached(self, lane: int, offset: int) -> None:
        if self._at.get(lane, 0) < offset:
            waiter = lane, offset, asyncio.get_running_loop().create_future()
            self._awaited.append(waiter)
            try:
                await waiter[2]
            finally:
                self._awaited.remove(waiter)

    def has_read(self, room: str, offset: int) -> bool:
        """Whether this server has read up to number `offset`."""
        return self._at.get(self.lane(room), 0) >= offset

    def items(self) -> Iterator[tuple[int, Item]]:
        """Iterate over the local copy, the oldest first, each item with its place in it."""
        return enumerate(self._channel, self._channel.oldest)

    def newest(self, room: str) -> int:
        """Return a number after which nothing has happened in `room`."""
        newest = self._newest.get(room)
        return self._before.get(self.lane(room), 0) if newest is None else newest

    @property
    def start(self) -> int:
        """The number after which reading began."""
        return max(self._before.values(), default=0)

    def room_factory(
        self, rooms: Mapping[str, Room], forget: Callable[[str], None]
    ) -> Callable[[str, int], Room]:
        """Return what opens rooms for a chat server: see `wslessons.chat.server.RoomSource`."""
        if self.local:
            # A bus that reaches nobody else would only be a longer way to the log.
            return Room
        # Rooms know their bus; a bus meets them only when a chat asks for some.
        from wslessons.scaling.rooms import SharedRooms

        return SharedRooms(self, rooms, forget).open

    # Who is where: see `wslessons.scaling.bus.presence`.

    def enter(self, room: str, connection: str, name: str) -> None:
        """Tell other servers that somebody is here."""

    def leave(self, room: str, connection: str) -> None:
        """Tell other servers that somebody is not here any more."""

    def people(self, room: str) -> tuple[People, int]:
        """Return who is in `room` on other servers: some by connection id, and how many."""
        return {}, 0

    # Life.

    async def start_up(self) -> None:
        """Connect. Raises `UserError` when that can't be done."""
        self.started = True
        self._set_status(Status("connected"))

    async def stop(self) -> None:
        """Disconnect; readers get what is left and end. Idempotent."""
        self._set_status(Status("closed"))
        self._channel.close()
        for _, _, future in self._awaited:
            future.cancel()

    async def __aenter__(self) -> Self:
        try:
            await self.start_up()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    # For the implementations.

    def lane(self, room: str) -> int:
        """Return in which of the log's lanes `room` is; numbers are in order only within one."""
        return 0

    def _check_open(self) -> None:
        if self._channel.closed:
            raise UserError("the bus is closed: nothing can be published any more.")

    def _put(self, item: Item, number: int = 0) -> None:
        """Let readers have an item, which has this number if any."""
        channel = self._channel
        if channel.closed:
            return
        self._kept.append(number)
        if len(self._kept) > channel.capacity:
            self._fallen = self._kept.popleft() or self._fallen
        channel.send(item)

    def _number(self, event: Event | Gap, room: str, offset: int) -> None:
        """Give an event its place in its room."""
        event.prev, event.offset = self.newest(room), offset
        newest = self._newest
        if room in newest:
            newest[room] = offset
            newest.move_to_end(room)
            return
        newest[room] = offset
        if len(newest) > ROOMS:
            forgotten, number = newest.popitem(last=False)
            lane = self.lane(forgotten)
            self._before[lane] = max(self._before.get(lane, 0), number)

    def _deliver_here(self, event: Event) -> None:
        """Deliver an event with the next number of this server, where the broker has none."""
        event.epoch = self.epoch
        number = self._channel.offset + 1
        self._number(event, event.room, number)
        self._put(event, number)
        self._progress(0, number)

    def _progress(self, lane: int, offset: int) -> None:
        self._at[lane] = offset
        for wanted_lane, wanted, future in self._awaited:
            if wanted_lane == lane and wanted <= offset and not future.done():
                future.set_result(None)

    def _is_repeat(self, key: str) -> bool:
        """Whether an event with this key has been delivered; remembers it."""
        if not key or key in self._keys:
            return bool(key)
        self._keys[key] = None
        if len(self._keys) > KEYS:
            self._keys.popitem(last=False)
        return False

    def _set_status(self, status: Status) -> None:
        if status != self.status:
            self.status = status
            self._put(status)

    def _begin_anew(self, epoch: str) -> None:
        """Forget the numbers of a log that is no more."""
        self.epoch, self._fallen = epoch, 0
        for numbers in (self._newest, self._before, self._at, self._keys):
            numbers.clear()
        self._put(NewEpoch(epoch))
