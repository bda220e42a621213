"""A WebSocket of ASGI as the chat sees it, and how to write to it in batches.

ASGI has one way to send: ``await send({"type": "websocket.send", "text": ...})``, one message a
call, and what a server does with it is one write to the socket, one system call. So the fan-out's
best trick, all that is ready in one write, is out of reach. What is left of it, `AsgiWriter` does:
each event is encoded once for everybody, joined frames are taken apart once for everybody, and a
member's task wakes up once for all that is ready. `wslessons bench web` has the price.

A server may offer more: the extension ``wslessons.frames`` (see `wslessons.web.frames`) is a
`Writer` that takes ready-made frames, and then the room's fan-out works at full speed.

Source: https://asgi.readthedocs.io/en/latest/specs/www.html#websocket
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Callable
from typing import Any

from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from wslessons.chat.connection import Gone
from wslessons.chat.fanout import Writer
from wslessons.chat.identity import Denied, Opening
from wslessons.connection import host_port
from wslessons.web.metrics import Meter, code_label

__all__ = ["EXTENSION", "AsgiWriter", "WebConnection", "close_code", "connected"]

EXTENSION = "wslessons.frames"
CLOSE_TIMEOUT = 1.0
"""Seconds that a close frame may wait behind what a peer does not read."""


def close_code(message: Message) -> int:
    """Return the code in a "websocket.disconnect": 1006 for a connection that broke off.

    uvicorn says 1005 for these, and then has no reason to give, not even an empty one.

    Args:
        message: ASGI's.

    Returns:
        The code.
    """
    code: int = message.get("code", 1005)
    return 1006 if code == 1005 and "reason" not in message else code


class AsgiWriter:
    """Take joined frames from a fan-out and send them one message at a time, in a task.

    While a batch is on its way the writer takes no other: its member lags in the room's log, and
    what it holds up in memory is that one batch, which it shares with others.

    Args:
        websocket: Starlette's, which has been accepted.
        meter: counts the messages.
    """

    def __init__(self, websocket: WebSocket, meter: Meter) -> None:
        self._websocket = websocket
        self._meter = meter
        self._batch: list[str] = []
        self._waiting: list[Callable[[], None]] = []
        self._more = asyncio.Event()
        self.ended = False

    def write(self, data: bytes) -> bool:
        """Take all of `data`, or nothing while there is a batch on its way.

        Args:
            data: frames of text, each as a server sends it.

        Returns:
            Whether it was taken.
        """
        if self._batch or self.ended:
            return False
        self._batch = self._meter.split(data)
        self._more.set()
        return True

    def when_writable(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the batch has been sent.

        Args:
            callback: called once, on the loop.
        """
        if self.ended:
            return
        if self._batch:
            self._waiting.append(callback)
        else:
            asyncio.get_running_loop().call_soon(callback)

    async def run(self) -> None:
        """Send batches until the connection ends, or the task is cancelled."""
        send = self._websocket.send
        try:
            while True:
                await self._more.wait()
                self._more.clear()
                for text in self._batch:
                    await send({"type": "websocket.send", "text": text})
                self._meter.sent += len(self._batch)
                self._batch = []
                waiting, self._waiting = self._waiting, []
                for callback in waiting:
                    callback()
        except (WebSocketDisconnect, RuntimeError):
            pass  # It has ended; the reader is told, too.
        finally:
            self.ended, self._batch, self._waiting = True, [], []


class _Metered:
    """A writer that counts what it writes."""

    __slots__ = ("_meter", "_writer")

    def __init__(self, writer: Writer, meter: Meter) -> None:
        self._writer, self._meter = writer, meter

    def write(self, data: bytes) -> bool:
        if not self._writer.write(data):
            return False
        self._meter.wrote(data)
        return True

    def when_writable(self, callback: Callable[[], None]) -> None:
        self._writer.when_writable(callback)


class WebConnection:
    """An accepted ASGI WebSocket as `wslessons.chat.connection.Connection`; made by `connected`.

    Args:
        websocket: accepted already.
        path: the room's.
        meter: what counts its messages.
        batched: False to have each message sent by a task of its own.
    """

    def __init__(
        self, websocket: WebSocket, path: str, meter: Meter, *, batched: bool = True
    ) -> None:
        self.websocket = websocket
        self.id = secrets.token_hex(16)
        self.path = path
        self.subprotocol: str | None = None
        self.peer = host_port(websocket.scope.get("client"))
        self.opening: Opening | Denied | None = None
        self.writer: Writer | None = None
        self.own_writer: AsgiWriter | None = None
        self.code = 1006
        """The close code, once it has ended: the peer's, or ours if we were first."""
        self._meter = meter
        offered: dict[str, Any] = websocket.scope.get("extensions", {}).get(EXTENSION, {})
        if batched and offered:
            self.writer = _Metered(offered["writer"], meter)
        elif batched:
            self.writer = self.own_writer = AsgiWriter(websocket, meter)

    @property
    def is_open(self) -> bool:
        """Whether it has not begun to close."""
        socket = self.websocket
        return socket.client_state is socket.application_state is WebSocketState.CONNECTED

    async def recv(self) -> str | bytes:
        """Return the next message.

        Raises:
            Gone: the connection has ended.
        """
        if self.websocket.client_state is WebSocketState.DISCONNECTED:
            raise Gone(self.code)
        message = await self.websocket.receive()
        if message["type"] == "websocket.disconnect":
            self.code = close_code(message)
            raise Gone(self.code)
        self._meter.received += 1
        text: str | None = message.get("text")
        return message["bytes"] if text is None else text

    async def send(self, payload: bytes) -> None:
        """Send a text message.

        Args:
            payload: the text, as UTF-8.

        Raises:
            Gone: the connection has ended.
        """
        try:
            await self.websocket.send({"type": "websocket.send", "text": payload.decode()})
        except (WebSocketDisconnect, RuntimeError):
            raise Gone(self.code) from None
        self._meter.sent_payload(payload)

    async def close(self, code: int, reason: str) -> None:
        """Send a close frame; the server waits for the answer and ends the connection.

        Args:
            code: the close code (RFC 6455, section 7.4.1).
            reason: at most 123 bytes of UTF-8.
        """
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                if self.is_open:
                    self.code = code
                    await self.websocket.close(code, reason)


@contextlib.asynccontextmanager
async def connected(
    websocket: WebSocket, path: str, meter: Meter, subprotocol: str | None, *, batched: bool = True
) -> AsyncGenerator[WebConnection]:
    """Accept `websocket`; give a connection that the chat can handle while the block runs.

    Args:
        websocket: Starlette's, not yet accepted.
        path: the room's.
        meter: what counts its messages.
        subprotocol: the chosen one; None for plain text.
        batched: False to have each message sent by a task of its own.

    Yields:
        The connection.
    """
    await websocket.accept(subprotocol)
    connection = WebConnection(websocket, path, meter, batched=batched)
    connection.subprotocol = subprotocol
    own = connection.own_writer
    writing = asyncio.create_task(own.run()) if own is not None else None
    meter.opened += 1
    try:
        yield connection
    finally:
        if writing is not None:
            writing.cancel()
            await asyncio.wait([writing])
        meter.closed[code_label(connection.code)] += 1
