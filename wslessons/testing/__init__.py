"""What tests of WebSocket programs need: a pytest plugin, and its parts to use without it.

    # conftest.py
    pytest_plugins = ["wslessons.testing.plugin"]

    # test_echo.py
    async def test_a_line_comes_back(ws_serve):
        url = await ws_serve(handler)
        async with connect(url) as connection:
            await connection.send("hi")
            assert await connection.recv() == "hi"

| fixture | what it gives |
|---|---|
| `ws_serve` | serves a handler on a free port; the test fails if the handler did |
| `ws_link` | a link to a URL that can be watched, slowed, stalled and cut |
| `ws_hostile` | a server that breaks the protocol in the way you ask for |
| `ws_dial` | a client that speaks bytes, also what no library would send |
| `virtual_run` | runs a coroutine on a clock that jumps: an hour of heartbeats in no time |

All end with the test, in bounded time. The plugin takes the extra `testing`.
"""

from wslessons.testing.hostile import Hostile
from wslessons.testing.raw import Raw, dial, frame, handshake
from wslessons.testing.virtual import VirtualLoop, connections, run, wire

__all__ = [
    "Hostile",
    "Raw",
    "VirtualLoop",
    "connections",
    "dial",
    "frame",
    "handshake",
    "run",
    "wire",
]
