"""The link over real sockets: what it passes on and records, and every way in which it breaks."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, cast

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidMessage

from wslessons.errors import UserError
from wslessons.link import Connection, Link
from wslessons.link.faults import Fault, Faults
from wslessons.wire import Decoder, FrameRecord, HandshakeRequest, Problem, Record, TransportEvent

BUFFER = 10_000
ONE_READ = 262_144


class Peer(asyncio.Protocol):
    """One end of a TCP connection that keeps all it gets and says when it got it."""

    def __init__(self, made: Callable[[Peer], None] = lambda peer: None) -> None:
        self._made = made
        self.got = bytearray()
        self.eof = self.reset = self.lost = False
        self._news = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast(asyncio.Transport, transport)
        self._made(self)

    def data_received(self, data: bytes) -> None:
        """Keep the bytes."""
        self.got += data
        self._news.set()

    def eof_received(self) -> bool:
        """Take note of a FIN and stay open."""
        self.eof = True
        self._news.set()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note of the end, and of how it came."""
        self.lost, self.reset = True, isinstance(exc, ConnectionError)
        self._news.set()

    async def until(self, condition: Callable[[Peer], bool]) -> None:
        """Wait until `condition` of this peer is true."""
        while not condition(self):
            self._news.clear()
            await self._news.wait()

    async def receives(self, data: bytes) -> None:
        """Wait for exactly `data` since the beginning."""
        await self.until(lambda peer: len(peer.got) >= len(data))
        assert bytes(self.got) == data

    def abort_with_rst(self) -> None:
        """Vanish with an RST."""
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class Wire:
    """A listening target and a link before it."""

    def __init__(self, link: Link, servers: asyncio.Queue[Peer], peers: list[Peer]) -> None:
        self.link, self._servers, self._peers = link, servers, peers

    async def client(self) -> Peer:
        """Connect to the link."""
        loop = asyncio.get_running_loop()
        _, peer = await loop.create_connection(
            lambda: Peer(self._peers.append), "127.0.0.1", self.link.port
        )
        return peer

    async def open(self) -> tuple[Peer, Peer, Connection]:
        """Return both ends of a new connection, and the connection in between."""
        number = self.link.accepted + 1
        client = await self.client()
        connection = await self.link.wait_for_connection(number)
        return client, await self._servers.get(), connection


@asynccontextmanager
async def wire(
    *, rng: random.Random | None = None, keep_bytes: int = 2**20
) -> AsyncGenerator[Wire]:
    """Run a link with a small buffer before a target, all within ten seconds."""
    servers: asyncio.Queue[Peer] = asyncio.Queue()
    peers: list[Peer] = []

    def made(server: Peer) -> None:
        peers.append(server)
        servers.put_nowait(server)

    async with asyncio.timeout(50):
        loop = asyncio.get_running_loop()
        target = await loop.create_server(lambda: Peer(made), "127.0.0.1", 0)
        port = target.sockets[0].getsockname()[1]
        async with Link(f"127.0.0.1:{port}", buffer=BUFFER, rng=rng, keep_bytes=keep_bytes) as link:
            try:
                yield Wire(link, servers, peers)
            finally:
                target.close()
                for peer in peers:
                    peer.transport.abort()


async def echo(websocket: ServerConnection) -> None:
    """Send everything back."""
    try:
        async for message in websocket:
            await websocket.send(message)
    except ConnectionClosed:
        pass


def echo_server() -> AbstractAsyncContextManager[Server]:
    """Serve `echo`, on a free port."""
    return serve(echo, "127.0.0.1", 0)


def url_of(server: Server, path: str = "/") -> str:
    """Return the server's URL."""
    return f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}{path}"


@asynccontextmanager
async def websocket_through_link() -> AsyncGenerator[tuple[ClientConnection, Link]]:
    """Connect to an echo server through a link."""
    async with (
        asyncio.timeout(50),
        echo_server() as server,
        Link(url_of(server, "/chat?room=1")) as link,
        connect(link.url, proxy=None, close_timeout=1) as websocket,
    ):
        yield websocket, link


def says(word: str) -> Callable[[Record], bool]:
    """Return a predicate for records whose text holds `word`."""
    return lambda record: word in record.text


# Watching.


async def test_websocket_passes_and_every_frame_is_recorded():
    """A WebSocket works as without the link, and its whole life is in the records, in order."""
    async with websocket_through_link() as (websocket, link):
        assert link.url.endswith(f":{link.port}/chat?room=1")
        await websocket.send("hello")
        assert await websocket.recv() == "hello"
        await websocket.close(4000, "enough")
        connection = link.connections[0]
        await connection.wait_closed()
    request, *records = connection.records
    assert isinstance(request, HandshakeRequest)
    assert request.path == "/chat?room=1"
    frames = [(r.direction, r.opcode, r.text) for r in records if isinstance(r, FrameRecord)]
    assert frames == [
        ("client->server", "TEXT", "hello"),
        ("server->client", "TEXT", "hello"),
        ("client->server", "CLOSE", "4000 (private use) enough"),
        ("server->client", "CLOSE", "4000 (private use) enough"),
    ]
    assert [record.text for record in records[-2:]] == [
        "The server closed its sending side.",
        "The client closed its sending side.",
    ]
    times = [record.time for record in connection.records]
    assert times == sorted(times)
    assert times[0] >= 0
    assert connection.closed


async def test_raw_bytes_are_kept_with_direction_and_time():
    """The chunks, fed to a decoder, give the same records with the same times."""
    async with websocket_through_link() as (websocket, link):
        await websocket.send("hello")
        await websocket.recv()
        connection = link.connections[0]
        decoder = Decoder()
        for chunk in connection.chunks:
            decoder.feed(chunk.direction, chunk.data, chunk.time)
        texts = [record.text for record in decoder.records]
        assert texts == [record.text for record in connection.records]
        sizes = {"client->server": 0, "server->client": 0}
        for chunk in connection.chunks:
            sizes[chunk.direction] += len(chunk.data)
        assert sizes["client->server"] == connection.up.received == connection.up.forwarded
        assert sizes["server->client"] == connection.down.received == connection.down.forwarded


async def test_bytes_that_are_no_websocket_pass_unchanged():
    """The link passes on what it can't decode, and says so in one record."""
    async with wire() as bench:
        client, server, connection = await bench.open()
        garbage = bytes(range(256)) * 40
        client.transport.write(garbage)
        await server.receives(garbage)
        server.transport.write(garbage)
        await client.receives(garbage)
        problems = [r for r in connection.records if isinstance(r, Problem)]
        assert [problem.direction for problem in problems] == ["client->server", "server->client"]


async def test_large_transfers_both_ways_arrive_whole():
    """Far more than the buffer goes through at the same time in both directions."""
    async with wire() as bench:
        client, server, connection = await bench.open()
        up, down = random.Random(1).randbytes(3_000_000), random.Random(2).randbytes(3_000_000)
        client.transport.write(up)
        server.transport.write(down)
        await server.receives(up)
        await client.receives(down)
        assert (connection.up.received, connection.up.forwarded) == (len(up), len(up))
        assert connection.up.held == connection.down.held == 0


async def test_slow_receiver_holds_back_the_sender_and_not_the_links_memory():
    """When the target doesn't read, the link stops reading; nothing is lost once it reads again."""
    async with wire() as bench:
        client, server, connection = await bench.open()
        server.transport.pause_reading()
        data = bytes(64 * 2**20)
        client.transport.write(data)
        await connection.wait_until(lambda c: c.up.held >= BUFFER)
        assert connection.up.held < BUFFER + ONE_READ
        assert connection.up.received < len(data)
        server.transport.resume_reading()
        await server.until(lambda peer: len(peer.got) == len(data))
        assert connection.up.held == 0


async def test_raw_bytes_and_records_kept_are_bounded():
    """A long connection keeps the last chunks only, tiny ones included."""
    async with wire(keep_bytes=20_000) as bench:
        client, server, connection = await bench.open()
        client.transport.write(bytes(500_000))
        await server.until(lambda peer: len(peer.got) == 500_000)
        assert sum(len(chunk.data) for chunk in connection.chunks) <= 20_000
        for count in range(1, 301):
            client.transport.write(b"x")
            await server.until(lambda peer, count=count: len(peer.got) == 500_000 + count)
        assert len(connection.chunks) <= 100


async def test_payloads_in_records_count_toward_the_bound():
    """What the records hold is bounded as the chunks are, small on the wire or not."""
    bound = 200_000

    async def sink(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(str(len(message)))

    async with (
        asyncio.timeout(20),
        serve(sink, "127.0.0.1", 0) as server,
        Link(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", keep_bytes=bound) as link,
    ):
        for compression in (None, "deflate"):
            async with connect(link.url, compression=compression, proxy=None) as client:
                connection = await link.wait_for_connection(link.accepted)
                for number in range(50):
                    await client.send(bytes(60_000))
                    assert await client.recv() == "60000"
                    held = sum(len(chunk.data) for chunk in connection.chunks)
                    held += sum(
                        len(record.payload)
                        for record in connection.records
                        if isinstance(record, FrameRecord)
                    )
                    assert held <= bound, f"after message {number}"
                # The newest are kept, and those forgotten are counted.
                newest = connection.records[-1]
                assert isinstance(newest, FrameRecord)
                assert newest.text == "60000"
                assert connection.total_records > len(connection.records) > 1


async def test_half_close_is_passed_on_each_way():
    """After the client's FIN the server can still answer, and its FIN then ends the connection."""
    async with wire() as bench:
        client, server, connection = await bench.open()
        client.transport.write(b"question")
        client.transport.write_eof()
        await server.until(lambda peer: peer.eof)
        assert bytes(server.got) == b"question"
        server.transport.write(b"answer")
        await client.receives(b"answer")
        assert not client.eof
        server.transport.write_eof()
        await client.until(lambda peer: peer.eof)
        await connection.wait_closed()
        events = [r.event for r in connection.records if isinstance(r, TransportEvent)]
        assert events == ["FIN", "FIN"]


@pytest.mark.parametrize("who", ["client", "server"])
async def test_reset_is_passed_on_and_recorded(who: str):
    """An RST of either side reaches the other as an RST."""
    async with wire() as bench:
        client, server, connection = await bench.open()
        one, other = (client, server) if who == "client" else (server, client)
        one.abort_with_rst()
        await other.until(lambda peer: peer.lost)
        assert other.reset
        await connection.wait_closed()
        assert connection.records[-1].text == f"The {who} reset the connection."


async def test_refused_target_closes_the_client_and_is_told_in_one_sentence(
    caplog: pytest.LogCaptureFixture,
):
    """Nobody listens behind the link: the client is reset, the record says why, no log line."""
    with socket.socket() as placeholder:  # bound but not listening: the port refuses
        placeholder.bind(("127.0.0.1", 0))
        port = placeholder.getsockname()[1]
        async with asyncio.timeout(50), Link(f"ws://127.0.0.1:{port}") as link:
            with pytest.raises((ConnectionResetError, InvalidMessage)):
                await connect(link.url, proxy=None)
            connection = await link.wait_for_connection()
            await connection.wait_closed()
            record = next(r for r in connection.records if isinstance(r, TransportEvent))
            assert record.event == "REFUSED"
            assert (
                record.text == f"The target 127.0.0.1:{port} can't be reached: Connection refused."
            )
    assert not caplog.records


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("wss://example.org/", "TLS"),
        ("https://example.org/", "TLS"),
        ("ftp://example.org/", "ftp://"),
        ("example.org", "lacks a host or a port"),
        ("ws:///path", "lacks a host or a port"),
        ("ws://example.org:99999/", "is not a valid URL"),
        ("ws://example.org:http/", "is not a valid URL"),
        ("ws://[::1/", "is not a valid URL"),
        ("", "lacks a host or a port"),
    ],
)
def test_target_that_can_not_be_used_is_one_sentence(target: str, words: str):
    """A bad target raises a UserError that says what was wrong and what to give."""
    with pytest.raises(UserError) as caught:
        Link(target)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_target_without_scheme_and_default_port():
    """HOST:PORT will do, also in brackets for IPv6, and ws:// means port 80."""
    assert Link("localhost:8000").target == ("localhost", 8000)
    assert Link("[::1]:8000").target == ("::1", 8000)
    assert Link("ws://example.org/chat").target == ("example.org", 80)


def test_port_before_listening_is_an_error_that_says_so():
    """The URL is known once the link listens."""
    with pytest.raises(RuntimeError, match="isn't listening yet"):
        _ = Link("localhost:8000").url


async def test_wait_for_finds_records_before_and_after():
    """A record that is there is returned at once, one to come when it comes."""
    async with wire() as bench:
        client, _, connection = await bench.open()
        waiting = asyncio.create_task(connection.wait_for(says("GET /later")))
        client.transport.write(b"GET /later HTTP/1.1\r\n\r\n")
        record = await waiting
        assert await connection.wait_for(says("GET /later")) is record


async def test_wait_for_raises_when_the_connection_ends_without_it():
    """Nobody waits for ever for what can't come any more, before the end or after it."""
    async with wire() as bench:
        client, _, connection = await bench.open()
        waiting = asyncio.create_task(connection.wait_for(says("never")))
        counting = asyncio.create_task(connection.wait_until(lambda c: c.up.received > 0))
        await asyncio.sleep(0)
        client.abort_with_rst()
        for task in (waiting, counting):
            with pytest.raises(ConnectionError, match="closed without"):
                await task
        with pytest.raises(ConnectionError, match="closed without"):
            await connection.wait_for(says("never"))


async def test_predicate_that_raises_reaches_its_waiter_and_not_the_link():
    """A mistake in a predicate is the waiter's, and bytes go on."""
    async with wire() as bench:
        client, server, connection = await bench.open()
        waiting = asyncio.create_task(connection.wait_for(lambda record: 1 // 0 > 0))
        await asyncio.sleep(0)
        client.transport.write(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(ZeroDivisionError):
            await waiting
        await server.receives(b"GET / HTTP/1.1\r\n\r\n")


async def test_connections_that_are_over_are_forgotten_in_the_end():
    """The list of connections is bounded, and one that was forgotten is named as such."""
    async with (
        asyncio.timeout(50),
        echo_server() as server,
        Link(url_of(server), keep_connections=2) as link,
    ):
        for number in range(1, 6):
            async with connect(link.url, proxy=None):
                pass
            await (await link.wait_for_connection(number)).wait_closed()
        assert link.accepted == 5
        assert [connection.number for connection in link.connections] == [3, 4, 5]
        with pytest.raises(LookupError, match="no longer kept"):
            await link.wait_for_connection(1)


async def test_closing_the_link_ends_everything_at_once():
    """Open, stalled and full connections and all waiters end, and closing again does nothing."""
    async with wire() as bench:
        client, server, connection = await bench.open()
        bench.link.stall()
        client.transport.write(bytes(10_000_000))
        await connection.wait_until(lambda c: c.up.held >= BUFFER)
        waiting = asyncio.create_task(bench.link.wait_for_connection(9))
        await asyncio.sleep(0)
        await bench.link.close()
        await bench.link.close()
        assert connection.closed
        assert connection.records[-1].text == "The link was closed."
        with pytest.raises(ConnectionError, match="the link was closed"):
            await waiting
        await client.until(lambda peer: peer.lost or peer.eof)
        await server.until(lambda peer: peer.lost or peer.eof)
        with pytest.raises(ConnectionRefusedError):
            await bench.client()


async def test_closing_the_link_while_it_still_connects_to_the_target(
    monkeypatch: pytest.MonkeyPatch,
):
    """A target that doesn't answer holds nothing up."""
    async with asyncio.timeout(50):
        loop = asyncio.get_running_loop()
        calling = asyncio.Event()
        create_connection = loop.create_connection

        async def hang(*args: object, **kwargs: object) -> None:
            calling.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(loop, "create_connection", hang)
        async with Link("127.0.0.1:9") as link:
            _, client = await create_connection(Peer, "127.0.0.1", link.port)
            await calling.wait()
        await client.until(lambda peer: peer.lost or peer.eof)
        client.transport.abort()
        assert link.connections[0].closed


# Breaking.


async def test_stall_accepts_bytes_and_passes_them_on_when_undone():
    """While stalled, bytes are recorded and held; afterwards they arrive, in order."""
    async with wire() as bench:
        client, server, connection = await bench.open()
        fault = bench.link.stall("up")
        client.transport.write(b"held")
        await connection.wait_until(lambda c: c.up.held == 4)
        server.transport.write(b"down passes")
        await client.receives(b"down passes")
        assert (connection.up.received, connection.up.forwarded) == (4, 0)
        assert server.got == b""
        fault.undo()
        client.transport.write(b" and on")
        await server.receives(b"held and on")


async def test_stall_down_leaves_up_alone():
    """The other direction alone can be stalled just as well."""
    async with wire() as bench:
        client, server, connection = await bench.open()
        with bench.link.stall("down"):
            server.transport.write(b"held")
            await connection.wait_until(lambda c: c.down.held == 4)
            client.transport.write(b"up passes")
            await server.receives(b"up passes")
            assert client.got == b""
        await client.receives(b"held")


async def test_stall_stops_reading_once_its_buffer_is_full():
    """A stalled link holds a bounded number of bytes; the sender's own buffer fills behind it."""
    async with wire() as bench:
        client, server, connection = await bench.open()
        with bench.link.stall("up"):
            client.transport.write(bytes(64 * 2**20))
            await connection.wait_until(lambda c: c.up.held >= BUFFER)
            server.transport.write(b"a sign that the loop went on")
            await client.until(lambda peer: len(peer.got) > 0)
            assert connection.up.held < BUFFER + ONE_READ
            assert connection.up.received == connection.up.held
            assert client.transport.get_write_buffer_size() > 0
        await server.until(lambda peer: len(peer.got) == 64 * 2**20)


@pytest.mark.parametrize("end", ["FIN", "RST"])
async def test_stall_holds_back_the_end_of_the_connection(end: str):
    """The peer that vanishes behind a stalled link sends no FIN or RST that anyone would see."""
    async with wire() as bench:
        client, server, connection = await bench.open()
        with bench.link.stall():
            if end == "FIN":
                client.transport.write_eof()
            else:
                client.abort_with_rst()
            await connection.wait_for(
                lambda record: isinstance(record, TransportEvent) and record.event == end
            )
            server.transport.write(b"are you there?")
            await connection.wait_until(lambda c: c.down.held == 14)
            assert (server.eof, server.lost, connection.closed) == (False, False, False)
        await server.until(lambda peer: peer.eof if end == "FIN" else peer.reset)


async def test_both_sides_reset_behind_a_stall_leave_nothing_open():
    """When both peers are gone the connection is over, stalled or not."""
    async with wire() as bench:
        client, server, connection = await bench.open()
        with bench.link.stall():
            client.abort_with_rst()
            server.abort_with_rst()
            await connection.wait_closed()


async def test_websocket_behind_a_stall_gets_no_pongs():
    """The library's keepalive notices the plug that was pulled, and only by its timeout."""
    async with (
        asyncio.timeout(50),
        echo_server() as server,
        Link(url_of(server)) as link,
        connect(
            link.url, proxy=None, ping_interval=0.05, ping_timeout=0.1, close_timeout=0.1
        ) as websocket,
    ):
        await asyncio.wait_for(await websocket.ping(), 5)
        link.stall()
        with pytest.raises(ConnectionClosed) as caught:
            await websocket.recv()
        assert caught.value.sent is not None
        assert caught.value.sent.code == 1011


async def test_fault_holds_for_new_connections_too():
    """What is set on the link is in force from a new connection's first byte, and recorded."""
    async with wire() as bench:
        fault = bench.link.stall("up")
        client, server, connection = await bench.open()
        assert connection.records[0].text == "Fault set: stall up."
        client.transport.write(b"held")
        await connection.wait_until(lambda c: c.up.held == 4)
        assert server.got == b""
        fault.undo()
        await server.receives(b"held")
        await connection.wait_for(says("Fault undone: stall up."))


async def test_cut_resets_both_sides_now_and_on_new_connections_until_undone():
    """RST to client and server, and the same for who comes later; undone, all is well."""
    async with wire() as bench:
        client, server, connection = await bench.open()
        fault = bench.link.cut()
        await client.until(lambda peer: peer.reset)
        await server.until(lambda peer: peer.reset)
        await connection.wait_closed()
        assert connection.records[-1].text == "The link reset both sides."
        late = await bench.client()
        await late.until(lambda peer: peer.reset)
        await bench.link.connections[1].wait_closed()
        fault.undo()
        client, server, _ = await bench.open()
        client.transport.write(b"hello again")
        await server.receives(b"hello again")


async def test_cut_breaks_a_stalled_connection_too():
    """Pulling the plug does not keep the link itself from resetting."""
    async with wire() as bench:
        client, server, _ = await bench.open()
        bench.link.stall()
        bench.link.cut().undo()
        await client.until(lambda peer: peer.reset)
        await server.until(lambda peer: peer.reset)


async def test_one_connection_can_be_cut_alone():
    """`Connection.cut` breaks that one and spares the others."""
    async with wire() as bench:
        one, _, connection = await bench.open()
        other, server, _ = await bench.open()
        connection.cut()
        await one.until(lambda peer: peer.reset)
        other.transport.write(b"alive")
        await server.receives(b"alive")


async def test_websocket_that_is_cut_sees_no_close_frame():
    """A cut looks like 1006 from both ends: no close frame in either direction."""
    async with websocket_through_link() as (websocket, link):
        link.cut()
        with pytest.raises(ConnectionClosed) as caught:
            await websocket.recv()
        assert caught.value.rcvd is None
        assert websocket.close_code == 1006


async def test_close_half_sends_a_fin_and_leaves_the_other_direction_open():
    """The server sees the client's stream end; what the client sends is thrown away."""
    async with wire() as bench:
        client, server, connection = await bench.open()
        client.transport.write(b"before")
        await server.receives(b"before")
        fault = bench.link.close_half("up")
        await server.until(lambda peer: peer.eof)
        client.transport.write(b"after")
        await connection.wait_until(lambda c: c.up.received == 11 and c.up.held == 0)
        assert connection.up.forwarded == 6
        server.transport.write(b"still here")
        await client.receives(b"still here")
        assert not client.eof
        _, late, _ = await bench.open()
        await late.until(lambda peer: peer.eof)
        fault.undo()
        client, server, _ = await bench.open()
        client.transport.write(b"whole")
        await server.receives(b"whole")
        assert not server.eof


async def test_close_half_in_both_directions_closes_the_connection():
    """Two FINs and it is over, without an RST."""
    async with wire() as bench:
        client, server, connection = await bench.open()
        bench.link.close_half("both")
        await client.until(lambda peer: peer.eof)
        await server.until(lambda peer: peer.eof)
        await connection.wait_closed()


@pytest.mark.parametrize("way", ["up", "down"])
async def test_delay_holds_bytes_for_its_latency(way: str):
    """Nothing arrives before the latency has passed, in that direction only."""
    async with wire() as bench:
        client, server, _ = await bench.open()
        sender, receiver = (client, server) if way == "up" else (server, client)
        bench.link.delay(0.2, direction="up" if way == "up" else "down")
        loop = asyncio.get_running_loop()
        began = loop.time()
        receiver.transport.write(b"at once")
        await sender.receives(b"at once")
        sender.transport.write(b"later")
        await receiver.receives(b"later")
        assert loop.time() - began >= 0.2


async def test_delay_with_jitter_keeps_the_order():
    """Jitter changes when bytes arrive and never their order."""
    async with wire(rng=random.Random(5)) as bench:
        client, server, connection = await bench.open()
        bench.link.delay(0.05, 0.05, "up")
        data = b""
        for number in range(40):
            data += b"%d," % number
            client.transport.write(b"%d," % number)
            size = len(data)
            await connection.wait_until(lambda c, size=size: c.up.received == size)
        await server.receives(data)


async def test_delays_run_side_by_side():
    """Delay is no throttle: what arrives meanwhile waits at the same time, not in turn."""
    async with wire() as bench:
        client, server, connection = await bench.open()
        with bench.link.delay(3600):
            for size in range(1, 4):
                client.transport.write(b"x")
                await connection.wait_until(lambda c, size=size: c.up.held == size)
            waits = [connection.up._wait(arrival) for arrival in connection.up._arrivals]
            assert len(waits) == 3
            assert all(3500 < wait <= 3600 for wait in waits)
        await server.receives(b"xxx")


async def test_jitter_is_the_same_for_the_same_seed():
    """A seeded generator gives each connection the same draws again, another seed others."""

    async def draws(seed: int) -> list[float]:
        async with wire(rng=random.Random(seed)) as bench:
            client, _, connection = await bench.open()
            bench.link.stall()
            for size in range(1, 4):
                client.transport.write(b"x")
                await connection.wait_until(lambda c, size=size: c.up.held == size)
            return [arrival.luck for arrival in connection.up._arrivals]

    first = await draws(1)
    assert first == await draws(1)
    assert first != await draws(2)
    assert all(-1 <= luck <= 1 for luck in first)


async def test_jitter_moves_the_delay_both_ways():
    """A read's delay is latency plus its draw times jitter."""
    async with wire(rng=random.Random(3)) as bench:
        client, _, connection = await bench.open()
        bench.link.delay(3000, 1000)
        for size in range(1, 21):
            client.transport.write(b"x")
            await connection.wait_until(lambda c, size=size: c.up.held == size)
        waits = [connection.up._wait(arrival) for arrival in connection.up._arrivals]
        assert all(1900 < wait <= 4000 for wait in waits)
        assert max(waits) > 3000 > min(waits)


async def test_delay_undone_lets_held_bytes_go_at_once():
    """Nobody waits out a delay that no longer is."""
    async with wire() as bench:
        client, server, connection = await bench.open()
        with bench.link.delay(3600):
            client.transport.write(b"held")
            client.transport.write_eof()
            await connection.wait_for(says("client closed"))
            assert (server.got, server.eof) == (b"", False)
        await server.until(lambda peer: peer.eof)
        assert server.got == b"held"


@pytest.mark.parametrize("way", ["up", "down"])
async def test_throttle_keeps_below_its_rate(way: str):
    """10 kB at 40 kB/s take a quarter second, less the first slice of a twentieth."""
    async with wire() as bench:
        client, server, _ = await bench.open()
        sender, receiver = (client, server) if way == "up" else (server, client)
        bench.link.throttle(40_000, "up" if way == "up" else "down")
        loop = asyncio.get_running_loop()
        receiver.transport.write(bytes(200_000))
        await sender.until(lambda peer: len(peer.got) == 200_000)
        began = loop.time()
        sender.transport.write(bytes(10_000))
        await receiver.until(lambda peer: len(peer.got) == 10_000)
        assert loop.time() - began >= 0.19


async def test_throttle_undone_lets_held_bytes_go_at_once():
    """At a byte a minute nothing would come in time; undone, everything does."""
    async with wire() as bench:
        client, server, connection = await bench.open()
        with bench.link.throttle(1 / 60):
            client.transport.write(b"slow")
            await server.receives(b"s")
            assert connection.up.held == 3
        await server.receives(b"slow")


@pytest.mark.parametrize("limit", [0, 1, 5, 9])
async def test_drop_after_passes_exactly_so_many_bytes_and_cuts(limit: int):
    """The receiver gets the first `limit` bytes; then both sides are reset."""
    async with wire() as bench:
        bench.link.drop_after(limit, "up")
        client, server, connection = await bench.open()
        server.transport.write(b"downward bytes do not count")
        client.transport.write(b"123456789")
        await server.until(lambda peer: peer.lost)
        await client.until(lambda peer: peer.lost)
        await connection.wait_closed()
        assert (server.reset, client.reset) == (True, True)
        assert bytes(server.got) == b"123456789"[:limit]
        assert connection.up.forwarded == limit
        assert connection.records[-1].text == f"The link reset both sides after {limit} bytes."


async def test_drop_after_counts_from_when_it_was_set_and_is_undone():
    """Bytes before don't count on an open connection, and undone in time nothing is cut."""
    async with wire() as bench:
        client, server, connection = await bench.open()
        client.transport.write(b"before")
        await server.receives(b"before")
        with bench.link.drop_after(3):
            client.transport.write(b"ab")
            await server.receives(b"beforeab")
            bench.link.stall("down").undo()  # another fault doesn't start the count anew
        client.transport.write(b"cdefgh")
        await server.receives(b"beforeabcdefgh")
        bench.link.drop_after(2, "up")
        client.transport.write(b"ijklm")
        await server.until(lambda peer: peer.lost)
        assert bytes(server.got) == b"beforeabcdefghij"
        await connection.wait_closed()


async def test_drop_after_keeps_its_count_when_other_faults_change():
    """Setting another fault in between does not start the count anew."""
    async with wire() as bench:
        client, server, _ = await bench.open()
        bench.link.drop_after(4, "up")
        client.transport.write(b"abc")
        await server.receives(b"abc")
        bench.link.stall("up").undo()
        client.transport.write(b"defg")
        await server.until(lambda peer: peer.lost)
        assert bytes(server.got) == b"abcd"


async def test_drop_after_passes_all_its_bytes_to_a_receiver_that_is_slow(
    monkeypatch: pytest.MonkeyPatch,
):
    """What is still in a full socket buffer goes out before the cut, and then the RST."""
    async with wire() as bench:
        client, server, connection = await bench.open()
        limit = 20 * 2**20
        bench.link.drop_after(limit, "up")
        unsent: list[int] = []
        cut = connection.cut

        def look_and_cut(*args: Any) -> None:
            target = connection.up.target
            assert target is not None
            unsent.append(target.get_write_buffer_size())
            cut(*args)

        monkeypatch.setattr(connection, "cut", look_and_cut)
        server.transport.pause_reading()
        client.transport.write(bytes(limit + 5))
        await connection.wait_until(lambda c: c.up.held >= BUFFER)
        assert not connection.closed
        server.transport.resume_reading()
        await server.until(lambda peer: peer.lost)
        assert connection.up.forwarded == limit
        assert unsent == [0]


async def test_heal_undoes_every_fault():
    """After `heal` the link is as good as new."""
    async with wire() as bench:
        bench.link.stall("up")
        bench.link.delay(3600)
        bench.link.throttle(1)
        bench.link.drop_after(5)
        client, server, _ = await bench.open()
        client.transport.write(b"through all")
        bench.link.heal()
        await server.receives(b"through all")
        assert bench.link.active == []


def test_fault_set_again_replaces_the_first_and_undoing_that_does_nothing():
    """One fault of a kind is in force in a direction: the last; the rest of the first stays."""
    faults = Faults()
    first = faults.delay(1.0)
    second = faults.delay(2.0, direction="down")
    assert faults.active == [first, second]
    assert faults.fault("server->client", "delay") is second
    first.undo()
    assert faults.active == [second]
    assert (first.active, second.active) == (False, True)
    first.undo()
    assert faults.active == [second]
    with second as fault:
        assert repr(fault) == "<delay down latency=2>"
    assert faults.active == []


@pytest.mark.parametrize(
    "set_fault",
    [
        lambda faults: faults.delay(-1),
        lambda faults: faults.delay(1, 2),
        lambda faults: faults.delay(float("nan")),
        lambda faults: faults.throttle(0),
        lambda faults: faults.throttle(float("nan")),
        lambda faults: faults.drop_after(-1),
        lambda faults: faults.stall("sideways"),
    ],
)
def test_fault_that_makes_no_sense_is_refused(set_fault: Callable[[Faults], Fault]):
    """A wrong value or direction raises ValueError and leaves the link as it was."""
    faults = Faults()
    with pytest.raises(ValueError, match=r"needs|direction"):
        set_fault(faults)
    assert faults.active == []
