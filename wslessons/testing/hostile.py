"""A server that breaks the protocol on purpose, to see what a client makes of it."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Coroutine
from typing import Any, Self

from websockets.utils import accept_key

__all__ = ["BEHAVIOURS", "Hostile"]

Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(-1)


async def _handshake(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the opening handshake as RFC 6455, section 4.2.2, asks."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    key = re.search(r"(?im)^sec-websocket-key: *(\S+)", head)
    accept = accept_key(key[1]) if key else ""
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept.encode() + b"\r\n\r\n"
    )


def _then_sends(*pieces: bytes) -> Connected:
    """Open properly, send what no server may send, and then only read."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _handshake(reader, writer)
        for piece in pieces:
            writer.write(piece)
        await reader.read(-1)

    return serve


async def _drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _handshake(reader, writer)
    await reader.read(1)
    writer.transport.abort()


async def _flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _handshake(reader, writer)
    while True:
        writer.write(b"\x89\x00" * 1000)
        await writer.drain()


async def _refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy")


async def _no_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.9\r\n")
    await reader.read(-1)


async def _wrong_key(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: bm90IHRoZSByaWdodCBvbmU=\r\n\r\n"
    )
    await reader.read(-1)


BEHAVIOURS: dict[str, Connected] = {
    # Before the connection is open.
    "silent": _silent,
    "no http": _no_http,
    "refuse": _refuse,
    "wrong key": _wrong_key,
    # After that.
    "drop": _drop,
    "no close": _then_sends(),
    "half a frame": _then_sends(b"\x81\x05he"),
    "unknown opcode": _then_sends(b"\x83\x00"),
    "masked": _then_sends(b"\x81\x82\x00\x00\x00\x00hi"),
    "reserved bit": _then_sends(b"\xc1\x02hi"),
    "no utf-8": _then_sends(b"\x81\x02\xff\xfe"),
    "long ping": _then_sends(b"\x89\x7e\x00\x7e" + bytes(126)),
    "endless frame": _then_sends(b"\x81\x7f" + (2**62).to_bytes(8)),
    "ping flood": _flood,
}
"""What a hostile server can do, by name."""


class Hostile:
    """A server on 127.0.0.1 that does one thing wrong to everybody; an async context manager.

    Args:
        behaviour: one of `BEHAVIOURS`, or a function of your own that takes asyncio's two streams.

    Attributes:
        url: where it listens.
        connections: how many have come.

    Raises:
        ValueError: there is no such behaviour.
    """

    def __init__(self, behaviour: str | Connected) -> None:
        if isinstance(behaviour, str):
            if behaviour not in BEHAVIOURS:
                known = ", ".join(BEHAVIOURS)
                raise ValueError(f"there is no behaviour {behaviour!r}; there are: {known}")
            behaviour = BEHAVIOURS[behaviour]
        self._behave = behaviour
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.url = f"ws://{host}:{port}"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._behave_badly(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _behave_badly(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            with contextlib.suppress(OSError, EOFError):
                await self._behave(reader, writer)
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()
