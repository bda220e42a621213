"""What holds for every exercise: its stub, its solution, its texts."""

from __future__ import annotations

import ast
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from author import judge

from wslessons.exercises import LESSONS, check
from wslessons.exercises.verdict import State

EXERCISES = list(check)
NAMES = [exercise.name for exercise in EXERCISES]
RUFF = [sys.executable, "-m", "ruff"]


@pytest.mark.parametrize("exercise", EXERCISES, ids=NAMES)
def test_stub_is_not_attempted(exercise):
    """The untouched stub is said to be one, and fails nothing."""
    verdict = judge(exercise, exercise.stub)
    assert verdict.state is State.NOT_ATTEMPTED
    assert repr(verdict).startswith(f"check.{exercise.name}: not attempted yet\n")


@pytest.mark.parametrize("exercise", EXERCISES, ids=NAMES)
def test_stub_is_known_in_a_notebook_too(exercise):
    """A notebook compiles each statement by itself, which makes other bytecode of a call."""
    names = {"__name__": "answer"}
    for statement in ast.parse(exercise.stub).body:
        exec(compile(ast.Module([statement], []), "<cell>", "exec"), names)
    assert exercise.untouched(names[exercise.answer_name])


@pytest.mark.parametrize("exercise", EXERCISES, ids=NAMES)
def test_solution_passes(exercise):
    """Every behaviour of the solution passes, in a cell with no import but its own."""
    verdict = judge(exercise, exercise.solution_source)
    assert verdict.passed, verdict
    assert f"check.{exercise.name}: passed" in repr(verdict)


def test_a_name_that_has_to_be_imported_is_told_with_its_import():
    """The hints name what an answer needs; who writes it down by them gets the line for it."""
    verdict = judge(check.delays, "def delays(base, cap):\n    yield random.uniform(0, base)\n")
    assert verdict.lines[0].hint == "Import it, at the top of your cell: `import random`."
    assert check.relay.crash_hint(NameError("name 'x'", name="x")).startswith("That name is not")


@pytest.mark.parametrize("exercise", EXERCISES, ids=NAMES)
def test_texts_are_short(exercise):
    """Hints have at most 60 words, the task at most 80."""
    assert 2 <= len(exercise.hints) <= 4
    assert all(len(hint.split()) <= 60 for hint in exercise.hints)
    assert len(exercise.task.split()) <= 80
    assert len(exercise.behaviours()) >= 2


# A stub may hold the very mistake that is to be found.
CHECK = ["check", "--ignore=D1,ASYNC251,RUF006"]
CHECK.append("--config=lint.isort.known-first-party=['wslessons']")


@pytest.mark.parametrize("words", [CHECK, ["format", "--check"]])
def test_stubs_and_solutions_are_clean(tmp_path: Path, words: list[str]):
    """The linter and the formatter let them pass, as in a notebook."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for exercise in EXERCISES:
        (folder / f"{exercise.name}_stub.py").write_text(exercise.stub)
        (folder / f"{exercise.name}_solution.py").write_text(exercise.solution_source)
    shutil.copy(Path(__file__).parents[2] / "pyproject.toml", tmp_path)
    done = subprocess.run(
        [*RUFF, *words, "--no-cache", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_names_are_unique():
    """A name alone says which exercise is meant."""
    assert len(set(NAMES)) == len(NAMES)


def test_every_lesson_has_its_wrong_answers():
    """There is a test file with wrong answers for each module of exercises."""
    for word in LESSONS:
        assert (Path(__file__).parent / f"test_{word}_exercises.py").exists(), word


def test_exercises_bring_no_jupyter():
    """The checks run where no Jupyter is installed."""
    code = (
        "import sys; from wslessons.exercises import check; list(check);"
        " print({'IPython', 'ipykernel', 'ipywidgets', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "set()\n"


def test_an_unknown_name_gets_the_nearest_ones():
    """A slip of the pen is one sentence, and attributes work as everywhere."""
    with pytest.raises(
        AttributeError, match="there is no exercise 'conter': choose one of counter"
    ):
        _ = check.conter
    assert not hasattr(check, "conter")
    assert importlib.util.find_spec("wslessons.exercises") is not None
