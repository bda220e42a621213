"""Cost curves of polling and pushing, drawn from unit costs that were measured on this machine."""

from __future__ import annotations

import asyncio
import html
import math
from typing import TYPE_CHECKING, Any

from wslessons.errors import extra
from wslessons.lab.charts import as_html
from wslessons.lab.panel import LivePanel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from wslessons.push import Load, UnitCosts

with extra("lab"):
    import ipywidgets


__all__ = ["CostCurves", "cost_curves", "draw", "sentence", "span", "three_digits"]

REDRAW = 0.15
"""Seconds between two drawings while the choices change, at least."""

RED, GREEN = "#c62828", "#2e7d32"

TABS = [digit * 10**power for power in range(6) for digit in (1, 2, 5)] + [1_000_000]
TIMES = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 200, 600, 1800, 3600, 14_400, 43_200, 86_400]


def draw(costs: UnitCosts, tabs: float, interval: float, change_every: float) -> Figure:
    """Draw CPU and traffic over the polling interval (seconds, logarithmic), and the chosen one.

    Args:
        costs: as measured on this machine.
        tabs: how many are open.
        interval: seconds between two looks of a polling tab.
        change_every: seconds between two changes.

    Returns:
        The figure.
    """
    # Loaded by the first drawing: that takes half a second.
    with extra("lab"):
        from matplotlib.figure import Figure

    intervals = [10 ** (step / 10) for step in range(-10, 51)]
    polling = [costs.polling(tabs, each) for each in intervals]
    pushing, chosen = costs.pushing(tabs, change_every), costs.polling(tabs, interval)
    # A choice must not wait: laying out by constraints and minor ticks would take most of the time.
    figure = Figure(figsize=(5.6, 4.6))
    figure.subplots_adjust(left=0.13, right=0.98, bottom=0.11, top=0.91, hspace=0.12)
    parts: list[tuple[str, list[float], float, float]] = [
        ("CPU, busy cores", [load.cores for load in polling], pushing.cores, chosen.cores),
        ("traffic, bytes/s", [load.traffic for load in polling], pushing.traffic, chosen.traffic),
    ]
    for number, (label, curve, level, here) in enumerate(parts, 1):
        axes = figure.add_subplot(2, 1, number)
        axes.loglog(intervals, curve, color=RED, label="polling", subs=[])
        axes.axhline(level, color=GREEN, label="pushing")
        axes.axvline(
            costs.break_even(change_every), color="#757575", linestyle=":", label="break-even"
        )
        axes.plot([interval], [here], "o", color=RED)
        axes.set_ylabel(label)
    above, below = figure.axes
    above.tick_params(labelbottom=False)
    below.set_xlabel("seconds between two looks")
    # Above the charts, where no curve runs.
    above.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, frameon=False)
    return figure


def sentence(costs: UnitCosts, tabs: float, interval: float, change_every: float) -> str:
    """Say who wins at these numbers, and from where on the other one would.

    Args:
        costs: as measured on this machine.
        tabs: how many are open.
        interval: seconds between two looks of a polling tab.
        change_every: seconds between two changes.

    Returns:
        The sentence.
    """
    poll, push = costs.polling(tabs, interval), costs.pushing(tabs, change_every)
    ratio = poll.cores / push.cores
    winner = f"Pushing takes 1/{ratio:,.1f}" if ratio >= 1 else f"Polling takes 1/{1 / ratio:,.1f}"
    return (
        f"{winner} of the other's CPU. Polling is the cheaper one for tabs that look"
        f" less often than every {span(costs.break_even(change_every))}."
    )


def span(seconds: float) -> str:
    """Write a time as people do.

    >>> span(0.25), span(59), span(5400)
    ('0.25 s', '59 s', '1.5 h')

    Args:
        seconds: the time.

    Returns:
        It, with its unit.
    """
    for least, size, unit in ((86_400, 86_400, "d"), (3600, 3600, "h"), (600, 60, "min")):
        if seconds >= least:
            return f"{seconds / size:,.3g} {unit}"
    return f"{seconds:,.3g} s"


def three_digits(value: float) -> str:
    """Write a number with three significant digits, and never with an exponent.

    >>> three_digits(10_050_000), three_digits(12.345), three_digits(0.0001234), three_digits(0)
    ('10,050,000', '12.3', '0.000123', '0')

    Args:
        value: 0 or more.

    Returns:
        The digits.
    """
    digits = max(0, 2 - math.floor(math.log10(value))) if value else 0
    return f"{value:,.{digits}f}"


def _row(name: str, load: Load) -> str:
    numbers = (load.events, load.cores, 8 * load.traffic / 1e6, load.memory / 2**20)
    cells = map(three_digits, numbers)
    return f"<tr><th>{name}</th>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


class CostCurves(LivePanel):
    """The panel: three choices, the curves, and what they say; made by `cost_curves`.

    Args:
        costs: as measured on this machine.
        title: what the panel is called.
    """

    def __init__(self, costs: UnitCosts, title: str) -> None:
        super().__init__(title)
        self._costs = costs
        self.tabs = _choice("open tabs", 500, [(f"{tabs:,}", tabs) for tabs in TABS])
        times = [(span(seconds), seconds) for seconds in TIMES]
        self.interval = _choice("look every", 2, times)
        self.change_every = _choice("change every", 200, times)
        self._picture, self._words = ipywidgets.HTML(), ipywidgets.HTML()
        self._picture.add_class("wslessons-curves")
        self._due = False
        choices = [self.tabs, self.interval, self.change_every]
        for choice in choices:
            choice.observe(self._on_change, names="value")
        heading = ipywidgets.HTML(f"<b>{html.escape(title)}</b>")
        self.fill(heading, *choices, self._picture, self._words, self._error)
        self._draw()

    def _on_change(self, change: dict[str, Any]) -> None:
        if not self._due:
            self._due = True
            self.start(self._redraw())

    async def _redraw(self) -> None:
        await asyncio.sleep(REDRAW)
        self._due = False
        self._draw()

    def _draw(self) -> None:
        chosen = (self.tabs.value, self.interval.value, self.change_every.value)
        self._picture.value = as_html(draw(self._costs, *chosen))
        tabs, interval, change_every = chosen
        head = "<tr><th></th><th>events/s</th><th>cores</th><th>Mbit/s</th><th>MiB</th></tr>"
        rows = _row("polling", self._costs.polling(tabs, interval))
        rows += _row("pushing", self._costs.pushing(tabs, change_every))
        style = '<table style="border-spacing:8px 0;text-align:right">'
        self._words.value = f"{style}{head}{rows}</table>{sentence(self._costs, *chosen)}"


def _choice(name: str, value: float, options: list[tuple[str, float]]) -> Any:
    # Not a slider: those of ipywidgets have no name for who can't see them.
    return ipywidgets.Dropdown(
        options=options,
        value=value,
        description=name,
        style={"description_width": "100px"},
        layout=ipywidgets.Layout(width="auto", max_width="400px"),
    )


def cost_curves(costs: UnitCosts, title: str = "cost curves") -> CostCurves:
    """Make a panel in which to choose tabs, polling interval and change rate.

    Args:
        costs: what one look, one push and one idle tab cost, as measured on this machine.
        title: what the panel is called.

    Returns:
        The panel, which a cell shows as its last value.
    """
    return CostCurves(costs, title)
