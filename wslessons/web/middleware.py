"""What stands before the routes. Each class says on which kinds of request it acts.

They are plain ASGI: ``await app(scope, receive, send)`` with `scope["type"]` ``http`` or
``websocket``. Middleware that knows only HTTP lets a WebSocket through unseen. Starlette's
`BaseHTTPMiddleware` (and so every ``@app.middleware("http")``) is of that kind, and so is
`CORSMiddleware`.

What any server needs that strangers can reach stands in `wslessons.guard`.
"""

from __future__ import annotations

import logging
import time
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wslessons.chat.events import SUBPROTOCOL
from wslessons.connection import host_port
from wslessons.web.connection import close_code
from wslessons.web.tickets import PREFIX, BadTicket, Tickets

__all__ = ["RequestLog", "TicketCheck"]

logger = logging.getLogger(__name__)


class RequestLog:
    """Log each request without its query. Acts on both: a WebSocket gets a line at either end.

    Args:
        app: what stands behind it.
    """

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
                    self.tickets.check(ticket)
                    scope["ticket"] = ticket
                except BadTicket as exc:
                    await self._refuse(scope, receive, send, f"ticket {exc}: POST /ticket for one")
                    return
        await self.app(scope, receive, send)

    @staticmethod
    def take(scope: Scope) -> tuple[str | None, Scope]:
        """Return the ticket and a scope without it, so that nothing further in can log it.

        Args:
            scope: of a WebSocket's handshake.

        Returns:
            The ticket or None, and the scope.
        """
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
