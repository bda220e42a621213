"""The lessons' experiments, each with what it must find."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import ssl
import threading
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from itertools import repeat

import pytest
from starlette.middleware import Middleware
from waits import until
from websockets import ClientConnection, ServerConnection, connect

from wslessons import asgi, serving
from wslessons import web as webapp
from wslessons.chat import ChatServer
from wslessons.chat.basic import QueueChat, SetChat
from wslessons.echo import echo as echo_handler
from wslessons.errors import UserError
from wslessons.guard import nginx
from wslessons.heartbeat import Heartbeat
from wslessons.lab.trials import (
    chat,
    client,
    echo,
    fast,
    groups,
    heartbeats,
    operations,
    production,
    scaling,
    testing,
    web,
)
from wslessons.link import Link
from wslessons.scaling.brokers import kafka
from wslessons.testing.raw import dial
from wslessons.web import OriginCheck
from wslessons.wire import FrameRecord


async def test_ending_tells_both_sides_and_the_wire() -> None:
    """A goodbye is two close frames; whoever vanishes sends none, and 1006 stands for that."""

    async def vanish(client: ClientConnection) -> None:
        client.transport.abort()

    polite = await echo.ending(lambda client: client.close(1001, "tab closed"))
    assert (polite.code, polite.close_frames) == (1001, 2)
    assert polite.server.startswith("received 1001 (going away) tab closed")
    gone = await echo.ending(vanish)
    assert (gone.code, gone.close_frames) == (1006, 0)
    assert str(gone) == "client: 1006 | server: no close frame received or sent"


async def test_waits_are_added_up_only_where_the_loop_is_blocked() -> None:
    """Four who ask at once wait for each other's naps if the naps block."""

    async def blocking(connection: ServerConnection) -> None:
        async for message in connection:
            time.sleep(0.05)  # noqa: ASYNC251 -- the mistake that is measured
            await connection.send(message)

    async def at_once(connection: ServerConnection) -> None:
        async for message in connection:
            await everybody.wait()
            await connection.send(message)

    everybody = asyncio.Barrier(4)
    for handler, least in ((blocking, 0.2), (at_once, 0)):
        server = await serving.serve(handler, "127.0.0.1", 0)
        seconds = await echo.waits(serving.urls(server)[0], clients=4)
        assert len(seconds) == 4
        assert seconds[-1] >= least
        await serving.shut(server, 1001, "", 0.5)


async def test_waits_say_in_a_sentence_that_a_handler_gave_no_answer() -> None:
    """A wrong repair gives no traceback: one sentence names the code and where the cause is."""

    async def crashes(connection: ServerConnection) -> None:
        async for _ in connection:
            raise TypeError("object NoneType can't be used in 'await' expression")

    async def returns(connection: ServerConnection) -> None:
        await connection.recv()

    for handler, code in ((crashes, 1011), (returns, 1000)):
        server = await serving.serve(handler, "127.0.0.1", 0)
        with pytest.raises(UserError, match=rf"ended with {code}: .*logbook\.crash\(\)"):
            await echo.waits(serving.urls(server)[0], clients=2)
        await serving.shut(server, 1001, "", 0.5)


async def test_a_slow_reader_holds_up_a_set_fills_queues_and_is_told_by_a_channel() -> None:
    """The three chats of lesson 2 differ in what bob hears, in what is held, and for whom."""
    first = await chat.slow_reader(SetChat(), timeout=1)
    assert first.heard < first.said == 400 == first.got
    second = await chat.slow_reader(QueueChat(), timeout=20)
    assert second.heard == second.got == 400
    assert second.held > 5_000_000
    third = await chat.slow_reader(ChatServer(max_size=2**17, capacity=64), timeout=20)
    assert third.heard == third.got + third.missed == 400
    assert third.missed > 0
    assert third.held < 1_000_000


async def test_who_alternates_or_writes_first_is_stuck() -> None:
    """One line of three, and fewer sends than wanted; with both at once there is an end."""

    async def alternating(url: str, lines: Sequence[str]) -> None:
        async with connect(url, proxy=None) as connection:
            await connection.send("alice")
            await connection.recv()
            await connection.recv()
            for line in lines:
                await connection.send(line)
                await connection.recv()

    async def write_then_read(connection: ClientConnection) -> None:
        for _ in range(1000):
            await connection.send(client.LINE)
        await connection.recv()

    async def in_turns(connection: ClientConnection) -> None:
        for _ in range(10):
            await connection.send("x")
            await connection.recv()

    assert await client.heard_by_bob(alternating, timeout=1) == ["one"]
    stuck = await client.talk_to_echo(write_then_read)
    assert (stuck.sent < 1000, stuck.received, stuck.finished) == (True, 0, False)
    assert await client.talk_to_echo(in_turns, timeout=20) == client.Talk(10, 10, True)


async def test_send_waits_one_message_above_the_limit() -> None:
    """So a program that awaits its sends has a bound, which it chooses."""
    for limit in (2**15, 2**18):
        held = await client.accepted_by_the_deaf(limit, timeout=0.5)
        assert limit < held <= limit + len(client.LINE) + 14


async def test_reading_a_key_in_the_loop_leaves_it_no_turn() -> None:
    """In a thread it leaves many."""

    async def in_the_loop(keyboard: int) -> bytes:
        return os.read(keyboard, 10)

    async def in_a_thread(keyboard: int) -> bytes:
        return await asyncio.to_thread(os.read, keyboard, 10)

    assert await client.turns_during(in_the_loop, after=0.1) == (b"hello", 0)
    typed, turns = await client.turns_during(in_a_thread, after=0.5)
    assert typed == b"hello"
    assert turns > 1


def test_fixed_delays_keep_the_wave_together() -> None:
    """All of those who have lost their server come in each wave, until all are in."""
    wave = client.comeback(lambda: repeat(1.0), clients=100, back_after=3, room=40)
    assert wave == {10: 100, 20: 100, 30: 100, 40: 60, 50: 20}


async def test_who_is_too_late_is_told_how_much_is_gone() -> None:
    """With offsets the exact number, in plain text only that something is."""
    assert await client.too_late(capacity=8, lines=10) == ["missed 4", *"3456789"]
    assert await client.too_late(capacity=8, lines=10, text=True) == ["missed None"]


async def test_only_a_heartbeat_notices_the_dead() -> None:
    """A server that only listens keeps all it had for them."""

    async def listening(connection: ServerConnection) -> None:
        await connection.wait_closed()

    async def asking(connection: ServerConnection) -> None:
        with Heartbeat(connection, 0.1, 0.2):
            await connection.wait_closed()

    held = await heartbeats.bury(listening, clients=3, after=1)
    assert str(held) == "3 connections, 3 tasks, 3 descriptors"
    assert await heartbeats.bury(asking, clients=3, after=5) == heartbeats.Held(0, 0, 0)


async def test_deaths_are_noticed_not_before_the_timeout() -> None:
    """Later by up to an interval: where in it the client died is luck."""
    took = await heartbeats.deaths(0.1, 0.3, count=4)
    assert len(took) == 4
    assert took == sorted(took)
    assert took[0] >= 0.3


async def test_round_trips_know_the_delay_of_the_link() -> None:
    """No answer is there before it can be."""
    async with (
        serving.serve(echo_handler) as server,
        Link(serving.urls(server)[0]) as link,
    ):
        link.delay(0.02)
        assert min(await heartbeats.round_trips(link, count=3)) >= 40


async def test_who_blocks_the_loop_is_dropped_and_found() -> None:
    """The keepalive drops the client, debug mode names its task, its stack the line."""

    async def crunch() -> None:
        time.sleep(1.5)  # noqa: ASYNC251 -- the mistake that is looked for

    server = await serving.serve(echo_handler, ping_interval=0.1, ping_timeout=0.2)
    url = serving.urls(server)[0]
    assert "1011" in await heartbeats.client_in_a_thread(url, crunch)
    assert [name for name, _ in await heartbeats.slow_steps(url, crunch)] == ["client"]
    await serving.shut(server, 1001, "", 0.5)

    def sleep() -> None:
        time.sleep(0.5)

    thread = threading.Thread(target=sleep)
    thread.start()
    assert await heartbeats.line_of(thread, sleep) == "sleep: time.sleep(0.5)"
    await asyncio.to_thread(thread.join)
    assert await heartbeats.line_of(thread, sleep) == "sleep has ended"


async def test_a_browser_keeps_the_cookie_from_another_site_only() -> None:
    """Another port is of the same site; who checks the origin refuses both."""
    evil, port = "https://evil.example", "http://127.0.0.1:9"
    async with asgi.serve(web.bank()) as trusting:
        assert await web.browse(port, trusting.url) == "it hears: balance of alice: 1,000"
        assert await web.browse(evil, trusting.url) == "it hears: nobody is logged in"
    async with asgi.serve(web.bank(Middleware(OriginCheck))) as checking:
        own = await web.browse(checking.url, checking.url)
        assert own == "it hears: balance of alice: 1,000"
        for page in (port, evil):
            assert (await web.browse(page, checking.url)).startswith("refused with HTTP 403")


async def test_who_never_listens_holds_up_the_end() -> None:
    """Until the price comes, or the limit is over."""
    deaf = web.Deaf()
    assert await deaf.seconds_to_stop(limit=None, mercy=1.5) >= 1.5
    assert await deaf.seconds_to_stop(limit=1, mercy=30) < 25


async def test_only_people_of_the_same_server_hear_each_other() -> None:
    """Seven people on three servers without a bus: two others are on the first one's."""
    async with AsyncExitStack() as stack:
        urls = []
        for _ in range(3):
            server = ChatServer().serve("127.0.0.1", 0)
            urls += serving.urls(await stack.enter_async_context(server))
        assert await scaling.how_many_hear(urls, people=7, timeout=0.3) == 2
        assert await scaling.how_many_hear(urls[:1], people=7, timeout=30) == 6


def test_outage_is_counted_and_put_in_words() -> None:
    """What was heard and what was told of as missed make all that was said; order counts."""
    whole = scaling.Outage("nats?stream=chat", heard=[(n, 0.0) for n in range(scaling.LINES)])
    assert str(whole) == "heard 60, told of 0 missed, together 60"
    holed = scaling.Outage("nats", heard=[(n, 0.0) for n in range(0, 60, 2)], missed=30)
    assert str(holed) == "heard ~30, told of ~30 missed, together 60"
    assert whole.in_order
    assert holed.in_order
    assert not scaling.Outage("nats", heard=[(2, 0.0), (1, 0.0)]).in_order
    assert not scaling.Outage("nats", heard=[(1, 0.0), (1, 0.0)]).in_order


@pytest.mark.parametrize("real", [True, False])
async def test_a_group_divides_what_a_fan_out_would_repeat(
    real: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Kafka that runs and the rule of its clients give the same numbers; who it was is said."""
    if real and kafka.find() is None:
        pytest.skip("there is no real Kafka")
    if not real:
        monkeypatch.setattr(kafka, "find", lambda: None)
    async with asyncio.timeout(100), groups.consumer_group(partitions=4) as group:
        assert [await group.grow(count) for count in (1, 2, 3)] == [[4], [2, 2], [2, 1, 1]]
        assert await group.publish(40) == [20, 10, 10]
        assert await group.grow(6) == [1, 1, 1, 1, 0, 0]
        assert (group.label == groups.RULE) != real


async def test_a_bomb_grows_where_nothing_bounds_it() -> None:
    """A thousand bytes are a megabyte, unless the size is bounded or nothing is unpacked."""
    assert "a message of 1,048,576 bytes" in await production.bomb()
    assert "closed with 1009" in await production.bomb(max_size=16_384)
    assert "closed with 1002" in await production.bomb(compression=None)


async def test_a_flood_reaches_others_up_to_the_limit() -> None:
    """All of it without a limit; with one, the burst and what may wait."""
    told = await production.flood(ChatServer(capacity=512), lines=300)
    assert told == "bob heard 300 of 300 lines; the stranger is still there"
    told = await production.flood(ChatServer(rate=0.01, burst=5, debt=10), lines=300)
    assert told.startswith("bob heard ~15 of 300 lines; the stranger was closed with 1008")


async def test_a_login_ends_unless_it_is_renewed() -> None:
    """A forged one does not begin."""
    assert await production.log_in(0) == "refused with HTTP 401: log in first"
    assert (await production.log_in(0.2)).startswith("closed with 4401: ")
    assert await production.log_in(3, renew=True) == "still there, with a new token"


async def test_only_who_verifies_tells_an_impostor_nothing() -> None:
    """The right name in a certificate is no proof."""
    context = ssl.create_default_context()
    assert await production.impostor(context) == "the impostor read: nothing"
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    assert production.TOKEN in await production.impostor(context)


async def test_a_connection_lasts_or_ends() -> None:
    """And how is told."""
    for beat, pings in ((0.05, 3), (40, 1)):
        async with webapp.serve(heartbeat=(beat, 40)) as server, Link(server.ws_url) as link:
            lasting = asyncio.create_task(production.lasts(f"{link.url}/ws", pings))
            if beat < 1:
                assert await lasting == "still there after 3 pings"
                continue
            # Not earlier: a reset may throw away an answer to the handshake that is not yet read.
            await until(
                lambda: any(
                    isinstance(record, FrameRecord)
                    for connection in link.connections
                    for record in connection.records
                    if record.direction == "client->server"
                )
            )
            link.cut()
            assert re.fullmatch(r"1006 after ~\d+\.\d s", await lasting)


with_nginx = pytest.mark.skipif(
    not shutil.which("nginx", path=nginx.search_path()) and not os.environ.get("CI"),
    reason="nginx is not installed here",
)


@with_nginx
async def test_nginx_holds_an_event_back_only_to_compress_it() -> None:
    """Its buffer by itself delays none; and without the buffer, what it compresses is flushed."""
    assert await operations.first_event(buffering="on") == "at once"
    assert await operations.first_event(buffering="on", gzip=True) == "when the stream ends"
    assert await operations.first_event(buffering="off", gzip=True) == "at once"


@with_nginx
async def test_a_buffer_takes_all_for_a_reader_that_stalls() -> None:
    """Without it, the server sees that nobody reads."""
    assert await operations.stalled(buffering="on") == "all 64 MB were taken"
    assert re.fullmatch(r"~\d+ of 64 MB were taken", await operations.stalled(buffering="off"))


@with_nginx
async def test_comments_keep_a_stream_of_events() -> None:
    """Without a word for two seconds, nginx cuts it off."""
    assert re.fullmatch(r"cut off after ~\d+\.\d s", await operations.stream_lasts())
    told = await operations.stream_lasts(comment=0.1)
    assert told == "still there after 30 comments"


async def test_pytest_says_how_each_test_came_out() -> None:
    """Failed, an error around it, or what pytest says of a file that is none."""
    told = await testing.pytest_says(
        "async def test_one(ws_serve):\n    assert 1 == 1\n\ndef test_two():\n    assert 1 == 2\n"
        "\ndef test_three(nothing):\n    pass\n"
    )
    assert told.splitlines()[:2] == [
        "test_one    passed",
        "test_two    failed: AssertionError: assert 1 == 2",
    ]
    assert told.splitlines()[2].startswith("test_three  error: FixtureLookupError")
    assert "SyntaxError" in await testing.pytest_says("def test_one(:")


async def test_ten_runs_count_what_passes() -> None:
    """None, all, and those that no busy machine has met."""

    async def fails(url: str) -> None:
        raise AssertionError

    async def passes(url: str) -> None:
        pass

    assert await testing.ten_runs(fails) == "passed ~0 of 10 times"
    assert await testing.ten_runs(passes) == "passed ~10 of 10 times"


async def test_a_round_trip_is_measured_over_every_message_of_all_clients() -> None:
    """They come from another process, and each is answered before its client sends the next."""
    heard: list[int] = []

    async def counting(connection: ServerConnection) -> None:
        heard.append(0)
        number = len(heard) - 1
        async for message in connection:
            heard[number] += 1
            await connection.send(message)

    async with asyncio.timeout(60):
        spent = await fast.round_trip(partial(serving.serve, counting, compression=None), trips=40)
    assert spent > 0
    assert heard == [fast.ROUNDS * 4] * 10


async def test_a_server_that_ends_its_connections_has_no_round_trips() -> None:
    """That is an error, and neither a time nor a wait without end."""

    async def leaves(connection: ServerConnection) -> None:
        await connection.recv()

    async with asyncio.timeout(60):
        with pytest.raises(UserError, match="ended unexpectedly"):
            await fast.round_trip(partial(serving.serve, leaves, compression=None), trips=40)


async def test_the_floor_of_round_trips_gives_back_what_comes() -> None:
    """Bytes, whatever they would mean as frames."""
    async with (
        asyncio.timeout(20),
        fast.bare_echo() as server,
        dial(serving.urls(server)[0]) as raw,
    ):
        assert b" 101 " in await raw.handshake()
        for data in (b"GET", b"\x00" * 100):
            raw.send(data)
            assert await raw.reader.readexactly(len(data)) == data
