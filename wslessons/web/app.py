"""The application: its routes, and the middleware around them.

| | |
|---|---|
| ``GET /`` | the chat page; what it needs is under ``/static`` |
| ``POST /ticket`` | a ticket for the WebSocket, as JSON |
| ``/ws``, ``/ws/rooms/NAME`` | WebSocket: the rooms ``/`` and ``/rooms/NAME`` of the chat |
| ``GET`` of these | why a WebSocket would be refused there; else 426 |
| ``GET /rooms`` | who is where, in numbers, as JSON; for observers only |
| ``GET /metrics`` | for Prometheus; for observers only |
| ``GET /healthz`` | 200, or 503 once it is about to stop |

A page finds all of these relative to its own address, so a proxy may put them under a prefix.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from wslessons import asgi
from wslessons.chat import ChatServer
from wslessons.chat.events import SUBPROTOCOL
from wslessons.chat.identity import Denied, Identity, Opening, bearer
from wslessons.connection import host_port
from wslessons.guard.addresses import LOOPBACK, Forwarded, Networks, came_through_a_proxy
from wslessons.guard.headers import SecurityHeaders
from wslessons.guard.http import SAFE_HEADERS
from wslessons.guard.origins import HostCheck, OriginCheck, normal_host, normal_origin, refuse
from wslessons.limits import HEARTBEAT, MAX_PER_ADDRESS, ConnectionLimit
from wslessons.serving import start_task
from wslessons.web.connection import WebConnection, connected
from wslessons.web.frames import FrameProtocol
from wslessons.web.metrics import Metrics
from wslessons.web.middleware import RequestLog, TicketCheck
from wslessons.web.page import page_routes
from wslessons.web.tickets import BadTicket, Redacted, Tickets

__all__ = ["OPTIONS", "Login", "WebChat", "application", "serve"]

Login = Callable[[Request], Awaitable[Identity]]
"""Says who makes a request, or raises `Denied`."""

OPTIONS: dict[str, Any] = {"ws": FrameProtocol, "ws_per_message_deflate": False}
"""How the application wants uvicorn: fan-out in whole frames, no compression of short lines.

It works without, and on any other ASGI server, slower."""

NO_STORE = {"Cache-Control": "no-store"}
LONGEST_HEADER = 8000
"""Bytes of a header, name and value, that a WebSocket handshake may have: a little less than the
8,192 of a line in `websockets`, since a browser adds some there."""


class WebChat:
    """The endpoints of one application; it is found as ``app.state.web``.

    Args:
        chat: whose rooms they offer.
        tickets: who issues tickets.
        observers: who may see the names of rooms, and the metrics, beside this machine.
        login: as for `application`.
    """

    def __init__(
        self,
        chat: ChatServer,
        tickets: Tickets,
        observers: Iterable[str] = (),
        login: Login | None = None,
    ) -> None:
        self.chat = chat
        self.tickets = tickets
        self.login = login
        self.observers = Networks([*LOOPBACK, *observers])
        self.metrics = Metrics(chat)
        self.connections: set[WebConnection] = set()
        self.draining = False
        self._empty = asyncio.Event()

    def bare_routes(self) -> list[BaseRoute]:
        """Return the routes with nothing around them: none of the checks of `application`.

        An application of your own rather mounts the whole one: ``Mount("/chat", application())``.
        """
        return [
            *page_routes(),
            Route("/ticket", self.ticket, methods=["POST"]),
            Route("/rooms", self.rooms),
            Route("/metrics", self.expose),
            Route("/healthz", self.health),
            WebSocketRoute("/ws", self.socket),
            Route("/ws", self.explain),
            WebSocketRoute("/ws/rooms/{name}", self.socket),
            Route("/ws/rooms/{name}", self.explain),
        ]

    async def ticket(self, request: Request) -> Response:
        """Issue a ticket, where there is a login to whoever is logged in.

        Args:
            request: Starlette's.

        Returns:
            The ticket and the seconds that it is valid, as JSON; or 401 or 403 and why.
        """
        subject = ""
        if self.login is not None:
            try:
                subject = msgspec.json.encode(await self.login(request)).decode()
            except Denied as denied:
                status = denied.status or HTTPStatus.FORBIDDEN
                return PlainTextResponse(f"{denied.reason}\n", status, NO_STORE)
        ticket = {"ticket": self.tickets.issue(subject), "expires_in": self.tickets.lifetime}
        return _json(ticket, NO_STORE)

    async def identify(self, opening: Opening) -> Identity:
        """Return whom a ticket names, which the chat's own `authenticate` may judge further.

        Args:
            opening: of the handshake, its token the ticket.

        Returns:
            Whom the connection belongs to.

        Raises:
            Denied: the ticket is none, or the chat says no.
        """
        if self.login is not None:
            try:
                subject = self.tickets.check(opening.token)
            except BadTicket as exc:
                raise Denied(f"ticket {exc}: POST /ticket for one", status=401) from None
            identity = msgspec.json.decode(subject, type=Identity)
            if self.chat.authenticate is None:
                return identity
            opening = replace(opening, identity=identity)
        assert self.chat.authenticate is not None
        return await self.chat.authenticate(opening)

    async def rooms(self, request: Request) -> Response:
        """List the rooms in which somebody is.

        Args:
            request: Starlette's.

        Returns:
            Each room's path and how many are in it, as JSON; or 403.
        """
        if not self.may_observe(request):
            return self._observers_only()
        rooms = self.chat.rooms.values()
        listed = [{"room": r.path, "people": len(r.members)} for r in rooms if r.members]
        return _json(listed, NO_STORE)

    async def expose(self, request: Request) -> Response:
        """Tell Prometheus.

        Args:
            request: Starlette's.

        Returns:
            The metrics in the format that the request prefers; or 403.
        """
        if not self.may_observe(request):
            return self._observers_only()
        body, media_type = self.metrics.expose(request.headers.get("accept", ""))
        return Response(body, headers=NO_STORE | {"Content-Type": media_type})

    async def health(self, request: Request) -> Response:
        """Tell a load balancer whether to send anybody here.

        Args:
            request: Starlette's.

        Returns:
            200, or 503 from the moment that `drain` begins.
        """
        status = HTTPStatus.SERVICE_UNAVAILABLE if self.draining else HTTPStatus.OK
        return PlainTextResponse("draining\n" if self.draining else "ok\n", status, NO_STORE)

    def may_observe(self, request: HTTPConnection) -> bool:
        """Return whether a request comes from an observer, or from this machine itself.

        What came through a proxy that nobody has named may come from anywhere.

        Args:
            request: of either kind.

        Returns:
            Whether it does.
        """
        client = request.client
        return (
            client is not None
            and client.host in self.observers
            and not came_through_a_proxy(request.scope)
        )

    @staticmethod
    def _observers_only() -> Response:
        sentence = "Only observers may see this: whoever runs the server can name them.\n"
        return PlainTextResponse(sentence, HTTPStatus.FORBIDDEN, NO_STORE)

    def refusal(self, request: HTTPConnection) -> tuple[str, tuple[HTTPStatus, str] | None]:
        """Return the room that a request is for, and why nobody may enter it by this request.

        Args:
            request: of either kind.

        Returns:
            The room's path; and None, or the status and the sentence of a refusal.
        """
        name = request.path_params.get("name")
        path = "/" if name is None else f"/rooms/{name}"
        if self.draining:
            return path, (HTTPStatus.SERVICE_UNAVAILABLE, "This server is about to stop.")
        host = request.client.host if request.client is not None else None
        return path, self.chat.refusal(path, host)

    async def explain(self, request: Request) -> Response:
        """Say over HTTP what a WebSocket would be told: a page is not told why a handshake failed.

        Where none would be refused, it is 426 (RFC 9110, section 15.5.22). A page that reads that
        after its handshake failed knows that a proxy keeps the upgrade to itself.

        Args:
            request: Starlette's.

        Returns:
            The status and the sentence of the refusal; or 426.
        """
        _, refusal = self.refusal(request)
        if any(len(name) + len(value) > LONGEST_HEADER for name, value in request.headers.raw):
            refusal = (
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                (
                    "The browser sends too much with each request, most likely cookies of this host"
                    " (HTTP 431): delete them, and join again."
                ),
            )
        status, sentence = refusal or (
            HTTPStatus.UPGRADE_REQUIRED,
            "Here is a WebSocket: ask for the upgrade.",
        )
        headers = NO_STORE | {"Upgrade": "websocket", "Connection": "Upgrade"}
        return PlainTextResponse(sentence.strip() + "\n", status, headers)

    async def socket(self, websocket: WebSocket) -> None:
        """Let somebody into a room, and serve them until they go.

        Args:
            websocket: Starlette's, not yet accepted.
        """
        path, refusal = self.refusal(websocket)
        if refusal is not None:
            status, sentence = refusal
            scope, receive, send = websocket.scope, websocket.receive, websocket.send
            await refuse(scope, receive, send, status, sentence.strip())
            return
        chosen = SUBPROTOCOL if SUBPROTOCOL in websocket.scope["subprotocols"] else None
        opening: Opening | Denied | None = None
        if self.login is not None or self.chat.authenticate is not None:
            headers, who = websocket.headers, host_port(websocket.scope.get("client"))
            token = websocket.scope.get("ticket") or bearer(headers)
            try:
                opening = await Opening(path, headers, who, self.identify).identify(token)
            except Denied as denied:
                if denied.status is not None:
                    scope, receive, send = websocket.scope, websocket.receive, websocket.send
                    await refuse(scope, receive, send, denied.status, denied.reason)
                    return
                opening = denied
        async with connected(
            websocket, path, self.metrics.meter, chosen, batched=self.chat.fanout
        ) as connection:
            connection.opening = opening
            self.connections.add(connection)
            try:
                await self.chat.handle(connection)
            finally:
                self.connections.discard(connection)
                if not self.connections:
                    self._empty.set()

    async def drain(self, seconds: float = 3.0, grace: float = 2.0) -> None:
        """Send everybody away with 1001 (going away), spread over `seconds`, and let nobody in.

        All of them at once would come back to the next server at once. Returns when all are gone,
        however they went.

        Args:
            seconds: over which the closing handshakes begin.
            grace: seconds that the last one has to end.
        """
        self.draining = True
        self._empty.clear()
        if not self.connections:
            return
        sending = [
            asyncio.create_task(self._send_away(each, seconds * random.random()))
            for each in self.connections
        ]
        try:
            async with asyncio.timeout(seconds + grace):
                await self._empty.wait()
        except TimeoutError:
            pass
        finally:
            for task in sending:
                task.cancel()
            await asyncio.wait(sending)

    @staticmethod
    async def _send_away(connection: WebConnection, delay: float) -> None:
        await asyncio.sleep(delay)
        await connection.close(1001, "the server is going away")


def named(host: str) -> list[str]:
    """Return what `hosts` should have for an address to bind: itself, where it is a name.

    >>> named("chat.lan"), named("0.0.0.0")
    (['chat.lan'], [])
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return [host] if host else []
    return []


def _nowhere(default: ASGIApp) -> ASGIApp:
    """Say 404 where there is no WebSocket; the framework by itself would say 403."""

    async def nowhere(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            sentence = "There is no room here: connect to /ws or /ws/rooms/NAME."
            await refuse(scope, receive, send, 404, sentence)
        else:
            await default(scope, receive, send)

    return nowhere


def _json(data: object, headers: dict[str, str]) -> Response:
    return Response(msgspec.json.encode(data), media_type="application/json", headers=headers)


def application(
    chat: ChatServer | None = None,
    *,
    hosts: Iterable[str] = (),
    origins: Iterable[str] = (),
    proxies: Iterable[str] = (),
    observers: Iterable[str] = (),
    max_per_address: int = MAX_PER_ADDRESS,
    tickets: Tickets | None = None,
    tickets_for_all: bool = False,
    login: Login | None = None,
    frames: Iterable[str] = (),
) -> Starlette:
    """Return the ASGI application that offers `chat`; `wslessons.asgi` serves it.

    Args:
        chat: the chat; it may be served elsewhere at the same time.
        hosts: the names that the server answers to beside its address and this machine's own
            names, such as ``chat.example.com``; see `HostCheck`.
        origins: the origins beside our own whose pages may talk to us, over HTTP and WebSocket.
        proxies: addresses or networks of the proxies that are believed in whom they forward.
        observers: addresses or networks that may see ``/rooms`` and ``/metrics`` beside this
            machine.
        max_per_address: WebSockets of one client behind a proxy, 0 for any number.
        tickets: who issues tickets; by default with a secret of this process.
        tickets_for_all: whether scripts, which send no Origin, need a ticket too.
        login: returns who makes a request, by its session's cookie for example, or raises `Denied`;
            it is asked before a ticket is issued, and then everybody needs one. Requests from
            pages of other origins never get here.
        frames: the origins whose pages may hold ours in a frame.

    Returns:
        The application; `WebChat` is its ``state.web``.

    Raises:
        UserError: one of the arguments can't be what it should.
    """
    # Now, for a sentence at once: middleware is made when the first request comes.
    hosts = [normal_host(host) for host in hosts]
    origins = [normal_origin(origin) for origin in origins]
    believed, tickets = Networks(proxies), tickets or Tickets()
    web = WebChat(chat or ChatServer(), tickets, observers, login)
    tickets_for_all = tickets_for_all or login is not None
    Redacted.install()

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        watching = start_task(web.metrics.watch_loop(), "measuring how late the loop is")
        yield
        watching.cancel()
        await asyncio.wait([watching])

    async def failed(request: Request, exc: Exception) -> Response:
        return PlainTextResponse("Something went wrong here.\n", 500, SAFE_HEADERS)

    app = Starlette(
        routes=web.bare_routes(),
        lifespan=lifespan,
        exception_handlers={500: failed},
        middleware=[  # the first is the outermost
            Middleware(Forwarded, proxies=believed, per_address=max_per_address),
            Middleware(RequestLog),
            Middleware(SecurityHeaders, frames=list(frames)),
            Middleware(HostCheck, hosts=hosts),
            Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"]),
            Middleware(OriginCheck, origins=origins),
            Middleware(TicketCheck, tickets=tickets, everyone=tickets_for_all),
        ],
    )
    app.router.default = _nowhere(app.router.default)
    # A redirect to the same path without its last slash would repeat whatever Host it was told.
    app.router.redirect_slashes = False
    app.state.web = web
    return app


@contextlib.asynccontextmanager
async def serve(
    chat: ChatServer | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    limit: ConnectionLimit | None = None,
    heartbeat: tuple[float, float] = HEARTBEAT,
    uvicorn: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncGenerator[asgi.AppServer]:
    """Serve a chat on the web while the block runs; the server has `url` and `ws_url`.

    Args:
        chat: the chat to offer; by default a new one.
        host: the address to bind.
        port: the TCP port; 0 takes a free one.
        limit: how many connections there may be, of either kind, in all and from one address.
        heartbeat: seconds between pings, and of silence after one until somebody is dropped.
        uvicorn: whatever else `uvicorn.Config` takes.
        options: those of `application`.

    Yields:
        The server.

    Raises:
        UserError: the address can't be bound, or an argument can't be what it should.
    """
    chat, limit = chat or ChatServer(), limit or ConnectionLimit()
    options["hosts"] = [*options.get("hosts", ()), *named(host)]
    options.setdefault("max_per_address", limit.per_address)
    settings = OPTIONS | {"ws_max_size": chat.max_size} | (uvicorn or {})
    app = application(chat, **options)
    async with asgi.serve(app, host, port, limit=limit, heartbeat=heartbeat, **settings) as server:
        yield server
