"""The package's types, as those see them who write scripts with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("user_script.py")
CHECKERS = [["mypy", "--strict"], ["basedpyright", "--level", "error"]]


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "checker",
    [["mypy", "--strict"], ["basedpyright", "--level", "error"]],
    ids=lambda each: each[0],
)
def test_a_users_script_is_clean(checker: list[str], tmp_path: Path) -> None:
    """A strict type checker finds nothing in a script that uses every public room."""
    done = check(checker, SCRIPT, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "checker",
    [["mypy", "--strict"], ["basedpyright", "--level", "error"]],
    ids=lambda each: each[0],
)
def test_a_mistake_in_a_users_script_is_found(checker: list[str], tmp_path: Path) -> None:
    """The types are seen, not taken for unknown: a wrong argument is an error."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from wslessons.chat import ChatServer\n\nChatServer(capacity='many')\n")
    done = check(checker, wrong, tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "many" in done.stdout or "capacity" in done.stdout


def check(checker: list[str], script: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a type checker of this environment on `script`, its cache in `folder`."""
    extra = (
        ["--cache-dir", str(folder)] if checker[0] == "mypy" else ["--pythonpath", sys.executable]
    )
    module = checker[0]
    return subprocess.run(
        [sys.executable, "-m", module, *checker[1:], *extra, str(script)],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
        cwd=folder,
    )
