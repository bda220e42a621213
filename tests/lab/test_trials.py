"""The lessons' experiments, each with what it must find."""

from __future__ import annotations

import asyncio
import time

from websockets import ClientConnection, ServerConnection

from wslessons import serving
from wslessons.lab.trials import echo


async def test_ending_tells_both_sides_and_the_wire() -> None:
    """A goodbye is two close frames; whoever vanishes sends none, and 1006 stands for that."""

    async def vanish(client: ClientConnection) -> None:
        client.transport.abort()

    polite = await echo.ending(lambda client: client.close(1001, "tab closed"))
    assert (polite.code, polite.close_frames) == (1001, 2)
    assert polite.server.startswith("received 1001 (going away) tab closed")
    gone = await echo.ending(vanish)
    assert (gone.code, gone.close_frames) == (1006, 0)
    assert str(gone) == "client: 1006 | server: no close frame received or sent"


async def test_waits_are_added_up_only_where_the_loop_is_blocked() -> None:
    """Four who ask at once wait for each other's naps if the naps block."""

    async def blocking(connection: ServerConnection) -> None:
        async for message in connection:
            time.sleep(0.05)  # noqa: ASYNC251 -- the mistake that is measured
            await connection.send(message)

    async def at_once(connection: ServerConnection) -> None:
        async for message in connection:
            await everybody.wait()
            await connection.send(message)

    everybody = asyncio.Barrier(4)
    for handler, least in ((blocking, 0.2), (at_once, 0)):
        server = await serving.serve(handler, "127.0.0.1", 0)
        seconds = await echo.waits(serving.urls(server)[0], clients=4)
        assert len(seconds) == 4
        assert seconds[-1] >= least
        await serving.shut(server, 1001, "", 0.5)
