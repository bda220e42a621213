"""A broker's process as its owner sees it: start it, kill it, start it again, be rid of it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from wslessons.errors import UserError
from wslessons.scaling.brokers import guardian

__all__ = ["POLL", "Process", "Stopped"]

T = TypeVar("T")

POLL = 0.01
"""Seconds between two looks whether a broker is ready."""


class Stopped(Exception):
    """The process ended before it was ready; the text is the end of its log."""


class Process:
    """One broker process in the care of a guardian, with a temporary folder, `home`.

    In: `name`, for the folder and for errors. All methods block for a bounded time.
    """

    def __init__(self, name: str, *, patience: float = 15) -> None:
        self.name = name
        self.patience = patience
        """Seconds the guardian has for an answer, and the broker to be ready."""
        self.home = Path(tempfile.mkdtemp(prefix=f"wslessons-{name}-"))
        self.log = self.home / "log.txt"
        self.pid: int | None = None
        self._guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", guardian.__file__, str(self.home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def start(self, *argv: str) -> None:
        """Start the broker. Raises `UserError` when the system refuses to run it."""
        answer = self._ask("start", argv, str(self.log))
        if "error" in answer:
            raise UserError(f"{answer['error']}.")
        self.pid = answer["pid"]

    def kill(self) -> None:
        """End the broker with SIGKILL, its data kept; the guardian waits for another start."""
        self._ask("kill")
        self.pid = None

    def wait_for(self, look: Callable[[], T | None]) -> T:
        """Call `look` until it returns something, and return that.

        Raises `Stopped` when the broker ends first, `UserError` when it takes too long.
        """
        deadline = time.monotonic() + self.patience
        while time.monotonic() < deadline:
            found = look()
            if found is not None:
                return found
            if self._ask("poll")["code"] is not None:
                self.pid = None
                raise Stopped(self.last_words())
            time.sleep(POLL)
        raise UserError(f"{self.name} was not ready within {self.patience:g} seconds.")

    def last_words(self) -> str:
        """Return the end of the broker's log, on one line."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return "it left no log"
        return " / ".join(line.strip() for line in lines[-3:])

    def close(self) -> None:
        """End broker and guardian, and remove the folder. Idempotent."""
        self.pid = None
        for pipe in (self._guardian.stdin, self._guardian.stdout):
            assert pipe is not None
            # The pipe of a guardian that was killed is broken.
            with contextlib.suppress(OSError):
                pipe.close()
        try:
            self._guardian.wait(guardian.PATIENCE + 3)
        except subprocess.TimeoutExpired:
            self._guardian.kill()
            self._guardian.wait()

    def _ask(self, *order: Any) -> dict[str, Any]:
        assert self._guardian.stdin is not None
        assert self._guardian.stdout is not None
        # `readline` takes no timeout: end the guardian, and the pipe's end ends the wait.
        alarm = threading.Timer(self.patience, self._guardian.kill)
        alarm.start()
        try:
            self._guardian.stdin.write(json.dumps(order) + "\n")
            self._guardian.stdin.flush()
            answer = self._guardian.stdout.readline()
        except (OSError, ValueError):
            answer = ""
        finally:
            alarm.cancel()
        if not answer:
            raise UserError(f"the process that looks after {self.name} is gone.")
        return json.loads(answer)
