"""The lessons as `wslessons lab --solutions` brings them, in a real kernel: every check is passed.

Only the cells that practise are run: the solved stubs and their checks, and the import before them.
All others are compared, cell by cell, when the recorded lessons run. One kernel takes one lesson
after the other, with no name left of the one before: half a minute of waiting, little work.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from kernels import kernel

from wslessons.exercises import check, progress
from wslessons.lab.copies import solved
from wslessons.lab.lessons import all_lessons

IMPORT = "from wslessons.exercises import check"
CHECKED = re.compile(r"await check\.(\w+)\(")


def practice(path: Path) -> list[str]:
    """The cells of a solved lesson that hold an answer, a check, or the import of both."""
    cells = solved(json.loads(path.read_text(encoding="utf-8")))["cells"]
    answers = [exercise.solution_source.strip() for exercise in check]
    found = []
    for cell in cells:
        source = cell["source"]
        if cell["cell_type"] != "code":
            continue
        if CHECKED.search(source) or any(answer in source for answer in answers):
            found.append(source)
        elif IMPORT in source:
            found.append(IMPORT)
    return found


LESSONS = [path for path in all_lessons() if CHECKED.search("\n".join(practice(path)))]


@pytest.mark.timeout(240)
async def test_every_check_of_the_solved_lessons_says_passed(monkeypatch: pytest.MonkeyPatch):
    """In the order of each lesson, as a learner would run it."""
    monkeypatch.setenv(progress.VARIABLE, "")
    async with kernel() as shared:
        for path in LESSONS:
            await shared.run("%reset -f")
            for source in practice(path):
                said = await shared.run(source)
                if name := CHECKED.search(source):
                    assert said.startswith(f"check.{name[1]}: passed\n"), (path.name, said)


def test_every_exercise_has_one_place():
    """In a lesson, or in what goes deeper: none is forgotten, and none is asked twice."""
    found = [name for path in LESSONS for name in CHECKED.findall("\n".join(practice(path)))]
    assert sorted(found) == sorted(exercise.name for exercise in check)
