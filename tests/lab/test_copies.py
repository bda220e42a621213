"""The learner's copies: blank at first, refreshed while they are unedited, never overwritten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wslessons.errors import UserError
from wslessons.exercises import check
from wslessons.lab import lessons
from wslessons.lab.copies import Brought, bring, solved

LESSON, DEEPER = "01_echo.ipynb", "deeper/01_echo.ipynb"
METADATA = {"language_info": {"name": "python"}}


def notebook(*sources: str, **cell: Any) -> dict[str, Any]:
    """A notebook of code cells, each with an output and a count."""
    output = {"output_type": "stream", "name": "stdout", "text": ["1\n"]}
    made = {"metadata": {}, "outputs": [output], "execution_count": 7} | cell
    cells = [
        {"cell_type": "code", "id": f"c{n}", "source": [s], **made} for n, s in enumerate(sources)
    ]
    heading = {"cell_type": "markdown", "id": "m", "metadata": {}, "source": ["# Title\n", "text"]}
    return {"cells": [heading, *cells], "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a lesson, and what goes deeper."""
    folder = tmp_path / "package" / "notebooks"
    (folder / "deeper").mkdir(parents=True)
    monkeypatch.setattr(lessons, "PACKAGE", tmp_path / "package")
    for name in (LESSON, DEEPER):
        save(folder / name, notebook("x = 1"))
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A work folder that is not there yet."""
    return tmp_path / "my work"


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a notebook."""
    path.write_text(json.dumps(content))


def sources(path: Path) -> list[str]:
    """The sources of a notebook's code cells."""
    cells = json.loads(path.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def run_in_jupyterlab(path: Path) -> None:
    """What saving leaves in a notebook that was run from top to bottom."""
    ran = json.loads(path.read_text())
    blank_cell = {"cell_type": "code", "id": "e", "metadata": {}, "source": [], "outputs": []}
    save(path, {**ran, "cells": [*notebook(*sources(path))["cells"], blank_cell]})


def edit(path: Path, source: str) -> None:
    """What an answer leaves in it."""
    save(path, notebook(source))


def test_copies_come_blank(package: Path, work: Path):
    """No outputs, no counts, and the sentence that they are the learner's; the originals stay."""
    before = (package / LESSON).read_bytes()
    brought = bring(work)
    assert brought.copied == [work / LESSON, work / DEEPER]
    assert brought.sentence(work) == f"Copied {LESSON}, {DEEPER} to {work}: yours to change."
    for name in (LESSON, DEEPER):
        copy = json.loads((work / name).read_text())
        assert [(c["outputs"], c["execution_count"]) for c in copy["cells"][1:]] == [([], None)]
        assert sources(work / name) == ["x = 1"]
    assert (package / LESSON).read_bytes() == before
    assert sorted(path.name for path in work.iterdir()) == [".wslessons", LESSON, "deeper"]


def test_nothing_is_said_where_nothing_is_new(package: Path, work: Path):
    """Run, saved, edited: as long as the package's lesson is the same, copies stay as they are."""
    bring(work)
    for change in (lambda path: None, run_in_jupyterlab, lambda path: edit(path, "mine")):
        change(work / LESSON)
        before = (work / LESSON).read_bytes()
        assert bring(work) == Brought()
        assert (work / LESSON).read_bytes() == before
    assert Brought().sentence(work) == ""


def test_a_newer_lesson_refreshes_a_copy_that_was_only_run(package: Path, work: Path):
    """Its outputs go, since they are those of other cells; a deleted one comes back."""
    bring(work)
    run_in_jupyterlab(work / LESSON)
    (work / DEEPER).unlink()
    save(package / LESSON, notebook("x = 2"))
    brought = bring(work)
    assert brought.sentence(work) == (
        f"Copied {DEEPER} to {work}: yours to change;"
        f" refreshed {LESSON}, which you had not changed."
    )
    assert sources(work / LESSON) == ["x = 2"]
    assert bring(work) == Brought()


def test_an_edited_copy_is_kept_and_the_newer_one_put_beside_it(package: Path, work: Path):
    """Once for each newer version; what lies beside it is treated alike."""
    bring(work)
    edit(work / LESSON, "mine")
    save(package / LESSON, notebook("x = 2"))
    assert bring(work).sentence(work) == (
        f"Kept your {LESSON}; the newer one is 01_echo_newer.ipynb."
    )
    assert sources(work / LESSON) == ["mine"]
    assert sources(work / "01_echo_newer.ipynb") == ["x = 2"]
    assert bring(work) == Brought()

    save(package / LESSON, notebook("x = 3"))
    assert bring(work).beside == [(work / LESSON, work / "01_echo_newer.ipynb")]
    assert sources(work / "01_echo_newer.ipynb") == ["x = 3"]

    edit(work / "01_echo_newer.ipynb", "mine, too")
    save(package / LESSON, notebook("x = 4"))
    assert bring(work).beside == [(work / LESSON, work / "01_echo_newer2.ipynb")]
    assert sources(work / "01_echo_newer.ipynb") == ["mine, too"]
    assert sources(work / "01_echo_newer2.ipynb") == ["x = 4"]


def test_what_cannot_be_read_is_kept(package: Path, work: Path):
    """A broken copy, a broken memory of the versions, a link to nowhere: nothing is overwritten."""
    bring(work)
    (work / LESSON).write_text("{")
    (work / ".wslessons" / "copies.json").write_text("[")
    (work / DEEPER).unlink()
    (work / DEEPER).symlink_to(work / "nowhere")
    brought = bring(work)
    assert [mine for mine, _ in brought.beside] == [work / LESSON, work / DEEPER]
    assert (work / LESSON).read_text() == "{"
    assert (work / DEEPER).is_symlink()
    assert bring(work) == Brought()


def test_many_are_counted(package: Path, work: Path):
    """The line at the start stays a line."""
    for number in range(10, 14):
        save(package / f"{number}_more.ipynb", notebook("x"))
    assert bring(work).sentence(work) == f"Copied 6 notebooks to {work}: yours to change."


def test_working_in_the_original_folder_copies_nothing(package: Path):
    """An author opens the lessons themselves with `--dir notebooks`."""
    assert bring(package) == Brought()
    assert not (package / ".wslessons").exists()


def test_a_folder_that_cannot_be_made_is_one_sentence(package: Path):
    """A file where the folder should be is named, with what to do."""
    with pytest.raises(UserError, match=r"can't keep the lessons in .*01_echo.ipynb.*--dir"):
        bring(package / LESSON)


def test_solutions_take_the_place_of_the_stubs(package: Path, work: Path):
    """In a folder of their own, and only where they are asked for; the copies keep the stubs."""
    shout = next(iter(check))
    save(package / LESSON, notebook(f"import this\n\n\n{shout.stub.strip()}", "x = 1"))
    bring(work)
    assert not (work / "solutions").exists()
    bring(work, solutions=True)
    solution, other = sources(work / "solutions" / LESSON)
    assert solution == f"import this\n\n\n{shout.solution_source.strip()}"
    assert other == "x = 1"
    assert shout.stub.strip() in sources(work / LESSON)[0]
    assert (work / "solutions" / DEEPER).exists()


@pytest.mark.parametrize("path", lessons.all_lessons(), ids=lambda path: path.stem)
def test_every_exercise_of_a_lesson_is_solved(path: Path):
    """Whatever is checked in it has its solution in the solved one, or stands there already."""
    lesson = json.loads(path.read_text(encoding="utf-8"))
    code = "\n".join("".join(cell["source"]) for cell in solved(lesson)["cells"])
    for exercise in check:
        if f"check.{exercise.name}(" in code:
            assert exercise.solution_source.strip() in code
