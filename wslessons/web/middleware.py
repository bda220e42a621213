"""What stands before the routes. Each class says on which kinds of request it acts.

They are plain ASGI: ``await app(scope, receive, send)`` with `scope["type"]` ``http`` or
``websocket``. Middleware that knows only HTTP lets a WebSocket through unseen. Starlette's
`BaseHTTPMiddleware` (and so every ``@app.middleware("http")``) is of that kind, and so is
`CORSMiddleware`.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import time
from collections.abc import Iterable
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wslessons.chat.events import SUBPROTOCOL
from wslessons.errors import UserError
from wslessons.serving import host_port
from wslessons.web.connection import close_code
from wslessons.web.tickets import PREFIX, BadTicket, Tickets

__all__ = [
    "OriginCheck",
    "RequestLog",
    "SecurityHeaders",
    "TicketCheck",
    "normal_origin",
    "refuse",
]

logger = logging.getLogger(__name__)

PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
SAFE_METHODS = {"GET", "HEAD", "OPTIONS", "TRACE"}
"""Methods that change nothing (RFC 9110, section 9.2.1)."""


_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_CHANGED_BY_IDNA_2003 = re.compile("[\u00df\u03c2\u200c\u200d]")
"""Letters that browsers keep in a host name and Python's codec replaces or drops."""


def normal_origin(text: str) -> str:
    """Return the origin `text` in the one form in which browsers send it.

    >>> normal_origin("HTTPS://B\u00fccher.example:443/")
    'https://xn--bcher-kva.example'

    Args:
        text: scheme and host, and a port where it isn't the scheme's own.

    Returns:
        Lower case, IDNA, without the default port and without a slash at the end.

    Raises:
        UserError: no browser ever sends such an origin; the exit code is 2.

    Source: RFC 6454, sections 4 and 6.
    """

    def wrong(why: str) -> UserError:
        sentence = f"the origin {text!r} {why}: give it as https://example.com or with a port."
        return UserError(sentence, exit_code=2)

    if not all(c.isprintable() and not c.isspace() for c in text):
        raise wrong("holds a blank or a character that can't be seen")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise wrong("is not a valid one") from None
    if parts.scheme not in ("http", "https"):
        raise wrong("does not begin with http:// or https://")
    if parts.path not in ("", "/") or any(mark in text for mark in "?#@"):
        raise wrong("has more than a scheme, a host and a port")
    if _CHANGED_BY_IDNA_2003.search(host):
        raise wrong("has a letter that is written differently there (give the host as xn--...)")
    try:
        if ":" in host:
            host = f"[{ipaddress.IPv6Address(host)}]"
            valid = "%" not in host
        else:
            host = host.encode("idna").decode()
            valid = all(map(_LABEL.fullmatch, host.split(".")))
    except ValueError:
        valid = False
    if not valid or port == 0:
        raise wrong("has no valid host or port")
    return f"{parts.scheme}://{host}" + ("" if port in (None, PORTS[parts.scheme]) else f":{port}")


async def refuse(scope: Scope, receive: Receive, send: Send, status: int, sentence: str) -> None:
    """Answer either kind of request with an HTTP status and a sentence.

    For a WebSocket that is ASGI's extension "websocket.http.response"; where a server lacks it,
    closing before accepting gives a bare 403.
    """
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get(
        "extensions", {}
    ):
        await send({"type": "websocket.close"})
        return
    await PlainTextResponse(sentence + "\n", status)(scope, receive, send)


class RequestLog:
    """Log each request without its query. Acts on both: a WebSocket gets a line at either end."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, and log it (ASGI)."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        began, is_http = time.perf_counter(), scope["type"] == "http"
        # Quoted again, since servers unquote it: a line break in it would forge a line.
        what = f"{scope['method'] if is_http else 'WebSocket'} {quote(scope['path'])}"
        who, status, code = host_port(scope.get("client")), 0, 1006

        async def noting_send(message: Message) -> None:
            nonlocal status, code
            kind = message["type"]
            if kind in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
            elif kind == "websocket.accept":
                status = 101
                logger.info("%s %s 101", who, what)
            elif kind == "websocket.close":
                status, code = status or 403, message.get("code", 1000)
            await send(message)

        async def noting_receive() -> Message:
            nonlocal code
            message = await receive()
            if message["type"] == "websocket.disconnect":
                code = close_code(message)
            return message

        try:
            await self.app(scope, noting_receive, noting_send)
        finally:
            took = time.perf_counter() - began
            if status == 101:
                logger.info("%s %s closed with %d after %.1f s", who, what, code, took)
            else:
                logger.info("%s %s %d in %.1f ms", who, what, status or 500, took * 1000)


class OriginCheck:
    """Let in only pages of ours. Acts on WebSockets, and on HTTP methods that change something.

    A browser sends a page's origin along with every WebSocket it opens (RFC 6454; RFC 6455, section
    10.2) and the page can't change it. No CORS rule keeps a foreign page from opening a WebSocket
    with the cookies of the user who looks at it: the server has to. Refused with 403.

    Clients that send no Origin are no browsers, and are let in.

    Args:
        app: what stands behind it.
        origins: those let in beside our own (the one whose host and port the request was sent to),
            such as ``https://example.com``; see `normal_origin`.

    Raises:
        UserError: an origin can't be one.
    """

    def __init__(self, app: ASGIApp, origins: Iterable[str] = ()) -> None:
        self.app = app
        self.origins = {normal_origin(origin) for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it (ASGI)."""
        if scope["type"] == "websocket" or (
            scope["type"] == "http" and scope["method"] not in SAFE_METHODS
        ):
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            if origin is not None and not self.allows(origin, headers.get("host", "")):
                sentence = "This page may not talk to this server: its origin is not allowed."
                await refuse(scope, receive, send, 403, sentence)
                return
        await self.app(scope, receive, send)

    def allows(self, origin: str, host: str) -> bool:
        """Return whether a page of `origin` may send requests to `host`."""
        if origin.lower() in self.origins:
            return True
        # The host and not the scheme: a proxy in front of us may be the one that speaks TLS.
        try:
            parts = urlsplit(origin)
            port = parts.port or PORTS.get(parts.scheme)
            ours = urlsplit(f"{parts.scheme}://{host}")
            same = (parts.hostname, port) == (ours.hostname, ours.port or PORTS.get(parts.scheme))
        except ValueError:
            return False
        return parts.scheme in ("http", "https") and parts.hostname is not None and same


class TicketCheck:
    """Ask for a ticket (see `wslessons.web.tickets`). Acts on WebSockets only.

    A refusal is accepted first and then closed with 1008 and a reason: a page is not told the
    status of a handshake that failed, so a 401 would look to it like a broken network.

    Args:
        app: what stands behind it.
        tickets: who checks them.
        everyone: whether scripts are asked too; by default who sends no Origin needs no ticket.
    """

    def __init__(self, app: ASGIApp, tickets: Tickets, everyone: bool = False) -> None:
        self.app = app
        self.tickets = tickets
        self.everyone = everyone

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it (ASGI)."""
        if scope["type"] == "websocket":
            ticket, scope = self.take(scope)
            if ticket is not None or self.everyone or "origin" in Headers(scope=scope):
                try:
                    if ticket is None:
                        raise BadTicket("missing")
                    scope["ticket"] = self.tickets.check(ticket)
                except BadTicket as exc:
                    await self._refuse(scope, receive, send, f"ticket {exc}: POST /ticket for one")
                    return
        await self.app(scope, receive, send)

    @staticmethod
    def take(scope: Scope) -> tuple[str | None, Scope]:
        """Return the ticket and a scope without it, so that nothing further in can log it."""
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        offered = scope.get("subprotocols", [])
        found = [value for key, value in query if key == "ticket"]
        found += [each.removeprefix(PREFIX) for each in offered if each.startswith(PREFIX)]
        kept = urlencode([(key, value) for key, value in query if key != "ticket"])
        headers = [item for item in scope["headers"] if item[0] != b"sec-websocket-protocol"]
        return found[0] if found else None, {
            **scope,
            "query_string": kept.encode(),
            "subprotocols": [each for each in offered if not each.startswith(PREFIX)],
            "headers": headers,
        }

    @staticmethod
    async def _refuse(scope: Scope, receive: Receive, send: Send, reason: str) -> None:
        await receive()  # websocket.connect
        # A browser drops a connection that chose none of the subprotocols it offered.
        chosen = SUBPROTOCOL if SUBPROTOCOL in scope["subprotocols"] else None
        await send({"type": "websocket.accept", "subprotocol": chosen})
        await send({"type": "websocket.close", "code": 1008, "reason": reason})


class SecurityHeaders:
    """Tell browsers what a page of ours may do. Acts on HTTP only.

    Nothing from elsewhere, nothing inline, no plugins; even if somebody's text became markup, no
    script in it would run.

    Args:
        app: what stands behind it.
        frames: the origins whose pages may hold ours in a frame.
    """

    def __init__(self, app: ASGIApp, frames: Iterable[str] = ()) -> None:
        self.app = app
        policy = (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
            " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors"
        )
        self.headers = {
            "Content-Security-Policy": " ".join([policy, "'self'", *frames]),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request and add the headers to its response (ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self.headers)
            await send(message)

        await self.app(scope, receive, sending)
