"""The contenders of ``wslessons bench heartbeat``, each a server in a process of its own.

    python -m wslessons.bench.heartbeat_server wslessons 15 5000

The arguments: the contender, the seconds between two pings, and how many connections to have room
for. All three servers only wait for messages; they differ in who pings:

- ``wslessons``: a `wslessons.heartbeat.heartbeat.Heartbeat` a connection;
- ``library``: the keepalive of `websockets`, a task a connection;
- ``none``: nobody.
"""

from __future__ import annotations

import asyncio
import os
import sys

from websockets import ConnectionClosed, ServerConnection, serve

from wslessons.bench.tools import answer_parent, raise_descriptor_limit
from wslessons.heartbeat.heartbeat import Heartbeat

CONTENDERS = ("wslessons", "library", "none")
TIMEOUT = 3
"""Intervals of silence until a connection is dropped."""


async def listen(connection: ServerConnection) -> None:
    """Wait for messages, and for the end."""
    try:
        while True:
            await connection.recv()
    except ConnectionClosed:
        pass


async def main(contender: str, interval: float) -> None:
    """Serve until the parent ends.

    Args:
        contender: one of `CONTENDERS`.
        interval: seconds between two pings.
    """
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    async def beating(connection: ServerConnection) -> None:
        with Heartbeat(connection, interval, interval * TIMEOUT):
            await listen(connection)

    server = await serve(
        beating if contender == "wslessons" else listen,
        "127.0.0.1",
        0,
        backlog=1024,
        compression=None,
        ping_interval=interval if contender == "library" else None,
        ping_timeout=interval * TIMEOUT,
    )

    def end() -> None:
        loop.call_soon_threadsafe(stop.set)

    answer_parent(server.sockets[0].getsockname()[1], end)
    await stop.wait()
    # No good-byes: thousands of them would only delay the next contender.
    os._exit(0)


if __name__ == "__main__":
    raise_descriptor_limit(int(sys.argv[3]) + 100)
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
