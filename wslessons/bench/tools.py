"""What the benches share: child processes, the limit on descriptors, medians, tables, JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from wslessons.errors import UserError

__all__ = [
    "Child",
    "answer_parent",
    "machine",
    "median",
    "quantile",
    "raise_descriptor_limit",
    "rss",
    "save_json",
    "table",
]


def raise_descriptor_limit(wanted: int) -> None:
    """Make room for `wanted` open descriptors in this process and the children it starts.

    Raises `UserError` when the system's hard limit is lower.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit.
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise UserError(
            f"this bench needs {wanted} open files and the system allows {hard}: "
            "raise the limit with ulimit -Hn, or ask for fewer receivers."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def rss() -> int | None:
    """Return the bytes of memory that this process holds now; None where we can't tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def answer_parent(port: int, stop: Callable[[], None]) -> None:
    """In a `Child`: say that it listens on `port`, then answer the parent's questions.

    A thread answers, asleep except while it does. When the parent closes the pipe, or dies, `stop`
    is called from that thread.
    """

    def answer() -> None:
        for line in sys.stdin:
            del line
            usage = {"cpu": time.process_time(), "rss": rss()}
            print(json.dumps(usage), flush=True)
        stop()

    print(json.dumps({"port": port}), flush=True)
    threading.Thread(target=answer, daemon=True).start()


class Child:
    """A server in a process of its own, that ends with the block and with this process.

    In: `module`, run as ``python -m module *arguments``; it must call `answer_parent`. `patience`,
    the seconds within which it must answer. Raises `UserError` when it does not start.
    """

    def __init__(self, module: str, *arguments: str, patience: float = 15) -> None:
        self.patience = patience
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self.port = int(self._read()["port"])
        except BaseException:
            self.close()
            raise

    def usage(self) -> dict[str, Any]:
        """Return what the child has used: ``cpu`` in seconds, ``rss`` in bytes or None."""
        assert self._process.stdin is not None
        self._process.stdin.write("usage\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the child, by its own doing or else by force. Idempotent."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(timeout=3)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        # `readline` takes no timeout: end the child, and the pipe's end ends the wait.
        alarm = threading.Timer(self.patience, self._process.kill)
        alarm.start()
        try:
            line = self._process.stdout.readline()
        finally:
            alarm.cancel()
        if not line:
            raise UserError("the bench's server process ended unexpectedly; its errors are above.")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def median(values: Iterable[float]) -> float:
    """Return the median of `values`."""
    return statistics.median(values)


def quantile(ordered: Sequence[float], q: float) -> float:
    """Return the value below which the share `q` of `ordered` (sorted, not empty) lies."""
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def machine() -> dict[str, Any]:
    """Return what a reader must know about where numbers come from."""
    return {
        "python": platform.python_version(),
        "websockets": metadata.version("websockets"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
    }


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out rows under `head`, the first column to the left, the others to the right.

    >>> print(table(["who", "rate"], [["chat", "12.5"], ["naive", "1"]]))
    who    rate
    chat   12.5
    naive     1
    """
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def save_json(args: argparse.Namespace, results: dict[str, Any]) -> None:
    """Write `results` to the file named by ``--json``, if one was."""
    if args.json:
        try:
            Path(args.json).write_text(json.dumps(results, indent=2) + "\n")
        except OSError as exc:
            raise UserError(f"can't write {args.json}: {exc.strerror}.") from None
