"""A broker's process as its owner sees it: start it, kill it, start it again, be rid of it."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from wslessons import processes
from wslessons.errors import UserError

__all__ = ["POLL", "Process", "Stopped"]

T = TypeVar("T")

POLL = 0.01
"""Seconds between two looks whether a broker is ready."""


class Stopped(Exception):
    """The process ended before it was ready; the text is the end of its log."""


class Process:
    """One broker process and its temporary folder, `home`. All methods block for a bounded time.

    Args:
        name: for the folder and for errors.
        timeout: seconds for the broker to be ready.
    """

    def __init__(self, name: str, *, timeout: float = 15) -> None:
        self.name, self.timeout = name, timeout
        self.home = Path(tempfile.mkdtemp(prefix=f"wslessons-{name}-"))
        self.log = self.home / "log.txt"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Its process id; None while it does not run."""
        if self._process is None or self._process.poll() is not None:
            return None
        return self._process.pid

    def start(self, *command: str) -> None:
        """Start the broker, its output in the file `log`. It ends when this process does."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                processes.guarded(*command, home=self.home),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def kill(self) -> None:
        """End the broker with SIGKILL; its data stay for another start."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def wait_for(self, look: Callable[[], T | None]) -> T:
        """Call `look` until it returns something, and return that.

        Raises:
            Stopped: the broker ended first.
            UserError: it took too long.
        """
        deadline = time.monotonic() + self.timeout
        while time.monotonic() < deadline:
            found = look()
            if found is not None:
                return found
            if self.pid is None:
                raise Stopped(self.last_words())
            time.sleep(POLL)
        raise UserError(f"{self.name} was not ready within {self.timeout:g} seconds.")

    def last_words(self) -> str:
        """Return the end of the broker's log, on one line."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return "it left no log"
        return " / ".join(line.strip() for line in lines[-3:])

    def close(self) -> None:
        """End the broker and remove the folder. Idempotent."""
        if self._process is not None:
            processes.end(self._process)
        shutil.rmtree(self.home, ignore_errors=True)
