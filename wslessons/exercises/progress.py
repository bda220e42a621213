"""What a learner has tried and passed, kept in the work folder from one kernel to the next.

    progress.lessons()   # one entry per lesson: how many exercises it has, how many are passed
    progress.read()      # one entry per exercise that was tried

It is one small JSON file, `.wslessons-progress.json`, beside the learner's copies of the lessons.
The variable `WSLESSONS_PROGRESS` names another file; empty, it keeps nothing. Where there are no
lessons, as with a script, or in the clone whose notebooks are under version control, what is noted
is known to this process only.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["FILE", "VARIABLE", "Entry", "LessonProgress", "lessons", "note", "path", "read"]

FILE = ".wslessons-progress.json"
VARIABLE = "WSLESSONS_PROGRESS"
LANDMARK = "01_echo.ipynb"
"""The folder that holds this lesson is the work folder; a notebook in `deeper/` is below it."""

_here: dict[str, Entry] = {}
"""What this process has noted where no file is kept."""


@dataclass(frozen=True)
class Entry:
    """One exercise that was tried.

    Args:
        attempts: how often it was checked, the untouched stub not counted.
        passed: whether it has ever passed.
        passes: whether it did at the last attempt.
    """

    attempts: int = 0
    passed: bool = False
    passes: bool = False


@dataclass(frozen=True)
class LessonProgress:
    """One lesson's exercises.

    Args:
        lesson: its number.
        total: how many exercises it has.
        passed: how many of them pass.
        tried: how many were tried and do not pass.
        slipped: the names of those that have passed before and fail now.
    """

    lesson: int
    total: int
    passed: int
    tried: int
    slipped: tuple[str, ...] = ()


def path() -> Path | None:
    """Find the file of the learner who works in the current folder; None if none is kept."""
    if (chosen := os.environ.get(VARIABLE)) is not None:
        return Path(chosen) if chosen else None
    here = Path.cwd()
    for folder in (here, here.parent):
        if (folder / LANDMARK).is_file():
            source = folder.name == "notebooks" and (folder.parent / "pyproject.toml").is_file()
            return None if source else folder / FILE
    return None


def read() -> dict[str, Entry]:
    """Return what is known, by the name of the exercise. A damaged file counts as empty."""
    file = path()
    if file is None:
        return dict(_here)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["exercises"]
        return {
            str(name): Entry(int(e["attempts"]), bool(e["passed"]), bool(e["passes"]))
            for name, e in found.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def note(name: str, passes: bool) -> tuple[Entry, str]:
    """Note an attempt at the exercise `name`.

    Args:
        name: the exercise's.
        passes: whether every behaviour did.

    Returns:
        What was known of it before, and a sentence if it could not be kept.
    """
    file = path()
    if file is None:
        before = _here.get(name, Entry())
        _here[name] = _after(before, passes)
        return before, ""
    try:
        with _locked(file.parent):
            known = read()
            before = known.get(name, Entry())
            known[name] = _after(before, passes)
            entries = {each: asdict(entry) for each, entry in sorted(known.items())}
            # Under its real name only when whole.
            part = file.with_name(f"{file.name}.{os.getpid()}-{threading.get_ident()}.part")
            text = json.dumps({"version": 1, "exercises": entries}, indent=1)
            part.write_text(text + "\n", encoding="utf-8")
            part.replace(file)
        return before, ""
    except OSError as error:
        why = error.strerror or type(error).__name__
        return Entry(), f"Your progress could not be kept in {file.name} ({why})."


def lessons() -> list[LessonProgress]:
    """Return the progress in each lesson that has exercises, in their order."""
    from wslessons.exercises import check

    known, found = read(), []
    for number in sorted({exercise.lesson for exercise in check}):
        names = [exercise.name for exercise in check.of_lesson(number)]
        entries = {name: known.get(name, Entry()) for name in names}
        passed = sum(entry.passes for entry in entries.values())
        tried = sum(entry.attempts > 0 and not entry.passes for entry in entries.values())
        slipped = tuple(name for name, e in entries.items() if e.passed and not e.passes)
        found.append(LessonProgress(number, len(names), passed, tried, slipped))
    return found


def _after(before: Entry, passes: bool) -> Entry:
    return Entry(before.attempts + 1, before.passed or passes, passes)


@contextlib.contextmanager
def _locked(folder: Path) -> Generator[None]:
    """Keep other kernels from writing meanwhile, where the system has locks that end with them."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Some network folders have no locks; then two kernels at once may lose an attempt.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
