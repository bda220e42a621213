"""WebSockets of strangers: each ends, none takes more than its share, all are told why."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from waits import until

from wslessons import asgi
from wslessons.guard import websocket as guarded
from wslessons.testing.raw import dial, frame

SHORT = 0.3


class Site:
    """An application that is served, and what it was told."""

    def __init__(self) -> None:
        self.heard: list[str | bytes] = []
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.server: asgi.AppServer
        routes = [
            WebSocketRoute("/ws", self.listen),
            WebSocketRoute("/talk", self.talk),
            WebSocketRoute("/deaf", self.deaf),
        ]
        self.app = Starlette(routes=routes)

    async def listen(self, websocket: WebSocket) -> None:
        """Take what comes; keep it, but not without bound."""
        await websocket.accept()
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                self.ended.set_result(message.get("code", 1005))
                return
            text: str | None = message.get("text")
            if len(self.heard) < 10_000:
                self.heard.append(message["bytes"] if text is None else text)

    async def talk(self, websocket: WebSocket) -> None:
        """Send as much as the peer takes."""
        await websocket.accept()
        try:
            while True:
                await websocket.send_text("x" * 10_000)
        except WebSocketDisconnect:
            self.ended.set_result(0)

    async def deaf(self, websocket: WebSocket) -> None:
        """Take nothing."""
        await websocket.accept()
        await self.ended


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """A site of one's own, inside a timeout."""
    made = Site()
    async with asyncio.timeout(40), asgi.serve(made.app, ws_max_size=8192) as made.server:
        yield made
        if not made.ended.done():
            made.ended.set_result(0)


def the_only(site: Site) -> Any:
    """Return the server's end of the only connection."""
    (connection,) = [
        each for each in site.server.connections if isinstance(each, guarded.WebSocketConnection)
    ]
    return connection


@pytest.mark.parametrize("payload", [b"", b"a"])
async def test_fragments_without_end_are_refused(site: Site, payload: bytes) -> None:
    """Empty ones never reach the largest size: there is a bound on how many."""
    async with dial(site.server.url) as client:
        await client.handshake()
        client.send(frame(1, b"x", fin=False))
        client.send(frame(0, payload, fin=False) * 1022 + frame(0, payload, fin=True))
        client.send(frame(1, b"x", fin=False) + frame(0, payload, fin=False) * 5000)
        assert await client.closing() == (1009, "a message has at most 1024 fragments")
    assert await site.ended == 1009
    assert site.heard == ["x" + 1023 * payload.decode()]


async def test_invalid_utf8_is_1007_and_no_traceback(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """The peer is told where it went wrong; what it said before still counts."""
    caplog.set_level(logging.INFO)
    async with dial(site.server.url) as client:
        await client.handshake()
        client.send(frame(1, b"fine") + frame(1, b"a\xff") + frame(1, b"late"))
        assert await client.closing() == (1007, "invalid start byte at position 1")
        assert await client.rest() == b""
    assert await site.ended == 1007
    assert site.heard == ["fine"]
    assert not [r for r in caplog.records if r.exc_info or r.levelno > logging.INFO]


async def test_what_came_before_a_broken_rule_counts(site: Site) -> None:
    """Frames in front of a wrong one are not lost, though all came at once."""
    async with dial(site.server.url) as client:
        await client.handshake()
        client.send(frame(1, b"one") + frame(1, b"two") + b"\xff\x80\0\0\0\0")
        assert (await client.closing())[0] == 1002
    assert await site.ended == 1002
    assert site.heard == ["one", "two"]


async def test_pings_are_read_as_long_as_the_pongs_are(site: Site) -> None:
    """A flood of pings by one that reads nothing stops at the socket, and holds little here."""
    async with dial(site.server.url) as client:
        await client.handshake()
        client.stop_reading()
        connection = the_only(site)
        flood = asyncio.create_task(client.flood(frame(9, b"p" * 125) * 1000))
        await until(lambda: connection._choked)
        await asyncio.wait([flood], timeout=0.5)
        assert not flood.done()
        assert connection.transport.get_write_buffer_size() < 200_000
        assert len(connection._unread) < 600_000
        # It reads again, and all pongs come.
        client.read_again()
        flood.cancel()
        await asyncio.wait([flood])
        client.send(frame(9, b"last"))
        while await client.frame() != (10, b"last"):
            pass


@pytest.mark.parametrize("path", ["/ws", "/deaf"])
async def test_tiny_messages_wait_as_bytes(site: Site, path: str) -> None:
    """A burst of the smallest messages is taken bit by bit, and nobody else waits for its end."""
    async with dial(site.server.url) as client, dial(site.server.url) as other:
        await client.handshake(path)
        connection = the_only(site)
        await other.handshake("/deaf")
        flood = asyncio.create_task(client.flood(frame(1, b"a") * 30_000))
        for number in range(20):
            other.send(frame(9, b"%d" % number))
            while await other.frame() != (10, b"%d" % number):
                pass  # a ping of the server's
            assert connection.queue.qsize() < 1000
        flood.cancel()
        await asyncio.wait([flood])


@pytest.mark.parametrize("path", ["/ws", "/talk"])
async def test_a_peer_that_takes_nothing_is_dropped(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also without pings, whatever fills the buffer: data of ours, or our pongs."""
    caplog.set_level(logging.INFO, "wslessons")
    monkeypatch.setattr(guarded.WebSocketConnection, "write_timeout", SHORT)
    site = Site()
    async with (
        asyncio.timeout(40),
        asgi.serve(site.app, ws_ping_interval=None) as site.server,
        dial(site.server.url) as client,
    ):
        await client.handshake(path)
        client.stop_reading()
        flood = asyncio.create_task(client.flood(frame(9, b"p" * 125) * 1000))
        await until(lambda: not site.server.connections)
        await flood
    assert [r.getMessage().partition(" ")[2] for r in caplog.records] == [
        "takes nothing of what it is sent: dropped"
    ]


async def test_a_peer_that_vanishes_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """Pings that nobody answers end the connection, with a line that names the peer."""
    caplog.set_level(logging.INFO, "wslessons")
    site = Site()
    options: dict[str, Any] = {"ws_ping_interval": SHORT, "ws_ping_timeout": SHORT}
    async with (
        asyncio.timeout(40),
        asgi.serve(site.app, **options) as site.server,
        dial(site.server.url) as client,
    ):
        await client.handshake()
        assert (await client.frame())[0] == 9
        assert await site.ended == 1005
    assert "does not answer pings: dropped" in caplog.text


async def test_an_application_that_does_not_read_is_not_the_peers_fault() -> None:
    """Pongs that wait behind messages nobody takes are not missed: the peer stays."""
    site = Site()
    options: dict[str, Any] = {"ws_ping_interval": SHORT, "ws_ping_timeout": SHORT}
    async with (
        asyncio.timeout(40),
        asgi.serve(site.app, **options) as site.server,
        dial(site.server.url) as client,
    ):
        await client.handshake("/deaf")
        client.send(frame(1, b"a"))
        for _ in range(5):
            assert (await client.frame())[0] == 9
        site.ended.set_result(0)
