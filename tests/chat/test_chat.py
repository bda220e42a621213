"""The chat over real sockets: its two protocols, and every fault that it repairs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest
import websockets
from waits import closed, until
from websockets import ConnectionClosed, InvalidStatus, Server, connect
from websockets.asyncio.client import ClientConnection

from wslessons.chat import ChatServer, Gone, Room
from wslessons.chat import room as room_module
from wslessons.chat import server as chat_module
from wslessons.chat.codecs import clean_text
from wslessons.chat.events import SUBPROTOCOL
from wslessons.chat.fanout import CHUNK, Writer
from wslessons.chat.identity import Denied, Opening
from wslessons.chat.rules import TokenBucket
from wslessons.testing.raw import handshake

Start = Callable[..., Awaitable["Running"]]


class Running:
    """A chat that serves."""

    def __init__(self, chat: ChatServer, server: Server) -> None:
        self.chat = chat
        self.server = server
        port = server.sockets[0].getsockname()[1]
        self.address = ("127.0.0.1", port)
        self.uri = f"ws://127.0.0.1:{port}"

    def connect(self, path: str = "/", **options: Any) -> Any:
        """Connect a client; no name is said yet."""
        # No limit of its own: where hundreds connect at once, the test's is the one that counts.
        options = {"open_timeout": None, "close_timeout": 2, **options}
        return connect(self.uri + path, proxy=None, **options)

    @contextlib.asynccontextmanager
    async def join(
        self, name: str, path: str = "/", **options: Any
    ) -> AsyncGenerator[ClientConnection]:
        """Connect a plain-text client and read up to its own join."""
        async with self.connect(path, **options) as client:
            await client.send(name)
            assert await client.recv() == f"Welcome, {name}!"
            while await client.recv() != f"[system] >>> {name} joined the chat":
                pass
            yield client

    @contextlib.asynccontextmanager
    async def json(
        self, name: str, path: str = "/", **hello: Any
    ) -> AsyncGenerator[tuple[ClientConnection, dict[str, Any]]]:
        """Connect a JSON client; give it and the welcome, the first event it got."""
        async with self.connect(path, subprotocols=[SUBPROTOCOL]) as client:
            await say(client, type="hello", name=name, **hello)
            yield client, await heard(client)


async def say(client: ClientConnection, **event: Any) -> None:
    """Send an event as JSON."""
    await client.send(json.dumps(event))


async def heard(client: ClientConnection) -> dict[str, Any]:
    """Receive an event as JSON."""
    return json.loads(await client.recv())


async def heard_until(client: ClientConnection, kind: str, **wanted: Any) -> list[dict[str, Any]]:
    """Receive events up to the first of this type with these members, and return them all."""
    events = [await heard(client)]
    while events[-1]["type"] != kind or not wanted.items() <= events[-1].items():
        events.append(await heard(client))
    return events


@pytest.fixture(params=[True, False], ids=["fanout", "tasks"])
async def start(request: pytest.FixtureRequest) -> AsyncIterator[Start]:
    """Start chats, served by the fan-out and by a task for each member: no client can tell."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(serve: dict[str, Any] | None = None, **options: Any) -> Running:
            chat = ChatServer(fanout=request.param, **options)
            return Running(chat, await stack.enter_async_context(chat.serve(**(serve or {}))))

        async with asyncio.timeout(50):
            yield start


# Plain text.


async def test_plain_text_protocol_byte_for_byte(start: Start) -> None:
    """A client that asks for no subprotocol sees exactly the lines of the first chat."""
    running = await start()
    async with running.connect() as alice, running.connect() as bob:
        assert alice.subprotocol is None
        await alice.send("  alice\n")
        assert await alice.recv() == "Welcome, alice!"
        assert await alice.recv() == "[system] >>> alice joined the chat"
        await bob.send("bob")
        assert await bob.recv() == "Welcome, bob!"
        for client in (alice, bob):
            assert await client.recv() == "[system] >>> bob joined the chat"
        for text in (" hi there ", "", "  \n\t ", "Grüße 👋"):
            await alice.send(text)
        assert await bob.recv() == "[alice] hi there"
        assert await bob.recv() == "[alice] Grüße 👋"
        await bob.send("bye")
        await bob.close()
        assert await alice.recv() == "[bob] bye"
        assert await alice.recv() == "[system] >>> bob left the chat"


async def test_two_people_of_one_name_hear_each_other(start: Start) -> None:
    """The sender is left out by connection; leaving it out by name made namesakes deaf."""
    running = await start()
    async with running.join("ann") as first, running.join("ann") as second:
        assert await first.recv() == "[system] >>> ann joined the chat"
        await first.send("one")
        assert await second.recv() == "[ann] one"
        await second.send("two")
        assert await first.recv() == "[ann] two"


async def test_newcomer_hears_nothing_from_before_and_its_join_once(start: Start) -> None:
    """The subscription begins with the join, not with the connection."""
    running = await start()
    async with running.join("alice") as alice, running.connect() as bob:
        await alice.send("before bob has a name")
        await alice.send("/who")
        assert await alice.recv() == "[system] here now: alice"
        await bob.send("bob")
        assert await bob.recv() == "Welcome, bob!"
        assert await bob.recv() == "[system] >>> bob joined the chat"
        await alice.send("after")
        assert await bob.recv() == "[alice] after"


INVISIBLE = "a name has visible characters only, joined as its script joins them"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "the name is blank"),
        (" \t\n", "the name is blank"),
        ("x" * 33, "the name is longer than 32 characters"),
        ("a\x1b[2Jb", INVISIBLE),
        ("a\u202eb", INVISIBLE),
        ("system] >>> bob left the chat", "a name has no square brackets"),
        (">>> bob left the chat", "the name reads like a notice of the server"),
        ("ann, bob and 12 more", "a name has no commas"),
        ("system", "the name system is reserved"),
        (" SyStem ", "the name system is reserved"),
        ("\uff53ystem", "the name system is reserved"),
        (b"alice", "the first message must be text: your name"),
    ],
)
async def test_bad_name_is_refused_with_a_reason(
    start: Start, name: str | bytes, reason: str
) -> None:
    """Whoever has no good name is closed with 1008 and told why; nobody else hears of it."""
    running = await start()
    async with running.join("alice") as alice:
        async with running.connect() as client:
            await client.send(name)
            assert await closed(client) == (1008, reason)
        assert running.chat.people() == ["alice"]
        await alice.send("/who")
        assert await alice.recv() == "[system] here now: alice"


async def test_waiting_for_the_name_is_limited(start: Start) -> None:
    """A client that says nothing is closed with 1008 after the name timeout."""
    running = await start(name_timeout=0.05)
    async with running.connect() as client:
        assert await closed(client) == (1008, "no name within 0.05 seconds")
    assert ChatServer().name_timeout == 10


async def test_binary_message_is_refused(start: Start) -> None:
    """A binary message closes the connection with 1003 and a reason, not in silence."""
    running = await start()
    async with running.join("alice") as alice:
        async with running.join("bob") as bob:
            await bob.send(b"\0")
            assert await closed(bob) == (1003, "this chat takes text messages, not binary ones")
        assert await alice.recv() == "[system] >>> bob joined the chat"
        assert await alice.recv() == "[system] >>> bob left the chat"


async def test_message_size_is_bounded(start: Start) -> None:
    """A message over `max_size` closes with 1009; one of just that size passes."""
    running = await start(max_size=100)
    async with running.join("alice") as alice, running.join("bob") as bob:
        await bob.send("x" * 100)
        assert await alice.recv() == "[system] >>> bob joined the chat"
        assert await alice.recv() == "[bob] " + "x" * 100
        await bob.send("x" * 101)
        assert (await closed(bob))[0] == 1009


async def test_text_cannot_forge_a_line(start: Start) -> None:
    """Line breaks become spaces and control characters visible: a notice can't be imitated."""
    running = await start()
    async with running.join("alice") as alice, running.join("bob") as bob:
        await alice.send("hi\r\n[system] >>> bob left the chat\u2028\x1b[31m\x00\x9b\u202e")
        line = "[alice] hi [system] >>> bob left the chat \ufffd[31m\ufffd\ufffd\ufffd"
        assert await bob.recv() == line


def test_clean_text_leaves_ordinary_text_alone() -> None:
    """Emoji, no-break spaces, markup and right-to-left marks pass unchanged."""
    for text in ("<b>hostile</b>", "a\u00a0b", "👩\u200d💻", "שלום\u200f!", "\ue000"):
        assert clean_text(text) == text


async def test_who_answers_the_one_who_asks(start: Start) -> None:
    """`/who` lists the people to the asker alone; the server object lists them too."""
    running = await start()
    async with running.join("alice") as alice, running.join("bob") as bob:
        assert await alice.recv() == "[system] >>> bob joined the chat"
        await bob.send(" /who ")
        assert await bob.recv() == "[system] here now: alice, bob"
        await bob.send("done")
        assert await alice.recv() == "[bob] done"
        assert running.chat.people() == ["alice", "bob"]
        assert running.chat.people("/rooms/none") == []


async def test_roster_is_bounded(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long roster names the first and counts the rest."""
    monkeypatch.setattr(room_module, "ROSTER", 2)
    running = await start()
    async with running.join("a"), running.join("b"), running.join("c") as c:
        await c.send("/who")
        assert await c.recv() == "[system] here now: a, b and 1 more"


async def test_order_of_each_sender_is_kept(start: Start) -> None:
    """Five people talk at once; everybody hears each of them in order, and all alike."""
    running = await start(capacity=1000)
    async with contextlib.AsyncExitStack() as stack:
        names = "abcde"
        people = [await stack.enter_async_context(running.join(name)) for name in names]
        listeners = [await stack.enter_async_context(running.join(f"l{i}")) for i in range(3)]

        async def talk(client: ClientConnection) -> None:
            for n in range(100):
                await client.send(str(n))
                if n % 7 == 0:
                    await asyncio.sleep(0)

        async def listen(client: ClientConnection, count: int = 500) -> list[str]:
            lines: list[str] = []
            while len(lines) < count:
                line = str(await client.recv())
                if not line.startswith("[system]"):
                    lines.append(line)
            return lines

        listening = [asyncio.create_task(listen(client)) for client in listeners]
        listening += [asyncio.create_task(listen(client, 400)) for client in people]
        await asyncio.gather(*(talk(client) for client in people))
        first, *others = (await asyncio.gather(*listening))[:3]
        assert all(other == first for other in others)
        for name in names:
            assert [x for x in first if x[1] == name] == [f"[{name}] {n}" for n in range(100)]


# Slow readers.


def narrow(running: Running, client: ClientConnection) -> None:
    """Make the buffers of a connection so small that a stalled reader shows at once."""
    ours = client.transport.get_extra_info("socket")
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for connection in running.server.connections:
        if connection.remote_address == client.local_address:
            theirs = connection.transport.get_extra_info("socket")
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


async def test_stalled_reader_is_told_the_exact_count_and_goes_on(start: Start) -> None:
    """One stalled among 200: the others miss nothing, memory is bounded, it wakes and is told."""
    # No pings: those of the stalled one would go unanswered for as long as the test takes.
    running = await start(serve={"write_limit": 2048, "ping_interval": None}, capacity=16)
    # Six times what the ring holds, and each one more is written 199 times; in bytes three times
    # the window of 64 KiB that the kernel may have promised before its buffers were made small.
    total, filler = 104, "x" * 2000
    async with contextlib.AsyncExitStack() as stack:
        alice = await stack.enter_async_context(running.join("alice"))
        stalled = await stack.enter_async_context(running.join("stalled", ping_interval=None))
        # What the others hear is counted frame by frame elsewhere; here they only have to keep up.
        others = [await stack.enter_async_context(running.join(f"o{i}")) for i in range(198)]
        narrow(running, stalled)
        stalled.transport.pause_reading()

        async def listen(client: ClientConnection) -> int:
            heard = 0
            while heard < total:
                line = str(await client.recv())
                assert "missed" not in line
                if line.startswith("[alice] "):
                    assert line == f"[alice] {heard} {filler}"
                    heard += 1
                    if heard % 8 == 0 and client is others[-1]:
                        served.set()
            return heard

        served = asyncio.Event()
        listening = [asyncio.create_task(listen(client)) for client in others[-20:]]
        dropping = [asyncio.create_task(_drop(client)) for client in (alice, *others[:-20])]
        for first in range(0, total, 8):
            served.clear()
            for n in range(first, first + 8):
                await alice.send(f"{n} {filler}")
            await served.wait()
        assert await asyncio.gather(*listening) == [total] * 20

        (connection,) = [
            c for c in running.server.connections if c.remote_address == stalled.local_address
        ]
        assert connection.transport.get_write_buffer_size() <= 2048 + CHUNK
        stalled.transport.resume_reading()
        numbers, missed = [], 0
        while not numbers or numbers[-1] != total - 1:
            line = str(await stalled.recv())
            if line.startswith("[system] you missed "):
                missed += int(line.split()[3])
                before = len(numbers)
            elif line.startswith("[alice]"):
                numbers.append(int(line.split()[1]))
        # Its own and the others' joins came before it stalled or count as missed; a gap in what
        # alice said is exactly what it was told.
        assert missed == total - len(numbers) > 0
        assert numbers == [*range(before), *range(before + missed, total)]
        await stalled.send("I am back")
        await alice.send("good")
        assert await stalled.recv() == "[alice] good"
        # Whoever stops reading cannot be closed in good order: all read until the end.
        dropping += [asyncio.create_task(_drop(client)) for client in (stalled, *others[-20:])]
    await asyncio.gather(*dropping)


async def _drop(client: ClientConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        async for line in client:
            assert "missed" not in str(line)


# Not with a task for each member, which is lapped by this: that is what the fan-out repairs.
@pytest.mark.parametrize("start", [True], indirect=True, ids=["fanout"])
async def test_many_leaving_at_once_laps_nobody(start: Start) -> None:
    """More events in one turn of the loop than the ring holds: a reader that keeps up hears all."""
    running = await start(capacity=8)
    async with running.join("alice") as alice, contextlib.AsyncExitStack() as stack:
        crowd = [await stack.enter_async_context(running.connect()) for _ in range(60)]
        for client in crowd:
            await client.send("extra")
        for _ in crowd:
            assert await alice.recv() == "[system] >>> extra joined the chat"
        for client in crowd:
            client.transport.abort()
        for _ in crowd:
            assert await alice.recv() == "[system] >>> extra left the chat"


async def test_a_reset_connection_leaves_the_room(start: Start) -> None:
    """A client that vanishes with a reset is gone from the roster, and the others go on."""
    running = await start()
    async with running.join("alice") as alice, running.join("carol") as carol:
        async with running.join("bob") as bob:
            sock = bob.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            bob.transport.abort()
            for n in range(20):
                await carol.send(str(n))
        lines = [str(await alice.recv()) for _ in range(23)]
        assert "[system] >>> bob left the chat" in lines
        assert [x for x in lines if x.startswith("[carol]")] == [f"[carol] {n}" for n in range(20)]
        assert running.chat.people() == ["alice", "carol"]


class FakeConnection:
    """A connection of no library: the core must not know the difference."""

    id = "fake"
    path = "/"
    subprotocol = None
    peer = "nowhere"
    writer: Writer | None = None
    opening: Opening | Denied | None = None

    def __init__(self, *messages: str | bytes) -> None:
        self.messages = list(messages)
        self.sent: list[str] = []
        self.broken = False
        self.gone = asyncio.Event()
        self.closed: tuple[int, str] | None = None

    async def recv(self) -> str | bytes:
        """Give the next message, then wait for the end."""
        if not self.messages:
            await self.gone.wait()
            raise Gone
        return self.messages.pop(0)

    async def send(self, payload: bytes) -> None:
        """Keep what is sent, or fail."""
        if self.broken:
            raise Gone
        self.sent.append(payload.decode())

    async def close(self, code: int, reason: str) -> None:
        """Note the close."""
        self.closed = (code, reason)


async def test_the_core_drives_any_library() -> None:
    """Whatever has `recv`, `send` and `close` can be a member, beside those of `websockets`."""
    async with asyncio.timeout(50):
        chat, fake = ChatServer(), FakeConnection("fake", "hi", "/who")
        async with chat.serve() as server:
            running = Running(chat, server)
            async with running.join("alice") as alice:
                task = asyncio.create_task(chat.handle(fake))
                assert await alice.recv() == "[system] >>> fake joined the chat"
                assert await alice.recv() == "[fake] hi"
                await alice.send("hello")
                await alice.send("/who")
                assert await alice.recv() == "[system] here now: alice, fake"
                fake.gone.set()
                await task
                assert await alice.recv() == "[system] >>> fake left the chat"
        assert sorted(fake.sent) == sorted(
            [
                "Welcome, fake!",
                "[system] >>> fake joined the chat",
                "[system] here now: alice, fake",
                "[alice] hello",
            ]
        )


async def test_dead_writer_stops_the_reader() -> None:
    """When one direction of a connection fails, the other ends too, and the person leaves."""
    async with asyncio.timeout(50):
        chat, fake = ChatServer(), FakeConnection("fake")
        task = asyncio.create_task(chat.handle(fake))
        await until(lambda: len(fake.sent) == 2)
        fake.broken = True
        other = FakeConnection("other")
        other.id = "other"
        leaving = asyncio.create_task(chat.handle(other))
        await task
        assert chat.people() == ["other"]
        other.gone.set()
        await leaving


async def test_refusals_reach_any_library() -> None:
    """The core closes with its code and reason also where no handshake refused the path."""
    async with asyncio.timeout(50):
        for path, message, code in [("/nowhere", "x", 1008), ("/", "", 1008)]:
            fake = FakeConnection(message)
            fake.path = path
            await ChatServer().handle(fake)
            assert fake.closed is not None
            assert fake.closed[0] == code
        fake = FakeConnection("x", "y" * 10_000)
        await ChatServer().handle(fake)
        assert fake.closed == (1009, "a message has at most 8192 bytes")


# JSON.


async def test_json_protocol(start: Start) -> None:
    """Welcome, joined, message, ack, roster, pong, left: each event has its members."""
    running = await start()
    before = time.time() - 1
    async with running.join("alice") as alice, running.json("bob") as (bob, welcome):
        assert bob.subprotocol == SUBPROTOCOL
        epoch = welcome.pop("epoch")
        assert epoch.startswith(running.chat.rooms["/"].epoch + ".1.")
        assert welcome == {
            "type": "welcome",
            "name": "bob",
            "room": "/",
            "offset": 1,
            "people": ["alice"],
            "count": 1,
        }
        joined = await heard(bob)
        assert before < joined.pop("time") < time.time() + 1
        assert joined == {"type": "joined", "name": "bob", "offset": 2}
        await alice.send("hi")
        message = await heard(bob)
        del message["time"]
        assert message == {
            "type": "message",
            "sender": "alice",
            "text": "hi",
            "id": "",
            "offset": 3,
        }
        await say(bob, type="say", text=" a\nb ", id="7")
        ack = await heard(bob)
        del ack["time"]
        assert ack == {"type": "ack", "id": "7", "offset": 4}
        assert await alice.recv() == "[system] >>> bob joined the chat"
        assert await alice.recv() == "[bob] a b"
        await say(bob, type="who")
        assert await heard(bob) == {"type": "roster", "people": ["alice", "bob"], "count": 2}
        await say(bob, type="ping", id="x")
        assert await heard(bob) == {"type": "pong", "id": "x"}
        await alice.close()
        left = await heard(bob)
        assert (left["type"], left["name"], left["offset"]) == ("left", "alice", 5)


@pytest.mark.parametrize(
    ("sent", "code", "which"),
    [
        ("hi", "invalid", ""),
        ('{"type": "shout", "id": "7"}', "invalid", "7"),
        # How deep a text that is whole may be differs from one Python to the next.
        ('{"type": "ping", "x": ' + "[" * 4000, "invalid", ""),
        ('{"type": "say", "text": 5, "id": "7"}', "invalid", "7"),
        ('{"type": "say", "id": "7"}', "invalid", "7"),
        ('{"type": "say", "text": "x", "id": 7}', "invalid", ""),
        ('{"type": "say", "text": "x", "id": "' + "7" * 65 + '"}', "invalid", ""),
        ('{"type": "say", "text": " \\n", "id": "7"}', "blank", "7"),
        ('{"type": "hello", "name": "eve"}', "joined", ""),
    ],
    ids=[
        *(
            "no JSON",
            "unknown type",
            "deep",
            "a number for a text",
            "no text",
            "a number for an id",
        ),
        *("an endless id", "blank", "second hello"),
    ],
)
async def test_json_errors_are_answered_and_forgiven(
    start: Start, sent: str, code: str, which: str
) -> None:
    """A message that makes no sense gets an `error` event with its id, and all goes on."""
    running = await start()
    async with running.json("bob") as (bob, _):
        await heard(bob)
        await bob.send(sent)
        error = await heard(bob)
        assert (error["type"], error["code"]) == ("error", code)
        assert error["text"]
        assert error["id"] == which
        await say(bob, type="say", text="x", id="8")
        assert (await heard(bob))["id"] == "8"


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        ("bob", "the first message must be a hello: "),
        ('{"type": "say", "text": "x"}', "the first message must be a hello"),
        ('{"type": "hello", "name": "system"}', "the name system is reserved"),
        ('{"type": "\\u001b[2J\\n' + "x" * 200 + '"}', "the first message must be a hello: "),
    ],
)
async def test_json_hello_is_checked(
    start: Start, first: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a good hello the connection is closed with 1008; the reason steers no terminal."""
    caplog.set_level(logging.INFO)
    running = await start()
    async with running.connect(subprotocols=[SUBPROTOCOL]) as client:
        await client.send(first)
        code, why = await closed(client)
        assert code == 1008
        assert why is not None
        assert why.startswith(reason)
        assert why.isprintable()
    assert all(record.getMessage().isprintable() for record in caplog.records)


async def test_unknown_subprotocols_get_plain_text(start: Start) -> None:
    """A client that offers only what we do not know is served plain text."""
    running = await start()
    async with running.join("alice", subprotocols=["mqtt"]) as alice:
        assert alice.subprotocol is None


async def test_repeated_id_is_published_once(start: Start) -> None:
    """The same id of the same session is acknowledged again with the same offset, not repeated."""
    running = await start()
    async with running.join("listener") as listener, running.json("bob", session="s1") as (bob, _):
        await heard(bob)
        for _ in range(3):
            await say(bob, type="say", text="once", id="1")
        acks = [await heard(bob) for _ in range(3)]
        assert {(ack["type"], ack["id"], ack["offset"]) for ack in acks} == {("ack", "1", 3)}
        await say(bob, type="say", text="no id")
        await say(bob, type="say", text="no id")
        async with running.json("bob", session="s1") as (again, _):
            await heard(again)
            await say(again, type="say", text="once", id="1")
            assert (await heard(again))["offset"] == 3
        async with running.json("bob", session="s2") as (other, _):
            await heard(other)
            await say(other, type="say", text="another's 1", id="1")
            await heard_until(other, "ack")
        await listener.send("/who")
        lines = [await listener.recv()]
        while not str(lines[-1]).startswith("[system] here"):
            lines.append(await listener.recv())
        said = [line for line in lines if str(line).startswith("[bob]")]
        assert said == ["[bob] once", "[bob] no id", "[bob] no id", "[bob] another's 1"]


async def test_ids_remembered_are_bounded(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A room forgets the oldest ids."""
    monkeypatch.setattr(room_module, "IDS", 10)
    running = await start()
    async with running.json("bob") as (bob, _):
        for n in range(50):
            await say(bob, type="say", text="x", id=str(n))
        await heard_until(bob, "ack", id="49")
        assert len(running.chat.rooms["/"]._published) == 10


async def test_every_offset_arrives_once_and_in_order(start: Start) -> None:
    """Joins, leaves, own lines and others': a client that keeps up can count them through."""
    running = await start()
    async with running.json("bob") as (bob, welcome), running.json("eve") as (eve, _):
        dropping = asyncio.create_task(_drop(eve))
        for n in range(20):
            await say(bob, type="say", text="x", id=str(n))
            await say(eve, type="say", text="y")
            if n % 5 == 0:
                async with running.join("alice"):
                    pass
        await say(eve, type="say", text="end")
        events = await heard_until(bob, "message", text="end")
        offsets = [event["offset"] for event in events]
        assert offsets == list(range(welcome["offset"] + 1, offsets[-1] + 1))
    await dropping


async def test_resume_replays_what_was_missed(start: Start) -> None:
    """Epoch and offset bring back what was missed, one's own unacknowledged lines too."""
    running = await start()
    async with running.join("alice") as alice:
        async with running.json("bob", session="s") as (bob, welcome):
            await say(bob, type="say", text="mine", id="1")
            await heard_until(bob, "ack")
            await say(bob, type="say", text="unacknowledged", id="2")
            await alice.send("/who")
            while await alice.recv() != "[bob] unacknowledged":
                pass
        while await alice.recv() != "[system] >>> bob left the chat":
            pass
        await alice.send("while bob was away")
        await alice.send("/who")
        while "here now" not in str(await alice.recv()):
            pass
        async with running.json("bob", since=3, epoch=welcome["epoch"], session="s") as (
            back,
            again,
        ):
            assert (again["offset"], again["epoch"]) == (3, welcome["epoch"])
            events = [await heard(back) for _ in range(4)]
            assert [(e["type"], e["offset"]) for e in events] == [
                ("message", 4),
                ("left", 5),
                ("message", 6),
                ("joined", 7),
            ]
            assert (events[0]["id"], events[2]["text"]) == ("2", "while bob was away")


async def test_resume_from_too_long_ago_is_told_the_count(start: Start) -> None:
    """What the ring no longer holds is reported as `missed` with its exact count."""
    running = await start(capacity=4)
    async with running.json("alice") as (alice, welcome):
        for n in range(10):
            await say(alice, type="say", text=str(n))
        await heard_until(alice, "ack", offset=11)
        async with running.json("bob", since=2, epoch=welcome["epoch"]) as (bob, again):
            assert again["offset"] == 2
            missed = await heard(bob)
            assert missed == {"type": "missed", "count": 6, "offset": 8}
            assert [(await heard(bob))["offset"] for _ in range(4)] == [9, 10, 11, 12]


async def test_another_epoch_is_told_apart(start: Start) -> None:
    """After a restart nobody knows how many are gone: `missed` says so, then all there is comes."""
    before = await start(secret=b"shared")
    async with before.json("bob") as (_, welcome):
        old = welcome["epoch"]
    running = await start(secret=b"shared")
    async with running.json("alice") as (alice, _):
        await say(alice, type="say", text="new life")
        await heard_until(alice, "ack")
        async with running.json("bob", since=70, epoch=old) as (bob, welcome):
            assert welcome["offset"] == 0
            assert welcome["epoch"] != old
            assert await heard(bob) == {"type": "missed", "count": None, "offset": 0}
            assert [(await heard(bob))["offset"] for _ in range(3)] == [1, 2, 3]


async def test_history_is_for_those_who_were_there(start: Start) -> None:
    """Whoever can't show that they were in the room begins now, also after all have left."""
    running = await start(secret=b"mine")
    async with running.json("alice", "/rooms/x") as (alice, _):
        for n in range(5):
            await say(alice, type="say", text=f"secret {n}")
        await heard_until(alice, "ack", offset=6)
        async with running.json("late", "/rooms/x") as (_, late):
            pass
    async with running.json("else", "/rooms/y") as (_, other):
        pass
    stranger = await start(secret=b"another")
    async with stranger.json("else", "/rooms/x") as (_, foreign):
        pass
    life, number, signature = late["epoch"].split(".")
    forged = [
        "",
        "old",
        life,
        running.chat.rooms["/rooms/x"].epoch,
        other["epoch"],
        foreign["epoch"],
        f"{life}.0.{signature}",
        f"{life}.{number}.",
        f"{life}.{number}.{signature}x",
        f"{life}.{number}.\N{SNOWMAN}",
        "." * 128,
    ]
    for epoch in forged:
        for since in (0, 1, 10**18):
            hello = {"since": since, "epoch": epoch}
            async with running.json("eve", "/rooms/x", **hello) as (eve, welcome):
                assert await heard(eve) == {
                    "type": "missed",
                    "count": None,
                    "offset": welcome["offset"],
                }
                assert (await heard(eve))["type"] == "joined"
    # Who came late may have what came after that, and no more.
    hello = {"since": 0, "epoch": late["epoch"]}
    async with running.json("late", "/rooms/x", **hello) as (late_again, welcome):
        assert welcome["offset"] == int(number) == 6
        assert (await heard(late_again))["type"] == "joined"
        assert (await heard(late_again))["type"] == "left"


async def test_history_for_all_is_an_option(start: Start) -> None:
    """With it, a newcomer that asks for everything gets everything that is kept."""
    running = await start(history=True)
    async with running.json("alice") as (alice, _):
        await say(alice, type="say", text="hello")
        await heard_until(alice, "ack")
        async with running.json("new", since=0) as (new, welcome):
            assert welcome["offset"] == 0
            assert [(await heard(new))["type"] for _ in range(3)] == ["joined", "message", "joined"]


async def test_offset_from_the_future_begins_now(start: Start) -> None:
    """An offset that the room has not reached is taken for its newest."""
    running = await start()
    async with running.json("bob") as (bob, welcome):
        await heard(bob)
        async with running.json("bob", since=10**18, epoch=welcome["epoch"]) as (again, _):
            assert (await heard(again))["offset"] == 2


async def test_left_and_back_within_a_moment_can_resume(start: Start) -> None:
    """An empty room keeps its log and epoch for those who come back."""
    running = await start()
    async with running.json("bob", "/rooms/x") as (bob, welcome):
        await heard(bob)
    async with running.json("bob", "/rooms/x", since=1, epoch=welcome["epoch"]) as (bob, again):
        assert again["epoch"] == welcome["epoch"]
        assert [(await heard(bob))["type"] for _ in range(2)] == ["left", "joined"]


# Rooms.


async def test_rooms_are_apart_and_protocols_share_them(start: Start) -> None:
    """A line stays in its room; plain text and JSON hear each other there."""
    running = await start()
    async with (
        running.join("a", "/rooms/red") as red,
        running.json("b", "/rooms/red") as (json_red, welcome),
        running.join("c", "/rooms/blue?token=x") as blue,
        running.join("d") as default,
    ):
        assert welcome["room"] == "/rooms/red"
        await heard(json_red)
        await red.send("for red")
        assert (await heard(json_red))["text"] == "for red"
        for client, name in ((blue, "c"), (default, "d")):
            await client.send("/who")
            assert await client.recv() == f"[system] here now: {name}"
        assert set(running.chat.rooms) == {"/", "/rooms/red", "/rooms/blue"}


@pytest.mark.parametrize(
    "path", ["/nope", "/rooms/", "/rooms/a/b", "/rooms/a%20b", "/rooms/" + 65 * "x"]
)
async def test_other_paths_are_refused(start: Start, path: str) -> None:
    """A path without a room is an HTTP 404 whose body says where the rooms are."""
    running = await start()
    with pytest.raises(InvalidStatus) as caught:
        await running.connect(path)
    assert caught.value.response.status_code == 404
    assert b"connect to / or /rooms/NAME" in caught.value.response.body


async def test_rooms_are_bounded(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty rooms are forgotten, the oldest first; a room too many is an HTTP 503."""
    monkeypatch.setattr(chat_module, "IDLE_ROOMS", 3)
    running = await start(max_rooms=5)
    for n in range(10):
        async with running.join("a", f"/rooms/{n}"):
            pass
        await asyncio.sleep(0)
    assert len(running.chat.rooms) <= 4
    async with running.join("a", "/rooms/9"):
        for n in range(10, 20):
            async with running.join("a", f"/rooms/{n}"):
                pass
        assert running.chat.people("/rooms/9") == ["a"]
    async with contextlib.AsyncExitStack() as stack:
        for n in range(5):
            await stack.enter_async_context(running.join("a", f"/rooms/full{n}"))
        assert len(running.chat.rooms) == 5
        with pytest.raises(InvalidStatus) as caught:
            await running.connect("/rooms/more")
        assert caught.value.response.status_code == 503
        await stack.enter_async_context(running.join("b", "/rooms/full1"))


async def test_the_default_room_is_there_whatever_others_there_are(start: Start) -> None:
    """Whoever takes all rooms closes no door to `/`, nor to a room where somebody is."""
    running = await start(max_rooms=2)
    async with running.join("a", "/rooms/one"), running.join("b", "/rooms/two"):
        with pytest.raises(InvalidStatus, match="503"):
            await running.connect("/rooms/three")
        async with running.join("c"), running.join("d", "/rooms/one"):
            assert len(running.chat.rooms) == 3


async def test_rooms_of_one_address_are_bounded() -> None:
    """Who has opened too many may still go where somebody is, and into the default room."""
    chat = ChatServer(max_rooms_per_address=2)
    fakes: list[tuple[FakeConnection, asyncio.Task[None]]] = []

    async def enter(path: str, peer: str) -> FakeConnection:
        fake = FakeConnection("x")
        fake.path, fake.peer, fake.id = path, peer, f"{len(fakes)}"
        fakes.append((fake, asyncio.create_task(chat.handle(fake))))
        await until(lambda: fake.sent or fake.closed)
        return fake

    async with asyncio.timeout(50):
        for path in ("/rooms/a", "/rooms/b", "/"):
            assert (await enter(path, "192.0.2.7:1")).closed is None
        full = await enter("/rooms/c", "192.0.2.7:2")
        assert full.closed is not None
        assert full.closed[0] == 1013
        assert (await enter("/rooms/c", "192.0.2.8:1")).closed is None
        assert chat.refusal("/rooms/c", "192.0.2.7") is None
        status, _ = chat.refusal("/rooms/d", "192.0.2.7") or (0, "")
        assert status == 429
        assert chat.refusal("/rooms/d", "127.0.0.1") is None
        fakes[0][0].gone.set()
        await fakes[0][1]
        assert chat.refusal("/rooms/d", "192.0.2.7") is None
        for fake, task in fakes:
            fake.gone.set()
            await task


async def test_a_log_is_bounded_in_bytes_and_goes_when_all_have_left_for_long(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long texts use up the log sooner than their number does; an empty room ends by itself."""
    monkeypatch.setattr(chat_module, "IDLE_TIME", 0.2)
    running = await start(capacity=100, log_bytes=100_000)
    async with running.json("a", "/rooms/x") as (client, _):
        for n in range(50):
            await say(client, type="say", text="\N{GRINNING FACE}" + "x" * 7000, id=str(n))
        await heard_until(client, "ack", id="49")
        room = running.chat.rooms["/rooms/x"]
        assert 1 <= len(room.log) < 5
        assert sum(sys.getsizeof(r.event.text) for r in room.log if hasattr(r.event, "text")) < 1e5
    assert room in running.chat.rooms.values()
    await until(lambda: not running.chat.rooms)


class EndingRooms:
    """A bus that ends rooms, as one does whose log begins anew."""

    def room_factory(
        self, rooms: Mapping[str, Room], forget: Callable[[str], None]
    ) -> Callable[[str, int], Room]:
        """Open plain rooms, and keep what ends them."""
        self.rooms, self.end = rooms, forget
        return Room

    def orders(self, obey: Callable[[Any], None]) -> Callable[[Any], None]:
        """Hand orders to this server, the only one."""
        return obey


async def test_a_room_that_its_bus_ends_is_gone(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is empty or not: later the server forgets other rooms, and opens it anew."""
    monkeypatch.setattr(chat_module, "IDLE_ROOMS", 1)
    bus = EndingRooms()
    running = await start(bus=bus)

    async def come_and_go(path: str) -> None:
        async with running.join("a", path):
            room = bus.rooms[path]
        await until(lambda: not room.visitors)

    await come_and_go("/rooms/idle")
    bus.end("/rooms/idle")
    async with running.join("alice", "/rooms/full") as alice:
        bus.end("/rooms/full")
        async with running.join("bob", "/rooms/full") as bob:
            await alice.send("in the old room")
            await bob.send("/who")
            assert await bob.recv() == "[system] here now: bob"
    for n in range(3):
        await come_and_go(f"/rooms/{n}")
    assert list(running.chat.rooms) == ["/rooms/2"]


def test_a_chat_loads_nothing_of_the_bus() -> None:
    """A script with a chat pays for no bus, also when it hands one over."""
    script = """
import sys
from wslessons.chat import ChatServer, Room

class Bus:
    def room_factory(self, rooms, forget):
        return Room

    def orders(self, obey):
        return obey

ChatServer(bus=Bus())._open("/")
print(sum(name.startswith("wslessons") for name in sys.modules))
print([name for name in sys.modules if name.startswith("wslessons.scaling")])
"""
    out = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=30
    ).stdout.splitlines()
    assert int(out[0]) <= 16
    assert out[1] == "[]"


# Limits.


async def test_fast_sender_is_slowed_down_and_not_dropped(start: Start) -> None:
    """Over its rate a sender's lines arrive late but all, and others are not held up."""
    running = await start(rate=50, burst=2)
    async with running.join("fast") as fast, running.join("other") as other:
        begun = time.monotonic()
        for n in range(12):
            await fast.send(str(n))
        assert [await other.recv() for _ in range(12)] == [f"[fast] {n}" for n in range(12)]
        # Two at once, ten more at 50 a second.
        assert time.monotonic() - begun > 0.15
        assert await fast.recv() == "[system] >>> other joined the chat"


async def test_what_waits_is_said_when_its_sender_leaves_and_no_ghost_stays(start: Start) -> None:
    """What was taken from a sender is said at once when it goes; it does not stay for that long."""
    running = await start(rate=0.01, burst=1)
    async with running.join("other") as other:
        async with running.join("fast") as fast:
            for n in range(12):
                await fast.send(str(n))
        lines = [await other.recv() for _ in range(14)]
        assert lines[1:13] == [f"[fast] {n}" for n in range(12)]
        assert lines[13] == "[system] >>> fast left the chat"


async def test_pings_are_answered_while_messages_wait(start: Start) -> None:
    """Neither a pong nor a Close stands behind messages that wait for their turn."""
    running = await start(rate=0.01, burst=1)
    async with running.join("other") as other, running.json("fast") as (fast, _):
        for n in range(60):
            await say(fast, type="say", text=str(n))
        await (await fast.ping())
        await say(fast, type="ping", id="p")
        assert (await heard_until(fast, "pong"))[-1]["id"] == "p"
        await other.send("/who")
        while (line := await other.recv()) != "[system] here now: other, fast":
            assert line in ("[system] >>> fast joined the chat", "[fast] 0")
        assert running.chat.people() == ["other", "fast"]


async def test_what_cannot_even_wait_is_refused_with_its_id(start: Start) -> None:
    """Each message is said or refused, and its sender knows which; both protocols tell."""
    running = await start(rate=0.01, burst=2, debt=3)
    async with running.join("other") as other:
        async with running.json("fast") as (fast, _):
            for n in range(8):
                await say(fast, type="say", text=f"text {n}", id=str(n))
            events = [await heard(fast) for _ in range(6)]
            assert [e["id"] for e in events if e["type"] == "ack"] == ["0", "1"]
            errors = [e for e in events if e["type"] == "error"]
            assert [(e["code"], e["id"]) for e in errors] == [("rate", n) for n in "567"]
            assert "0.01 messages a second" in errors[0]["text"]
        lines = [await other.recv() for _ in range(7)]
        assert lines[1:6] == [f"[fast] text {n}" for n in range(5)]
    async with running.join("other") as other, running.join("plain") as plain:
        for n in range(6):
            await plain.send(f"text {n}")
        assert str(await plain.recv()).endswith("this was not said: text 5")


async def test_sender_that_never_slows_down_is_sent_away(start: Start) -> None:
    """Who goes on for ten times what may wait is closed with 1008, and told the count."""
    running = await start(rate=0.01, burst=1, debt=2)
    async with running.join("other") as other:
        async with running.join("fast") as fast:
            for n in range(30):
                await fast.send(str(n))
            assert await closed(fast) == (1008, "too fast: 21 messages were refused")
        lines = [await other.recv() for _ in range(5)]
        assert lines[1:] == ["[fast] 0", "[fast] 1", "[fast] 2", "[system] >>> fast left the chat"]


async def test_bytes_that_wait_are_bounded(start: Start) -> None:
    """Long messages use up what may wait sooner than their count does."""
    running = await start(rate=0.01, burst=1, debt=1000, max_size=2**15)
    async with running.json("fast") as (fast, _):
        for n in range(5):
            await say(fast, type="say", text="x" * 30_000, id=str(n))
        events = await heard_until(fast, "error", id="4")
        assert [e["id"] for e in events if e["type"] == "error"] == ["3", "4"]


def test_token_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    """A burst passes at once; then each token has to be waited for, on average `1 / rate`."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    bucket = TokenBucket(rate=4, burst=3)
    assert [bucket.take() for _ in range(5)] == [0, 0, 0, 0.25, 0.5]
    now += 0.5
    assert bucket.take() == 0.25
    now += 100
    assert [bucket.take() for _ in range(4)] == [0, 0, 0, 0.25]
    assert TokenBucket(0.5).burst == 1


# The server.


async def test_crowd_that_comes_and_goes_leaves_nothing(start: Start) -> None:
    """300 clients join, talk and leave at random, politely or not: nothing of them is left."""
    running = await start({"open_timeout": 50})
    descriptors = _descriptors()
    rng = random.Random(3)

    async def visit(n: int) -> None:
        await asyncio.sleep(rng.random())
        with contextlib.suppress(ConnectionClosed):
            if n % 2:
                async with running.join(f"v{n}") as client:
                    await client.send("hi")
                    await asyncio.sleep(rng.random() / 2)
                    if n % 3 == 0:
                        client.transport.abort()
            else:
                async with running.json(f"v{n}") as (client, _):
                    await say(client, type="say", text="hi", id="1")
                    if n % 5 == 0:
                        await client.send(b"out")
                    await client.recv()

    await asyncio.gather(*(visit(n) for n in range(300)))
    async with running.connect() as last:
        await last.close()
    room = running.chat.rooms["/"]
    await until(lambda: not room.visitors and not running.server.handler_tasks)
    assert running.chat.people() == []
    assert len(room.fanout) == 0
    # The fan-out keeps one cursor for each codec.
    assert len(room.log.receivers) <= 2
    if descriptors is not None:
        for _ in range(100):
            if _descriptors() == descriptors:
                break
            await asyncio.sleep(0.01)
        assert _descriptors() == descriptors


def _descriptors() -> int | None:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return None


async def test_log_has_one_line_for_a_coming_and_a_going(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says who came and who went, one line each."""
    caplog.set_level(logging.INFO, "wslessons.chat")
    running = await start()
    async with running.join("alice") as alice:
        host, port = alice.local_address[:2]
    async with running.connect() as client:
        await client.send("system")
        await closed(client)
    lines = [r.getMessage() for r in caplog.records if r.name == "wslessons.chat.server"]
    ended = "alice left /: received 1000 (OK); then sent 1000 (OK)"
    assert lines[:2] == [f"alice joined / from {host}:{port}", ended]
    assert len(lines) == 3
    assert lines[2].endswith("1008 the name system is reserved")


async def test_log_says_how_somebody_went_and_cannot_be_forged_by_it(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """Each end is one line with its close code; what the client says in it stays on that line."""
    caplog.set_level(logging.INFO, "wslessons")
    running = await start()
    async with running.join("eve") as eve:
        await eve.close(4000, "bye\neve joined / from \x1b[31m")
    async with running.connect() as client:
        await client.close(4001)
    with pytest.raises(InvalidStatus):
        await running.connect("/no%0Awhere?ticket=secret").__aenter__()
    await until(lambda: len(caplog.records) >= 4)
    lines = [record.getMessage() for record in caplog.records]
    assert "eve left /: received 4000 (private use) bye\\neve joined / from \\x1b[31m" in lines[1]
    assert "left before it said a name: received 4001 (private use)" in lines[2]
    # Another test may have met a refusal a moment ago, which is then counted behind this one.
    assert "was refused with 404: /no%0Awhere" in lines[3]
    assert all(line.isprintable() for line in lines)


async def test_nothing_a_client_does_leaves_a_traceback(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """Garbage instead of a handshake, frames or UTF-8, resets in the middle: no traceback."""
    caplog.set_level(logging.INFO)
    running = await start()
    hello = handshake()
    name = b"\x81\x83\0\0\0\0eve"
    for data in (
        b"",
        b"\x16\x03\x01 not HTTP\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        hello,
        hello + name,
        hello + name + b"\xff\xff\xff\xff",
        hello + name + b"\x81\x82\0\0\0\0\xff\xfe",
        hello + b"\x81\x82\0\0\0\0\xff\xfe",
        hello + name + b"\x01\x81\0\0\0\0x",
        hello + name + b"\x88\x82\0\0\0\0\x0f\xff",
    ):
        reader, writer = await asyncio.open_connection(*running.address)
        if data.startswith(hello):
            writer.write(hello)
            await reader.readuntil(b"\r\n\r\n")
            data = data.removeprefix(hello)
        writer.write(data)
        writer.write_eof()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    async with running.join("alice"):
        pass
    assert [record for record in caplog.records if record.exc_info] == []
    assert "Traceback" not in caplog.text


async def test_closing_the_server_says_going_away(start: Start) -> None:
    """A server that closes ends every connection with 1001, and no handler is left."""
    running = await start()
    async with running.join("alice") as alice, running.json("bob") as (bob, _):
        running.server.close()
        assert (await closed(alice))[0] == 1001
        assert (await closed(bob))[0] == 1001
        await running.server.wait_closed()
        assert running.chat.people() == []


async def test_compressed_connections_understand_the_shared_frame(start: Start) -> None:
    """Served with permessage-deflate, a client gets the same frame uncompressed and is content."""
    running = await start(serve={"compression": "deflate"})
    async with running.join("alice") as alice, running.join("bob") as bob:
        assert alice.response is not None
        assert "permessage-deflate" in alice.response.headers["Sec-WebSocket-Extensions"]
        await bob.send("hi " * 50)
        assert await alice.recv() == "[system] >>> bob joined the chat"
        assert await alice.recv() == "[bob] " + ("hi " * 50).strip()


async def test_no_compression_by_default(start: Start) -> None:
    """A client that offers compression does not get it: it would cost memory and gain nothing."""
    running = await start()
    async with running.join("alice", compression="deflate") as alice:
        assert alice.response is not None
        assert "Sec-WebSocket-Extensions" not in alice.response.headers


async def test_handler_and_options_suit_the_library_itself() -> None:
    """`websockets.serve(chat.handler, ..., **chat.options)` is all it takes."""
    async with asyncio.timeout(50):
        chat = ChatServer()
        async with websockets.serve(chat.handler, "127.0.0.1", 0, **chat.options) as server:
            running = Running(chat, server)
            async with running.join("alice"), running.json("bob") as (_, welcome):
                assert welcome["people"] == ["alice"]
