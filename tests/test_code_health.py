"""The linters and the type checker, so that one command checks everything."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "--no-cache"],
        ["ruff", "format", "--check", "--no-cache"],
        ["ty", "check", "--error-on-warning"],
    ],
    ids=" ".join,
)
def test_code_is_clean(command: list[str]):
    """The whole project, notebooks included, passes the tool without a word."""
    tool = shutil.which(command[0], path=sysconfig.get_path("scripts"))
    assert tool is not None, f"{command[0]} is a development dependency: install the group 'dev'"
    result = subprocess.run(
        [tool, *command[1:]], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_ci_runs_the_readmes_commands():
    """`.ci/run` calls the very test command that the README gives."""
    readme = (ROOT / "README.md").read_text()
    last = (ROOT / ".ci" / "run").read_text().strip().splitlines()[-1]
    assert last == "python3 -m pip install uv && python3 -m uv run pytest"
    assert last in readme
