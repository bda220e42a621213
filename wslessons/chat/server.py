"""A chat server: rooms of people, two protocols, nobody held up and nobody deaf.

    async with ChatServer().serve("localhost", 8765) as server:
        await server.wait_closed()

How a line travels: the sender's connection -> `ChatServer.handle` -> `Room.say` -> (the bus, where
servers share rooms) -> the room's log (a `Channel`), with a number -> everyone's cursor in that log
-> one write a connection (`Fanout`) -> everybody else's socket.

Plain text is for a client that asks for no subprotocol. Its first message is its name, trimmed:

    < Welcome, NAME!                     to the one who joined
    < [system] >>> NAME joined the chat  to everyone, once
    < [NAME] text                        to everyone but its sender; trimmed, blank ones ignored
    < [system] here now: NAME, NAME      to the one who sent /who
    < [system] you missed N messages     to one who read too slowly; then it goes on
    < [system] >>> NAME left the chat    to everyone who is still there

The subprotocol ``chat.v1+json`` carries the same events; see `events`. People of both
protocols share a room. Rooms go by path: ``/rooms/NAME``, and ``/`` is the default room; any other
path is refused with HTTP 404.

The core, `ChatServer.handle`, knows no WebSocket library: it drives any `Connection`. One that can
take ready-made frames (`Connection.writer`) is served by the room's fan-out; any other by a task
of its own, `wslessons.chat.session.forward`. What they send is the same.

Not handled here: who may connect at all (Origin, tokens, TLS), history on disk.
"""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from websockets import Request, Response, ServerConnection
from websockets.typing import Subprotocol

from wslessons import serving
from wslessons.chat.codecs import JSON, TEXT, JsonForm, TextForm
from wslessons.chat.connection import Connection, Gone, LibraryConnection, Refused
from wslessons.chat.events import (
    SUBPROTOCOL,
    Hello,
    Welcome,
)
from wslessons.chat.room import Room
from wslessons.chat.rules import TokenBucket
from wslessons.chat.session import Session, hear_name

if TYPE_CHECKING:
    from wslessons.scaling.bus import Bus

__all__ = ["ChatServer", "Connection", "Gone", "Room"]

logger = logging.getLogger(__name__)

PATH = re.compile(r"/|/rooms/[A-Za-z0-9._~-]{1,64}")
IDLE_ROOMS = 64
"""Empty rooms that keep their log, so that people who lost their connections can resume."""


class ChatServer:
    """All rooms of one server, and the handler of its connections.

    In: `capacity`, events kept in each room's log; `rate`, messages a second from one connection
    (0 for no limit; over it the sender is slowed down, not cut off), with bursts of `burst`;
    `name_timeout`, seconds to wait for the name; `max_size`, bytes in one message; `max_rooms`,
    rooms at a time; `fanout`, False to serve each member by a task of its own instead; `bus`, what
    `wslessons.scaling.bus.from_url` returns, entered, to share the rooms with other servers.
    """

    def __init__(
        self,
        *,
        capacity: int = 256,
        rate: float = 0,
        burst: float | None = None,
        name_timeout: float = 10,
        max_size: int = 8192,
        max_rooms: int = 1000,
        fanout: bool = True,
        bus: Bus | None = None,
    ) -> None:
        self.capacity = capacity
        self.rate = rate
        self.burst = burst
        self.name_timeout = name_timeout
        self.max_size = max_size
        self.max_rooms = max_rooms
        self.fanout = fanout
        self.rooms: dict[str, Room] = {}
        """The rooms there are, by path; an empty one is kept for a while."""
        self._idle: OrderedDict[str, None] = OrderedDict()
        self._new_room: Callable[[str, int], Room] = Room
        # A bus that reaches nobody else would only be a longer way to the log.
        if bus is not None and not bus.local:
            from wslessons.scaling.rooms import SharedRooms

            self._new_room = SharedRooms(bus, self.rooms).open

    def people(self, path: str = "/") -> list[str]:
        """Return the names of all who are in a room, in the order in which they came."""
        room = self.rooms.get(path)
        return list(room.people.values()) if room else []

    # With `websockets`.

    @property
    def options(self) -> dict[str, Any]:
        """What to pass to `websockets.serve` beside `handler`.

        No compression: for short lines it costs 32 KiB a connection and gains next to nothing.
        """
        return {
            "subprotocols": [Subprotocol(SUBPROTOCOL)],
            "select_subprotocol": lambda _, offered: (
                Subprotocol(SUBPROTOCOL) if SUBPROTOCOL in offered else None
            ),
            "process_request": self.process_request,
            "compression": None,
            "max_size": self.max_size,
        }

    def serve(self, host: str = "127.0.0.1", port: int = 0, **options: Any) -> Any:
        """Serve the chat by `wslessons.serving.serve`: ``async with chat.serve() as server``.

        In: `options` of `websockets.serve`, which go before those of the chat.
        """
        return serving.serve(self.handler, host, port, **(self.options | options))

    def process_request(self, connection: ServerConnection, request: Request) -> Response | None:
        """Refuse a path where there is no room, before the handshake is answered."""
        refusal = self.refusal(request.path.partition("?")[0])
        return connection.respond(*refusal) if refusal else None

    async def handler(self, connection: ServerConnection) -> None:
        """Serve one connection of `websockets`."""
        await self.handle(LibraryConnection(connection, fanout=self.fanout))

    # With any library.

    def refusal(self, path: str) -> tuple[HTTPStatus, str] | None:
        """Return the HTTP status and sentence with which to refuse `path`, or None to accept it."""
        if not PATH.fullmatch(path):
            return HTTPStatus.NOT_FOUND, "There is no room here: connect to / or /rooms/NAME.\n"
        if path not in self.rooms and not self._idle and len(self.rooms) >= self.max_rooms:
            return HTTPStatus.SERVICE_UNAVAILABLE, "All rooms are taken: try again later.\n"
        return None

    async def handle(self, connection: Connection) -> None:
        """Serve one connection from its name to its end, and close it.

        Nothing a client does raises: it is refused with a close code and a reason that says why.
        """
        form = JSON if connection.subprotocol == SUBPROTOCOL else TEXT
        try:
            try:
                hello = await hear_name(connection, self.name_timeout)
                await self._attend(connection, form, hello)
            except Refused as refusal:
                logger.info("closing %s: %d %s", connection.peer, refusal.code, refusal.reason)
                await connection.close(refusal.code, refusal.reason)
        except Gone:
            pass

    async def _attend(
        self, connection: Connection, form: TextForm | JsonForm, hello: Hello
    ) -> None:
        """Let somebody into the room and stay until the connection ends."""
        room = self._open(connection.path)
        form = room.form(form)
        room.visitors += 1
        cursor, entered = room.log.subscribe(), False
        try:
            if hello.since is not None:
                await room.catch_up(hello.since, hello.epoch)
            cursor, epoch_over = room.resume(hello.since, hello.epoch)
            begin = room.begins_after(cursor, None if epoch_over else hello.since)
            await connection.send(
                form.welcome(Welcome(hello.name, room.path, room.epoch, begin, *room.roster()))
            )
            if epoch_over:
                await connection.send(form.missed(None, cursor.offset))
            room.connections[connection.id] = connection
            room.enter(connection.id, hello.name)
            entered = True
            logger.info("%s joined %s from %s", hello.name, room.path, connection.peer)
            session = Session(
                connection,
                form,
                room,
                hello.session or connection.id,
                bucket=TokenBucket(self.rate, self.burst) if self.rate else None,
                max_size=self.max_size,
            )
            await session.stay(cursor)
        finally:
            cursor.close()
            room.connections.pop(connection.id, None)
            if entered:
                room.leave(connection.id)
                logger.info("%s left %s", hello.name, room.path)
            room.visitors -= 1
            self._close_if_empty(room)

    def _open(self, path: str) -> Room:
        """Return the room at `path`, new if need be."""
        if self.refusal(path):
            raise Refused(1013 if PATH.fullmatch(path) else 1008, "there is no room for you here")
        room = self.rooms.get(path)
        if room is None:
            if len(self.rooms) >= self.max_rooms:
                self._forget_idle()
            room = self.rooms[path] = self._new_room(path, self.capacity)
        self._idle.pop(path, None)
        return room

    def _close_if_empty(self, room: Room) -> None:
        if room.visitors or self.rooms.get(room.path) is not room:
            return
        self._idle[room.path] = None
        self._idle.move_to_end(room.path)
        if len(self._idle) > IDLE_ROOMS:
            self._forget_idle()

    def _forget_idle(self) -> None:
        path, _ = self._idle.popitem(last=False)
        del self.rooms[path]
