"""Where the lessons are, which one a word means, and the learner's own copies of them.

Not handled here: a lesson that is newer in the package than in the work folder. A learner who
wants the fresh one renames or deletes the own copy, and the next start brings it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from wslessons.errors import UserError

__all__ = [
    "WORK_FOLDER",
    "all_lessons",
    "copy_missing",
    "find",
    "lessons",
    "repository",
    "work_folder",
]

PACKAGE = Path(__file__).resolve().parents[1]
WORK_FOLDER = "wslessons-lessons"


def repository() -> Path | None:
    """The clone that this package is imported from, or None when it was installed from a wheel."""
    root = PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() and (root / "notebooks").is_dir() else None


def lessons() -> list[Path]:
    """All lessons that came with the package, in order.

    Raises `UserError` when the install holds none.
    """
    root = repository()
    folder = root / "notebooks" if root else PACKAGE / "notebooks"
    if found := sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        return found
    raise UserError("this install holds no lessons: install wslessons again.")


def all_lessons() -> list[Path]:
    """List everything that can be run: the lessons, and the deeper ones after them.

    Raises:
        UserError: the install holds none.
    """
    main = lessons()
    return [*main, *sorted((main[0].parent / "deeper").glob("[0-9][0-9]_*.ipynb"))]


def find(word: str | None) -> Path:
    """The lesson that `word` means: a number, a word of its name, or its file name.

    `None` means lesson 1, the first one to run. A word may be cut short as long as it fits one
    lesson only: "heart" finds 05_heartbeats. Raises `UserError` (exit code 2) for any other word.
    """
    known = lessons()
    wanted = "1" if word is None else word
    # Both separators, since a path typed by completion ends in the name on every system.
    stem = wanted.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".ipynb").lower()
    rules = (
        lambda name: stem == name or (stem.isdecimal() and int(stem) == int(name[:2])),
        lambda name: stem in name[3:].split("_"),
        lambda name: stem and any(part.startswith(stem) for part in name[3:].split("_")),
    )
    for fits in rules:
        if len(matches := [lesson for lesson in known if fits(lesson.stem.lower())]) == 1:
            return matches[0]
    if word is None:
        return known[0]
    choice = ", ".join(f"{lesson.stem[:2]} {lesson.stem[3:]}" for lesson in known)
    raise UserError(f"there is no lesson {word!r}: choose one of {choice}.", exit_code=2)


def work_folder(chosen: Path | None = None) -> Path:
    """The folder for the learner's copies: `chosen`, or else the one that serves a learner best.

    That is the current folder if it holds copies already, the clone's root joined with
    `WORK_FOLDER` inside a clone (git ignores it, so saving a lesson never makes the clone dirty
    and never breaks its recorded outputs), and `WORK_FOLDER` in the current folder elsewhere.
    """
    if chosen is not None:
        return chosen.expanduser().resolve()
    here = Path.cwd()
    originals = lessons()
    is_source = here == originals[0].parent
    if not is_source and any((here / lesson.name).exists() for lesson in originals):
        return here
    root = repository()
    if root is not None and (here == root or root in here.parents):
        return root / WORK_FOLDER
    return here / WORK_FOLDER


def copy_missing(folder: Path) -> list[Path]:
    """Copy each lesson that `folder` lacks, and return the copies made; never touch what is there.

    Raises `UserError` when the folder can't be written.
    """
    made = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for lesson in lessons():
            target = folder / lesson.name
            if os.path.lexists(target):
                continue
            # Under its real name only when whole: a half-written lesson would stay for good.
            part = target.with_name(f".{target.name}.part")
            shutil.copyfile(lesson, part)
            part.replace(target)
            made.append(target)
    except OSError as exc:
        why = exc.strerror or type(exc).__name__
        raise UserError(
            f"can't keep the lessons in {folder} ({why}): choose another folder with --dir."
        ) from None
    return made
