"""``wslessons bench web`` as a user starts it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import shell

from wslessons.bench.web import CONTENDERS


async def test_every_contender_delivers_everything(tmp_path: Path):
    """A short run prints a row for each contender, loses nothing, and writes what it measured."""
    found = tmp_path / "web.json"
    words = ("--rounds", "1", "--seconds", "0.3", "--receivers", "20", "--json", str(found))
    async with asyncio.timeout(55):
        code, out, errors = await shell.run("bench", "web", *words)
    assert (code, errors) == (0, "")
    turns = json.loads(found.read_text())["turns"]
    assert list(turns) == list(CONTENDERS)
    for name in CONTENDERS:
        assert f"\n{name} " in out
        assert turns[name][0]["missing"] == 0
