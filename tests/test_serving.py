"""What one connection may hold in memory, and how long a stranger may stay, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import os
import re
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest
from waits import until
from websockets import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidStatus,
    ServerConnection,
    connect,
)
from websockets.frames import Frame, Opcode

from wslessons import serving
from wslessons.chat import ChatServer
from wslessons.connection import SLICE, LoggedConnection
from wslessons.echo import echo
from wslessons.errors import UserError
from wslessons.fast import Echo
from wslessons.limits import ConnectionLimit, Door
from wslessons.testing.raw import UPGRADE, dial, frame

READ = 2**18
"""Bytes that asyncio reads from a socket at most before it calls us."""


def masked(opcode: Opcode, payload: bytes = b"", *, fin: bool = True) -> bytes:
    """Return a frame as clients send it."""
    return Frame(opcode, payload, fin).serialize(mask=True)


def bomb(size: int) -> bytes:
    """Return a compressed message of `size` zeros."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = deflate.compress(bytes(size)) + deflate.flush(zlib.Z_SYNC_FLUSH)
    frame = bytearray(masked(Opcode.BINARY, data[:-4]))
    frame[0] |= 0x40  # RSV1: this message is compressed (RFC 7692, section 6)
    return bytes(frame)


class Stranger:
    """A client without a library, that reads only when it is told to."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        """Send `data` once."""
        await self.loop.sock_sendall(self.sock, data)

    async def push(self, data: bytes, most: int) -> int:
        """Send `data` again and again, `most` bytes or until no more fit for a while; say how many.

        What is sent ends in the middle of `data` only if no more fits.
        """
        sent, idle, view = 0, 0, memoryview(data)
        while sent < most and idle < 100:
            start = sent % len(data)
            try:
                sent += self.sock.send(view[start : start + most - sent])
                idle = 0
            except BlockingIOError:
                idle += 1
                await asyncio.sleep(0.01)
            else:
                await asyncio.sleep(0)
        return sent


@contextlib.asynccontextmanager
async def serving_strangers(
    handler: Callable[[ServerConnection], Awaitable[None]], **options: Any
) -> AsyncGenerator[tuple[Any, Callable[..., Awaitable[tuple[Stranger, LoggedConnection]]]]]:
    """Run a server; give it, and what connects a stranger and returns the server's end too."""
    strangers: list[socket.socket] = []
    async with asyncio.timeout(50), serving.serve(handler, **options) as server:

        async def stranger(*headers: str) -> tuple[Stranger, LoggedConnection]:
            loop, before = asyncio.get_running_loop(), set(LoggedConnection.alive)
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**16)
            sock.setblocking(False)
            strangers.append(sock)
            await loop.sock_connect(sock, server.sockets[0].getsockname())
            lines = [
                "GET / HTTP/1.1",
                "Host: x",
                "Upgrade: websocket",
                "Connection: Upgrade",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
                "Sec-WebSocket-Version: 13",
                *headers,
            ]
            await loop.sock_sendall(sock, "\r\n".join([*lines, "", ""]).encode())
            head = b""
            while b"\r\n\r\n" not in head:
                head += await loop.sock_recv(sock, 1)
            assert b" 101 " in head
            (connection,) = set(LoggedConnection.alive) - before
            return Stranger(sock), connection

        try:
            yield server, stranger
        finally:
            for sock in strangers:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()
            await serving.shut(server, timeout=0.1)


def held(connection: LoggedConnection) -> int:
    """Return the bytes that wait in a connection, parsed or not, for the handler or the peer."""
    frames = sum(len(frame.data) + 100 for frame in connection.recv_messages.frames.queue)
    unparsed = len(connection._unparsed or b"")
    return frames + unparsed + connection.transport.get_write_buffer_size()


async def forever(connection: ServerConnection) -> None:
    """Never read and never return, as a handler that is busy."""
    await asyncio.Event().wait()


async def test_pings_whose_pongs_nobody_reads_are_left_unread() -> None:
    """Our own answers wait: then no more is read, and nothing is lost when the peer reads again."""
    async with serving_strangers(echo, ping_interval=None) as (_, stranger):
        client, connection = await stranger()
        ping = masked(Opcode.PING, b"p" * 125)
        sent = await client.push(ping, 2**26 // len(ping) * len(ping))
        assert sent < 2**25
        assert held(connection) < 2 * READ
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
        pongs, wanted = bytearray(), sent // len(ping)
        pong = Frame(Opcode.PONG, b"p" * 125).serialize(mask=False)
        while len(pongs) < wanted * len(pong):
            pongs += await client.loop.sock_recv(client.sock, 2**16)
        assert pongs == pong * wanted


async def test_messages_that_nobody_takes_are_bounded_in_bytes() -> None:
    """Neither many that are tiny nor some that are large fill the memory."""
    for one in (masked(Opcode.TEXT, b"a"), masked(Opcode.BINARY, os.urandom(2**20))):
        async with serving_strangers(forever) as (_, stranger):
            client, connection = await stranger()
            assert await client.push(one, 2**26) < 2**26
            assert held(connection) < 3 * 2**20 + READ
            assert len(connection.recv_messages.frames) < SLICE


async def test_compressed_messages_that_nobody_takes_are_bounded_too() -> None:
    """A burst of bombs is inflated one slice at a time, and no further than the queue has room."""
    async with serving_strangers(forever) as (_, stranger):
        client, connection = await stranger("Sec-WebSocket-Extensions: permessage-deflate")
        await client.push(bomb(2**20) * 100, 2**20)
        assert held(connection) < 8 * 2**20


async def test_what_waited_unparsed_is_not_lost() -> None:
    """Messages that came in one burst reach the handler, all and in order, once it reads."""
    read = asyncio.Event()

    async def late(connection: ServerConnection) -> None:
        await read.wait()
        await echo(connection)

    async with (
        serving_strangers(late) as (server, _),
        connect(serving.urls(server)[0], proxy=None) as client,
    ):
        count = 20_000
        sending = asyncio.create_task(_send(client, count))
        await asyncio.sleep(0)
        read.set()
        assert [await client.recv() for _ in range(count)] == [f"Echo: {n}" for n in range(count)]
        await sending


async def _send(client: Any, count: int) -> None:
    for n in range(count):
        await client.send(str(n))


async def test_fragments_without_end_are_refused() -> None:
    """Empty fragments add no byte to a message, and are counted all the same."""
    async with serving_strangers(echo) as (_, stranger):
        client, connection = await stranger()
        await client.send(masked(Opcode.TEXT, b"x", fin=False))
        with contextlib.suppress(ConnectionError):
            await client.push(masked(Opcode.CONT, b"", fin=False), 2**20)
        await connection.wait_closed()
        assert connection.protocol.close_sent is not None
        assert connection.protocol.close_sent.code == 1009


@pytest.mark.parametrize("talks", [False, True])
async def test_echo_drops_a_reader_that_stalls(talks: bool) -> None:
    """Whatever its buffer holds, and also if it goes on talking."""
    async with serving_strangers(echo, heartbeat=(0.1, 0.3)) as (_, stranger):
        client, connection = await stranger()
        talking = asyncio.create_task(client.push(masked(Opcode.BINARY, bytes(60_000)), 2**30))
        await until(lambda: connection.paused)
        if not talks:
            talking.cancel()
        await connection.wait_closed()
        talking.cancel()
        await asyncio.wait([talking])
        assert connection.protocol.close_sent is not None
        assert connection.protocol.close_sent.code == 1011


@pytest.mark.parametrize("talks", [False, True])
async def test_fast_echo_drops_a_reader_that_stalls(talks: bool) -> None:
    """As the echo of lesson 1 does; one that says nothing and answers pings stays."""
    connections: set[Echo] = set()
    async with (
        asyncio.timeout(50),
        Echo.serve(heartbeat=(0.1, 0.3), connections=connections) as server,
        connect(serving.urls(server)[0], proxy=None, ping_interval=None) as silent,
        dial(serving.urls(server)[0]) as client,
    ):
        await client.handshake("/")
        client.stop_reading()
        if talks:
            await client.flood(frame(1, bytes(60_000)))
        while len(connections) == 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await silent.send("still here")
        assert await silent.recv() == "Echo: still here"


async def test_chat_drops_a_reader_that_stalls_and_others_go_on() -> None:
    """The heartbeat of lesson 5 ends members that read nothing, and their room hears of it."""
    chat = ChatServer()
    async with serving_strangers(chat.handler, **chat.options, heartbeat=(0.2, 0.6)) as (
        server,
        stranger,
    ):
        silent = [(await stranger())[0] for _ in range(5)]
        for n, client in enumerate(silent):
            await client.send(masked(Opcode.TEXT, b"stalled %d" % n))
        await until(lambda: len(chat.people()) >= len(silent))
        async with connect(serving.urls(server)[0], proxy=None) as talker:
            await talker.send("talker")

            async def talk() -> None:
                while True:
                    await talker.send("x" * 8000)
                    await asyncio.sleep(0.005)

            talking = asyncio.create_task(talk())
            left = 0
            while left < len(silent):
                left += str(await talker.recv()).endswith("left the chat")
            talking.cancel()
            await asyncio.wait([talking])
            assert chat.people() == ["talker"]


async def test_connection_that_answers_is_kept_by_the_heartbeat() -> None:
    """A handler may be slow, and a client may say nothing: both are well."""

    async def slow(connection: ServerConnection) -> None:
        try:
            while True:
                await asyncio.sleep(0.01)
                await connection.recv()
        except ConnectionClosed:
            pass

    async with (
        serving_strangers(slow, heartbeat=(0.05, 2)) as (server, _),
        connect(serving.urls(server)[0], proxy=None, ping_interval=None) as client,
    ):
        for n in range(100):
            await client.send(str(n))
        await asyncio.sleep(0.5)
        await (await client.ping())


# The handshake.


SERVERS = {"echo": functools.partial(serving.serve, echo), "fast echo": Echo.serve}
"""What starts a server that is to behave as the other does."""

WRONG = {
    "no host": b"GET / HTTP/1.1\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n",
    "an escape": b"GET /\x1b[2J HTTP/1.1\r\nHost: a\r\n",
    "a byte above ASCII": b"GET /\xff HTTP/1.1\r\nHost: a\r\n",
}


@pytest.mark.parametrize("head", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("serve", SERVERS.values(), ids=SERVERS)
async def test_a_request_that_http_forbids_opens_nothing(
    serve: Any, head: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It is refused, which is logged in one line with nothing invisible in it."""
    caplog.set_level(logging.INFO, "wslessons")
    async with asyncio.timeout(50), serve() as server, dial(serving.urls(server)[0]) as client:
        client.send(head + UPGRADE.encode() + b"\r\n")
        assert (await client.rest())[:13] in (b"HTTP/1.1 400 ", b"")
    (line,) = [r.getMessage() for r in caplog.records if "was refused" in r.getMessage()]
    assert line.isprintable()


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("serve", SERVERS.values(), ids=SERVERS)
async def test_what_comes_before_the_answer_waits_for_it(
    serve: Any, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A frame that follows the request at once is echoed, however the bytes are divided."""
    head = f"GET / HTTP/1.1\r\nHost: a\r\n{UPGRADE}\r\n".encode()
    data = head + frame(1, b"early") + frame(1, b"and\r\n\r\nlate")
    async with asyncio.timeout(50), serve() as server, dial(serving.urls(server)[0]) as client:
        for start in range(0, len(data), size):
            client.send(data[start : start + size])
            await asyncio.sleep(0)
        assert b" 101 " in await client.reader.readuntil(b"\r\n\r\n")
        assert await client.frame() == (1, b"Echo: early")
        assert await client.frame() == (1, b"Echo: and\r\n\r\nlate")
    assert [r for r in caplog.records if r.exc_info] == []


@pytest.mark.parametrize("serve", SERVERS.values(), ids=SERVERS)
async def test_requests_in_a_row_are_answered_once(
    serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The first is refused, since it opens no WebSocket; the others are not read as frames."""
    async with asyncio.timeout(50), serve() as server, dial(serving.urls(server)[0]) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 100)
        assert (await client.rest()).count(b"HTTP/1.1 426") == 1
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


async def test_a_hundred_silent_strangers_are_a_few_lines_of_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Those who never finish their handshake are folded; all of them are counted."""
    caplog.set_level(logging.INFO, "wslessons")
    async with asyncio.timeout(50), serving.serve(echo, open_timeout=0.5) as server:
        address = server.sockets[0].getsockname()
        opened = [await asyncio.open_connection(*address) for _ in range(100)]
        for reader, writer in opened:
            assert await reader.read() == b""
            writer.close()

        def told() -> int:
            lines = [record.getMessage() for record in caplog.records]
            lines = [line for line in lines if "left before the opening handshake" in line]
            more = [re.search(r"and (\d+) more like it", line) for line in lines]
            return len(lines) + sum(int(match[1]) for match in more if match)

        await until(lambda: told() >= 100)
    assert len([r for r in caplog.records if "left before" in r.getMessage()]) < 50


@pytest.mark.parametrize(("code", "reason"), [(1006, ""), (999, ""), (1001, "x" * 124)])
async def test_what_no_close_frame_can_carry_closes_nothing(code: int, reason: str) -> None:
    """It is refused when it is given, and not in the middle of the end."""
    async with (
        asyncio.timeout(50),
        serving.serve(echo) as server,
        connect(serving.urls(server)[0], proxy=None) as client,
    ):
        with pytest.raises(UserError, match="a close frame"):
            await serving.shut(server, code, reason)
        await client.send("still here")
        assert await client.recv() == "Echo: still here"


# How many there may be.


class OneAddress(ConnectionLimit):
    """A limit to which everybody comes from far away, and from one address."""

    def enter(self, host: str | None) -> str:
        """Count a connection."""
        return super().enter("192.0.2.7")

    def leave(self, host: str | None) -> None:
        """Count one less."""
        super().leave("192.0.2.7")


@pytest.mark.parametrize(
    ("limit", "status"), [(ConnectionLimit(3), 503), (OneAddress(100, 3), 429)], ids=["all", "one"]
)
@pytest.mark.parametrize("serve", SERVERS.values(), ids=SERVERS)
async def test_who_is_too_many_is_refused_and_others_are_served(
    serve: Any, limit: ConnectionLimit, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The fourth of three is told so over HTTP; when one has left, the next one gets in."""
    caplog.set_level(logging.INFO, "wslessons")
    async with asyncio.timeout(50), serve(limit=limit) as server:
        url = serving.urls(server)[0]
        async with connect(url, proxy=None) as first, connect(url, proxy=None):
            async with connect(url, proxy=None):
                for _ in range(50):
                    with pytest.raises(InvalidStatus, match=str(status)):
                        await connect(url, proxy=None)
                await first.send("hi")
                assert await first.recv() == "Echo: hi"
            await until(lambda: limit.open <= 2)
            async with connect(url, proxy=None) as third:
                await third.send("hi")
                assert await third.recv() == "Echo: hi"
        await until(lambda: "too many connections" in caplog.text)
    lines = [record.getMessage() for record in caplog.records]
    # Folded: fifty in less than a second are at most a handful of lines.
    assert 1 <= len([line for line in lines if "too many connections" in line]) < 25
    assert limit.open == 0


async def test_those_who_wait_to_be_refused_are_bounded_too() -> None:
    """Silent connections beyond the limit hold no descriptors: all but a few are cut off."""
    limit = ConnectionLimit(5)
    async with serving_strangers(echo, limit=limit, open_timeout=30) as (server, _):
        address, writers = server.sockets[0].getsockname(), []
        for _ in range(200):
            _, writer = await asyncio.open_connection(*address)
            writers.append(writer)
        mine = [c for c in LoggedConnection.alive if c.server is server]
        while len(mine) > 5 + Door.MOST_WAITING:
            await asyncio.sleep(0.01)
            mine = [c for c in LoggedConnection.alive if c.server is server]
        assert limit.open == 5
        for writer in writers:
            writer.close()
        await until(lambda: not limit.open)
        async with connect(serving.urls(server)[0], proxy=None) as client:
            await client.send("hi")
            assert await client.recv() == "Echo: hi"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
async def test_server_with_few_descriptors_keeps_its_people_and_comes_back() -> None:
    """Hundreds want in where the system lets it open 128 files: those inside are still served."""
    command = f"ulimit -n 128; exec {sys.executable} -m wslessons echo --port 0"
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", command), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(50):
            url = (await process.stdout.readline()).decode().strip()
            async with connect(url, proxy=None) as inside:
                strangers = [
                    await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
                    for _ in range(300)
                ]
                await inside.send("hi")
                assert await inside.recv() == "Echo: hi"
                for _, writer in strangers:
                    writer.close()
                while True:
                    with contextlib.suppress(OSError, InvalidHandshake, TimeoutError):
                        async with connect(url, proxy=None, open_timeout=2) as late:
                            await late.send("hi")
                            assert await late.recv() == "Echo: hi"
                            break
                    await asyncio.sleep(0.1)
            process.terminate()
            log = (await process.stderr.read()).decode()
            assert await process.wait() == 0
        assert "Traceback" not in log
        assert 0 < log.count("too many connections") < 60
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def test_server_is_not_held_up_by_looking_through_what_stays_anyway():
    """While a command serves, the collector leaves alone what was loaded before; then as before."""
    before = gc.get_threshold()

    async def main() -> tuple[int, int]:
        return gc.get_threshold()[0], gc.get_freeze_count()

    threshold, frozen = serving.run_on("asyncio", main())
    assert threshold > before[0]
    assert frozen > 10_000
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)


def test_an_address_of_another_machine_is_named_by_every_python():
    """3.13's asyncio gives no number any more for an address that no interface has."""
    said = "could not bind on any address out of [('192.0.2.1', 8765)]"
    match = r"192\.0\.2\.1 is not an address of this machine"
    with (
        pytest.raises(UserError, match=match),
        serving.explained_bind_errors("192.0.2.1", 8765),
    ):
        raise OSError(said)
