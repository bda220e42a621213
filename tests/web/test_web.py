"""The chat on the web: every route, the same room over both libraries, and how connections end."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from waits import closed, until
from webs import Web, join_json, read_until, serving
from websockets import ConnectionClosed, InvalidStatus, connect

from wslessons import web
from wslessons.chat import ChatServer
from wslessons.chat.events import SUBPROTOCOL, Message
from wslessons.client import ChatClient
from wslessons.connection import text_frame
from wslessons.testing.raw import handshake
from wslessons.web.metrics import payloads

PLAIN_ASGI: dict[str, Any] = {"ws": "websockets-sansio"}


@pytest.fixture(params=["frames", "asgi", "tasks"])
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Web]:
    """The chat by all three ways of fan-out; no client can tell which."""
    options = {} if request.param == "frames" else PLAIN_ASGI
    chat = ChatServer(fanout=request.param != "tasks", capacity=2048)
    async with serving(chat=chat, uvicorn=options) as served:
        yield served


async def test_plain_text_line_for_line(served: Web) -> None:
    """Text clients see the lines of the first chat, and their own words never come back."""
    async with served.join("alice") as alice, served.join("bob") as bob:
        assert await alice.recv() == "[system] >>> bob joined the chat"
        for text in (" hi ", "", "Grüße 👋", "x" * 200):
            await alice.send(text)
        assert [await bob.recv() for _ in range(3)] == [
            "[alice] hi",
            "[alice] Grüße 👋",
            f"[alice] {'x' * 200}",
        ]
        await alice.send("/who")
        assert await alice.recv() == "[system] here now: alice, bob"
        await bob.close()
        assert await alice.recv() == "[system] >>> bob left the chat"


async def test_json_acknowledges_and_resumes(served: Web) -> None:
    """A JSON client is acknowledged, goes, and gets what it missed when it comes back."""
    offered: dict[str, Any] = {"subprotocols": [SUBPROTOCOL]}
    async with served.join("text") as text:
        async with served.connect(**offered) as robot:
            welcome = await join_json(robot, name="robot", session="s")
            joined = json.loads(await robot.recv())
            await robot.send(json.dumps({"type": "say", "text": "beep", "id": "1"}))
            ack = json.loads(await robot.recv())
            assert (ack["type"], ack["offset"]) == ("ack", joined["offset"] + 1)
            await robot.send(json.dumps({"type": "ping", "id": "p"}))
            assert json.loads(await robot.recv()) == {"type": "pong", "id": "p"}
        await read_until(text, "[system] >>> robot left the chat")
        await text.send("are you there?")
        await text.send("/who")
        await read_until(text, "[system] here now: text")
        async with served.connect(**offered) as robot:
            since = {"since": ack["offset"], "epoch": welcome["epoch"]}
            again = await join_json(robot, name="robot", session="s", **since)
            assert again["offset"] == ack["offset"]
            missed = [json.loads(await robot.recv()) for _ in range(3)]
            assert [event["type"] for event in missed] == ["left", "message", "joined"]
            assert missed[1]["text"] == "are you there?"


async def test_many_messages_arrive_complete_and_in_order(served: Web) -> None:
    """A thousand lines, faster than one by one, reach everybody else once and in order."""
    async with served.join("alice") as alice, served.join("bob") as bob:
        lines = [f"line {number}" for number in range(1000)]

        async def speak() -> None:
            for line in lines:
                await alice.send(line)

        speaking = asyncio.create_task(speak())
        heard = await read_until(bob, "[alice] line 999")
        await speaking
        assert heard == [f"[alice] {line}" for line in lines]


async def test_a_stalled_reader_is_told_what_it_missed(served: Web) -> None:
    """One that doesn't read holds up nobody, costs bounded memory, and its numbers add up."""
    # Small logs from here on: the room is made when the first one enters it.
    served.chat.capacity = 16
    count, text = 1500, "x" * 8000
    async with (
        served.join("alice") as alice,
        served.join("bob") as bob,
        served.join("mallory", max_size=None) as mallory,
    ):
        mallory.transport.pause_reading()
        await read_until(bob, "[system] >>> mallory joined the chat")
        # The kernels' buffers take some megabytes before the server notices anything.
        for _ in range(count):
            await alice.send(text)
            assert await bob.recv() == f"[alice] {text}"
        await alice.send("the end")
        mallory.transport.resume_reading()
        lines = await read_until(mallory, "[alice] the end")
        missed = sum(int(line.split()[3]) for line in lines if "you missed" in line)
        assert missed > 0
        assert sum(line == f"[alice] {text}" for line in lines) + missed == count
        metrics = await served.metrics()
        if served.chat.fanout:
            assert metrics["chat_events_missed_total"] == missed


@pytest.mark.parametrize(
    ("first", "then", "code", "reason"),
    [
        (b"\0", None, 1008, "the first message must be text: your name"),
        ("system", None, 1008, "the name system is reserved"),
        ("alice", b"\0", 1003, "this chat takes text messages, not binary ones"),
        ("alice", "x" * 9000, 1009, "a message has at most 8192 bytes"),
    ],
)
async def test_refusals_are_those_of_lesson_2(
    served: Web, first: str | bytes, then: str | bytes | None, code: int, reason: str
) -> None:
    """Who breaks a rule is told which, by close code and reason."""
    async with served.connect() as client:
        await client.send(first)
        if then is not None:
            await client.send(then)
        assert await closed(client) == (code, reason)
    assert (await served.metrics())[f'chat_connections_closed_total{{code="{code}"}}'] == 1


async def test_a_message_beyond_the_servers_limit_is_told_so() -> None:
    """1009 reaches a client that is still sending: the socket stays open until it has read it."""
    async with serving(uvicorn={"ws_max_size": 8192}) as served, served.connect() as client:
        await client.send("x" * 4_000_000)
        assert (await closed(client))[0] == 1009


async def test_one_room_over_both_libraries() -> None:
    """People on `websockets` and people on the web hear each other: it is one chat."""
    chat = ChatServer()
    async with serving(chat=chat) as served, chat.serve() as server:
        port = server.sockets[0].getsockname()[1]
        async with (
            served.join("wendy") as wendy,
            ChatClient(f"ws://127.0.0.1:{port}", "liz") as liz,
            ChatClient(f"{served.ws_url}/ws/rooms/other", "otto") as otto,
        ):
            await wendy.send("from the web")
            async for event in liz:
                if isinstance(event, Message):
                    assert (event.sender, event.text) == ("wendy", "from the web")
                    break
            await liz.send("from the library")
            await read_until(wendy, "[liz] from the library")
            await otto.send("from elsewhere")
            assert chat.people() == ["wendy", "liz"]
            _, rooms, _ = await served.request("/rooms")
            assert rooms == [{"room": "/", "people": 2}, {"room": "/rooms/other", "people": 1}]
            metrics = await served.metrics()
            assert metrics["chat_people"] == 3
            assert metrics["chat_connections"] == 2


async def test_metrics_count_truly() -> None:
    """Connections, messages both ways and close codes are what the clients counted, too."""
    async with serving() as served:
        async with served.join("alice") as alice, served.join("bob") as bob:
            await alice.recv()
            for number in range(10):
                await alice.send(f"{number}")
            await read_until(bob, "[alice] 9")
            metrics = await served.metrics()
            assert metrics["chat_connections"] == 2
            assert metrics["chat_messages_received_total"] == 12
            # Two welcomes, alice's join, bob's join to both, and ten lines to bob.
            assert metrics["chat_messages_sent_total"] == 15
            alice.transport.abort()
            await read_until(bob, "[system] >>> alice left the chat")
        await until(lambda: not served.web.connections)
        metrics = await served.metrics()
        assert metrics["chat_connections"] == 0
        assert metrics['chat_connections_closed_total{code="1006"}'] == 1
        assert metrics['chat_connections_closed_total{code="1000"}'] == 1
        await until(
            lambda: served.web.metrics.registry.get_sample_value("chat_loop_delay_seconds_count")
        )


@pytest.mark.parametrize(
    ("path", "kind", "word"),
    [
        ("/", "text/html", "<title>wslessons chat</title>"),
        ("/static/style.css", "text/css", "prefers-color-scheme"),
        ("/static/client.js", "text/javascript", "class ChatClient"),
        ("/static/page.js", "text/javascript", "textContent"),
        ("/healthz", "text/plain", "ok\n"),
        ("/metrics", "text/plain", "chat_connections 0.0"),
    ],
)
async def test_get(path: str, kind: str, word: str) -> None:
    """Each address answers with its kind of content and the headers that keep a page in bounds."""
    async with serving() as served:
        status, body, answer = await served.request(path)
        assert (status, answer.content_type) == (200, kind)
        assert word in body
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "frame-ancestors 'self'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        if tag := answer.headers.get("ETag"):
            status, _, _ = await served.request(path, headers={"If-None-Match": tag})
            assert status == 304


async def test_the_page_needs_nothing_from_elsewhere() -> None:
    """No address of another host, nothing absolute: it works offline and behind a prefix."""
    async with serving() as served:
        _, html, _ = await served.request("/")
        for word in ('src="http', 'href="http', 'src="/', 'href="/', "style=", "onclick"):
            assert word not in html


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *(("/", 404), ("/nowhere", 404), ("/ws/rooms/a%20b", 404), ("/ws/rooms/", 404)),
        *(("/%0aforged", 404), ("//evil.example/ws", 404), ("/ws/", 404)),
    ],
)
async def test_there_is_no_room_elsewhere(
    path: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A WebSocket to any other address is refused before the handshake, with a sentence."""
    caplog.set_level(logging.INFO)
    async with serving() as served:
        with pytest.raises(InvalidStatus) as refusal:
            await served.connect(path)
        assert refusal.value.response.status_code == status
        assert b"There is no room here: connect to" in refusal.value.response.body
    # A refusal is no error of ours, and it is in the log once.
    lines = [r for r in caplog.records if r.name.startswith(("wslessons", "uvicorn.error"))]
    assert [r for r in lines if r.levelno > logging.INFO] == []
    assert sum(f" {status} in " in r.getMessage() for r in lines) == 1


async def test_full_house_is_503() -> None:
    """When all rooms are taken, a new one is refused with 503."""
    async with serving(chat=ChatServer(max_rooms=1)) as served, served.join("alice"):
        with pytest.raises(InvalidStatus) as refusal:
            await served.connect("/ws/rooms/second")
        assert refusal.value.response.status_code == 503


async def test_drain_sends_everybody_away_and_lets_nobody_in() -> None:
    """Draining closes with 1001; meanwhile newcomers get 503 and a load balancer is told."""
    async with serving() as served, served.join("alice") as alice, served.join("bob") as bob:
        draining = asyncio.create_task(served.web.drain(0.2))
        await asyncio.sleep(0)
        with pytest.raises(InvalidStatus) as refusal:
            await served.connect()
        assert refusal.value.response.status_code == 503
        assert (await served.request("/healthz"))[:2] == (503, "draining\n")
        assert await closed(alice) == await closed(bob) == (1001, "the server is going away")
        await draining
        assert not served.web.connections


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def enter_mute(served: Web) -> Streams:
    """Connect a client that answers neither pings nor close frames, and say its name."""
    host, port = served.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=2**10)
    writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    writer.write(handshake("/ws"))
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"\x81\x84\0\0\0\0mute")
    return reader, writer


def stop_reading(writer: asyncio.StreamWriter) -> None:
    """Read nothing any more from the connection that `writer` writes to."""
    transport = writer.transport
    assert isinstance(transport, asyncio.Transport)
    transport.pause_reading()


async def test_a_peer_that_neither_reads_nor_answers_is_dropped() -> None:
    """Keepalive ends a mute connection also when megabytes wait for it in the buffer."""
    fast = {"ws_ping_interval": 0.2, "ws_ping_timeout": 0.2}
    async with serving(uvicorn=fast) as served, served.join("alice") as alice:
        _, writer = await enter_mute(served)
        await read_until(alice, "[system] >>> mute joined the chat")
        stop_reading(writer)
        speaking = asyncio.create_task(_flood(alice))
        await read_until(alice, "[system] >>> mute left the chat")
        speaking.cancel()
        await asyncio.wait([speaking])
        writer.transport.abort()


async def test_a_peer_that_is_refused_and_does_not_read_is_dropped() -> None:
    """A refusal that can't be delivered does not keep the socket: nothing is left of it."""
    async with serving() as served, served.join("alice") as alice:
        _, writer = await enter_mute(served)
        await read_until(alice, "[system] >>> mute joined the chat")
        stop_reading(writer)
        (mute,) = [each for each in served.server.connections if each.client[1] == port_of(writer)]
        while mute.writable.is_set():
            await alice.send("x" * 8000)
            await asyncio.sleep(0)
        writer.write(b"\x82\x80\0\0\0\0")
        await read_until(alice, "[system] >>> mute left the chat")
        await until(lambda: mute not in served.server.connections)
        writer.transport.abort()


def port_of(writer: asyncio.StreamWriter) -> int:
    """Return this end's port."""
    return writer.get_extra_info("sockname")[1]


async def test_a_peer_that_does_not_answer_a_close_frame_is_dropped() -> None:
    """It is given a second, and not the server's usual ten."""
    async with serving() as served:
        reader, writer = await enter_mute(served)
        writer.write(b"\x82\x80\0\0\0\0")
        began = asyncio.get_running_loop().time()
        await reader.read(-1)
        assert asyncio.get_running_loop().time() - began < 8
        writer.close()


async def test_a_peer_that_is_still_sending_hears_that_the_server_stops() -> None:
    """1012 reaches it: the socket is not closed in the face of what is on its way."""
    async with serving() as served, served.connect() as client:
        await client.send("alice")
        await client.recv()
        speaking = asyncio.create_task(_flood(client))
        reading = asyncio.create_task(closed(client))
        await until(lambda: served.web.metrics.meter.received > 5)
        await served.server.stop()
        assert (await reading)[0] == 1012
        await asyncio.wait([speaking])
        assert isinstance(speaking.exception(), ConnectionClosed)


async def test_a_stopping_server_waits_for_the_answer_to_its_close_frame() -> None:
    """The socket stays open until the peer has answered 1012; then the server closes it first."""
    async with serving() as served:
        reader, writer = await enter_mute(served)
        await until(served.chat.people)
        (protocol,) = served.server.connections
        stopping = asyncio.create_task(served.server.stop())
        await reader.readuntil(b"\x88\x02\x03\xf4")
        assert not protocol.transport.is_closing()
        writer.write(b"\x88\x82\0\0\0\0\x03\xf4")
        assert await reader.read(-1) == b""
        await stopping
        writer.close()


async def test_nothing_is_written_to_a_connection_that_is_going() -> None:
    """After a reset the state is open for a moment; a write then would be lost, and says so."""
    async with serving() as served, served.join("alice"):
        (protocol,) = served.server.connections
        assert protocol.write(text_frame(b"now"))
        protocol.transport.abort()
        assert not protocol.write(text_frame(b"too late"))
        protocol.when_writable(lambda: pytest.fail("it can't be written to"))
        await until(lambda: not served.server.connections)


async def _flood(client: Any) -> None:
    while True:
        await client.send("x" * 8000)


def test_frames_are_found_again() -> None:
    """Joined frames come apart as they went in, at each of the three lengths."""
    texts = [b"", b"a", b"b" * 125, b"c" * 126, b"d" * 65535, b"e" * 65536]
    assert list(payloads(b"".join(map(text_frame, texts)))) == texts


def test_client_exports() -> None:
    """The package names what it promises."""
    assert all(hasattr(web, name) for name in web.__all__)


async def test_serve_is_one_line() -> None:
    """`web.serve` gives a server with both addresses."""
    async with (
        asyncio.timeout(20),
        web.serve() as server,
        connect(f"{server.ws_url}/ws", proxy=None) as client,
    ):
        await client.send("alice")
        assert await client.recv() == "Welcome, alice!"
