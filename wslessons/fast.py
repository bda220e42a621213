"""Lesson 7: short ways for the frames that nearly all frames are.

The library's parser is right about everything, and spends some 10 us on each frame: it is a
generator that asks for two bytes, then for two more, for four, for the rest. Nearly all that a chat
receives is one kind of frame: a whole message, of text or bytes, masked, shorter than 64 KiB, not
compressed. `plain_frames` reads those at once, and stops at the first that is anything else: a
control frame, a fragment, one with an error in it, one that has not arrived whole.

`FastConnection` is a server connection of `websockets` with two short ways:

- its `data_received` hands plain frames to the library's queue, and all others to its parser;
- its `direct` is the socket's own `send` while nothing stands between a ready-made frame and the
  socket. Nobody has to ask for the connection's state before each write, since whatever changes it
  passes through `send_data` or `connection_lost`.

`Echo` is the echo of lesson 1 on the library's sans-I/O layer alone.

It relies on internals of `websockets` and of asyncio's selector transport. `tests/test_fast.py`
holds what they are, and `pyproject.toml` bounds the library's version.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncGenerator, Callable
from typing import Any

from websockets import Request, ServerConnection
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import Protocol, State
from websockets.server import ServerProtocol
from websockets.streams import StreamReader

try:
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover - where the library was built without its C part
    from websockets.utils import apply_mask

__all__ = ["Echo", "FastConnection", "plain_frames", "text_frame"]

# First byte: FIN and the opcode, no RSV bit (RFC 6455, section 5.2).
_OPCODES = {0x81: Opcode.TEXT, 0x82: Opcode.BINARY}
_HEAD_16 = struct.Struct("!BBH")
_HEAD_64 = struct.Struct("!BBQ")
_DATA = {Opcode.TEXT, Opcode.BINARY, Opcode.CONT}
_OPEN = State.OPEN
# Where the library's parser stands between two frames, and nowhere else.
_PARSE, _BETWEEN = Protocol.parse.__code__, StreamReader.at_eof.__code__


def text_frame(payload: bytes) -> bytes:
    """Return `payload` (UTF-8) as one unmasked, uncompressed text frame.

    Such a frame may go out on a connection that negotiated permessage-deflate too: each message
    says for itself whether it is compressed (RFC 7692, section 6).

    The library's ``Frame(Opcode.TEXT, payload).serialize(mask=False)`` makes the same bytes, in six
    times the time.

    Source: RFC 6455, section 5.2.
    """
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 65536:
        return _HEAD_16.pack(0x81, 126, size) + payload
    return _HEAD_64.pack(0x81, 127, size) + payload


def plain_frames(data: bytes, max_size: int) -> tuple[list[Frame], int]:
    """Take the whole, plain data frames that `data` begins with.

    Args:
        data: what has arrived, from the beginning of a frame on.
        max_size: bytes that a payload may have; a longer one is left to the library.

    Returns:
        The frames, unmasked, and how many bytes of `data` they took.

    Source: RFC 6455, section 5.2.
    """
    frames: list[Frame] = []
    position, end = 0, len(data)
    while end - position >= 6:
        opcode = _OPCODES.get(data[position])
        length = data[position + 1] - 0x80
        if opcode is None or length < 0 or length == 127:
            break
        payload = position + 6
        if length == 126:
            length = int.from_bytes(data[position + 2 : position + 4])
            payload += 2
        after = payload + length
        if after > end or length > max_size:
            break
        frames.append(Frame(opcode, apply_mask(data[payload:after], data[payload - 4 : payload])))
        position = after
    return frames, position


def _between_frames(protocol: Protocol) -> bool:
    """Return whether the next byte begins a frame, of which nothing forbids the short way."""
    # The server's parser reads the handshake, and then does nothing but run the common one.
    parser: Any = protocol.parser  # a generator, whatever its declared type
    parse = parser.gi_yieldfrom
    return (
        protocol.state is _OPEN
        and parse is not None
        and parse.gi_code is _PARSE
        and (step := parse.gi_yieldfrom) is not None
        and step.gi_code is _BETWEEN
        and not protocol.reader.buffer
        and protocol.current_size is None
        and not protocol.extensions
        and not protocol.debug
    )


class FastConnection(ServerConnection):
    """A server connection with short ways for plain frames, in and out."""

    # Slots, here and in subclasses: the library's own attributes just fit into what Python shares
    # among the instances of a class (30 names), and one more would cost 1.6 KiB a connection.
    __slots__ = ("direct", "on_change")

    direct: Callable[[bytes], int] | None
    """The socket's `send`, while a whole frame may be handed to it at once; see `go_direct`."""
    on_change: Callable[[], object] | None
    """Called when `direct` has become None."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with the library's own way (asyncio's callback)."""
        self.direct = self.on_change = None
        # It is nearly always empty; an empty deque takes 760 bytes, an empty list 56.
        waiters: Any = []
        self.drain_waiters = waiters
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Queue the plain frames at the beginning of `data`; the library parses the rest."""
        protocol = self.protocol
        if _between_frames(protocol):
            limits = protocol.max_message_size, protocol.max_fragment_size
            frames, taken = plain_frames(data, min(n for n in (*limits, 65535) if n is not None))
            if frames:
                queue = self.recv_messages.frames
                queue.queue.extend(frames[:-1])
                # The last by the front door: it wakes who waits, and stops reading if there are
                # too many.
                self.recv_messages.put(frames[-1])
                if taken == len(data):
                    return
                data = data[taken:]
        super().data_received(data)

    def go_direct(self, on_change: Callable[[], object]) -> bool:
        """Set `direct` if a frame may now go straight to the socket; return whether it may.

        Args:
            on_change: called once, when it no longer may.

        It may while the connection is open, no fragmented message is on its way (RFC 6455, section
        5.4), and the transport holds nothing back, so that nothing can be overtaken.
        """
        transport = self.transport
        sock = getattr(transport, "_sock", None)
        if (
            self.protocol.state is _OPEN
            and self.send_in_progress is None
            and not transport.is_closing()
            and transport.get_write_buffer_size() == 0
            # asyncio's plain transport alone has a real socket: TLS and uvloop have other means.
            and isinstance(sock, socket.socket)
        ):
            self.direct, self.on_change = sock.send, on_change
            return True
        return False

    def not_direct(self) -> None:
        """Have the next frame go through the transport, which keeps the order and the bounds."""
        self.direct, on_change, self.on_change = None, self.on_change, None
        if on_change is not None:
            on_change()

    def send_data(self) -> None:
        """Send what the library has ready, and see whether frames may still go out directly."""
        super().send_data()
        if self.direct is not None and (
            self.protocol.state is not _OPEN
            or self.send_in_progress is not None
            or self.transport.get_write_buffer_size()
        ):
            self.not_direct()

    def connection_lost(self, exc: Exception | None) -> None:
        """End direct writing with the connection (asyncio's callback)."""
        self.not_direct()
        super().connection_lost(exc)


class Echo(asyncio.Protocol):
    """The echo of lesson 1 with nothing between the frames and the socket: no task and no queue.

    The library's sans-I/O layer makes the handshake and reads each frame that `plain_frames` leaves
    to it; a plain one is answered where it was read. A peer that does not read its answers is not
    read from either, so that a connection holds no more than one read's worth of them.

    Not handled here: compression, TLS, and keepalive, so that a peer which is gone without a word
    is noticed by TCP alone.

    Args:
        raw: True to send messages back unchanged; else text gets the prefix ``Echo: ``.
        max_size: bytes that a message may have.
        connections: a set that the connection stays in for as long as it lasts.
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
    ) -> None:
        self.prefix = b"" if raw else b"Echo: "
        self.connections = set() if connections is None else connections
        self.protocol = ServerProtocol(max_size=max_size)
        self._plain_size = min(max_size, 65535)
        self._message = bytearray()
        """The fragments of a message so far (RFC 6455, section 5.4)."""
        self._is_text = True
        self._deadline: asyncio.TimerHandle | None = None
        self._lost: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the handshake (asyncio's callback)."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.connections.add(self)
        self._expire_in(self.OPEN_TIMEOUT)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection (asyncio's callback)."""
        self.connections.discard(self)
        self._expire_in(None)
        if self._lost is not None:
            self._lost.set_result(None)

    def pause_writing(self) -> None:
        """Read nothing from a peer that does not read (asyncio's callback)."""
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Read again (asyncio's callback)."""
        self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Answer the plain frames, and have the library read the rest (asyncio's callback)."""
        if _between_frames(self.protocol):
            frames, taken = plain_frames(data, self._plain_size)
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
        self.protocol.receive_data(data)
        self._process()

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
        if self._lost is None:
            self._lost = asyncio.get_running_loop().create_future()
        if self.protocol.state is _OPEN:
            self.protocol.send_close(code)
            self._process()
        elif self.protocol.state is State.CONNECTING:
            self.transport.abort()
        return self._lost

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

    def _process(self) -> None:
        """Do what follows from what the library has read, and write what it has to say."""
        protocol = self.protocol
        answers = []
        for event in protocol.events_received():
            if isinstance(event, Request):
                protocol.send_response(protocol.accept(event))
                if protocol.state is _OPEN:
                    self._expire_in(None)
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
        for data in protocol.data_to_send():
            if data:
                self.transport.write(data)
            elif self.transport.can_write_eof():
                self.transport.write_eof()
            else:
                self.transport.close()
        if answers and last:
            self.transport.write(b"".join(answers))
        if protocol.close_expected() and self._deadline is None:
            self._expire_in(self.CLOSE_TIMEOUT)

    def _expire_in(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = (
            None
            if seconds is None
            else asyncio.get_running_loop().call_later(seconds, self.transport.abort)
        )

    @classmethod
    @contextlib.asynccontextmanager
    async def serve(
        cls, host: str = "127.0.0.1", port: int = 0, **options: Any
    ) -> AsyncGenerator[asyncio.Server]:
        """Serve the echo: ``async with Echo.serve() as server``.

        At the end each connection is closed with 1001, and aborted if that takes too long.

        Args:
            host: the address to bind.
            port: the TCP port; 0 takes a free one.
            options: those of `Echo`.
        """
        connections: set[Echo] = set()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: cls(connections=connections, **options), host, port
        )
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
