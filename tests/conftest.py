"""What every test here may use."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator

import pytest

# A shell starts what runs in its background with SIGINT ignored, and children inherit that: the
# commands that tests interrupt would never hear of it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Keep compiled modules, in pytest's cache where Python was told to leave none beside sources.

    The tests start some hundred processes; compiling what they import takes half of a start.
    """
    if sys.dont_write_bytecode:
        prefix = str(config.cache.mkdir("bytecode"))
        sys.dont_write_bytecode, sys.pycache_prefix = False, prefix
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = prefix


@pytest.fixture(autouse=True)
async def no_task_left_behind() -> AsyncIterator[None]:
    """Fail an async test that ends with tasks still running: it has leaked them."""
    before = asyncio.all_tasks()
    yield
    # A closed connection's last callbacks run on the loop's next turns, not in the test.
    for _ in range(200):
        left = asyncio.all_tasks() - before - {asyncio.current_task()}
        if not left:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"tasks left behind: {left}")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Use four processes at least: most tests wait for brokers, browsers and time."""
    return max(4, os.cpu_count() or 1)
