"""The servers that benches compare, each in a process of its own.

    python -m wslessons.bench.servers fanout chat

The arguments: the bench, the contender, and what else that one takes. A server listens on a free
port of 127.0.0.1, says which, and ends with its parent, see `wslessons.bench.tools.Child`; those of
``peer`` get the port as their last argument, see `wslessons.bench.peers`.

| bench | contender | what it is |
|---|---|---|
| fanout | `chat` | `wslessons.chat` as it is |
| | `tasks` | the same with a forwarding task for each member, the readable way |
| | `broadcast` | the same handler, but every message goes out by `websockets.broadcast` |
| | `naive` | what one writes first: ``for ws in clients: await ws.send(text)`` |
| web | `library` | `wslessons.chat` over `websockets`, the measure of all others |
| | `frames` | the web application, uvicorn offering our ASGI extension for ready-made frames |
| | `asgi` | the same by ASGI alone, in batches (`wslessons.web.AsgiWriter`) |
| | `tasks` | the same by ASGI alone, with a task for each member that forwards event by event |
| | `loop` | what one writes first, in Starlette and without middleware |
| heartbeat | `wslessons` | a `wslessons.heartbeat.heartbeat.Heartbeat` a connection |
| | `library` | the keepalive of `websockets`, a task a connection |
| | `none` | nobody pings |
| push | `fleet` | `wslessons.push`, with its seconds between two pings |
| peer | `library`, `compressed` | an echo by `websockets`, without and with permessage-deflate |
| | `aiohttp`, `picows` | the echo that the documentation of each would have one write |
| | `chat` | our chat, without the bounds for strangers: the load comes from one address |
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import websockets
from websockets import ConnectionClosed, ServerConnection, broadcast

from wslessons.bench.tools import answer_parent, raise_descriptor_limit
from wslessons.chat import ChatServer, Room
from wslessons.chat.channel import Receiver
from wslessons.chat.codecs import JsonCodec, Record, TextCodec
from wslessons.chat.connection import FrameWriter
from wslessons.chat.events import Message
from wslessons.chat.fanout import Codec, Fanout, Writer
from wslessons.heartbeat.heartbeat import Heartbeat

HEARTBEAT_TIMEOUT = 3
"""Intervals of silence until a connection is dropped."""


class Broadcast(Fanout[Record]):
    """In place of the room's fan-out: one `websockets.broadcast` for each message.

    Comings and goings are not sent, to its advantage: only messages are measured.
    """

    def __init__(self, room: Room) -> None:
        super().__init__(room.log)
        self._connections: dict[str, ServerConnection] = {}
        self._codec: Codec[Record] = TextCodec()

    def join(self, id: str, codec: Codec[Record], writer: Writer, cursor: Receiver[Record]) -> None:
        """Add a connection."""
        assert isinstance(writer, FrameWriter)
        assert isinstance(writer.connection, ServerConnection)
        assert not isinstance(codec, JsonCodec)
        cursor.close()
        self._connections[id] = writer.connection

    def leave(self, id: str) -> None:
        """Remove a connection."""
        self._connections.pop(id, None)

    def send(self, item: Record) -> None:
        """Write the message to everyone but its sender."""
        self.channel.send(item)
        if isinstance(item.event, Message):
            others = [c for id, c in self._connections.items() if id != item.origin]
            broadcast(others, self._codec.encode(item), text=True)


class BroadcastChat(ChatServer):
    """The chat with `Broadcast` in its rooms."""

    def _open(self, path: str, host: str | None = None) -> Room:
        room = super()._open(path, host)
        if not isinstance(room.fanout, Broadcast):
            room.fanout = Broadcast(room)
        return room


def _naive() -> Callable[[ServerConnection], Awaitable[None]]:
    """Return the handler of the chat that one writes first."""
    clients: set[ServerConnection] = set()

    async def handler(ws: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            name = str(await ws.recv()).strip()
            clients.add(ws)
            try:
                await ws.send(f"Welcome, {name}!")
                async for text in ws:
                    for other in list(clients):
                        if other is not ws:
                            with contextlib.suppress(ConnectionClosed):
                                await other.send(f"[{name}] {text}")
            finally:
                clients.discard(ws)

    return handler


async def fanout(contender: str) -> int:
    """Start a contender of ``wslessons bench fanout``.

    Args:
        contender: its name.

    Returns:
        The port where it listens.
    """
    # The load answers no pings: it would be one more thing that it does besides counting.
    quiet: dict[str, Any] = {"backlog": 1024, "ping_interval": None}
    if contender == "naive":
        server = await websockets.serve(
            _naive(), "127.0.0.1", 0, compression=None, max_size=8192, **quiet
        )
    else:
        chat = BroadcastChat() if contender == "broadcast" else ChatServer()
        chat.fanout = contender != "tasks"
        server = await chat.serve(**quiet)
    return server.sockets[0].getsockname()[1]


async def web(contender: str) -> int:
    """Start a contender of ``wslessons bench web``.

    Args:
        contender: its name.

    Returns:
        The port where it listens.
    """
    from wslessons import asgi, web

    if contender == "library":
        server = await ChatServer().serve(backlog=1024)
        return server.sockets[0].getsockname()[1]
    app = (
        _loop() if contender == "loop" else web.application(ChatServer(fanout=contender != "tasks"))
    )
    plain: dict[str, Any] = {"ws": "websockets-sansio", "ws_per_message_deflate": False}

    async def at_root(scope: Any, receive: Any, send: Any) -> None:
        # The load asks for ``/``, and the lobby is at ``/ws``.
        await app({**scope, "path": "/ws"} if "path" in scope else scope, receive, send)

    served = await asgi.start(at_root, **(web.OPTIONS if contender == "frames" else plain))
    return int(served.url.rpartition(":")[2])


def _loop() -> Any:
    """Return the chat that one writes first, in Starlette."""
    from starlette.applications import Starlette
    from starlette.routing import WebSocketRoute
    from starlette.websockets import WebSocket, WebSocketDisconnect

    clients: set[WebSocket] = set()

    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        with contextlib.suppress(WebSocketDisconnect):
            name = await websocket.receive_text()
            clients.add(websocket)
            try:
                await websocket.send_text(f"Welcome, {name}!")
                async for text in websocket.iter_text():
                    for other in list(clients):
                        if other is not websocket:
                            with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                                await other.send_text(f"[{name}] {text}")
            finally:
                clients.discard(websocket)

    return Starlette(routes=[WebSocketRoute("/ws", endpoint)])


async def heartbeat(contender: str, interval: str) -> int:
    """Start a contender of ``wslessons bench heartbeat``, which waits for messages.

    Args:
        contender: its name.
        interval: seconds between two pings.

    Returns:
        The port where it listens.
    """
    every = float(interval)

    async def listen(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await connection.recv()

    async def beating(connection: ServerConnection) -> None:
        with Heartbeat(connection, every, every * HEARTBEAT_TIMEOUT):
            await listen(connection)

    server = await websockets.serve(
        beating if contender == "wslessons" else listen,
        "127.0.0.1",
        0,
        backlog=1024,
        compression=None,
        ping_interval=every if contender == "library" else None,
        ping_timeout=every * HEARTBEAT_TIMEOUT,
    )
    return server.sockets[0].getsockname()[1]


async def push(contender: str, ping_interval: str) -> int:
    """Start the server of ``wslessons bench push``.

    Args:
        contender: there is one.
        ping_interval: seconds between two pings to a WebSocket, 0 for none.

    Returns:
        The port where it listens.
    """
    from wslessons import asgi
    from wslessons.push import Fleet, app

    options: dict[str, Any] = app.OPTIONS | {"ws_ping_interval": float(ping_interval)}
    served = await asgi.start(app.application(Fleet()), **options)
    return int(served.url.rpartition(":")[2])


async def peer(contender: str, port: str) -> None:
    """Serve on a port that was given, until the process is ended.

    Args:
        contender: its name.
        port: the TCP port on 127.0.0.1.
    """
    await PEERS[contender](int(port))
    await asyncio.get_running_loop().create_future()


async def _library(port: int, compression: str | None = None) -> None:
    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(f"Echo: {message}")

    await websockets.serve(echo, "127.0.0.1", port, compression=compression)


async def _aiohttp(port: int) -> None:
    from aiohttp import WSMsgType, web

    async def echo(request: web.Request) -> web.WebSocketResponse:
        response = web.WebSocketResponse(compress=False)
        await response.prepare(request)
        async for message in response:
            if message.type is WSMsgType.TEXT:
                await response.send_str(f"Echo: {message.data}")
        return response

    application = web.Application()
    application.router.add_get("/", echo)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()


async def _picows(port: int) -> None:
    from picows import (  # ty: ignore[import-not-found]
        WSFrame,
        WSListener,
        WSMsgType,
        WSTransport,
        ws_create_server,
    )

    class Echo(WSListener):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            if frame.msg_type == WSMsgType.CLOSE:
                transport.send_close(frame.get_close_code())
                transport.disconnect()
            elif frame.msg_type == WSMsgType.TEXT:
                transport.send(WSMsgType.TEXT, b"Echo: " + frame.get_payload_as_bytes())

    await ws_create_server(lambda request: Echo(), "127.0.0.1", port)


PEERS: dict[str, Callable[[int], Any]] = {
    "library": _library,
    "compressed": lambda port: _library(port, "deflate"),
    "aiohttp": _aiohttp,
    "picows": _picows,
    "chat": lambda port: ChatServer().serve(port=port),
}
BENCHES: dict[str, Any] = {"fanout": fanout, "web": web, "heartbeat": heartbeat, "push": push}


async def main(bench: str, *words: str) -> None:
    """Serve until the parent ends.

    Args:
        bench: whose contender this is.
        words: what the contender is given, its name first.
    """
    if bench == "peer":
        await peer(*words)
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    # When a run is over, the load goes first, and what was still under way for it has no taker.
    for name in ("asyncio", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    port = await BENCHES[bench](*words)
    answer_parent(port, lambda: loop.call_soon_threadsafe(stop.set))
    await stop.wait()
    # No good-byes: thousands of them would only delay the next contender.
    os._exit(0)


if __name__ == "__main__":
    raise_descriptor_limit(4096)
    asyncio.run(main(*sys.argv[1:]))
