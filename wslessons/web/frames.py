"""uvicorn's WebSocket connection, plus an ASGI extension that takes ready-made frames.

ASGI lets a server offer more than the standard, under a name of its own in `scope["extensions"]`.
`FrameProtocol` offers ``wslessons.frames``: {"writer": a `Writer`}. With it the
room's fan-out joins all that is ready into one write a connection, as it does over `websockets`.
Give the class to uvicorn: ``uvicorn.Config(app, ws=FrameProtocol)``.

Beyond that it ends connections as `wslessons.serving` does: a peer that does not answer is dropped
after `CLOSE_TIMEOUT`, whatever waits in its buffer, and one that broke a rule has the time to read
why. (uvicorn closes the socket at once then, and TCP throws away a close frame that is still under
way to somebody who is still sending.)

Relied on here, and guarded by `tests/test_web.py`: uvicorn writes what its protocol object produces
at once, and sends no fragmented messages; so whole frames may go out between any two of its writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request
from websockets.protocol import State

from wslessons.web.connection import EXTENSION

__all__ = ["CLOSE_TIMEOUT", "FrameProtocol"]

CLOSE_TIMEOUT = 1.0
"""Seconds that a peer has to answer a close frame."""


class FrameProtocol(WebSocketsSansIOProtocol):
    """A connection of uvicorn that is also a `wslessons.chat.fanout.Writer`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.close_timeout = CLOSE_TIMEOUT
        self._waiting: list[Callable[[], None]] = []

    # The extension.

    def handle_connect(self, event: Request) -> None:
        """Offer the extension; the application's task has been made, and has not run yet."""
        super().handle_connect(event)
        if not self.close_sent:
            extensions: dict[str, Any] = self.scope["extensions"]
            extensions[EXTENSION] = {"writer": self}

    def write(self, data: bytes) -> bool:
        """Write whole frames, all or nothing. Never raises: False when the time is not right."""
        if (
            not self.writable.is_set()
            or self.conn.state is not State.OPEN
            or self.close_sent
            or self.transport.is_closing()
        ):
            return False
        self.transport.write(data)
        return True

    def when_writable(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the buffer has drained; never if the connection has ended."""
        if self.close_sent or self.transport.is_closing():
            return
        if self.writable.is_set():
            self.loop.call_soon(callback)
        else:
            self._waiting.append(callback)

    def resume_writing(self) -> None:
        """Tell those who wait (asyncio's callback)."""
        super().resume_writing()
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget those who wait: it will never be writable again (asyncio's callback)."""
        self._waiting = []
        super().connection_lost(exc)

    # How it ends.

    def _await_reply(self) -> None:
        """Leave the socket open until the peer has closed its side, for a bounded time."""
        self.close_sent = True
        self.stop_keepalive()
        if self.close_timer is None:
            self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()

    def handle_parser_exception(self) -> None:
        """Tell a peer that broke the protocol, and read on, into the void, until it has read it."""
        if self.close_sent:
            return
        close = self.conn.close_sent
        assert close is not None
        self.queue.put_nowait(
            {"type": "websocket.disconnect", "code": close.code, "reason": close.reason}
        )
        self.transport.write(b"".join(self.conn.data_to_send()))
        self._await_reply()

    def shutdown(self) -> None:
        """Close with 1012 (service restart): uvicorn stops."""
        if self.close_sent or not self.handshake_complete or self.transport.is_closing():
            super().shutdown()
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": 1012, "reason": ""})
        self.conn.send_close(1012)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self._await_reply()

    def keepalive_timeout(self) -> None:
        """Drop a peer that has stopped answering, even if it has stopped reading, too."""
        super().keepalive_timeout()
        self.loop.call_later(self.close_timeout, self.transport.abort)

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """Drop it for good some time after the application has ended."""
        super().on_task_complete(task)
        self.loop.call_later(self.close_timeout, self.transport.abort)
