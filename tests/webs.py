"""The chat on the web, served for tests, and its clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
import trustme
from websockets import connect
from websockets.asyncio.client import ClientConnection

from wslessons import asgi, web
from wslessons.chat import ChatServer
from wslessons.chat.events import SUBPROTOCOL


class Web:
    """A chat that is served on the web."""

    def __init__(self, chat: ChatServer, app: Any, server: asgi.AppServer) -> None:
        self.chat, self.app, self.server = chat, app, server
        self.url, self.ws_url = server.url, server.ws_url
        self.web: web.WebChat = app.state.web

    def connect(self, path: str = "/ws", **options: Any) -> Any:
        """Connect a WebSocket client; no name is said yet."""
        return connect(self.ws_url + path, proxy=None, close_timeout=2, **options)

    @contextlib.asynccontextmanager
    async def join(
        self, name: str, path: str = "/ws", **options: Any
    ) -> AsyncGenerator[ClientConnection]:
        """Connect a plain-text client and read up to its own join."""
        async with self.connect(path, **options) as client:
            await client.send(name)
            assert await client.recv() == f"Welcome, {name}!"
            await read_until(client, f"[system] >>> {name} joined the chat")
            yield client

    async def request(
        self, path: str, method: str = "GET", **options: Any
    ) -> tuple[int, Any, aiohttp.ClientResponse]:
        """Make an HTTP request; return its status, its body (JSON parsed), and the response."""
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.url + path, **options) as answer,
        ):
            text = await answer.text()
            return (
                answer.status,
                json.loads(text) if "json" in answer.content_type else text,
                answer,
            )

    async def ticket(self) -> str:
        """Get a ticket as the page does."""
        status, body, _ = await self.request("/ticket", "POST")
        assert status == 200
        return body["ticket"]

    async def metrics(self) -> dict[str, float]:
        """Get the metrics, by name and labels."""
        _, text, _ = await self.request("/metrics")
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}


@contextlib.asynccontextmanager
async def serving(
    *, uvicorn: dict[str, Any] | None = None, chat: ChatServer | None = None, **options: Any
) -> AsyncGenerator[Web]:
    """Serve a chat on the web inside a timeout; options are those of `web.application`."""
    chat = chat or ChatServer()
    app = web.application(chat, **options)
    async with (
        asyncio.timeout(40),
        asgi.serve(app, **web.OPTIONS | (uvicorn or {})) as server,
    ):
        yield Web(chat, app, server)


async def read_until(client: ClientConnection, line: str) -> list[str]:
    """Receive up to `line`; return all that came."""
    lines = [str(await client.recv())]
    while lines[-1] != line:
        lines.append(str(await client.recv()))
    return lines


async def join_json(client: ClientConnection, **hello: Any) -> dict[str, Any]:
    """Say hello over a connection with the subprotocol; return the welcome."""
    assert client.subprotocol == SUBPROTOCOL
    await client.send(json.dumps({"type": "hello", **hello}))
    return json.loads(await client.recv())


def certificate(folder: Path) -> tuple[Path, Path, ssl.SSLContext]:
    """Write a chain and its key; return them, and a client's context that trusts them.

    The authority behind them is in the same folder, in `authority.pem`.
    """
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(key))
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return chain, key, context
