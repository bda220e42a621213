"""Run an ASGI application with uvicorn in a loop that is running already, such as a kernel's.

`uvicorn.run` is for a process of its own: it brings a loop, takes over the signals, and ends with
`sys.exit`. Here the loop and the signals stay their owner's, port 0 takes a free one, and `stop`
takes bounded time.

Not handled here: several workers and reloading.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncGenerator, Generator
from typing import Any

from wslessons.connection import host_port
from wslessons.errors import UserError, extra
from wslessons.limits import HEARTBEAT, ConnectionLimit
from wslessons.serving import explained_bind_errors, small_tls_buffers

with extra("web"):
    import uvicorn

    from wslessons.guard.http import REQUEST_TIMEOUT, HttpConnection
    from wslessons.guard.tls import TlsDoor
    from wslessons.guard.websocket import WebSocketConnection

logger = logging.getLogger(__name__)

__all__ = ["GRACE", "AppServer", "serve", "start"]

GRACE = 1
"""Seconds that requests in flight have to end by themselves when the server stops."""


class _Config(uvicorn.Config):
    """uvicorn's settings, and what ours has beyond them."""

    def __init__(self, app: Any, limit: ConnectionLimit, **options: Any) -> None:
        super().__init__(app, **options)
        self.limit = limit


class _Uvicorn(uvicorn.Server):
    """uvicorn's server, a guest in somebody else's loop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self.unfinished: set[TlsDoor] = set()
        """Connections whose TLS handshake goes on."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals to the kernel, or to whoever runs the loop."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, with an end to every TLS handshake, and tell those who wait for it."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise UserError("the application failed to start; its error is in the log.")
        config, loop = self.config, asyncio.get_running_loop()
        connection: Any = config.http_protocol_class
        state = self.lifespan.state

        def accept() -> asyncio.Protocol:
            return connection(config=config, server_state=self.server_state, app_state=state)

        def accept_tls() -> asyncio.Protocol:
            assert isinstance(config, _Config)
            assert config.ssl is not None
            return TlsDoor(config.ssl, config.limit, accept, REQUEST_TIMEOUT, self.unfinished)

        if config.ssl:
            small_tls_buffers()
        self.servers = []
        for sock in sockets or []:
            # For asyncio the backlog is also how many it accepts before any of them is looked at,
            # and refused if it is one too many: so it is small there, and the kernel's is not.
            how = accept_tls if config.ssl else accept
            self.servers.append(await loop.create_server(how, sock=sock, backlog=8))
            sock.listen(config.backlog)
        self.started = True
        self.ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let the application end its endless responses first, else they use up the grace."""
        state = getattr(self.config.app, "state", None)
        if hang_up := getattr(state, "hang_up", None):
            hang_up()
        for door in list(self.unfinished):
            door.end()
        await super().shutdown(sockets)


class AppServer:
    """An application that is being served; made by `start`.

    Args:
        server: uvicorn's, not started yet.
        sock: where it listens, bound.

    Attributes:
        url: where it listens, such as ``http://127.0.0.1:54321``; ``https://`` with a certificate.
        ws_url: the same for WebSockets, ``ws://127.0.0.1:54321`` or ``wss://``.
    """

    def __init__(self, server: _Uvicorn, sock: socket.socket) -> None:
        address, s = host_port(sock.getsockname()), "s" if server.config.is_ssl else ""
        self.url, self.ws_url = f"http{s}://{address}", f"ws{s}://{address}"
        self._server = server
        self._task = asyncio.create_task(self._run(sock), name=f"app at {address}")

    @property
    def app(self) -> Any:
        """The application."""
        return self._server.config.app

    @property
    def connections(self) -> set[Any]:
        """The connections that are open now, of either kind: uvicorn's protocol objects."""
        return set(self._server.server_state.connections)

    async def _run(self, sock: socket.socket) -> None:
        try:
            await self._server.serve([sock])
        except Exception as exc:
            if self._server.started:
                # It would go on accepting, and nobody could stop it any more.
                logger.exception("the server at %s failed, and stops", self.url)
                await self._server.shutdown([sock])
                raise UserError(
                    f"the server at {self.url} has stopped, since it failed: {exc}."
                ) from exc
            raise

    @property
    def running(self) -> bool:
        """Whether it accepts connections."""
        return not self._task.done()

    async def serve_until(self, stop: asyncio.Event) -> None:
        """Wait until it is to be stopped, or has stopped.

        Args:
            stop: set when it is to be.

        Raises:
            UserError: it has failed.
        """
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([stopping, self._task], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if self._task.done():
            await self._task

    async def wait_idle(self) -> None:
        """Wait until no request and no WebSocket is being served."""
        while tasks := list(self._server.server_state.tasks):
            await asyncio.wait(tasks)

    async def started(self) -> None:
        """Wait until it accepts connections.

        Raises:
            UserError: the application failed to start.
        """
        await self.serve_until(self._server.ready)

    async def stop(self) -> None:
        """Stop in about `GRACE` seconds at most: WebSockets close with 1012. Idempotent."""
        self._server.should_exit = True
        await asyncio.wait([self._task])


async def _bind(host: str, port: int) -> socket.socket:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # With the protocol named: asyncio sets TCP_NODELAY on no others, and what goes out in two
    # writes, as an HTTP response's head and body do, would wait 40 ms for the peer's delayed ACK.
    family, kind, protocol, _, address = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # on Windows the option means that others may take the port away
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


async def start(
    app: Any,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    limit: ConnectionLimit | None = None,
    heartbeat: tuple[float, float] = HEARTBEAT,
    **options: Any,
) -> AppServer:
    """Start serving `app` and return once it accepts connections.

    Args:
        app: the application. If it has `state.hang_up`, as a Starlette application may, that is
            called when the server stops, before it waits for responses to end.
        host: the address to bind; only this machine can connect unless you say otherwise.
        port: the TCP port; 0 takes a free one.
        limit: how many connections there may be, of either kind; who is too many is answered with
            503, or with 429 if it is for its address. By default that of `ConnectionLimit`.
        heartbeat: seconds between pings to a WebSocket, and of silence after one until it is
            dropped.
        options: whatever else `uvicorn.Config` takes.

    Returns:
        The server; `AppServer.stop` ends it.

    Raises:
        UserError: the address can't be bound, or the application fails to start.

    Source: https://www.uvicorn.org/settings/
    """
    options = {
        # uvicorn's own trust whoever connects to finish what they began.
        "http": HttpConnection,
        "ws": WebSocketConnection,
        "log_config": None,
        "access_log": False,
        # uvicorn would believe whoever connects from this machine; see `wslessons.guard.Forwarded`.
        "proxy_headers": False,
        "server_header": False,
        "ws_ping_interval": heartbeat[0],
        "ws_ping_timeout": heartbeat[1],
        "timeout_graceful_shutdown": GRACE,
        **options,
    }
    with explained_bind_errors(host, port):
        sock = await _bind(host, port)
    server = AppServer(_Uvicorn(_Config(app, limit or ConnectionLimit(), **options)), sock)
    try:
        await server.started()
    except BaseException:
        await server.stop()
        sock.close()
        raise
    return server


@contextlib.asynccontextmanager
async def serve(
    app: Any, host: str = "127.0.0.1", port: int = 0, **options: Any
) -> AsyncGenerator[AppServer]:
    """Serve `app` while the block runs; the arguments are those of `start`.

    Args:
        app: the application.
        host: the address to bind.
        port: the TCP port; 0 takes a free one.
        options: the others of `start`.

    Yields:
        The server, which accepts connections.
    """
    server = await start(app, host, port, **options)
    try:
        yield server
    finally:
        await server.stop()
