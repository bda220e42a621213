"""A panel that talks to one WebSocket server: type, press Enter, see what comes back."""

from __future__ import annotations

import asyncio
import html
from typing import Any

import ipywidgets
from websockets import ClientConnection, ConnectionClosed, InvalidHandshake, InvalidURI, connect

from wslessons import serving
from wslessons.errors import UserError
from wslessons.lab import background
from wslessons.lab.widgets import Dispatcher, Panel, Transcript

__all__ = ["EchoPanel", "echo_panel"]

_panels: dict[str, EchoPanel] = {}


class EchoPanel:
    """A client with an input line, a transcript, and buttons to connect and to close.

    Made by `echo_panel`. Every method may be called from a cell; the widgets' callbacks only hand
    over to the kernel's loop.
    """

    def __init__(self, title: str, server: background.BackgroundServer | str) -> None:
        self._server = server
        self._connection: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self.transcript = Transcript()
        self._dispatcher = Dispatcher(lambda text: self.transcript.add("error", text))
        self._state = ipywidgets.HTML()
        self._entry = ipywidgets.Text(
            placeholder="type a message, press Enter",
            continuous_update=False,
            layout=ipywidgets.Layout(width="100%"),
        )
        self._code = ipywidgets.IntText(value=1000, layout=ipywidgets.Layout(width="90px"))
        self._close = ipywidgets.Button(description="Close with code")
        self._connect = ipywidgets.Button(description="Reconnect")
        self._entry.observe(self._on_entry, names="value")
        self._close.on_click(lambda _: self._dispatcher.run(self.close(self._code.value)))
        self._connect.on_click(lambda _: self._dispatcher.run(self.connect()))
        self._panel = Panel(
            title,
            [
                ipywidgets.HBox([ipywidgets.HTML(f"<b>{html.escape(title)}</b>"), self._state]),
                self.transcript.widget,
                self._entry,
                ipywidgets.HBox([self._connect, self._close, self._code]),
            ],
        )
        self._show_state("not connected")

    @property
    def connected(self) -> bool:
        """Whether the panel's connection is open."""
        return self._connection is not None

    def _url(self) -> str:
        # By name, so that "Reconnect" finds the server that took the place of the old one.
        if isinstance(self._server, background.BackgroundServer):
            return background.find(self._server.name).url
        return self._server

    def _show_state(self, text: str) -> None:
        colour = "#2e7d32" if self.connected else "#9e9e9e"
        self._state.value = f'<span style="color:{colour};margin-left:12px">&#9679; {text}</span>'

    def _on_entry(self, change: dict[str, Any]) -> None:
        if change["new"]:
            text, self._entry.value = change["new"], ""
            self._dispatcher.run(self.send(text))

    async def connect(self) -> None:
        """Open the panel's connection, closing the one it had.

        Raises:
            UserError: the server can't be reached, or the URL is not a WebSocket URL.
        """
        await self.close()
        url = self._url()
        try:
            connection = await connect(url, proxy=None, open_timeout=5, close_timeout=1)
        except InvalidURI:
            raise UserError(
                f"{url!r} is not a WebSocket URL: it begins with ws:// or wss://."
            ) from None
        except (OSError, InvalidHandshake, TimeoutError) as exc:
            raise UserError(f"can't connect to {url}: {exc}. Is the server running?") from None
        self._connection = connection
        self._show_state("connected")
        self._reader = asyncio.create_task(
            self._read(connection), name=f"{self._panel.title} reader"
        )

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
            if self._connection is connection:
                self._connection = None
                self._show_state(f"closed, code {connection.close_code}")

    async def send(self, text: str) -> None:
        """Send `text` and show it.

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
        """Close the connection, if there is one, with `code` (RFC 6455, section 7.4).

        Raises:
            UserError: a close frame can't carry that code.
        """
        serving.check_close(code)
        if self._connection is not None and self._reader is not None:
            await self._connection.close(code)
            await asyncio.wait([self._reader])

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return self._panel.bundle()


async def echo_panel(
    server: background.BackgroundServer | str, title: str = "echo panel"
) -> EchoPanel:
    """Make a panel that is connected to `server`, in place of the one that had this title.

    Args:
        server: a server of this kernel, or the URL of any other.
        title: what the panel is called; making it again closes the old one's connection.

    Raises:
        UserError: the server can't be reached.
    """
    if (old := _panels.pop(title, None)) is not None:
        await old.close()
    panel = EchoPanel(title, server)
    await panel.connect()
    _panels[title] = panel
    return panel
