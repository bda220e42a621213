"""Heartbeats: who answers is kept, who is silent is dropped in time, and nothing is left behind.

What depends on time runs on a virtual clock (`virtual`), the rest over real sockets.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waits import until
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, ConnectionClosedError
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State

from wslessons.bench.tools import raise_descriptor_limit
from wslessons.heartbeat.heartbeat import EVENTS, MOST_UNANSWERED, PONG, Beat, Heartbeat
from wslessons.heartbeat.pacer import Pacer
from wslessons.link import Link
from wslessons.testing.raw import handshake
from wslessons.testing.virtual import connections, run, wire
from wslessons.wire import FrameRecord

Handler = Callable[[ServerConnection], Awaitable[None]]

intervals = st.sampled_from([(15, 45), (15, 5), (0.15, 0.45), (1, 1)])
shares = st.lists(st.floats(0, 0.98), min_size=1, max_size=12)


# On a virtual clock.


@settings(deadline=None)
@given(intervals, shares, shares)
def test_answering_peer_is_never_dropped(
    seconds: tuple[float, float], up: list[float], down: list[float]
):
    """However the delays jump about: with round trips below the timeout nobody is dropped."""
    interval, timeout = seconds
    ways = [itertools.cycle([share * timeout / 2 for share in way]) for way in (up, down)]

    async def main() -> None:
        server, client = connections(up=lambda: next(ways[0]), down=lambda: next(ways[1]))
        beats: list[Beat] = []
        with Heartbeat(server, interval, timeout, on_beat=beats.append) as heartbeat:
            await asyncio.sleep(50 * (interval + timeout))
        assert not heartbeat.dropped
        assert client.state is State.OPEN
        # TCP keeps the order, so no two pongs of the same direction overtake each other.
        assert [beat.number for beat in beats] == list(range(1, len(beats) + 1))
        assert len(beats) >= 40
        assert all(0 <= beat.rtt < timeout for beat in beats)

    run(main())


@settings(deadline=None)
@given(intervals, st.floats(0, 1), st.lists(st.floats(0, 1), max_size=8), st.booleans())
def test_silent_peer_is_always_dropped_within_the_bound(
    seconds: tuple[float, float], dies: float, talks: list[float], both: bool
):
    """Whenever it vanishes and whatever it said before: it is noticed in interval + timeout."""
    interval, timeout = seconds
    life = dies * 5 * interval

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server, client = connections()
        noticed: list[float] = []
        heartbeat = Heartbeat(
            server, interval, timeout, on_drop=lambda _: noticed.append(loop.time())
        )
        with heartbeat:
            for at in sorted(talks):
                loop.call_at(at * life, lambda: asyncio.ensure_future(client.send("hello")))
            await asyncio.sleep(life)
            wire(client).stalled = True
            wire(server).stalled = both
            await asyncio.sleep(interval + timeout + 1e-6)
        assert heartbeat.dropped
        assert server.state is State.CLOSED
        first_unanswered = min(at for at, _ in wire(server).sent if at >= life)
        assert life <= noticed[0] <= life + heartbeat.longest_to_notice
        assert noticed[0] - first_unanswered == pytest.approx(timeout)
        with pytest.raises(ConnectionClosedError, match=r"sent 1011 .* heartbeat timeout"):
            assert [message async for message in server] == []

    run(main())


def test_any_data_is_a_sign_of_life():
    """A peer that never answers a ping, and sends half a frame now and then, is kept."""

    async def main() -> None:
        server, client = connections()
        wire(server).stalled = True  # no ping reaches it
        endless = Frame(Opcode.BINARY, bytes(65536)).serialize(mask=True)
        with Heartbeat(server, 15, 45) as heartbeat:
            for at in range(40):
                wire(client).write(endless[at : at + 1])
                await asyncio.sleep(30)
                assert heartbeat.silent_since is not None
            assert not heartbeat.dropped
            assert heartbeat.rtt is None
            # Nor do the pings to which no answer comes fill the memory.
            assert heartbeat.beats > 2 * MOST_UNANSWERED == 2 * len(heartbeat._sent)
            await asyncio.sleep(60)
        assert heartbeat.dropped

    run(main())


def test_first_beats_are_spread_over_the_interval():
    """A thousand clients that come at once are not asked at once, and each within an interval."""

    async def main() -> None:
        pairs = [connections() for _ in range(1000)]
        heartbeats = [Heartbeat(server, 10, 30).__enter__() for server, _ in pairs]
        await asyncio.sleep(10)
        firsts = [wire(server).sent[0][0] for server, _ in pairs]
        for tenth in range(10):
            assert 50 < sum(tenth <= first < tenth + 1 for first in firsts) < 200
        # Nor do they draw together: later on they are spread as they were at first. Sixty beats
        # of a part of them say so as well as those of all.
        for heartbeat in heartbeats[300:]:
            heartbeat.stop()
        await asyncio.sleep(600)
        lasts = [wire(server).sent[-1][0] - 600 for server, _ in pairs[:300]]
        assert len({round(last) for last in lasts}) >= 10
        assert all(heartbeat.beats >= 61 for heartbeat in heartbeats[:300])
        for heartbeat in heartbeats:
            heartbeat.stop()
        assert len(Pacer.for_running_loop()) == 0

    run(main())


def test_pings_are_never_further_apart_than_the_interval():
    """Saving wake-ups makes a beat come early, never late."""

    async def main() -> None:
        pairs = [connections() for _ in range(50)]
        heartbeats = [Heartbeat(server, 1, 3).__enter__() for server, _ in pairs]
        await asyncio.sleep(100)
        for server, _ in pairs:
            times = [0, *(at for at, _ in wire(server).sent)]
            assert all(b - a <= 1 + 1e-6 for a, b in itertools.pairwise(times))
        for heartbeat in heartbeats:
            heartbeat.stop()

    run(main())


def test_own_blocked_loop_is_not_held_against_the_peer():
    """Our loop stands still for longer than the timeout: the answer that waits is read first."""

    async def main() -> None:
        server, client = connections(up=lambda: 0.01, down=lambda: 0.01)
        with Heartbeat(server, 15, 45) as heartbeat:
            while heartbeat.silent_since is None:  # noqa: ASYNC110 -- the clock is virtual
                await asyncio.sleep(0.005)
            asyncio.get_running_loop().now += 300  # ty: ignore[missing-attribute]
            await asyncio.sleep(1)
            assert client.state is State.OPEN
            wire(client).stalled = True
            await asyncio.sleep(60)
        assert heartbeat.dropped

    run(main())


def test_peer_is_not_judged_while_our_handler_does_not_read():
    """Its pongs wait behind messages that nobody takes: a slow handler of ours is not its fault."""

    async def main() -> None:
        server, client = connections()
        with Heartbeat(server, 15, 45) as heartbeat:
            for number in range(50):
                await client.send(f"{number}")
            await asyncio.sleep(200)
            assert not wire(server).is_reading()
            assert not heartbeat.dropped
            assert [await server.recv() for _ in range(50)] == [f"{n}" for n in range(50)]
            await asyncio.sleep(200)
            assert not heartbeat.dropped
            wire(client).stalled = True
            await asyncio.sleep(60)
        assert heartbeat.dropped

    run(main())


def test_peer_that_takes_nothing_is_dropped_although_it_talks():
    """Behind a full buffer its messages are left unread, so only a buffer that shrinks is life."""

    async def main() -> None:
        server, client = connections()
        with Heartbeat(server, 15, 45) as heartbeat:
            wire(server).unsent = 100_000
            server.pause_writing()
            wire(server).pause_reading()
            for _ in range(20):
                await asyncio.sleep(30)
                wire(server).unsent -= 1000
                await client.send("hi")
            assert not heartbeat.dropped
            await asyncio.sleep(60 + 1e-6)
            assert heartbeat.dropped

    run(main())


def test_buffer_that_has_drained_is_a_sign_of_life():
    """One that is full again and again is read by somebody, who has no time to answer."""

    async def main() -> None:
        server, _ = connections()
        wire(server).stalled = True
        wire(server).unsent = 100_000
        with Heartbeat(server, 15, 45) as heartbeat:
            for _ in range(20):
                server.pause_writing()
                await asyncio.sleep(30)
                server.resume_writing()
                await asyncio.sleep(15)
            assert not heartbeat.dropped
            await asyncio.sleep(60 + 1e-6)
            assert heartbeat.dropped

    run(main())


def test_pong_for_the_newest_ping_answers_all_before():
    """RFC 6455, section 5.5.3: a peer may skip pings; each pong is a beat with its own time."""

    async def main() -> None:
        server, client = connections()
        wire(server).stalled = True
        beats: list[Beat] = []
        with Heartbeat(server, 10, 100, on_beat=beats.append) as heartbeat:
            await asyncio.sleep(35)
            number, sent = heartbeat._sent[1]
            for payload in (b"beat 99", b"nonsense", b"", b"beat %d" % number, b"beat 1"):
                await client.pong(payload)
            await asyncio.sleep(1)
        assert beats == [Beat(number, 35 - sent)]

    run(main())


def test_ends_with_the_connection():
    """A closing handshake, by either side, ends the heartbeat at once and with it the iterator."""

    async def main() -> None:
        server, client = connections()
        heard: list[int] = []
        with Heartbeat(server, 1, 3) as heartbeat:

            def close() -> None:
                client.protocol.send_close(1000)
                client.send_data()

            # In one call: of two that are due at the same time, either may come first.
            asyncio.get_running_loop().call_later(10.5, close)
            async for beat in heartbeat:
                heard.append(beat.number)
            assert asyncio.get_running_loop().time() == pytest.approx(10.5)
            assert heartbeat.ended
        assert heard == list(range(1, len(heard) + 1))
        assert len(heard) >= 10
        assert len(Pacer.for_running_loop()) == 0
        assert [beat async for beat in heartbeat] == []
        assert not heartbeat.dropped

    run(main())


def test_iterator_may_be_left_early():
    """Who leaves the loop over the beats costs the heartbeat nothing; others go on hearing."""

    async def main() -> None:
        server, _ = connections()
        with Heartbeat(server, 1, 3) as heartbeat:
            beats = aiter(heartbeat)
            assert (await anext(beats)).number == 1
            assert heartbeat._listeners is not None
            assert len(heartbeat._listeners) == 1
            await beats.aclose()
            assert heartbeat._listeners == []

    run(main())


def test_callback_that_raises_hurts_nobody():
    """The error goes to the loop's exception handler; heartbeat and connection go on."""

    async def main() -> None:
        errors: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        server, _ = connections()
        with Heartbeat(server, 1, 3, on_beat=lambda beat: 1 / 0) as heartbeat:
            await asyncio.sleep(10)
            assert not heartbeat.dropped
        assert len(errors) >= 10
        assert all(isinstance(error["exception"], ZeroDivisionError) for error in errors)

    run(main())


def test_wrong_use_is_refused():
    """Times must be above 0, a connection has one heartbeat, a heartbeat is entered once."""

    async def main() -> None:
        server, _ = connections()
        for wrong in [(0, 1), (1, 0), (-1, 1), (float("nan"), 1)]:
            with pytest.raises(ValueError, match="above 0"):
                Heartbeat(server, *wrong)
        with Heartbeat(server) as heartbeat:
            assert (heartbeat.interval, heartbeat.timeout) == (15, 45)
            assert heartbeat.longest_to_notice == 60
            with pytest.raises(RuntimeError, match="already"), Heartbeat(server):
                pass
        with pytest.raises(RuntimeError, match="once"), heartbeat:
            pass
        with Heartbeat(server):
            pass
        assert EVENTS not in vars(server.protocol)
        assert PONG not in vars(server)

    run(main())


# What a new release of the library might change under us.


def test_library_asks_its_protocol_for_events_once_for_each_piece_of_data():
    """Our hook: `Connection.data_received` calls it, looked up anew, whatever has arrived."""

    async def main() -> None:
        server, _ = connections()
        calls: list[list[Any]] = []

        def hook() -> list[Any]:
            calls.append(Protocol.events_received(server.protocol))
            return calls[-1]

        setattr(server.protocol, EVENTS, hook)
        frame = Frame(Opcode.PONG, b"beat 1").serialize(mask=True)
        server.data_received(frame[:3])
        server.data_received(frame[3:] + frame)
        assert [len(events) for events in calls] == [0, 2]
        assert all(event.opcode is Opcode.PONG for event in calls[1])
        assert calls[1][0].data == b"beat 1"

    run(main())


def test_library_hands_each_pong_to_its_own_list():
    """Our other hook: `Connection.process_event` calls it, looked up anew, with the payload."""

    async def main() -> None:
        server, _ = connections()
        pongs: list[bytes] = []
        setattr(server, PONG, pongs.append)
        for payload in (b"beat 1", b""):
            server.data_received(Frame(Opcode.PONG, payload).serialize(mask=True))
        server.data_received(Frame(Opcode.PING, b"not one").serialize(mask=True))
        assert pongs == [b"beat 1", b""]

    run(main())


def test_library_ignores_pongs_that_it_did_not_ask_for():
    """Our pings stand in no list of the library's, and its `latency` stays its own."""

    async def main() -> None:
        server, _ = connections(up=lambda: 1.0, down=lambda: 1.0)
        with Heartbeat(server, 5, 15) as heartbeat:
            await asyncio.sleep(30)
            assert heartbeat.rtt == pytest.approx(2)
            assert server.latency == 0
            assert server.pending_pings == {}
            assert await (await server.ping()) == pytest.approx(2)

    run(main())


def test_library_fails_a_connection_with_a_close_frame_first():
    """`Protocol.fail` writes Close with the code, then the end of the stream."""
    protocol = Protocol(Side.SERVER)
    protocol.fail(1011, "why")
    close, end = protocol.data_to_send()
    assert close == Frame(Opcode.CLOSE, b"\x03\xf3why").serialize(mask=False)
    assert end == b""
    assert protocol.state is State.CLOSING


@pytest.mark.parametrize(
    ("trouble", "end"), [("full socket", State.OPEN), ("unread messages", State.CLOSED)]
)
def test_library_keepalive_has_the_gaps_that_the_lesson_names(trouble: str, end: State):
    """Before a full socket it waits without limit; behind unread messages it misses the pong."""

    async def main() -> None:
        server, client = connections()
        server.ping_interval = server.ping_timeout = 1
        server.start_keepalive()
        if trouble == "full socket":
            server.pause_writing()
            wire(client).stalled = wire(server).stalled = True
        else:
            for _ in range(50):
                await client.send("hello")
        await asyncio.sleep(1000)
        assert server.state is end
        server.transport.abort()
        await server.wait_closed()

    run(main())


# Over real sockets.


@asynccontextmanager
async def linked(
    handler: Handler, **options: Any
) -> AsyncGenerator[tuple[Link, Callable[[], Awaitable[ClientConnection]]]]:
    """A server behind a link, and a way to connect to it; all in 50 seconds."""
    options = {"ping_interval": None, "compression": None, **options}
    async with asyncio.timeout(50), serve(handler, "127.0.0.1", 0, **options) as server:
        port = server.sockets[0].getsockname()[1]
        async with Link(f"ws://127.0.0.1:{port}") as link:

            async def client() -> ClientConnection:
                return await connect(link.url, proxy=None, ping_interval=None, close_timeout=0.1)

            yield link, client


async def test_server_drops_a_client_that_vanished_and_tells_it_if_it_can():
    """The plug is pulled: the handler learns of 1011; healed, the client finds the Close frame."""
    ended: asyncio.Future[ConnectionClosed] = asyncio.get_running_loop().create_future()

    async def handler(connection: ServerConnection) -> None:
        with Heartbeat(connection, 0.05, 0.15):
            try:
                await connection.recv()
            except ConnectionClosed as closed:
                ended.set_result(closed)

    async with linked(handler) as (link, connected):
        client = await connected()
        stall = link.stall()
        closed = await ended
        assert closed.sent is not None
        assert (closed.sent.code, closed.sent.reason) == (1011, "heartbeat timeout")
        assert closed.rcvd is None
        stall.undo()
        await client.wait_closed()
        assert (client.close_code, client.close_reason) == (1011, "heartbeat timeout")


async def test_client_drops_a_server_that_vanished():
    """The same from the other side, where it wakes whoever waits in `recv`."""

    async def handler(connection: ServerConnection) -> None:
        await connection.wait_closed()

    async with linked(handler) as (link, connected):
        client = await connected()
        with Heartbeat(client, 0.05, 0.15) as heartbeat, link.stall():
            with pytest.raises(ConnectionClosedError, match="sent 1011"):
                await client.recv()
            assert heartbeat.dropped


async def test_full_write_buffer_does_not_delay_the_drop():
    """The sockets are full and a `send` waits: it ends, the connection is gone, nobody waits."""
    full, done = asyncio.Event(), asyncio.Event()
    sides: list[ServerConnection] = []

    async def send(connection: ServerConnection) -> None:
        while True:
            await connection.send(bytes(2**18))

    async def handler(connection: ServerConnection) -> None:
        sending = asyncio.create_task(send(connection))
        sides.append(connection)
        await full.wait()
        with Heartbeat(connection, 0.05, 0.15) as heartbeat:
            with pytest.raises(ConnectionClosed):
                await sending
            assert heartbeat.dropped
        done.set()

    async with linked(handler) as (link, connected):
        client = await connected()
        link.stall()
        await until(lambda: sides and sides[0].transport.get_write_buffer_size())
        full.set()
        await done.wait()
        client.transport.abort()


async def test_round_trip_times_tell_the_delay_of_the_link():
    """Two ways of 30 ms make round trips of 60 ms at least, and every ping is a different one."""
    beats: asyncio.Queue[Beat] = asyncio.Queue()

    async def handler(connection: ServerConnection) -> None:
        with Heartbeat(connection, 0.05, 5, on_beat=beats.put_nowait):
            await connection.wait_closed()

    async with linked(handler) as (link, connected):
        client = await connected()
        link.delay(0.03)
        early = [await beats.get() for _ in range(3)]
        later = [await beats.get() for _ in range(5)]
        assert [beat.number for beat in [*early, *later]] == list(range(1, 9))
        assert all(beat.rtt >= 0.06 for beat in later)
        frames = [r for r in link.connections[0].records if isinstance(r, FrameRecord)]
        pings = [frame.payload for frame in frames if frame.opcode == "PING"]
        assert len(set(pings)) == len(pings) >= 8
        await client.close()


async def test_thousand_dead_peers_leave_nothing_behind():
    """No task, no descriptor, no timer and no connection object stays of 1,000 silent clients."""
    raise_descriptor_limit(3000)
    process = psutil.Process()
    count = process.num_fds if hasattr(process, "num_fds") else process.num_handles
    alive: weakref.WeakSet[Connection] = weakref.WeakSet()
    ended = asyncio.Semaphore(0)
    here = asyncio.Semaphore(0)

    async def handler(connection: ServerConnection) -> None:
        alive.add(connection)
        with Heartbeat(connection, 0.2, 0.6):
            here.release()
            try:
                await connection.recv()
            except ConnectionClosed:
                ended.release()

    async with asyncio.timeout(50):
        server = await serve(handler, "127.0.0.1", 0, ping_interval=None, backlog=1024)
        port = server.sockets[0].getsockname()[1]
        tasks, descriptors = len(asyncio.all_tasks()), count()
        silent = [await deaf(port) for _ in range(1000)]
        for semaphore in (here, ended):
            for _ in silent:
                await semaphore.acquire()
        while server.handler_tasks or server.connections:  # noqa: ASYNC110 -- a turn or two
            await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == tasks
        assert len(Pacer.for_running_loop()) == 0
        assert count() == descriptors + len(silent)
        for writer in silent:
            writer.transport.abort()
        while count() > descriptors:  # noqa: ASYNC110 -- a turn or two
            await asyncio.sleep(0)
        gc.collect()
        assert len(alive) == 0
        server.close()
        await server.wait_closed()


async def deaf(port: int) -> asyncio.StreamWriter:
    """Open a WebSocket connection that never reads and never answers again."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(handshake())
    await reader.readuntil(b"\r\n\r\n")
    cast(asyncio.Transport, writer.transport).pause_reading()
    return writer


def test_heartbeats_leave_no_loop_behind():
    """A loop on which connections had heartbeats goes, and they go with it."""
    alive: list[weakref.ref[object]] = []

    async def handler(connection: ServerConnection) -> None:
        beat = Heartbeat(connection, 15, 45)
        alive.append(weakref.ref(beat))
        with beat:
            async for message in connection:
                await connection.send(message)

    async def main() -> None:
        alive.append(weakref.ref(asyncio.get_running_loop()))
        async with (
            asyncio.timeout(50),
            serve(handler, "127.0.0.1", 0, ping_interval=None) as server,
        ):
            port = server.sockets[0].getsockname()[1]
            async with connect(f"ws://127.0.0.1:{port}", proxy=None) as client:
                await client.send("hi")
                assert await client.recv() == "hi"

    for _ in range(3):
        asyncio.run(main())
    gc.collect()
    assert [ref() for ref in alive] == [None] * 6
