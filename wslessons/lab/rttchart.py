"""A moving chart of round-trip times, as SVG that a widget shows; no library draws it."""

from __future__ import annotations

import math
from collections.abc import Iterable

from wslessons.lab.theme import BLUE, GREY, RED

__all__ = ["round_up", "rtt_chart"]

WIDTH, HEIGHT = 1000, 100
"""Units of the drawing, which is stretched to the page's width; its labels are not."""

STROKE = 'fill="none" vector-effect="non-scaling-stroke"'


def round_up(value: float) -> float:
    """Return the next number above `value` of the form 1, 2 or 5 times a power of ten.

    >>> [round_up(x) for x in (0.7, 1, 3, 12, 240)]
    [1.0, 1.0, 5.0, 20.0, 500.0]
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
