"""A panel to break a link by hand, and to watch what a heartbeat makes of it."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterable

from websockets import ClientConnection, ConnectionClosed, InvalidHandshake, connect

from wslessons.errors import UserError, extra
from wslessons.heartbeat.heartbeat import Beat, Heartbeat
from wslessons.lab import background
from wslessons.lab.panel import ClientPanel, replace
from wslessons.lab.theme import BLUE, GREY, RED
from wslessons.link import Fault, Link

with extra("lab"):
    import ipywidgets


__all__ = ["PlugPanel", "plug_panel", "round_up", "rtt_chart"]

WIDTH, HEIGHT = 1000, 100
"""Units of the drawing, which is stretched to the page's width; its labels are not."""

STROKE = 'fill="none" vector-effect="non-scaling-stroke"'

WINDOW = 10.0
"""Seconds of the chart."""

REDRAW = 0.25
"""Seconds between two drawings of it."""


def round_up(value: float) -> float:
    """Return the next number above `value` of the form 1, 2 or 5 times a power of ten.

    >>> [round_up(x) for x in (0.7, 1, 3, 12, 240)]
    [1.0, 1.0, 5.0, 20.0, 500.0]

    Args:
        value: above 0.

    Returns:
        The number.
    """
    base = 10.0 ** math.floor(math.log10(value))
    return next(base * step for step in (1, 2, 5, 10) if base * step >= value)


def rtt_chart(
    points: Iterable[tuple[float, float]],
    now: float,
    *,
    window: float,
    gap: float,
    losses: Iterable[float] = (),
) -> str:
    """Draw what happened in the last `window` seconds before `now`, the newest at the right.

    Args:
        points: pairs of when a pong came and its round-trip time, in seconds, oldest first.
        now: the moment at the right edge, by the same clock.
        window: seconds from the left edge to the right one.
        gap: where two pongs are further apart than this many seconds, the line is broken.
        losses: moments at which a connection was lost, each a vertical line.

    Returns:
        HTML.
    """
    seen = [(at, rtt) for at, rtt in points if now - window <= at <= now]
    # 10 ms at least, lest the noise of a healthy link fill the chart.
    top = round_up(max([0.01, *(rtt for _, rtt in seen)]))

    def place(at: float, rtt: float = 0) -> str:
        return f"{WIDTH * (1 - (now - at) / window):.1f} {HEIGHT * (1 - rtt / top):.1f}"

    path, dots, before = "", "", -math.inf
    for at, rtt in seen:
        path += f"{'M' if at - before > gap else 'L'}{place(at, rtt)}"
        # A line of no length with round ends is a dot that stretching leaves round.
        dots += f"M{place(at, rtt)}h0"
        before = at
    lost = "".join(f"M{place(at)}v-{HEIGHT}" for at in losses if now - window <= at <= now)
    return (
        '<div style="display:grid;grid-template-columns:auto 1fr;gap:2px 6px;line-height:1.2;'
        f'font-size:12px;color:{GREY}">'
        '<div style="display:flex;flex-direction:column;justify-content:space-between;'
        f'text-align:right"><span>{top * 1000:g} ms</span><span>round trip</span><span>0</span>'
        f'</div><svg class="wslessons-rtt" viewBox="0 0 {WIDTH} {HEIGHT}" height="{HEIGHT}"'
        ' width="100%" preserveAspectRatio="none" role="img" aria-label="round-trip times"'
        f' data-beats="{len(seen)}" style="border:solid currentColor;border-width:0 0 1px 1px">'
        f'<path d="{lost}" {STROKE} style="stroke:{RED}" stroke-width="2" stroke-dasharray="4 3"/>'
        f'<path d="{dots}" {STROKE} style="stroke:{BLUE}" stroke-width="5"'
        ' stroke-linecap="round"/>'
        f'<path d="{path}" {STROKE} style="stroke:{BLUE}" stroke-width="1.5"/></svg>'
        '<span></span><div style="display:flex;justify-content:space-between">'
        f"<span>{window:g} s ago</span><span>now</span></div></div>"
    )


class PlugPanel(ClientPanel):
    """A client with a heartbeat, the link before it, and a button for each of the link's faults.

    Made by `plug_panel`. `link` may be broken from a cell as well; the panel shows it.

    Args:
        title: what the panel is called.
        server: of this kernel, or the URL of any.
        interval: of the client's heartbeat, in seconds.
        timeout: of the same.
    """

    def __init__(
        self, title: str, server: background.BackgroundServer | str, interval: float, timeout: float
    ) -> None:
        super().__init__(title, server, height="96px")
        self._target = ""
        self.link = Link(self.url())
        self.heartbeat: Heartbeat | None = None
        """That of the newest connection."""
        self.interval, self.timeout = interval, timeout
        self._tasks: list[asyncio.Task[None]] = []
        self._beats: deque[tuple[float, float]] = deque(maxlen=1000)
        self._losses: deque[float] = deque(maxlen=20)
        self._chart = ipywidgets.HTML(layout=ipywidgets.Layout(width="auto"))
        self._latency, self._jitter = _number("latency, ms", 100), _number("± jitter, ms", 50)
        self._rate = _number("bytes/s", 100)
        self.fill(
            self.heading,
            self._chart,
            ipywidgets.HBox(
                [
                    self.button("Pull the plug", self.stall),
                    self.button("Cut", self.cut),
                    self.button("Heal", self.heal),
                    self.button("Reconnect", self.connect),
                ]
            ),
            ipywidgets.HBox([self.button("Delay", self.delay), self._latency, self._jitter]),
            ipywidgets.HBox([self.button("Throttle", self.throttle), self._rate]),
            self.transcript.widget,
        )

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
        """Delay each direction, by the milliseconds of latency and jitter in the panel's fields.

        Raises:
            UserError: the jitter is larger than the latency.
        """
        latency, jitter = self._latency.value, self._jitter.value
        if jitter > latency:
            raise UserError(f"a jitter of {jitter:g} ms needs a latency of as much at least.")
        self.link.delay(latency / 1000, jitter / 1000)
        self._note(f"delay: {latency:g} ± {jitter:g} ms each way")

    async def throttle(self) -> None:
        """Let at most so many bytes per second through, each way, as the panel's field says.

        Raises:
            UserError: the field says 0.
        """
        if not self._rate.value:
            raise UserError("0 bytes per second is a pulled plug: press that button.")
        self.link.throttle(int(self._rate.value))
        self._note(f"throttle: {self._rate.value:g} bytes per second each way")

    async def heal(self) -> None:
        """Undo every fault; what the link has held back goes on its way."""
        self.link.heal()
        self._note("healed")

    def _note(self, text: str) -> None:
        self.transcript.add("note", text)
        self._show(self._loop.time())

    async def _enter(self) -> None:
        if (url := self.url()) != self._target:
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
            asyncio.create_task(self._listen(connection), name=f"{self.title} listener"),
            asyncio.create_task(self._redraw(), name=f"{self.title} chart"),
        ]

    async def _leave(self) -> None:
        if (connection := self._connection) is not None:
            await connection.close()
        tasks, self._tasks = self._tasks, []
        if tasks:
            await asyncio.wait(tasks)

    async def close(self) -> None:
        """Close the connection and the link."""
        await super().close()
        await self.link.close()

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
        colour, text = "", "connected" if self.connected else "not connected"
        heartbeat = self.heartbeat
        if self.connected and heartbeat is not None:
            if heartbeat.silent_since is not None and now - heartbeat.silent_since > gap:
                silent = now - heartbeat.silent_since
                colour, text = RED, f"silent for {silent:.1f} of {self.timeout:g} s"
            elif heartbeat.rtt is not None:
                rtt = heartbeat.rtt * 1000
                text += f", round trip {rtt:.{0 if rtt >= 10 else 1}f} ms"
        faults = ", ".join(map(_worded, self.link.active)) or "link is healthy"
        self.show_state(f"{text} · {faults}", colour)


def _worded(fault: Fault) -> str:
    """A fault in the words and units of the panel's buttons."""
    ways = "each way" if fault.way == "both" else fault.way
    match fault.kind:
        case "stall":
            return "plug pulled"
        case "delay":
            jitter = f" ± {fault.jitter * 1000:.0f}" if fault.jitter else ""
            return f"delayed by {fault.latency * 1000:.0f}{jitter} ms {ways}"
        case "throttle":
            return f"at most {fault.rate:,.0f} bytes/s {ways}"
    return str(fault)[1:-1]


def _number(name: str, value: float) -> ipywidgets.BoundedFloatText:
    return ipywidgets.BoundedFloatText(
        value=value,
        min=0,
        max=1_000_000,
        description=name,
        style={"description_width": "auto"},
        layout=ipywidgets.Layout(width="150px"),
    )


async def plug_panel(
    server: background.BackgroundServer | str,
    title: str = "plug panel",
    *,
    interval: float = 0.15,
    timeout: float = 0.45,
) -> PlugPanel:
    """Make a panel whose client is connected to `server` through a link that can be broken.

    Args:
        server: a server of this kernel, or the URL of any other.
        title: what the panel is called; making it again closes the old one.
        interval: of the client's heartbeat, in seconds.
        timeout: of the client's heartbeat, in seconds.

    Returns:
        The panel, which a cell shows as its last value.

    Raises:
        UserError: the server can't be reached.
    """
    return await replace(PlugPanel(title, server, interval, timeout))
