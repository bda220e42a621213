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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the rooms whose files take long, in turns.

    Else a browser's file that comes last keeps one process busy while the others have ended, and
    four of them at once starve each other.
    """
    files = {path: [*group] for path, group in itertools.groupby(items, lambda item: item.path)}

    def room(path: Path) -> str:
        return next((name for name in LONG if name in path.parts), "")

    turns = [[path for path in files if room(path) == name] for name in LONG]
    first = [path for turn in itertools.zip_longest(*turns) for path in turn if path]
    order = [*first, *(path for path in files if not room(path))]
    items[:] = [item for path in order for item in files[path]]


no_task_left_behind = pytest.fixture(autouse=True)(waits.no_task_left_behind)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Use four processes at least: most tests wait for brokers, browsers and time."""
    return max(4, os.cpu_count() or 1)
