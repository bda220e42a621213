"""The fleet on one port: plain HTTP for those who ask, three ways for those who want to be told.

- ``GET /fleet``: the snapshot, with an ETag. With ``If-None-Match`` (RFC 9110, section 13.1.2) the
  answer is 304 and empty when nothing has changed: polling as cheap as HTTP can make it.
- ``GET /fleet?wait=25``: the same, but 304 only after so many seconds without one: a long poll.
- ``GET /events``: server-sent events; ``Last-Event-ID`` resumes.
- ``/ws``: WebSocket; ``?since=`` and the id of the last state seen resumes.
- ``PUT /fleet/NAME`` with ``{"status": "failed"}``: how a build system reports.

Refusals are one sentence with the status that fits.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import weakref
from collections.abc import AsyncGenerator, Iterable
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from wslessons import asgi
from wslessons.chat.channel import Closed
from wslessons.errors import UserError
from wslessons.guard import HostCheck, OriginCheck, SecurityHeaders
from wslessons.guard.origins import normal_host, normal_origin
from wslessons.push import sse
from wslessons.push.fleet import Fleet, Follower, Update, live
from wslessons.serving import first_to_end, start_task

__all__ = ["OPTIONS", "Endpoints", "Report", "application", "serve"]

LONGEST_WAIT = 60.0
"""Seconds a long poll may last; many proxies give up on a silent response at that age."""

HEARTBEAT_INTERVAL = 15.0
"""Seconds of silence after which an event stream gets a comment, as the HTML standard advises."""

MOST_BODY = 1000

# Browsers keep idle connections for minutes; uvicorn would close a slow poller's after 5 seconds.
# Compression saves nothing on messages this short and costs memory a connection.
OPTIONS: dict[str, Any] = {"timeout_keep_alive": 75, "ws_per_message_deflate": False}
"""How `serve` wants uvicorn."""

# A tag may hold commas. Weak ones are as good as others here (RFC 9110, section 8.8.3.2).
_TAG = re.compile(r'(?:W/)?"([!#-~\x80-\xff]*)"')
_TAG_LIST = re.compile(rf"[ \t,]*(?:{_TAG.pattern}[ \t]*(?:,[ \t,]*|$))*")

_encode = msgspec.json.Encoder().encode


class Report(msgspec.Struct):
    """The body of a ``PUT``."""

    status: str


class Endpoints:
    """The handlers of one fleet's routes.

    Args:
        fleet: whose they are.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self._followers: weakref.WeakSet[Follower] = weakref.WeakSet()

    def bare_routes(self) -> list[BaseRoute]:
        """Return the routes, with none of the checks of `application` around them."""
        return [
            Route("/", self.index),
            Route("/fleet", self.snapshot),
            Route("/fleet/{service}", self.report, methods=["PUT"]),
            Route("/events", self.events),
            WebSocketRoute("/ws", self.socket),
        ]

    def hang_up(self) -> None:
        """End all responses that wait for a change: the server stops."""
        for follower in list(self._followers):
            follower.close()

    async def index(self, request: Request) -> Response:
        """Say what there is.

        Args:
            request: Starlette's.

        Returns:
            Text.
        """
        return PlainTextResponse(__doc__)

    async def snapshot(self, request: Request) -> Response:
        """Answer a poll, long or short.

        Args:
            request: Starlette's.

        Returns:
            The state as JSON, with its tag as the ETag; 304 if the client has it already.
        """
        known = request.headers.getlist("if-none-match")
        try:
            wait = float(request.query_params.get("wait", "0"))
        except ValueError:
            wait = math.nan
        if not 0 <= wait <= LONGEST_WAIT:
            return _refusal(400, f"wait is a number of seconds from 0 to {LONGEST_WAIT:.0f}.")
        tag = self.fleet.tag
        unchanged = _names(known, tag)
        if unchanged and wait:
            # No longer than the client stays: after its body comes the disconnection.
            await request.body()
            await first_to_end(self._follow(tag).changed(wait), request.receive())
            unchanged = tag == self.fleet.tag
        headers = {"ETag": f'"{self.fleet.tag}"', "Cache-Control": "no-cache"}
        if unchanged:
            return Response(status_code=304, headers=headers)
        body = _encode(self.fleet.snapshot())
        return Response(body, media_type="application/json", headers=headers)

    async def report(self, request: Request) -> Response:
        """Take a build system's report: 200 with the change, or 204 when it was so already.

        Args:
            request: Starlette's.

        Returns:
            That, or 400, 404 or 413 with a sentence.
        """
        service = request.path_params["service"]
        if service not in self.fleet.services:
            return _refusal(404, f"there is no service {service!r} here.")
        try:
            body = bytearray()
            async for piece in request.stream():
                body += piece
                if len(body) > MOST_BODY:
                    return _refusal(413, f"a report has at most {MOST_BODY} bytes.")
            change = self.fleet.report(service, msgspec.json.decode(body, type=Report).status)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return _refusal(400, 'a report is JSON such as {"status": "failed"}.')
        except UserError as exc:
            return _refusal(400, str(exc))
        if change is None:
            return Response(status_code=204)
        return Response(_encode(change), media_type="application/json")

    async def events(self, request: Request) -> Response:
        """Stream server-sent events until the reader goes, or the fleet ends.

        Args:
            request: Starlette's.

        Returns:
            The stream.
        """
        follower = self._follow(request.headers.get("last-event-id"))

        async def stream() -> AsyncGenerator[bytes]:
            with contextlib.suppress(Closed):
                while True:
                    try:
                        async with asyncio.timeout(HEARTBEAT_INTERVAL):
                            update = await follower.next()
                    except TimeoutError:
                        yield sse.HEARTBEAT
                    else:
                        yield sse.encode(_encode(update).decode(), self._id(update))

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)

    async def socket(self, websocket: WebSocket) -> None:
        """Send every update over a WebSocket until one side ends it; what it says is ignored.

        Args:
            websocket: Starlette's, not yet accepted.
        """
        await websocket.accept()
        try:
            await first_to_end(self._send(websocket), _hear(websocket))
        except Exception:
            # Who is sent nothing more must not stay connected and silent.
            await websocket.close(1011)
            raise

    async def _send(self, websocket: WebSocket) -> None:
        follower = self._follow(websocket.query_params.get("since"))
        with contextlib.suppress(WebSocketDisconnect):
            try:
                while True:
                    await websocket.send_text(_encode(await follower.next()).decode())
            except Closed:
                await websocket.close(1001)

    def _follow(self, tag: str | None) -> Follower:
        follower = self.fleet.follow(tag)
        self._followers.add(follower)
        return follower

    def _id(self, update: Update) -> str:
        return f"{self.fleet.boot}-{update.version}"


def _names(if_none_match: list[str], tag: str) -> bool:
    """Whether a request's ``If-None-Match`` headers name `tag`, in a list or as ``*``.

    Source: RFC 9110, sections 8.8.3 and 13.1.2.
    """
    value = ", ".join(if_none_match).strip()
    return value == "*" or (_TAG_LIST.fullmatch(value) is not None and tag in _TAG.findall(value))


def _refusal(status: int, sentence: str) -> Response:
    return PlainTextResponse(sentence[0].upper() + sentence[1:] + "\n", status)


async def _hear(websocket: WebSocket) -> None:
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


def application(
    fleet: Fleet,
    *,
    rate: float = 0,
    seed: int = 0,
    hosts: Iterable[str] = (),
    origins: Iterable[str] = (),
) -> Starlette:
    """Return the ASGI application that offers `fleet`; `wslessons.asgi` serves it.

    Args:
        fleet: what to offer.
        rate: random changes of the fleet per second, on average, while it is served; 0 for none.
        seed: the same one gives the same changes.
        hosts: the names that the server answers to beside its address and this machine's own.
        origins: the origins beside our own whose pages may watch over a WebSocket.

    Returns:
        The application.

    Raises:
        UserError: a host or an origin can't be one.
    """
    stack = [
        Middleware(SecurityHeaders),
        Middleware(HostCheck, hosts=[normal_host(host) for host in hosts]),
        Middleware(OriginCheck, origins=[normal_origin(origin) for origin in origins]),
    ]

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        drifting = start_task(live(fleet, rate, seed), "changing the fleet") if rate else None
        yield
        if drifting is not None:
            drifting.cancel()
            await asyncio.wait([drifting])

    endpoints = Endpoints(fleet)
    app = Starlette(routes=endpoints.bare_routes(), lifespan=lifespan, middleware=stack)
    app.router.redirect_slashes = False
    app.state.hang_up = endpoints.hang_up
    return app


@contextlib.asynccontextmanager
async def serve(
    fleet: Fleet, host: str = "127.0.0.1", port: int = 0, **options: Any
) -> AsyncGenerator[asgi.AppServer]:
    """Serve `fleet` while the block runs; the server has `url` and `ws_url`.

    Args:
        fleet: what to offer.
        host: the address to bind.
        port: the TCP port; 0 takes a free one.
        options: whatever else `uvicorn.Config` takes.

    Yields:
        The server.

    Raises:
        UserError: the address can't be bound.
    """
    async with asgi.serve(application(fleet), host, port, **OPTIONS | options) as server:
        yield server
