"""A panel that talks to one WebSocket server: type, press Enter, see what comes back."""

from __future__ import annotations

import asyncio

from websockets import ClientConnection, ConnectionClosed, InvalidHandshake, InvalidURI, connect

from wslessons import serving
from wslessons.errors import UserError, extra
from wslessons.lab import background
from wslessons.lab.panel import ClientPanel, replace

with extra("lab"):
    import ipywidgets


__all__ = ["EchoPanel", "echo_panel"]


class EchoPanel(ClientPanel):
    """A client with an input line, a transcript, and buttons to connect and to close.

    Made by `echo_panel`. Every method may be called from a cell.

    Args:
        title: what the panel is called.
        server: of this kernel, or the URL of any.
    """

    def __init__(self, title: str, server: background.BackgroundServer | str) -> None:
        super().__init__(title, server)
        self._reader: asyncio.Task[None] | None = None
        self._code = ipywidgets.IntText(
            value=1000,
            description="Close code",
            style={"description_width": "auto"},
            layout=ipywidgets.Layout(width="170px"),
        )
        close = self.button("Close with code", lambda: self.close(self._code.value))
        self.fill(
            self.heading,
            self.transcript.widget,
            self.entry("type a message, press Enter"),
            ipywidgets.HBox([self.button("Reconnect", self.connect), close, self._code]),
        )
        self.show_state("not connected")

    async def _enter(self) -> None:
        url = self.url()
        try:
            connection = await connect(url, proxy=None, open_timeout=5, close_timeout=1)
        except InvalidURI:
            raise UserError(
                f"{url!r} is not a WebSocket URL: it begins with ws:// or wss://."
            ) from None
        except (OSError, InvalidHandshake, TimeoutError) as exc:
            raise UserError(f"can't connect to {url}: {exc}. Is the server running?") from None
        self._connection = connection
        self.show_state("connected")
        self._reader = asyncio.create_task(self._read(connection), name=f"{self.title} reader")

    async def _leave(self, code: int = 1000) -> None:
        if self._connection is not None and self._reader is not None:
            await self._connection.close(code)
            await asyncio.wait([self._reader])

    async def _read(self, connection: ClientConnection) -> None:
        try:
            while True:
                message = await connection.recv()
                shown = (
                    message if isinstance(message, str) else f"{len(message)} bytes: {message!r}"
                )
                self.transcript.add("in", shown)
        except ConnectionClosed as closed:
            self.transcript.add("note", f"closed: {closed}")
        finally:
            self._connection = None
            self.show_state(f"closed, code {connection.close_code}")

    async def send(self, text: str) -> None:
        """Send `text` and show it.

        Args:
            text: a whole message.

        Raises:
            UserError: the panel is not connected.
        """
        if self._connection is None:
            raise UserError("not connected: press Reconnect first.")
        self.transcript.add("out", text)
        try:
            await self._connection.send(text)
        except ConnectionClosed:
            raise UserError("not sent: the connection was closed meanwhile.") from None

    async def close(self, code: int = 1000) -> None:
        """Close the connection, if there is one.

        Args:
            code: the close code that the server gets (RFC 6455, section 7.4).

        Raises:
            UserError: a close frame can't carry that code.
        """
        serving.check_close(code)
        async with self._turn:
            await self._leave(code)


async def echo_panel(
    server: background.BackgroundServer | str, title: str = "echo panel"
) -> EchoPanel:
    """Make a panel that is connected to `server`, in place of the one that had this title.

    Args:
        server: a server of this kernel, or the URL of any other.
        title: what the panel is called; making it again closes the old one's connection.

    Returns:
        The panel, which a cell shows as its last value.

    Raises:
        UserError: the server can't be reached.
    """
    return await replace(EchoPanel(title, server))
