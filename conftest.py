"""What pytest loads first in this project: nbval, quickly; and what a notebook's kernel takes.

``pytest notebooks --kernel-memory`` says of each notebook how many MiB its kernel and all that it
starts (servers, brokers) held at most while the cells ran.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter

import psutil
import pytest

from wslessons.lab.record import prepare_nbval
from wslessons.processes import memory

prepare_nbval()

# Not by its entry point, which pytest loads before any file of the project.
pytest_plugins = ("nbval.plugin",)

KEY = "kernel memory"


class KernelMemory:
    """Looks at the kernel of the notebook that runs here, and tells the largest that it saw.

    It looks twice a second, and after each cell.
    """

    def __init__(self) -> None:
        self._kernel: psutil.Process | None = None
        self._most: Counter[int] = Counter()
        self._told: Counter[str] = Counter()
        threading.Thread(target=self._look, args=(threading.Event(),), daemon=True).start()

    def _look(self, never: threading.Event) -> None:
        while not never.wait(0.5):
            self._measure()

    def _measure(self) -> None:
        with contextlib.suppress(psutil.Error):
            if (kernel := self._kernel) is not None:
                family = [kernel, *kernel.children(recursive=True)]
                held = sum(memory(each.pid) for each in family)
                self._most[kernel.pid] = max(self._most[kernel.pid], held)

    def pytest_runtest_call(self, item: pytest.Item) -> None:
        """Note which kernel is at work in a cell; before a notebook's first one there is none."""
        if (running := getattr(item.parent, "kernel", None)) is not None:
            self._kernel = psutil.Process(running.km.provisioner.pid)

    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        """Write into a cell's report what was the most so far."""
        if self._kernel is not None and getattr(item.parent, "kernel", None) is not None:
            self._measure()
            item.user_properties.append((KEY, self._most[self._kernel.pid]))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Read it there, in the process that prints."""
        for key, value in report.user_properties:
            if key == KEY:
                name = report.nodeid.partition("::")[0]
                self._told[name] = max(self._told[name], int(str(value)))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print a line for each notebook, the largest first."""
        if self._told:
            terminalreporter.section("the most that a kernel and what it starts held, in MiB")
            for name, most in self._told.most_common():
                terminalreporter.write_line(f"{most / 2**20:6.0f}  {name}")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption(
        "--kernel-memory",
        action="store_true",
        help="say how much memory each notebook's kernel took, with all that it started",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Look only where it was asked for."""
    if config.option.kernel_memory:
        config.pluginmanager.register(KernelMemory())
