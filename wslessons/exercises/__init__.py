"""Exercises whose checks run real clients against what a learner wrote, on the notebook's own loop.

    from wslessons.exercises import check

    await check.counter(counter)   # one line per behaviour: pass, fail with a hint, timed out
    check.counter.hint(1)
    check.counter.solution()       # after a pass, or three attempts

Each lesson has a module of the same name here, and each exercise is one class in it: task, stub,
hints, solution and behaviours.

Not handled here: anything of Jupyter. A verdict brings its own plain text and HTML.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator

from wslessons.errors import UserError
from wslessons.exercises.exercise import Exercise

__all__ = ["Check", "UnknownExercise", "check"]

LESSONS = (
    *("why", "echo", "chat", "client", "web", "heartbeats", "scaling", "fast"),
    *("production", "testing"),
)
"""The modules that hold exercises, in the order of the lessons."""


class UnknownExercise(UserError, AttributeError):
    """There is no exercise of that name; the sentence names the nearest ones."""


class Check:
    """All exercises, each an attribute: ``await check.counter(counter)``."""

    def __iter__(self) -> Iterator[Exercise]:
        for word in LESSONS:
            yield from importlib.import_module(f"{__name__}.{word}").EXERCISES

    def of_lesson(self, number: int) -> list[Exercise]:
        """Find the exercises of a lesson.

        Args:
            number: the lesson's.

        Returns:
            Its exercises, easiest first.
        """
        return [exercise for exercise in self if exercise.lesson == number]

    def __getattr__(self, name: str) -> Exercise:
        if name.startswith("_"):
            raise AttributeError(name)
        known = {exercise.name: exercise for exercise in self}
        if name in known:
            return known[name]
        near = difflib.get_close_matches(name, known, 3) or sorted(known)
        raise UnknownExercise(f"there is no exercise {name!r}: choose one of {', '.join(near)}.")

    def __dir__(self) -> list[str]:
        return ["of_lesson", *(exercise.name for exercise in self)]

    def __repr__(self) -> str:
        return "\n".join(f"check.{e.name}: {e.task.splitlines()[0]}" for e in self)


check = Check()
