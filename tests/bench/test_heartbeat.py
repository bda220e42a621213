"""``wslessons bench heartbeat``, as a user starts it, with few connections."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import shell


async def test_bench_measures_each_contender_and_saves_all_numbers(tmp_path: Path):
    """A short run prints a row each, and pings were answered wherever somebody pings."""
    file = tmp_path / "heartbeat.json"
    words = "bench heartbeat --connections 20 --interval 0.2 --seconds 0.6 --rounds 1 --json"
    async with asyncio.timeout(50):
        code, out, errors = await shell.run(*words.split(), str(file))
    assert (code, errors) == (0, "")
    rows = out.splitlines()
    assert rows[0].startswith("20 idle connections, a ping every 0.2 s")
    assert [row.split()[0] for row in rows[1:]] == ["heartbeat", "wslessons", "library", "none"]
    results = json.loads(file.read_text())
    pings = {who: values["pings_per_minute"] for who, values in results["medians"].items()}
    assert pings["none"] == 0
    assert pings["wslessons"] > 0
    assert pings["library"] > 0
    assert [len(runs) for runs in results["rounds"].values()] == [1, 1, 1]
