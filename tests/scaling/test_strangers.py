"""Whoever reaches the broker can publish: it harms nobody, and nothing that it says is believed
that could not have come from a server of ours.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import nats
import pytest
import redis.asyncio
from websockets import connect

from wslessons import serving
from wslessons.chat import ChatServer
from wslessons.scaling import brokers
from wslessons.scaling.bus import Bus, Event, from_url
from wslessons.scaling.bus.items import decode
from wslessons.scaling.bus.url import with_options

LARGE = 10**400


def event(data: Any, room: str = "/", **more: Any) -> dict[str, Any]:
    """Return an event of a server that nobody knows."""
    return {"type": "event", "node": "x", "room": room, "data": data, "seq": 1, "nth": 1, **more}


def beat(**more: Any) -> dict[str, Any]:
    """Return its sign of life."""
    return {"type": "beat", "node": "x", "rooms": {}, "number": 1, **more}


def members(**names: str) -> dict[str, Any]:
    """Return who is in a room there."""
    return {"/": {"members": names, "count": len(names)}}


def message(text: Any = "hi", sender: Any = "mallory", **more: Any) -> dict[str, Any]:
    """Return what somebody has said there."""
    return {"type": "message", "sender": sender, "text": text, "time": 1.0, **more}


NEVER = [
    [event(message(), nth=-1)],
    [event(message(), seq=LARGE)],
    [event(message(), room="/" + "x" * 300)],
    [event(message(), node="x" * 300)],
    [beat(number=2**60)],
    [beat(part=0)],
    [beat(parts=10**9)],
    [beat(rooms={str(number): {"members": {}, "count": 0} for number in range(2000)})],
    [beat(rooms={"/": {"members": {}, "count": -5}})],
    [{"type": "counts", "node": "x", "seq": 1, "since": 0, "rooms": {"/": -3}}],
    [{"type": "counts", "node": "x", "seq": 1, "since": 0, "rooms": {}, "to": "y", "age": "old"}],
    [{"type": "counts wanted", "node": "x", "of": "", "since": -1}],
    [{"type": "counts wanted", "node": "x", "of": "", "since": 0, "age": -1}],
    [{"type": "presence", "node": "x", "room": "/", "connection": "c" * 300, "name": "m"}],
    [{"type": "rm -rf"}],
    "no list",
]
"""What the bus does not take."""
IGNORED = [
    event(None),
    event("text"),
    event([[]]),
    event({"type": "ack", "id": "1", "offset": 1, "time": 1}),
    event(message(sender="system")),
    event(message(sender="system] >>> bob left the chat")),
    event(message(sender="")),
    event(message(sender="m" * 33)),
    event(message(text="")),
    event(message(text=5)),
    event(message(text="x" * 200_000)),
    event(message(id="i" * 65)),
    event(message(time=-1)),
    event(message(time=1e300)),
    event({"type": "left", "name": "bob\n[system] >>> all left"}),
    event({"type": "joined", "name": "[system]"}),
    event({"type": "joined", "name": "\u202e"}),
]
"""What the rooms do not take."""


def encoded(parts: Any) -> bytes:
    """Return what a stranger sends."""
    return json.dumps(parts).encode()


@pytest.mark.parametrize("parts", NEVER, ids=range(len(NEVER)))
def test_what_is_out_of_range_is_refused_whole(parts: Any):
    """Lengths, ranges and kinds are checked where a message is decoded."""
    with pytest.raises(msgspec.DecodeError):
        decode(encoded(parts))


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xfe", b"[", b"[" * 100_000, b'[{"type": "event", "room": "\\ud800"}]']
)
def test_what_is_no_json_is_refused(data: bytes):
    """However deep, and in whatever encoding."""
    with pytest.raises(ValueError):  # noqa: PT011 -- any text will do
        decode(data)


Send = Callable[[bytes], Awaitable[Any]]


async def annoy(send: Send) -> None:
    """Send all of the above."""
    for parts in NEVER:
        await send(encoded(parts))
    for data in (b"", b"\xff\xfe", b"[" * 100_000, b"null"):
        await send(data)
    for number, each in enumerate(IGNORED, 1):
        await send(encoded([each | {"seq": number, "nth": number, "node": f"x{number}"}]))
    await send(encoded([beat(rooms=members(a="eve\n[system] >>> bob left the chat", b="mallory"))]))


async def is_unharmed(bus: Bus, url: str, send: Send) -> None:
    """Let two people talk while a stranger publishes, and check what they hear."""
    async with (
        ChatServer(bus=bus).serve() as server,
        connect(serving.urls(server)[0], proxy=None) as alice,
        from_url(url) as far,
        ChatServer(bus=far).serve() as far_server,
        connect(serving.urls(far_server)[0], proxy=None) as bob,
    ):
        await alice.send("alice")
        await bob.send("bob")
        await bob.send("before")
        lines: list[str] = []
        while "[bob] before" not in lines:
            lines.append(str(await alice.recv()))
        await annoy(send)
        await send(encoded([event(message("let  me\nin"), node="y")]))
        await bob.send("after")
        while not {"[bob] after", "[mallory] let  me in"} <= set(lines):
            lines.append(str(await alice.recv()))
        assert bus.status.state == "connected"
        said = [line for line in lines if not line.startswith("[system] you missed")]
        assert [line for line in said if "system] >>>" in line] == [
            f"[system] >>> {name} joined the chat" for name in ("alice", "bob")
        ]
        assert {line.partition("]")[0] for line in said} <= {
            "[alice", "[bob", "[mallory", "[system", "Welcome, alice!",
        }  # fmt: skip
        await alice.send("/who")
        while not (answer := str(await alice.recv())).startswith("[system] here now"):
            pass
        assert answer.endswith(("alice, bob, mallory and 1 more", "alice, mallory, bob and 1 more"))


@pytest.mark.parametrize("kind", ["nats", "redis"])
async def test_a_stranger_on_the_bus_harms_nobody(kind: str):
    """Whatever is published, people hear each other and no forged notice."""
    async with (
        asyncio.timeout(50),
        brokers.run(kind, own=True) as own,
        from_url(own.url) as bus,
    ):
        if kind == "nats":
            client = await nats.connect(own.url)
            await is_unharmed(bus, own.url, lambda data: client.publish("wslessons", data))
            await client.close()
        else:
            async with redis.asyncio.Redis.from_url(own.url) as client:
                await is_unharmed(bus, own.url, lambda data: client.publish("wslessons", data))


async def test_a_stranger_in_a_stream_of_redis_harms_nobody():
    """Entries of somebody else, with ids and fields of all kinds, are skipped; the log goes on."""
    async with (
        asyncio.timeout(50),
        brokers.run("redis", own=True) as own,
        redis.asyncio.Redis.from_url(own.url) as client,
    ):
        url = with_options(own.url, "stream=chat")
        async with from_url(url, node="one") as one, from_url(url) as two:
            reader = two.subscribe()
            one.publish(Event("/", "first"))
            await one.flush()
            entries: tuple[Any, ...] = (
                {"foo": "bar"},
                {"n": "many", "i": b"\xff", "e": one.epoch, "d": b"\xff"},
                {"n": str(10**30), "i": "x", "e": one.epoch, "d": "[]"},
                {"n": "1", "i": "x", "e": "another", "d": encoded([event("no")])},
                {"n": "1", "i": "x", "e": one.epoch, "d": b"[" * 100_000},
            )
            for fields in entries:
                await client.xadd("{chat}", fields)
            one.publish(Event("/", "second"))
            heard: list[Event] = []
            async for item in reader:
                if isinstance(item, Event):
                    heard.append(item)
                if len(heard) == 2:
                    break
            assert [each.data for each in heard] == ["first", "second"]
            assert heard[0].offset < heard[1].offset
            assert two.status.state == "connected"
            # And whoever comes later reads past it, too.
            async with from_url(url) as three:
                kept = [item.data for _, item in three.items() if isinstance(item, Event)]
                assert kept == ["first", "second"]
