"""Clients that speak bytes: what no well-behaved library would send."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncGenerator

__all__ = ["KEY", "UPGRADE", "Raw", "dial", "frame", "handshake"]

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    f"Sec-WebSocket-Key: {KEY}\r\n"
)


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    """Return a frame as a client masks it, with a mask of zeros.

    Args:
        opcode: 1 for text, 2 for binary, 8 for Close, 9 for Ping, 10 for Pong; others are errors.
        payload: at most 65,535 bytes.
        fin: False if more fragments follow.

    Returns:
        The bytes.

    Source: RFC 6455, section 5.2.
    """
    size = len(payload)
    head = bytes([opcode | 0x80 * fin])
    if size < 126:
        head += bytes([0x80 | size])
    else:
        head += bytes([0xFE]) + struct.pack("!H", size)
    return head + bytes(4) + payload


def handshake(path: str = "/", host: str = "127.0.0.1", more: str = "") -> bytes:
    """Return the request that opens a WebSocket.

    Args:
        path: what is asked for.
        host: the server's name or address, with its port if it looks at that.
        more: further headers, each with its line's end.

    Returns:
        The bytes.

    Source: RFC 6455, section 4.1.
    """
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{UPGRADE}{more}\r\n".encode("latin-1")


class Raw:
    """A TCP connection to a server, made by `dial`.

    Args:
        reader: reads what the server sends.
        writer: writes what the server gets.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: str | bytes) -> None:
        """Send without waiting.

        Args:
            data: bytes, or text of Latin-1.
        """
        self.writer.write(data.encode("latin-1") if isinstance(data, str) else data)

    async def flood(self, data: bytes) -> None:
        """Send `data` again and again, as fast as it is taken, until the connection ends.

        Args:
            data: what is sent each time.
        """
        with contextlib.suppress(OSError):
            while True:
                self.send(data)
                await self.writer.drain()

    async def rest(self) -> bytes:
        """Return all that comes until the server ends the connection."""
        data = b""
        with contextlib.suppress(OSError):
            while piece := await self.reader.read(65536):
                data += piece
        return data

    async def handshake(self, path: str = "/ws", more: str = "") -> bytes:
        """Open a WebSocket; return the response's head.

        Args:
            path: what is asked for.
            more: further headers, each with its line's end.

        Returns:
            The bytes up to the blank line.
        """
        host = self.writer.get_extra_info("peername")
        self.send(handshake(path, f"{host[0]}:{host[1]}", more))
        return await self.reader.readuntil(b"\r\n\r\n")

    async def frame(self) -> tuple[int, bytes]:
        """Return the opcode and payload of the next frame, which may have at most 64 KiB."""
        head = await self.reader.readexactly(2)
        size = head[1]
        if size == 126:
            size = struct.unpack("!H", await self.reader.readexactly(2))[0]
        return head[0] & 15, await self.reader.readexactly(size)

    async def closing(self) -> tuple[int, str]:
        """Return the code and reason of the close frame that comes next or later."""
        while True:
            opcode, payload = await self.frame()
            if opcode == 8:
                return struct.unpack("!H", payload[:2])[0], payload[2:].decode()

    def stop_reading(self) -> None:
        """Read nothing any more."""
        self._transport.pause_reading()

    def read_again(self) -> None:
        """Take what has come meanwhile."""
        self._transport.resume_reading()

    @property
    def _transport(self) -> asyncio.Transport:
        transport = self.writer.transport
        assert isinstance(transport, asyncio.Transport)
        return transport


@contextlib.asynccontextmanager
async def dial(url: str) -> AsyncGenerator[Raw]:
    """Connect to the server at `url` while the block runs, with a small buffer to read into.

    Args:
        url: of the server; its scheme does not matter.

    Yields:
        The connection, which is aborted at the block's end.
    """
    host, port = url.partition("://")[2].split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=2**12)
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()
