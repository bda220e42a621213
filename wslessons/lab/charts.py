"""A chart of matplotlib as a picture with words: for a lesson's page, and for those who can't see.

JupyterLab shows a picture of its own kinds (PNG, SVG) with no words at all, and takes none. So a
chart is HTML: one picture, whose alternative text says what its axes are and where its lines begin
and end. It is the same text at each run for the same figure, so that a check can compare it.

Not handled here: what a chart means. The lesson says that, beside it.

https://www.w3.org/WAI/tutorials/images/complex/
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

__all__ = ["as_html", "describe", "show_figures_with_words"]

MOST = 12
"""Bars whose lengths are said; of more, how many there are."""


def describe(figure: Figure) -> str:
    """Say in words what a figure shows.

    Args:
        figure: of matplotlib, with its axes labelled.

    Returns:
        One sentence for each of its charts: the labels of its axes, the lengths of its bars, and
        each line with where it begins and ends.
    """
    whole = (figure.get_suptitle(), figure.get_supylabel(), figure.get_supxlabel())
    said = [f"{text}." for text in whole if text]
    said += [_axes(axes) for axes in figure.axes if axes.get_visible()]
    return " ".join(["Chart.", *said])


def as_html(figure: Figure) -> str:
    """Draw a figure as SVG, the same at each run, in a picture that has `describe`'s words.

    Args:
        figure: of matplotlib; of an empty one there is no picture.

    Returns:
        HTML.
    """
    from IPython.core.pylabtools import print_figure
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "wslessons", "svg.fonttype": "none"}):
        svg: Any = print_figure(figure, "svg", bbox_inches="tight", metadata={"Date": None})
    words = html.escape(describe(figure))
    if svg is None:
        return f"<p>{words}</p>"
    data = quote(svg[svg.index("<svg") :], safe="!$()*+,-./:;=?@_~{}[]|")
    style = "max-width:100%;height:auto;background:white"
    return f'<img alt="{words}" style="{style}" src="data:image/svg+xml,{data}">'


def show_figures_with_words(shell: Any) -> None:
    """Let a notebook show figures by `as_html`, and not in the kinds that JupyterLab prefers.

    Args:
        shell: IPython's. matplotlib is not imported here, but when a cell needs it.
    """
    shell.config.InlineBackend.figure_formats = set()
    # As it is loaded, matplotlib's backend forgets what was registered for `Figure` itself.
    for_html = shell.display_formatter.formatters["text/html"]
    for_html.for_type_by_name("matplotlib.figure", "FigureBase", as_html)


def _axes(axes: Axes) -> str:
    """What one chart shows."""
    from matplotlib.container import BarContainer

    labels = " by ".join(filter(None, (axes.get_ylabel(), axes.get_xlabel())))
    title = axes.get_title() or axes.get_title(loc="left")
    bars = [each for each in axes.containers if isinstance(each, BarContainer)]
    said = [_bars(axes, each) for each in bars]
    said += filter(None, map(_line, axes.get_lines()))
    return f"{': '.join(filter(None, (title, labels, ', '.join(said))))}."


def _number(value: float) -> str:
    """Three digits of it, as one reads it aloud: 517,000 and not 5.17e+05."""
    return f"{float(f'{value:.3g}'):,.15g}"


def _bars(axes: Axes, bars: BarContainer) -> str:
    """Each bar with its name; of many, how many there are and the longest."""
    if bars.orientation == "horizontal":
        places = [(each.get_y() + each.get_height() / 2, each.get_width()) for each in bars]
        axis = axes.yaxis
    else:
        places = [(each.get_x() + each.get_width() / 2, each.get_height()) for each in bars]
        axis = axes.xaxis
    label = str(bars.get_label())
    head = "" if label.startswith("_") else f"{label}: "
    if len(places) > MOST:
        return f"{head}{len(places)} bars up to {_number(max(value for _, value in places))}"
    # Only those that can be seen, which may be fewer than there are places for.
    labels = axis.get_ticklabels()
    lying = bars.orientation == "horizontal"
    names = {round(each.get_position()[lying], 3): each.get_text() for each in labels}
    return head + ", ".join(
        f"{names.get(round(place, 3), '')} {_number(value)}".strip() for place, value in places
    )


def _line(line: Line2D) -> str:
    """Where a line begins and ends; nothing of a mark that has no name."""
    across, up = cast("tuple[Sequence[float], Sequence[float]]", line.get_data())
    xs, ys = list(map(float, across)), list(map(float, up))
    name = str(line.get_label())
    if name.startswith("_"):
        if len(set(zip(xs, ys, strict=True))) <= 2:
            return ""
        name = "a line" if line.get_linestyle() != "None" else f"{len(ys)} points"
    if not ys:
        return name
    if len(set(xs)) == 1:
        return f"{name} at {_number(xs[0])}"
    if len(set(ys)) == 1:
        return f"{name} at {_number(ys[0])}"
    return f"{name} from {_number(ys[0])} to {_number(ys[-1])}, at most {_number(max(ys))}"
