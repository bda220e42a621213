"""Every cell of a notebook runs twice in a row, and then the page once more, in one kernel.

That is three times the work of running them all, so all but the short ones are on demand:
``pytest -m reruns``.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from wslessons.errors import UserError
from wslessons.lab.lessons import all_lessons, originals
from wslessons.lab.record import execute

SHORT = {"index", "asyncio"}
"""Those that are run twice each time."""

pytestmark = pytest.mark.timeout(900)


def run_twice(path: Path, notebook: Any) -> None:
    """Run each code cell twice in a row, and then all of them once more."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    runs = [each for cell in cells for each in (cell, cell)] + cells
    notebook.cells = [copy.deepcopy(cell) for cell in runs]
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"run{number}"
    execute(path, notebook, timeout=120)


def pages() -> list[Any]:
    """All notebooks by their names, the long ones marked."""
    found = []
    for path in all_lessons():
        marks = () if path.stem in SHORT else pytest.mark.reruns
        name = path.relative_to(originals()).with_suffix("").as_posix()
        found.append(pytest.param(path, id=name, marks=marks))
    return found


@pytest.mark.parametrize("path", pages())
def test_any_cell_and_any_page_runs_twice(path: Path) -> None:
    """What a cell needs it makes itself, and what it made last time is no obstacle."""
    run_twice(path, nbformat.read(path, as_version=4))


@pytest.mark.parametrize(
    ("sources", "where"),
    [
        (["things = [1]", "things.pop()"], "cell 4"),
        (["new = 'b' not in dir()\nassert new", "b = 1"], "cell 5"),
    ],
)
def test_what_runs_but_once_is_found(tmp_path: Path, sources: list[str], where: str) -> None:
    """A cell that uses up what another made, and a page that stumbles over what it left."""
    cells = [new_code_cell(source) for source in sources]
    with pytest.raises(UserError, match=where):
        run_twice(tmp_path / "page.ipynb", new_notebook(cells=cells))
