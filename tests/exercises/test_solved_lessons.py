"""The lessons as `wslessons lab --solutions` brings them, in a real kernel: every check is passed.

Each time, only the cells that practise are run: the solved stubs and their checks, and the import
before them. One kernel takes one lesson after the other, with no name left of the one before: half
a minute of waiting, little work.

Whole, under strict nbval, they run on demand: ``pytest -m reruns``. All their other cells are
compared each time anyway, in the recorded lessons.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from kernels import kernel
from nbformat import from_dict
from nbformat.v4 import new_output

from wslessons.errors import UserError
from wslessons.exercises import check, progress
from wslessons.exercises.exercise import ENDING
from wslessons.exercises.verdict import Line, State, Verdict
from wslessons.lab import outputs, record
from wslessons.lab.copies import solved
from wslessons.lab.lessons import all_lessons, originals

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
    written = {exercise.lesson for exercise in check if exercise.name in found}
    assert sorted(found) == sorted(each.name for each in check if each.lesson in written)


def passed(name: str) -> Verdict:
    """What the check of an exercise says of an answer that shows every behaviour."""
    texts = [text for text, _ in getattr(check, name).behaviours()]
    return Verdict(name, [Line(text, State.PASS) for text in [*texts, ENDING]])


def recorded(path: Path) -> Any:
    """The solved lesson as a recording of it would be: what was recorded, and each check passed."""
    notebook = outputs.parse(path, path.read_text(encoding="utf-8"))
    notebook = from_dict(solved(notebook))
    for number, _, cell in outputs.code_cells(notebook):
        if name := CHECKED.search(cell.source):
            said = passed(name[1])._repr_mimebundle_()
            cell.outputs = [new_output("execute_result", data=said, execution_count=number)]
    outputs.normalise(notebook, outputs.read_rules())
    return notebook


def name_of(path: Path) -> str:
    """A lesson's name in a test: `01_echo`, `deeper/01_echo`."""
    return path.relative_to(originals()).with_suffix("").as_posix()


@pytest.mark.reruns
@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", LESSONS, ids=name_of)
def test_solved_lesson_puts_out_what_was_recorded(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Cell by cell, strict nbval finds the recorded outputs, and every check passed."""
    monkeypatch.setenv(progress.VARIABLE, "")
    target = tmp_path / path.name
    target.write_text(outputs.dumps(recorded(path)), encoding="utf-8")
    assert record.check(target, timeout=120) == "as recorded"


@pytest.mark.reruns
def test_wrong_answer_is_no_solved_lesson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The comparison can fail: an answer that its check refuses differs from the recording."""
    monkeypatch.setenv(progress.VARIABLE, "")
    notebook = recorded(originals() / "01_echo.ipynb")
    answer = check.nap.solution_source.strip()
    notebook.cells = [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code"
        and (IMPORT in cell.source or answer in cell.source or "check.nap(" in cell.source)
    ]
    for number, _, cell in outputs.code_cells(notebook):
        cell.source = cell.source.replace(answer, "async def nap(connection):\n    pass")
        cell.execution_count = number
    (tmp_path / "one.ipynb").write_text(outputs.dumps(notebook), encoding="utf-8")
    with pytest.raises(UserError, match="differs from its recording"):
        record.check(tmp_path / "one.ipynb")
