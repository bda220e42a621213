"""Servers that run in the kernel, in the background, each under a name.

Running a cell again must not fail with "address already in use" and must not leave the old server
behind, so a name stands for one server at a time: serving under it again replaces the old one.
"""

from __future__ import annotations

import asyncio
import html
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

from websockets import Server, ServerConnection
from websockets.frames import CloseCode

from wslessons import serving
from wslessons.errors import UserError
from wslessons.lab.kernel import running_loop
from wslessons.lab.names import Names

__all__ = ["BackgroundServer", "Service", "find", "forget", "replace", "serve", "servers"]


@runtime_checkable
class Service(Protocol):
    """Something to serve that brings its own options, such as a `wslessons.chat.ChatServer`."""

    @property
    def options(self) -> dict[str, Any]:
        """What `websockets.serve` takes beside the handler."""
        ...

    def handler(self, connection: ServerConnection) -> Awaitable[None]:
        """Serve one connection."""
        ...


S = TypeVar("S", bound="BackgroundServer")


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
        forget(self)
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

    return await replace(name, start)


async def replace(name: str, start: Callable[[], Awaitable[S]]) -> S:
    """Stop the server of that name, its clients told 1012, then start another in its place.

    Args:
        name: what it is called.
        start: starts the other one.

    Returns:
        What `start` returned.
    """
    running_loop()
    return await _running.replace(name, start)


def forget(server: BackgroundServer) -> None:
    """Let a server's name be free, since it stops.

    Args:
        server: which one; another that has its name by now keeps it.
    """
    _running.forget(server.name, server)


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
