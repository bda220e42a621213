"""A server connection of `websockets` with our habits: it ends, it is logged, and it is bounded.

The library's parser is right about everything, and spends some 10 us on each frame: it is a
generator that asks for two bytes, then for two more, for four, for the rest. Nearly all that a chat
receives is one kind of frame: a whole message, of text or bytes, masked, shorter than 64 KiB, not
compressed. `plain_frames` reads those at once, and stops at the first that is anything else: a
control frame, a fragment, one with an error in it, one that has not arrived whole.

It relies on internals of `websockets` and of asyncio's selector transport. `tests/test_fast.py`
holds what they are, and `pyproject.toml` bounds the library's version.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from websockets import ConnectionClosed, Request, ServerConnection
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import Protocol, State
from websockets.server import ServerProtocol
from websockets.streams import StreamReader

from wslessons.logs import Folded, one_line

try:
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover - where the library was built without its C part
    from websockets.utils import apply_mask

if TYPE_CHECKING:
    from wslessons.heartbeat import Heartbeat
    from wslessons.limits import Door

__all__ = [
    "LoggedConnection",
    "head_end",
    "host_port",
    "library_logger",
    "log_refusal",
    "malformed",
    "peer",
    "plain_frames",
    "text_frame",
]

logger = logging.getLogger("wslessons.serving")

SLICE = 2**15
"""Bytes that are parsed at once: they may be some thousand messages."""
COMPRESSED_SLICE = 2**12
"""The same where they may be compressed, and become a thousand times as many."""

# First byte: FIN and the opcode, no RSV bit (RFC 6455, section 5.2).
_OPCODES = {0x81: Opcode.TEXT, 0x82: Opcode.BINARY}
_HEADS = [bytes((0x81, size)) for size in range(126)]
_HEAD_16 = struct.Struct("!BBH")
_HEAD_64 = struct.Struct("!BBQ")
_OPEN, _CONNECTING = State.OPEN, State.CONNECTING
# Where the library's parser stands between two frames, and nowhere else.
_PARSE, _BETWEEN = Protocol.parse.__code__, StreamReader.at_eof.__code__


def host_port(address: Any) -> str:
    """Write a socket's address as in a URL: ``127.0.0.1:8765``, or ``[::1]:8765`` for IPv6.

    >>> host_port(("::1", 8765, 0, 0))
    '[::1]:8765'

    Args:
        address: as a socket gives it: host, port, and for IPv6 two numbers more; nothing where it
            is not known.

    Returns:
        The address, or ``unknown peer``.
    """
    if not address:
        return "unknown peer"
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def peer(connection: ServerConnection) -> str:
    """Name the other end of `connection` by its address, for the log.

    Args:
        connection: one of `websockets`.

    Returns:
        The address, as `host_port` writes it.
    """
    return host_port(connection.remote_address)


def text_frame(payload: bytes) -> bytes:
    """Return `payload` (UTF-8) as one unmasked, uncompressed text frame.

    Such a frame may go out on a connection that negotiated permessage-deflate too: each message
    says for itself whether it is compressed (RFC 7692, section 6).

    The library's ``Frame(Opcode.TEXT, payload).serialize(mask=False)`` makes the same bytes, in six
    times the time.

    Args:
        payload: UTF-8, of any length.

    Returns:
        The frame: a header of 2, 4 or 10 bytes, then the payload.

    Source: RFC 6455, section 5.2.
    """
    size = len(payload)
    if size < 126:
        return _HEADS[size] + payload
    if size < 65536:
        return _HEAD_16.pack(0x81, 126, size) + payload
    return _HEAD_64.pack(0x81, 127, size) + payload


def plain_frames(protocol: Protocol, data: bytes) -> tuple[list[Frame], int]:
    """Take the whole, plain data frames that `data` begins with, if a frame begins there.

    Args:
        protocol: the library's, which has read everything before `data`. It gets nothing of what is
            taken, and whatever is not plain is left to it.
        data: what has arrived.

    Returns:
        The frames, unmasked, and how many bytes of `data` they took.

    Source: RFC 6455, section 5.2.
    """
    frames: list[Frame] = []
    # The server's parser reads the handshake, and then does nothing but run the common one.
    parser: Any = protocol.parser  # a generator, whatever its declared type
    parse = parser.gi_yieldfrom
    if (
        protocol.state is not _OPEN
        or parse is None
        or parse.gi_code is not _PARSE
        or (step := parse.gi_yieldfrom) is None
        or step.gi_code is not _BETWEEN
        or protocol.reader.buffer
        or protocol.current_size is not None
        or protocol.extensions
        or protocol.debug
    ):
        return frames, 0
    most = min(protocol.max_message_size or 65535, protocol.max_fragment_size or 65535)
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
        if after > end or length > most:
            break
        frames.append(Frame(opcode, apply_mask(data[payload:after], data[payload - 4 : payload])))
        position = after
    return frames, position


class _OneLine(logging.Filter):
    """Fold what clients cause into one line; what is the server's own fault keeps its traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, ConnectionClosed):
            connection = getattr(record, "websocket", None)
            who = peer(connection) if connection is not None else "a client"
            record.msg, record.args = "%s disconnected: %s", (who, one_line(error))
            record.exc_info = record.exc_text = None
            record.levelno, record.levelname = logging.INFO, "INFO"
        return True


_full, _refused, _left = Folded(logger), Folded(logger, most=10), Folded(logger, most=10)

# The library's own lines below WARNING name no peer; ours do, so its lines stay out.
library_logger = logging.getLogger("wslessons.websockets")
library_logger.setLevel(logging.WARNING)
library_logger.addFilter(_OneLine())


def malformed(request: Request) -> str:
    """Say what is wrong with a request that the library takes.

    Args:
        request: the one that opens a connection.

    Returns:
        A sentence, empty if all is right.

    Source: RFC 9112, sections 3 and 3.2, to which RFC 6455, section 4.2.1, adds.
    """
    if len(request.headers.get_all("Host")) != 1:
        return "A request names its host once, in a Host header.\n"
    if not (request.path.isascii() and request.path.isprintable()):
        return "An address has visible characters of ASCII only; others are percent-encoded.\n"
    return ""


def head_end(protocol: ServerProtocol, data: bytes) -> int:
    """Return how many bytes of `data` belong to the request that `protocol` is still reading.

    A client has to wait for the answer before it sends more (RFC 6455, section 4.1). The library
    would take what comes too early for frames, and end the connection before it has answered.

    Args:
        protocol: the library's, which has read everything before `data`.
        data: what has arrived.

    Returns:
        The number of bytes up to the end of the request, all if that is not here yet.
    """
    begun = bytes(protocol.reader.buffer)  # a line that is not here whole
    text = begun + data
    end = 2 if text.startswith(b"\r\n") else text.find(b"\r\n\r\n") + 4
    return len(data) if end == 3 else end - len(begun)


def log_refusal(
    who: str, unwelcome: str, status: int, path: str, why: Exception | None = None
) -> None:
    """Log a connection that has ended before it was open.

    Args:
        who: its address.
        unwelcome: why there was no room for it, or nothing.
        status: what its request was answered; 101 if it left before the answer.
        path: what it asked for.
        why: what was wrong.
    """
    if unwelcome:
        _full.log(f"{who} was refused: {unwelcome}")
    elif status == 101 and why and not isinstance(why.__cause__, EOFError):
        # The library ends it without an answer, as what is no HTTP would understand none.
        _refused.log(f"{who} was refused: {one_line(f'{why}: {why.__cause__}', 200)}")
    elif status == 101:
        _left.log(f"{who} left before the opening handshake was finished")
    else:
        # Without the query, which may hold a secret.
        path, because = path.partition("?")[0], f": {why}" if why else ""
        refused = f"{who} was refused with {status}: {one_line(path, 100)}"
        _refused.log(refused + one_line(because, 200))


class LoggedConnection(ServerConnection):
    """A server connection that always ends, in one line of the log, and whose memory is bounded.

    The library notes a deadline when it fails a connection, but acts on it only inside a call such
    as `close` or the next keepalive ping: a client that breaks the protocol and then keeps its
    socket open would stay for all that time. Here the deadline holds by itself.

    The library parses all that has arrived before it looks whether its queue is full: up to 256 KiB
    at once, which may be compressed and 1,000 times as much. And it answers each ping, also to a
    peer that reads none of the pongs. Here data is parsed in slices, and none while messages wait
    for the handler or while the peer does not read what we send; it waits as it came, and then
    reading stops.

    And there are two short ways, past what the library does for each frame: plain ones are handed
    to its queue at once, see `plain_frames`; and `direct` is the socket itself while nothing
    stands between a ready-made frame and the socket. Nobody has to ask for the connection's state
    before each write, since whatever changes it passes through `send_data` or `connection_lost`.

    Args:
        args: those of `websockets.asyncio.server.ServerConnection`.
        door: who may come in; None for everybody.
        kwargs: the same class's.
    """

    alive: ClassVar[weakref.WeakSet[LoggedConnection]] = weakref.WeakSet()

    # Slots: the library's own attributes just fit into what Python shares among the instances of a
    # class (30 names), and one more would cost 1.6 KiB a connection.
    __slots__ = (
        "_deadline",
        "_unparsed",
        "direct",
        "door",
        "heartbeat",
        "on_change",
        "opened",
        "received",
        "unwelcome",
    )

    door: Door | None
    unwelcome: str
    """Why there is no room for it."""
    opened: bool
    """Whether its handler has been called."""
    received: int
    """Bytes that have arrived."""
    heartbeat: Heartbeat | None
    """The one it has, which sets this."""
    direct: socket.socket | None
    """The socket, while a whole frame may be handed to it at once; see `go_direct`."""
    on_change: Callable[[], object] | None
    """Called when `direct` has become None."""
    _deadline: asyncio.TimerHandle | None
    _unparsed: bytearray | None

    def __init__(self, *args: Any, door: Door | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.door, self.unwelcome = door, ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the connection from its first moment, for `shut` (asyncio's callback)."""
        self.opened, self.received, self.heartbeat = False, 0, None
        self._deadline = self._unparsed = self.direct = self.on_change = None
        # It is nearly always empty; an empty deque takes 760 bytes, an empty list 56.
        waiters: Any = []
        self.drain_waiters = waiters
        super().connection_made(transport)
        self.recv_messages.resume = self._read_on_soon
        self.alive.add(self)
        if self.door is not None:
            self.unwelcome = self.door.enter(self._host)
            if self.unwelcome and self.door.waiting > self.door.MOST_WAITING:
                self.transport.abort()

    @property
    def _host(self) -> str | None:
        address = self.remote_address
        return address[0] if address else None

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, or keep it while it must wait (asyncio's callback)."""
        self.received += len(data)
        size = COMPRESSED_SLICE if self.protocol.extensions else SLICE
        if len(data) <= size and self._unparsed is None and not self.paused:
            # Most of what arrives is plain frames. The last goes in by the front door: that wakes
            # who waits, and stops reading if there are too many.
            frames, taken = plain_frames(self.protocol, data)
            if frames:
                self.recv_messages.frames.queue.extend(frames[:-1])
                self.recv_messages.put(frames[-1])
            if taken < len(data) and self.protocol.state is not _CONNECTING:
                super().data_received(data[taken:])
            elif taken < len(data):
                self._unparsed = bytearray(data)
                self._read_on()
        else:
            if self._unparsed is None:
                self._unparsed = bytearray()
            self._unparsed += data
            self._read_on()
        # Keep the deadline that failing or closing the connection has set.
        if self.close_deadline is not None and self._deadline is None:
            self._deadline = self.loop.call_at(self.close_deadline, self.transport.abort)

    async def handshake(self, *args: Any, **kwargs: Any) -> None:
        """Answer the request, and only then read what has come after it."""
        await super().handshake(*args, **kwargs)
        if self._unparsed is not None:
            self._read_on()

    def resume_writing(self) -> None:
        """Read again what the peer sends, as it has read what we sent (asyncio's callback)."""
        super().resume_writing()
        if self._unparsed is not None:
            self._read_on_soon()

    def acknowledge_pings(self, data: bytes) -> None:
        """Show a pong to the heartbeat (the library's own hook for its keepalive)."""
        if self.heartbeat is None or not self.heartbeat.pong(data):
            super().acknowledge_pings(data)

    def _read_on_soon(self) -> None:
        # Not at once: the handler that has made room for more would never let go of the loop.
        self.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        """Parse what waits, slice by slice, and read from the socket again once nothing waits."""
        unparsed, protocol = self._unparsed, self.protocol
        size = COMPRESSED_SLICE if protocol.extensions else SLICE
        while unparsed:
            piece = bytes(unparsed[:size])
            shaking_hands = protocol.state is _CONNECTING and not protocol.eof_sent
            if shaking_hands and self.request is None:
                piece = piece[: head_end(protocol, piece)]
            elif shaking_hands or self.paused or self.recv_messages.paused:
                self.transport.pause_reading()
                return
            del unparsed[: len(piece)]
            super().data_received(piece)
        self._unparsed = None
        if not self.recv_messages.paused:
            self.transport.resume_reading()

    def go_direct(self, on_change: Callable[[], object]) -> bool:
        """Set `direct` if a frame may now go straight to the socket.

        Args:
            on_change: called once, when it no longer may.

        It may while the connection is open, no fragmented message is on its way (RFC 6455, section
        5.4), and the transport holds nothing back, so that nothing can be overtaken.

        Returns:
            Whether it may.
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
            self.direct, self.on_change = sock, on_change
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

    async def close(self, code: CloseCode | int = 1000, reason: str = "") -> None:
        """Complete the closing handshake, or abort after `close_timeout` seconds.

        The library has a deadline for the peer's answer and none for getting its own close frame
        into a socket that is full, so that a peer that reads nothing would hold its handler.
        """
        timeout = None if self.close_timeout is None else self.close_timeout + 0.1
        try:
            async with asyncio.timeout(timeout):
                await super().close(code, reason)
        except TimeoutError:
            self.transport.abort()
            await self.wait_closed()

    def connection_lost(self, exc: Exception | None) -> None:
        """Log a connection that ends before its handler could start (asyncio's callback)."""
        self.not_direct()
        super().connection_lost(exc)
        self.alive.discard(self)
        self._unparsed = None
        if self._deadline is not None:
            self._deadline.cancel()
        if self.door is not None:
            self.door.leave(self._host, self.unwelcome)
        if not self.opened:
            status = self.response.status_code if self.response is not None else 101
            path = self.request.path if self.request is not None else ""
            log_refusal(peer(self), self.unwelcome, status, path, self.protocol.handshake_exc)
