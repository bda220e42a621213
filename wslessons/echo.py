"""An echo server: what a client sends comes back.

In a script, with no Jupyter installed::

    import asyncio
    from websockets import serve
    from wslessons.echo import echo

    async def main():
        async with serve(echo, "127.0.0.1", 8765) as server:
            await server.serve_forever()

    asyncio.run(main())

From a shell: ``wslessons echo --port 8765``.

Not handled here, because the library does it: the opening handshake, putting fragmented messages
together, answering pings (RFC 6455, section 5.5.2), and the closing handshake.
"""

from __future__ import annotations

import logging

from websockets import ConnectionClosed, ServerConnection

from wslessons.connection import peer
from wslessons.logs import one_line

__all__ = ["RAW_MAX_SIZE", "echo", "echo_raw"]

logger = logging.getLogger(__name__)

RAW_MAX_SIZE = 2**24
"""Bytes that a message for `echo_raw` may have. The Autobahn cases send that much; the library's
default is a sixteenth of it."""


async def echo(connection: ServerConnection) -> None:
    """Send every text message back as ``Echo: `` + text, and every binary message unchanged.

    A handler for `websockets.serve`: it is called once for each connection and returns when that
    connection has ended, however it ended (RFC 6455, section 7); nothing a client does makes it
    raise.

    Args:
        connection: as `websockets.serve` hands it over.
    """
    logger.info("%s connected", peer(connection))
    try:
        while True:
            message = await connection.recv()
            await connection.send(f"Echo: {message}" if isinstance(message, str) else message)
    except ConnectionClosed as closed:
        logger.info("%s disconnected: %s", peer(connection), one_line(closed))


async def echo_raw(connection: ServerConnection) -> None:
    """Send every message back unchanged, as conformance suites such as Autobahn expect.

    Args:
        connection: as `websockets.serve` hands it over.
    """
    logger.info("%s connected", peer(connection))
    try:
        while True:
            await connection.send(await connection.recv())
    except ConnectionClosed as closed:
        logger.info("%s disconnected: %s", peer(connection), one_line(closed))
