"""The contenders of ``wslessons bench web``, each a server in a process of its own.

    python -m wslessons.bench.web_server frames

- ``library``: `wslessons.chat` over `websockets`, the measure of all others;
- ``frames``: the web application, uvicorn offering our ASGI extension for ready-made frames;
- ``asgi``: the same by ASGI alone, in batches (`wslessons.web.AsgiWriter`);
- ``tasks``: the same by ASGI alone, with a task for each member that forwards event by event;
- ``loop``: what one writes first, ``for ws in clients: await ws.send_text(text)``, without
  middleware.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from typing import Any

from wslessons import asgi, web
from wslessons.bench.tools import answer_parent, raise_descriptor_limit
from wslessons.chat import ChatServer
from wslessons.errors import extra

with extra("web"):
    from starlette.applications import Starlette
    from starlette.routing import WebSocketRoute
    from starlette.types import ASGIApp, Receive, Scope, Send
    from starlette.websockets import WebSocket, WebSocketDisconnect


CONTENDERS = ("library", "frames", "asgi", "tasks", "loop")
PLAIN: dict[str, Any] = {"ws": "websockets-sansio", "ws_per_message_deflate": False}


class Loop:
    """The chat that one writes first, in Starlette."""

    def __init__(self) -> None:
        self.clients: set[WebSocket] = set()

    async def endpoint(self, websocket: WebSocket) -> None:
        """Pass on each text to everyone else, one after the other."""
        await websocket.accept()
        with contextlib.suppress(WebSocketDisconnect):
            name = await websocket.receive_text()
            self.clients.add(websocket)
            try:
                await websocket.send_text(f"Welcome, {name}!")
                async for text in websocket.iter_text():
                    for other in list(self.clients):
                        if other is not websocket:
                            with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                                await other.send_text(f"[{name}] {text}")
            finally:
                self.clients.discard(websocket)


def at_root(app: ASGIApp) -> ASGIApp:
    """Let the load, which asks for ``/``, into the lobby.

    Args:
        app: what serves the lobby at ``/ws``.

    Returns:
        An application that is asked for no path.
    """

    async def moved(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "path": "/ws"} if "path" in scope else scope, receive, send)

    return moved


async def start(contender: str) -> int:
    """Start a contender.

    Args:
        contender: one of `CONTENDERS`.

    Returns:
        The TCP port where it listens.
    """
    if contender == "library":
        server = await ChatServer().serve(backlog=1024)
        return server.sockets[0].getsockname()[1]
    if contender == "loop":
        app: ASGIApp = Starlette(routes=[WebSocketRoute("/ws", Loop().endpoint)])
    else:
        app = web.application(ChatServer(fanout=contender != "tasks"))
    options = web.OPTIONS if contender == "frames" else PLAIN
    served = await asgi.start(at_root(app), **options)
    return int(served.url.rpartition(":")[2])


async def main(contender: str) -> None:
    """Serve until the parent ends.

    Args:
        contender: one of `CONTENDERS`.
    """
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    # When a run is over, the load goes first, and what was still under way for it has no taker.
    for name in ("asyncio", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.CRITICAL)

    def end() -> None:
        loop.call_soon_threadsafe(stop.set)

    answer_parent(await start(contender), end)
    await stop.wait()
    os._exit(0)


if __name__ == "__main__":
    raise_descriptor_limit(4096)
    asyncio.run(main(sys.argv[1]))
