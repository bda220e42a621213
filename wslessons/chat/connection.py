"""What carries the chat: a connection of any library, and the one of `websockets`."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Protocol

from websockets import ConnectionClosed, ServerConnection
from websockets.asyncio.connection import Connection as AnyConnection
from websockets.frames import Opcode
from websockets.protocol import State

from wslessons.chat.fanout import Writer
from wslessons.chat.identity import Denied, Opening
from wslessons.connection import LoggedConnection, peer
from wslessons.logs import one_line

__all__ = ["Connection", "FrameWriter", "Gone", "LibraryConnection"]

logger = logging.getLogger(__name__)

_OPEN, _TEXT = State.OPEN, Opcode.TEXT


class Gone(Exception):
    """The connection has ended.

    Args:
        code: the close code received (RFC 6455, section 7.1.5).
        why: what is known beyond that, for the log.
    """

    def __init__(self, code: int = 1006, why: str = "") -> None:
        super().__init__(why or f"closed with {code}")
        self.code = code


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
    opening: Opening | Denied | None
    """Who it is, where somebody has been asked; or why it may not stay."""

    async def recv(self) -> str | bytes:
        """Return the next message: str for text, bytes for binary. Cancelling is safe."""
        ...

    async def send(self, payload: bytes) -> None:
        """Send one text message; wait while the peer reads too slowly.

        Args:
            payload: the text in UTF-8.
        """
        ...

    async def close(self, code: int, reason: str) -> None:
        """Complete the closing handshake, in bounded time. Idempotent, never raises.

        Args:
            code: the close code (RFC 6455, section 7.4).
            reason: at most 123 bytes of UTF-8.
        """
        ...


class FrameWriter:
    """Write ready-made frames to a connection of `websockets`, past the library's own `send`.

    The facts about the library that it relies on are guarded by `tests/chat/test_fanout.py`, which
    would notice a release that changes them.

    Args:
        connection: one whose opening handshake is done.
    """

    # Slots, as there are many of these and each write visits them all: less memory to walk.
    __slots__ = ("_protocol", "_transport", "connection")

    def __init__(self, connection: AnyConnection) -> None:
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

        Args:
            data: frames, as a server sends them.

        Returns:
            Whether all of it was written.
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
        """Call `callback` when the buffer has drained or the fragmented message has ended.

        Args:
            callback: called once, on the loop.
        """
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

    def direct(self, until: Callable[[], object]) -> socket.socket | None:
        """Return the socket, to send on until `until` is called; None where that may not be.

        It may where `write` would answer True and hand everything to the socket at once; the
        connection, which sees everything that changes this, says when it is over.

        Args:
            until: called when nothing may be sent directly any more.

        Returns:
            The socket, or None.
        """
        connection = self.connection
        if isinstance(connection, LoggedConnection) and connection.go_direct(until):
            return connection.direct
        return None

    def finish(self, rest: memoryview) -> None:
        """Have the transport keep and send the rest of a frame that the socket took in part.

        Args:
            rest: what the socket has not taken.
        """
        self._transport.write(rest)


class LibraryConnection:
    """A connection of `websockets` as the chat sees it.

    Args:
        connection: one whose opening handshake is done.
        fanout: False to have each message sent by a task of its own.
        opening: as for `Connection`.
    """

    __slots__ = ("_connection", "id", "opening", "path", "peer", "subprotocol", "writer")

    def __init__(
        self,
        connection: ServerConnection,
        *,
        fanout: bool = True,
        opening: Opening | Denied | None = None,
    ) -> None:
        assert connection.request is not None
        # The answer to the handshake has been sent, and takes 1.2 KiB.
        connection.response = None
        self._connection = connection
        self.id = connection.id.hex
        self.path = connection.request.path.partition("?")[0]
        self.subprotocol: str | None = connection.subprotocol
        self.peer = peer(connection)
        self.writer: Writer | None = FrameWriter(connection) if fanout else None
        self.opening = opening

    async def recv(self) -> str | bytes:
        """Return the next message.

        Raises:
            Gone: the connection has ended.
        """
        messages = self._connection.recv_messages
        queue = messages.frames.queue
        if queue and queue[0].fin and queue[0].opcode is _TEXT and not messages.get_in_progress:
            # As nearly always: it has arrived, in one piece, and need not be put together.
            try:
                text = str(queue[0].data, "utf-8")
            except UnicodeDecodeError:
                pass  # the library closes the connection with 1007
            else:
                queue.popleft()
                if messages.paused:
                    messages.maybe_resume()
                return text
        try:
            return await self._connection.recv()
        except ConnectionClosed as exc:
            raise Gone(self._connection.close_code or 1006, one_line(exc)) from exc

    async def send(self, payload: bytes) -> None:
        """Send a text message.

        Args:
            payload: the text, as UTF-8.

        Raises:
            Gone: the connection has ended.
        """
        try:
            await self._connection.send(payload, text=True)
        except ConnectionClosed as exc:
            raise Gone(self._connection.close_code or 1006, one_line(exc)) from exc

    async def close(self, code: int, reason: str) -> None:
        """Complete the closing handshake.

        Args:
            code: the close code (RFC 6455, section 7.4.1).
            reason: at most 123 bytes of UTF-8.
        """
        await self._connection.close(code, reason)
