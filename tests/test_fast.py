"""The short ways: that they do what the library does, and stop where they must."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets import Request, ServerConnection, connect, serve
from websockets.asyncio.client import ClientConnection
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol

from wslessons.chat.channel import Channel
from wslessons.chat.codecs import TEXT, Record
from wslessons.chat.connection import FrameWriter
from wslessons.chat.events import Message
from wslessons.chat.fanout import Fanout
from wslessons.connection import LoggedConnection, plain_frames
from wslessons.fast import Echo
from wslessons.testing.raw import handshake


@contextlib.asynccontextmanager
async def pair(
    kind: type[ServerConnection], **options: Any
) -> AsyncGenerator[tuple[Any, ClientConnection]]:
    """Give both ends of one connection over a real socket, the server's of this kind."""
    ends: asyncio.Queue[ServerConnection] = asyncio.Queue()

    async def handler(connection: ServerConnection) -> None:
        ends.put_nowait(connection)
        await connection.wait_closed()

    async with asyncio.timeout(30):
        async with serve(
            handler,
            "127.0.0.1",
            0,
            create_connection=kind,
            compression=None,
            close_timeout=1,
            **options,
        ) as server:
            uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with connect(uri, proxy=None, compression=None, close_timeout=1) as client:
                yield await ends.get(), client


# Reading.

HANDSHAKE = handshake()

payloads = st.one_of(st.binary(max_size=5), st.binary(min_size=120, max_size=130))
whole = st.builds(Frame, st.sampled_from([Opcode.TEXT, Opcode.BINARY]), payloads)
control = st.builds(Frame, st.sampled_from([Opcode.PING, Opcode.PONG]), st.binary(max_size=5))
closing = st.builds(Frame, st.just(Opcode.CLOSE), st.sampled_from([b"", b"\x03\xe8", b"\x03"]))
fragments = st.builds(
    Frame, st.sampled_from([Opcode.TEXT, Opcode.BINARY, Opcode.CONT]), payloads, st.booleans()
)
wrong = st.one_of(
    st.builds(Frame, st.just(Opcode.TEXT), payloads, st.just(True), st.just(True)),
    st.builds(Frame, st.just(Opcode.BINARY), st.binary(min_size=300, max_size=300)),
)


def on_the_wire(frame: Frame, mask: bool) -> bytes:
    """Write a frame by hand, since the library refuses some of what a hostile client would send."""
    size, key = len(frame.data), b"\x5a\x13\xc7\x88" if mask else bytes(4)
    head = bytes([frame.fin << 7 | frame.rsv1 << 6 | frame.opcode])
    head += bytes([mask << 7 | size]) if size < 126 else bytes([mask << 7 | 126]) + size.to_bytes(2)
    data = bytes(byte ^ key[i % 4] for i, byte in enumerate(frame.data))
    return head + (key if mask else b"") + data


async def received(kind: type[ServerConnection], chunks: list[bytes]) -> dict[str, Any]:
    """Hand `chunks` to a server connection as they come from its socket; return what it made."""
    async with pair(kind, max_size=200, max_queue=4) as (server, client):
        pauses: list[str] = []
        written: list[bytes] = []
        transport = server.transport

        class Watched:
            def __getattr__(self, name: str) -> Any:
                return getattr(transport, name)

            def write(self, data: bytes) -> None:
                written.append(bytes(data))

        server.transport = Watched()
        server.recv_messages.pause = lambda: pauses.append("pause")
        for chunk in chunks:
            server.data_received(chunk)
        queue = server.recv_messages.frames.queue
        result = {
            "frames": [(f.opcode, bytes(f.data), f.fin, f.rsv1) for f in queue],
            "state": server.protocol.state,
            "sent": server.protocol.close_sent,
            "received": server.protocol.close_rcvd,
            "size": server.protocol.current_size,
            "held": bytes(server.protocol.reader.buffer),
            "written": b"".join(written),
            "paused": pauses[:1],
        }
        server.transport = transport
        transport.abort()
        client.transport.abort()
        return result


@settings(max_examples=60, deadline=None)
@given(
    frames=st.lists(
        st.tuples(st.one_of(whole, whole, whole, control, fragments, closing, wrong)), max_size=8
    ),
    unmasked=st.sampled_from([None, None, 0, 2]),
    cuts=st.lists(st.integers(0, 400), max_size=4),
    rubbish=st.sampled_from([b"", b"", b"\x00", b"\x83\x80", b"\x81\xff" + b"\x7f" * 8]),
)
def test_reads_what_the_library_reads(
    frames: list[tuple[Frame]], unmasked: int | None, cuts: list[int], rubbish: bytes
) -> None:
    """Whatever arrives, in whatever pieces: the same messages, answers, errors and pauses."""
    data = (
        b"".join(on_the_wire(frame, i != unmasked) for i, (frame,) in enumerate(frames)) + rubbish
    )
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    chunks = [data[a:b] for a, b in itertools.pairwise(edges) if a != b]

    async def both() -> None:
        assert await received(LoggedConnection, chunks) == await received(ServerConnection, chunks)

    asyncio.run(both())


def test_plain_frames_stop_at_the_first_other_one() -> None:
    """Two plain frames, then a ping: two are taken, and the rest is left where it begins."""
    plain = Frame(Opcode.TEXT, b"hi").serialize(mask=True)
    ping = Frame(Opcode.PING, b"").serialize(mask=True)
    protocol = ServerProtocol(max_size=100)
    protocol.receive_data(HANDSHAKE)
    (request,) = protocol.events_received()
    assert isinstance(request, Request)
    protocol.send_response(protocol.accept(request))
    frames, taken = plain_frames(protocol, plain * 2 + ping + plain)
    assert [bytes(frame.data) for frame in frames] == [b"hi", b"hi"]
    assert taken == 2 * len(plain)
    assert plain_frames(protocol, plain[:-1]) == ([], 0)
    # In the middle of a frame nothing is taken, whatever it looks like.
    protocol.receive_data(plain[:3])
    assert plain_frames(protocol, plain) == ([], 0)


# Writing.


def item(text: str) -> Record:
    """One line for everybody."""
    return Record(Message("ann", text))


async def member(server: LoggedConnection) -> tuple[Fanout[Record], Any]:
    """Join a fan-out with one connection and send two lines, after which it needs no asking."""
    fanout = Fanout[Record](Channel(64))
    fanout.join("a", TEXT, FrameWriter(server), fanout.channel.subscribe())
    for text in "12":
        fanout.send(item(text))
        fanout.flush()
    (in_sync,) = fanout._groups
    return fanout, in_sync


async def test_a_member_that_keeps_up_is_written_to_directly() -> None:
    """After its first write it is sent to without being asked, and nothing is lost or reordered."""
    async with pair(LoggedConnection) as (server, client):
        fanout, in_sync = await member(server)
        assert list(in_sync.direct) == ["a"]
        for number in range(3, 40):
            fanout.send(item(str(number)))
            fanout.flush()
        assert [await client.recv() for _ in range(39)] == [f"[ann] {n}" for n in range(1, 40)]


async def test_a_write_that_the_socket_takes_in_part_is_finished() -> None:
    """A full socket takes the beginning; the transport sends the rest, and what follows waits."""
    async with pair(LoggedConnection, max_size=None) as (server, client):
        fanout, in_sync = await member(server)
        sock = server.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        client.transport.pause_reading()
        number = 3
        while not server.transport.get_write_buffer_size():
            fanout.send(item(str(number) * 50000))
            fanout.flush()
            number += 1
        assert in_sync.direct == {}
        # Nothing may overtake the rest that the transport holds.
        fanout.send(item("last"))
        fanout.flush()
        client.transport.resume_reading()
        lines: list[str] = []
        while not lines or lines[-1] != "[ann] last":
            lines.append(str(await client.recv()))
        assert lines == [
            "[ann] 1",
            "[ann] 2",
            *(f"[ann] {str(n) * 50000}" for n in range(3, number)),
            "[ann] last",
        ]


async def test_the_library_says_when_to_ask_again() -> None:
    """A close frame, a fragmented message and the end of the connection end direct writing."""
    async with pair(LoggedConnection) as (server, client):
        _, in_sync = await member(server)
        go = asyncio.Event()

        async def fragments() -> AsyncIterator[str]:
            yield "one "
            await go.wait()

        sending = asyncio.create_task(server.send(fragments()))
        while server.send_in_progress is None:  # noqa: ASYNC110 - private to the library
            await asyncio.sleep(0)
        assert in_sync.direct == {}
        go.set()
        await sending
        assert server.go_direct(lambda: None)
        closing = asyncio.create_task(server.close())
        await client.wait_closed()
        await closing
        assert server.direct is None
        assert not server.go_direct(lambda: None)

    async with pair(LoggedConnection) as (server, client):
        fanout, in_sync = await member(server)
        client.transport.abort()
        await server.wait_closed()
        assert in_sync.direct == {}
        fanout.send(item("nobody is there"))
        fanout.flush()
        assert in_sync.writers == {}


async def test_a_reset_that_nobody_has_noticed_yet_harms_nobody() -> None:
    """`send` raises for the one whose peer has gone; all others get the line."""
    async with (
        pair(LoggedConnection) as (gone, gone_client),
        pair(LoggedConnection) as (here, client),
    ):
        fanout = Fanout[Record](Channel(64))
        for id, server in ("gone", gone), ("here", here):
            fanout.join(id, TEXT, FrameWriter(server), fanout.channel.subscribe())
        fanout.send(item("both"))
        fanout.flush()
        sock = gone_client.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        gone_client.transport.abort()
        await gone_client.wait_closed()
        for number in range(5):
            fanout.send(item(str(number)))
            fanout.flush()
        assert [await client.recv() for _ in range(6)] == [
            "[ann] both",
            *(f"[ann] {n}" for n in range(5)),
        ]


async def test_frames_of_the_fan_out_and_of_the_library_keep_their_order() -> None:
    """A message of the library's between two direct ones stands where it was sent."""
    async with pair(LoggedConnection) as (server, client):
        fanout, in_sync = await member(server)
        expected = ["[ann] 1", "[ann] 2"]
        for number in range(30):
            fanout.send(item(f"line {number}"))
            fanout.flush()
            await server.send(f"answer {number}")
            expected += [f"[ann] line {number}", f"answer {number}"]
        assert [await client.recv() for _ in range(len(expected))] == expected
        assert list(in_sync.direct) == ["a"]


# The echo.


async def test_fast_echo_answers_as_the_echo_of_lesson_1_does() -> None:
    """Text with the prefix, bytes unchanged, fragments put together, pings answered."""
    async with asyncio.timeout(30), Echo.serve() as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with connect(uri, proxy=None) as client:
            for message, answer in [
                ("hi", "Echo: hi"),
                (b"\x00\xff", b"\x00\xff"),
                ("x" * 70000, "Echo: " + "x" * 70000),
                (["one ", "message"], "Echo: one message"),
                ("", "Echo: "),
            ]:
                await client.send(message)
                assert await client.recv() == answer
            await (await client.ping())
            await client.close(4321, "enough")
            assert client.close_code == 4321


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x81\x81\x00\x00\x00\x00\xff", 1007),
        (b"\x81\x01x", 1002),
        (b"\x81\xff\x00\x00\x00\x00\x00\xff\xff\xff\x00\x00\x00\x00", 1009),
    ],
    ids=["no UTF-8", "no mask", "too big"],
)
async def test_fast_echo_fails_what_is_wrong(
    frame: bytes, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    """After two good messages in the same read, the wrong one ends the connection with its code."""
    good = Frame(Opcode.TEXT, b"good").serialize(mask=True)
    async with asyncio.timeout(30), Echo.serve() as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with connect(uri, proxy=None, compression=None) as client:
            client.transport.write(good + good + frame)
            assert [await client.recv(), await client.recv()] == ["Echo: good"] * 2
            await client.wait_closed()
            assert client.close_code == code
    assert caplog.records == []


class Kept(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closing = False

    def write(self, data: Any) -> None:
        """Keep it."""
        self.written.append(bytes(data))

    def write_eof(self) -> None:
        """Keep that, too."""
        self.written.append(b"EOF")

    def can_write_eof(self) -> bool:
        """Say that it can."""
        return True

    def abort(self) -> None:
        """Keep that."""
        self.closing = True


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(whole, whole, control, fragments, closing, wrong), max_size=8),
    st.lists(st.integers(1, 300), max_size=12),
    st.sampled_from([100, 125, 2**20]),
    st.booleans(),
)
def test_short_way_of_the_fast_echo_answers_as_the_long_one(
    frames: list[Frame], cuts: list[int], max_size: int, raw: bool
) -> None:
    """However the bytes are cut, whatever stands before a short text, the answers are the same."""

    async def answers(short: bool) -> tuple[bytes, Any, Any]:
        echo, transport = Echo(raw=raw, max_size=max_size), Kept()
        echo._takes_short = echo._takes_short and short
        echo.connection_made(transport)
        echo.data_received(HANDSHAKE)
        transport.written.clear()  # it has the date in it
        # First each frame alone, as a client sends them that waits for answers; then cut at random.
        alone = [on_the_wire(frame, mask=True) for frame in frames]
        stream = b"".join(alone)
        edges = list(itertools.accumulate(cuts, initial=0))
        pieces = [stream[a:b] for a, b in itertools.pairwise([*edges, len(stream) + 1])]
        for piece in [*alone[:3], *pieces]:
            if piece:
                echo.data_received(piece)
        state, sent = echo.protocol.state, echo.protocol.close_sent
        echo.connection_lost(None)
        return b"".join(transport.written), state, sent

    async def both() -> None:
        assert await answers(short=True) == await answers(short=False)

    asyncio.run(both())


@pytest.mark.parametrize("alone", [True, False], ids=["asyncio reads", "one epoll"])
async def test_fast_echo_reads_nothing_from_a_peer_that_does_not_read(alone: bool) -> None:
    """With 60 MB to echo and nobody to read it, the server holds about one read's worth."""
    connections: set[Echo] = set()
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(30), contextlib.AsyncExitStack() as stack:
        if alone:
            server = await loop.create_server(lambda: Echo(connections=connections), "127.0.0.1", 0)
            await stack.enter_async_context(server)
        else:
            server = await stack.enter_async_context(Echo.serve(connections=connections))
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with connect(uri, proxy=None, compression=None) as client:
            (echo,) = connections
            client.transport.pause_reading()
            message = Frame(Opcode.BINARY, bytes(60000)).serialize(mask=True)
            client.transport.write(message * 1000)
            while not echo.transport.get_write_buffer_size():  # noqa: ASYNC110 - asyncio's own
                await asyncio.sleep(0)
            assert not echo.transport.is_reading()
            assert echo.transport.get_write_buffer_size() < 2**20
            client.transport.resume_reading()
            for _ in range(1000):
                assert len(await client.recv()) == 60000


async def test_fast_echo_goes_on_when_others_end_however_they_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A reset, an end without a close frame and a fault of ours each end one connection alone."""
    connections: set[Echo] = set()
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    async with asyncio.timeout(30), Echo.serve(connections=connections) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with connect(uri, proxy=None) as stays:
            async with connect(uri, proxy=None) as reset:
                sock = reset.transport.get_extra_info("socket")
                linger = struct.pack("ii", 1, 0)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                reset.transport.abort()
            async with connect(uri, proxy=None) as ends:
                ends.transport.write_eof()
                await ends.wait_closed()
            async with connect(uri, proxy=None) as unlucky:
                (at_fault,) = [
                    connection
                    for connection in connections
                    if connection.transport.get_extra_info("peername") == unlucky.local_address
                ]
                monkeypatch.setattr(at_fault, "data_received", lambda data: 1 / 0)
                await unlucky.send("hi")
                await unlucky.wait_closed()
            while len(connections) > 1:  # noqa: ASYNC110 - asyncio's own
                await asyncio.sleep(0)
            await stays.send("still here?")
            assert await stays.recv() == "Echo: still here?"
    assert [type(fault["exception"]) for fault in faults] == [ZeroDivisionError]


async def test_fast_echo_ends_with_its_server() -> None:
    """At the end of the server its clients get 1001, and one without a handshake is dropped."""
    async with asyncio.timeout(30):
        async with Echo.serve() as server:
            port = server.sockets[0].getsockname()[1]
            _, silent = await asyncio.open_connection("127.0.0.1", port)
            client = await connect(f"ws://127.0.0.1:{port}", proxy=None)
        await client.wait_closed()
        assert client.close_code == 1001
        silent.close()


async def test_a_connection_has_no_more_names_than_python_shares() -> None:
    """Up to 30 attributes are kept without a dict of their own, which would cost 1.6 KiB each."""
    async with pair(LoggedConnection) as (server, _):
        assert len(vars(server)) <= 30
