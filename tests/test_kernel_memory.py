"""`pytest notebooks --kernel-memory`, on two notebooks of one cell each, with known memory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

from wslessons.lab.outputs import NOTEBOOK_METADATA

ROOT = Path(__file__).resolve().parents[1]
LARGE = """
import subprocess, sys
mine = b"x" * 2**27
holds = "theirs = b'x' * 2**28; print(len(theirs), flush=True); input()"
child = subprocess.Popen([sys.executable, "-c", holds], stdin=-1, stdout=-1)
assert child.stdout.readline()
"""


def test_memory_of_each_kernel_and_of_what_it_starts_is_told(tmp_path: Path):
    """128 MiB of a cell and 256 of a child that it starts; and nothing of that in the next one."""
    for name, source in (("large", LARGE), ("small", "small = 1")):
        notebook = new_notebook(cells=[new_code_cell(source, execution_count=1)])
        notebook.metadata = nbformat.from_dict(NOTEBOOK_METADATA)
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    # With none of the project's options, but with its conftest.py, which brings nbval.
    words = ["-c", os.devnull, "-p", "conftest", "--nbval-lax", "--nbval-current-env"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, "--kernel-memory", tmp_path],
        cwd=ROOT,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
    )
    told = re.findall(r"^ *(\d+)  \S*(large|small)\.ipynb$", done.stdout, re.MULTILINE)
    most = {name: int(mib) for mib, name in told}
    assert sorted(most) == ["large", "small"], done.stdout + done.stderr
    assert done.returncode == 0
    assert 128 + 256 < most["large"] < 128 + 256 + 250
    assert 10 < most["small"] < 128
