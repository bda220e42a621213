"""The recipe for a lesson in CONTRIBUTING.md: a stranger adds a tenth one."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import nbformat
import pytest
import test_notebooks
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from wslessons import cli

ROOT = Path(__file__).parents[2]
RECIPE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Adding a lesson")[2]


@pytest.mark.timeout(240)
def test_a_stranger_adds_a_lesson(tmp_path: Path) -> None:
    """Its cells, as they stand, are recorded, keep every rule of the lessons, and pass nbval."""
    folder = Path(shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks"))
    made = {"markdown": new_markdown_cell, "python": new_code_cell}
    blocks = re.findall(r"(?ms)^```(\w+)\n(.*?)\n```$", RECIPE.partition("\n## Adding a bus")[0])
    cells = [made[language](source) for language, source in blocks]
    assert [cell.cell_type for cell in cells] == ["markdown", "code", "code", "markdown"]
    path = folder / "10_word.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    assert cli.main(["record", str(path)]) == 0
    notebook = nbformat.read(path, as_version=4)
    broken = [complaint for rule in test_notebooks.RULES for complaint in rule(notebook)]
    assert broken == []
    text = "\n".join(cell.source for cell in (cells[0], cells[-1]))
    assert test_notebooks.dead_links(text, folder) == []
    assert {target.stem for target, _ in test_notebooks.links(text, folder)} >= {"index"}
    assert cli.main(["record", "--check", str(path)]) == 0
