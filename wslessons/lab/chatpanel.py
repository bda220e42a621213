"""Chat panels: people in one room, side by side, each with a plug to pull."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Sequence
from functools import partial
from itertools import cycle
from typing import Any

import ipywidgets

from wslessons.chat.events import Error, Joined, Left, Message, Missed, Roster, Welcome
from wslessons.client import ChatClient, Connected, Disconnected, Notice, Retrying, full_jitter
from wslessons.errors import UserError
from wslessons.lab import background
from wslessons.lab.widgets import Dispatcher, Panel, Transcript
from wslessons.link import Fault, Link

__all__ = ["ChatPanel", "ChatPanels", "chat_panels"]

_panels: dict[str, ChatPanel] = {}

GREEN, GREY, RED = "#2e7d32", "#9e9e9e", "#c62828"


class ChatPanel:
    """Somebody in a room: a line to type into, what was heard, who is here, and a plug.

    Made by `chat_panels`. Its `ChatClient` connects through a `Link`, so that pulling the plug
    breaks a real connection; it comes back, and is told what it missed, when the plug is in again.
    """

    def __init__(self, name: str, server: background.BackgroundServer | str, room: str) -> None:
        self.name = name
        self._server = server
        self._link = Link(server if isinstance(server, str) else server.url)
        self._room = room
        self._client: ChatClient | None = None
        self._reader: asyncio.Task[None] | None = None
        self._asking: asyncio.TimerHandle | None = None
        self._fault: Fault | None = None
        self.transcript = Transcript(keep=400, height="220px")
        self._dispatcher = Dispatcher(lambda text: self.transcript.add("error", text))
        self._state, self._people = ipywidgets.HTML(), ipywidgets.HTML()
        self._entry = ipywidgets.Text(
            placeholder=f"type as {name}, press Enter",
            continuous_update=False,
            layout=ipywidgets.Layout(width="100%"),
        )
        self._plug = ipywidgets.ToggleButton(description="Unplug", icon="plug")
        self._again = ipywidgets.Button(description="Reconnect")
        self._entry.observe(self._on_entry, names="value")
        self._plug.observe(
            lambda change: self._dispatcher.run(self.plug(out=change["new"])), names="value"
        )
        self._again.on_click(lambda _: self._dispatcher.run(self.connect()))
        heading = ipywidgets.HTML(f"<b>{html.escape(name)}</b>")
        self._panel = Panel(
            name,
            [
                ipywidgets.HBox([heading, self._state]),
                self._people,
                self.transcript.widget,
                self._entry,
                ipywidgets.HBox([self._plug, self._again]),
            ],
        )
        self.widget = self._panel.widget

    def _on_entry(self, change: dict[str, Any]) -> None:
        if change["new"]:
            text, self._entry.value = change["new"], ""
            self._dispatcher.run(self.send(text))

    def _show_state(self, text: str, colour: str) -> None:
        self._state.value = (
            f'<span style="color:{colour};margin-left:12px">&#9679; {html.escape(text)}</span>'
        )

    async def connect(self) -> None:
        """Enter the room, anew if the panel was in it.

        Raises:
            UserError: the server can't be reached, or won't have this name.
        """
        await self.close()
        self._link = Link(self._find())
        await self._link.__aenter__()
        self._client = ChatClient(
            self._link.url + self._room,
            self.name,
            # A learner waits for it: a server of many would want the seconds of the default.
            reconnect_delays=partial(full_jitter, base=0.2, cap=1.0),
            open_timeout=5,
            close_timeout=1,
        )
        try:
            await self._client.__aenter__()
        except BaseException:
            self._client = None
            await self._link.close()
            raise
        self._reader = asyncio.create_task(self._read(self._client), name=f"panel {self.name}")

    def _find(self) -> str:
        server = self._server
        return server if isinstance(server, str) else background.find(server.name).url

    def _aim(self) -> None:
        # The server may have been replaced since, and listens elsewhere then.
        if isinstance(self._server, str) or self._server.name not in _names():
            return
        host, port = self._find().removeprefix("ws://").rsplit(":", 1)
        self._link.target = (host, int(port))

    async def _read(self, client: ChatClient) -> None:
        try:
            async for event in client:
                self._show(event)
        except UserError as refusal:
            self.transcript.add("error", str(refusal))
        self._show_state("left", GREY)

    def _show(self, event: object) -> None:
        add = self.transcript.add
        match event:
            case Message(sender=sender, text=text):
                add("in", f"[{sender}] {text}")
            case Joined(name=name):
                add("note", f"{name} joined")
            case Left(name=name):
                add("note", f"{name} left")
            case Missed(count=None):
                add("error", "the server was restarted: nobody knows what you missed")
            case Missed(count=count):
                add("error", f"you missed {count} messages")
            case Roster(people=people, count=count):
                more = f" and {count - len(people)} more" if count > len(people) else ""
                self._people.value = html.escape(f"here: {', '.join(people)}{more}")
            case Connected():
                self._show_state("connected", GREEN)
            case Disconnected(code=code, reason=reason):
                add("note", f"disconnected, code {code} {reason}".rstrip())
            case Retrying():
                self._show_state("reconnecting", RED)
                self._aim()
            case Error(text=text) | Notice(text=text):
                add("error", text)
        if isinstance(event, Welcome | Joined | Left) and self._asking is None:
            # Once for a burst of them, and not from the events: some are replayed history.
            self._asking = asyncio.get_running_loop().call_later(0.1, self._ask)

    def _ask(self) -> None:
        self._asking = None
        if self._client is not None:
            self._dispatcher.run(self._client.who())

    async def send(self, text: str) -> None:
        """Say `text`; while the plug is out it waits, and is sent when the connection is back.

        Raises:
            UserError: the panel has left the room.
        """
        if self._client is None or self._reader is None or self._reader.done():
            raise UserError("not in the room: press Reconnect first.")
        if text.strip() == "/who":
            await self._client.who()
        elif text.strip():
            self.transcript.add("out", text)
            await self._client.send(text)

    async def plug(self, *, out: bool) -> None:
        """Pull the plug, or put it in again."""
        if out and self._fault is None:
            self._fault = self._link.cut()
            self._plug.description, self._plug.value = "Plug in", True
        elif not out and self._fault is not None:
            self._fault.undo()
            self._fault = None
            self._plug.description, self._plug.value = "Unplug", False

    async def close(self) -> None:
        """Leave the room and close the link. Does nothing when it is not in it."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()
            if self._reader is not None:
                await asyncio.wait([self._reader])
        await self.plug(out=False)
        await self._link.close()

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return self._panel.bundle()


class ChatPanels:
    """Several chat panels side by side; `panels` has each by its name."""

    def __init__(self, panels: dict[str, ChatPanel]) -> None:
        self.panels = panels
        row = ipywidgets.HBox([panel.widget for panel in panels.values()])
        self._panel = Panel(f"chat panels: {', '.join(panels)}", [row], width="1300px")

    def __getitem__(self, name: str) -> ChatPanel:
        return self.panels[name]

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return self._panel.bundle()


def _names() -> set[str]:
    return {server.name for server in background.servers()}


async def chat_panels(
    server: background.BackgroundServer | str | Sequence[str], *names: str, room: str = "/"
) -> ChatPanels:
    """Put people into a room of the chat `server`, each with a panel, in place of their old ones.

    Args:
        server: a chat server of this kernel, or the URL of any; of several, people are dealt out
            to one after another.
        names: who comes in, in this order.
        room: the path of the room.

    Raises:
        UserError: the server can't be reached, or won't have a name.
    """
    panels = {}
    several = not isinstance(server, background.BackgroundServer | str)
    servers = list(server) if several else [server]
    for name, its_server in zip(names, cycle(servers), strict=False):
        if (old := _panels.pop(name, None)) is not None:
            await old.close()
        panel = ChatPanel(name, its_server, room)
        await panel.connect()
        _panels[name] = panels[name] = panel
    return ChatPanels(panels)
