"""How far the learner has come, one line per lesson, kept up to date while the page is open."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

from wslessons.errors import extra
from wslessons.exercises import progress
from wslessons.exercises.progress import LessonProgress
from wslessons.lab.lessons import lessons
from wslessons.lab.panel import LivePanel, replace
from wslessons.lab.theme import GREEN, GREY, RED

with extra("lab"):
    import ipywidgets


__all__ = ["ProgressCard", "as_html", "as_text", "progress_card"]

LOOK_EVERY = 0.5
"""Seconds between two looks at what is kept; only a change is sent to the page."""


def _names() -> dict[int, str]:
    """What the lessons are called, by number: ``{1: "1, echo"}``."""
    found = {}
    for path in lessons():
        number, _, words = path.stem.partition("_")
        found[int(number)] = f"{int(number)}, {words.replace('_', ' ')}"
    return found


def as_text(found: list[LessonProgress]) -> str:
    """Say in one line per lesson how many exercises pass; nothing of those not yet begun.

    Args:
        found: what `progress.lessons` returned.

    Returns:
        The lines.
    """
    names = _names()
    lines = [
        f"  lesson {names.get(each.lesson, each.lesson)}: {each.passed} of {each.total} pass"
        + (f"; passed before: {', '.join(each.slipped)}" if each.slipped else "")
        for each in found
        if each.passed or each.tried
    ]
    return "\n".join(["Your progress:", *(lines or ["  no exercise tried yet"])])


def as_html(found: list[LessonProgress]) -> str:
    """Draw a table of the lessons, with a mark per exercise: passes, fails, not tried.

    Args:
        found: what `progress.lessons` returned.

    Returns:
        The HTML.
    """
    names, rows = _names(), []
    for each in found:
        rest = each.total - each.passed - each.tried
        marks = "".join(
            f'<span style="color:{colour}">{mark * count}</span>'
            for mark, count, colour in (
                ("&#10003;", each.passed, GREEN),
                ("&#10007;", each.tried, RED),
                ("&#9675;", rest, GREY),
            )
        )
        slipped = ""
        if each.slipped:
            slipped = f'<br><span style="color:{RED}">passed before, and fails now:'
            slipped += f" {', '.join(each.slipped)}</span>"
        cell = '<td style="padding:0 16px 0 0">'
        rows.append(
            f"<tr>{cell}lesson {names.get(each.lesson, each.lesson)}</td>{cell}{marks}</td>"
            f"<td>{each.passed} of {each.total} exercises pass{slipped}</td></tr>"
        )
    passed, total = sum(each.passed for each in found), sum(each.total for each in found)
    return (
        f"<b>your progress</b>: {passed} of {total} exercises pass"
        f'<table style="line-height:1.6;text-align:left">{"".join(rows)}</table>'
    )


class ProgressCard(LivePanel):
    """The panel of `progress_card`."""

    def __init__(self) -> None:
        super().__init__("your progress")
        self._table = ipywidgets.HTML()
        self._following: Future[None] | None = None
        self.fill(self._table, self._error)
        self._look()

    async def open(self) -> None:
        """Begin to follow what is kept."""
        self._following = self.start(self._follow())

    async def close(self) -> None:
        """Stop following. Idempotent."""
        if self._following is not None:
            self._following.cancel()

    def _look(self) -> None:
        found = progress.lessons()
        self._plain = as_text(found)
        self._static = shown = as_html(found)
        if self._table.value != shown:
            self._table.value = shown

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            self._look()


async def progress_card() -> ProgressCard:
    """Show how many exercises of each lesson pass, and go on showing it while the page is open.

    It follows the file of `wslessons.exercises.progress`, whichever notebook writes to it.

    Returns:
        The card; the last expression of a cell shows it.
    """
    return await replace(ProgressCard())
