"""Lesson 1's experiments: how a connection can end, and how long those wait who ask at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from websockets import ClientConnection, ConnectionClosed, ServerConnection, connect

from wslessons import serving
from wslessons.errors import UserError
from wslessons.link import Link, Recording
from wslessons.wire import FrameRecord

__all__ = ["Ending", "ending", "waits"]

TIMEOUT = 10.0
"""Seconds that an experiment may take."""


@dataclass(frozen=True)
class Ending:
    """How one connection ended, seen from both sides and on the wire.

    Attributes:
        code: the close code that the client reports.
        server: what the server's handler was told.
        wire: what went over the wire.
    """

    code: int | None
    server: str
    wire: Recording

    @property
    def close_frames(self) -> int:
        """How many close frames there were."""
        frames = (record for record in self.wire.records if isinstance(record, FrameRecord))
        return sum(frame.opcode == "CLOSE" for frame in frames)

    def __str__(self) -> str:
        return f"client: {self.code} | server: {self.server}"


async def ending(leave: Callable[[ClientConnection], Awaitable[object]]) -> Ending:
    """Connect a client to an echo server, let it `leave`, and tell how the connection ended.

    Args:
        leave: called with the client's connection; ends it in any way.

    Returns:
        How both ends saw it.
    """
    told = asyncio.get_running_loop().create_future()

    async def handler(connection: ServerConnection) -> None:
        try:
            while True:
                await connection.send(await connection.recv())
        except ConnectionClosed as closed:
            told.set_result(str(closed))

    async with (
        asyncio.timeout(TIMEOUT),
        serving.running(handler) as server,
        Link(serving.urls(server)[0]) as link,
    ):
        client = await connect(link.url, proxy=None, compression=None)
        await leave(client)
        await client.wait_closed()
        return Ending(client.close_code, await told, link.connections[0])


async def waits(url: str, clients: int = 4) -> list[float]:
    """Let so many clients ask the server at `url` something in the same moment.

    Args:
        url: an echo's.
        clients: how many.

    Returns:
        The seconds after which each had its answer, the shortest first.

    Raises:
        UserError: a client had no answer, since the server ended the connection.
    """
    async with asyncio.timeout(TIMEOUT):
        connections = [await connect(url, proxy=None) for _ in range(clients)]
        began = time.monotonic()

        async def ask(connection: ClientConnection) -> float:
            await connection.send("?")
            await connection.recv()
            return time.monotonic() - began

        try:
            return sorted(await asyncio.gather(*map(ask, connections)))
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else 1006
            raise UserError(
                f"a client got no answer, its connection ended with {code}: either the handler"
                " raised an exception, which lab.logbook.crash() shows, or it returned too early."
            ) from closed
        finally:
            await asyncio.gather(*(connection.close() for connection in connections))
