"""What stands before the web's routes: log, Origin, CORS and tickets, on both kinds of request."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from waits import closed
from webs import serving
from websockets import InvalidStatus, connect

from wslessons import asgi, web
from wslessons.chat.events import SUBPROTOCOL
from wslessons.errors import UserError
from wslessons.web.tickets import redact

FOREIGN = "https://evil.example"


# Origin and CORS.


@pytest.mark.parametrize("origin", [FOREIGN, "null", "http://127.0.0.1:1", "http://[", "file://"])
async def test_foreign_page_is_refused_with_403(origin: str) -> None:
    """A WebSocket and a POST from another origin are refused; a GET changes nothing and is not."""
    async with serving() as served:
        ticket = await served.ticket()
        with pytest.raises(InvalidStatus) as refusal:
            await served.connect(f"/ws?ticket={ticket}", origin=origin)
        assert refusal.value.response.status_code == 403
        assert b"its origin is not allowed" in refusal.value.response.body
        headers = {"Origin": origin}
        assert (await served.request("/ticket", "POST", headers=headers))[0] == 403
        assert (await served.request("/rooms", headers=headers))[0] == 200


async def test_own_page_and_listed_origins_are_let_in() -> None:
    """Our own origin needs no list, others do; a list does not shut out our own."""
    async with serving(origins=["https://Friend.example/"]) as served:
        for origin in (served.url, "https://friend.example"):
            ticket = await served.ticket()
            async with served.connect(f"/ws?ticket={ticket}", origin=origin) as client:
                await client.send("alice")
                assert await client.recv() == "Welcome, alice!"


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("https://app.example", "https://app.example"),
        ("https://app.example/", "https://app.example"),
        ("HTTPS://App.Example", "https://app.example"),
        ("https://app.example:443", "https://app.example"),
        ("https://app.example:", "https://app.example"),
        ("http://app.example:80/", "http://app.example"),
        ("http://app.example:443", "http://app.example:443"),
        ("https://app.example:08443", "https://app.example:8443"),
        ("https://b\u00fccher.example", "https://xn--bcher-kva.example"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://[0:0:0:0:0:0:0:1]", "http://[::1]"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
    ],
)
async def test_an_origin_has_one_form_for_each_check(given: str, normal: str) -> None:
    """However it was written, its page may ask for a ticket, read it, and open a WebSocket."""
    async with serving(origins=[given]) as served:
        headers = {"Origin": normal}
        status, body, answer = await served.request("/ticket", "POST", headers=headers)
        assert status == 200
        assert answer.headers["Access-Control-Allow-Origin"] == normal
        async with served.connect(f"/ws?ticket={body['ticket']}", origin=normal) as client:
            await client.send("alice")
            assert await client.recv() == "Welcome, alice!"


@pytest.mark.parametrize(
    "given",
    [
        *("app.example", "*", "null", "", "https://", "https://*.example", "file://"),
        *("https://app.example/chat", "https://app.example?a", "https://app.example/#a"),
        *("https://me@app.example", "ws://app.example", "https://app.example:99999"),
        *("https://app.example:0", "https://app example", "https://[::1", "https://a..example"),
        *("https://app.example:x", "//app.example", "https://stra\u00dfe.example"),
        *(f"https://{'a' * 64}.example", "https://app.example\r\nX: y", "https://[::1%25lo]"),
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(given: str) -> None:
    """What could never match is one sentence at the start, wherever origins are given."""
    for make in (
        lambda: web.application(origins=[given]),
        lambda: web.OriginCheck(Starlette(), [given]),
    ):
        with pytest.raises(UserError) as refused:
            make()
        assert refused.value.exit_code == 2
        assert repr(given) in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("http://chat.example", "chat.example", True),
        ("http://chat.example", "chat.example:80", True),
        ("https://chat.example", "chat.example:443", True),
        ("https://CHAT.example", "chat.EXAMPLE", True),
        ("http://chat.example:8000", "chat.example:8000", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("http://chat.example", "chat.example:8000", False),
        ("http://chat.example.evil.example", "chat.example", False),
        ("http://evil.example/chat.example", "chat.example", False),
        ("http://chat.example@evil.example", "chat.example", False),
        ("ftp://chat.example", "chat.example", False),
        ("http://", "", False),
        ("http://chat.example:x", "chat.example", False),
        ("http://evil.example@chat.example", "chat.example", False),
        ("http://evil.example\\@chat.example", "chat.example", False),
        ("http://chat.example/x", "chat.example", False),
        ("http://[0:0:0:0:0:0:0:1]:8000", "[::1]:8000", True),
    ],
)
def test_what_our_own_origin_is(origin: str, host: str, allowed: bool) -> None:
    """Host and port decide, with the defaults of the scheme; no prefix and no user info will do."""
    assert web.OriginCheck(Starlette()).allows(origin, host) is allowed


@given(st.text(), st.text())
def test_no_origin_makes_the_check_crash(origin: str, host: str) -> None:
    """Whatever a client writes into the two headers, the answer is yes or no."""
    assert web.OriginCheck(Starlette()).allows(origin, host) in (True, False)


async def test_cors_does_not_protect_a_websocket() -> None:
    """CORS middleware that allows one origin lets a WebSocket from any other through."""

    async def secret(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(f"secret of {websocket.cookies['session']}")
        await websocket.close()

    routes = [WebSocketRoute("/ws", secret)]
    cors = Middleware(CORSMiddleware, allow_origins=["https://bank.example"])
    check = Middleware(web.OriginCheck, origins=["https://bank.example"])
    hijack: Any = {"origin": FOREIGN, "additional_headers": {"Cookie": "session=alice"}}
    async with (
        asyncio.timeout(20),
        asgi.serve(Starlette(routes=routes, middleware=[cors])) as hijacked,
        asgi.serve(Starlette(routes=routes, middleware=[cors, check])) as safe,
    ):
        async with connect(f"{hijacked.ws_url}/ws", proxy=None, **hijack) as client:
            assert await client.recv() == "secret of alice"
        with pytest.raises(InvalidStatus):
            await connect(f"{safe.ws_url}/ws", proxy=None, **hijack)


async def test_cors_headers_for_listed_origins_only() -> None:
    """A listed origin may read answers, and ask for a ticket; another may not read."""
    friend = "https://friend.example"
    async with serving(origins=[friend]) as served:
        _, _, answer = await served.request("/rooms", headers={"Origin": friend})
        assert answer.headers["Access-Control-Allow-Origin"] == friend
        _, _, answer = await served.request("/rooms", headers={"Origin": FOREIGN})
        assert "Access-Control-Allow-Origin" not in answer.headers
        preflight = {"Origin": friend, "Access-Control-Request-Method": "POST"}
        status, _, _ = await served.request("/ticket", "OPTIONS", headers=preflight)
        assert status == 200


# Tickets.


async def test_a_page_without_ticket_is_told_so_in_a_way_that_it_can_read() -> None:
    """The handshake succeeds, then 1008 with a reason: a page never learns an HTTP status."""
    async with serving() as served:
        for offered in (None, [SUBPROTOCOL]):
            async with served.connect(origin=served.url, subprotocols=offered) as client:
                assert await closed(client) == (1008, "ticket missing: POST /ticket for one")


async def test_a_ticket_in_the_subprotocols_or_the_query() -> None:
    """Both places work, with either protocol; a ticket is never the subprotocol chosen."""
    async with serving() as served:
        offered = [SUBPROTOCOL, f"ticket.{await served.ticket()}"]
        async with served.connect(origin=served.url, subprotocols=offered) as client:
            assert client.subprotocol == SUBPROTOCOL
            await client.send('{"type": "hello", "name": "alice"}')
            assert '"type":"welcome"' in str(await client.recv())
        path = f"/ws?a=1&ticket={await served.ticket()}"
        async with served.connect(path, origin=served.url) as client:
            await client.send("alice")
            assert await client.recv() == "Welcome, alice!"


def test_nothing_further_in_sees_the_ticket() -> None:
    """The scope that goes on has it neither in the query, nor in the list, nor in the header."""
    scope = {
        "query_string": b"a=1&ticket=t1&b=",
        "subprotocols": [SUBPROTOCOL, "ticket.t2"],
        "headers": [(b"sec-websocket-protocol", b"x, ticket.t2"), (b"host", b"h")],
    }
    ticket, rest = web.TicketCheck.take(scope)
    assert ticket == "t1"
    assert rest == {
        "query_string": b"a=1&b=",
        "subprotocols": [SUBPROTOCOL],
        "headers": [(b"host", b"h")],
    }


async def test_scripts_need_a_ticket_only_when_told() -> None:
    """Who sends no Origin is let in, unless the application asks everyone; a bad ticket is bad."""
    async with serving() as served:
        async with served.connect() as client:
            await client.send("alice")
            assert await client.recv() == "Welcome, alice!"
        async with served.connect("/ws?ticket=made-up") as client:
            assert (await closed(client))[0] == 1008
    async with serving(tickets_for_all=True) as served, served.connect() as client:
        assert (await closed(client))[0] == 1008


def test_tickets_expire_and_cannot_be_forged() -> None:
    """Good until its lifetime is over, also twice; a changed one or another's never."""
    now = [1_000_000.0]
    office = web.Tickets("secret", lifetime=30, clock=lambda: now[0])
    ticket = office.issue("alice")
    assert office.check(ticket) == "alice"
    now[0] += 30.9
    assert office.check(ticket) == "alice"
    now[0] += 0.1
    with pytest.raises(web.BadTicket, match=r"^expired$"):
        office.check(ticket)
    now[0] = 1_000_000.0 - 10
    assert office.check(ticket) == "alice"
    now[0] -= 1
    with pytest.raises(web.BadTicket, match=r"^expired$"):
        office.check(ticket)
    now[0] = 1_000_000.0
    changed = ticket[:-1] + ("A" if ticket[-1] != "A" else "Q")
    others = web.Tickets("other secret", clock=lambda: now[0]).issue("alice")
    for bad in (changed, others, "", ".", "a.b.c", ticket + "x", ticket.replace(".", "")):
        with pytest.raises(web.BadTicket, match=r"^not one of ours$"):
            office.check(bad)


def test_tickets_of_one_office_open_the_doors_of_another_with_its_secret() -> None:
    """Several servers share a secret; by default each has its own."""
    assert web.Tickets("s").check(web.Tickets("s").issue()) == ""
    with pytest.raises(web.BadTicket):
        web.Tickets().check(web.Tickets().issue())


async def test_an_expired_ticket_is_refused_over_the_wire() -> None:
    """A ticket that was seen somewhere is worth nothing half a minute later."""
    now = [0.0]
    async with serving(tickets=web.Tickets(clock=lambda: now[0])) as served:
        path = f"/ws?ticket={await served.ticket()}"
        now[0] = 31
        async with served.connect(path, origin=served.url) as client:
            assert await closed(client) == (1008, "ticket expired: POST /ticket for one")


# The log.


async def test_no_ticket_is_ever_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Not in the query and not in a header, at no level, by no logger, uvicorn's included."""
    caplog.set_level(logging.DEBUG)
    for name in ("uvicorn.error", "uvicorn.access", "uvicorn.asgi", "wslessons"):
        caplog.set_level(logging.DEBUG, logger=name)
    async with serving(uvicorn={"access_log": True}) as served:
        ticket = await served.ticket()
        async with served.connect(f"/ws?ticket={ticket}", logger=logging.getLogger("test.quiet")):
            pass
        offered = [SUBPROTOCOL, f"ticket.{ticket}"]
        quiet = logging.getLogger("test.quiet")
        quiet.propagate = False
        async with served.connect(subprotocols=offered, logger=quiet):
            pass
        await served.request(f"/rooms?ticket={ticket}")
    messages = [r.getMessage() for r in caplog.records if r.name != "test.quiet"]
    assert any("ticket=..." in each for each in messages if "[accepted]" in each)
    assert any("ticket=..." in each for each in messages if "GET /rooms" in each)
    assert not [each for each in messages if ticket in each]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("/ws?ticket=abc&x=1", "/ws?ticket=...&x=1"),
        ("/ws?x=1&TICKET=a%2Eb", "/ws?x=1&TICKET=..."),
        ("chat.v1+json, ticket.a.b.c", "chat.v1+json, ticket...."),
        ("POST /ticket 200", "POST /ticket 200"),
        ("closing: ticket expired", "closing: ticket expired"),
    ],
)
def test_redaction(text: str, clean: str) -> None:
    """Tickets go, everything else stays."""
    assert redact(text) == clean


async def test_request_log_has_a_line_for_each_request(caplog: pytest.LogCaptureFixture) -> None:
    """HTTP one line, a WebSocket one at either end, a refusal one; a path forges no line."""
    caplog.set_level(logging.INFO, logger="wslessons.web.middleware")
    async with serving() as served:
        await served.request("/healthz?secret=1")
        async with served.join("alice"):
            pass
        with pytest.raises(InvalidStatus):
            await served.connect("/ws/rooms/a%0Ab")
        with pytest.raises(InvalidStatus):
            await served.connect(origin=FOREIGN)
    lines = [r.getMessage().partition(" ")[2] for r in caplog.records if "middleware" in r.name]
    starts = [
        "GET /healthz 200 in ",
        "WebSocket /ws 101",
        "WebSocket /ws closed with 1000 after ",
        "WebSocket /ws/rooms/a%0Ab 404 in ",
        "WebSocket /ws 403 in ",
    ]
    assert len(lines) == len(starts)
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True))
