"""The chat on several servers that share their rooms, over real brokers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any

import pytest
import pytest_asyncio
import redis.asyncio
import waits
from test_bus import NAMES, linked, status, url_for
from waits import until
from websockets import ConnectionClosed, Server, connect
from websockets.asyncio.client import ClientConnection

from wslessons import serving
from wslessons.chat import ChatServer
from wslessons.chat.events import SUBPROTOCOL, Message, Missed, Roster, Welcome
from wslessons.client import ChatClient
from wslessons.link import Link
from wslessons.scaling.brokers import Broker
from wslessons.scaling.brokers import run as run_broker
from wslessons.scaling.bus import Bus, Event, Memory, from_url
from wslessons.scaling.bus.log import Log

pytestmark = pytest.mark.asyncio(loop_scope="module")

LOGS = ["jetstream", "streams", "kafka"]
KINDS = ["nats", "redis", *LOGS]
FAMILY = {"nats": "nats", "jetstream": "nats", "redis": "redis", "streams": "redis"}


# On the loop that all tests here share.
no_task_left_behind = pytest_asyncio.fixture(loop_scope="module", autouse=True)(
    waits.no_task_left_behind
)


@pytest.fixture
def url(brokers: dict[str, Broker], request: pytest.FixtureRequest) -> str:
    """The URL of a bus of the kind that the test asks for."""
    return url_for(request.param, {kind: each.url for kind, each in brokers.items()})


every = pytest.mark.parametrize("url", KINDS, indirect=True)
every_log = pytest.mark.parametrize("url", LOGS, indirect=True)


class Running:
    """A chat server on a bus."""

    def __init__(self, chat: ChatServer, bus: Bus, server: Server) -> None:
        self.chat, self.bus = chat, bus
        self.url = serving.urls(server)[0]

    @contextlib.asynccontextmanager
    async def text(self, name: str) -> AsyncGenerator[ClientConnection]:
        """Connect in plain text and read up to one's own join."""
        async with connect(self.url, proxy=None, close_timeout=2) as client:
            await client.send(name)
            while await client.recv() != f"[system] >>> {name} joined the chat":
                pass
            yield client

    @contextlib.asynccontextmanager
    async def json(self, name: str, **hello: Any) -> AsyncGenerator[Raw]:
        """Connect in JSON; the welcome has been read."""
        async with connect(
            self.url, subprotocols=[SUBPROTOCOL], proxy=None, close_timeout=2
        ) as client:
            raw = Raw(client)
            await raw.say(type="hello", name=name, **hello)
            raw.welcome = await raw.heard()
            yield raw


class Raw:
    """A JSON client that takes what comes as it comes."""

    def __init__(self, client: ClientConnection) -> None:
        self.client = client
        self.welcome: dict[str, Any] = {}

    async def say(self, **event: Any) -> None:
        """Send an event."""
        await self.client.send(json.dumps(event))

    async def heard(self, *kinds: str) -> dict[str, Any]:
        """Receive the next event of these types (or any)."""
        while True:
            event = json.loads(await self.client.recv())
            if not kinds or event["type"] in kinds:
                return event

    async def line(self) -> dict[str, Any]:
        """Receive the next message."""
        return await self.heard("message")


@contextlib.asynccontextmanager
async def serving_on(url: str, **options: Any) -> AsyncGenerator[Running]:
    """Serve the chat on a bus."""
    async with from_url(url, **options) as bus:
        chat = ChatServer(bus=bus)
        async with chat.serve() as server:
            yield Running(chat, bus, server)


@every
async def test_people_on_two_servers_share_a_room(url: str):
    """Lines, joins and leaves cross over, in both protocols; nobody hears himself."""
    async with (
        asyncio.timeout(20),
        serving_on(url) as one,
        serving_on(url) as two,
        one.text("alice") as alice,
        two.json("bob") as bob,
    ):
        assert await alice.recv() == "[system] >>> bob joined the chat"
        await bob.heard("joined")
        await alice.send("hello")
        line = await bob.line()
        assert (line["sender"], line["text"]) == ("alice", "hello")
        await bob.say(type="say", text="hi", id="1")
        ack = await bob.heard("ack", "message")
        assert (ack["type"], ack["id"]) == ("ack", "1")
        assert ack["offset"] > line["offset"] > 0
        assert await alice.recv() == "[bob] hi"
        async with one.text("carol"):
            assert (await bob.heard("joined"))["name"] == "carol"
        assert (await bob.heard("left"))["name"] == "carol"
        await alice.send("last")
        assert (await bob.heard())["text"] == "last"


@every
async def test_the_roster_has_the_people_of_all_servers(url: str):
    """`/who` and `who` name people wherever they are connected."""
    async with (
        asyncio.timeout(20),
        serving_on(url, beat=0.2) as one,
        serving_on(url, beat=0.2) as two,
        one.text("alice") as alice,
        two.json("bob") as bob,
    ):
        await until(lambda: one.bus.members("/")[1] + two.bus.members("/")[1] == 2)
        await bob.say(type="who")
        roster = await bob.heard("roster")
        assert (roster["people"], roster["count"]) == (["bob", "alice"], 2)
        await alice.send("/who")
        while str(text := await alice.recv()).startswith("[system] >>>"):
            pass
        assert text == "[system] here now: alice, bob"


@every_log
async def test_a_client_resumes_on_another_server(url: str):
    """It says number and epoch of the one it left, and gets exactly what it missed."""
    async with asyncio.timeout(20), serving_on(url) as one, serving_on(url) as two:
        async with one.json("alice") as alice:
            await alice.say(type="say", text="before", id="1")
            seen = await alice.heard("ack")
        async with one.json("bob") as bob:
            for number in range(5):
                await bob.say(type="say", text=str(number), id=str(number))
                await bob.heard("ack")
        resume = {"since": seen["offset"], "epoch": alice.welcome["epoch"]}
        async with two.json("alice", **resume) as alice:
            assert alice.welcome["epoch"] == resume["epoch"]
            assert alice.welcome["offset"] == seen["offset"]
            events = [await alice.heard() for _ in range(9)]
            # Alice went while bob came, and he went from one server while she came to the other.
            assert sorted(event["type"] for event in events) == [
                *["joined"] * 2,
                *["left"] * 2,
                *["message"] * 5,
            ]
            said = [event["text"] for event in events if event["type"] == "message"]
            assert said == ["0", "1", "2", "3", "4"]
            offsets = [seen["offset"], *(event["offset"] for event in events)]
            assert [event["prev"] for event in events] == offsets[:-1]


@every_log
async def test_a_message_repeated_on_another_server_is_said_once(url: str):
    """The id a client used on the server that it left counts on the next one too."""
    async with (
        asyncio.timeout(20),
        serving_on(url) as one,
        serving_on(url) as two,
        two.json("bob") as bob,
    ):
        async with one.json("alice", session="s") as alice:
            await alice.say(type="say", text="once", id="1")
            first = await alice.heard("ack")
        assert (await bob.line())["text"] == "once"
        async with two.json("alice", session="s") as alice:
            await alice.say(type="say", text="once", id="1")
            assert (await alice.heard("ack"))["offset"] == first["offset"]
            await alice.say(type="say", text="twice", id="2")
        assert (await bob.line())["text"] == "twice"


@every_log
async def test_a_client_ahead_of_the_server_is_not_told_twice(url: str):
    """One that comes with a number this server has not read yet waits for it."""
    async with (
        asyncio.timeout(20),
        serving_on(url) as one,
        serving_on(url) as two,
        one.json("alice") as alice,
    ):
        for number in range(50):
            await alice.say(type="say", text=str(number), id=str(number))
        seen = [await alice.heard("ack") for _ in range(50)][-1]["offset"]
        async with two.json("bob", since=seen, epoch=alice.welcome["epoch"]) as bob:
            await alice.say(type="say", text="new", id="x")
            assert (await bob.line())["text"] == "new"


@pytest.mark.parametrize("kind", ["nats", "redis"])
async def test_who_comes_to_a_server_that_is_behind_is_not_told_twice(
    kind: str, brokers: dict[str, Broker]
):
    """It hears nothing more, and has not noticed: so it can't say that a number is unheard of."""
    query = f"?stream=t{next(NAMES)}"
    async with (
        asyncio.timeout(40),
        linked(kind, brokers[kind]) as (through, link),
        serving_on(brokers[kind].url + query) as far,
        serving_on(through + query) as near,
        far.json("alice") as alice,
        near.json("bob") as bob,
    ):
        await alice.say(type="say", text="both", id="1")
        assert (await bob.line())["text"] == "both"
        stalled = link.stall()
        await alice.say(type="say", text="one", id="2")
        seen = [await alice.heard("ack") for _ in range(2)][-1]["offset"]
        async with near.json("carol", since=seen, epoch=alice.welcome["epoch"]) as carol:
            assert carol.welcome["offset"] == seen
            stalled.undo()
            await alice.say(type="say", text="new", id="3")
            # As every client does, she passes over what she knows; and nothing is said to be gone.
            while (event := await carol.heard("missed", "message")).get("offset", 0) <= seen:
                assert event["type"] == "message"
            assert event["text"] == "new"


@every
async def test_an_unknown_number_or_epoch_is_told(url: str):
    """Nobody is deaf after resuming with a number that this log never had."""
    async with (
        asyncio.timeout(20),
        serving_on(url) as one,
        one.json("alice") as alice,
        one.json("bob", since=5, epoch="of another life") as bob,
        one.json("carol", since=10**12, epoch=alice.welcome["epoch"]) as carol,
    ):
        for late in (bob, carol):
            assert (await late.heard("missed"))["count"] is None
        await alice.say(type="say", text="hello", id="1")
        for late in (bob, carol):
            assert (await late.line())["text"] == "hello"


async def test_a_memory_bus_leaves_the_chat_as_it_is():
    """Rooms are the plain ones, and what is said is in the log at once."""
    async with asyncio.timeout(50), Memory() as bus, ChatServer(bus=bus).serve():
        chat = ChatServer(bus=bus)
        room = chat._open("/")
        room.enter("c", "alice")
        room.say("c", "now")
        assert [record.event.offset for record in room.log] == [1, 2]


@contextlib.asynccontextmanager
async def far_and_near(
    kind: str, brokers: dict[str, Broker], **options: Any
) -> AsyncGenerator[tuple[Running, Running, Link]]:
    """Serve on one bus twice, the second time through a link that can be broken."""
    name, family = f"t{next(NAMES)}", FAMILY[kind]
    base = {each: one.url for each, one in brokers.items()}
    async with (
        linked(family, brokers[family]) as (through, link),
        serving_on(url_for(kind, base, name), beat=0.5) as far,
        serving_on(url_for(kind, {family: through}, name), beat=0.5, **options) as near,
    ):
        yield far, near, link


async def joined(listener: Raw, name: str) -> None:
    """Wait until somebody's coming is heard."""
    while (await listener.heard("joined"))["name"] != name:
        pass


@pytest.mark.parametrize("kind", ["nats", "redis"])
async def test_local_chat_goes_on_without_the_broker(kind: str, brokers: dict[str, Broker]):
    """Publish and subscribe: who is cut off hear each other; the others are told the count."""
    async with (
        asyncio.timeout(40),
        far_and_near(kind, brokers) as (far, near, link),
        far.json("faraway") as away,
        near.json("alice") as alice,
        near.text("bob") as bob,
    ):
        await joined(away, "alice")
        await joined(away, "bob")
        with link.cut():
            await status(near.bus, "reconnecting")
            await alice.say(type="say", text="anybody?", id="1")
            # Only this may still be on its way from the other server.
            while (line := await bob.recv()) == "[system] >>> faraway joined the chat":
                pass
            assert line == "[alice] anybody?"
            assert (await alice.heard("ack"))["id"] == "1"
        assert (await away.heard("missed"))["count"] == 1
        await alice.say(type="say", text="again", id="2")
        assert await bob.recv() == "[alice] again"


@pytest.mark.parametrize("kind", ["jetstream", "streams"])
async def test_on_a_log_nobody_hears_what_has_no_number(kind: str, brokers: dict[str, Broker]):
    """Cut off, the sender has no acknowledgement and nobody hears a thing; then all do, once."""
    async with (
        asyncio.timeout(40),
        far_and_near(kind, brokers) as (far, near, link),
        far.json("faraway") as away,
        near.json("alice") as alice,
        near.text("bob") as bob,
        near.json("carol") as carol,
    ):
        for joiner in ("alice", "bob", "carol"):
            await joined(away, joiner)
        await joined(alice, "carol")
        with link.cut():
            await status(near.bus, "reconnecting")
            await alice.say(type="say", text="anybody?", id="1")
            await alice.say(type="ping", id="2")
            # The answer to what came later: the line itself waits.
            assert (await alice.heard("ack", "pong"))["type"] == "pong"
            assert near.bus.backlog == 1
        ack = await alice.heard("ack")
        for listener in (carol, away):
            line = await listener.line()
            assert (line["text"], line["offset"]) == ("anybody?", ack["offset"])
        await alice.say(type="say", text="again", id="3")
        heard = [str(await bob.recv())]
        while heard[-1] != "[alice] again":
            heard.append(str(await bob.recv()))
        lines = [line for line in heard if not line.startswith("[system] ")]
        assert lines == ["[alice] anybody?", "[alice] again"]


@pytest.mark.parametrize("kind", ["jetstream", "streams"])
async def test_what_the_backlog_has_no_room_for_is_refused(kind: str, brokers: dict[str, Broker]):
    """The sender is sent an error for each, who comes is sent away, and who leaves has left."""
    async with (
        asyncio.timeout(40),
        far_and_near(kind, brokers, backlog=10) as (far, near, link),
        far.json("faraway") as away,
        near.json("alice") as alice,
    ):
        await joined(away, "alice")
        async with near.json("bob") as bob:
            await joined(away, "bob")
            with link.cut():
                await status(near.bus, "reconnecting")
                for number in range(30):
                    await alice.say(type="say", text=str(number), id=str(number))
                errors = [await alice.heard("error") for _ in range(20)]
                assert [(e["code"], e["id"]) for e in errors] == [
                    ("refused", str(number)) for number in range(10, 30)
                ]
                assert errors[0]["text"].startswith("too much waits for the broker")
                async with near.json("carol") as carol:
                    with pytest.raises(ConnectionClosed) as closed:
                        await carol.heard("never")
                    assert closed.value.rcvd is not None
                    assert closed.value.rcvd.code == 1013
                await bob.client.close()
                await until(lambda: near.chat.people() == ["alice"])
                # What was refused may be said again, under the same id.
                await alice.say(type="say", text="29", id="29")
                assert (await alice.heard("error"))["id"] == "29"
        acks = [await alice.heard("ack") for _ in range(10)]
        assert [ack["id"] for ack in acks] == [*map(str, range(10))]
        await alice.say(type="say", text="29", id="29")
        assert (await alice.heard("ack"))["id"] == "29"
        heard = [await away.heard("message", "left", "missed")]
        while heard[-1].get("text") != "29":
            heard.append(await away.heard("message", "left", "missed"))
        # Who is far away may have taken both for gone while they were cut off.
        heard = [event for event in heard if event.get("name") != "alice"]
        assert [each["text"] for each in heard if each["type"] == "message"] == [
            *map(str, range(10)), "29",
        ]  # fmt: skip
        assert [each["name"] for each in heard if each["type"] != "message"] == ["bob"]


@pytest.mark.parametrize("kind", KINDS)
async def test_ghosts_are_told_to_have_left(kind: str, brokers: dict[str, Broker]):
    """When a server dies without a word, each of its people leaves once for everybody else."""
    url = url_for(kind, {each: one.url for each, one in brokers.items()})
    async with (
        asyncio.timeout(30),
        serving_on(url, beat=0.2) as one,
        serving_on(url, beat=0.2) as two,
        one.json("alice") as alice,
        two.json("bob") as bob,
    ):
        ghost = from_url(url, beat=0.2)
        await ghost.start_up()
        ghost.enter("/", "g", "casper")
        await until(lambda: one.bus.members("/")[1] + two.bus.members("/")[1] == 4)
        # All that a SIGKILL would end, and no farewell.
        ghost._presence.farewell = lambda seq: next(iter(ghost._presence.beats(seq)))  # ty: ignore
        await ghost.stop()
        for client in (alice, bob):
            assert (await client.heard("left"))["name"] == "casper"
        await alice.say(type="say", text="once", id="1")
        assert (await bob.heard("left", "message"))["type"] == "message"


@pytest.mark.parametrize("kind", ["nats", "jetstream", "redis", "streams"])
async def test_members_who_are_cut_off_leave_and_join_each_time(
    kind: str, brokers: dict[str, Broker]
):
    """However often it happens; with a log their own server says that they are here, when it
    finds them gone.
    """
    name = f"t{next(NAMES)}"
    base = {each: one.url for each, one in brokers.items()}
    async with (
        asyncio.timeout(60),
        linked(FAMILY[kind], brokers[FAMILY[kind]]) as (through, link),
        serving_on(url_for(kind, base, name), beat=0.2) as far,
        serving_on(url_for(kind, {FAMILY[kind]: through}, name), beat=0.2) as near,
        far.json("faraway") as away,
        near.json("alice"),
    ):
        await joined(away, "alice")
        for _ in range(3):
            await until(lambda: far.bus.members("/")[1] == 1)
            with link.cut():
                assert (await away.heard("left", "joined"))["type"] == "left"
            assert (await away.heard("left", "joined"))["type"] == "joined"


@contextlib.asynccontextmanager
async def chat_on_redis() -> AsyncGenerator[tuple[Running, Callable[[], Awaitable[None]]]]:
    """Serve on a stream of a Redis of its own; the second value is what empties that."""
    async with run_broker("redis", own=True) as own, serving_on(f"{own.url}?stream=chat") as one:

        async def empty() -> None:
            async with redis.asyncio.from_url(own.url) as client:
                await client.flushall()
            # Somebody says something somewhere, and the bus notices.
            one.bus.publish(Event("/elsewhere", "?"))

        yield one, empty


async def closed_with(client: Raw) -> int:
    """Read to the end of a connection, and return its close code."""
    with pytest.raises(ConnectionClosed) as closed:
        await client.heard("never")
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code


async def test_a_log_that_begins_anew_sends_people_away_to_come_back():
    """They are closed with 1012, told that nobody knows what they missed, and told what is new."""
    async with asyncio.timeout(40), chat_on_redis() as (one, empty), one.json("alice") as alice:
        for number in range(10):
            await alice.say(type="say", text=f"old {number}", id=f"old {number}")
            seen = await alice.heard("ack")
        await empty()
        assert await closed_with(alice) == 1012
        resume = {"since": seen["offset"], "epoch": alice.welcome["epoch"]}
        async with one.json("alice", **resume) as alice, one.json("bob") as bob:
            assert alice.welcome["epoch"] != resume["epoch"]
            assert (await alice.heard("missed", "message"))["count"] is None
            await bob.say(type="say", text="new", id="1")
            ack = await bob.heard("ack", "message")
            line = await alice.line()
            assert (line["text"], line["offset"]) == ("new", ack["offset"])
            # The number is one that the old log has given before.
            assert line["offset"] < seen["offset"]


@every_log
async def test_what_a_log_may_have_lost_is_said_again_and_answered(
    url: str, monkeypatch: pytest.MonkeyPatch
):
    """The broker had it and lost its end; nothing of it is under way any more."""
    async with (
        asyncio.timeout(40),
        serving_on(url) as one,
        one.json("alice") as alice,
        one.json("bob") as bob,
    ):
        await joined(alice, "bob")
        with monkeypatch.context() as patch:
            # As if it were stored, and the broker killed before anybody has read it.
            patch.setattr(one.bus, "_send", lambda event, force: None)
            await alice.say(type="say", text="line", id="1")
            await alice.say(type="who")
            await alice.heard("roster")
        assert isinstance(one.bus, Log)
        one.bus.on_doubt(one.bus.newest("/") + 1)
        assert (await alice.heard("missed"))["count"] is None
        await alice.say(type="say", text="line", id="1")
        ack = await alice.heard("ack")
        line = await bob.heard("message", "missed")
        assert (line["type"], (await bob.heard("message"))["offset"]) == ("missed", ack["offset"])


def soon() -> Generator[float]:
    """Come back soon."""
    while True:
        yield 0.05


async def test_a_client_loses_nothing_of_the_new_log():
    """`ChatClient` comes back by itself, and hears all that is acknowledged from then on."""
    async with (
        asyncio.timeout(40),
        chat_on_redis() as (one, empty),
        ChatClient(one.url, "alice", reconnect_delays=soon) as alice,
        ChatClient(one.url, "bob", reconnect_delays=soon) as bob,
    ):
        for number in range(10):
            await alice.send(f"old {number}")
        epoch = bob.epoch
        await empty()
        for client in (alice, bob):
            async for event in client:
                if isinstance(event, Welcome) and event.epoch != epoch:
                    break
        for number in range(8):
            await alice.send(f"new {number}")
        heard: list[str] = []
        async for event in bob:
            if isinstance(event, Message):
                heard.append(event.text)
                if event.text == "new 7":
                    break
        assert heard == [f"new {number}" for number in range(8)]


async def test_who_comes_while_the_log_begins_anew_is_sent_away_to_come_back():
    """A newcomer who was let into the room of the dead log would be deaf for ever."""
    async with asyncio.timeout(40), chat_on_redis() as (one, empty):
        async with (
            one.json("alice") as alice,
            connect(one.url, subprotocols=[SUBPROTOCOL], proxy=None) as client,
        ):
            bob = Raw(client)
            # A number that nobody has yet: the room waits for it before it lets bob in.
            await bob.say(type="hello", name="bob", since=10**12, epoch=alice.welcome["epoch"])
            await until(lambda: one.chat.rooms["/"].visitors == 2)
            await empty()
            assert await closed_with(alice) == await closed_with(bob) == 1012
        async with one.json("alice"):
            assert one.chat.people() == ["alice"]


async def test_who_has_heard_the_new_log_is_not_told_the_dead_one():
    """A server that has not noticed yet lets nobody in who comes from another life of the log."""
    async with (
        asyncio.timeout(60),
        run_broker("redis", own=True) as own,
        linked("redis", own) as (through, link),
        serving_on(f"{own.url}?stream=chat") as far,
        serving_on(f"{through}?stream=chat") as near,
    ):
        async with far.json("alice") as alice, near.json("bob") as bob:
            await alice.say(type="say", text="old", id="1")
            assert (await bob.line())["text"] == "old"
            with link.stall():
                async with redis.asyncio.from_url(own.url) as client:
                    await client.flushall()
                far.bus.publish(Event("/elsewhere", "?"))
                assert await closed_with(alice) == 1012
                async with far.json("alice") as alice:
                    await alice.say(type="say", text="new", id="2")
                    seen = await alice.heard("ack")
                resume = {"since": seen["offset"], "epoch": alice.welcome["epoch"]}
                # It is no `welcome` that this one reads.
                with pytest.raises(ConnectionClosed) as closed:
                    async with near.json("alice", **resume):
                        pass
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code in (1012, 1013)
                # Once it is known that nothing comes back, nothing more is asked.
                await until(lambda: near.bus.status.state != "connected")
                waiting = near.bus.backlog
                for _ in range(3):
                    with pytest.raises(ConnectionClosed):
                        async with near.json("alice", **resume):
                            pass
                assert near.bus.backlog == waiting
            assert await closed_with(bob) == 1012
        async with near.json("alice", **resume) as alice:
            assert alice.welcome["epoch"] == resume["epoch"]
            assert alice.welcome["offset"] == resume["since"]


async def test_what_is_sure_is_sure_for_all_who_wait():
    """Five hundred who come back at once ask the log twice, and one who gives up harms nobody."""
    async with (
        asyncio.timeout(40),
        run_broker("redis", own=True) as own,
        linked("redis", own) as (through, link),
        from_url(f"{through}?stream=chat") as bus,
    ):
        asked = bus.subscribe()
        with link.stall():
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await bus.confirm()
            waiting = [asyncio.create_task(bus.confirm()) for _ in range(500)]
            await asyncio.sleep(0)
        await asyncio.gather(*waiting)
        assert sum(isinstance(item, Event) for item in asked.take_ready()) <= 3


async def test_an_idle_room_of_a_dead_log_harms_no_visitor(monkeypatch: pytest.MonkeyPatch):
    """It is forgotten once, and not again when too many rooms are idle."""
    monkeypatch.setattr("wslessons.chat.server.IDLE_ROOMS", 3)
    async with asyncio.timeout(40), chat_on_redis() as (one, empty):
        for name in ("first", "second"):
            async with connect(f"{one.url}/rooms/{name}", proxy=None) as client:
                await client.send("bob")
                await client.recv()
        await until(lambda: len(one.chat._idle) == 2)
        await empty()
        await until(lambda: not one.chat.rooms)
        for number in range(6):
            async with connect(f"{one.url}/rooms/{number}", proxy=None) as client:
                await client.send("bob")
                assert await client.recv() == "Welcome, bob!"
        await until(lambda: len(one.chat.rooms) == len(one.chat._idle) == 3)


@every_log
async def test_the_chat_client_gets_everything_once_on_shared_rooms(url: str):
    """`ChatClient` copes with numbers that have holes: nothing missed, nothing twice."""
    async with (
        asyncio.timeout(30),
        serving_on(url) as one,
        serving_on(url) as two,
        ChatClient(one.url, "alice") as alice,
        ChatClient(f"{one.url}/rooms/other", "noise") as noise,
        ChatClient(two.url, "bob") as bob,
    ):
        for number in range(30):
            await asyncio.gather(alice.send(f"a{number}"), noise.send("x"), bob.send("b"))
        await alice.send("end")
        heard: list[str] = []
        async for event in bob:
            assert not isinstance(event, Missed)
            if isinstance(event, Message) and event.sender == "alice":
                heard.append(event.text)
                if event.text == "end":
                    break
        assert heard == [*(f"a{number}" for number in range(30)), "end"]
        await bob.who()
        while not isinstance(roster := await anext(bob), Roster):
            pass
        assert roster.count == 2


@every_log
async def test_waiting_for_a_number_that_never_comes_leaves_nothing_behind(url: str):
    """A client may ask for any number; the wait for it is bounded, and then forgotten."""
    async with asyncio.timeout(20), from_url(url) as bus:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await bus.reached("/", 10**12)
        assert bus._awaited == []
        bus.publish(Event("/", "hello"))
        await bus.flush()
        await bus.reached("/", 1)


@every_log
async def test_a_message_that_only_the_bus_remembers_is_acknowledged(url: str):
    """Its room was forgotten meanwhile, and the event has fallen out of the local copy."""
    async with asyncio.timeout(30), serving_on(url, keep=5) as one:
        async with one.json("alice", session="s") as alice:
            await alice.say(type="say", text="once", id="1")
            ack = await alice.heard("ack")
        for number in range(9):
            one.bus.publish(Event("/elsewhere", number))
        await one.bus.flush()
        await until(lambda: not any(isinstance(i, Event) and i.key for _, i in one.bus.items()))
        await until(lambda: one.chat._idle)
        one.chat.forget("/")
        async with one.json("alice", session="s") as alice:
            await alice.say(type="say", text="once", id="1")
            assert (await alice.heard("ack"))["offset"] == ack["offset"]


@every
async def test_a_session_and_an_id_are_compared_as_a_pair(url: str):
    """What session `a/b` says as `c` is not what session `a` says as `b/c`."""
    async with (
        asyncio.timeout(20),
        serving_on(url) as one,
        one.json("bob") as bob,
        one.json("alice", session="a/b") as alice,
        one.json("carol", session="a") as carol,
    ):
        await alice.say(type="say", text="from alice", id="c")
        assert (await bob.line())["text"] == "from alice"
        await carol.say(type="say", text="from carol", id="b/c")
        assert (await carol.heard("ack"))["id"] == "b/c"
        assert (await bob.line())["text"] == "from carol"
