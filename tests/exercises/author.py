"""What an author must show of each exercise, and a runner for it."""

from __future__ import annotations

import asyncio
import gc
import linecache
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from wslessons.exercises import check, trial
from wslessons.exercises.exercise import Exercise
from wslessons.exercises.verdict import State, Verdict

Wrong = dict[str, list[tuple[str, str, str]]]
"""For each exercise: what the learner thought, their answer, and a part of the hint they get."""


def judge(exercise: Exercise, source: str) -> Verdict:
    """Check an answer that is given as source, on a loop of its own and in bounded time."""
    name = f"<answer to {exercise.name}>"
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    names: dict[str, Any] = {"__name__": "answer"}
    exec(compile(source, name, "exec"), names)

    async def checked() -> Verdict:
        async with asyncio.timeout(100):
            return await exercise(names[exercise.answer_name])

    with warnings.catch_warnings():
        # A forgotten await is a mistake that people make: what it leaves behind is collected here,
        # and not in the middle of another test.
        warnings.simplefilter("ignore", RuntimeWarning)
        # Looking through all that was there before takes longer than the check.
        gc.freeze()
        try:
            verdict = asyncio.run(checked())
            gc.collect()
        finally:
            gc.unfreeze()
    return verdict


def closing_tests(
    lesson: int, wrong: Wrong, before: str = ""
) -> tuple[Callable[[], None], Callable[..., None]]:
    """Return the two tests that close the file of a lesson's exercises.

    Args:
        lesson: its number.
        wrong: the wrong answers to its exercises.
        before: what stands before each of them, such as imports.
    """

    def whole() -> None:
        """Each exercise has four wrong answers or more, each with a hint of its own."""
        exercises = check.of_lesson(lesson)
        assert 1 <= len(exercises) <= 4
        assert list(wrong) == [exercise.name for exercise in exercises]
        for name, answers in wrong.items():
            assert len(answers) >= 4, name
            hints = [hint for _, _, hint in answers]
            assert len(set(hints)) == len(hints), f"{name}: two mistakes share a hint"

    cases = [
        pytest.param(name, source, hint, id=f"{name}: {thought}")
        for name, answers in wrong.items()
        for thought, source, hint in answers
    ]

    @pytest.mark.parametrize(("name", "source", "hint"), cases)
    def fails(name: str, source: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A wrong answer fails, and the first hint that it gets is the one for this mistake."""
        monkeypatch.setattr(trial, "TIMEOUT", 2.0)
        verdict = judge(getattr(check, name), before + source)
        assert verdict.state in (State.FAIL, State.TIMED_OUT), verdict
        hints = [line.hint for line in verdict.lines if line.hint]
        assert hints, verdict
        assert hint in hints[0], verdict

    return whole, fails
