"""What every test here may use."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from pathlib import Path

import pytest
import waits

# A shell starts what runs in its background with SIGINT ignored, and children inherit that: the
# commands that tests interrupt would never hear of it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Where single files take half a minute and more, because of browsers, kernels, brokers and time.
LONG = ("browser", "exercises", "notebooks", "scaling", "lab", "client", "bench", "web")


def pytest_configure(config: pytest.Config) -> None:
    """Keep compiled modules, in pytest's cache where Python was told to leave none beside sources.

    The tests start some hundred processes; compiling what they import takes half of a start.
    """
    if sys.dont_write_bytecode:
        prefix = str(config.cache.mkdir("bytecode"))
        sys.dont_write_bytecode, sys.pycache_prefix = False, prefix
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = prefix


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the rooms whose files take long, in turns.

    Else a browser's file that comes last keeps one process busy while the others have ended, and
    four of them at once starve each other.
    """
    files: dict[Path, list[pytest.Item]] = {}
    rooms: dict[str, list[Path]] = {name: [] for name in LONG}
    for item in items:
        if item.path not in files:
            files[item.path] = []
            folder, name, *_ = item.path.relative_to(config.rootpath).parts
            rooms.setdefault(name if folder == "tests" else folder, []).append(item.path)
        files[item.path].append(item)
    turns = itertools.zip_longest(*(rooms.pop(name) for name in LONG))
    paths = itertools.chain(filter(None, itertools.chain(*turns)), *rooms.values())
    items[:] = [item for path in paths for item in files[path]]


no_task_left_behind = pytest.fixture(autouse=True)(waits.no_task_left_behind)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Use four processes at least: most tests wait for brokers, browsers and time."""
    return max(4, os.cpu_count() or 1)
