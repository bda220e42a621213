"""Chat panels: people in one room, side by side, each with a connection that can be broken."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Sequence
from functools import partial
from itertools import cycle

from wslessons.chat.events import Error, Joined, Left, Message, Missed, Roster, Welcome
from wslessons.client import ChatClient, Connected, Disconnected, Notice, Retrying, full_jitter
from wslessons.errors import UserError, extra
from wslessons.lab import background
from wslessons.lab.panel import ClientPanel, Panel, replace
from wslessons.lab.theme import RED
from wslessons.link import Fault, Link

with extra("lab"):
    import ipywidgets


__all__ = ["ChatPanel", "ChatPanels", "chat_panels"]


class ChatPanel(ClientPanel):
    """Somebody in a room: a line to type into, what was heard, who is here, and a way offline.

    Made by `chat_panels`. Its `ChatClient` connects through a `Link`, so that going offline breaks
    a real connection; it comes back, and is told what it missed, when the panel is online again.

    Args:
        name: what the person is called.
        server: of this kernel, or the URL of any.
        room: the path of the room.
    """

    def __init__(self, name: str, server: background.BackgroundServer | str, room: str) -> None:
        super().__init__(name, server, keep=400, height="220px")
        self.name = name
        self._room = room
        self._link: Link | None = None
        self._client: ChatClient | None = None
        self._reader: asyncio.Task[None] | None = None
        self._asking: asyncio.TimerHandle | None = None
        self._asked_by_hand = 0
        self._fault: Fault | None = None
        self._people = ipywidgets.HTML()
        self._offline = self.button("Go offline", self._switch)
        self._again = self.button("Reconnect", self.connect)
        self.fill(
            self.heading,
            self._people,
            self.transcript.widget,
            self.entry(f"type as {name}, press Enter"),
            ipywidgets.HBox([self._offline, self._again]),
        )

    @property
    def connected(self) -> bool:
        """Whether the panel is in the room, or on its way back into it."""
        return self._reader is not None and not self._reader.done()

    async def _enter(self) -> None:
        self._link = link = Link(self.url())
        await link.__aenter__()
        client = ChatClient(
            link.url + self._room,
            self.name,
            # A learner waits for it: a server of many would want the seconds of the default.
            reconnect_delays=partial(full_jitter, base=0.2, cap=1.0),
            open_timeout=5,
            close_timeout=1,
        )
        try:
            await client.__aenter__()
        except BaseException:
            await link.close()
            raise
        self._client = client
        self._reader = asyncio.create_task(self._read(client), name=f"panel {self.name}")

    async def _leave(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()
        if self._reader is not None:
            await asyncio.wait([self._reader])
        await self.go_online()
        if self._link is not None:
            await self._link.close()

    def _aim(self) -> None:
        # The server may have been replaced since, and listens elsewhere then.
        try:
            host, port = self.url().removeprefix("ws://").rsplit(":", 1)
        except UserError:
            return
        if self._link is not None and not isinstance(self._server, str):
            self._link.target = (host, int(port))

    async def _read(self, client: ChatClient) -> None:
        try:
            async for event in client:
                self._show(event)
        except UserError as refusal:
            self.transcript.add("error", str(refusal))
        finally:
            self._reader = None
            self.show_state("left")

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
                here = f"here: {', '.join(people)}{more}"
                self._people.value = html.escape(here)
                if self._asked_by_hand:
                    self._asked_by_hand -= 1
                    add("note", here)
            case Connected():
                self.show_state("connected")
            case Disconnected(code=code, reason=reason):
                add("note", f"disconnected, code {code} {reason}".rstrip())
            case Retrying():
                self.show_state("reconnecting", RED)
                self._people.value = "here: not known now"
                self._aim()
            case Error(text=text) | Notice(text=text):
                add("error", text)
        if isinstance(event, Welcome | Joined | Left) and self._asking is None:
            # Once for a burst of them, and not from the events: some are replayed history.
            self._asking = self._loop.call_later(0.1, self._ask)

    def _ask(self) -> None:
        self._asking = None
        if self._client is not None:
            self.start(self._client.who())

    async def send(self, text: str) -> None:
        """Say `text`; while the panel is offline it waits, and is sent when that is online again.

        Args:
            text: a line for the room; ``/who`` asks who is here instead, and the answer is a line
                of the transcript.

        Raises:
            UserError: the panel has left the room, or the text can't be sent.
        """
        if self._client is None or not self.connected:
            raise UserError("not in the room: press Reconnect first.")
        if text.strip() == "/who":
            self._asked_by_hand += 1
            await self._client.who()
        elif text.strip():
            line = self.transcript.add("wait", text)
            try:
                await self._client.send(text)
            except (UserError, ValueError) as why:
                self.transcript.turn(line, "error")
                raise UserError(f"not sent: {why}") from None
            self.transcript.turn(line, "out")

    async def go_offline(self) -> None:
        """Cut the connection with a TCP reset to both sides, and let no new one through."""
        if self._fault is None and self._link is not None:
            self._fault = self._link.cut()
            self._offline.description = "Go online"

    async def go_online(self) -> None:
        """Let connections through again; the panel comes back by itself."""
        if self._fault is not None:
            self._fault.undo()
            self._fault = None
            self._offline.description = "Go offline"

    async def _switch(self) -> None:
        await (self.go_offline() if self._fault is None else self.go_online())


class ChatPanels(Panel):
    """Several chat panels side by side; `panels` has each by its name.

    Args:
        panels: by name.
    """

    def __init__(self, panels: dict[str, ChatPanel]) -> None:
        super().__init__(f"chat panels: {', '.join(panels)}", width="1300px")
        self.panels = panels
        for panel in panels.values():
            # Beside each other where there is room, of the same width.
            panel.widget.layout.flex = "1 1 280px"
        layout = ipywidgets.Layout(align_items="stretch")
        self.fill(ipywidgets.HBox([panel.widget for panel in panels.values()], layout=layout))

    def __getitem__(self, name: str) -> ChatPanel:
        return self.panels[name]


async def chat_panels(
    server: background.BackgroundServer | str | Sequence[str], *names: str, room: str = "/"
) -> ChatPanels:
    """Put people into a room of the chat `server`, each with a panel, in place of their old ones.

    Args:
        server: a chat server of this kernel, or the URL of any; of several, people are dealt out
            to one after another.
        names: who comes in, in this order.
        room: the path of the room.

    Returns:
        The panels in a row, by name: ``panels["alice"]``.

    Raises:
        UserError: the server can't be reached, or won't have a name.
    """
    several = not isinstance(server, background.BackgroundServer | str)
    servers = cycle(list(server) if several else [server])
    return ChatPanels({name: await replace(ChatPanel(name, next(servers), room)) for name in names})
