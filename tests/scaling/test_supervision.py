"""What runs in a bus's background may fail, a broker may refuse, and a log may come back older."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest
import redis.asyncio
from nats.aio.msg import Msg
from nats.js import api
from test_bus import next_event, next_of, status, texts, url_for
from test_rooms import serving_on
from waits import until

from wslessons.errors import UserError
from wslessons.scaling.brokers import Broker
from wslessons.scaling.brokers import run as run_broker
from wslessons.scaling.bus import (
    Bus,
    Event,
    Gap,
    Item,
    Log,
    NewEpoch,
    PubSub,
    Status,
    Unsent,
    from_url,
)
from wslessons.scaling.bus.kafka import Topic
from wslessons.scaling.bus.nats import EPOCH, JetStream
from wslessons.scaling.bus.remote import Remote
from wslessons.scaling.bus.transport import Unreachable, in_time, keep_running
from wslessons.scaling.bus.url import Address

FAMILY = {"nats": "nats", "jetstream": "nats", "redis": "redis", "streams": "redis"}
FAMILY["kafka"] = "kafka"
LOGS = ["jetstream", "streams", "kafka"]


@pytest.fixture
async def broker(kafka_broker: Broker, kind: str) -> AsyncIterator[Broker]:
    """A broker for the kind of bus that the test asks for."""
    if kind == "kafka":
        yield kafka_broker
        return
    async with run_broker(FAMILY[kind], own=True) as own:
        yield own


def _fail_once(call: Any, error: BaseException) -> Any:
    """Return a stand-in for a method that fails with `error` the first time."""
    errors = [error]

    async def failing(*args: Any) -> Any:
        if errors:
            raise errors.pop()
        return await call(*args)

    return failing


async def test_what_ends_in_the_background_begins_again_and_is_told():
    """Whether it returns, fails or is cancelled by what it called: each time its owner knows."""
    told: list[str] = []
    ends = iter(
        [None, RuntimeError("no such buffer"), asyncio.CancelledError(), Unreachable("gone")]
    )
    running = asyncio.Event()

    async def work() -> None:
        match next(ends, running):
            case None:
                return
            case BaseException() as exc:
                raise exc
        running.set()
        await asyncio.Event().wait()

    async with asyncio.timeout(50):
        task = asyncio.create_task(keep_running("sending", work, told.append))
        await running.wait()
        task.cancel()
        await asyncio.wait([task])
    assert told == [
        "sending failed: it ended",
        "sending failed: RuntimeError: no such buffer",
        "sending failed: it does not answer in time",
        "sending failed: gone",
    ]


async def test_a_call_that_a_client_cancels_does_not_cancel_its_caller():
    """It is an error like any other: the caller's task goes on."""

    async def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(ConnectionError):
        await in_time(cancelled())


@pytest.mark.parametrize("error", [RuntimeError("no such buffer"), asyncio.CancelledError()])
@pytest.mark.parametrize("kind", FAMILY)
async def test_a_bus_whose_sending_failed_says_so_and_sends_again(
    kind: str, error: BaseException, broker: Broker, caplog: pytest.LogCaptureFixture
):
    """With an error that nobody foresaw, the bus reconnects; a log loses nothing by it."""
    async with asyncio.timeout(40):
        url = url_for(kind, {FAMILY[kind]: broker.url})
        async with from_url(url) as bus, from_url(url) as other:
            assert isinstance(bus, Remote)
            reader, mine = other.subscribe(), bus.subscribe()
            name = "append" if isinstance(bus, Log) else "publish"
            failing = _fail_once(getattr(bus._transport, name), error)
            if isinstance(other, PubSub):
                # Until it knows how much there was before it, it can't know what is missing.
                await until(lambda: other._heard_of(bus.node).begun)
            setattr(bus._transport, name, failing)
            bus.publish(Event("/", "first"))
            if not isinstance(bus, Log):
                gap = await next_of(reader, Gap)
                assert (gap.count, gap.room) == (1, "/")
            else:
                assert await texts(reader, 1) == ["first"]
            await status(bus, "connected")
            bus.publish(Event("/", "second"))
            assert await texts(reader, 1) == ["second"]
            assert await texts(mine, 2) == ["first", "second"]
            assert bus.unsent == (0 if isinstance(bus, Log) else 1)
            assert not [task for task in bus._tasks if task.done()]
    assert "sending events failed" in caplog.text


@pytest.mark.parametrize("kind", ["redis", "streams"])
async def test_a_bus_whose_connections_are_killed_again_and_again_still_sends(kind: str):
    """Under load, twenty times: afterwards it says connected, and what it sends arrives."""
    async with asyncio.timeout(50), run_broker("redis", own=True) as broker:
        url = url_for(kind, {"redis": broker.url}, "c")
        async with from_url(url) as bus, from_url(url) as other:
            stop = asyncio.Event()

            async def publish() -> None:
                while not stop.is_set():
                    with contextlib.suppress(UserError):  # a full backlog
                        for _ in range(20):
                            bus.publish(Event("/", 0))
                    await asyncio.sleep(0.001)

            async with asyncio.TaskGroup() as tasks, redis.asyncio.from_url(broker.url) as client:
                tasks.create_task(publish())
                for _ in range(20):
                    await client.execute_command(
                        "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"
                    )
                    await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
                    await asyncio.sleep(0.05)
                stop.set()
            await status(bus, "connected")
            await status(other, "connected")
            await bus.flush()
            heard: list[Any] = []
            other.listen(lambda item: heard.append(getattr(item, "data", None)))
            bus.publish(Event("/", "hello"))
            await until(lambda: "hello" in heard)


async def _stream(url: str, **limits: Any) -> None:
    """Make the stream before a bus does."""
    client = await nats.connect(url)
    await client.jetstream().add_stream(api.StreamConfig(name="c", subjects=["c"], **limits))
    await client.close()


async def test_what_a_log_will_never_take_is_given_up_alone():
    """Its server's readers are told; what stood beside it in one entry arrives, in order."""
    async with asyncio.timeout(30), run_broker("nats", own=True) as broker:
        await _stream(broker.url, max_msg_size=1000)
        async with from_url(f"{broker.url}?stream=c") as bus:
            reader = bus.subscribe()
            for number in range(60):
                bus.publish(Event("/", "x" * 2000 if number == 41 else number))
            unsent = await next_of(reader, Unsent)
            assert (unsent.event.seq, unsent.why) == (42, "message size exceeds maximum allowed")
            await bus.flush()
            bus.publish(Event("/", "last"))
            async with from_url(f"{broker.url}?stream=c") as later:
                since = later.subscribe(since=0)
                assert await texts(since, 60) == [n for n in range(60) if n != 41] + ["last"]
            assert (bus.backlog, bus.unsent, bus.status.state) == (0, 1, "connected")


async def test_who_says_what_the_log_will_never_take_is_answered():
    """An error with the message's id, and the connection goes on."""
    async with asyncio.timeout(30), run_broker("nats", own=True) as broker:
        await _stream(broker.url, max_msg_size=1000)
        async with serving_on(f"{broker.url}?stream=c") as server, server.json("alice") as alice:
            await alice.say(type="say", text="x" * 2000, id="long")
            error = await alice.heard("error", "ack")
            assert (error["type"], error["code"], error["id"]) == ("error", "refused", "long")
            assert "message size exceeds maximum allowed" in error["text"]
            await alice.say(type="say", text="short", id="long")
            assert (await alice.heard("error", "ack"))["type"] == "ack"


@pytest.mark.parametrize("kind", LOGS)
async def test_there_is_room_for_more_as_soon_as_an_event_is_delivered(kind: str, broker: Broker):
    """Whoever has its number may say more, though the broker's answer to it is still on its way."""
    async with asyncio.timeout(30):
        url = url_for(kind, {FAMILY[kind]: broker.url})
        async with from_url(url, backlog=1) as bus:
            assert isinstance(bus, Log)
            append, answered = bus._log.append, asyncio.Event()

            async def slow(*args: Any) -> None:
                await append(*args)
                await answered.wait()

            bus._log.append = slow  # ty: ignore[invalid-assignment]
            reader = bus.subscribe()
            for number in range(3):
                bus.publish(Event("/", number))
                answered.clear() if number == 0 else answered.set()
                assert (await next_event(reader)).data == number


async def test_a_topic_that_lost_its_end_and_grew_past_it_begins_a_new_epoch(kafka_broker: Broker):
    """There are as many records as before, and the one that was read last is another: as where a
    leader is elected that lacked some, and others have written since.
    """
    url = url_for("kafka", {"kafka": kafka_broker.url})
    async with asyncio.timeout(50), from_url(url, beat=0.5) as bus, from_url(url) as other:
        assert isinstance(bus, Log)
        topic = bus._log
        assert isinstance(topic, Topic)
        items: list[Item] = []
        bus.listen(items.append)
        reader = bus.subscribe()
        bus.publish(Event("/", "one"))
        await texts(reader, 1)
        topic.drop("nothing is wrong")
        await until(lambda: Status("reconnecting", "nothing is wrong") in items)
        await status(bus, "connected")
        bus.publish(Event("/", "two"))
        await texts(reader, 1)
        assert not any(isinstance(item, NewEpoch) for item in items)
        topic._record = b"what is lost now"
        topic.drop("a leader without it is elected")
        await until(lambda: any(isinstance(item, NewEpoch) for item in items))
        await status(bus, "connected")
        bus.publish(Event("/", "three"))
        # What is left of the old life is not told once more.
        assert await texts(bus.subscribe(since=0), 1) == ["three"]
        # One that has lost nothing hears of it, and so does one that comes later.
        await until(lambda: other.epoch == bus.epoch)
        async with from_url(url) as later:
            assert later.epoch == bus.epoch


async def test_an_old_copy_of_a_stream_on_one_server_is_not_read():
    """A node that was away while the stream was deleted and made anew delivers the old entries:
    the leader is asked, and another consumer is tried.
    """
    delivered: list[int] = []

    class OnAnOldCopy(JetStream):
        async def _take_entry(self, msg: Msg) -> None:
            if msg.reply.startswith("$JS.ACK."):
                delivered.append(1)
                if len(delivered) == 1:
                    msg.data = msg.data.replace(b"real", b"dead")
                    msg.headers = {**(msg.headers or {}), EPOCH: "another stream's"}
            await super()._take_entry(msg)

    async with asyncio.timeout(50), run_broker("nats", own=True) as broker:
        url = f"{broker.url}?stream=c"
        async with from_url(url) as one:
            one.publish(Event("/", "real"))
            await one.flush()
            async with Log(OnAnOldCopy(Address(url))) as two:
                assert await texts(two.subscribe(since=0), 1) == ["real"]
                assert two.newest("/") == one.newest("/")
            # What the leader has is the stream's, as after it was restored into a new one.
            client = await nats.connect(broker.url)
            entry = [{"type": "event", "room": "/", "data": "restored", "node": "n", "seq": 1}]
            headers = {EPOCH: "another stream's"}
            await client.jetstream().publish("c", json.dumps(entry).encode(), headers=headers)
            await client.close()
            assert await texts(one.subscribe(since=0), 2) == ["real", "restored"]
            await status(one, "connected")


@pytest.mark.parametrize("witness", [True, False])
@pytest.mark.parametrize("kind", ["jetstream", "streams"])
async def test_a_log_that_comes_back_older_gives_no_number_twice(kind: str, witness: bool):
    """A copy of its folder is put back, whether anybody is left who has read what it lacks or not:
    no number means two events, and who goes on is told in its place that some may be missing.
    """
    async with asyncio.timeout(60), run_broker(FAMILY[kind], own=True) as broker:
        node = broker.nodes[0]
        data = node.home / {"jetstream": "jetstream", "streams": "appendonlydir"}[kind]
        url = url_for(kind, {FAMILY[kind]: broker.url}, "c")
        items: list[Item] = []

        async def say(bus: Bus, word: str) -> None:
            reader = bus.subscribe()
            for number in range(3):
                bus.publish(Event("/", f"{word} {number}"))
                await next_event(reader)

        def heard() -> list[Any]:
            return [item.data for item in items if isinstance(item, Event)]

        async with from_url(url) as one, from_url(url) as two:
            one.listen(items.append)
            await say(two, "kept")
            await node.kill()
            shutil.copytree(data, node.home / "copy")
            await node.restart()
            await say(two, "lost")
            await until(lambda: "lost 2" in heard())
            if not witness:
                await one.stop()
                await two.stop()
            await node.kill()
            shutil.rmtree(data)
            shutil.move(node.home / "copy", data)
            await node.restart()
            async with from_url(url) as later:
                await say(later, "new")
                if witness:
                    await until(lambda: "new 2" in heard())
                assert {one.epoch, two.epoch, later.epoch} == {one.epoch}
                theirs = later.subscribe(since=0).take_ready()
        numbers: dict[int, set[Any]] = {}
        for item in [*items, *theirs]:
            if isinstance(item, Event):
                numbers.setdefault(item.offset, set()).add(item.data)
        assert [len(each) for each in numbers.values()] == [1] * 9
        told = [getattr(item, "data", Gap) for item in theirs if isinstance(item, Event | Gap)]
        kept, new = ([f"{word} {number}" for number in range(3)] for word in ("kept", "new"))
        assert told == [*kept, Gap, *new]
        mine = [item for item in items if isinstance(item, Event | Gap)]
        assert [item.offset for item in mine] == sorted(item.offset for item in mine)
        gaps = [place for place, item in enumerate(mine) if isinstance(item, Gap)]
        assert gaps == ([3, 7] if witness else [3])


async def test_servers_of_a_jetstream_agree_on_a_new_epoch():
    """One has not read what was lost, and learns of the new epoch from an entry of the other."""
    async with asyncio.timeout(30), run_broker("nats", own=True) as broker:
        url = f"{broker.url}?stream=c"
        async with from_url(url) as one, from_url(url) as two:
            items: list[Item] = []
            two.listen(items.append)
            readers = [one.subscribe(), two.subscribe()]
            one.publish(Event("/", "old"))
            assert [await texts(reader, 1) for reader in readers] == [["old"], ["old"]]
            # It believes to have read another entry.
            one._log._entry = b"[]"  # ty: ignore[missing-attribute]
            one._log.drop("to look again")  # ty: ignore[missing-attribute]
            await status(one, "reconnecting")
            await status(one, "connected")
            one.publish(Event("/", "new"))
            await until(lambda: one.epoch == two.epoch)
            await until(lambda: "new" in [getattr(item, "data", None) for item in items])
            assert any(isinstance(item, NewEpoch) for item in items)
            new = [item for item in items if isinstance(item, Event) and item.data == "new"]
            assert [event.epoch for event in new] == [one.epoch]


@pytest.mark.parametrize("kind", LOGS)
async def test_history_costs_twice_what_is_kept_at_most(kind: str, broker: Broker):
    """A server that starts on a log of large entries does not read those that it would forget."""
    async with asyncio.timeout(40):
        url = url_for(kind, {FAMILY[kind]: broker.url})
        async with from_url(url) as old:
            for entry in range(40):
                for number in range(100):
                    old.publish(Event("/", [entry, number]))
                await old.flush()
        bus = from_url(url, keep=150)
        read: list[Item] = []
        bus.listen(read.append)
        async with bus:
            events = [item.data for item in read if isinstance(item, Event)]
            assert 150 <= len(events) <= 300
            assert events == [[e, n] for e in range(40) for n in range(100)][-len(events) :]
            first = next(item for _, item in bus.items() if isinstance(item, Event))
            ready = bus.subscribe(since=first.prev).take_ready()
            assert [item.data for item in ready if isinstance(item, Event)][-1] == [39, 99]
            assert not [item for item in ready if isinstance(item, Gap)]
