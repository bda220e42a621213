"""HTTP connections of strangers: each ends, none takes more than its share, all are told why."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from waits import until

from wslessons import asgi, limits
from wslessons.guard import http
from wslessons.limits import ConnectionLimit
from wslessons.testing.raw import UPGRADE, dial, frame, handshake

SHORT = 0.3


class Site:
    """An application that is served, and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer = asyncio.Event()
        self.server: asgi.AppServer
        routes = [
            Route("/", self.hello, methods=["GET", "POST"]),
            Route("/body", self.body, methods=["POST"]),
            Route("/slow", self.slow),
            Route("/large", self.large),
            WebSocketRoute("/ws", self.socket),
        ]
        self.app = Starlette(routes=routes)

    async def hello(self, request: Request) -> Response:
        """Answer at once, without a look at the body."""
        self.asked.append(request.url.path + "?" + request.url.query[:10])
        return PlainTextResponse("hello")

    async def body(self, request: Request) -> Response:
        """Answer with the size of the body."""
        return PlainTextResponse(f"{len(await request.body())} bytes")

    async def slow(self, request: Request) -> Response:
        """Answer when the test says so."""
        self.asked.append("/slow")
        await self.answer.wait()
        return PlainTextResponse("slow")

    async def large(self, request: Request) -> Response:
        """Answer with more than any socket's buffers hold."""
        return PlainTextResponse(b"x" * 30_000_000)

    async def socket(self, websocket: WebSocket) -> None:
        """Say what was said first."""
        await websocket.accept()
        await websocket.send_text(await websocket.receive_text())
        await websocket.close()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """A site of one's own, inside a timeout."""
    made = Site()
    async with asyncio.timeout(40), asgi.serve(made.app) as made.server:
        yield made


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the waits short."""
    monkeypatch.setattr(http.HttpConnection, "request_timeout", SHORT)
    monkeypatch.setattr(http.HttpConnection, "write_timeout", SHORT)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ("", b""),
        ("\r\n", b""),
        ("GET / HTTP/1.1\r\nHost: t\r\n", b"HTTP/1.1 408 Request Timeout"),
        ("POST /body HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\n12", b"HTTP/1.1 408"),
        ("POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n", b"HTTP/1.1 200"),
    ],
)
@pytest.mark.usefixtures("hurry")
async def test_a_request_that_does_not_end_is_ended(site: Site, sent: str, status: bytes) -> None:
    """Silent, or halfway through head or body: the connection ends, with a word where one fits."""
    async with dial(site.server.url) as client:
        client.send(sent)
        answer = await client.rest()
        assert answer.startswith(status)
        assert bool(answer) == bool(status)
        await until(lambda: not site.server.connections)


async def test_http_1_0_has_no_websockets(site: Site) -> None:
    """A proxy that speaks it to us passes on no upgrade that would work: a plain request."""
    async with dial(site.server.url) as client:
        client.send(handshake("/ws").replace(b"HTTP/1.1", b"HTTP/1.0"))
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 40"), answer


@pytest.mark.usefixtures("hurry")
async def test_one_byte_at_a_time_does_not_help(site: Site) -> None:
    """The time is for the whole head, however busy the client looks."""
    async with dial(site.server.url) as client:
        client.send("GET / HTTP/1.1\r\nHost: t\r\nX: ")

        async def drip() -> None:
            while True:
                client.send("x")
                await asyncio.sleep(SHORT / 10)

        dripping = asyncio.create_task(drip())
        assert b" 408 " in await client.rest()
        dripping.cancel()
        await asyncio.wait([dripping])


@pytest.mark.usefixtures("hurry")
async def test_a_slow_application_is_not_the_clients_fault(site: Site) -> None:
    """Once the request is there, the application may take its time, and the next one gets its."""
    async with dial(site.server.url) as client:
        client.send("GET /slow HTTP/1.1\r\nHost: t\r\n\r\n")
        await asyncio.sleep(3 * SHORT)
        site.answer.set()
        assert b" 200 " in await client.reader.readuntil(b"slow")
        client.send("GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        assert b" 200 " in await client.rest()


@pytest.mark.parametrize(
    ("head", "more"),
    [
        ("GET / HTTP/1.1\r\nHost: t\r\n", b"X-A: " + b"a" * 1000 + b"\r\n"),
        ("GET / HTTP/1.1\r\nHost: t\r\nX-A: ", b"a" * 1000),
        ("GET /?", b"a" * 1000),
        (f"GET /ws HTTP/1.1\r\n{UPGRADE}", b"X-A: a\r\n" * 100),
    ],
)
async def test_a_head_without_end_is_431(site: Site, head: str, more: bytes) -> None:
    """Headers are refused at 16 KiB, long before they are megabytes, and the log names the peer."""
    async with dial(site.server.url) as client:
        client.send(head)
        await client.flood(more * 10)
    assert not site.asked


async def test_a_large_head_is_told_what_is_too_large(site: Site) -> None:
    """431 with a sentence, and headers that let no page make anything of it."""
    async with dial(site.server.url) as client:
        client.send("GET / HTTP/1.1\r\nHost: t\r\n" + "X: y\r\n" * 4000 + "\r\n")
        answer = (await client.rest()).decode()
    assert answer.startswith("HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert "have at most 16384 bytes together" in answer
    assert "X-Content-Type-Options: nosniff" in answer
    assert "Content-Security-Policy: default-src 'none'" in answer


async def test_a_head_of_fifteen_kilobytes_is_served(site: Site) -> None:
    """Many cookies of a host are no attack; a body of megabytes is none, either."""
    async with dial(site.server.url) as client:
        client.send(f"GET /?a HTTP/1.1\r\nHost: t\r\nCookie: {'a' * 15_000}\r\n\r\n")
        assert b" 200 OK" in await client.reader.readuntil(b"hello")
        client.send("POST /body HTTP/1.1\r\nHost: t\r\nContent-Length: 3000000\r\n")
        client.send("Connection: close\r\n\r\n")
        client.send(b"x" * 3_000_000)
        assert (await client.rest()).endswith(b"3000000 bytes")


@pytest.mark.parametrize(
    "piece",
    [b"", b"a" * 10_000, b"b\r\n" + b"c" * 11 + b"\r\n", b"0\r\n" + b"X: " + b"y" * 20_000],
)
async def test_a_body_that_nobody_wants_ends(site: Site, piece: bytes) -> None:
    """An answer that did not wait for the body comes, and then the connection ends."""
    chunked = piece.startswith((b"b", b"0"))
    length = "Transfer-Encoding: chunked" if chunked else "Content-Length: 1000000000"
    async with dial(site.server.url) as client:
        client.send(f"POST / HTTP/1.1\r\nHost: t\r\n{length}\r\n\r\n")
        answer = await client.reader.readuntil(b"hello")
        assert b" 200 OK" in answer
        if piece:
            await client.flood(piece)
    await asyncio.sleep(0)
    assert len(site.asked) == 1


async def test_trailers_have_a_bound(site: Site) -> None:
    """What follows the last chunk is headers again, and counts as such."""
    async with dial(site.server.url) as client:
        client.send("POST /body HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
        await client.flood(b"X-A: aaaaaaaaaa\r\n" * 100)


async def test_one_request_at_a_time(site: Site) -> None:
    """Requests that come before the answer wait as bytes, and are all answered, in order."""
    count = 2000
    async with dial(site.server.url) as client:
        client.send("GET /slow HTTP/1.1\r\nHost: t\r\n\r\n")
        for number in range(count):
            client.send(f"GET /?{number} HTTP/1.1\r\nHost: t\r\n\r\n")
        await client.writer.drain()
        await until(lambda: site.asked)
        (connection,) = site.server.connections
        await asyncio.sleep(0.1)
        assert len(connection.pipeline) < 100
        site.answer.set()
        client.send("GET /?last HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        answers = await client.rest()
    assert answers.count(b"HTTP/1.1 200 OK") == count + 2
    assert site.asked == ["/slow", *(f"/?{number}" for number in range(count)), "/?last"]


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize("close", ["", "Connection: close\r\n"])
async def test_an_answer_that_nobody_takes_ends(
    site: Site, close: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that asks for much and reads nothing does not stay."""
    caplog.set_level(logging.INFO, "wslessons")
    async with dial(site.server.url) as client:
        client.stop_reading()
        client.send(f"GET /large HTTP/1.1\r\nHost: t\r\n{close}\r\n")
        await until(lambda: "takes nothing" in caplog.text)
        await until(lambda: not site.server.connections)


async def test_what_is_no_http_is_one_line_in_the_log(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """TLS on a port without, garbage: 400 with a sentence, and the line says who it was."""
    caplog.set_level(logging.DEBUG)
    for sent in (b"\x16\x03\x01\x00\xf6\x01", b"hello\r\n\r\n", b"GET / HTTP/1.1\r\nbad\r\n\r\n"):
        caplog.clear()
        async with dial(site.server.url) as client:
            client.send(sent)
            answer = await client.rest()
            host, port = client.writer.get_extra_info("sockname")
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"nosniff" in answer
        lines = [r for r in caplog.records if r.name.startswith(("wslessons", "uvicorn"))]
        assert [r.getMessage() for r in lines] == [
            f"{host}:{port} refused with 400: This is no HTTP request."
        ]
        assert lines[0].levelname == "INFO"


@pytest.mark.parametrize(
    ("more", "status"),
    [
        (f"Cookie: a={'x' * 9000}\r\n", 431),
        ("".join(f"X-{n}: 1\r\n" for n in range(130)), 431),
        ("Content-Length: 2\r\n\r\nhi", 400),
        ("Transfer-Encoding: chunked\r\n\r\n0\r\n", 400),
    ],
)
async def test_a_handshake_that_is_refused_is_answered(
    site: Site, more: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """No handshake hangs: what the library refuses is answered, logged, and over."""
    caplog.set_level(logging.INFO, "wslessons")
    async with dial(site.server.url) as client:
        client.send(f"GET /ws HTTP/1.1\r\nHost: t\r\n{UPGRADE}{more}\r\n")
        answer = await client.rest()
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert [f"refused with {status}: " in r.getMessage() for r in caplog.records] == [True]


async def test_what_comes_with_the_handshake_is_not_lost(site: Site) -> None:
    """Frames that a client sends too early are read once the handshake is done."""
    async with dial(site.server.url) as client:
        request = f"GET /ws HTTP/1.1\r\nHost: t\r\n{UPGRADE}\r\n".encode()
        client.send(request + frame(9, b"early") + frame(1, b"hi"))
        answer = await client.reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert await client.frame() == (10, b"early")
        assert await client.frame() == (1, b"hi")


async def test_an_upgrade_to_something_else_is_an_ordinary_request(site: Site) -> None:
    """Who would rather speak HTTP/2 is answered in HTTP/1.1 (RFC 9110, section 7.8)."""
    async with dial(site.server.url) as client:
        client.send("GET / HTTP/1.1\r\nHost: t\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n")
        assert b" 200 OK" in await client.reader.readuntil(b"hello")
        client.send("GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        assert b" 200 OK" in await client.rest()


# How many.


def answers(raw: bytes) -> bytes:
    """Return the first line of a response."""
    return raw.partition(b"\r\n")[0]


async def test_one_too_many_is_told_so(site: Site) -> None:
    """503 before any request is read; who leaves makes room; a WebSocket keeps its place."""
    async with (
        asgi.serve(site.app, limit=ConnectionLimit(2)) as server,
        dial(server.url) as first,
        dial(server.url) as second,
    ):
        assert answers(await first.handshake()) == b"HTTP/1.1 101 Switching Protocols"
        second.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        await second.reader.readuntil(b"hello")
        async with dial(server.url) as third:
            refused = await third.rest()
        assert answers(refused) == b"HTTP/1.1 503 Service Unavailable"
        assert refused.endswith(b"Too many connections: try again later.\n")
        # The one inside is served as before.
        first.send(frame(1, b"still here"))
        assert await first.frame() == (1, b"still here")
        first.send(frame(8))
        await first.rest()
        await until(lambda: len(server.connections) == 1)
        async with dial(server.url) as fourth:
            assert answers(await fourth.handshake()) == b"HTTP/1.1 101 Switching Protocols"


async def test_too_many_from_one_address(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """429 for that one, also while there is room for others."""
    monkeypatch.setattr(limits, "_key", lambda host: host)
    async with (
        asgi.serve(site.app, limit=ConnectionLimit(per_address=1)) as server,
        dial(server.url) as first,
        dial(server.url) as second,
    ):
        assert answers(await second.rest()) == b"HTTP/1.1 429 Too Many Requests"
        first.send("GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        assert answers(await first.rest()) == b"HTTP/1.1 200 OK"
        await until(lambda: not server.connections)
        async with dial(server.url) as third:
            third.send("GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
            assert answers(await third.rest()) == b"HTTP/1.1 200 OK"


async def test_a_crowd_in_front_of_a_full_server_costs_it_nothing(site: Site) -> None:
    """Of hundreds some are told why; none stays, and there is room again at once."""
    async with asgi.serve(site.app, limit=ConnectionLimit(1)) as server, dial(server.url) as first:
        first.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        await first.reader.readuntil(b"hello")

        async def try_it() -> bytes:
            async with dial(server.url) as client:
                return answers(await client.rest())

        told = await asyncio.gather(*(try_it() for _ in range(300)))
        assert set(told) <= {b"HTTP/1.1 503 Service Unavailable", b""}
        assert b"HTTP/1.1 503 Service Unavailable" in told
        await until(lambda: len(server.connections) == 1)


async def test_a_connection_class_of_somebody_else_is_counted_as_far_as_it_can_be(
    site: Site,
) -> None:
    """uvicorn's own WebSocket gives no place back, so it takes none."""
    async with asgi.serve(site.app, limit=ConnectionLimit(1), ws="websockets-sansio") as server:
        for _ in range(3):
            async with dial(server.url) as client:
                assert answers(await client.handshake()) == b"HTTP/1.1 101 Switching Protocols"


async def test_a_tls_handshake_that_does_not_end_is_ended(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever says nothing to a server that speaks TLS does not stay, either."""
    monkeypatch.setattr(asgi, "REQUEST_TIMEOUT", SHORT)
    issued = trustme.CA().issue_cert("127.0.0.1")
    path = tmp_path / "chain.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(str(path))
    async with asgi.serve(site.app, ssl_certfile=str(path)) as server:
        for sent in ("", "GET / HTTP/1.1\r\n", "\x16\x03\x01"):
            async with dial(server.url) as client:
                client.send(sent)
                assert b"HTTP" not in await client.rest()


async def test_a_peer_that_has_gone_already_costs_no_traceback(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Who connects to a full server and resets the connection at once leaves nothing in the log."""
    async with asgi.serve(site.app, limit=ConnectionLimit(1)) as server, dial(server.url) as first:
        first.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        await first.reader.readuntil(b"hello")
        host, port = server.url.removeprefix("http://").split(":")
        for _ in range(50):
            gone = socket.create_connection((host, int(port)))
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gone.close()
        await until(lambda: "too many" in caplog.text or len(server.connections) == 1)
        async with dial(server.url) as last:
            await last.rest()
    assert "Traceback" not in caplog.text
    assert "Exception" not in caplog.text
