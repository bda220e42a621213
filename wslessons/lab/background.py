"""Servers, ASGI applications and clusters that run in the kernel's background, each under a name.

Running a cell again must not fail with "address already in use" and must not leave the old server
behind, so a name stands for one thing at a time: starting under it again replaces the old one. The
kernel's signal handlers, and with them the stop button, are left alone.
"""

from __future__ import annotations

import asyncio
import html
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, runtime_checkable

from websockets import Server, ServerConnection
from websockets.frames import CloseCode

from wslessons import serving
from wslessons.errors import UserError
from wslessons.lab import kernel
from wslessons.lab.kernel import running_loop

if TYPE_CHECKING:
    from wslessons import asgi
    from wslessons.scaling.cluster import Cluster

__all__ = [
    "BackgroundApp",
    "BackgroundServer",
    "Names",
    "Service",
    "cluster",
    "find",
    "serve",
    "serve_app",
    "servers",
]

T = TypeVar("T")
U = TypeVar("U")


class Names(Generic[T]):
    """What runs under which name; running a cell again replaces what it has started before.

    Args:
        stop: ends one of them for good. If it is cancelled, the thing keeps its name, so that the
            next attempt ends it.
    """

    def __init__(self, stop: Callable[[T], Awaitable[None]]) -> None:
        self._stop = stop
        self._running: dict[str, Any] = {}
        self._turns: dict[str, asyncio.Lock] = {}

    async def replace(self, name: str, start: Callable[[], Awaitable[U]]) -> U:
        """Stop what has this name, then start another in its place; one at a time for each name.

        Args:
            name: what it is called.
            start: starts it, a kind of `T`. What it raises is raised here; the old one is gone by
                then, since both may want one port.

        Returns:
            What `start` returned.

        Raises:
            UserError: no event loop of asyncio runs here.
        """
        running_loop()
        async with self._turns.setdefault(name, asyncio.Lock()):
            if (old := self._running.get(name)) is not None:
                await self._stop(old)
                self._running.pop(name, None)
            self._running[name] = started = await start()
        return started

    def get(self, name: str) -> T | None:
        """Return what runs under `name`, or None.

        Args:
            name: what it is called.

        Returns:
            The thing.
        """
        return self._running.get(name)

    def forget(self, name: str, thing: T) -> None:
        """Let `name` be free, if `thing` has it: it has ended by itself.

        Args:
            name: what it is called.
            thing: which has ended.
        """
        if self._running.get(name) is thing:
            del self._running[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._running)

    def values(self) -> list[T]:
        """List what runs, oldest first."""
        return list(self._running.values())


@runtime_checkable
class Service(Protocol):
    """Something to serve that brings its own options, such as a `wslessons.chat.ChatServer`."""

    @property
    def options(self) -> dict[str, Any]:
        """What `websockets.serve` takes beside the handler."""
        ...

    def handler(self, connection: ServerConnection) -> Awaitable[None]:
        """Serve one connection.

        Args:
            connection: its opening handshake is done.

        Returns:
            What is awaited until it has been served.
        """
        ...


class BackgroundServer:
    """A server in the kernel, as `serve` returns it.

    Args:
        name: what it is served under.
        server: of `websockets`, which has begun to listen.
        scheme: ``ws``, or ``wss`` behind TLS.

    Attributes:
        name: what it was served under.
        url: where it listens, such as ``ws://127.0.0.1:54321``; ``wss://`` with TLS.
    """

    def __init__(self, name: str, server: Server, scheme: str = "ws") -> None:
        self.name = name
        self.url = serving.urls(server, scheme)[0]
        self._server = server

    @property
    def running(self) -> bool:
        """Whether the server accepts connections."""
        return _running.get(self.name) is self

    @property
    def connections(self) -> set[ServerConnection]:
        """The connections that are open now."""
        return self._server.connections

    async def wait_idle(self) -> None:
        """Wait until no connection is left and every handler has returned."""
        while tasks := list(self._server.handler_tasks):
            await asyncio.wait(tasks)

    async def stop(
        self, code: int = CloseCode.GOING_AWAY, reason: str = "", *, timeout: float = 0.5
    ) -> None:
        """Close the server and its connections, in at most about twice `timeout` seconds.

        Stopping twice is harmless.

        Args:
            code: the close code that clients get (RFC 6455, section 7.4.1).
            reason: the reason that they get, at most 123 bytes of UTF-8.
            timeout: seconds to wait for the clients, and again for the handlers.

        Raises:
            UserError: a close frame can't carry the code or the reason; nothing is stopped.
        """
        serving.check_close(code, reason)
        _running.forget(self.name, self)
        await serving.shut(self._server, code, reason, timeout)

    def __repr__(self) -> str:
        return f"<server {self.name!r}, {'running' if self.running else 'stopped'}>"

    def _repr_html_(self) -> str:
        state = "running" if self.running else "stopped"
        colour = "#2e7d32" if self.running else "#9e9e9e"
        return (
            f'<div style="border-left:4px solid {colour};padding:4px 12px">'
            f"<b>{html.escape(self.name)}</b> &middot; {state}"
            f" &middot; <code>{html.escape(self.url)}</code></div>"
        )


class BackgroundApp(BackgroundServer):
    """An application in the kernel, as `serve_app` returns it.

    Args:
        name: what it is served under.
        app: what serves it.

    Attributes:
        name: what it was served under.
        url: where it listens, such as ``http://127.0.0.1:54321``.
        ws_url: the same for WebSockets, ``ws://127.0.0.1:54321``.
    """

    def __init__(self, name: str, app: asgi.AppServer) -> None:
        self.name = name
        self.url, self.ws_url = app.url, app.ws_url
        self._app = app

    @property
    def connections(self) -> set[Any]:
        """The connections that are open now, of either kind."""
        return self._app.connections

    async def wait_idle(self) -> None:
        """Wait until no request and no WebSocket is being served."""
        await self._app.wait_idle()

    async def stop(self, code: int = 1012, reason: str = "", *, timeout: float = 0.5) -> None:
        """Stop it in bounded time, with `asgi.GRACE` for those who are being served.

        Stopping twice is harmless.

        Args:
            code: not used: uvicorn's WebSockets always close with 1012.
            reason: not used: they close without one.
            timeout: not used.
        """
        _running.forget(self.name, self)
        await self._app.stop()


_running: Names[BackgroundServer] = Names(
    lambda server: server.stop(CloseCode.SERVICE_RESTART, "the cell was run again")
)


async def serve(
    name: str,
    handler: serving.Handler | Service,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    **options: Any,
) -> BackgroundServer:
    """Start a WebSocket server in this kernel, in place of the one that had this name.

    Args:
        name: what to call it; serving under the same name again replaces the server, and its
            clients are closed with code 1012 (service restart).
        handler: called with each connection; or an object with a handler and options of its own.
        host: the address to bind.
        port: the port to bind; 0 takes a free one, which `url` then tells.
        options: whatever else `websockets.serve` takes.

    Returns:
        The server: its address, its connections, a way to stop it.

    Raises:
        UserError: the address can't be bound.
    """
    function, own = (
        (handler.handler, handler.options) if isinstance(handler, Service) else (handler, {})
    )

    async def start() -> BackgroundServer:
        with serving.explained_bind_errors(host, port):
            server = await serving.serve(function, host, port, **own | options)
        return BackgroundServer(name, server, "wss" if options.get("ssl") else "ws")

    return await _running.replace(name, start)


async def serve_app(
    name: str, app: Any, *, host: str = "127.0.0.1", port: int = 0, **options: Any
) -> BackgroundApp:
    """Serve an ASGI application in this kernel, in place of what had this name.

    Args:
        name: what to call it; serving under the same name again replaces it.
        app: the application, Starlette's or any other's.
        host: the address to bind.
        port: the port to bind; 0 takes a free one, which `url` then tells.
        options: whatever else `uvicorn.Config` takes.

    Returns:
        The server: its addresses, its connections, a way to stop it.

    Raises:
        UserError: the address can't be bound, or the application fails to start.
    """
    from wslessons import asgi  # only here, so that `help(lab)` needs no more than the extra `lab`

    running_loop()
    logger = logging.getLogger("uvicorn")
    logger.propagate = False
    if kernel.logbook not in logger.handlers:
        logger.addHandler(kernel.logbook)

    async def start() -> BackgroundApp:
        return BackgroundApp(name, await asgi.start(app, host, port, **options))

    return await _running.replace(name, start)


def servers() -> list[BackgroundServer]:
    """List the servers that run in this kernel.

    Returns:
        What `serve` and `serve_app` returned, oldest first.
    """
    return _running.values()


def find(name: str) -> BackgroundServer:
    """Find the server that runs under a name.

    Args:
        name: what it was served under.

    Returns:
        The server that has this name now.

    Raises:
        UserError: none does.
    """
    if (server := _running.get(name)) is None:
        have = ", ".join(map(repr, _running)) or "none"
        raise UserError(
            f"no server named {name!r} runs here (running: {have}): run the cell that starts it."
        )
    return server


_clusters: Names[Cluster] = Names(lambda cluster: cluster.stop())


async def cluster(name: str, servers: int = 2, bus: str = "memory", **options: Any) -> Cluster:
    """Start chat servers as processes of their own, in place of those that had this name.

    So a cell may run again, or with another `bus`, and leaves nothing behind. They end with the
    kernel.

    Args:
        name: what to call them; starting under the same name again replaces them.
        servers: how many.
        bus: what carries the rooms: ``memory``, ``nats``, ``redis``, ``kafka``, or a broker's URL.
        options: whatever else `wslessons.scaling.cluster.Cluster` takes.

    Returns:
        The cluster; its servers accept connections.

    Raises:
        UserError: the bus can't be used.
    """
    from wslessons.scaling.cluster import Cluster  # which brings the bus

    async def start() -> Cluster:
        started = Cluster(servers, bus, **options)
        await started.start()
        return started

    return await _clusters.replace(name, start)
