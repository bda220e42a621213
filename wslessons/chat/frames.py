"""Write ready-made frames past the library's own `send`: the one place that does.

The facts it relies on are guarded by `tests/test_fanout.py`, which would notice a release of
`websockets` that changes them.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable
from typing import Protocol

from websockets.asyncio.connection import Connection
from websockets.protocol import State

__all__ = ["FrameWriter", "Writer", "text_frame"]

logger = logging.getLogger(__name__)

_OPEN = State.OPEN
_HEAD_16 = struct.Struct("!BBH")
_HEAD_64 = struct.Struct("!BBQ")


def text_frame(payload: bytes) -> bytes:
    """Return `payload` (UTF-8) as one unmasked, uncompressed text frame (RFC 6455, section 5.2).

    Such a frame may go out on a connection that negotiated permessage-deflate too: each message
    says for itself whether it is compressed (RFC 7692, section 6).

    The library's ``Frame(Opcode.TEXT, payload).serialize(mask=False)`` makes the same bytes, in six
    times the time.
    """
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 65536:
        return _HEAD_16.pack(0x81, 126, size) + payload
    return _HEAD_64.pack(0x81, 127, size) + payload


class Writer(Protocol):
    """What a fan-out needs of a connection."""

    def write(self, data: bytes) -> bool:
        """Take all of `data` now and return True, or take nothing and return False."""
        ...

    def when_writable(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, later, when `write` may succeed again; never if it cannot."""
        ...


class FrameWriter:
    """Write ready-made frames to a connection of `websockets`.

    In: a connection whose opening handshake is done.
    """

    # Slots, as there are many of these and each write visits them all: less memory to walk.
    __slots__ = ("_protocol", "_transport", "connection")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._protocol = connection.protocol
        self._transport = connection.transport

    def write(self, data: bytes) -> bool:
        """Write whole frames, all or nothing. Never raises: False when the time is not right.

        - After a close frame nothing may follow (RFC 6455, section 5.5.1), and once the state is
          CLOSED the transport raises.
        - Inside a fragmented message another data frame is an error (section 5.4); the client
          would fail the connection with 1002.
        - After a reset the state stays OPEN until the loop's next turn and writes vanish; then
          asyncio logs a warning for each, and uvloop raises. The transport is already closing.
        - Over the high-water mark the transport would buffer without bound.
        """
        connection = self.connection
        if (
            connection.paused
            or self._protocol.state is not _OPEN
            or connection.send_in_progress is not None
            or self._transport.is_closing()
        ):
            return False
        try:
            self._transport.write(data)
        except Exception as exc:
            # One broken connection must not keep the others from getting theirs.
            logger.debug("write failed, dropping the connection: %r", exc)
            self._transport.abort()
            return False
        return True

    def when_writable(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the buffer has drained or the fragmented message has ended."""
        connection = self.connection
        if self._protocol.state is not _OPEN or self._transport.is_closing():
            return
        if connection.send_in_progress is not None:
            # Ours alone could be cancelled; this future belongs to the library, so only listen.
            connection.send_in_progress.add_done_callback(lambda _: callback())
        elif connection.paused:
            waiter = connection.loop.create_future()
            connection.drain_waiters.append(waiter)

            def drained(waiter: asyncio.Future[None]) -> None:
                connection.drain_waiters.remove(waiter)
                # A lost connection sets an exception, and one nobody looks at would be logged.
                if waiter.exception() is None:
                    callback()

            waiter.add_done_callback(drained)
        else:
            connection.loop.call_soon(callback)
