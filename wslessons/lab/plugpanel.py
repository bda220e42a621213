"""A panel to break a link by hand, and to watch what a heartbeat makes of it."""

from __future__ import annotations

import asyncio
import html
from collections import deque
from collections.abc import Callable
from typing import Any

import ipywidgets
from websockets import ClientConnection, ConnectionClosed, InvalidHandshake, connect

from wslessons.errors import UserError
from wslessons.heartbeat.heartbeat import Beat, Heartbeat
from wslessons.lab import background
from wslessons.lab.rttchart import rtt_chart
from wslessons.lab.widgets import Dispatcher, Panel, Transcript
from wslessons.link import Link

__all__ = ["PlugPanel", "plug_panel"]

_panels: dict[str, PlugPanel] = {}

WINDOW = 10.0
"""Seconds of the chart."""

REDRAW = 0.25


class PlugPanel:
    """A client with a heartbeat, the link before it, and a button for each of the link's faults.

    Made by `plug_panel`. `link` may be broken from a cell as well; the panel shows it.
    """

    def __init__(
        self, title: str, server: background.BackgroundServer | str, interval: float, timeout: float
    ) -> None:
        self._server, self._target = server, ""
        self.link = Link(self._url())
        self.heartbeat: Heartbeat | None = None
        """That of the newest connection."""
        self.interval, self.timeout = interval, timeout
        self._connection: ClientConnection | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._loop = asyncio.get_running_loop()
        self._beats: deque[tuple[float, float]] = deque(maxlen=1000)
        self._losses: deque[float] = deque(maxlen=20)
        self.transcript = Transcript(height="96px")
        self._dispatcher = Dispatcher(lambda text: self.transcript.add("error", text))
        self._state = ipywidgets.HTML()
        self._chart = ipywidgets.HTML(layout=ipywidgets.Layout(width="100%"))
        self._latency, self._jitter = self._number(100), self._number(50)
        self._rate = self._number(100)
        self._panel = Panel(
            title,
            [
                ipywidgets.HBox([ipywidgets.HTML(f"<b>{html.escape(title)}</b>"), self._state]),
                self._chart,
                ipywidgets.HBox(
                    [
                        self._button("Pull the plug", self.stall),
                        self._button("Cut", self.cut),
                        self._button("Heal", self.heal),
                        self._button("Reconnect", self.connect),
                    ]
                ),
                self._row(
                    self._button("Delay", self.delay), self._latency, "±", self._jitter, "ms"
                ),
                self._row(self._button("Throttle", self.throttle), self._rate, "bytes/s each way"),
                self.transcript.widget,
            ],
        )

    @staticmethod
    def _number(value: int) -> ipywidgets.BoundedIntText:
        layout = ipywidgets.Layout(width="80px")
        return ipywidgets.BoundedIntText(value=value, min=0, max=1_000_000, layout=layout)

    @staticmethod
    def _row(*parts: ipywidgets.Widget | str) -> ipywidgets.HBox:
        return ipywidgets.HBox(
            [ipywidgets.Label(part) if isinstance(part, str) else part for part in parts]
        )

    def _button(self, text: str, act: Callable[[], Any]) -> ipywidgets.Button:
        button = ipywidgets.Button(description=text, layout=ipywidgets.Layout(width="120px"))
        button.on_click(lambda _: self._dispatcher.run(act()))
        return button

    def _url(self) -> str:
        # By name, so that "Reconnect" finds the server that took the place of the old one.
        if isinstance(self._server, background.BackgroundServer):
            return background.find(self._server.name).url
        return self._server

    @property
    def connected(self) -> bool:
        """Whether the panel's connection is open, as far as this end knows."""
        return self._connection is not None

    # The buttons; each may be awaited in a cell too.

    async def stall(self) -> None:
        """Pull the plug: from now on bytes go nowhere, and nobody is told."""
        self.link.stall()
        self._note("plug pulled: bytes go nowhere, and nobody is told")

    async def cut(self) -> None:
        """Break off what is open, with a TCP reset to both sides; new connections get through."""
        self._note("cut: a TCP reset for both sides")
        self.link.cut().undo()

    async def delay(self) -> None:
        """Delay each direction, by the latency and jitter that the panel's fields say."""
        latency, jitter = self._latency.value, self._jitter.value
        if jitter > latency:
            raise UserError(f"a jitter of {jitter} ms needs a latency of as much at least.")
        self.link.delay(latency / 1000, jitter / 1000)
        self._note(f"delay: {latency} ± {jitter} ms each way")

    async def throttle(self) -> None:
        """Let at most so many bytes a second through, each way."""
        if not self._rate.value:
            raise UserError("0 bytes a second is a pulled plug: press that button.")
        self.link.throttle(self._rate.value)
        self._note(f"throttle: {self._rate.value} bytes a second each way")

    async def heal(self) -> None:
        """Undo every fault; what the link has held back goes on its way."""
        self.link.heal()
        self._note("healed")

    def _note(self, text: str) -> None:
        self.transcript.add("note", text)
        self._show(self._loop.time())

    async def connect(self) -> None:
        """Open a new connection through the link, in place of the one there is.

        Raises:
            UserError: the server can't be reached, perhaps because the plug is pulled.
        """
        await self._disconnect()
        if (url := self._url()) != self._target:
            await self.link.close()
            self.link, self._target = Link(url), url
            await self.link.__aenter__()
        try:
            connection = await connect(
                self.link.url, proxy=None, open_timeout=2, close_timeout=0.5, ping_interval=None
            )
        except (OSError, InvalidHandshake, TimeoutError):
            raise UserError("no connection came about: is the plug pulled? Press Heal.") from None
        self._connection = connection
        self._note("connected")
        self._tasks = [
            asyncio.create_task(self._listen(connection), name=f"{self._panel.title} listener"),
            asyncio.create_task(self._redraw(), name=f"{self._panel.title} chart"),
        ]

    async def close(self) -> None:
        """Close the connection and the link."""
        await self._disconnect()
        await self.link.close()

    async def _disconnect(self) -> None:
        if (connection := self._connection) is not None:
            await connection.close()
        tasks, self._tasks = self._tasks, []
        if tasks:
            await asyncio.wait(tasks)

    async def _listen(self, connection: ClientConnection) -> None:
        heartbeat = Heartbeat(connection, self.interval, self.timeout, on_beat=self._on_beat)
        self.heartbeat = heartbeat
        try:
            with heartbeat:
                while True:
                    await connection.recv()
        except ConnectionClosed as closed:
            self._losses.append(self._loop.time())
            who = "dropped by this side" if heartbeat.dropped else "closed"
            self.transcript.add("error" if heartbeat.dropped else "note", f"{who}: {closed}")
        finally:
            self._connection = None

    def _on_beat(self, beat: Beat) -> None:
        self._beats.append((self._loop.time(), beat.rtt))

    async def _redraw(self) -> None:
        """Move the chart on while the connection is open, and once more at its end."""
        while True:
            self._show(self._loop.time())
            if not self.connected:
                return
            await asyncio.sleep(REDRAW)

    def _show(self, now: float) -> None:
        gap = 2.5 * self.interval
        self._chart.value = rtt_chart(self._beats, now, window=WINDOW, gap=gap, losses=self._losses)
        colour, text = ("#2e7d32", "connected") if self.connected else ("#9e9e9e", "not connected")
        heartbeat = self.heartbeat
        if self.connected and heartbeat is not None:
            if heartbeat.silent_since is not None and now - heartbeat.silent_since > gap:
                colour, text = "#c62828", f"silent for {now - heartbeat.silent_since:.1f} s"
            elif heartbeat.rtt is not None:
                text += f", round trip {heartbeat.rtt * 1000:.0f} ms"
        faults = ", ".join(str(fault)[1:-1] for fault in self.link.active) or "link is healthy"
        self._state.value = (
            f'<span style="color:{colour};margin-left:12px">&#9679; {text}</span>'
            f'<span style="margin-left:12px">{html.escape(faults)}</span>'
        )

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return self._panel.bundle()


async def plug_panel(
    server: background.BackgroundServer | str,
    title: str = "plug panel",
    *,
    interval: float = 0.15,
    timeout: float = 0.45,  # noqa: ASYNC109 -- the heartbeat's, not ours
) -> PlugPanel:
    """Make a panel whose client is connected to `server` through a link that can be broken.

    Args:
        server: a server of this kernel, or the URL of any other.
        title: what the panel is called; making it again closes the old one.
        interval: of the client's heartbeat, in seconds.
        timeout: of the client's heartbeat, in seconds.

    Raises:
        UserError: the server can't be reached.
    """
    if (old := _panels.pop(title, None)) is not None:
        await old.close()
    panel = PlugPanel(title, server, interval, timeout)
    _panels[title] = panel
    await panel.connect()
    return panel
