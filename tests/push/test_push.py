"""The fleet on one port over real sockets, and the four kinds of tab that watch it."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator
from itertools import islice
from urllib.parse import quote

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from websockets import ConnectionClosed, connect

from wslessons import asgi, push
from wslessons.chat.channel import Closed
from wslessons.errors import UserError
from wslessons.link import Link
from wslessons.processes import free_port
from wslessons.push import app, sse, tabs
from wslessons.push.fleet import Follower, drift, live, moments
from wslessons.wire import FrameRecord, HandshakeResponse

TELLING = [push.EventSourceTab, push.WebSocketTab]
KINDS = list(push.KINDS.values())


class WatchedFleet(push.Fleet):
    """A fleet that tells the test when somebody has begun to follow it."""

    def __init__(self) -> None:
        super().__init__(["api", "web"], boot="b")
        self.followed = asyncio.Event()

    def follow(self, tag: str | None = None) -> Follower:
        """Follow, and say so."""
        self.followed.set()
        return super().follow(tag)


@pytest.fixture
def fleet() -> WatchedFleet:
    """A fleet of two services."""
    return WatchedFleet()


@pytest.fixture
async def server(fleet: WatchedFleet) -> AsyncIterator[asgi.AppServer]:
    """The fleet, served."""
    async with push.serve(fleet) as server:
        yield server


@pytest.fixture
async def session(server: asgi.AppServer) -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client of the server."""
    async with aiohttp.ClientSession(server.url) as session:
        yield session


# The fleet.


def test_drift_is_random_and_the_same_for_a_seed():
    """A seed gives the same changes each time, another seed others, and each one is a change."""
    first, again, other = (list(islice(drift(seed=seed), 200)) for seed in (1, 1, 2))
    assert first == again != other
    fleet = push.Fleet()
    assert all(fleet.report(*change) is not None for change in first)


def test_moments_are_in_order_within_the_time():
    """The moments of a run are sorted, inside it, as many as asked for, and fixed by the seed."""
    when = moments(50, 3.0, seed=5)
    assert when == sorted(when) == moments(50, 3.0, seed=5)
    assert len(when) == 50
    assert 0 <= when[0] <= when[-1] <= 3.0


async def test_live_fleet_drifts_as_the_seed_says(fleet: WatchedFleet):
    """`live` reports what `drift` yields, until it is cancelled."""
    async with asyncio.timeout(50):
        follower = fleet.follow(fleet.tag)
        drifting = asyncio.create_task(live(fleet, rate=1000, seed=3))
        seen = [await follower.next() for _ in range(5)]
        drifting.cancel()
        await asyncio.wait([drifting])
    assert [(c.service, c.status) for c in seen if isinstance(c, push.Change)] == list(
        islice(drift(["api", "web"], seed=3), 5)
    )


@pytest.mark.parametrize(
    ("service", "status", "says"),
    [("db", "failed", "no service 'db'"), ("api", "sleepy", "no status 'sleepy'")],
)
def test_unknown_report_is_one_sentence(fleet: WatchedFleet, service: str, status: str, says: str):
    """A service or status that does not exist is refused, and the choice is named."""
    with pytest.raises(UserError, match=says):
        fleet.report(service, status)
    assert fleet.version == 0


@pytest.mark.parametrize("tag", [None, "", "b", "other-1", "b-x", "b--1", "b-4", "-"])
async def test_follower_that_can_not_resume_begins_with_a_snapshot(
    fleet: WatchedFleet, tag: str | None
):
    """No tag, a foreign one, nonsense, or one from the future: all begin with the whole state."""
    for status in ("failed", "healthy", "queued"):
        fleet.report("api", status)
    follower = fleet.follow(tag)
    assert await follower.next() == fleet.snapshot()
    fleet.report("web", "failed")
    update = await follower.next()
    assert isinstance(update, push.Change)
    assert (update.version, update.service, update.status) == (4, "web", "failed")


async def test_follower_resumes_where_it_stopped(fleet: WatchedFleet):
    """With its tag it gets exactly what it has missed."""
    for status in ("failed", "healthy", "queued"):
        fleet.report("api", status)
    follower = fleet.follow("b-1")
    assert [(await follower.next()).version for _ in range(2)] == [2, 3]


async def test_follower_too_far_behind_gets_a_snapshot():
    """Who is more than the log's capacity behind gets the state, and then goes on."""
    fleet = push.Fleet(["api"], capacity=2)
    follower = fleet.follow(fleet.tag)
    for status in ("failed", "healthy", "queued"):
        fleet.report("api", status)
    assert await follower.next() == fleet.snapshot()
    fleet.report("api", "failed")
    assert (await follower.next()).version == 4


@pytest.mark.parametrize("tag", [None, "b-0"])
async def test_closed_follower_ends(fleet: WatchedFleet, tag: str | None):
    """Closing wakes whoever waits, before and after the first update."""
    follower = fleet.follow(tag)
    follower.close()
    with pytest.raises(Closed):
        await follower.next()


# Polls, short and long.


async def test_poll_answers_304_until_something_changes(
    fleet: WatchedFleet, session: aiohttp.ClientSession
):
    """The state comes with a tag; asked with it, the answer is 304, and 200 after a change."""
    async with asyncio.timeout(50):
        async with session.get("/fleet") as answer:
            assert answer.status == 200
            assert answer.content_type == "application/json"
            assert (await answer.json())["services"] == {"api": "healthy", "web": "healthy"}
            known = {"If-None-Match": answer.headers["ETag"]}
        async with session.get("/fleet", headers=known) as answer:
            assert (answer.status, await answer.read()) == (304, b"")
            assert answer.headers["ETag"] == known["If-None-Match"]
        fleet.report("api", "failed")
        async with session.get("/fleet", headers=known) as answer:
            assert (answer.status, (await answer.json())["version"]) == (200, 1)


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ('"b-0"', 304),
        ('W/"b-0"', 304),
        ('"x", "b-0"', 304),
        ('W/"x" ,W/"b-0"', 304),
        ('"a,b", "b-0"', 304),
        (' , "b-0",', 304),
        ("*", 304),
        ('"x"', 200),
        ('"x, b-0"', 200),
        ('"x", "y"', 200),
        ('"b-0', 200),
        ('x"b-0"', 200),
        (f'"b-{"9" * 5000}"', 200),
        ("", 200),
    ],
)
@pytest.mark.parametrize("wait", ["", "?wait=0.01"])
async def test_if_none_match_is_read_as_a_list(
    session: aiohttp.ClientSession, header: str, status: int, wait: str
):
    """One tag, several, or any: 304 where the current one is among them, polled long or short."""
    async with (
        asyncio.timeout(50),
        session.get(f"/fleet{wait}", headers={"If-None-Match": header}) as answer,
    ):
        assert answer.status == status


async def test_if_none_match_on_several_lines_is_one_list(session: aiohttp.ClientSession):
    """A header that is sent twice is one list (RFC 9110, section 5.3)."""
    headers = [("If-None-Match", '"x"'), ("If-None-Match", '"b-0"')]
    async with asyncio.timeout(50), session.get("/fleet", headers=headers) as answer:
        assert answer.status == 304


@pytest.mark.parametrize("number", ["9" * 4400, "9" * 19, "-1", "1_0", "\u0661", "\u00b2", ""])
async def test_a_number_that_is_none_of_ours_starts_with_a_snapshot(
    fleet: WatchedFleet, server: asgi.AppServer, number: str
):
    """Over either stream, also where Python would refuse to read so many digits."""
    for _ in range(3):
        fleet.report("api", "failed")
        fleet.report("api", "healthy")
    tag = f"b-{number}"
    follower = fleet.follow(tag)
    async with asyncio.timeout(50):
        assert isinstance(await follower.next(), push.Snapshot)
        since = quote(tag)
        async with connect(f"{server.ws_url}/ws?since={since}", proxy=None) as websocket:
            assert json.loads(await websocket.recv())["kind"] == "snapshot"
        if tag.isascii():
            headers = {"Last-Event-ID": tag}
            async with (
                aiohttp.ClientSession(server.url) as session,
                session.get("/events", headers=headers) as answer,
            ):
                assert answer.status == 200
                async for event in sse.decode(answer.content):
                    assert json.loads(event.data)["kind"] == "snapshot"
                    break


async def test_long_poll_waits_and_returns_with_the_change(
    fleet: WatchedFleet, session: aiohttp.ClientSession
):
    """A long poll is held while nothing changes, and answered long before its time is over."""
    known = {"If-None-Match": f'"{fleet.tag}"'}

    async def poll() -> tuple[int, int]:
        async with session.get("/fleet?wait=60", headers=known) as answer:
            return answer.status, (await answer.json())["version"]

    async with asyncio.timeout(50):
        polling = asyncio.create_task(poll())
        await fleet.followed.wait()
        assert not polling.done()
        fleet.report("web", "failed")
        assert await polling == (200, 1)


async def test_long_poll_returns_at_once_when_something_has_changed(
    fleet: WatchedFleet, session: aiohttp.ClientSession
):
    """What changed before it asked is not waited for."""
    fleet.report("web", "failed")
    async with asyncio.timeout(50):
        for headers in ({"If-None-Match": '"b-0"'}, {}):
            async with session.get("/fleet?wait=60", headers=headers) as answer:
                assert answer.status == 200
    assert not fleet.followed.is_set()


async def test_long_poll_gives_up_with_304(fleet: WatchedFleet, session: aiohttp.ClientSession):
    """When its time is over without news the answer is 304."""
    async with asyncio.timeout(50):
        known = {"If-None-Match": f'"{fleet.tag}"'}
        async with session.get("/fleet?wait=0.05", headers=known) as answer:
            assert answer.status == 304
    assert fleet.followed.is_set()


async def test_long_poll_ends_when_the_client_leaves(fleet: WatchedFleet, server: asgi.AppServer):
    """Nobody waits on behalf of a client that is gone."""
    async with asyncio.timeout(50):
        session = aiohttp.ClientSession(server.url)
        known = {"If-None-Match": f'"{fleet.tag}"'}
        polling = asyncio.create_task(session.get("/fleet?wait=60", headers=known).__aenter__())
        await fleet.followed.wait()
        polling.cancel()
        await session.close()
        await server.wait_idle()


@pytest.mark.parametrize("wait", ["soon", "-1", "61", "nan", "inf", ""])
async def test_wait_that_is_no_time_is_refused(session: aiohttp.ClientSession, wait: str):
    """400, and one sentence that says what to give."""
    async with asyncio.timeout(50), session.get(f"/fleet?wait={wait}") as answer:
        assert answer.status == 400
        assert await answer.text() == "Wait is a number of seconds from 0 to 60.\n"


@pytest.mark.parametrize(
    ("service", "body", "status", "says"),
    [
        ("api", b'{"status": "failed"}', 200, '"service":"api"'),
        ("api", b'{"status": "healthy"}', 204, ""),
        ("db", b'{"status": "failed"}', 404, "There is no service 'db' here."),
        ("api", b'{"status": "sleepy"}', 400, "There is no status 'sleepy': choose queued,"),
        ("api", b'{"status": 7}', 400, 'A report is JSON such as {"status": "failed"}.'),
        ("api", b"failed", 400, "A report is JSON"),
        ("api", b'{"status": "\xff"}', 400, "A report is JSON"),
        ("api", b"", 400, "A report is JSON"),
        ("api", b"x" * 1001, 413, "A report has at most 1000 bytes."),
    ],
)
async def test_report(
    session: aiohttp.ClientSession, service: str, body: bytes, status: int, says: str
):
    """A build system's report is taken, or refused with the fitting status and a sentence."""
    async with asyncio.timeout(50), session.put(f"/fleet/{service}", data=body) as answer:
        assert answer.status == status
        assert says in await answer.text()


async def test_builds_report_or_say_why_not(fleet: WatchedFleet):
    """A report changes the fleet; one that is not taken is a UserError with the server's words."""
    async with asyncio.timeout(20):
        async with push.serve(fleet) as server, push.Builds(server.url) as builds:
            await builds.report("api", "failed")
            assert fleet.services["api"] == "failed"
            with pytest.raises(UserError, match="not reported: There is no service 'db' here"):
                await builds.report("db", "failed")
        async with push.Builds(server.url) as builds:
            with pytest.raises(UserError, match=r"not reported: .* Is the server running\?"):
                await builds.report("api", "failed")


async def test_other_words_are_refused(session: aiohttp.ClientSession):
    """A method that does not fit is 405, an unknown path 404, and the root says what there is."""
    async with asyncio.timeout(50):
        for method, path, status in (
            *(("POST", "/fleet", 405), ("GET", "/fleet/api", 405)),
            *(("GET", "/nowhere", 404), ("GET", "/ws", 404), ("GET", "/", 200)),
        ):
            async with session.request(method, path) as answer:
                assert (answer.status, path) == (status, path)


# Server-sent events.


async def lines(*pieces: bytes) -> AsyncIterator[bytes]:
    """Give `pieces` as a response's lines."""
    for piece in pieces:
        yield piece


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\n", [("a", "")]),
        (b"id: 1\ndata: a\n\ndata: b\n\n", [("a", "1"), ("b", "1")]),
        (b"data: a\r\ndata:b\r\n\r\n", [("a\nb", "")]),
        (b": comment\n\ndata: a: b\n\n", [("a: b", "")]),
        (b"id: 1\n\ndata: late\n\n", [("late", "1")]),
        (b"retry: 5\nevent: x\ndata:  a\n\n", [(" a", "")]),
        (b"data: cut off\n", []),
        (b"id: 1\0\ndata: a\n\n", [("a", "")]),
        (b"data: a\rdata: b\r\r\n", [("a\nb", "")]),
        (b"id: 1\rdata: a\r\n\r\n", [("a", "1")]),
    ],
)
async def test_events_are_read_as_the_standard_says(stream: bytes, events: list[tuple[str, str]]):
    """Fields, comments, line ends, ids that stay, and an unfinished event that does not count."""
    # As an HTTP library gives them: a line ends with its newline, whatever stands before.
    given_lines = re.findall(rb"[^\n]*\n", stream)
    read = [event async for event in sse.decode(lines(*given_lines))]
    assert [(event.data, event.id) for event in read] == events


@given(st.text())
def test_any_text_survives_an_event(text: str):
    """What is framed and read again is what it was; each kind of line break becomes a newline."""

    async def read() -> list[sse.Event]:
        stream = sse.encode(text, "7").split(b"\n")
        return [event async for event in sse.decode(lines(*(line + b"\n" for line in stream)))]

    expected = text.replace("\r\n", "\n").replace("\r", "\n")
    assert asyncio.run(read()) == [sse.Event(expected, "7")]


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_no_data_can_forge_a_field(end: str):
    """Whichever line break stands in the data, what follows it is data, too."""
    framed = sse.encode(f"a{end}id: 666{end}{end}data: forged", "7")
    assert framed == b"id: 7\ndata: a\ndata: id: 666\ndata: \ndata: data: forged\n\n"


@pytest.mark.parametrize("id", ["7\ndata: forged", "7\rdata: forged", "7\0"])
def test_an_id_that_no_line_can_hold_is_refused(id: str):
    """A line break in the id would be a field of its own, and readers ignore an id with NUL."""
    with pytest.raises(ValueError, match="id"):
        sse.encode("a", id)


async def test_stream_begins_with_the_state_and_resumes(
    fleet: WatchedFleet, session: aiohttp.ClientSession
):
    """The first event is a snapshot; with Last-Event-ID it is the first change missed."""
    async with asyncio.timeout(50):
        async with session.get("/events") as answer:
            assert answer.content_type == "text/event-stream"
            assert answer.headers["Cache-Control"] == "no-store"
            assert await answer.content.readline() == b"id: b-0\n"
            data = await answer.content.readline()
            assert json.loads(data.removeprefix(b"data: "))["kind"] == "snapshot"
            assert await answer.content.readline() == b"\n"
            fleet.report("api", "failed")
            assert await answer.content.readline() == b"id: b-1\n"
        fleet.report("api", "healthy")
        async with session.get("/events", headers={"Last-Event-ID": "b-1"}) as answer:
            assert await answer.content.readline() == b"id: b-2\n"
            assert b'"kind":"change"' in await answer.content.readline()


async def test_silent_stream_has_a_heartbeat(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
):
    """In silence a comment comes now and then, which readers skip."""
    monkeypatch.setattr(app, "HEARTBEAT_INTERVAL", 0.01)
    async with (
        asyncio.timeout(50),
        session.get("/events", headers={"Last-Event-ID": "b-0"}) as answer,
    ):
        assert await answer.content.readline() == b": still here\n"


async def test_stream_ends_when_the_reader_leaves(server: asgi.AppServer):
    """A stream whose reader is gone follows no longer."""
    async with asyncio.timeout(50):
        async with (
            aiohttp.ClientSession(server.url) as session,
            session.get("/events") as answer,
        ):
            await answer.content.readline()
        await server.wait_idle()


# The WebSocket.


async def test_a_websocket_whose_sending_fails_is_closed(
    fleet: WatchedFleet, server: asgi.AppServer, monkeypatch: pytest.MonkeyPatch
):
    """Whoever follows learns that nothing more comes: 1011, an internal error."""

    def fail(update: object) -> bytes:
        raise RuntimeError("no such field")

    async with asyncio.timeout(50), connect(f"{server.ws_url}/ws", proxy=None) as websocket:
        await websocket.recv()
        monkeypatch.setattr(app, "_encode", fail)
        fleet.report("api", "failed")  # the encoder for this one was looked up before
        await websocket.recv()
        fleet.report("api", "healthy")
        with pytest.raises(ConnectionClosed) as closed:
            await websocket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1011


async def test_websocket_begins_with_the_state_and_resumes(
    fleet: WatchedFleet, server: asgi.AppServer
):
    """The first message is a snapshot; with `since` it is the first change missed."""
    async with asyncio.timeout(50):
        async with connect(f"{server.ws_url}/ws", proxy=None) as websocket:
            assert json.loads(await websocket.recv())["kind"] == "snapshot"
            await websocket.send("nobody listens")
            fleet.report("api", "failed")
            assert json.loads(await websocket.recv())["version"] == 1
        fleet.report("api", "healthy")
        async with connect(f"{server.ws_url}/ws?since=b-1", proxy=None) as websocket:
            change = json.loads(await websocket.recv())
            assert (change["kind"], change["version"]) == ("change", 2)
        await server.wait_idle()


async def test_everything_ends_with_the_server(fleet: WatchedFleet):
    """Stopping the server ends streams, long polls (304) and WebSockets (1012) at once."""
    async with asyncio.timeout(50):
        server = await asgi.start(push.application(fleet), **app.OPTIONS)
        async with (
            aiohttp.ClientSession(server.url) as session,
            session.get("/events") as stream,
            connect(f"{server.ws_url}/ws", proxy=None) as websocket,
        ):
            await websocket.recv()
            await stream.content.readline()
            fleet.followed.clear()
            known = {"If-None-Match": f'"{fleet.tag}"'}
            polling = asyncio.create_task(session.get("/fleet?wait=60", headers=known).__aenter__())
            await fleet.followed.wait()
            await server.stop()
            assert (await polling).status == 304
            with pytest.raises(ConnectionClosed) as closed:
                await websocket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
            assert b"kind" in await stream.content.read()


# The tabs.


@pytest.mark.parametrize("kind", KINDS)
async def test_tab_shows_each_change(
    fleet: WatchedFleet, server: asgi.AppServer, kind: type[push.Tab]
):
    """Every kind of tab has the state when it opens, and then shows one change after the other."""
    async with asyncio.timeout(20), kind(server.url, interval=0.01) as tab:
        assert tab.services == {"api": "healthy", "web": "healthy"}
        for service, status in (("api", "failed"), ("web", "queued"), ("api", "healthy")):
            fleet.report(service, status)
            await tab.reached(fleet.version)
            assert tab.services == fleet.services
    assert list(tab.history) == [("api", "failed"), ("web", "queued"), ("api", "healthy")]
    assert (tab.updates, tab.missed, tab.breaks, len(tab.delays)) == (3, 0, 0, 3)
    assert all(0 <= delay < 20 for delay in tab.delays)


async def test_polling_tab_counts_what_was_for_nothing(fleet: WatchedFleet, server: asgi.AppServer):
    """Of its requests all are "nothing changed" but the first, and one for each change."""
    async with asyncio.timeout(20), push.PollingTab(server.url, interval=0.01) as tab:
        for status in ("failed", "healthy"):
            for _ in range(3):
                await tab.heard()
            fleet.report("api", status)
            await tab.reached(fleet.version)
        await tab.heard()
        # One may be on its way.
        assert tab.requests - 1 <= tab.unchanged + 3 <= tab.requests
        assert tab.unchanged >= 3


async def test_tabs_that_are_told_send_nothing_more(fleet: WatchedFleet, server: asgi.AppServer):
    """After the first request, whatever happens, a stream and a WebSocket ask for nothing."""
    async with asyncio.timeout(20):
        for kind in TELLING:
            async with kind(server.url) as tab:
                for status in ("failed", "healthy"):
                    fleet.report("api", status)
                    await tab.reached(fleet.version)
            assert tab.requests == 1


async def test_what_is_over_between_two_polls_is_missed(
    fleet: WatchedFleet, server: asgi.AppServer
):
    """A poller learns that something was there, but not what; who is told sees it all."""
    async with (
        asyncio.timeout(20),
        push.PollingTab(server.url, interval=0.2) as asks,
        push.WebSocketTab(server.url) as told,
    ):
        # One turn of the loop: no poll comes between the two.
        fleet.report("api", "failed")
        fleet.report("api", "healthy")
        await asyncio.gather(asks.reached(2), told.reached(2))
        assert (list(asks.history), asks.missed, asks.updates) == ([], 1, 1)
        assert list(told.history) == [("api", "failed"), ("api", "healthy")]
        assert told.missed == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_tab_comes_back_and_resumes(fleet: WatchedFleet, kind: type[push.Tab]):
    """After a restart of the server a tab is back by itself; who is told has missed nothing."""
    async with asyncio.timeout(20):
        port = free_port()
        server = await asgi.start(push.application(fleet), port=port, **app.OPTIONS)
        options = {"interval": 0.01, "retry": 0.01, "rng": random.Random(1)}
        async with kind(server.url, **options) as tab:
            await server.stop()
            fleet.report("api", "failed")
            fleet.report("api", "queued")
            async with push.serve(fleet, port=port):
                await tab.reached(2)
                assert tab.breaks >= 1
                assert not tab.broken
                if kind in TELLING:
                    assert list(tab.history) == [("api", "failed"), ("api", "queued")]
                    assert tab.missed == 0
                else:
                    assert list(tab.history) == [("api", "queued")]
                    assert tab.missed == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_tab_takes_a_new_fleet_for_what_it_is(kind: type[push.Tab]):
    """A server that has forgotten everything begins anew, and no delay is made up for that."""
    async with asyncio.timeout(20):
        old = push.Fleet(["api"])
        old.report("api", "failed")
        port = free_port()
        server = await asgi.start(push.application(old), port=port, **app.OPTIONS)
        async with kind(server.url, interval=0.01, retry=0.01) as tab:
            await server.stop()
            new = push.Fleet(["web"])
            async with push.serve(new, port=port):
                while tab.boot != new.boot:
                    await tab.heard()
                assert (tab.services, tab.version) == ({"web": "healthy"}, 0)
                assert (tab.updates, tab.missed) == (0, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("text", "status"), [("nonsense", 200), ("broken", 500)])
async def test_tab_of_a_server_that_is_no_fleet(
    monkeypatch: pytest.MonkeyPatch, kind: type[push.Tab], text: str, status: int
):
    """It does not open, and says so in a sentence."""
    monkeypatch.setattr(tabs, "TIMEOUT", 0.1)
    routes = [
        Route(path, lambda _: PlainTextResponse(text, status)) for path in ("/fleet", "/events")
    ]
    async with asyncio.timeout(50), asgi.serve(Starlette(routes=routes)) as server:
        with pytest.raises(UserError, match=r"no state came from .* is a fleet served there\?"):
            async with kind(server.url, retry=0.01):
                pass


async def test_bytes_counted_are_the_bytes_of_the_frames(
    fleet: WatchedFleet, server: asgi.AppServer
):
    """What the link counted is the handshake's response and the frames that it decoded."""
    async with asyncio.timeout(50), Link(server.url) as link:
        async with push.WebSocketTab(f"http://127.0.0.1:{link.port}") as tab:
            for status in ("failed", "healthy"):
                fleet.report("api", status)
                await tab.reached(fleet.version)
        wire = link.connections[0]
        await wire.wait_closed()
        down = [record for record in wire.records if record.direction == "server->client"]
        expected = sum(
            len(record.raw) if isinstance(record, HandshakeResponse) else record.wire_length
            for record in down
            if isinstance(record, HandshakeResponse | FrameRecord)
        )
        assert wire.down.forwarded == expected
