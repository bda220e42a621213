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

The subprotocol ``chat.v1+json`` carries the same events; see `wslessons.events`. People of both
protocols share a room. Rooms go by path: ``/rooms/NAME``, and ``/`` is the default room; any other
path is refused with HTTP 404.

The core, `ChatServer.handle`, knows no WebSocket library: it drives any `Connection`. One that can
take ready-made frames (`Connection.writer`) is served by the room's fan-out; any other by a task
of its own, `forward`. What they send is the same.

Not handled here: who may connect at all (Origin, tokens, TLS), history on disk.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol

import msgspec
from websockets import ConnectionClosed, Request, Response, ServerConnection
from websockets.protocol import State
from websockets.typing import Subprotocol

from wslessons import serving
from wslessons.backplane import Backplane
from wslessons.channel import Closed, Lagged, Receiver
from wslessons.events import (
    SUBPROTOCOL,
    Ack,
    Hello,
    Ping,
    Pong,
    Say,
    Welcome,
    Who,
    decode_client,
    encode,
)
from wslessons.forms import JSON, TEXT, JsonForm, Record, TextForm
from wslessons.frames import FrameWriter, Writer
from wslessons.room import Room
from wslessons.rules import TokenBucket, clean_name, clean_text
from wslessons.shared import SharedRooms

__all__ = [
    "ChatServer",
    "Connection",
    "Gone",
    "LibraryConnection",
    "Room",
    "TokenBucket",
    "clean_name",
    "clean_text",
    "forward",
]

logger = logging.getLogger(__name__)

PATH = re.compile(r"/|/rooms/[A-Za-z0-9._~-]{1,64}")
IDLE_ROOMS = 64
"""Empty rooms that keep their log, so that people who lost their connections can resume."""
GRACE = 5.0
"""Seconds for which what a rate-limited client sent before it left is still let through. (While
more than the library's `max_queue` waits, its Close has not been read; then keepalive ends it.)"""


class Gone(Exception):
    """The connection has ended; `code` is the close code received (RFC 6455, section 7.1.5)."""

    def __init__(self, code: int = 1006) -> None:
        super().__init__(f"connection closed with {code}")
        self.code = code


class _Refused(Exception):
    """End the connection with this close code and reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        # A close frame holds 123 bytes of reason (RFC 6455, section 5.5).
        self.reason = clean_text(reason).encode()[:123].decode(errors="ignore")


class Connection(Protocol):
    """What the chat needs of a connection, whichever library carries it.

    All methods but `close` raise `Gone` once the connection has ended.
    """

    id: str
    """Different for each connection."""
    path: str
    """The request's path, without the query."""
    subprotocol: str | None
    peer: str
    """The other end's address, for the log."""
    writer: Writer | None
    """How to write ready-made frames, where the library lets us."""

    @property
    def is_open(self) -> bool:
        """Whether it has not begun to close."""
        ...

    async def recv(self) -> str | bytes:
        """Return the next message: str for text, bytes for binary. Cancelling is safe."""
        ...

    async def send(self, payload: bytes) -> None:
        """Send one text message, given in UTF-8; wait while the peer reads too slowly."""
        ...

    async def close(self, code: int, reason: str) -> None:
        """Complete the closing handshake, in bounded time. Idempotent, never raises."""
        ...


class LibraryConnection:
    """A connection of `websockets` as the chat sees it."""

    def __init__(self, connection: ServerConnection, *, fanout: bool = True) -> None:
        assert connection.request is not None
        self._connection = connection
        self.id = connection.id.hex
        self.path = connection.request.path.partition("?")[0]
        self.subprotocol: str | None = connection.subprotocol
        self.peer = serving.peer(connection)
        self.writer: Writer | None = FrameWriter(connection) if fanout else None

    @property
    def is_open(self) -> bool:
        """Whether it has not begun to close."""
        return self._connection.state is State.OPEN

    async def recv(self) -> str | bytes:
        """Return the next message. Raises `Gone`."""
        try:
            return await self._connection.recv()
        except ConnectionClosed as exc:
            raise Gone(self._connection.close_code or 1006) from exc

    async def send(self, payload: bytes) -> None:
        """Send a text message. Raises `Gone`."""
        try:
            await self._connection.send(payload, text=True)
        except ConnectionClosed as exc:
            raise Gone(self._connection.close_code or 1006) from exc

    async def close(self, code: int, reason: str) -> None:
        """Complete the closing handshake."""
        await self._connection.close(code, reason)


async def forward(
    cursor: Receiver[Record], connection: Connection, form: TextForm | JsonForm
) -> None:
    """Send one member everything from `cursor` on, item by item: what `Fanout` does for many.

    Ends when the log is closed. Raises `Gone`.
    """
    while True:
        try:
            item = await cursor.recv()
        except Lagged as lag:
            await connection.send(form.missed(lag.skipped, cursor.offset))
            continue
        except Closed:
            return
        payload = form.own(item) if item.origin == connection.id else form.encode(item)
        if payload:
            await connection.send(payload)


class _Member(NamedTuple):
    connection: Connection
    form: TextForm | JsonForm
    room: Room
    session: str


class ChatServer:
    """All rooms of one server, and the handler of its connections.

    In: `capacity`, events kept in each room's log; `rate`, messages a second from one connection
    (0 for no limit; over it the sender is slowed down, not cut off), with bursts of `burst`;
    `name_timeout`, seconds to wait for the name; `max_size`, bytes in one message; `max_rooms`,
    rooms at a time; `fanout`, False to serve each member by a task of its own instead; `bus`, what
    `wslessons.backplane.from_url` returns, entered, to share the rooms with other servers.
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
        bus: Backplane | None = None,
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
                hello = await self._hello(connection)
                await self._attend(connection, form, hello)
            except _Refused as refusal:
                logger.info("closing %s: %d %s", connection.peer, refusal.code, refusal.reason)
                await connection.close(refusal.code, refusal.reason)
        except Gone:
            pass

    async def _hello(self, connection: Connection) -> Hello:
        """Wait for the first message and return it with a name that may be used."""
        try:
            async with asyncio.timeout(self.name_timeout):
                data = await connection.recv()
        except TimeoutError:
            raise _Refused(1008, f"no name within {self.name_timeout:g} seconds") from None
        if isinstance(data, bytes):
            raise _Refused(1008, "the first message must be text: your name")
        hello = Hello(data)
        if connection.subprotocol == SUBPROTOCOL:
            try:
                event = decode_client(data)
            except (msgspec.DecodeError, RecursionError) as exc:
                raise _Refused(1008, f"the first message must be a hello: {exc}") from None
            if not isinstance(event, Hello):
                raise _Refused(1008, "the first message must be a hello")
            hello = event
        try:
            hello.name = clean_name(hello.name)
        except ValueError as exc:
            raise _Refused(1008, str(exc)) from None
        return hello

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
            member = _Member(connection, form, room, hello.session or connection.id)
            if connection.writer is not None:
                # The reader is the only task: a connection that the fan-out cannot write to any
                # more is a closed one, and ends its reader.
                room.fanout.join(connection.id, form, connection.writer, cursor)
                refusal = await self._listen(member)
            else:
                refusal = await self._listen_and_forward(member, cursor)
            if refusal is not None:
                raise refusal
        finally:
            cursor.close()
            room.connections.pop(connection.id, None)
            if entered:
                room.leave(connection.id)
                logger.info("%s left %s", hello.name, room.path)
            room.visitors -= 1
            self._close_if_empty(room)

    async def _listen_and_forward(
        self, member: _Member, cursor: Receiver[Record]
    ) -> _Refused | None:
        """Run both directions as two tasks that end together."""
        refusal: _Refused | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                writing = tasks.create_task(forward(cursor, member.connection, member.form))
                refusal = await self._listen(member)
                writing.cancel()
        except* Gone:
            pass
        return refusal

    async def _listen(self, member: _Member) -> _Refused | None:
        """Take what the client sends until it goes (None) or must go (the refusal)."""
        connection, is_json = member.connection, isinstance(member.form, JsonForm)
        bucket = TokenBucket(self.rate, self.burst) if self.rate else None
        grace = GRACE
        try:
            while True:
                data = await connection.recv()
                if bucket is not None and (delay := bucket.take()):
                    if not connection.is_open:
                        grace -= delay
                        if grace < 0:
                            return None
                    await asyncio.sleep(delay)
                if isinstance(data, bytes):
                    return _Refused(1003, "this chat takes text messages, not binary ones")
                if len(data) > self.max_size:
                    return _Refused(1009, f"a message has at most {self.max_size} bytes")
                if is_json:
                    await self._heard_json(member, data)
                else:
                    text = clean_text(data)
                    if text == "/who":
                        await connection.send(TEXT.roster(*member.room.roster()))
                    elif text:
                        member.room.say(connection.id, text)
        except Gone:
            return None

    async def _heard_json(self, member: _Member, data: str) -> None:
        connection, room = member.connection, member.room
        try:
            event = decode_client(data)
        except (msgspec.DecodeError, RecursionError) as exc:
            await connection.send(JSON.error("invalid", str(exc)))
            return
        if isinstance(event, Say):
            text = clean_text(event.text)
            if not text:
                await connection.send(JSON.error("blank", "a blank message is not sent", event.id))
                return
            key = f"{member.session}/{event.id}" if event.id else ""
            if offset := room.say(connection.id, text, event.id, key):
                await connection.send(encode(Ack(event.id, offset, time.time())))
        elif isinstance(event, Who):
            await connection.send(JSON.roster(*room.roster()))
        elif isinstance(event, Ping):
            await connection.send(encode(Pong(event.id)))
        else:
            await connection.send(JSON.error("joined", "you have said hello already"))

    def _open(self, path: str) -> Room:
        """Return the room at `path`, new if need be."""
        if self.refusal(path):
            raise _Refused(1013 if PATH.fullmatch(path) else 1008, "there is no room for you here")
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
