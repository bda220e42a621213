"""The one writer for all members: that it does what a task for each member would do."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import pytest
import websockets
from hypothesis import given, settings
from hypothesis import strategies as st
from waits import until
from websockets import ConnectionClosed, ServerConnection, connect, serve
from websockets.asyncio.client import ClientConnection
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.protocol import State

from wslessons.chat import fanout
from wslessons.chat.channel import Channel, Closed, Lagged, Receiver
from wslessons.chat.connection import FrameWriter
from wslessons.chat.fanout import Fanout
from wslessons.connection import text_frame


class Line:
    """An item: a number, and who sent it."""

    def __init__(self, number: int, origin: str = "") -> None:
        self.number = number
        self.origin = origin
        self.frames: dict[Any, bytes] = {}
        self.size = 1


class Numbers:
    """A codec that shows the number, `ack` to its sender, and what was missed."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.encoded: list[int] = []

    def encode(self, item: Line) -> bytes:
        """The number."""
        self.encoded.append(item.number)
        return f"{self.prefix}{item.number}".encode()

    def to_sender(self, item: Line) -> bytes | None:
        """An acknowledgement for even numbers, nothing for odd ones."""
        return None if item.number % 2 else f"{self.prefix}ack {item.number}".encode()

    def missed(self, count: int, offset: int) -> bytes:
        """The count and the offset."""
        return f"{self.prefix}missed {count} to {offset}".encode()


class FakeWriter:
    """A connection that the test opens and shuts."""

    def __init__(self) -> None:
        self.ready = True
        self.writes: list[bytes] = []
        self.full_after: int | None = None
        self.callbacks: list[Callable[[], None]] = []

    def write(self, data: bytes) -> bool:
        """Take all or nothing."""
        if not self.ready:
            return False
        self.writes.append(data)
        if self.full_after is not None and len(self.writes) >= self.full_after:
            self.ready, self.full_after = False, None
        return True

    def when_writable(self, callback: Callable[[], None]) -> None:
        """Remember the callback for `drain`."""
        self.callbacks.append(callback)

    def drain(self) -> None:
        """Let it write again."""
        self.ready = True
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            callback()

    def lines(self) -> list[str]:
        """The payloads of all frames written so far."""
        return payloads(b"".join(self.writes))


def payloads(data: bytes) -> list[str]:
    """Split a stream of small text frames into their payloads."""
    lines = []
    while data:
        assert data[0] == 0x81
        size, head = data[1], 2
        if size == 126:
            size, head = int.from_bytes(data[2:4], "big"), 4
        lines.append(data[head : head + size].decode())
        data = data[head + size :]
    return lines


async def reference(cursor: Receiver[Line], id: str, codec: Numbers, lines: list[str]) -> None:
    """Serve one member the readable way: a task that forwards from its own `Receiver`."""
    while True:
        try:
            item = await cursor.recv()
        except Lagged as lag:
            lines.append(codec.missed(lag.skipped, cursor.offset).decode())
            continue
        except Closed:
            return
        payload = codec.to_sender(item) if item.origin == id else codec.encode(item)
        if payload is not None:
            lines.append(payload.decode())


@pytest.fixture(params=[1, 2, fanout.GROUP])
async def room(request: pytest.FixtureRequest) -> Fanout[Line]:
    """A fan-out over a channel that keeps four items, to groups of this many members."""
    return Fanout(Channel(capacity=4), group=request.param)


async def tick() -> None:
    """Let the loop turn, so that what is due goes out to all groups: a hundred at most."""
    for _ in range(100 * (fanout.LOOKS + 1)):
        await asyncio.sleep(0)


async def written(writer: FakeWriter) -> None:
    """Let the loop turn until something has been written."""
    before = len(writer.writes)
    while len(writer.writes) == before:  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(0)


async def test_one_write_for_all_that_is_ready(room: Fanout[Line]) -> None:
    """All that is sent in one turn of the loop reaches a member in a single write."""
    writer, codec = FakeWriter(), Numbers()
    room.join("a", codec, writer, room.channel.subscribe())
    for n in range(3):
        room.send(Line(n))
    assert writer.writes == []
    await tick()
    assert [payloads(data) for data in writer.writes] == [["0", "1", "2"]]


async def test_each_item_is_encoded_once_for_each_codec(room: Fanout[Line]) -> None:
    """A hundred members of two codecs cost two encodings, laggards and late joiners included."""
    codecs = Numbers(), Numbers("json ")
    writers = [FakeWriter() for _ in range(100)]
    writers[0].ready = False
    for i, writer in enumerate(writers):
        room.join(str(i), codecs[i % 2], writer, room.channel.subscribe())
    room.send(Line(7))
    await tick()
    writers[0].drain()
    late = FakeWriter()
    room.join("late", codecs[0], late, room.channel.subscribe(since=0))
    assert [writer.lines() for writer in (*writers[:2], late)] == [["7"], ["json 7"], ["7"]]
    assert all(writer.lines() == writers[i % 2].lines() for i, writer in enumerate(writers))
    assert [codec.encoded for codec in codecs] == [[7], [7]]


async def test_sender_gets_its_own_codec(room: Fanout[Line]) -> None:
    """Who sent a line gets the acknowledgement in its place, or nothing, in order with the rest."""
    codec, alice, bob = Numbers(), FakeWriter(), FakeWriter()
    room.join("alice", codec, alice, room.channel.subscribe())
    room.join("bob", codec, bob, room.channel.subscribe())
    for n, origin in enumerate(["alice", "bob", "alice", "alice"]):
        room.send(Line(n, origin))
    await tick()
    assert alice.lines() == ["ack 0", "1", "ack 2"]
    assert bob.lines() == ["0", "2", "3"]
    room.send(Line(5, "alice"))
    await tick()
    assert alice.lines() == ["ack 0", "1", "ack 2"]
    assert len(alice.writes) == 1
    room.send(Line(6))
    await tick()
    assert alice.lines() == ["ack 0", "1", "ack 2", "6"]


async def test_full_connection_is_left_alone_and_lags_in_the_ring(room: Fanout[Line]) -> None:
    """A member over its high-water mark gets nothing until it drains, then what it missed."""
    codec, slow, quick = Numbers(), FakeWriter(), FakeWriter()
    room.join("slow", codec, slow, room.channel.subscribe())
    room.join("quick", codec, quick, room.channel.subscribe())
    slow.full_after = 1
    for n in range(10):
        room.send(Line(n))
        await tick()
    assert slow.lines() == ["0"]
    assert room.cursors() == {"slow": 1, "quick": 10}
    slow.drain()
    assert slow.lines() == ["0", "missed 5 to 6", "6", "7", "8", "9"]
    room.send(Line(10))
    await tick()
    assert slow.lines()[-1] == "10"
    assert quick.lines() == [str(n) for n in range(11)]


async def test_notice_is_not_lost_on_a_connection_that_is_full_again(room: Fanout[Line]) -> None:
    """A notice that could not be written is written later, and then counts all that was missed."""
    codec, slow = Numbers(), FakeWriter()
    room.join("slow", codec, slow, room.channel.subscribe())
    slow.ready = False
    for n in range(6):
        room.send(Line(n))
        await tick()
    slow.callbacks, callbacks = [], slow.callbacks
    callbacks[0]()
    assert slow.lines() == []
    for n in range(6, 8):
        room.send(Line(n))
    slow.full_after = 1
    slow.drain()
    assert slow.lines() == ["missed 4 to 4"]
    slow.drain()
    assert slow.lines() == ["missed 4 to 4", "4", "5", "6", "7"]


@pytest.mark.parametrize("limits", [{"capacity": 4}, {"capacity": 99, "max_bytes": 4}])
async def test_more_than_the_ring_in_one_turn_loses_nothing(
    room: Fanout[Line], limits: dict[str, int]
) -> None:
    """Members who only wait for their turn are not lapped: `send` flushes before it would do so."""
    room = Fanout(Channel(**limits), group=room.group)
    codec, writer, fresh, drained = Numbers(), FakeWriter(), FakeWriter(), FakeWriter()
    room.join("a", codec, writer, room.channel.subscribe())
    room.join("drained", codec, drained, room.channel.subscribe())
    drained.ready = False
    room.send(Line(0))
    await tick()
    for n in range(1, 4):
        room.send(Line(n))
    drained.drain()
    room.join("fresh", codec, fresh, room.channel.subscribe(since=0))
    for n in range(4, 40):
        room.send(Line(n))
    await tick()
    expected = [str(n) for n in range(40)]
    assert writer.lines() == expected
    assert fresh.lines() == expected
    assert drained.lines() == expected
    assert len(writer.writes) == 11


async def test_what_is_said_meanwhile_goes_along_to_the_groups_that_still_wait() -> None:
    """The loop turns after each group, and the next one gets all that is there by then, at once."""
    room: Fanout[Line] = Fanout(Channel(capacity=8), group=2)
    codec, writers = Numbers(), [FakeWriter() for _ in range(5)]
    for number, writer in enumerate(writers):
        room.join(str(number), codec, writer, room.channel.subscribe())
    room.send(Line(0))
    await written(writers[0])
    room.send(Line(1))
    await written(writers[2])
    room.send(Line(2))
    await tick()
    heard = [[payloads(data) for data in writer.writes] for writer in writers]
    assert heard[:2] == [[["0"], ["1", "2"]]] * 2
    assert heard[2:4] == [[["0", "1"], ["2"]]] * 2
    assert heard[4:] == [[["0", "1", "2"]]]


async def test_what_comes_while_the_loop_reads_is_in_the_same_write() -> None:
    """And whoever never stops talking does not keep it from writing."""
    room: Fanout[Line] = Fanout(Channel(capacity=64))
    codec, writer = Numbers(), FakeWriter()
    room.join("a", codec, writer, room.channel.subscribe())
    for number in range(30):
        room.send(Line(number))
        await asyncio.sleep(0)
    await tick()
    sizes = [len(payloads(data)) for data in writer.writes]
    assert sum(sizes) == 30
    assert max(sizes) == fanout.LOOKS + 1
    assert len(writer.writes) == 30 // (fanout.LOOKS + 1)


async def test_much_that_waits_goes_to_many_groups_in_one_turn() -> None:
    """A turn costs the same for few as for many, and one more line would not make a large write."""
    room: Fanout[Line] = Fanout(Channel(capacity=64), group=1)
    codec, writers = Numbers(), [FakeWriter() for _ in range(fanout.TOGETHER + 2)]
    for number, writer in enumerate(writers):
        room.join(str(number), codec, writer, room.channel.subscribe())
    for count, served in ((fanout.MANY - 1, 1), (fanout.MANY, fanout.TOGETHER)):
        for number in range(count):
            room.send(Line(number))
        await written(writers[0])
        assert [len(writer.writes) for writer in writers] == [1] * served + [0] * (10 - served)
        await tick()
        assert {len(writer.lines()) for writer in writers} == {count}
        for writer in writers:
            writer.writes.clear()


async def test_who_comes_in_the_middle_of_a_round_gets_into_a_group_that_has_room() -> None:
    """However many come while others wait for their turn, there are no more groups than needed."""
    room: Fanout[Line] = Fanout(Channel(capacity=8), group=2)
    codec, writers = Numbers(), [FakeWriter() for _ in range(7)]
    for number, writer in enumerate(writers):
        room.send(Line(number))
        await asyncio.sleep(0)
        room.join(str(number), codec, writer, room.channel.subscribe(since=0))
    room.send(Line(7))
    await tick()
    assert [writer.lines() for writer in writers] == [[str(n) for n in range(8)]] * 7
    assert len(room.channel.receivers) == 4
    for number in range(7):
        room.leave(str(number))
    room.send(Line(8))
    await tick()
    assert room.channel.receivers == []


async def test_large_batches_go_out_in_bounded_writes(room: Fanout[Line]) -> None:
    """No write is larger than `chunk`, and a member that fills up between two keeps its place."""
    room.chunk = 10
    codec, writer, quick = Numbers("x" * 6), FakeWriter(), FakeWriter()
    room.join("a", codec, writer, room.channel.subscribe())
    room.join("b", codec, quick, room.channel.subscribe())
    writer.full_after = 2
    for n in range(4):
        room.send(Line(n))
    await tick()
    expected = ["x" * 6 + str(n) for n in range(4)]
    assert writer.lines() == expected[:2]
    assert [payloads(data) for data in quick.writes] == [[line] for line in expected]
    writer.drain()
    assert writer.lines() == expected


async def test_leaving_is_final(room: Fanout[Line]) -> None:
    """Whoever leaves, in step, behind, or caught up, gets nothing more and leaves no cursor."""
    codec = Numbers()
    writers = {id: FakeWriter() for id in ("in sync", "behind", "caught-up", "stays")}
    for id, writer in writers.items():
        room.join(id, codec, writer, room.channel.subscribe())
    writers["behind"].ready = writers["caught-up"].ready = False
    room.send(Line(0))
    await tick()
    room.send(Line(1))
    writers["caught-up"].drain()
    for id in ("in sync", "behind", "caught-up", "nobody"):
        room.leave(id)
    writers["behind"].drain()
    room.send(Line(2))
    await tick()
    assert {id: writer.lines() for id, writer in writers.items()} == {
        "in sync": ["0"],
        "behind": [],
        "caught-up": ["0", "1"],
        "stays": ["0", "1", "2"],
    }
    assert len(room) == 1
    assert "stays" in room
    assert len(room.channel.receivers) == 1


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 7), st.sampled_from(["", "0", "1", "2"])),
        st.tuples(st.just("turn"), st.just(0), st.just("")),
        st.tuples(st.just("full"), st.integers(0, 2), st.just("")),
        st.tuples(st.just("drain"), st.integers(0, 2), st.just("")),
        st.tuples(st.just("rejoin"), st.integers(0, 9), st.sampled_from(["0", "1", "2"])),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(STEPS, st.sampled_from([1, 2, fanout.GROUP]), st.sampled_from([2, fanout.MANY]))
def test_behaves_as_a_task_for_each_member_would(
    steps: list[tuple[str, int, str]], group: int, many: int
) -> None:
    """Whatever happens in whatever order, a member that drains has been told everything.

    The reference is the readable version, a forwarding task for each member, over the same steps.
    A member that never fills up hears line for line the same from both. One that does may lag at
    other times than its reference, but what it heard and what it was told to have missed add up to
    the same.
    """

    def silent(id: str, item: Line) -> bool:
        """Its own odd lines are answered by nothing: they only take up a place."""
        return item.origin == id and item.number % 2 == 1

    async def run() -> None:
        room: Fanout[Line] = Fanout(Channel(capacity=4), group=group, many=many)
        codec = Numbers()
        sent: list[Line] = []
        writers = {str(i): FakeWriter() for i in range(3)}
        since = dict.fromkeys(writers, 0)
        expected: dict[str, list[str]] = {id: [] for id in writers}
        tasks: dict[str, asyncio.Task[None]] = {}

        def join(id: str, offset: int) -> None:
            room.join(id, codec, writers[id], room.channel.subscribe(since=offset))
            since[id] = offset
            cursor = unbounded.subscribe(since=offset)
            tasks[id] = asyncio.create_task(reference(cursor, id, codec, expected[id]))

        # The reference reads a log that never forgets: what the other has lost shows against it.
        unbounded: Channel[Line] = Channel(capacity=1000)
        for id in writers:
            join(id, 0)
        for step, number, who in steps:
            if step == "send":
                for _ in range(number):
                    sent.append(Line(len(sent), who))
                    unbounded.send(sent[-1])
                    room.send(sent[-1])
            elif step == "turn":
                await asyncio.sleep(0)
            elif step == "full":
                writers[str(number)].ready = False
            elif step == "drain":
                writers[str(number)].drain()
            else:
                room.leave(who)
                tasks[who].cancel()
                writers[who], expected[who] = FakeWriter(), []
                join(who, max(0, len(sent) - number))
        unbounded.close()
        await asyncio.wait(tasks.values())
        await tick()
        for writer in writers.values():
            writer.drain()
        await tick()
        for id, writer in writers.items():
            lines, at = [], since[id]
            for line in writer.lines():
                if line.startswith("missed"):
                    _, count, _, to = line.split()
                    gone = sent[int(to) - int(count) : int(to)]
                    assert all(silent(id, x) for x in sent[at : int(to) - int(count)])
                    lines += [str(x.number) for x in gone]
                    at = int(to)
                    continue
                number = int(line.removeprefix("ack "))
                assert all(silent(id, x) for x in sent[at:number])
                lines.append(line)
                at = number + 1
            heard = [line for line in lines if "ack" in line or sent[int(line)].origin != id]
            wanted = [line for line in expected[id] if line in heard]
            assert heard == wanted
            if not any(line.startswith("missed") for line in writer.lines()):
                assert writer.lines() == expected[id]
            assert all(silent(id, x) for x in sent[at:])
            assert room.cursors()[id] == len(sent)

    asyncio.run(asyncio.wait_for(run(), 20))


# What `FrameWriter` takes for granted about `websockets` and asyncio.


@contextlib.asynccontextmanager
async def pair(
    compression: str | None = None, **options: Any
) -> AsyncGenerator[tuple[ServerConnection, ClientConnection]]:
    """Give both ends of one connection over a real socket."""
    ends: asyncio.Queue[ServerConnection] = asyncio.Queue()

    async def handler(connection: ServerConnection) -> None:
        ends.put_nowait(connection)
        await connection.wait_closed()

    async with asyncio.timeout(20):
        async with serve(
            handler, "127.0.0.1", 0, compression=compression, close_timeout=1, **options
        ) as server:
            port = server.sockets[0].getsockname()[1]
            uri = f"ws://127.0.0.1:{port}"
            async with connect(uri, proxy=None, compression=compression, close_timeout=1) as client:
                yield await ends.get(), client


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70000])
def test_our_frame_is_the_librarys(size: int) -> None:
    """The frames we build are those that the library would send, at every size of header."""
    payload = b"x" * size
    assert text_frame(payload) == Frame(Opcode.TEXT, payload).serialize(mask=False)


async def test_ready_made_frames_mix_with_the_librarys_own() -> None:
    """Several frames in one write arrive as messages, in order with what `send` sends."""
    async with pair() as (server, client):
        writer = FrameWriter(server)
        await server.send("first")
        assert writer.write(text_frame(b"second") + text_frame("dritte Übung".encode()))
        await server.send("fourth")
        assert [await client.recv() for _ in range(4)] == [
            "first",
            "second",
            "dritte Übung",
            "fourth",
        ]


async def test_plain_frame_is_allowed_where_compression_was_negotiated() -> None:
    """An uncompressed frame is understood between compressed ones (RFC 7692, section 6)."""
    async with pair(compression="deflate", extensions=[ServerPerMessageDeflateFactory()]) as (
        server,
        client,
    ):
        assert server.protocol.extensions
        await server.send("compressed " * 20)
        assert FrameWriter(server).write(text_frame(b"plain"))
        await server.send("compressed " * 20)
        assert [await client.recv() for _ in range(3)] == [
            "compressed " * 20,
            "plain",
            "compressed " * 20,
        ]


async def test_nothing_is_written_inside_a_fragmented_message() -> None:
    """While a fragmented message is being sent, we wait; the client would fail with 1002."""
    async with pair() as (server, client):
        writer, called, go = FrameWriter(server), asyncio.Event(), asyncio.Event()

        async def fragments() -> AsyncIterator[str]:
            yield "one "
            await go.wait()
            yield "message"

        sending = asyncio.create_task(server.send(fragments()))
        await until(lambda: server.send_in_progress)
        assert not writer.write(text_frame(b"between"))
        writer.when_writable(called.set)
        go.set()
        await called.wait()
        await sending
        assert writer.write(text_frame(b"after"))
        assert [await client.recv(), await client.recv()] == ["one message", "after"]


async def test_a_frame_inside_a_fragmented_message_would_fail_the_connection() -> None:
    """The fact behind the check: without it the client closes with 1002."""
    async with pair() as (server, client):
        go = asyncio.Event()

        async def fragments() -> AsyncIterator[str]:
            yield "one "
            await go.wait()

        sending = asyncio.create_task(server.send(fragments()))
        await until(lambda: server.send_in_progress)
        server.transport.write(text_frame(b"between"))
        with pytest.raises(ConnectionClosed):
            await client.recv()
        go.set()
        await asyncio.wait([sending])
        assert client.protocol.close_sent is not None
        assert client.protocol.close_sent.code == 1002


async def test_nothing_is_written_after_a_close_frame() -> None:
    """Once the closing handshake has begun, data frames are over, and nobody is called back."""
    async with pair() as (server, client):
        writer = FrameWriter(server)
        client.transport.pause_reading()
        closing = asyncio.create_task(server.close())
        await until(lambda: server.state is not State.OPEN)
        assert server.state is State.CLOSING
        assert not writer.write(text_frame(b"late"))
        writer.when_writable(lambda: pytest.fail("there is no later"))
        client.transport.resume_reading()
        await closing
        assert server.state is State.CLOSED
        assert not writer.write(text_frame(b"later still"))
        writer.when_writable(lambda: pytest.fail("there is no later"))
        await asyncio.sleep(0.01)


async def test_writes_after_a_reset_are_noticed(caplog: pytest.LogCaptureFixture) -> None:
    """After a client's reset the state is still OPEN; we see the transport closing and stop."""
    async with pair() as (server, client):
        writer = FrameWriter(server)
        sock = client.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.transport.abort()
        await client.wait_closed()
        while not server.transport.is_closing():
            writer.write(text_frame(b"vanishes"))
            if server.transport.is_closing():
                # In the same turn of the loop the library has not noticed yet.
                assert server.state is State.OPEN
            await asyncio.sleep(0)
        for _ in range(10):
            assert not writer.write(text_frame(b"not sent"))
        await server.wait_closed()
    assert "socket.send() raised exception" not in caplog.text


async def test_high_water_mark_stops_us_and_draining_calls_back() -> None:
    """`pause_writing` fires inside `write`; the next write is refused, until the buffer drains."""
    async with pair(write_limit=4096) as (server, client):
        writer, called = FrameWriter(server), asyncio.Event()
        client.transport.pause_reading()
        frame, written = text_frame(b"x" * 50000), 0
        while writer.write(frame):
            written += 1
        assert server.paused
        assert server.transport.get_write_buffer_size() <= 4096 + len(frame)
        writer.when_writable(called.set)
        assert len(server.drain_waiters) == 1
        client.transport.resume_reading()
        for _ in range(written):
            assert len(await client.recv()) == 50000
        await called.wait()
        assert not server.paused
        assert not server.drain_waiters
        assert writer.write(text_frame(b"on"))
        assert await client.recv() == "on"


@pytest.mark.parametrize("reset", [False, True])
async def test_lost_while_full_is_the_end(reset: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A connection that is lost while we wait for it writes nothing more and logs nothing."""
    async with pair(write_limit=4096) as (server, client):
        writer = FrameWriter(server)
        client.transport.pause_reading()
        while writer.write(text_frame(b"x" * 50000)):
            pass
        wrote: list[bool] = []
        writer.when_writable(lambda: wrote.append(writer.write(b"")))
        if reset:
            sock = client.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.transport.abort()
        else:
            server.transport.abort()
        await server.wait_closed()
        client.transport.abort()
        await asyncio.sleep(0)
        assert True not in wrote
        assert not server.drain_waiters
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_a_writer_that_can_write_calls_back_at_once() -> None:
    """Asked too late, when the buffer has drained already, it still calls."""
    async with pair() as (server, _):
        called = asyncio.Event()
        FrameWriter(server).when_writable(called.set)
        await called.wait()


async def test_write_that_raises_drops_only_that_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One dead socket does not silence a room: its writer says False and aborts."""
    async with pair() as (server, client):
        writer = FrameWriter(server)

        class Broken:
            def __getattr__(self, name: str) -> Any:
                return getattr(server.transport, name)

            def write(self, data: bytes) -> None:
                raise RuntimeError("unable to perform operation")

        monkeypatch.setattr(writer, "_transport", Broken())
        assert writer.write(b"") is False
        with pytest.raises(ConnectionClosed):
            await client.recv()


def test_the_library_is_one_we_know() -> None:
    """The facts above were found with version 17; a new major version deserves a look."""
    assert websockets.__version__.split(".")[0] == "17"
    assert fanout.CHUNK >= 2**16
