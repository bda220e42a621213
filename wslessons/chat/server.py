"""A chat server: rooms of people, two protocols, nobody held up and nobody deaf.

    async with ChatServer().serve("localhost", 8765) as server:
        await server.wait_closed()

How a line travels: the sender's connection -> its codec (`codecs`) -> `ChatServer.run` ->
`Room.say` -> (the bus, where servers share rooms) -> the room's log (a `Channel`), with a number ->
everyone's cursor in that log -> one write per connection (`Fanout`) -> everybody else's socket.

Plain text is for a client that asks for no subprotocol. Its first message is its name, trimmed:

    < Welcome, NAME!                     to the one who joined
    < [system] >>> NAME joined the chat  to everyone, once
    < [NAME] text                        to everyone but its sender; trimmed, blank ones ignored
    < [system] here now: NAME, NAME      to the one who sent /who
    < [system] you missed N messages     to one who read too slowly; then it goes on
    < [system] >>> NAME left the chat    to everyone who is still there

The subprotocol ``chat.v1+json`` carries the same events; see `events`. Members of both
protocols share a room. Rooms go by path: ``/rooms/NAME``, and ``/`` is the default room; any other
path is refused with HTTP 404.

The core, `ChatServer.handle`, knows no WebSocket library: it drives any `Connection`. One that can
take ready-made frames (`Connection.writer`) is served by the room's fan-out; any other by a task
of its own, `forward`. What they send is the same.

An application of your own says who may come in (`authenticate`, see `identity`), is asked about all
that is said (`said`), hears who comes and goes (`joined`, `left`), and speaks itself: `say`,
`notify`, and `revoke`, from any task or thread, and over a bus from any process.

Not handled here: Origin and TLS; history on disk, which a bus has.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

from websockets import Request, Response, ServerConnection
from websockets.typing import Subprotocol

from wslessons import serving
from wslessons.chat.application import Application
from wslessons.chat.channel import Closed, Lagged, Receiver
from wslessons.chat.codecs import JSON, TEXT, JsonCodec, Record, TextCodec, clean_text
from wslessons.chat.connection import Connection, Gone, LibraryConnection
from wslessons.chat.events import (
    SUBPROTOCOL,
    Error,
    Hello,
    Ping,
    Pong,
    Renew,
    Roster,
    Say,
    Welcome,
    Who,
)
from wslessons.chat.identity import Authenticate, Denied, Member, Opening, bearer
from wslessons.chat.room import Room
from wslessons.chat.rules import Pace, Proofs, clean_name
from wslessons.connection import peer
from wslessons.errors import UserError

if TYPE_CHECKING:
    from wslessons.limits import ConnectionLimit

__all__ = ["ChatServer", "Connection", "Gone", "Room", "RoomSource"]

logger = logging.getLogger(__name__)

PATH = re.compile(r"/|/rooms/(?!\.\.?$)[A-Za-z0-9._~-]{1,64}")
"""Where rooms are. (The path segments `.` and `..` mean another path: RFC 3986, section 5.2.4.)"""
LOBBY = "/"
"""The default room, which is there whatever other rooms there are."""
IDLE_ROOMS = 64
"""Empty rooms that keep their log, so that people who lost their connections can resume."""
IDLE_TIME = 300.0
"""Seconds for which they keep it."""
MOST_REFUSED = 10
"""Times its debt that a sender may be refused before it is sent away, if it never slows down."""


class RoomSource(Protocol):
    """A bus, as far as a chat needs it: it brings the rooms that several servers share."""

    def orders(self, obey: Callable[[Any], None]) -> Callable[[Any], None]:
        """Return what hands something to all servers, this one included.

        Args:
            obey: called with what any server hands over.

        Returns:
            What is called with it.
        """
        ...

    def room_factory(
        self, rooms: Mapping[str, Room], forget: Callable[[str], None]
    ) -> Callable[[str, int], Room]:
        """Return what opens a new room, given its path and how many events it keeps.

        Args:
            rooms: all rooms of the server by path, as they are at any time.
            forget: called with the path of a room that the bus has ended.

        Returns:
            What makes a room.
        """
        ...


async def forward(
    cursor: Receiver[Record], connection: Connection, codec: TextCodec | JsonCodec
) -> None:
    """Send one member everything from `cursor` on, item by item: what `Fanout` does for many.

    Ends when the log is closed.

    Raises:
        Gone: the connection has ended.
    """
    while True:
        try:
            item = await cursor.recv()
        except Lagged as lag:
            await connection.send(codec.missed(lag.skipped, cursor.offset))
            continue
        except Closed:
            return
        mine = item.origin == connection.id
        payload = codec.to_sender(item) if mine else codec.encode(item)
        if payload:
            await connection.send(payload)


class ChatServer(Application):
    """All rooms of one server, and the handler of its connections.

    Args:
        capacity: events kept in each room's log.
        rate: messages per second from one connection, 0 for no limit. What comes faster waits for
            its turn; the sender is told what could not even wait.
        burst: messages at once after a rest; by default as many as in one second.
        debt: messages of one connection that may wait; by default as many as in ten seconds, and
            at least 64.
        name_timeout: seconds to wait for the name.
        max_size: bytes in one message.
        max_rooms: rooms at a time, beside the default one.
        max_rooms_per_address: rooms with somebody in them that one address has opened, 0 for any;
            clients on this machine are not counted.
        log_bytes: bytes of memory that a room's log may take, roughly; by default half of what
            `capacity` messages of `max_size` would.
        history: whether newcomers may ask for what a room has kept, by `since`; else only those
            who were there may, for what was said after they came.
        secret: signs what members show when they come back; by default the bus's, if it keeps one
            (a file does), or one of this process. Give all servers the same on which they may, also
            after a restart.
        fanout: False to serve each member by a task of its own instead.
        authenticate: returns who somebody is, or raises `Denied`; by default nobody is asked.
        joined: called with everybody who has come in. One who is `Denied` goes again.
        said: called with a member and what it says; returns what is said in its place, or None if
            that is not for the room, such as a command that you have carried out. `Denied` refuses
            it. The member's next message waits meanwhile.
        left: called with everybody who is gone.
        bus: what `wslessons.scaling.bus.from_url` returns, entered: to share the rooms with other
            servers, or to keep them in a file.
    """

    def __init__(
        self,
        *,
        capacity: int = 256,
        rate: float = 0,
        burst: float | None = None,
        debt: int | None = None,
        name_timeout: float = 10,
        max_size: int = 8192,
        max_rooms: int = 1000,
        max_rooms_per_address: int = 0,
        log_bytes: int | None = None,
        history: bool = False,
        secret: bytes | None = None,
        fanout: bool = True,
        authenticate: Authenticate | None = None,
        joined: Callable[[Member], Awaitable[object]] | None = None,
        said: Callable[[Member, str], Awaitable[str | None]] | None = None,
        left: Callable[[Member], Awaitable[object]] | None = None,
        bus: RoomSource | None = None,
    ) -> None:
        super().__init__(authenticate, joined, said, left)
        self.capacity = capacity
        self.rate = rate
        self.burst = burst
        self.debt = debt
        self.name_timeout = name_timeout
        self.max_size = max_size
        self.max_rooms = max_rooms
        self.log_bytes = capacity * max_size // 2 if log_bytes is None else log_bytes
        self.history = history
        self.proofs = Proofs(secret or getattr(bus, "secret", None))
        self.fanout = fanout
        self.rooms: dict[str, Room] = {}
        """The rooms there are, by path; an empty one is kept for a while."""
        self._idle: OrderedDict[str, asyncio.TimerHandle] = OrderedDict()
        """The paths of empty rooms, the longest empty first, and what ends them."""
        self._opened: ConnectionLimit | None = None
        self._openers: dict[Room, str | None] = {}
        """For rooms with somebody in them: the address of who opened them, counted above."""
        if max_rooms_per_address:
            from wslessons.limits import ConnectionLimit  # a chat without this bound needs none

            self._opened = ConnectionLimit(2**31, max_rooms_per_address)
        self._new_room: Callable[[str, int], Room] = (
            Room if bus is None else bus.room_factory(self.rooms, self.forget)
        )
        self._openings: weakref.WeakKeyDictionary[ServerConnection, Opening | Denied] = (
            weakref.WeakKeyDictionary()
        )
        """Who connects, between the handshake and `handler`."""
        self.bus = bus
        """What shares the rooms with other servers, or keeps them."""
        if bus is not None:
            self._order = bus.orders(self._obey)

    def people(self, path: str = "/") -> list[str]:
        """List all who are in a room, in the order in which they came.

        Args:
            path: the room's.

        Returns:
            The names.
        """
        room = self.rooms.get(path)
        return list(room.members.values()) if room else []

    # With `websockets`.

    @property
    def options(self) -> dict[str, Any]:
        """What to pass to `websockets.serve` beside `handler`.

        No compression: for short lines it costs 32 KiB per connection and gains next to nothing.
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

        Args:
            host: the address to bind.
            port: the TCP port; 0 takes a free one, see `wslessons.serving.urls`.
            options: those of `wslessons.serving.serve`, which go before those of the chat. Each
                connection has a heartbeat, unless `ping_interval` asks for the library's keepalive.

        Returns:
            What `websockets.serve` returns: awaited, or used as a context manager, a server.
        """
        if "ping_interval" not in options:
            options.setdefault("heartbeat", (20, 20))
        return serving.serve(self.handler, host, port, **(self.options | options))

    def process_request(
        self, connection: ServerConnection, request: Request
    ) -> Response | Awaitable[Response | None] | None:
        """Refuse a path where there is no room, and who may not come in, before the handshake.

        Args:
            connection: one whose handshake has begun.
            request: its first line and headers.

        Returns:
            The HTTP response that refuses it; None to go on.
        """
        host = connection.remote_address[0] if connection.remote_address else None
        refusal = self.refusal(request.path.partition("?")[0], host)
        if refusal:
            return connection.respond(*refusal)
        return self._identify(connection, request) if self.authenticate is not None else None

    async def _identify(self, connection: ServerConnection, request: Request) -> Response | None:
        assert self.authenticate is not None
        path, headers = request.path.partition("?")[0], request.headers
        try:
            opening = Opening(path, headers, peer(connection), self.authenticate)
            self._openings[connection] = await opening.identify(bearer(headers))
        except Denied as denied:
            if denied.status is not None:
                logger.info("refused %s: %d %s", peer(connection), denied.status, denied.reason)
                return connection.respond(HTTPStatus(denied.status), f"{denied.reason}\n")
            self._openings[connection] = denied
        return None

    def handler(self, connection: ServerConnection) -> Awaitable[None]:
        """Serve one connection of `websockets`: what `websockets.serve` takes.

        Args:
            connection: one whose opening handshake is done.

        Returns:
            To be awaited until the connection has ended.
        """
        opening = self._openings.pop(connection, None)
        return self.handle(LibraryConnection(connection, fanout=self.fanout, opening=opening))

    # With any library.

    def refusal(self, path: str, host: str | None = None) -> tuple[HTTPStatus, str] | None:
        """Judge by path and address whether there is room for somebody.

        Args:
            path: the room's.
            host: the address of the one who wants to come in.

        Returns:
            The HTTP status and a sentence; None for whoever may come in.
        """
        if not PATH.fullmatch(path):
            return HTTPStatus.NOT_FOUND, "There is no room here: connect to / or /rooms/NAME.\n"
        room = self.rooms.get(path)
        if path == LOBBY or (room is not None and room.visitors):
            return None
        if room is None and not self._idle and len(self.rooms) >= self.max_rooms:
            return HTTPStatus.SERVICE_UNAVAILABLE, "All rooms are taken: try again later.\n"
        if self._opened is not None:
            if self._opened.enter(host):
                sentence = "You opened too many rooms: leave one, or come to one that is there.\n"
                return HTTPStatus.TOO_MANY_REQUESTS, sentence
            self._opened.leave(host)
        return None

    async def handle(self, connection: Connection) -> None:
        """Serve one connection from its name to its end, and close it.

        Nothing a client does raises: it is refused with a close code and a reason that says why.

        Args:
            connection: one that is open.
        """
        codec = JSON if connection.subprotocol == SUBPROTOCOL else TEXT
        self._loop = asyncio.get_running_loop()
        if isinstance(denied := connection.opening, Denied):
            await self.refuse(connection, denied.code, denied.reason)
            return
        try:
            hello = await self.read_hello(connection, codec)
        except Gone as gone:
            logger.info("%s left before it said a name: %s", connection.peer, gone)
            return
        if hello is None:
            return
        host = connection.peer.rpartition(":")[0].strip("[]")
        if refusal := self.refusal(connection.path, host):
            status, sentence = refusal
            code = 1008 if status == HTTPStatus.NOT_FOUND else 1013
            await self.refuse(connection, code, sentence)
            return
        room, why = self._open(connection.path, host), ""
        codec, session = room.codec(codec), hello.session or connection.id
        try:
            cursor = await self._admit(connection, codec, room, hello)
            if cursor is None:
                return
            with cursor:
                self._watch(connection, codec)
                await self._tell(self.joined, self._member(connection, room))
                if connection.writer is None:
                    await self._run_and_forward(connection, codec, room, session, cursor)
                else:
                    # The reader is the only task: a connection that the fan-out cannot write to
                    # any more is a closed one, and ends its reader.
                    room.fanout.join(connection.id, codec, connection.writer, cursor)
                    await self.run(connection, codec, room, session)
        except Gone as gone:
            why = f": {gone}"
        except Denied as denied:
            await self.refuse(connection, denied.code, denied.reason)
        finally:
            member = self._leave(connection, room, why)
            if member is not None:
                with contextlib.suppress(Denied):
                    await self._tell(self.left, member)

    async def refuse(self, connection: Connection, code: int, reason: str) -> None:
        """Close a connection for something that its client did, and log it.

        Args:
            connection: one that is open.
            code: the close code (RFC 6455, section 7.4).
            reason: a sentence; a close frame has room for its first 123 bytes (section 5.5).
        """
        reason = clean_text(reason).encode()[:123].decode(errors="ignore")
        logger.info("closing %s: %d %s", connection.peer, code, reason)
        await connection.close(code, reason)

    async def read_hello(
        self, connection: Connection, codec: TextCodec | JsonCodec
    ) -> Hello | None:
        """Wait for the first message and return it, with a name that may be used.

        Args:
            connection: one that has said nothing yet.
            codec: that of its protocol.

        Returns:
            None if it did not come in time or was wrong: then the connection has been closed.

        Raises:
            Gone: the connection has ended.
        """
        try:
            async with asyncio.timeout(self.name_timeout):
                data = await connection.recv()
        except TimeoutError:
            return await self.refuse(
                connection, 1008, f"no name within {self.name_timeout:g} seconds"
            )
        if isinstance(data, bytes):
            return await self.refuse(connection, 1008, "the first message must be text: your name")
        try:
            hello = codec.decode_hello(data)
            opening = connection.opening
            identity = opening.identity if isinstance(opening, Opening) else None
            hello.name = clean_name(identity.name if identity and identity.name else hello.name)
        except ValueError as exc:
            return await self.refuse(connection, 1008, str(exc))
        return hello

    async def run(
        self, connection: Connection, codec: TextCodec | JsonCodec, room: Room, session: str
    ) -> None:
        """Do what a member of `room` asks for, message by message, until the connection ends.

        Args:
            connection: the member's.
            codec: that of its protocol, as the room has it.
            room: where it is a member.
            session: under which the ids of its messages are remembered.

        Raises:
            Gone: the connection has ended.
        """
        pace = Pace(self.rate, self.burst, self.debt) if self.rate else None
        try:
            while True:
                event = await (connection.recv() if pace is None else pace.recv(connection.recv))
                if isinstance(event, bytes):
                    reason = "this chat takes text messages, not binary ones"
                    return await self.refuse(connection, 1003, reason)
                if isinstance(event, str):
                    size = len(event)
                    if size > self.max_size:
                        reason = f"a message has at most {self.max_size} bytes"
                        return await self.refuse(connection, 1009, reason)
                    event = codec.decode_client(event)
                    if pace is not None:
                        event = pace.admit(event, size)
                        if pace.refused > MOST_REFUSED * pace.debt:
                            reason = f"too fast: {pace.refused} messages were refused"
                            return await self.refuse(connection, 1008, reason)
                match event:
                    case Say(text=text, id=id):
                        if self.said is not None:
                            text = await self._judge(connection, codec, room, session, event)
                        answer = room.say(connection.id, text, id, session) if text else None
                        if answer:
                            await connection.send(codec.answer(answer))
                    case Who():
                        await connection.send(codec.answer(Roster(*room.roster())))
                    case Ping(id=id):
                        await connection.send(codec.answer(Pong(id)))
                    case Renew(token=token):
                        await connection.send(codec.answer(await self._renew(connection, token)))
                        self._watch(connection, codec)
                    case Hello():
                        error = Error("joined", "you have said hello already")
                        await connection.send(codec.answer(error))
                    case Error() as error:
                        await connection.send(codec.answer(error))
        finally:
            # What waits has been taken from its sender, who may never know that it was not said.
            for say in pace.rest() if pace is not None else ():
                text = say.text
                if self.said is not None:
                    with contextlib.suppress(Gone):
                        text = await self._judge(connection, codec, room, session, say)
                if text:
                    room.say(connection.id, text, say.id, session)

    async def _run_and_forward(
        self,
        connection: Connection,
        codec: TextCodec | JsonCodec,
        room: Room,
        session: str,
        cursor: Receiver[Record],
    ) -> None:
        """Run both directions of a member as two tasks that end together."""
        try:
            async with asyncio.TaskGroup() as tasks:
                forwarding = tasks.create_task(forward(cursor, connection, codec))
                await self.run(connection, codec, room, session)
                forwarding.cancel()
        except ExceptionGroup as group:
            # One direction fails because the other has ended; what is no `Gone` tells more.
            _, others = group.split(Gone)
            raise (others or group).exceptions[0] from None

    async def _admit(
        self, connection: Connection, codec: TextCodec | JsonCodec, room: Room, hello: Hello
    ) -> Receiver[Record] | None:
        """Welcome somebody, let everyone know, and return their place in the room's log.

        Returns:
            None if the room can't take them: then the connection has been closed.

        Raises:
            Gone: the connection has ended.
        """
        known, since = hello.epoch, hello.since
        hello.epoch, first = self.proofs.check(room.path, known)
        if first is None and not self.history:
            hello.since = None
        elif first is not None and since is not None and hello.epoch == room.epoch:
            hello.since = max(since, first)
        cursor, offset, gap = await room.admit(hello, first or 0)
        if first is None or hello.epoch != room.epoch:
            known = self.proofs.issue(room.path, room.epoch, offset)
        gap = gap or (since is not None and hello.since is None)
        try:
            welcome = Welcome(hello.name, room.path, known, offset, *room.roster())
            await connection.send(codec.answer(welcome))
            if gap:
                await connection.send(codec.missed(None, cursor.offset))
        except BaseException:
            cursor.close()
            raise
        if refusal := self._void(connection) or room.enter(connection.id, hello.name):
            cursor.close()
            return await self.refuse(connection, *refusal)
        room.connections[connection.id] = connection
        logger.info("%s joined %s from %s", hello.name, room.path, connection.peer)
        return cursor

    def _leave(self, connection: Connection, room: Room, why: str) -> Member | None:
        """Undo what `_open` and `_admit` did, however far they got; return who is gone."""
        room.connections.pop(connection.id, None)
        if (renewal := self._renewals.pop(connection.id, None)) is not None:
            renewal.cancel()
        member = None
        if connection.id in room.members:
            member = self._member(connection, room)
            room.leave(connection.id)
            logger.info("%s left %s%s", member.name, room.path, why)
        self._release(room)
        return member

    def _release(self, room: Room) -> None:
        """Undo what `_open` did."""
        room.visitors -= 1
        if room.visitors:
            return
        if self._opened is not None and room in self._openers:
            self._opened.leave(self._openers.pop(room))
        if self.rooms.get(room.path) is not room:
            return
        later = asyncio.get_running_loop().call_later(IDLE_TIME, self.forget, room.path)
        self._idle[room.path] = later
        if len(self._idle) > IDLE_ROOMS:
            self.forget(next(iter(self._idle)))

    # Rooms.

    def _announce(self, text: str, sender: str, path: str) -> None:
        if not PATH.fullmatch(path):
            raise ValueError(f"there can't be a room at {path!r}: give / or /rooms/NAME")
        if path not in self.rooms and (refusal := self.refusal(path)):
            raise UserError(refusal[1].strip())
        room = self._open(path)
        try:
            room.announce(sender, text)
        finally:
            self._release(room)

    def _open(self, path: str, host: str | None = None) -> Room:
        """Return the room at `path` for one more connection, new if need be."""
        room = self.rooms.get(path)
        if room is None:
            if len(self.rooms) >= self.max_rooms and self._idle:
                self.forget(next(iter(self._idle)))
            room = self.rooms[path] = self._new_room(path, self.capacity)
            room.log.max_bytes = self.log_bytes
        if (later := self._idle.pop(path, None)) is not None:
            later.cancel()
        if not room.visitors and self._opened is not None and not self._opened.enter(host):
            self._openers[room] = host
        room.visitors += 1
        return room

    def forget(self, path: str) -> None:
        """Let go of a room: the next one who comes there opens a new one.

        Args:
            path: the room's.
        """
        del self.rooms[path]
        if (later := self._idle.pop(path, None)) is not None:
            later.cancel()
