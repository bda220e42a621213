"""The package's types, as those see them who write scripts with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("user_script.py")
MISTAKE = "from wslessons.chat import ChatServer\n\nChatServer(capacity='many')\n"
CHECKERS = {
    "mypy": ["--strict", "--no-incremental"],
    "basedpyright": ["--level", "error", "--pythonpath", sys.executable],
}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("checker", CHECKERS)
def test_a_users_script_is_clean_and_a_mistake_in_one_is_found(
    checker: str, tmp_path: Path
) -> None:
    """A strict type checker finds nothing in a script that uses every public room.

    The types are seen, not taken for unknown: a wrong argument, in another script, is an error.
    """
    wrong = tmp_path / "wrong.py"
    wrong.write_text(MISTAKE)
    done = subprocess.run(
        [sys.executable, "-m", checker, *CHECKERS[checker], str(SCRIPT), str(wrong)],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
        cwd=tmp_path,
    )
    errors = [line for line in done.stdout.splitlines() if "error: " in line or " - error" in line]
    assert len(errors) == 1, done.stdout + done.stderr
    assert "wrong.py:3" in errors[0]
    assert "capacity" in errors[0]
    assert done.returncode == 1
