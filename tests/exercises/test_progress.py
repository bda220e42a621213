"""Progress: kept beside the lessons, across kernels, and never in anybody's way."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

# Files and processes are quick here, and nobody else waits for this loop.
# ruff: noqa: ASYNC221, ASYNC240
from wslessons.exercises import check, progress
from wslessons.exercises.progress import Entry


async def good(connection):
    """Pass `check.counter`."""
    count = 0
    async for _ in connection:
        count += 1
        await connection.send(str(count))


async def bad(connection):
    """Fail it."""
    await connection.send("0")


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work folder, in which a learner works."""
    monkeypatch.delenv(progress.VARIABLE, raising=False)
    (tmp_path / "01_echo.ipynb").write_text("{}")
    (tmp_path / "deeper").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / progress.FILE


async def test_hints_come_in_steps_and_the_solution_after_three_attempts(kept: Path):
    """A nudge first; the solution when it was tried three times."""
    assert repr(check.counter.hint(1)).startswith("Hint 1 of 2\n")
    assert repr(check.counter.hint(3)) == "check.counter has hints 1 to 2"
    for left in ("3 more attempts", "2 more attempts", "one more attempt"):
        assert left in repr(check.counter.solution())
        await check.counter(bad)
    assert check.counter.solution().body == check.counter.solution_source


async def test_the_solution_comes_after_a_pass_or_when_it_is_asked_for(
    kept: Path, monkeypatch: pytest.MonkeyPatch
):
    """One attempt is enough if it passes; an instructor needs none."""
    await check.counter(good)
    assert check.counter.solution().code
    assert not check.shout.solution().code
    monkeypatch.setenv("WSLESSONS_SOLUTIONS", "1")
    assert check.shout.solution().code


async def test_it_is_kept_across_kernels(kept: Path, monkeypatch: pytest.MonkeyPatch):
    """Another process, in the folder of what goes deeper, knows it."""
    assert progress.read() == {}
    assert (await check.counter(check.counter.made_of(check.counter.stub))).note
    assert not kept.exists(), "the untouched stub is no attempt"
    await check.counter(bad)
    await check.counter(good)
    monkeypatch.chdir(kept.parent / "deeper")
    code = "from wslessons.exercises import progress; print(progress.read())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == f"{ {'counter': Entry(2, True, True)} }\n"
    assert [file.name for file in kept.parent.iterdir() if "wslessons" in file.name] == [kept.name]


async def test_what_has_passed_and_fails_now_says_so(kept: Path):
    """The verdict and the lesson's line tell."""
    assert "passed before" not in repr(await check.counter(bad))
    await check.counter(good)
    assert "It has passed before" in repr(await check.counter(bad))
    (echo,) = [lesson for lesson in progress.lessons() if lesson.lesson == 1]
    assert (echo.total, echo.passed, echo.tried, echo.slipped) == (4, 0, 1, ("counter",))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"exercises": 3}', '{"exercises": {"a": 1}}', "\0"]
)
async def test_a_damaged_file_is_as_good_as_none(kept: Path, text: str):
    """It is read as empty, and the next attempt makes it whole."""
    kept.write_text(text)
    assert progress.read() == {}
    await check.counter(good)
    assert json.loads(kept.read_text())["exercises"]["counter"]["attempts"] == 1


async def test_a_folder_that_cannot_be_written_is_said(kept: Path):
    """The verdict stands, with a sentence."""
    kept.mkdir()
    verdict = await check.counter(good)
    assert verdict.passed
    assert "could not be kept" in repr(verdict)


def test_kernels_that_write_at_once_lose_nothing(kept: Path):
    """Forty attempts by eight threads are forty attempts."""
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: progress.note(f"e{n % 4}", True), range(40)))
    assert [entry.attempts for entry in progress.read().values()] == [10] * 4


def test_nothing_is_kept_in_the_clone_or_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The repository's own notebooks and folders without lessons get no file."""
    monkeypatch.delenv(progress.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    assert progress.path() is None
    monkeypatch.chdir(Path(__file__).parents[2] / "notebooks")
    assert progress.path() is None
    monkeypatch.setenv(progress.VARIABLE, str(tmp_path / "mine.json"))
    assert progress.path() == tmp_path / "mine.json"
    monkeypatch.setenv(progress.VARIABLE, "")
    assert progress.path() is None
