"""Lesson 7: the echo of lesson 1, as lean as Python allows.

    async with Echo.serve() as server:
        await server.serve_forever()

`wslessons.connection` has what else lesson 7 shows: frames that are read at once, and writes that
go straight to the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any, cast

from websockets import Request
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from wslessons.connection import apply_mask, plain_frames, text_frame

__all__ = ["Echo"]

_DATA = {Opcode.TEXT, Opcode.BINARY, Opcode.CONT}
_OPEN = State.OPEN
_SHORT = 125
"""Bytes of a payload whose length fits into a frame's second byte (RFC 6455, section 5.2)."""
_EMPTY_TEXT = bytes((0x81, 0x80, 0, 0, 0, 0))
"""A plain frame: what `plain_frames` takes of it tells whether it takes any, now."""


class Echo(asyncio.Protocol):
    """The echo of lesson 1 with nothing between the frames and the socket: no task and no queue.

    The library's sans-I/O layer makes the handshake and reads each frame that `plain_frames` leaves
    to it; a plain one is answered where it was read, and a short text that came alone, which is
    nearly all that an echo gets, without even an object for its frame. A peer that does not read
    its answers is not read from either, so that a connection holds no more than one read's worth.

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
        self._takes_short = max_size >= _SHORT
        self._short = False
        """Whether the next bytes begin a frame that needs no more than itself, if it is short."""
        self._message = bytearray()
        """The fragments of a message so far (RFC 6455, section 5.4)."""
        self._is_text = True
        self._deadline: asyncio.TimerHandle | None = None
        self._lost: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the handshake (asyncio's callback)."""
        # Those of uvloop are none by their type.
        self.transport = cast("asyncio.Transport", transport)
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
        size = len(data)
        # FIN and TEXT, MASK and the length of all that is here, behind a head of six bytes.
        if self._short and 6 < size <= 6 + _SHORT and data[0] == 0x81 and data[1] == size + 122:
            text = apply_mask(data[6:], data[2:6])
            if text.isascii():  # other text must be seen to be UTF-8
                self.transport.write(text_frame(self.prefix + text))
                return
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
        # Nobody but us gives the protocol anything, so until the next time this stays true.
        self._short = self._takes_short and plain_frames(protocol, _EMPTY_TEXT)[1] > 0
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
