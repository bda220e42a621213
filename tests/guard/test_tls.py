"""TLS handshakes of strangers: they are counted, and they end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import ssl
import tracemalloc
from asyncio import sslproto
from pathlib import Path
from typing import Any

import pytest
import webs
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from waits import until
from websockets import ServerConnection, connect

from wslessons import asgi, serving
from wslessons.echo import echo
from wslessons.limits import ConnectionLimit
from wslessons.testing.raw import dial


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, ssl.SSLContext]:
    """A chain, its key, and a client's context that trusts the authority behind them."""
    return webs.certificate(tmp_path_factory.mktemp("tls"))


def application() -> Starlette:
    """An application that says hello in both ways."""

    async def hello(request: Request) -> Response:
        return PlainTextResponse("hello")

    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(await websocket.receive_text())
        await websocket.close()

    return Starlette(routes=[Route("/", hello), WebSocketRoute("/ws", socket)])


async def talk(url: str, context: ssl.SSLContext) -> None:
    """Be a client that means well, over HTTP and over a WebSocket."""
    host, port = url.partition("://")[2].split(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    assert (await reader.read()).endswith(b"hello")
    writer.close()
    async with connect(f"wss://{host}:{port}/ws", proxy=None, ssl=context) as client:
        await client.send("hi")
        assert await client.recv() == "hi"


async def test_an_unfinished_handshake_takes_a_place(
    files: tuple[Path, Path, ssl.SSLContext], caplog: pytest.LogCaptureFixture
) -> None:
    """Silent ones are counted, one too many is cut off, and whoever leaves makes room."""
    caplog.set_level(logging.INFO, "wslessons")
    chain, key, context = files
    limit = ConnectionLimit(2)
    options: dict[str, Any] = {"ssl_certfile": chain, "ssl_keyfile": key}
    async with (
        asyncio.timeout(50),
        asgi.serve(application(), limit=limit, **options) as server,
    ):
        await talk(server.url, context)
        await until(lambda: limit.open == 0)
        async with dial(server.url):
            async with dial(server.url):
                await until(lambda: limit.open == 2)
                async with dial(server.url) as third:
                    assert await third.rest() == b""
            await until(lambda: limit.open == 1)
            await talk(server.url, context)
        await until(lambda: limit.open == 0)
    lines = [record.getMessage() for record in caplog.records]
    assert any("was cut off: too many connections" in line for line in lines)
    assert any("did not finish the TLS handshake" in line for line in lines)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("data", [b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n"])
async def test_an_unfinished_handshake_ends(
    data: bytes, files: tuple[Path, Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silent, half, or no TLS at all: it ends in time, and its place is free."""
    monkeypatch.setattr(asgi, "REQUEST_TIMEOUT", 0.2)
    chain, key, _ = files
    limit = ConnectionLimit(5)
    options: dict[str, Any] = {"ssl_certfile": chain, "ssl_keyfile": key}
    async with (
        asyncio.timeout(50),
        asgi.serve(application(), limit=limit, **options) as server,
        dial(server.url) as client,
    ):
        client.send(data)
        await client.rest()
        await until(lambda: limit.open == 0)


@pytest.mark.parametrize("library", [False, True], ids=["asgi", "websockets"])
async def test_a_silent_handshake_takes_little_memory(
    library: bool, files: tuple[Path, Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio would keep 256 KiB for each; and what is larger than our buffer still arrives."""
    monkeypatch.setattr(sslproto.SSLProtocol, "max_size", 2**18)
    chain, key, context = files
    accept = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    accept.load_cert_chain(chain, key)
    count = 20

    gc.collect()

    def open_now() -> int:
        return sum(type(each) is sslproto.SSLProtocol for each in gc.get_objects())

    async with asyncio.timeout(50), contextlib.AsyncExitStack() as stack:
        if library:
            served = await stack.enter_async_context(serving.serve(echo, ssl=accept))
            url = serving.urls(served)[0].replace("ws:", "wss:")
        else:
            options: dict[str, Any] = {"ssl_certfile": chain, "ssl_keyfile": key}
            app_server = await stack.enter_async_context(asgi.serve(application(), **options))
            url = app_server.ws_url + "/ws"
        before = open_now()
        tracemalloc.start()
        try:
            for _ in range(count):
                await stack.enter_async_context(dial(url.removesuffix("/ws")))
            await until(lambda: open_now() >= before + count)
            assert tracemalloc.get_traced_memory()[0] / count < 100 * 1024
        finally:
            tracemalloc.stop()
        text = "x" * 100_000
        async with connect(url, proxy=None, ssl=context) as client:
            await client.send(text)
            assert str(await client.recv()).endswith(text)


async def test_a_server_stops_in_the_middle_of_handshakes(
    files: tuple[Path, Path, ssl.SSLContext],
) -> None:
    """They are cut off with it."""
    chain, key, _ = files
    limit = ConnectionLimit(5)
    options: dict[str, Any] = {"ssl_certfile": chain, "ssl_keyfile": key}
    async with asyncio.timeout(50):
        server = await asgi.start(application(), limit=limit, **options)
        async with dial(server.url) as client:
            await until(lambda: limit.open == 1)
            await server.stop()
            assert await client.rest() == b""
            assert limit.open == 0


async def test_an_unfinished_handshake_with_the_library_ends(
    files: tuple[Path, Path, ssl.SSLContext],
) -> None:
    """It has as long as the WebSocket's own, and not asyncio's minute."""
    chain, key, _ = files
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, key)

    async def never(connection: ServerConnection) -> None:
        raise AssertionError

    async with (
        asyncio.timeout(50),
        serving.serve(never, ssl=context, open_timeout=0.2) as server,
        dial(serving.urls(server)[0]) as client,
    ):
        assert await client.rest() == b""
