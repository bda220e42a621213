"""Renew the versions that everybody gets: `python3 .ci/lock.py`, then run all tests.

`uv run` resolves anew in each clone, since uv.lock names the index that it was made with and so is
not kept. What holds its versions is the list of constraints in pyproject.toml, which this writes,
with the same pins and, with hashes, requirements.lock for pip.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIST = re.compile(r"constraint-dependencies = \[\n.*?\n\]\n", re.DOTALL)
EXPORT = [
    *("export", "-q", "--no-header", "--no-annotate", "--no-emit-project"),
    *("--all-extras", "--group", "dev"),
]


def uv(*words: str) -> None:
    """Run uv, and end with its error if it fails."""
    subprocess.run([sys.executable, "-m", "uv", *words], cwd=ROOT, check=True)


def main() -> None:
    """Write the newest versions that fit, or with ``--keep`` those that are locked now."""
    project = ROOT / "pyproject.toml"
    if "--keep" not in sys.argv[1:]:
        empty = LIST.sub("constraint-dependencies = [\n]\n", project.read_text(encoding="utf-8"))
        project.write_text(empty, encoding="utf-8")
        uv("lock", "-q", "--upgrade")
    uv(*EXPORT, "-o", "requirements.lock")
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pins = [line.removesuffix(" \\") for line in text.splitlines() if "==" in line.split(" ")[0]]
    listed = "".join(f'  "{pin.replace(chr(34), chr(39))}",\n' for pin in pins)
    new = LIST.sub(
        lambda _: f"constraint-dependencies = [\n{listed}]\n", project.read_text(encoding="utf-8")
    )
    project.write_text(new, encoding="utf-8")
    uv("lock", "-q")


if __name__ == "__main__":
    main()
