"""The recipe for a bus in CONTRIBUTING.md, followed step by step in a copy of the package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECIPE = (
    (ROOT / "CONTRIBUTING.md")
    .read_text(encoding="utf-8")
    .partition("## Adding a bus")[2]
    .partition("\n## ")[0]
)
SCRIPT = """
import asyncio, inspect, test_bus
from wslessons.scaling import brokers
from wslessons.scaling.bus import Event, from_url

contract = test_bus.test_an_event_is_heard_once_by_all_readers_with_all_it_should_carry

async def main():
    async with asyncio.timeout(100), brokers.run("word", own=True) as broker:
        await contract(broker.url)
        async with from_url(broker.url) as here, from_url(broker.url) as there:
            reader = there.subscribe()
            await broker.nodes[0].kill()
            await asyncio.gather(*(test_bus.status(bus, "reconnecting") for bus in (here, there)))
            await broker.nodes[0].restart()
            await asyncio.gather(*(test_bus.status(bus, "connected") for bus in (here, there)))
            here.publish(Event("/", "after"))
            print((await test_bus.next_event(reader)).data)

asyncio.run(main())
"""


def applied(hunk: str, text: str) -> str:
    """Return `text` after a hunk of a diff that names no lines: its context has to be unique."""
    lines = hunk.strip("\n").split("\n")
    old = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("+"))
    new = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("-"))
    assert text.count(old) == 1, f"what CONTRIBUTING.md changes is not there:\n{old}"
    return text.replace(old, new)


@pytest.mark.timeout(240)
def test_a_stranger_adds_a_bus(tmp_path: Path) -> None:
    """It keeps the contract of all buses, and is back when its broker was killed."""
    junk = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(ROOT / "wslessons", tmp_path / "wslessons", ignore=junk)
    for name, text in re.findall(r"(?ms)^```python\n# (\S+)\n(.*?)^```$", RECIPE):
        (tmp_path / name).write_text(text, encoding="utf-8")
    (diff,) = re.findall(r"(?ms)^```diff\n(.*?)^```$", RECIPE)
    for part in diff.split("--- ")[1:]:
        name, *hunks = re.split(r"\n@@\n", part)
        file = tmp_path / name
        for hunk in hunks:
            file.write_text(applied(hunk, file.read_text(encoding="utf-8")), encoding="utf-8")
    paths = os.pathsep.join(map(str, (tmp_path, ROOT / "tests", ROOT / "tests" / "scaling")))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths},
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "after\n"), done.stderr
