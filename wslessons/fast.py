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

It relies on internals of `websockets` and of asyncio's selector transport. `tests/test_fast.py`
holds what they are, and `pyproject.toml` bounds the library's version.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from websockets import ServerConnection
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, State
from websockets.streams import StreamReader

try:
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover - where the library was built without its C part
    from websockets.utils import apply_mask

__all__ = ["FastConnection", "plain_frames"]

# First byte: FIN and the opcode, no RSV bit (RFC 6455, section 5.2).
_OPCODES = {0x81: Opcode.TEXT, 0x82: Opcode.BINARY}
_OPEN = State.OPEN
# Where the library's parser stands between two frames, and nowhere else.
_PARSE, _BETWEEN = Protocol.parse.__code__, StreamReader.at_eof.__code__


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


class FastConnection(ServerConnection):
    """A server connection with short ways for plain frames, in and out."""

    direct: Callable[[bytes], int] | None = None
    """The socket's `send`, while a whole frame may be handed to it at once; see `go_direct`."""
    on_change: Callable[[], object] | None = None
    """Called when `direct` has become None."""

    def data_received(self, data: bytes) -> None:
        """Queue the plain frames at the beginning of `data`; the library parses the rest."""
        protocol = self.protocol
        # The server's parser reads the handshake, and then does nothing but run the common one.
        parser: Any = protocol.parser  # a generator, whatever its declared type
        parse = parser.gi_yieldfrom
        if (
            protocol.state is _OPEN
            and parse is not None
            and parse.gi_code is _PARSE
            and (step := parse.gi_yieldfrom) is not None
            and step.gi_code is _BETWEEN
            and not protocol.reader.buffer
            and protocol.current_size is None
            and not protocol.extensions
            and not protocol.debug
        ):
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
