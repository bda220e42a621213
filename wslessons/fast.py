"""Lesson 7: the echo of lesson 1, as lean as Python allows.

    async with Echo.serve() as server:
        await server.serve_forever()

`wslessons.connection` has what else lesson 7 shows: frames that are read at once, and writes that
go straight to the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import select
import socket
from collections.abc import AsyncGenerator, Callable
from http import HTTPStatus
from typing import Any, cast

from websockets import Request
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from wslessons.connection import (
    apply_mask,
    head_end,
    host_port,
    log_refusal,
    malformed,
    plain_frames,
    text_frame,
)
from wslessons.heartbeat import Heartbeat
from wslessons.limits import ConnectionLimit, Door

__all__ = ["Echo"]

_DATA = {Opcode.TEXT, Opcode.BINARY, Opcode.CONT}
_OPEN = State.OPEN
_SHORT = 125
"""Bytes of a payload whose length fits into a frame's second byte (RFC 6455, section 5.2)."""
_EMPTY_TEXT = bytes((0x81, 0x80, 0, 0, 0, 0))
"""A plain frame: what `plain_frames` takes of it tells whether it takes any, now."""
_READ = 2**16
"""Bytes that are read at once."""


@functools.cache
def _heads(prefix: bytes) -> list[bytes]:
    """Return what stands before each text of 0, 1, 2, ... `_SHORT` bytes: the header and prefix."""
    frames = [text_frame(prefix + bytes(size)) for size in range(_SHORT + 1)]
    return [frame[: len(frame) - size] for size, frame in enumerate(frames)]


class _Poller:
    """Read from all connections that are ready in one callback of the event loop.

    asyncio makes a handle for each socket that is ready, queues it, runs it in its context, and
    comes by two more functions to `data_received`: a quarter of what an echo takes. Here the loop
    watches one epoll, in which all the sockets are. Where there is none (it is Linux's), and on
    uvloop, whose transports have no socket, asyncio's own way is taken.

    Source: https://man7.org/linux/man-pages/man7/epoll.7.html
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoll: Any = select.epoll() if hasattr(select, "epoll") else None
        self._readers: dict[int, Any] = {}
        if self._epoll is not None:
            self._loop.add_reader(self._epoll.fileno(), self._read)

    def add(self, connection: Echo) -> bool:
        """Read for this connection, whose transport no longer does; return False if it has to."""
        sock = getattr(connection.transport, "_sock", None)
        if self._epoll is None or not isinstance(sock, socket.socket):
            return False
        connection.transport.pause_reading()
        # So it reads nothing while the transport holds anything, and what it answers to something
        # that it has read can overtake nothing.
        connection.transport.set_write_buffer_limits(0)
        connection.direct = sock.send
        if sock.fileno() not in self._readers:
            self._readers[sock.fileno()] = connection, connection.transport.is_closing, sock.recv
            self._epoll.register(sock, select.EPOLLIN)
        return True

    def remove(self, connection: Echo) -> None:
        """Read for it no more; its socket is still open."""
        sock = getattr(connection.transport, "_sock", None)
        if isinstance(sock, socket.socket) and self._readers.pop(sock.fileno(), None):
            self._epoll.unregister(sock)

    def close(self) -> None:
        """Read for nobody any more."""
        self._readers.clear()
        if self._epoll is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()

    def _read(self) -> None:
        for fd, _ in self._epoll.poll(0):
            if fd not in self._readers:
                continue  # one before it has ended it
            connection, is_closing, recv = self._readers[fd]
            try:
                if is_closing():
                    self.remove(connection)
                elif data := recv(_READ):
                    connection.data_received(data)
                else:
                    self.remove(connection)
                    connection.eof_received()
                    connection.transport.close()
            except BlockingIOError:
                continue
            except Exception as exc:
                # As asyncio's transports have it: one connection ends, and the others go on.
                if not isinstance(exc, OSError):
                    self._loop.call_exception_handler(
                        {"message": "reading from a connection failed", "exception": exc}
                    )
                connection.transport.abort()


class Echo(asyncio.Protocol):
    """The echo of lesson 1 with nothing between the frames and the socket: no task and no queue.

    The library's sans-I/O layer makes the handshake and reads each frame that `plain_frames` leaves
    to it; a plain one is answered where it was read, and a short text that came alone, which is
    nearly all that an echo gets, without even an object for its frame. A peer that does not read
    its answers is not read from either, so that a connection holds no more than one read's worth.

    Not handled here: compression and TLS.

    Args:
        raw: True to send messages back unchanged; else text gets the prefix ``Echo: ``.
        max_size: bytes that a message may have.
        connections: a set that the connection stays in for as long as it lasts.
        door: who may come in; everybody without one.
        beats: interval and timeout of a `Heartbeat`, in seconds; without one, a peer that is gone
            without a word is noticed by TCP alone.
        poller: reads for all connections of a server; the transport does without one.
    """

    OPEN_TIMEOUT = 10.0
    """Seconds for the opening handshake."""
    CLOSE_TIMEOUT = 1.0
    """Seconds for the closing handshake."""

    def __init__(
        self,
        *,
        raw: bool = False,
        max_size: int = 2**20,
        connections: set[Echo] | None = None,
        door: Door | None = None,
        beats: tuple[float, float] | None = None,
        poller: _Poller | None = None,
    ) -> None:
        self._poller = poller
        self.direct: Callable[[bytes], int] | None = None
        """The socket's `send`, if whatever is read finds the transport's buffer empty."""
        self.prefix = b"" if raw else b"Echo: "
        self.connections = set() if connections is None else connections
        self.protocol = ServerProtocol(max_size=max_size)
        self._heads = _heads(self.prefix)
        self._takes_short = max_size >= _SHORT
        self._short = False
        """Whether the next bytes begin a frame that needs no more than itself, if it is short."""
        self._message = bytearray()
        """The fragments of a message so far (RFC 6455, section 5.4)."""
        self._is_text = True
        self._deadline: asyncio.TimerHandle | None = None
        # What a `Heartbeat` reads, beside the transport and the protocol.
        self.loop = asyncio.get_running_loop()
        self.connection_lost_waiter: asyncio.Future[None] = self.loop.create_future()
        self.heartbeat: Heartbeat | None = None
        self.paused = False
        """Whether more waits to be sent than the peer takes."""
        self.received = 0
        """Bytes that have arrived."""
        self._door, self._unwelcome = door, ""
        self._beats = beats
        self._opened, self._answered = False, (101, "")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the handshake (asyncio's callback)."""
        # Those of uvloop are none by their type.
        self.transport = cast("asyncio.Transport", transport)
        self.connections.add(self)
        self._expire_in(self.OPEN_TIMEOUT)
        address = transport.get_extra_info("peername")
        self._host = address[0] if address else None
        if self._door is not None:
            self._unwelcome = self._door.enter(self._host)
            if self._unwelcome and self._door.waiting > self._door.MOST_WAITING:
                self.transport.abort()
        if self._poller is not None and not self.transport.is_closing():
            self._poller.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection (asyncio's callback)."""
        if self._poller is not None:
            self._poller.remove(self)
        self.connections.discard(self)
        self._expire_in(None)
        if self._door is not None:
            self._door.leave(self._host, self._unwelcome)
        self.connection_lost_waiter.set_result(None)
        if not self._opened:
            who = host_port(self.transport.get_extra_info("peername"))
            log_refusal(who, self._unwelcome, *self._answered, self.protocol.handshake_exc)

    def pause_writing(self) -> None:
        """Read nothing from a peer that does not read (asyncio's callback)."""
        self.paused = True
        self.transport.pause_reading()
        if self._poller is not None:
            self._poller.remove(self)

    def resume_writing(self) -> None:
        """Read again (asyncio's callback)."""
        self.paused = False
        if self._poller is None or not self._poller.add(self):
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Answer the plain frames, and have the library read the rest (asyncio's callback)."""
        size = len(data)
        self.received += size
        # FIN and TEXT, MASK and the length of all that is here, behind a head of six bytes.
        if self._short and 6 < size <= 6 + _SHORT and data[0] == 0x81 and data[1] == size + 122:
            text = apply_mask(data[6:], data[2:6])
            if text.isascii():  # other text must be seen to be UTF-8
                answer = self._heads[len(text)] + text
                if self.direct is None:
                    self.transport.write(answer)
                    return
                try:
                    sent = self.direct(answer)
                except OSError:
                    # Full or broken: the transport knows what to do about either.
                    sent = 0
                if sent != len(answer):
                    self.transport.write(answer[sent:])
                return
        self._read(data)

    def _read(self, data: bytes) -> None:
        frames, taken = plain_frames(self.protocol, data)
        if frames:
            answers = []
            for frame in frames:
                answer = self._answer(frame.opcode is Opcode.TEXT, frame.data)
                if answer is None:
                    break
                answers.append(answer)
            self.transport.write(b"".join(answers))
            data = data[taken:]
            if not data and len(answers) == len(frames):
                return
        early = b""
        if self.protocol.state is State.CONNECTING and not self.protocol.eof_sent:
            end = head_end(self.protocol, data)
            data, early = data[:end], data[end:]
        self.protocol.receive_data(data)
        self._process()
        if early:
            self._read(early)

    def eof_received(self) -> None:
        """Tell the library that nothing more will come (asyncio's callback)."""
        self.protocol.receive_eof()
        self._process()

    def close(self, code: int = 1001) -> asyncio.Future[None]:
        """Begin the closing handshake; before the opening handshake is done, abort.

        Args:
            code: the close code, 1001 for "going away" (RFC 6455, section 7.4.1).

        Returns:
            What is done when the connection is lost, a second later at most.
        """
        if self.protocol.state is _OPEN:
            self.protocol.send_close(code)
            self._process()
        elif self.protocol.state is State.CONNECTING:
            self.transport.abort()
        return self.connection_lost_waiter

    def is_reading(self) -> bool:
        """Return whether what arrives is read, by the poller or by the transport."""
        return self.direct is not None or self.transport.is_reading()

    def acknowledge_pings(self, data: bytes) -> None:
        """Leave a pong alone that answers no ping of the heartbeat.

        Args:
            data: the pong's payload.
        """

    def _answer(self, is_text: bool, data: bytes | bytearray | memoryview) -> bytes | None:
        """Return the frame that answers a message; None, failing the connection, if it is wrong."""
        if not is_text:
            return Frame(Opcode.BINARY, data).serialize(mask=False)
        try:
            bytes(data).decode()
        except UnicodeDecodeError:
            self.protocol.fail(CloseCode.INVALID_DATA, "text must be UTF-8")
            return None
        return text_frame(self.prefix + data)

    def _shake_hands(self, request: Request) -> None:
        """Answer the opening handshake."""
        protocol = self.protocol
        if self._unwelcome:
            response = protocol.reject(*Door.answer(self._unwelcome))
        elif wrong := malformed(request):
            response = protocol.reject(HTTPStatus.BAD_REQUEST, wrong)
        else:
            response = protocol.accept(request)
        protocol.send_response(response)
        self._opened = protocol.state is _OPEN
        self._answered = response.status_code, request.path
        if self._opened:
            self._expire_in(None)
            if self._beats is not None:
                Heartbeat(cast("Any", self), *self._beats).start()

    def send_data(self) -> None:
        """Write what the library has to say."""
        for data in self.protocol.data_to_send():
            if data:
                self.transport.write(data)
            elif self.transport.can_write_eof():
                self.transport.write_eof()
            else:
                self.transport.close()

    def _process(self) -> None:
        """Do what follows from what the library has read, and write what it has to say."""
        protocol = self.protocol
        answers = []
        for event in protocol.events_received():
            if isinstance(event, Request):
                self._shake_hands(event)
            elif isinstance(event, Frame) and event.opcode is Opcode.PONG:
                if self.heartbeat is not None:
                    self.heartbeat.pong(bytes(event.data))
            elif isinstance(event, Frame) and event.opcode in _DATA:
                if event.opcode is not Opcode.CONT:
                    self._is_text = event.opcode is Opcode.TEXT
                self._message += event.data
                if event.fin:
                    message, self._message = self._message, bytearray()
                    if (answer := self._answer(self._is_text, message)) is None:
                        break
                    answers.append(answer)
        # After the pongs, which are for pings that came before a message was whole; but nothing may
        # follow a close frame (RFC 6455, section 5.5.1).
        last = protocol.state is _OPEN
        if answers and not last:
            self.transport.write(b"".join(answers))
        self.send_data()
        if answers and last:
            self.transport.write(b"".join(answers))
        # Nobody but us gives the protocol anything, so until the next time this stays true.
        self._short = self._takes_short and plain_frames(protocol, _EMPTY_TEXT)[1] > 0
        if protocol.close_expected() and self._deadline is None:
            self._expire_in(self.CLOSE_TIMEOUT)

    def _expire_in(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = (
            None if seconds is None else self.loop.call_later(seconds, self.transport.abort)
        )

    @classmethod
    @contextlib.asynccontextmanager
    async def serve(
        cls,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        limit: ConnectionLimit | None = None,
        heartbeat: tuple[float, float] | None = None,
        **options: Any,
    ) -> AsyncGenerator[asyncio.Server]:
        """Serve the echo: ``async with Echo.serve() as server``.

        At the end each connection is closed with 1001, and aborted if that takes too long.

        Args:
            host: the address to bind.
            port: the TCP port; 0 takes a free one.
            limit: how many connections there may be; any number without one.
            heartbeat: interval and timeout of a `Heartbeat` for each connection, in seconds.
            options: `raw`, `max_size` and `connections` of `Echo`.

        Yields:
            The server, which asyncio ends with the block.
        """
        connections: set[Echo] = options.setdefault("connections", set())
        door = Door(limit) if limit is not None else None
        poller = _Poller()
        options |= {"door": door, "beats": heartbeat, "poller": poller}
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: cls(**options), host, port)
        try:
            yield server
        finally:
            server.close()
            ending = list(connections)
            lost = [connection.close() for connection in ending]
            if lost:
                await asyncio.wait(lost, timeout=2 * cls.CLOSE_TIMEOUT)
            for connection in ending:
                connection.transport.abort()
            await server.wait_closed()
            poller.close()
