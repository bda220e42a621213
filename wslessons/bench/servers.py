"""Servers to compare with: ``python -m wslessons.bench.servers NAME PORT``.

Each echo is the shortest that its library's documentation would have one write.
"""

from __future__ import annotations

import asyncio
import sys

import websockets

from wslessons.chat import ChatServer

__all__: list[str] = []


async def library(port: int, compression: str | None = None) -> None:
    """Serve by `websockets`, with nothing of ours.

    Args:
        port: the TCP port on 127.0.0.1.
        compression: the library's option.
    """

    async def echo(connection: websockets.ServerConnection) -> None:
        async for message in connection:
            await connection.send(f"Echo: {message}")

    async with websockets.serve(echo, "127.0.0.1", port, compression=compression) as server:
        await server.serve_forever()


async def compressed(port: int) -> None:
    """Serve by `websockets` as it is by default, with permessage-deflate."""
    await library(port, "deflate")


async def chat(port: int) -> None:
    """Serve our chat, without the bounds for strangers: the load comes from one address."""
    async with ChatServer().serve(port=port) as server:
        await server.serve_forever()


async def aiohttp(port: int) -> None:
    """Serve by aiohttp."""
    from aiohttp import WSMsgType, web

    async def echo(request: web.Request) -> web.WebSocketResponse:
        response = web.WebSocketResponse(compress=False)
        await response.prepare(request)
        async for message in response:
            if message.type is WSMsgType.TEXT:
                await response.send_str(f"Echo: {message.data}")
        return response

    application = web.Application()
    application.router.add_get("/", echo)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.get_running_loop().create_future()


async def picows(port: int) -> None:
    """Serve by picows."""
    from picows import (  # ty: ignore[import-not-found]
        WSFrame,
        WSListener,
        WSMsgType,
        WSTransport,
        WSUpgradeRequest,
        ws_create_server,
    )

    class Echo(WSListener):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            if frame.msg_type == WSMsgType.CLOSE:
                transport.send_close(frame.get_close_code())
                transport.disconnect()
            elif frame.msg_type == WSMsgType.TEXT:
                transport.send(WSMsgType.TEXT, b"Echo: " + frame.get_payload_as_bytes())

    def listener(request: WSUpgradeRequest) -> Echo:
        return Echo()

    server = await ws_create_server(listener, "127.0.0.1", port)
    await server.serve_forever()


SERVERS = {each.__name__: each for each in (library, compressed, chat, aiohttp, picows)}

if __name__ == "__main__":
    asyncio.run(SERVERS[sys.argv[1]](int(sys.argv[2])))
