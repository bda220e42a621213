"""What every test here may use."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import os
import shutil
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import waits
from _pytest.pathlib import ImportMode, import_path
from xdist.scheduler import LoadFileScheduling

# A shell starts what runs in its background with SIGINT ignored, `nohup` does so with SIGHUP, and
# children inherit that: the commands that tests interrupt would never hear of it.
for number, default in ("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL):
    if (sig := getattr(signal, number, None)) and signal.getsignal(sig) is signal.SIG_IGN:
        signal.signal(sig, default)

# A recording of this, the lesson and what goes deeper, holds what a real nginx has answered.
OF_NGINX = "08_production.ipynb"

# Files that wait for half a minute and more, each of which would keep the last process busy alone.
FIRST = (
    # With it all others that open JupyterLab, see `OneJupyterLab`.
    "browser/test_chat_lesson.py",
    "chaos/test_run.py",
    "exercises/test_testing_exercises.py",
    "exercises/test_grade.py",
    "scaling/test_failover.py",
    "exercises/test_solved_lessons.py",
    "lab/test_html.py",
    "test_attacks.py",
    "test_conformance.py",
    "test_signals.py",
    "test_serving.py",
)

# Files of which each would start a Kafka of its own for a few tests.
ASK_KAFKA_LITTLE = {
    f"tests/scaling/test_{name}.py" for name in ("kafka", "secure_brokers", "supervision")
}

# Rooms where single files take long, because of browsers, kernels, brokers and time.
LONG = ("browser", "exercises", "notebooks", "scaling", "lab", "client", "bench", "web")


def pytest_configure(config: pytest.Config) -> None:
    """Keep compiled modules, in pytest's cache where Python was told to leave none beside sources.

    The tests start some hundred processes; compiling what they import takes half of a start.
    """
    if sys.dont_write_bytecode and hasattr(config, "cache"):
        prefix = str(config.cache.mkdir("bytecode"))
        sys.dont_write_bytecode, sys.pycache_prefix = False, prefix
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = prefix


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection(session: pytest.Session) -> Generator[None, None, None]:
    """Import the tests of a whole run, each process from another one of them onwards.

    Each process collects all tests. In a fresh clone, where nothing is compiled yet, all of them
    would compile the same file at the same time, and take three times as long. What is imported
    here stays: it is set aside, so that those tests that collect garbage look only for their own.
    """
    config, paths = session.config, sorted((session.config.rootpath / "tests").rglob("test_*.py"))
    worker = getattr(config, "workerinput", None)
    gc.disable()
    if worker and config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        number = int(worker["workerid"].removeprefix("gw"))
        start = len(paths) * number // worker["workercount"]
        for path in paths[start:] + paths[:start]:
            # What goes wrong in a file is told when its tests are collected.
            with contextlib.suppress(Exception, pytest.skip.Exception):
                import_path(
                    path,
                    mode=ImportMode.importlib,
                    root=config.rootpath,
                    consider_namespace_packages=False,
                )
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the files that take long, then with the rooms whose files do, in turns.

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
    paths = [*filter(None, itertools.chain(*turns)), *itertools.chain(*rooms.values())]
    first = [path for name in FIRST if (path := config.rootpath / "tests" / name) in files]
    paths = [*first, *(path for path in paths if path not in first)]
    items[:] = [item for path in paths for item in files[path]]
    from wslessons.guard import nginx

    if not shutil.which("nginx", path=nginx.search_path()) and not os.environ.get("CI"):
        missing = pytest.mark.skip(reason="nginx is not installed here")
        for item in items:
            if item.path.name == OF_NGINX:
                item.add_marker(missing)


no_task_left_behind = pytest.fixture(autouse=True)(waits.no_task_left_behind)


class OneJupyterLab(LoadFileScheduling):
    """Keeps each file in one process, and all files that open JupyterLab in the same one.

    JupyterLab and its page in a browser take ten seconds to start, and then serve any number of
    tests: in four processes they start four times, and starve each other. So it is with a browser
    alone, and with Kafka for those files that ask little of it.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        if file in ASK_KAFKA_LITTLE:
            return "Kafka"
        if file in self._opens_jupyterlab:
            return "JupyterLab"
        return "browser" if file.startswith("tests/browser/") else file

    @functools.cached_property
    def _opens_jupyterlab(self) -> set[str]:
        root = self.config.rootpath
        return {
            path.relative_to(root).as_posix()
            for path in (root / "tests" / "browser").glob("test_*.py")
            if "from jupyterlab_page import" in path.read_text(encoding="utf-8")
        }


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """Schedule by `OneJupyterLab`."""
    return OneJupyterLab(config, log)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Use eight processes at least: most tests wait for brokers, browsers and time."""
    return max(8, os.cpu_count() or 1)
