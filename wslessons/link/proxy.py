"""The link itself: it listens, and joins each client to the target."""

from __future__ import annotations

import asyncio
import random
from typing import Self
from urllib.parse import SplitResult, urlsplit

from wslessons.errors import UserError
from wslessons.link.faults import Fault, Faults
from wslessons.link.relay import Connection, Endpoint, Options

__all__ = ["Link"]

HOST = "127.0.0.1"


class Link(Faults):
    """Pass TCP connections on to `target` ("ws://HOST:PORT/PATH" or "HOST:PORT"), recording all.

    Entering it listens on a free port of 127.0.0.1; `url` is what to connect to in place of the
    target. Leaving it, or `close`, ends every connection and task at once. The faults (`stall`,
    `cut`, `close_half`, `delay`, `throttle`, `drop_after`) are methods of `Faults`.

    A target that refuses is no error: the client's connection is reset and a record says why.

    Args:
        target: where to pass connections on to.
        buffer: bytes held in each direction of a connection, and one read more, before the sender
            feels backpressure.
        keep: how many records of a connection are kept.
        keep_bytes: bytes kept of a connection in its raw chunks and its records together; the
            oldest go first.
        keep_connections: how many connections that are over are kept.
        open_timeout: seconds to reach the target.
        rng: draws the jitter of `delay`; ``random.Random(seed)`` gives the same draws each time.

    Raises:
        UserError: `target` can't be used.
    """

    def __init__(
        self,
        target: str,
        *,
        buffer: int = 65_536,
        keep: int = 1000,
        keep_bytes: int = 2**20,
        keep_connections: int = 100,
        open_timeout: float = 10.0,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__()
        parts = _split(target)
        self.target = (parts.hostname or "", parts.port or 80)
        self.connections: list[Connection] = []
        """The open connections and the last ones that are over, oldest first."""
        self.accepted = 0
        """Connections so far, those forgotten included."""
        self._resource = parts.path + (f"?{parts.query}" if parts.query else "")
        self._options = Options(buffer, keep, keep_bytes, open_timeout)
        self._keep_connections = keep_connections
        self._rng = rng or random.Random()
        self._server: asyncio.Server | None = None
        self._closing = False
        self._port = 0
        self._waiting: list[tuple[int, asyncio.Future[Connection]]] = []

    @property
    def port(self) -> int:
        """The port it listens on.

        Raises:
            RuntimeError: the link has not been entered.
        """
        if not self._port:
            raise RuntimeError("the link isn't listening yet: enter it with async with")
        return self._port

    @property
    def url(self) -> str:
        """The URL to connect to, with the target's path and query."""
        return f"ws://{HOST}:{self.port}{self._resource}"

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, HOST, 0)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop listening and close all connections at once; closing again does nothing."""
        if self._server is None:
            return
        self._closing = True
        self._server.close()
        for connection in self.connections:
            connection.abort()
        for connection in list(self.connections):
            await connection.wait_closed()
        for _, future in self._waiting:
            if not future.done():
                future.set_exception(ConnectionError("the link was closed"))
        await self._server.wait_closed()
        self._server = None

    async def wait_for_connection(self, number: int = 1) -> Connection:
        """Wait until a connection was accepted.

        Args:
            number: 1 for the first.

        Returns:
            The connection, which may be over already.

        Raises:
            LookupError: it is over and was forgotten.
            ConnectionError: the link closed before it came.
        """
        for connection in self.connections:
            if connection.number == number:
                return connection
        if number <= self.accepted:
            raise LookupError(f"connection {number} is over and no longer kept")
        future: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._waiting.append((number, future))
        try:
            return await future
        finally:
            self._waiting.remove((number, future))

    def _accept(self) -> Endpoint:
        self.accepted += 1
        connection = Connection(self.accepted, self, self.target, self._rng, self._options)
        self.connections.append(connection)
        if self._closing:  # accepted in the same turn of the loop
            connection.abort()
        over = [connection for connection in self.connections if connection.closed]
        for connection_over in over[: max(0, len(over) - self._keep_connections)]:
            self.connections.remove(connection_over)
        for number, future in self._waiting:
            if number == self.accepted and not future.done():
                future.set_result(connection)
        return Endpoint(connection, out=connection.up, into=connection.down)

    def _changed(self, fault: Fault, *, began: bool) -> None:
        for connection in list(self.connections):
            if not connection.closed:
                connection.note_fault(fault, began=began)
                connection.pump()


def _split(target: str) -> SplitResult:
    """Return the parts of a target URL, or raise a `UserError` that says what is wrong with it."""
    example = 'give it as "ws://HOST:PORT/PATH" or "HOST:PORT"'
    try:
        parts = urlsplit(target if "://" in target else f"ws://{target}")
        port, host = parts.port, parts.hostname
    except ValueError as exc:
        raise UserError(
            f"The link's target {target!r} is not a valid URL ({exc}): {example}."
        ) from None
    if parts.scheme in ("wss", "https"):
        raise UserError(f"The link can't look into TLS, as {target!r} asks for: use ws://.")
    if parts.scheme not in ("ws", "http"):
        raise UserError(f"The link can't pass {parts.scheme}:// on, as in {target!r}: {example}.")
    if not host or port == 0 or (port is None and "://" not in target):
        raise UserError(f"The link's target {target!r} lacks a host or a port: {example}.")
    return parts
