"""ASGI applications that run in the kernel, under a name, as `wslessons.lab.background` has it.

Re-running the cell that serves one replaces it; its WebSockets are closed with 1012 (service
restart). The kernel's signal handlers, and with them the stop button, are left alone.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from wslessons.lab import background, kernel

if TYPE_CHECKING:
    from wslessons import asgi

__all__ = ["BackgroundApp", "serve_app"]


class BackgroundApp(background.BackgroundServer):
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
        background.forget(self)
        await self._app.stop()


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

    kernel.running_loop()
    logger = logging.getLogger("uvicorn")
    logger.propagate = False
    if kernel.logbook not in logger.handlers:
        logger.addHandler(kernel.logbook)

    async def start() -> BackgroundApp:
        return BackgroundApp(name, await asgi.start(app, host, port, **options))

    return await background.replace(name, start)
