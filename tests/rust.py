"""The article's programs, in Rust: built once, kept beside other programs' caches, and run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import AsyncGenerator
from functools import cache
from pathlib import Path

import pytest

from wslessons import processes

__all__ = ["program", "serving"]

SOURCE = Path(__file__).with_name("article")
OLDEST = (1, 85)
"""The Rust that tokio and hyper ask for, as ``Cargo.toml`` says."""
UNREACHABLE = ("failed to download", "failed to fetch", "no matching package")
"""What Cargo says where its registry can't be reached, which is no fault of the programs."""


def _lacking() -> str | None:
    """Say why this machine can't build them; None if it can, if the registry can be reached."""
    if (cargo := shutil.which("cargo")) is None:
        return "there is no cargo on PATH"
    # cargo 1.95.0 (f2d3ce0bd 2026-03-21)
    version = subprocess.run([cargo, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"(\d+)\.(\d+)", version.stdout)
    if found is None or (int(found[1]), int(found[2])) < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        return f"cargo {wanted} or newer is needed, and this is {version.stdout.strip()!r}"
    return None


@cache
def _built() -> tuple[Path, str]:
    """Return the folder with the programs, or why there are none."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    target = Path(caches, "wslessons", "article")
    if (lacking := _lacking()) is not None:
        return target, f"the article's programs are not built: {lacking}"
    done = subprocess.run(
        ["cargo", "build", "--release", "--quiet", "--target-dir", str(target)],
        cwd=SOURCE, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    why = f"the article's programs are not built:\n{done.stderr}" if done.returncode else ""
    if why and not any(words in done.stderr for words in UNREACHABLE):
        pytest.fail(why)
    return target / "release", why


def program(name: str) -> str:
    """Return the path of one of the programs; skip the test where they can't be built."""
    folder, why = _built()
    if why:
        pytest.skip(why)
    return str(folder / name)


@contextlib.asynccontextmanager
async def serving(name: str, *arguments: str) -> AsyncGenerator[str]:
    """Run one of the servers on a free port; give its URL."""
    process = await asyncio.create_subprocess_exec(
        *processes.guarded(program(name), "0", *arguments),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.kill()
        await process.communicate()
