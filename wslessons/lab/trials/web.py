"""Lesson 4's experiments: requests of both kinds, and what a page may do in somebody's browser."""

from __future__ import annotations

import asyncio
import json
import ssl
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from websockets import ConnectionClosed, InvalidStatus, connect

from wslessons import asgi
from wslessons.errors import UserError, extra
from wslessons.lab import commands

with extra("push"):
    import aiohttp
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route, WebSocketRoute
    from starlette.websockets import WebSocket


__all__ = ["Deaf", "ask", "bank", "browse", "fan_out", "handshake"]

TIMEOUT = 10.0


async def ask(url: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    """Send an HTTP request; return the status and the text of the answer.

    Args:
        url: whom to ask.
        method: of the request.
        headers: of the request.

    Returns:
        The two.
    """
    async with (
        asyncio.timeout(TIMEOUT),
        aiohttp.ClientSession() as session,
        session.request(method, url, headers=headers) as answer,
    ):
        return answer.status, (await answer.text()).strip()


async def handshake(url: str, say: str = "", **options: Any) -> str:
    """Open a WebSocket, say something if there is something to say, and tell what came of it.

    Args:
        url: where to.
        say: the first message.
        options: whatever else `websockets.connect` takes.

    Returns:
        The first answer; or "closed" with code and reason; or the HTTP status of a refusal; or why
        the server's certificate is not trusted.
    """
    try:
        async with asyncio.timeout(TIMEOUT), connect(url, proxy=None, **options) as socket:
            try:
                if say:
                    await socket.send(say)
                return f"it hears: {await socket.recv()}"
            except ConnectionClosed:
                return f"closed with {socket.close_code}: {socket.close_reason}"
    except ssl.SSLCertVerificationError as error:
        return f"certificate verify failed: {error.verify_message}"
    except InvalidStatus as error:
        body = error.response.body or b""
        return f"refused with HTTP {error.response.status_code}: {body.decode().strip()}"


async def login(request: Request) -> PlainTextResponse:
    """Log whoever comes in as alice, by a cookie."""
    answer = PlainTextResponse("You are logged in as alice.")
    answer.set_cookie("user", "alice", samesite="strict", httponly=True)
    return answer


async def balance(websocket: WebSocket) -> None:
    """Tell the balance of whoever the cookie says."""
    await websocket.accept()
    user = websocket.cookies.get("user")
    await websocket.send_text(f"balance of {user}: 1,000" if user else "nobody is logged in")
    await websocket.close()


def bank(*middleware: Middleware) -> Starlette:
    """Return a bank: its page logs you in, its WebSocket tells your balance.

    Args:
        middleware: what stands before both.

    Returns:
        The application.
    """
    routes = [Route("/", login), WebSocketRoute("/ws", balance)]
    return Starlette(routes=routes, middleware=list(middleware))


def site(url: str) -> tuple[str, str]:
    """Return the site of `url`: its scheme and the part of its name that somebody registered.

    Browsers look that part up (https://publicsuffix.org); here it is the last two words of a name.

    >>> site("http://127.0.0.1:8000/") == site("http://127.0.0.1:9000")
    True
    >>> site("https://www.bank.example"), site("https://evil.example")
    (('https', 'bank.example'), ('https', 'evil.example'))
    """
    parts = urlsplit(url)
    name = parts.hostname or ""
    try:
        ip_address(name)
    except ValueError:
        name = ".".join(name.split(".")[-2:])
    return parts.scheme, name


async def browse(page: str, url: str) -> str:
    """Do what alice's browser does for a page that opens a WebSocket to her bank.

    It says the truth about the page in `Origin`, which no page can change. It sends her cookie,
    which is ``SameSite=Strict``, only if page and bank are of one site; the port doesn't matter.

    Args:
        page: the origin of the page, such as ``https://evil.example``.
        url: of the bank, ``http://127.0.0.1:...``.

    Returns:
        What came of it, as `handshake` tells it.
    """
    headers = {"Cookie": "user=alice"} if site(page) == site(url) else {}
    socket = f"ws{url.removeprefix('http')}/ws"
    return await handshake(socket, origin=page, additional_headers=headers)


class Deaf:
    """An application whose WebSockets wait for the next price, and never for the client.

    Attributes:
        price: set when there is one.
    """

    def __init__(self) -> None:
        self.price = asyncio.Event()
        self.app = Starlette(routes=[WebSocketRoute("/ws", self.prices)])

    async def prices(self, websocket: WebSocket) -> None:
        """Push prices, and listen to nothing.

        Args:
            websocket: not accepted yet.
        """
        await websocket.accept()
        await self.price.wait()

    async def seconds_to_stop(self, limit: int | None, mercy: float = 2.0) -> float:
        """Serve it by uvicorn to one client, stop the server, and return how long that took.

        Args:
            limit: seconds, as uvicorn's `timeout_graceful_shutdown`; None for no limit.
            mercy: seconds after which the price comes.

        Returns:
            The seconds.
        """
        self.price.clear()
        server = await asgi.start(self.app, "127.0.0.1", 0, timeout_graceful_shutdown=limit)
        loop = asyncio.get_running_loop()
        async with connect(server.ws_url + "/ws", proxy=None):
            began = loop.time()
            stopping = asyncio.create_task(server.stop())
            await asyncio.wait([stopping], timeout=mercy)
            self.price.set()
            await stopping
            return loop.time() - began


async def fan_out(*contenders: str, receivers: int = 200, seconds: float = 0.5) -> dict[str, float]:
    """Run ``wslessons bench web``, once and shortly.

    Args:
        contenders: names of the bench's contenders.
        receivers: how many clients hear each message.
        seconds: for which each contender is measured.

    Returns:
        The deliveries per second of each.
    """
    words = ["--rounds", "1", "--seconds", str(seconds), "--receivers", str(receivers)]
    with TemporaryDirectory() as folder:
        found = Path(folder) / "web.json"
        words += ["--contenders", *contenders, "--json", str(found)]
        code, _, errors = await commands.run("bench", "web", *words)
        if code:
            raise UserError(f"the bench failed: {errors.strip()}")
        turns = json.loads(found.read_text())["turns"]
    return {name: turn[0]["rate"] for name, turn in turns.items()}
