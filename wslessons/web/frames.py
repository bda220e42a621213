"""uvicorn's WebSocket connection, plus an ASGI extension that takes ready-made frames.

ASGI lets a server offer more than the standard, under a name of its own in `scope["extensions"]`.
`FrameProtocol` offers ``wslessons.frames``: {"writer": a `Writer`}. With it the
room's fan-out joins all that is ready into one write a connection, as it does over `websockets`.
Give the class to uvicorn: ``uvicorn.Config(app, ws=FrameProtocol)``.

Relied on here, and guarded by `tests/web/test_web.py`: uvicorn writes what its protocol object
produces at once, and sends no fragmented messages; so whole frames may go out between any two of
its writes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from websockets.http11 import Request
from websockets.protocol import State

from wslessons.guard.websocket import WebSocketConnection
from wslessons.web.connection import EXTENSION

__all__ = ["FrameProtocol"]


class FrameProtocol(WebSocketConnection):
    """A connection of uvicorn that is also a `wslessons.chat.fanout.Writer`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting: list[Callable[[], None]] = []

    def handle_connect(self, event: Request) -> None:
        """Offer the extension; the application's task has been made, and has not run yet."""
        super().handle_connect(event)
        if not self.close_sent:
            extensions: dict[str, Any] = self.scope["extensions"]
            extensions[EXTENSION] = {"writer": self}

    def write(self, data: bytes) -> bool:
        """Write whole frames, all or nothing. Never raises: False when the time is not right.

        Args:
            data: frames, as a server sends them.

        Returns:
            Whether all of it was written.
        """
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
        """Call `callback` when the buffer has drained; never if the connection has ended.

        Args:
            callback: called once, on the loop.
        """
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
