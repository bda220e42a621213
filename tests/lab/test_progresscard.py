"""The card of the learner's progress: words, marks, and how it follows the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from waits import until

from wslessons import lab
from wslessons.exercises import progress
from wslessons.exercises.progress import LessonProgress
from wslessons.lab.progresscard import ProgressCard, as_html, as_text

FOUND = [
    LessonProgress(0, 3, 0, 0),
    LessonProgress(1, 4, 2, 1, slipped=("shout",)),
]


def test_lessons_not_yet_begun_are_not_in_the_text() -> None:
    """A fresh start is one line; what passed before and fails now is named."""
    assert as_text(FOUND[:1]) == "Your progress:\n  no exercise tried yet"
    assert as_text(FOUND) == "Your progress:\n  lesson 1, echo: 2 of 4 pass; passed before: shout"


def test_each_exercise_has_a_mark() -> None:
    """Two pass, one fails, one is not tried; the number stands beside the marks."""
    html = as_html(FOUND)
    assert "2 of 7 exercises pass" in html
    assert (html.count("&#10003;"), html.count("&#10007;"), html.count("&#9675;")) == (2, 1, 4)
    assert "passed before, and fails now: shout" in html


async def test_card_follows_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another kernel notes is on the page soon; the cell run again leaves one follower."""
    monkeypatch.setenv("WSLESSONS_PROGRESS", str(tmp_path / "progress.json"))
    await lab.progress_card()
    card = await lab.progress_card()
    try:
        assert "no exercise tried yet" in repr_of(card)
        progress.note("nap", passes=True)
        await until(lambda: "lesson 1, echo: 1 of" in repr_of(card))
    finally:
        await card.close()


def repr_of(card: ProgressCard) -> str:
    """What a page of text gets."""
    return card._repr_mimebundle_()["text/plain"]
