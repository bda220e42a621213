"""A TCP link to set between client and server: it can be watched, and it can be broken.

    async with serve(handler, "127.0.0.1", 8000), Link("ws://127.0.0.1:8000/chat") as link:
        async with connect(link.url) as websocket:
            await websocket.send("hello")
            with link.stall():  # pull the plug: bytes go nowhere, and nobody is told
                ...
    for record in link.connections[0].records:
        print(record.direction, record.text)

Nothing in the bytes is changed, so the client's Host header names the link and not the target.

Not handled here: TLS, which the link can't look into, and UDP. The parts: `wslessons.wire` decodes,
`recording` keeps what was seen, `faults` holds the switches, `pipe` obeys them, `relay` joins the
sockets, and `proxy` listens.
"""

from wslessons.link.faults import Fault
from wslessons.link.proxy import Link
from wslessons.link.recording import Chunk, Recording
from wslessons.link.relay import Connection

__all__ = ["Chunk", "Connection", "Fault", "Link", "Recording"]
