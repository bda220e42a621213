"""Lesson 9's experiments: a test that is run ten times, pytest on a file of tests, a load test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from wslessons import serving
from wslessons.errors import need
from wslessons.exercises.testing import Room

__all__ = ["percentile", "pytest_says", "stalling", "starlette_client", "ten_runs"]

BUSY = (3, 4, 8)
"""Which of ten runs meet a machine that is busy with something else."""
TIMEOUT = 120.0
"""Seconds that a file of tests may take."""

CONFTEST = """
import json
import pytest

pytest_plugins = ["wslessons.testing.plugin"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    error = call.excinfo and call.excinfo.value
    # The plugin tells what a handler has raised in a group, and so does a TaskGroup.
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    said = str(error).splitlines()[:1]
    why = ": ".join([type(error).__name__, *said]) if error else ""
    with open("told.jsonl", "a") as told:
        print(json.dumps([item.name, call.when, report.outcome, why]), file=told)
    return report
"""
"""Beside the tests: the plugin, and a note of each test's parts, whatever pytest prints of them."""

# No other plugin of the machine's has anything to say, lest the answer depend on it.
OPTIONS = ["--disable-plugin-autoload", "-p", "pytest_asyncio.plugin", "-p", "no:cacheprovider"]


async def ten_runs(test: Callable[[str], Awaitable[None]]) -> str:
    """Run a test ten times, each against a right server; three of those are busy.

    Args:
        test: gets the server's URL.

    Returns:
        How often it has passed; with a ~, as it depends on the test that one writes.
    """
    passed = 0
    for number in range(10):
        room = Room(joining=0.4 if number in BUSY else 0.0)
        async with serving.running(room.handler, timeout=0.2) as server:
            with contextlib.suppress(AssertionError, TimeoutError):
                await test(serving.urls(server)[0])
                passed += 1
    return f"passed ~{passed} of 10 times"


async def pytest_says(source: str) -> str:
    """Write tests to a file, with the plugin beside it, and run pytest there in a process.

    Args:
        source: the file of tests; all its async tests are run by pytest-asyncio.

    Returns:
        A line for each test: how it came out, its name, and what was raised.

    Raises:
        UserError: pytest-asyncio is not installed.
    """
    need("pytest_asyncio", "testing")
    return await asyncio.to_thread(_pytest_says, source)


def _pytest_says(source: str) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", *OPTIONS, "--asyncio-mode=auto", "test_it.py"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "conftest.py").write_text(CONFTEST, encoding="utf-8")
        (folder / "test_it.py").write_text(source, encoding="utf-8")
        done = subprocess.run(
            command, cwd=folder, env=env, capture_output=True, text=True, timeout=TIMEOUT
        )
        told = folder / "told.jsonl"
        parts = told.read_text(encoding="utf-8").splitlines() if told.exists() else []
    if not parts:
        return done.stdout + done.stderr
    results: dict[str, str] = {}
    for test, when, outcome, why in map(json.loads, parts):
        if outcome != "passed":
            # What fails around a test is an error of the test's, as pytest counts.
            results[test] = f"{outcome if when == 'call' else 'error'}: {why}"
        results.setdefault(test, "passed")
    width = max(map(len, results))
    return "\n".join(f"{test:{width}}  {result}" for test, result in results.items())


def starlette_client(app: Any) -> Any:
    """Return Starlette's `TestClient` for an application.

    Args:
        app: the ASGI application.

    Returns:
        The client.

    Raises:
        UserError: Starlette is not installed.
    """
    need("starlette", "web")
    with warnings.catch_warnings():
        # It would rather have another HTTP library, which makes no difference here.
        warnings.simplefilter("ignore")
        from starlette.testclient import TestClient

        return TestClient(app)


def stalling(answer: float = 0.001, begin: float = 5.0, end: float = 6.0) -> Callable[[], Any]:
    """Make a server that is quick, but for a second in which it stands still.

    Args:
        answer: seconds that an answer takes; one is made after the other.
        begin: when it stops, in seconds of the loop's clock.
        end: when it goes on.

    Returns:
        A function to await for an answer.
    """
    turn = asyncio.Lock()

    async def ask() -> None:
        async with turn:
            now = asyncio.get_running_loop().time()
            if begin <= now < end:
                await asyncio.sleep(end - now)
            await asyncio.sleep(answer)

    return ask


def percentile(times: list[float], percent: float) -> float:
    """Return the time within which so many percent of the answers came.

    Args:
        times: of all answers, in seconds.
        percent: such as 99.

    Returns:
        The seconds.
    """
    return sorted(times)[min(int(len(times) * percent / 100), len(times) - 1)]
