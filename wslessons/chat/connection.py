"""What carries the chat: a connection of any library, and the one of `websockets`."""

from __future__ import annotations

from typing import Protocol

from websockets import ConnectionClosed, ServerConnection
from websockets.protocol import State

from wslessons import serving
from wslessons.chat.frames import FrameWriter, Writer
from wslessons.chat.rules import clean_text

__all__ = ["Connection", "Gone", "LibraryConnection", "Refused"]


class Gone(Exception):
    """The connection has ended; `code` is the close code received (RFC 6455, section 7.1.5)."""

    def __init__(self, code: int = 1006) -> None:
        super().__init__(f"connection closed with {code}")
        self.code = code


class Refused(Exception):
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
