"""The learner's own copies of the lessons: without outputs, and kept when they are edited.

A copy comes without outputs and counts: no answer stands below its question, and what has run can
be told from what has not. When the package brings a newer lesson, a copy whose cells nobody has
changed is refreshed; an edited one stays as it is, and the newer one is put beside it. For that,
a file in the work folder remembers of which version each copy is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wslessons.errors import UserError
from wslessons.lab.lessons import all_lessons, originals

__all__ = ["SOLUTIONS", "STATE_FOLDER", "Brought", "blank", "bring", "solved"]

STATE_FOLDER = ".wslessons"
"""What is kept about a work folder, in it."""

SOLUTIONS = "solutions"
"""Where the solved lessons go, in the work folder."""

MANY = 4
"""Of more notebooks than that, their number is told and not each name."""

Notebook = dict[str, Any]


@dataclass
class Brought:
    """What `bring` has done."""

    copied: list[Path] = field(default_factory=list)
    refreshed: list[Path] = field(default_factory=list)
    beside: list[tuple[Path, Path]] = field(default_factory=list)
    """Edited copies, each with the newer lesson that was put beside it."""

    @property
    def written(self) -> list[Path]:
        """All files that are new or new again."""
        return [*self.copied, *self.refreshed, *(newer for _, newer in self.beside)]

    def sentence(self, folder: Path) -> str:
        """Say it in one line; empty if nothing was done.

        Args:
            folder: the work folder.

        Returns:
            The sentence.
        """
        parts = []
        if self.copied:
            parts.append(f"copied {_names(self.copied, folder)} to {folder}: yours to change")
        if self.refreshed:
            parts.append(f"refreshed {_names(self.refreshed, folder)}, which you had not changed")
        for mine, newer in self.beside:
            parts.append(
                f"kept your {_names([mine], folder)}; the newer one is {_names([newer], folder)}"
            )
        text = "; ".join(parts)
        return text and f"{text[0].upper()}{text[1:]}."


def _names(paths: list[Path], folder: Path) -> str:
    if len(paths) > MANY:
        return f"{len(paths)} notebooks"
    return ", ".join(path.relative_to(folder).as_posix() for path in paths)


def bring(folder: Path, *, solutions: bool = False) -> Brought:
    """Copy each lesson that `folder` lacks, and see to those of which the package has a newer one.

    Args:
        folder: the work folder; the originals' own folder is left alone.
        solutions: whether to bring the solved lessons, too.

    Returns:
        What was done.

    Raises:
        UserError: the folder can't be written.
    """
    brought = Brought()
    if folder.resolve() == originals():
        return brought
    state = folder / STATE_FOLDER / "copies.json"
    versions: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError):
        versions = dict(json.loads(state.read_text(encoding="utf-8")))
    before = dict(versions)
    kinds: list[tuple[str, Callable[[Notebook], Notebook]]] = [("", blank)]
    if solutions:
        kinds.append((SOLUTIONS, lambda notebook: solved(blank(notebook))))
    try:
        for lesson in all_lessons():
            original = json.loads(lesson.read_text(encoding="utf-8"))
            for subfolder, change in kinds:
                target = folder / subfolder / lesson.relative_to(originals())
                _bring(target, change(original), folder, versions, brought)
        if versions != before:
            _write(state, json.dumps(versions, indent=1, sort_keys=True))
    except OSError as exc:
        why = exc.strerror or type(exc).__name__
        raise UserError(
            f"can't keep the lessons in {folder} ({why}): choose another folder with --dir."
        ) from None
    return brought


def _bring(
    target: Path, newest: Notebook, folder: Path, versions: dict[str, str], brought: Brought
) -> None:
    version, have = _version(newest), _version_of(target)
    name = target.relative_to(folder).as_posix()
    known = versions.get(name)
    if have is None:
        brought.copied.append(target)
    elif have == version:
        versions[name] = version
        return
    elif have == known:
        brought.refreshed.append(target)
    elif known == version:
        return  # edited, and there is nothing newer than what it was made of
    else:
        versions[name], mine = version, target
        target = _beside(mine, folder, versions)
        name = target.relative_to(folder).as_posix()
        brought.beside.append((mine, target))
    _write(target, json.dumps(newest, indent=1, ensure_ascii=False) + "\n")
    versions[name] = version


def _beside(mine: Path, folder: Path, versions: dict[str, str]) -> Path:
    """Find a name for a newer lesson beside an edited one: free, or of an unedited copy."""
    number = 1
    while True:
        newer = mine.with_stem(f"{mine.stem}_newer{number if number > 1 else ''}")
        have = _version_of(newer)
        if have is None or have == versions.get(newer.relative_to(folder).as_posix()):
            return newer
        number += 1


def _version(notebook: Notebook) -> str:
    """Tell a notebook's cells from others: their kinds and sources, whatever came out of them."""
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
    while cells and not cells[-1][1].strip():
        cells.pop()  # JupyterLab adds an empty one when the last is run
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def _version_of(path: Path) -> str | None:
    """The version of the copy at `path`, or None if there is none; empty if it can't be read."""
    try:
        return _version(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return "" if path.is_symlink() else None
    except (ValueError, KeyError, TypeError):
        return ""


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all: a half-written lesson would stay for good."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(text.encode())
    part.replace(path)


def blank(notebook: Notebook) -> Notebook:
    """Return a notebook as a learner gets it, which no run has left its traces in.

    Args:
        notebook: of nbformat's version 4.

    Returns:
        Another notebook.
    """
    cells = [
        {**cell, "outputs": [], "execution_count": None} if cell["cell_type"] == "code" else cell
        for cell in notebook["cells"]
    ]
    metadata = json.loads(json.dumps(notebook["metadata"]))
    # As the kernel will say, or opening the notebook would already be a change to be saved.
    metadata["language_info"]["version"] = platform.python_version()
    return {**notebook, "cells": cells, "metadata": metadata}


def solved(notebook: Notebook) -> Notebook:
    """Return a notebook with the solution in place of each exercise's stub.

    Args:
        notebook: of nbformat's version 4.

    Returns:
        Another notebook.
    """
    from wslessons.exercises import check

    cells = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            for exercise in check:
                for stub in (exercise.stub.strip(), exercise.cell):
                    if stub in source:
                        source = source.replace(stub, exercise.solution_source.strip())
                        break
        cells.append({**cell, "source": source})
    return {**notebook, "cells": cells}
