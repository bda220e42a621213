"""The recipe for an exercise in CONTRIBUTING.md, followed step by step."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

from author import judge

from wslessons.exercises.verdict import State

RECIPE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_recipe_works():
    """Its stub is not attempted, its solution passes, its wrong answer gets its hint."""
    module, wrong = re.findall(r"(?ms)^   ```python\n(.*?)^   ```", RECIPE)
    names: dict[str, Any] = {"__name__": "recipe"}
    exec(textwrap.dedent(module), names)
    exercise = names["Twice"]()
    assert exercise.task == "Write a handler that sends each message back twice."
    assert judge(exercise, exercise.stub).state is State.NOT_ATTEMPTED
    assert judge(exercise, exercise.solution_source).passed
    verdict = judge(exercise, textwrap.dedent(wrong))
    assert verdict.state is State.FAIL
    (hint,) = re.findall(r"gets \*(.+?)\*", RECIPE)
    assert [line.hint for line in verdict.lines if hint in line.hint]
