"""What every test here may use."""

from __future__ import annotations

import os
import signal
import sys

import pytest
import waits

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


no_task_left_behind = pytest.fixture(autouse=True)(waits.no_task_left_behind)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Use four processes at least: most tests wait for brokers, browsers and time."""
    return max(4, os.cpu_count() or 1)
