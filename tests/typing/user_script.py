"""What a user might write with public names only; `test_typing.py` has type checkers read it."""

from __future__ import annotations

import asyncio

from websockets import ServerConnection, connect, serve

from wslessons import web
from wslessons.chat import Channel, ChatServer, Lagged
from wslessons.client import ChatClient, Disconnected
from wslessons.echo import echo
from wslessons.heartbeat import Heartbeat
from wslessons.link import Link
from wslessons.scaling.bus import from_url


async def beating(connection: ServerConnection) -> None:
    """Answer each message, and notice within 60 seconds when the client has vanished."""
    with Heartbeat(connection, interval=15, timeout=45):
        async for message in connection:
            await connection.send(message)


async def follow(channel: Channel[str]) -> list[str]:
    """Read two items, or say how many were missed."""
    reader = channel.subscribe()
    try:
        return [await reader.recv(), await reader.recv()]
    except Lagged as lag:
        return [f"missed {lag.skipped}"]


async def main() -> None:
    """Start one of each, and talk to it."""
    async with from_url("memory:") as bus:
        chat = ChatServer(capacity=100, bus=bus)
        async with chat.serve() as server:
            port: int = server.sockets[0].getsockname()[1]
            async with ChatClient(f"ws://127.0.0.1:{port}", "alice") as alice:
                ack = await alice.send("hello")
                print(ack.offset if ack is not None else "not acknowledged", chat.people())
                async for event in alice:
                    if isinstance(event, Disconnected):
                        print(event.code)
                    break
        async with web.serve(chat) as page:
            print(page.url)
    async with serve(echo, "127.0.0.1", 0) as echoing, serve(beating, "127.0.0.1", 0):
        port = echoing.sockets[0].getsockname()[1]
        async with Link(f"ws://127.0.0.1:{port}") as link, connect(link.url) as client:
            await client.send("hi")
            print(await client.recv(), link.connections[0].records)


if __name__ == "__main__":
    asyncio.run(main())
