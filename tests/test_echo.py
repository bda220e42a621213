"""The echo server over real sockets: what comes back, and who ends how."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import AsyncIterator

import pytest
import websockets
from websockets import ConnectionClosedError, connect
from websockets.asyncio.server import Server

from wslessons import serving
from wslessons.connection import host_port
from wslessons.echo import echo, echo_raw
from wslessons.testing.raw import handshake

UPGRADE = handshake()


class Lines(logging.Handler):
    """Collects log records and lets a test wait for one."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.more = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record and wake the test."""
        self.records.append(record)
        self.more.set()

    async def wait_for(self, text: str) -> str:
        """Return the first line that holds `text`, as soon as it is there."""
        while True:
            self.more.clear()
            for record in self.records:
                if text in record.getMessage():
                    return record.getMessage()
            await self.more.wait()


@pytest.fixture
async def log() -> AsyncIterator[Lines]:
    """Everything our servers log during the test."""
    lines = Lines()
    logger = logging.getLogger("wslessons")
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(lines)


@pytest.fixture
async def server(log: Lines) -> AsyncIterator[Server]:
    """An echo server with small limits, so that a test can cross them."""
    async with serving.serve(echo, max_size=1000, open_timeout=0.2, close_timeout=0.1) as server:
        yield server


def to(server: Server) -> connect:
    """Connect to `server` with the library's client."""
    return connect(serving.urls(server)[0], proxy=None)


async def raw_client(server: Server, *parts: bytes) -> asyncio.StreamWriter:
    """Connect without a WebSocket library and write `parts`."""
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    for part in parts:
        writer.write(part)
        await writer.drain()
    return writer


async def still_serves(server: Server) -> bool:
    """Whether a new client gets its echo."""
    async with to(server) as client:
        await client.send("still there?")
        return await client.recv() == "Echo: still there?"


async def test_text_comes_back_with_a_prefix_and_binary_unchanged(server: Server):
    """Text is answered with `Echo: ` in front, binary with the same bytes, each as its own kind."""
    async with asyncio.timeout(50), to(server) as client:
        for sent, expected in [
            ("hello", "Echo: hello"),
            ("", "Echo: "),
            ("żółć 🎈", "Echo: żółć 🎈"),
        ]:
            await client.send(sent)
            assert await client.recv() == expected
        for data in (b"", b"\x00\xff", bytes(range(256))):
            await client.send(data)
            assert await client.recv() == data


async def test_fragmented_message_comes_back_whole(server: Server):
    """A message sent in three fragments is answered once, in one piece."""
    async with asyncio.timeout(50), to(server) as client:
        await client.send(["frag", "men", "ted"])
        assert await client.recv() == "Echo: fragmented"


async def test_ping_is_answered(server: Server):
    """A ping gets its pong, with the library's own machinery."""
    async with asyncio.timeout(50), to(server) as client:
        assert await (await client.ping(b"are you there?")) >= 0


@pytest.mark.parametrize("code", [1000, 1001, 1011, 3000, 4321])
async def test_close_handshake_is_completed_with_the_clients_code(
    server: Server, log: Lines, code: int
):
    """A close frame is answered with its own code, and logged in one line without a traceback."""
    async with asyncio.timeout(50):
        client = await to(server)
        await client.close(code, "bye")
        assert client.protocol.close_rcvd is not None
        assert client.protocol.close_rcvd.code == code
        await log.wait_for(f"disconnected: received {code}")
        assert all(record.exc_info is None for record in log.records)


async def test_connect_and_disconnect_are_logged_with_the_peers_address(server: Server, log: Lines):
    """The log names the client's own address when it comes and when it goes."""
    async with asyncio.timeout(50):
        async with to(server) as client:
            address = host_port(client.local_address)
            await log.wait_for(f"{address} connected")
        await log.wait_for(f"{address} disconnected: received 1000")


ZERO_MASK = b"\0\0\0\0"
FAULTS = {
    "reset": ([UPGRADE], "no close frame received or sent"),
    "invalid opcode": ([UPGRADE, b"\x83\x80" + ZERO_MASK], "sent 1002"),
    "unmasked frame": ([UPGRADE, b"\x81\x01a"], "sent 1002"),
    "invalid UTF-8": ([UPGRADE, b"\x81\x81" + ZERO_MASK + b"\xff"], "sent 1007"),
    "too big": ([UPGRADE, b"\x82\xfe\x10\x00" + ZERO_MASK + b"x" * 4096], "sent 1009"),
    "unfinished fragments": ([UPGRADE, b"\x01\x81" + ZERO_MASK + b"a"], "no close frame"),
    "close code that can't be": ([UPGRADE, b"\x88\x82" + ZERO_MASK + b"\x03\xe7"], "sent 1002"),
    "no handshake": ([], "left before the opening handshake was finished"),
    "half a handshake": ([b"GET / HT"], "left before the opening handshake was finished"),
    "frame ahead of the answer": (
        [UPGRADE + b"\x83\x80" + ZERO_MASK],
        "left before the opening handshake was finished",
    ),
    "garbage": (
        [b"\x00\x01\x02 hello\r\n\r\n"],
        "was refused: did not receive a valid HTTP request",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_client_that_breaks_off_ends_alone(server: Server, log: Lines, fault: str):
    """A broken client costs one line in the log, no traceback, and nobody else's connection."""
    parts, expected = FAULTS[fault]
    async with asyncio.timeout(50), to(server) as witness:
        writer = await raw_client(server, *parts[:1])
        if UPGRADE in parts:
            address = host_port(writer.get_extra_info("sockname"))
            await log.wait_for(f"{address} connected")
        writer.writelines(parts[1:])
        linger = struct.pack("ii", 1, 0)
        if fault == "reset":
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        elif fault in ("unfinished fragments", "no handshake", "half a handshake"):
            writer.close()
        line = await log.wait_for(expected)
        assert "\n" not in line
        assert all(record.exc_info is None for record in log.records)
        await witness.send("me?")
        assert await witness.recv() == "Echo: me?"
        writer.close()


async def test_client_that_never_finishes_its_handshake_is_dropped(server: Server, log: Lines):
    """A client that says nothing is cut off after `open_timeout`, without being asked."""
    async with asyncio.timeout(50):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        writer.write(b"GET / HTTP/1.1\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        await log.wait_for("left before the opening handshake was finished")
        writer.close()
        assert await still_serves(server)


async def test_handler_may_return_while_its_client_reads_nothing(log: Lines):
    """The close frame finds no room in the socket, and the connection still ends by itself."""
    called = asyncio.Event()

    async def shout(connection: websockets.ServerConnection) -> None:
        called.set()
        # More than the socket buffers of two kernels hold; `send` would wait for ever.
        sending = asyncio.create_task(connection.send(bytes(64 << 20)))
        await asyncio.sleep(0)
        sending.cancel()
        await asyncio.wait([sending])

    serve = serving.serve(shout, close_timeout=0.1, ping_interval=None)
    async with asyncio.timeout(20), serve as server:
        writer = await raw_client(server, UPGRADE)
        await called.wait()
        await asyncio.wait(set(server.handler_tasks))
        assert server.connections == set()
        writer.close()


async def test_handler_that_crashes_keeps_its_traceback(log: Lines):
    """The server's own fault is logged in full, and the client is told 1011."""

    async def broken(connection: websockets.ServerConnection) -> None:
        raise ZeroDivisionError("on purpose")

    async with asyncio.timeout(50), serving.serve(broken) as server:
        async with to(server) as client:
            with pytest.raises(ConnectionClosedError) as closed:
                await client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1011
        await log.wait_for("connection handler failed")
        assert any(r.exc_info and r.exc_info[0] is ZeroDivisionError for r in log.records)


async def test_handler_that_does_not_catch_the_close_is_one_line_too(log: Lines):
    """A learner's handler that lets ConnectionClosed through logs no traceback here."""

    async def naive(connection: websockets.ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with asyncio.timeout(50), serving.serve(naive) as server:
        client = await to(server)
        client.transport.abort()
        await log.wait_for("disconnected: no close frame received or sent")
        assert all(record.exc_info is None for record in log.records)


async def test_raw_echo_has_no_prefix():
    """`echo_raw` answers text with the very same text."""
    async with asyncio.timeout(50), serving.serve(echo_raw) as server, to(server) as client:
        await client.send("same")
        assert await client.recv() == "same"


async def test_echo_runs_under_the_librarys_own_serve():
    """`websockets.serve(echo, ...)` is all that a script needs."""
    async with (
        asyncio.timeout(50),
        websockets.serve(echo, "127.0.0.1", 0) as server,
        to(server) as client,
    ):
        await client.send("script")
        assert await client.recv() == "Echo: script"
