"""Between one server's rooms and the bus: what the bus delivers goes to the room it is for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping

from wslessons.chat.channel import Closed
from wslessons.chat.room import Room
from wslessons.scaling.bus import (
    Bus,
    Event,
    Gap,
    Item,
    NewEpoch,
    NodeDown,
    NodeUp,
    Status,
)
from wslessons.scaling.rooms.room import SharedRoom

__all__ = ["SharedRooms"]

logger = logging.getLogger(__name__)

RESTART = 1012
"""Close code for those whose room's log is no more (IANA's registry: service restart)."""


class SharedRooms:
    """The rooms of one server that are on a bus.

    Args:
        bus: one that is running when the first room is opened.
        rooms: all rooms of the server by path.
        forget: called with the path of a room that the bus has ended.
    """

    def __init__(self, bus: Bus, rooms: Mapping[str, Room], forget: Callable[[str], None]) -> None:
        self._bus, self._rooms, self._forget = bus, rooms, forget
        self._task: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def open(self, path: str, capacity: int) -> SharedRoom:
        """Return a new room that keeps `capacity` events, with what the bus has kept of it."""
        if self._task is None:
            if self._bus.status.state == "closed" or not self._bus.started:
                raise RuntimeError("the chat's bus does not run: async with from_url(...) as bus")
            self._reader = self._bus.subscribe()
            # It ends by itself when the bus is stopped.
            self._task = asyncio.create_task(self._follow(), name="rooms on a bus")
        self.drain()
        return SharedRoom(path, capacity, self._bus, self.drain)

    def drain(self) -> None:
        """Let the rooms take all that is ready."""
        with contextlib.suppress(Closed):
            for item in self._reader.take_ready():
                self._take(item)

    async def _follow(self) -> None:
        async for item in self._reader:
            self._take(item)
            self.drain()

    def _take(self, item: Item) -> None:
        match item:
            case Event(room=path) | Gap(room=str(path)):
                if isinstance(room := self._rooms.get(path), SharedRoom):
                    room.take(item)
            case Gap():
                for room in self._all():
                    room.take(item)
            case NodeDown(rooms=rooms):
                for path, members in rooms.items():
                    if isinstance(room := self._rooms.get(path), SharedRoom):
                        for connection, name in members.items():
                            room.gone(connection, name)
            case NodeUp(rooms=rooms):
                for path, members in rooms.items():
                    if isinstance(room := self._rooms.get(path), SharedRoom):
                        for name in members.values():
                            room.back(name)
            case NewEpoch():
                for room in self._all():
                    self._end(room)
            case Status(state=state, why=why):
                logger.info("the bus is %s%s", state, f": {why}" if why else "")

    def _all(self) -> list[SharedRoom]:
        return [room for room in self._rooms.values() if isinstance(room, SharedRoom)]

    def _end(self, room: SharedRoom) -> None:
        """End a room whose numbers mean nothing now; its members may come back to a new one."""
        self._forget(room.path)
        for connection in room.connections.values():
            task = asyncio.create_task(connection.close(RESTART, "the room begins anew"))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
