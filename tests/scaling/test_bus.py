"""One contract over all buses, on real brokers, and what each does when its broker dies.

Kafka is a real one where there is one, and the emulator is tried beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator
from typing import Any

import nats
import psutil
import pytest
import pytest_asyncio
import redis.asyncio
import waits
from nats.js.api import DiscardPolicy
from waits import until

from wslessons import processes
from wslessons.chat.channel import Channel
from wslessons.errors import UserError
from wslessons.link import Link
from wslessons.scaling.brokers import Broker, find_program, kafka
from wslessons.scaling.brokers import run as run_broker
from wslessons.scaling.bus import (
    Bus,
    Event,
    Gap,
    Log,
    Memory,
    NewEpoch,
    NodeDown,
    NodeUp,
    Status,
    Subscription,
    from_url,
)
from wslessons.scaling.bus.pubsub import PubSub
from wslessons.scaling.bus.remote import Remote
from wslessons.scaling.bus.transport import Transport, Unreachable
from wslessons.scaling.bus.url import with_options

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Where there is no real Kafka, the emulator is "kafka".
KAFKAS = ["kafka", "emulator"] if kafka.find() else ["kafka"]
LOGS = ["jetstream", "streams", *KAFKAS]
KINDS = ["nats", "redis", *LOGS]
NAMES = itertools.count(1)


# On the loop that all tests here share.
no_task_left_behind = pytest_asyncio.fixture(loop_scope="module", autouse=True)(
    waits.no_task_left_behind
)


def url_for(kind: str, base: dict[str, str], name: str = "") -> str:
    """Return the URL of a bus of this kind, with subject, channel, stream or topic of its own."""
    if kind == "memory":
        return "memory:"
    broker, option = {
        "nats": ("nats", "subject"),
        "jetstream": ("nats", "stream"),
        "redis": ("redis", "channel"),
        "streams": ("redis", "stream"),
        "kafka": ("kafka", "topic"),
        "emulator": ("emulator", "topic"),
    }[kind]
    return with_options(base[broker], f"{option}={name or f't{next(NAMES)}'}")


@pytest.fixture
def url(brokers: dict[str, Broker], request: pytest.FixtureRequest) -> str:
    """The URL of a bus of the kind that the test asks for."""
    return url_for(request.param, {kind: each.url for kind, each in brokers.items()})


every = pytest.mark.parametrize("url", KINDS, indirect=True)
every_log = pytest.mark.parametrize("url", LOGS, indirect=True)


async def next_event(reader: Subscription) -> Event:
    """Return the next event, past everything else."""
    return await next_of(reader, Event)


async def next_of(reader: Subscription, *kinds: type[Any]) -> Any:
    """Return the next item of these kinds, past everything else."""
    async for item in reader:
        if isinstance(item, kinds):
            return item
    raise AssertionError("the bus has ended")


async def texts(reader: Subscription, count: int) -> list[Any]:
    """Return the data of the next events."""
    return [(await next_event(reader)).data for _ in range(count)]


async def status(bus: Bus, state: str) -> None:
    """Wait until the bus has this state."""
    reader = bus.subscribe()
    while bus.status.state != state:
        await reader.recv()


# The contract.


@pytest.mark.parametrize("url", ["memory", *KINDS], indirect=True)
async def test_an_event_is_heard_once_by_all_readers_with_all_it_should_carry(url: str):
    """Readers of the server itself and of others get it once, signed, numbered, in order."""
    async with asyncio.timeout(20), from_url(url) as here, contextlib.AsyncExitStack() as stack:
        there = here if url == "memory:" else await stack.enter_async_context(from_url(url))
        readers = [here.subscribe(), there.subscribe()]
        for number in range(100):
            here.publish(Event("/", {"n": number}, connection="c1"))
        for reader in readers:
            events = [await next_event(reader) for _ in range(100)]
            assert [event.data for event in events] == [{"n": number} for number in range(100)]
            assert {(each.node, each.connection, each.room) for each in events} == {
                (here.node, "c1", "/")
            }
            assert len({event.id for event in events}) == 100
            offsets = [event.offset for event in events]
            assert all(offsets)
            assert offsets == sorted(set(offsets))
            assert [event.prev for event in events][1:] == offsets[:-1]
            assert {event.epoch for event in events} == {
                here.epoch if reader is readers[0] else there.epoch
            }
        # A last one, so that anything doubled would have come before it.
        here.publish(Event("/", "last"))
        for reader in readers:
            assert await texts(reader, 1) == ["last"]


@every
async def test_two_servers_hear_each_other_in_each_ones_order(url: str):
    """Two that publish at once: every reader has each one's events complete and in order."""
    async with asyncio.timeout(20), from_url(url) as one, from_url(url) as two:
        readers = [one.subscribe(), two.subscribe()]
        for number in range(200):
            one.publish(Event("/", ["one", number]))
            two.publish(Event("/", ["two", number]))
            if number % 50 == 0:
                await asyncio.sleep(0)
        for reader in readers:
            heard = await texts(reader, 400)
            for name in ("one", "two"):
                assert [each for each in heard if each[0] == name] == [
                    [name, n] for n in range(200)
                ]


@pytest.mark.parametrize("kind", ["nats", "redis"])
async def test_who_is_connected_hears_what_is_said_from_then_on(
    kind: str, brokers: dict[str, Broker]
):
    """Once a bus has started, the broker knows of it: no event is published too early for it."""
    base = {each: one.url for each, one in brokers.items()}
    async with asyncio.timeout(50):
        for _ in range(15):
            url = url_for(kind, base)
            async with from_url(url) as one, from_url(url) as two:
                reader = two.subscribe()
                one.publish(Event("/", "hello"))
                assert await texts(reader, 1) == ["hello"]


@every_log
async def test_all_servers_of_a_log_agree_on_order_and_numbers(url: str):
    """Whoever published what: two servers' readers get the same events with the same numbers."""
    async with asyncio.timeout(20), from_url(url) as one, from_url(url) as two:
        readers = [one.subscribe(), two.subscribe()]
        for number in range(100):
            one.publish(Event("/", ["one", number]))
            two.publish(Event("/", ["two", number]))
        heard = [[await next_event(reader) for _ in range(200)] for reader in readers]
        first, second = ([(e.offset, e.prev, e.epoch, e.data) for e in events] for events in heard)
        assert first == second


@every_log
async def test_a_log_is_read_from_a_number_on_by_a_server_that_came_later(url: str):
    """`subscribe(since)` on another server gives what came after, and exactly that."""
    async with asyncio.timeout(20):
        async with from_url(url) as one:
            reader = one.subscribe()
            for number in range(20):
                one.publish(Event("/", number))
            events = [await next_event(reader) for _ in range(20)]
        async with from_url(url) as two:
            assert two.epoch == events[0].epoch
            after = two.subscribe(since=events[9].offset)
            assert [(await next_event(after)).offset for _ in range(10)] == [
                event.offset for event in events[10:]
            ]
            two.publish(Event("/", "more"))
            more = await next_event(after)
            assert (more.data, more.prev) == ("more", events[-1].offset)


@every
async def test_a_key_is_published_once(url: str):
    """What two servers publish under one key, each reader gets once."""
    async with asyncio.timeout(20), from_url(url) as one, from_url(url) as two:
        readers = [one.subscribe(), two.subscribe()]
        one.publish(Event("/", "hello", key="session/1"))
        assert await texts(readers[1], 1) == ["hello"]
        two.publish(Event("/", "hello", key="session/1"))
        one.publish(Event("/", "hello", key="session/1"))
        one.publish(Event("/", "end of one"))
        two.publish(Event("/", "end of two"))
        assert await texts(readers[0], 3) in (
            ["hello", "end of one", "end of two"],
            ["hello", "end of two", "end of one"],
        )
        assert "hello" not in await texts(readers[1], 2)


@every_log
async def test_a_name_that_is_used_again_is_another_server(url: str):
    """Its later life's events are heard like those of the first, though it counts from 1 again."""
    async with asyncio.timeout(30), from_url(url) as bus:
        reader = bus.subscribe()
        nodes = set()
        for life in range(2):
            async with from_url(url, node="wéb: 1-1") as named:
                for number in range(3):
                    named.publish(Event("/", [life, number]))
                await named.flush()
            events = [await next_event(reader) for _ in range(3)]
            assert [event.data for event in events] == [[life, number] for number in range(3)]
            nodes |= {event.node for event in events}
        assert len(nodes) == 2
        assert all(node.startswith("wéb: 1-1-") for node in nodes)


@pytest.mark.parametrize("url", ["memory", *KINDS], indirect=True)
async def test_an_event_object_that_is_published_twice_is_two_events(url: str):
    """The bus keeps a copy: what its publisher does to it later is the next event's."""
    async with asyncio.timeout(20), from_url(url) as bus:
        reader = bus.subscribe()
        event = Event("/", "first")
        bus.publish(event)
        event.data = "second"
        bus.publish(event)
        heard = [await next_event(reader) for _ in range(2)]
        assert [each.data for each in heard] == ["first", "second"]
        assert heard[0].offset < heard[1].offset
        assert (event.node, event.seq, event.offset) == ("", 0, 0)


@every
async def test_what_waits_for_a_bus_ends_when_it_is_stopped(url: str):
    """`reached` and `flush` raise; whoever awaits them was not cancelled."""
    async with asyncio.timeout(20):
        async with from_url(url) as bus:
            waiting = asyncio.create_task(bus.reached("/", 10**12))
            await until(lambda: bus._awaited)
        with pytest.raises(UserError, match="the bus is closed"):
            await waiting
        with pytest.raises(UserError, match="the bus is closed"):
            await bus.reached("/", 10**12)


@every
async def test_rooms_are_told_apart(url: str):
    """`prev` links the events of one room, whatever happened in others between them."""
    async with asyncio.timeout(20), from_url(url) as one, from_url(url) as two:
        reader = two.subscribe()
        for number in range(6):
            one.publish(Event(f"/rooms/{number % 2}", number))
        events = [await next_event(reader) for _ in range(6)]
        for room in ("/rooms/0", "/rooms/1"):
            inside = [event for event in events if event.room == room]
            assert [event.prev for event in inside][1:] == [each.offset for each in inside][:-1]
            assert two.newest(room) == inside[-1].offset


@every
async def test_presence_crosses_servers_and_ends_with_them(url: str):
    """Members are known elsewhere; a server that stops takes its members with it."""
    async with asyncio.timeout(20), from_url(url, beat=0.2) as one:
        reader = one.subscribe()
        async with from_url(url, beat=0.2) as two:
            two.enter("/", "c1", "alice")
            two.enter("/", "c2", "bob")
            two.leave("/", "c2")
            await until(lambda: one.members("/") == ({"c1": "alice"}, 1))
            # A server that starts later learns it, too.
            async with from_url(url, beat=0.2) as three:
                await until(lambda: three.members("/") == ({"c1": "alice"}, 1))
        downs: dict[str, Any] = {}
        while len(downs) < 2 or one.members("/") != ({}, 0):
            # On a slow machine each may have seemed to be gone before, and have come back.
            down = await next_of(reader, NodeDown)
            downs[down.node] = down.rooms
        assert downs == {two.node: {"/": {"c1": "alice"}}, three.node: {}}


@pytest.mark.parametrize("kind", ["jetstream", "streams"])
async def test_flush_ends_with_the_bus_although_the_broker_is_away(
    kind: str, brokers: dict[str, Broker]
):
    """It raises, and what was never sent is counted."""
    family = {"jetstream": "nats", "streams": "redis"}[kind]
    async with asyncio.timeout(30), linked(kind, brokers[family]) as (through, link):
        async with from_url(url_for(kind, {family: through})) as bus:
            with link.cut():
                await status(bus, "reconnecting")
                bus.publish(Event("/", "never"))
                flushing = asyncio.create_task(bus.flush())
                await bus.stop()
                with pytest.raises(UserError, match="the bus is closed"):
                    await flushing
        assert (bus.backlog, bus.unsent) == (1, 1)


KILLED_SERVER = """
import asyncio, sys
from wslessons.scaling.bus import from_url

async def main():
    async with from_url(sys.argv[1], node="victim", beat=0.2) as bus:
        bus.enter("/", "c1", "ghost")
        print("up", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@every
async def test_a_killed_server_leaves_no_ghosts(url: str):
    """Its members are gone after three beats, and its end is reported with their names."""
    async with asyncio.timeout(30), from_url(url, beat=0.2) as bus:
        reader = bus.subscribe()
        victim = await asyncio.create_subprocess_exec(
            sys.executable, "-c", KILLED_SERVER, url, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert victim.stdout is not None
            assert await victim.stdout.readline() == b"up\n"
            await until(lambda: bus.members("/")[1] == 1)
        finally:
            victim.kill()
            await victim.wait()
        down = await next_of(reader, NodeDown)
        assert down.node.startswith("victim-")
        assert down.rooms == {"/": {"c1": "ghost"}}
        assert bus.members("/") == ({}, 0)


@every
async def test_too_large_an_event_is_refused_with_one_sentence(url: str):
    """It raises at once, nothing is sent, and the next event goes out."""
    async with asyncio.timeout(20), from_url(url, max_event=1000) as one, from_url(url) as two:
        reader = two.subscribe()
        with pytest.raises(UserError, match=r"an event of \d+ bytes is too large: .* 1000"):
            one.publish(Event("/", "x" * 1000))
        with pytest.raises(UserError, match="JSON"):
            one.publish(Event("/", object()))
        one.publish(Event("/", "small"))
        event = await next_event(reader)
        assert (event.data, event.seq) == ("small", 1)


@every
async def test_a_closed_bus_refuses_and_its_readers_end(url: str):
    """After the block, `publish` raises and iterating ends."""
    async with asyncio.timeout(20):
        async with from_url(url) as bus:
            reader = bus.subscribe()
        assert [item async for item in reader][-1] == Status("closed")
        with pytest.raises(UserError, match="closed"):
            bus.publish(Event("/", "late"))


@every
async def test_messages_from_elsewhere_harm_nobody(url: str, brokers: dict[str, Broker]):
    """What is no message of ours is skipped, wherever on the broker it appears."""
    async with asyncio.timeout(20), from_url(url) as bus:
        assert isinstance(bus, Remote)
        await bus._transport.publish(b"\xff not ours")
        await bus._transport.publish(b'[{"type": "unheard of"}]')
        if isinstance(bus, Log):
            await bus._log.append(b"not ours either", "x:1", 1, 1)
        reader = bus.subscribe()
        bus.publish(Event("/", "ours"))
        assert await texts(reader, 1) == ["ours"]


async def test_memory_is_the_channel_and_delivers_before_publish_returns():
    """Nothing waits: the event is there for a reader that never awaits."""
    async with Memory() as bus:
        assert isinstance(bus._channel, Channel)
        reader = bus.subscribe()
        bus.publish(Event("/", "now"))
        (event,) = reader.take_ready()
        assert isinstance(event, Event)
        assert (event.data, event.offset, event.node) == ("now", bus._at, bus.node)


async def test_a_slow_reader_is_told_how_much_it_lost():
    """The local copy is bounded, and a reader that was lapped gets the exact count."""
    async with Memory(keep=10) as bus:
        reader = bus.subscribe()
        for number in range(25):
            bus.publish(Event("/", number))
        items = reader.take_ready()
        assert items[0] == Gap(15)
        assert [isinstance(item, Event) and item.data for item in items[1:]] == [*range(15, 25)]
        assert bus.missed == 15
        # And one that wants to begin where nothing is kept any more.
        assert bus.subscribe(since=5).take_ready()[0] == Gap(None)
        newest = bus.newest("/")
        assert bus.subscribe(since=newest).take_ready() == []


# Wrong from the start.


@pytest.mark.parametrize("kind", KINDS)
async def test_a_broker_that_is_down_at_start_is_one_sentence(kind: str):
    """It names the broker, and comes in bounded time."""
    base = {kind: f"{kind}://127.0.0.1:1" for kind in ("nats", "redis")}
    base |= {"kafka": "kafka://127.0.0.1:1", "emulator": "kafka://127.0.0.1:1?fetch_wait=5"}
    async with asyncio.timeout(20):
        said = (
            r"^can't reach \w+ at 127\.0\.0\.1:1: nobody listens there\. Is it running, and [^\n]*$"
        )
        with pytest.raises(UserError, match=said):
            await from_url(url_for(kind, base)).start_up()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGSTOP")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_broker_that_is_too_busy_at_first_is_asked_again(
    kind: str, brokers: dict[str, Broker], caplog: pytest.LogCaptureFixture
):
    """A server that is started beside it, where much goes on, need not be started twice."""
    caplog.set_level("INFO", "wslessons.scaling.bus.transport")
    family = {"jetstream": "nats", "streams": "redis"}.get(kind, kind)
    pids = brokers[family].pids
    bus = from_url(url_for(kind, {family: brokers[family].url}))
    async with asyncio.timeout(40), asyncio.TaskGroup() as tasks:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            starting = tasks.create_task(bus.start_up())
            await until(lambda: "yet: it does not answer in time" in caplog.text)
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        await starting
        assert bus.status == Status("connected")
        await bus.stop()


@pytest.mark.parametrize("kind", ["nats", "jetstream", "redis", "streams"])
async def test_wrong_credentials_are_one_sentence(kind: str):
    """A wrong and a missing password are refused by name; the right one gets in."""
    family = "nats" if kind in ("nats", "jetstream") else "redis"
    async with asyncio.timeout(30), run_broker(family, own=True, password="s3cret") as guarded:
        base = guarded.url
        async with from_url(url_for(kind, {family: base})) as bus:
            assert bus.status == Status("connected")
        for wrong in (base.replace("s3cret", "wr0ng"), guarded.nodes[0].url):
            with pytest.raises(UserError, match="does not accept the user name and password") as e:
                await from_url(url_for(kind, {family: wrong})).start_up()
            assert "wr0ng" not in str(e.value)


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [
        ("nats://h", "nats", "nats"),
        ("nats://h?stream=x", "nats", "nats"),
        ("redis://h", "redis", "redis"),
        ("redis://h?stream=x", "redis", "redis"),
        ("kafka://h", "aiokafka", "kafka"),
    ],
)
async def test_a_missing_extra_is_one_line_that_names_it(url: str, module: str, extra: str):
    """The bus is the first to need the client, and says how to get it."""
    code = f"""
import sys
sys.modules[{module!r}] = None
from wslessons.scaling.bus import from_url
from wslessons.errors import UserError
try:
    from_url({url!r})
except UserError as exc:
    print(exc)
"""
    async with asyncio.timeout(20):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
    assert f"pip install 'wslessons[{extra}]'" in output.decode()


async def test_a_stream_without_jetstream_is_one_sentence(tmp_path: Any):
    """A NATS server that keeps no streams says so through the bus."""
    program = find_program("nats")
    async with asyncio.timeout(30):
        process = await asyncio.create_subprocess_exec(
            program, "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", str(tmp_path),
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            await until(lambda: any(file.read_text() for file in tmp_path.glob("*.ports")))
            (file,) = tmp_path.glob("*.ports")
            port = file.read_text().split('"nats://127.0.0.1:')[1].split('"')[0]
            with pytest.raises(UserError, match="no JetStream that answers"):
                await from_url(f"nats://127.0.0.1:{port}?stream=chat").start_up()
        finally:
            process.kill()
            await process.wait()


# Failover: see also test_failover.py.


@contextlib.asynccontextmanager
async def linked(kind: str, base: Broker) -> AsyncGenerator[tuple[str, Link]]:
    """Give the URL of a bus through a link that can be broken."""
    host = base.nodes[0].url.partition("://")[2].partition("?")[0]
    async with Link(host) as link:
        scheme = base.nodes[0].url.partition("://")[0]
        query = base.url.partition("?")[2]
        yield f"{scheme}://127.0.0.1:{link.port}" + (f"?{query}" if query else ""), link


@pytest.mark.parametrize("kind", ["nats", "redis"])
async def test_what_pubsub_loses_is_counted_exactly(kind: str, brokers: dict[str, Broker]):
    """Events published to a server that is cut off for long: it hears of each one, no more."""
    name = f"t{next(NAMES)}"
    base = {each: one.url for each, one in brokers.items()}
    async with (
        asyncio.timeout(40),
        linked(kind, brokers[kind]) as (through, link),
        from_url(url_for(kind, base, name), beat=0.2) as one,
        from_url(url_for(kind, {kind: through}, name), beat=0.2) as two,
    ):
        reader = two.subscribe()
        one.publish(Event("/", "before"))
        assert await texts(reader, 1) == ["before"]
        assert isinstance(two, PubSub)
        await until(lambda: two._heard[one.node].begun)
        cut = link.cut()
        await status(two, "reconnecting")
        for number in range(3):
            one.publish(Event("/quiet", number))
        for number in range(50):
            one.publish(Event("/", number))
            two.publish(Event("/", number))
        await one.flush()
        await asyncio.sleep(6 * 0.2)
        cut.undo()
        # It is told by the next beat, with no event to show the hole.
        assert await texts(reader, 50) == [*range(50)]
        gaps = [await next_of(reader, Gap) for _ in range(2)]
        lost = {(gap.room, gap.count, gap.node) for gap in gaps}
        assert lost == {("/quiet", 3, one.node), ("/", 50, one.node)}
        assert two.missed == 53
        # The other side learns what it did not get, too.
        other = one.subscribe(since=0)
        gap = await next_of(other, Gap)
        assert (gap.count, gap.node) == (50, two.node)
        assert two.unsent == 50
        one.publish(Event("/", "after"))
        assert await texts(reader, 1) == ["after"]


@pytest.mark.parametrize("kind", ["jetstream", "streams"])
async def test_a_log_that_is_cut_off_delivers_nothing_and_loses_nothing(
    kind: str, brokers: dict[str, Broker]
):
    """What is said meanwhile waits, unacknowledged; then all have it, once, in one order."""
    family = {"jetstream": "nats", "streams": "redis"}[kind]
    name = f"t{next(NAMES)}"
    base = {each: one.url for each, one in brokers.items()}
    async with (
        asyncio.timeout(40),
        linked(kind, brokers[family]) as (through, link),
        from_url(url_for(kind, base, name)) as one,
        from_url(url_for(kind, {family: through}, name)) as two,
    ):
        far, near = one.subscribe(), two.subscribe()
        two.publish(Event("/", "before"))
        assert await texts(far, 1) == await texts(near, 1) == ["before"]
        with link.cut():
            await status(two, "reconnecting")
            for number in range(50):
                one.publish(Event("/", ["one", number]))
                two.publish(Event("/", ["two", number]))
            await texts(far, 50)
            assert two.backlog == 50
            assert not [item for item in near.take_ready() if isinstance(item, Event)]
        heard = [await next_event(near) for _ in range(100)]
        for name in ("one", "two"):
            said = [event.data for event in heard if event.data[0] == name]
            assert said == [[name, number] for number in range(50)]
        there = [await next_event(far) for _ in range(50)]
        assert [(e.offset, e.data) for e in there] == [(e.offset, e.data) for e in heard[50:]]
        await two.flush()
        assert two.backlog == 0


@pytest.mark.parametrize("kind", KAFKAS)
async def test_a_log_loses_nothing_to_a_broker_that_hangs(kind: str, brokers: dict[str, Broker]):
    """Kafka stands still for a while; its brokers' addresses go past any link."""
    url = url_for(kind, {kind: brokers[kind].url})
    pid = brokers[kind].nodes[0].pid
    assert pid is not None
    async with asyncio.timeout(40), from_url(url) as one, from_url(url) as two:
        far, near = one.subscribe(), two.subscribe()
        os.kill(pid, signal.SIGSTOP)
        try:
            await status(two, "reconnecting")
            for number in range(50):
                two.publish(Event("/", number))
            assert two.backlog == 50
        finally:
            os.kill(pid, signal.SIGCONT)
        here = [await next_event(near) for _ in range(50)]
        there = [await next_event(far) for _ in range(50)]
        assert [(e.offset, e.data) for e in there] == [(e.offset, e.data) for e in here]
        assert [event.data for event in there] == [*range(50)]


@pytest.mark.parametrize("kind", ["jetstream", "streams"])
async def test_a_full_backlog_refuses_with_one_sentence(kind: str, brokers: dict[str, Broker]):
    """What was taken before is not lost, what is refused is heard by nobody, and it goes on."""
    family = {"jetstream": "nats", "streams": "redis"}[kind]
    name = f"t{next(NAMES)}"
    base = {each: one.url for each, one in brokers.items()}
    async with (
        asyncio.timeout(40),
        linked(kind, brokers[family]) as (through, link),
        from_url(url_for(kind, base, name)) as one,
        from_url(url_for(kind, {family: through}, name), backlog=20) as two,
    ):
        far = one.subscribe()
        with link.cut():
            await status(two, "reconnecting")
            for number in range(20):
                two.publish(Event("/", number))
            for _ in range(2):
                with pytest.raises(UserError, match=r"^too much waits for the broker .* later\.$"):
                    two.publish(Event("/", "refused"))
            two.publish(Event("/", "forced"), force=True)
        assert await texts(far, 21) == [*range(20), "forced"]
        await two.flush()
        two.publish(Event("/", "after"))
        assert await texts(far, 1) == ["after"]
        assert (one.missed, two.unsent) == (0, 0)


@pytest.mark.parametrize("kind", ["nats", "jetstream", "redis", "streams"])
async def test_a_stalled_link_is_noticed_in_bounded_time(kind: str, brokers: dict[str, Broker]):
    """No FIN, no RST, only silence: the bus says so within seconds, and comes back after it."""
    family = "nats" if kind in ("nats", "jetstream") else "redis"
    async with (
        asyncio.timeout(40),
        linked(kind, brokers[family]) as (through, link),
        from_url(url_for(kind, {family: through})) as bus,
    ):
        with link.stall():
            async with asyncio.timeout(8):
                await status(bus, "reconnecting")
        await status(bus, "connected")
        reader = bus.subscribe()
        bus.publish(Event("/", "again"))
        assert await texts(reader, 1) == ["again"]


@pytest.mark.parametrize("kind", ["nats", "redis"])
async def test_a_bus_that_stops_on_a_stalled_link_leaves_nothing_behind(
    kind: str, brokers: dict[str, Broker]
):
    """With more to send than any socket takes: no task of the client's, and no open connection."""
    async with (
        asyncio.timeout(40),
        linked(kind, brokers[kind]) as (through, link),
        from_url(url_for(kind, {kind: through}), backlog=300) as bus,
    ):
        with link.stall():
            for _ in range(200):
                bus.publish(Event("/", "x" * 100_000))
            await bus.stop()
            await asyncio.sleep(0)  # a transport's last callback
            connections = psutil.Process().net_connections()
            assert not [each for each in connections if each.raddr[1:] == (link.port,)]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGSTOP")
@pytest.mark.parametrize("kind", KAFKAS)
async def test_a_bus_that_stops_before_a_frozen_kafka_leaves_nothing_behind(
    kind: str, brokers: dict[str, Broker]
):
    """Its client would repeat what is under way for ever, and say it once the broker wakes."""
    url = url_for(kind, {kind: brokers[kind].url})
    pid = brokers[kind].nodes[0].pid
    assert pid is not None
    async with asyncio.timeout(40), from_url(url) as one:
        reader = one.subscribe()
        async with from_url(url) as two:
            two.publish(Event("/", "first"))
            assert await texts(reader, 1) == ["first"]
            # Else the next one may still wait behind it, and would never be under way.
            await two.flush()
            os.kill(pid, signal.SIGSTOP)
            try:
                two.publish(Event("/", "under way"))
                await two.stop()
            finally:
                os.kill(pid, signal.SIGCONT)
        await status(one, "connected")
        one.publish(Event("/", "last"))
        assert (await texts(reader, 2))[-1] == "last"


ELSEWHERE = """
import asyncio, sys
from wslessons.scaling.bus import Event, from_url

async def main():
    async with from_url(sys.argv[1]) as bus:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        for number in range(700):
            bus.publish(Event("/", number))
            await asyncio.sleep(0.004)
        await bus.flush()
        print("done", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["nats", "redis"])
async def test_what_has_arrived_while_the_loop_was_held_up_is_not_lost(
    kind: str, brokers: dict[str, Broker]
):
    """Seconds in which nothing is read cost no connection, and none of what was sent meanwhile."""
    url = url_for(kind, {each: one.url for each, one in brokers.items()})
    async with asyncio.timeout(50), from_url(url, keep=2000) as bus:
        reader = bus.subscribe()
        words = processes.guarded(sys.executable, "-c", ELSEWHERE, url)
        other = await asyncio.create_subprocess_exec(
            *words, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert other.stdin is not None
        assert other.stdout is not None
        try:
            assert await other.stdout.readline() == b"ready\n"
            assert isinstance(bus, PubSub)
            await until(lambda: bus._presence.peers)
            other.stdin.write(b"\n")
            await other.stdin.drain()
            time.sleep(5)  # noqa: ASYNC251 -- that is the point
            assert await other.stdout.readline() == b"done\n"
            assert await texts(reader, 700) == [*range(700)]
            assert bus.missed == 0
            assert bus.status.state == "connected"
        finally:
            other.kill()
            await other.communicate()


@pytest.mark.parametrize("kind", ["streams"])
async def test_a_broker_that_is_full_is_said_to_be_and_waited_for(kind: str):
    """No storm of connections, no history driven out; and it goes on when there is room."""
    async with asyncio.timeout(50), run_broker("redis", own=True) as own:
        url = f"{own.url}?stream=c"
        async with (
            from_url(url, keep=64) as bus,
            contextlib.aclosing(redis.asyncio.Redis.from_url(own.url)) as admin,
        ):
            for number in range(40):
                bus.publish(Event("/", number))
            reader = bus.subscribe()
            assert await texts(reader, 40) == [*range(40)]

            async def connections() -> int:
                return (await admin.info("stats"))["total_connections_received"]

            before = await connections()
            await admin.config_set("maxmemory", "1")
            bus.publish(Event("/", "late"))
            await until(lambda: bus.status.why)
            assert bus.status.state == "connected"
            assert "maxmemory" in bus.status.why
            await asyncio.sleep(2)
            assert (await connections()) - before < 3
            assert sum(isinstance(item, Event) for _, item in bus.items()) == 40
            await admin.config_set("maxmemory", "0")
            assert await texts(reader, 1) == ["late"]
            await until(lambda: not bus.status.why)


async def test_a_stream_that_is_full_is_said_to_be_and_waited_for():
    """What a NATS server refuses to store waits, and is stored once there is room."""
    async with asyncio.timeout(50), run_broker("nats", own=True) as own:
        client = await nats.connect(own.url)
        stream = client.jetstream()

        async def bound(size: int) -> None:
            config = (await stream.stream_info("c")).config
            config.discard, config.max_bytes = DiscardPolicy.NEW, size
            await stream.update_stream(config)

        try:
            async with from_url(f"{own.url}?stream=c", keep=64) as bus:
                reader = bus.subscribe()
                bus.publish(Event("/", "early"))
                assert await texts(reader, 1) == ["early"]
                await bound((await stream.stream_info("c")).state.bytes)
                bus.publish(Event("/", "late"))
                await until(lambda: bus.status.why)
                assert bus.status == Status("connected", "maximum bytes exceeded")
                await bound(2**20)
                assert await texts(reader, 1) == ["late"]
                await until(lambda: not bus.status.why)
                assert bus.missed == 0
        finally:
            await client.close()
        with pytest.raises(UserError, match=r"no room for the stream d \(.*\): make some"):
            async with from_url(f"{own.url}?stream=d&max_bytes={10**15}"):
                pass


class Flapping(Transport):
    """A connection that ends as soon as it is there."""

    connections = 0

    async def publish(self, data: bytes) -> None:
        """Nobody listens."""

    async def flush(self) -> None:
        """Nothing is under way."""

    async def _connect(self) -> None:
        self.connections += 1

    async def _serve(self) -> None:
        raise Unreachable("so soon")

    async def _disconnect(self) -> None:
        pass


async def test_a_connection_that_does_not_last_is_not_made_without_end():
    """The waits grow, though each attempt succeeds."""
    transport = Flapping("somebody")
    async with asyncio.timeout(30), PubSub(transport):
        await asyncio.sleep(2)
        assert transport.connections < 40


async def test_a_server_that_was_cut_off_is_down_and_then_up_again(brokers: dict[str, Broker]):
    """Its members count as gone meanwhile, on the others; it declares nobody dead itself."""
    name = f"t{next(NAMES)}"
    base = {each: one.url for each, one in brokers.items()}
    async with (
        asyncio.timeout(40),
        linked("nats", brokers["nats"]) as (through, link),
        from_url(url_for("nats", base, name), beat=0.2) as one,
        from_url(url_for("nats", {"nats": through}, name), beat=0.2) as two,
    ):
        one.enter("/", "a", "alice")
        two.enter("/", "b", "bob")
        await until(lambda: one.members("/")[1] + two.members("/")[1] == 2)
        reader, deaf = one.subscribe(), two.subscribe()
        with link.cut():
            down = await next_of(reader, NodeDown)
            assert down.rooms == {"/": {"b": "bob"}}
            assert one.members("/") == ({}, 0)
            assert two.members("/") == ({"a": "alice"}, 1)
        up = await next_of(reader, NodeUp)
        assert up.rooms == {"/": {"b": "bob"}}
        assert not [item for item in deaf.take_ready() if isinstance(item, NodeDown)]


async def lose_the_log(broker: Broker) -> None:
    """Kill a broker's only node, and start it again without what it had kept."""
    node = broker.nodes[0]
    await node.kill()
    home = node._server.home
    kept = "jetstream/*/*/streams/*", "appendonlydir", "data"
    for data in [path for each in kept for path in home.glob(each)]:
        data.rename(data.with_name(f"lost-{data.name}"))
    await node.restart()


# The emulator comes back on other ports: no bus would find it.
@pytest.mark.timeout(150)
@pytest.mark.parametrize("kind", ["jetstream", "streams", *(["kafka"] if kafka.find() else [])])
async def test_a_log_that_was_lost_begins_a_new_epoch(kind: str):
    """Numbers of the old log mean nothing any more: readers are told so, and not given them."""
    family = {"jetstream": "nats", "streams": "redis", "kafka": "kafka"}[kind]
    async with asyncio.timeout(120), run_broker(family, own=True) as own:
        url = url_for(kind, {family: own.url})
        async with from_url(url, keep=4) as bus:
            reader = bus.subscribe()
            for number in range(5):
                bus.publish(Event("/", number))
                old = await next_event(reader)
            await lose_the_log(own)
            new = await next_of(reader, NewEpoch)
            assert new.epoch == bus.epoch != old.epoch
            bus.publish(Event("/", "new"))
            event = await next_event(reader)
            assert (event.data, event.epoch) == ("new", new.epoch)
            # Its number may be one that the old log had given to another event.
            assert [item for _, item in bus.items() if isinstance(item, Event)] == [event]
            again = bus.subscribe(since=0)
            assert [item for item in again.take_ready() if isinstance(item, Event | Gap)] == [event]
            # What is forgotten of the old log is no gap in the new one.
            bus.publish(Event("/", "newer"))
            assert (await next_event(reader)).data == "newer"
            after = bus.subscribe(since=event.offset).take_ready()
            assert [item.data if isinstance(item, Event) else item for item in after] == ["newer"]


@pytest.mark.parametrize("kind", ["jetstream", "streams"])
async def test_what_was_heard_from_a_lost_log_is_not_heard_again(kind: str):
    """A server whose answer was lost repeats it for the next log, where others need it."""
    family = {"jetstream": "nats", "streams": "redis"}[kind]
    async with asyncio.timeout(55), run_broker(family, own=True) as own:
        url = url_for(kind, {family: own.url}, "log")
        async with (
            linked(kind, own) as (through, link),
            from_url(url) as one,
            from_url(url_for(kind, {family: through}, "log")) as two,
        ):
            reader = one.subscribe()
            two.publish(Event("/", "first"))
            assert await texts(reader, 1) == ["first"]
            await two.flush()
            with link.stall("down"):
                two.publish(Event("/", "line", key="k"))
                old = await next_event(reader)
                assert (old.data, two.backlog) == ("line", 1)
                await lose_the_log(own)
                await next_of(reader, NewEpoch)
                # With the answer that waits in the link.
                link.cut().undo()
            gap = await next_of(reader, Gap)
            assert (gap.count, gap.room, gap.key) == (None, "/", "k")
            await two.flush()
            # As its sender does, who has no answer yet: here, or on another server.
            assert one.publish(Event("/", "line", key="k")) == gap.offset
            two.publish(Event("/", "next"))
            after = await next_event(reader)
            assert (after.data, after.prev) == ("next", gap.offset)
            # Whoever has heard nothing of the old log gets it.
            async with from_url(url) as three:
                await three.reached("/", after.offset)
                kept = [item.data for _, item in three.items() if isinstance(item, Event)]
                assert kept == ["line", "next"]
