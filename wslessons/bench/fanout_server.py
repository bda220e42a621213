"""The contenders of ``wslessons bench fanout``, each a server in a process of its own.

    python -m wslessons.bench.fanout_server chat

- ``chat``: `wslessons.chat` as it is;
- ``tasks``: the same with a forwarding task for each member, the readable way;
- ``broadcast``: the same handler, but every message goes out by `websockets.broadcast`;
- ``naive``: what one writes first, ``for ws in clients: await ws.send(text)``;
- ``floor``: a bare asyncio protocol that parses nothing and writes ready-made bytes, all that is
  due in one write a connection: what no server on this event loop can beat.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
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

CONTENDERS = ("chat", "tasks", "broadcast", "naive", "floor")
TEXT_SIZE = 64
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


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

    def _open(self, path: str) -> Room:
        room = super()._open(path)
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


class Floor(asyncio.Protocol):
    """A connection that parses nothing: `TEXT_SIZE` bytes a message, and the first is the name."""

    members: dict[Floor, str] = {}  # noqa: RUF012
    due: int = 0
    ready = b""
    frame_size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin (asyncio's callback)."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.data = b""
        self.sends = False

    def data_received(self, data: bytes) -> None:
        """Answer the handshake, then the name, then count messages (asyncio's callback)."""
        self.data += data
        if self not in Floor.members:
            self.begin()
            return
        size = TEXT_SIZE + 6
        count = len(self.data) // size
        first, self.data = self.data[:size], self.data[count * size :]
        if not count:
            return
        if not Floor.due:
            asyncio.get_running_loop().call_soon(Floor.tick)
        if not Floor.ready:
            # As every line is as long as every other, the first one makes them all.
            line = f"[{Floor.members[self]}] ".encode() + first[6:]
            frame = bytes([0x81, len(line)]) + line
            Floor.frame_size = len(frame)
            Floor.ready = frame * 4096
        self.sends = True
        Floor.due += count

    def begin(self) -> None:
        """Get through handshake and name."""
        head, end, rest = self.data.partition(b"\r\n\r\n")
        if end:
            key = head.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
            accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
            self.transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
            )
            self.data = rest
        elif len(self.data) >= 6 and self.data[:1] == b"\x81":
            size = 6 + (self.data[1] & 0x7F)
            name, self.data = self.data[6:size].decode(), self.data[size:]
            Floor.members[self] = name
            line = f"Welcome, {name}!".encode()
            self.transport.write(bytes([0x81, len(line)]) + line)

    def connection_lost(self, exc: Exception | None) -> None:
        """End (asyncio's callback)."""
        Floor.members.pop(self, None)

    @classmethod
    def tick(cls) -> None:
        """Write all that is due to all who did not send it."""
        due, cls.due = cls.due * cls.frame_size, 0
        while due:
            data = cls.ready[:due]
            due -= len(data)
            for member in cls.members:
                if not member.sends:
                    member.transport.write(data)


async def main(contender: str) -> None:
    """Serve until the parent ends."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    # When a run is over, the load goes first, and what was still under way for it has no taker.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    if contender == "floor":
        server = await loop.create_server(Floor, "127.0.0.1", 0, backlog=1024)
    elif contender == "naive":
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
