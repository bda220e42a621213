"""The contenders of ``wslessons bench fanout``, each a server in a process of its own.

    python -m wslessons.bench.fanout_server chat

- ``chat``: `wslessons.chat` as it is;
- ``tasks``: the same with a forwarding task for each member, the readable way;
- ``broadcast``: the same handler, but every message goes out by `websockets.broadcast`;
- ``naive``: what one writes first, ``for ws in clients: await ws.send(text)``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys

import websockets
from websockets import ConnectionClosed, ServerConnection, broadcast

from wslessons.bench.tools import answer_parent, raise_descriptor_limit
from wslessons.chat import ChatServer, Room
from wslessons.chat.channel import Receiver
from wslessons.chat.codecs import JsonCodec, Record, TextCodec
from wslessons.chat.connection import FrameWriter
from wslessons.chat.events import Message
from wslessons.chat.fanout import Codec, Fanout, Writer

CONTENDERS = ("chat", "tasks", "broadcast", "naive")
TEXT_SIZE = 64


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


class Naive:
    """The chat that one writes first."""

    def __init__(self) -> None:
        self.clients: set[ServerConnection] = set()

    async def handler(self, ws: ServerConnection) -> None:
        """Pass on each text to everyone else, one after the other."""
        with contextlib.suppress(ConnectionClosed):
            name = str(await ws.recv()).strip()
            self.clients.add(ws)
            try:
                await ws.send(f"Welcome, {name}!")
                async for text in ws:
                    for other in list(self.clients):
                        if other is not ws:
                            with contextlib.suppress(ConnectionClosed):
                                await other.send(f"[{name}] {text}")
            finally:
                self.clients.discard(ws)


async def main(contender: str) -> None:
    """Serve until the parent ends.

    Args:
        contender: one of `CONTENDERS`.
    """
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    # When a run is over, the load goes first, and what was still under way for it has no taker.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    if contender == "naive":
        server = await websockets.serve(
            Naive().handler,
            "127.0.0.1",
            0,
            compression=None,
            max_size=8192,
            backlog=1024,
            ping_interval=None,
        )
    else:
        chat = BroadcastChat() if contender == "broadcast" else ChatServer()
        chat.fanout = contender != "tasks"
        # The load answers no pings: it would be one more thing that it does besides counting.
        server = await chat.serve(backlog=1024, ping_interval=None)

    def end() -> None:
        loop.call_soon_threadsafe(stop.set)

    answer_parent(server.sockets[0].getsockname()[1], end)
    await stop.wait()
    # No good-byes: two thousand of them would only delay the next contender.
    os._exit(0)


if __name__ == "__main__":
    raise_descriptor_limit(4096)
    asyncio.run(main(sys.argv[1]))
