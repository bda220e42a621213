"""Charts of matplotlib, and the words that stand for them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from kernels import kernel

from wslessons.lab.charts import as_html, describe

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@pytest.fixture(name="figure")
def fixture_figure() -> Figure:
    """Make an empty figure."""
    # Here, since each process of a run imports this file, and matplotlib takes half a second.
    from matplotlib.figure import Figure

    return Figure()


def test_words_say_what_the_axes_are_and_where_the_lines_go(figure: Figure) -> None:
    """Of each chart in the figure: lines, marks across, and points without a name."""
    above, below = figure.subplots(2)
    above.plot([0, 1, 2], [1, 9, 4], label="pushing")
    above.axvline(1.5, label="break-even")
    above.axhline(3, label="bound")
    above.axhline(5)
    above.set(xlabel="seconds", ylabel="lines")
    below.plot([0, 1, 2], [5, 5, 8], ".")
    below.set_title("emulator", loc="left")
    figure.supylabel("delay")
    assert describe(figure) == (
        "Chart. delay. lines by seconds: pushing from 1 to 4, at most 9, break-even at 1.5,"
        " bound at 3. emulator: 3 points from 5 to 8, at most 8."
    )


def test_words_say_how_long_each_bar_is(figure: Figure) -> None:
    """With its name, upright or lying; of many bars, the longest one."""
    left, middle, right = figure.subplots(1, 3)
    left.bar(["set", "channel"], [61, 517_000])
    middle.barh(range(2), [1.25, 0.5], label="waits")
    middle.set_yticks(range(2), ["client 1", "client 2"])
    right.bar(range(100), range(100))
    assert describe(figure) == (
        "Chart. set 61, channel 517,000. waits: client 1 1.25, client 2 0.5. 100 bars up to 99."
    )


def test_a_picture_is_the_same_each_time_and_has_its_words(figure: Figure) -> None:
    """It is a whole SVG; words that are hostile stay words."""
    figure.subplots().set(xlabel='<b>"seconds" & more')
    picture = as_html(figure)
    assert picture == as_html(figure)
    assert picture.startswith('<img alt="Chart. &lt;b&gt;&quot;seconds&quot; &amp; more."')
    assert picture.count('"') == 6
    svg = unquote(picture.partition("data:image/svg+xml,")[2].removesuffix('">'))
    texts = [each.text for each in ElementTree.fromstring(svg).iter() if each.tag.endswith("text")]
    assert '<b>"seconds" & more' in texts


def test_of_a_chart_with_nothing_in_it_there_is_nothing_to_say(figure: Figure) -> None:
    """Not even a picture."""
    assert as_html(figure) == "<p>Chart.</p>"


async def test_a_notebook_shows_the_picture_with_its_words() -> None:
    """By pyplot and as a cell's value; in no other kind, which JupyterLab would show wordless."""
    async with asyncio.timeout(50), kernel() as started:
        await started.run("from wslessons import lab")
        await started.run("import matplotlib.pyplot as plt\nfigure = plt.figure()")
        await started.run("figure.subplots().set(title='ways')\nplt.close()")
        shown = "kinds = get_ipython().display_formatter.format(figure)[0]\nsorted(kinds)"
        assert await started.run(shown) == "['text/html', 'text/plain']"
        assert '<img alt="Chart. ways."' in await started.run("print(kinds['text/html'])")
