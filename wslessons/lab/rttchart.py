"""A moving chart of round-trip times, as SVG that a widget shows; no library draws it."""

from __future__ import annotations

import math
from collections.abc import Iterable

__all__ = ["round_up", "rtt_chart"]

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 600, 130, 56, 20, 10
LINE, LOST = "#1565c0", "#c62828"
INK = "var(--jp-ui-font-color2, #616161)"


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
    """
    seen = [(at, rtt) for at, rtt in points if now - window <= at <= now]
    # 10 ms at least, lest the noise of a healthy link fill the chart.
    top = round_up(max([0.01, *(rtt for _, rtt in seen)]))

    def x(at: float) -> float:
        return LEFT + (WIDTH - LEFT - 8) * (1 - (now - at) / window)

    def y(rtt: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * rtt / top

    path, before = "", -math.inf
    for at, rtt in seen:
        path += f"{'M' if at - before > gap else 'L'}{x(at):.1f} {y(rtt):.1f}"
        before = at
    dots = "".join(f'<circle cx="{x(at):.1f}" cy="{y(rtt):.1f}" r="2.5"/>' for at, rtt in seen)
    lines = "".join(
        f'<path d="M{x(at):.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
        for at in losses
        if now - window <= at <= now
    )
    return (
        f'<svg class="wslessons-rtt" viewBox="0 0 {WIDTH} {HEIGHT}" width="100%" role="img"'
        f' aria-label="round-trip times" data-beats="{len(seen)}">'
        f'<g fill="{INK}" font-size="11" font-family="sans-serif">'
        f'<text x="{LEFT - 6}" y="{TOP + 8}" text-anchor="end">{top * 1000:g} ms</text>'
        f'<text x="{LEFT - 6}" y="{HEIGHT - BOTTOM}" text-anchor="end">0</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 5}">{window:g} s ago</text>'
        f'<text x="{WIDTH - 8}" y="{HEIGHT - 5}" text-anchor="end">now</text></g>'
        f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - 8}" fill="none" stroke="{INK}"/>'
        f'<g stroke="{LOST}" stroke-width="2" stroke-dasharray="4 3">{lines}</g>'
        f'<path d="{path}" fill="none" stroke="{LINE}" stroke-width="1.5"/>'
        f'<g fill="{LINE}">{dots}</g></svg>'
    )
