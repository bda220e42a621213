"""A broker's process: start it, kill it, start it again, be rid of it."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from wslessons import processes
from wslessons.errors import UserError

__all__ = ["POLL", "START_TIME", "BrokerProcess", "Stopped", "quoted"]

T = TypeVar("T")

POLL = 0.01
"""Seconds between two looks whether a broker is ready."""
START_TIME = 15.0
"""Seconds for a broker to be ready."""


class Stopped(Exception):
    """The process ended before it was ready; the text is the end of its log."""


class BrokerProcess(ABC):
    """One process of a broker, with a temporary folder. All methods block for a bounded time.

    Args:
        name: what to call it, in the folder's name and in errors.

    Attributes:
        home: the folder, which goes with `close`, or with this process.
        log: the file in it that has the broker's output.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.home = Path(tempfile.mkdtemp(prefix=f"wslessons-{name}-"))
        self.log = self.home / "log.txt"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def address(self) -> str:
        """Where clients connect, ``HOST:PORT``."""

    @abstractmethod
    def start(self) -> None:
        """Start the broker, again on the same port and data if it ran before.

        Raises:
            UserError: it does not start.
        """

    @property
    def pid(self) -> int | None:
        """Its process id; None while it does not run."""
        if self._process is None or self._process.poll() is not None:
            return None
        return self._process.pid

    def kill(self) -> None:
        """End the broker with SIGKILL; its data stay for another start."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """End the broker and remove its folder. Idempotent."""
        if self._process is not None:
            processes.end(self._process)
        shutil.rmtree(self.home, ignore_errors=True)

    def _run(self, *command: str) -> None:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                processes.guarded(*command, home=self.home),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def _wait_for(self, look: Callable[[], T | None]) -> T:
        """Call `look` until it returns something, and return that.

        Raises:
            Stopped: the broker ended first.
            UserError: it took too long.
        """
        deadline = time.monotonic() + START_TIME
        while time.monotonic() < deadline:
            found = look()
            if found is not None:
                return found
            if self.pid is None:
                raise Stopped(self._last_words())
            time.sleep(POLL)
        raise UserError(f"{self.name} was not ready within {START_TIME:g} seconds.")

    def _last_words(self) -> str:
        """Return the end of the broker's log, on one line."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return "it left no log"
        return " / ".join(line.strip() for line in lines[-3:])


def quoted(text: str) -> str:
    """Write a text as one word of a configuration file, whatever is in it.

    Servers of NATS and of Valkey read it alike.
    """
    return '"' + "".join(f"\\x{byte:02x}" for byte in text.encode()) + '"'
