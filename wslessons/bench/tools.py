"""What the benches share: child processes, the limit on descriptors, medians, JSON."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, Self

from wslessons.errors import UserError, at_least
from wslessons.limits import descriptors, raise_descriptors
from wslessons.processes import end, guarded, memory

__all__ = [
    "Child",
    "add_common",
    "answer_parent",
    "machine",
    "progress",
    "quantile",
    "raise_descriptor_limit",
    "ratio",
    "save_json",
    "turns",
]


def raise_descriptor_limit(wanted: int) -> None:
    """Make room for open descriptors in this process and the children it starts.

    Args:
        wanted: how many may be open at a time.

    Raises:
        UserError: the system's hard limit is lower.
    """
    raise_descriptors()
    if (allowed := descriptors()) < wanted:
        raise UserError(
            f"this bench needs {wanted} open files and the system allows {allowed}: "
            "raise the limit with ulimit -Hn, or ask for fewer receivers."
        )


class Child:
    """A server in a process of its own, that ends with the block and with this process.

    Args:
        words: those of `wslessons.bench.servers`, which the child runs.
        module: another program, run as ``python -m``; it must call `answer_parent`, or say its
            first line and answer questions by itself.
        timeout: seconds within which it must answer.
        wait: whether to wait for its first line, or else that is up to `wait_ready`.

    Raises:
        UserError: it does not start.

    Attributes:
        said: its first line.
    """

    said: dict[str, Any]

    def __init__(
        self,
        *words: str,
        module: str = "wslessons.bench.servers",
        timeout: float = 15,
        wait: bool = True,
    ) -> None:
        self.timeout = timeout
        self._process = subprocess.Popen(
            guarded(sys.executable, "-m", module, *words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C is for the bench, which ends it.
            start_new_session=True,
        )
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Wait for its first line; a coroutine lets a thread do so, and may end the child then.

        Raises:
            UserError: it does not start, or has been closed.
        """
        try:
            self.said = self._read()
        except BaseException:
            self.close()
            raise

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1."""
        return self.said["port"]

    def ask(self, question: object = "usage") -> dict[str, Any]:
        """Return its answer to one line of JSON.

        Args:
            question: by default what it has used, ``cpu`` in seconds and ``rss`` in bytes or None.

        Returns:
            One line of JSON.

        Raises:
            UserError: it has ended, or does not answer in time.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the child, by its own doing or else by force. Idempotent."""
        end(self._process)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        # `readline` takes no timeout: end the child, and the pipe's end ends the wait.
        alarm = threading.Timer(self.timeout, self._process.kill)
        alarm.start()
        try:
            line = self._process.stdout.readline()
        finally:
            alarm.cancel()
        if not line:
            raise UserError("the server process ended unexpectedly; its errors are above.")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def answer_parent(port: int, stop: Callable[[], object]) -> None:
    """In a `Child`: say that it listens, then answer what it is asked with what it has used.

    A thread answers, asleep except while it does.

    Args:
        port: where it listens.
        stop: called from that thread when the parent closes the pipe, or is gone.
    """

    def answer() -> None:
        for _ in sys.stdin:
            usage = {"cpu": time.process_time(), "rss": memory() or None}
            print(json.dumps(usage), flush=True)
        stop()

    print(json.dumps({"port": port}), flush=True)
    threading.Thread(target=answer, daemon=True).start()


def quantile(ordered: Sequence[float], q: float) -> float:
    """Find the value below which a share of all values lies.

    Args:
        ordered: the values, sorted; at least one.
        q: the share, 0 to 1.

    Returns:
        The value.
    """
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def turns(
    names: Sequence[str], rounds: int, one: Callable[[str], dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """Measure all contenders in turns, every other round the other way round.

    Who goes first finds another machine than who goes last: a warmer one, a busier one. A line on a
    terminal says how far it is.

    Args:
        names: the contenders.
        rounds: how many turns each one gets.
        one: measures a contender once.

    Returns:
        For each name what its turns gave, in order.
    """
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    total = rounds * len(names)
    for number in range(rounds):
        for place, name in enumerate(names if number % 2 == 0 else reversed(names)):
            progress(number * len(names) + place, total, name)
            results[name].append(one(name))
    progress(total, total, "")
    return results


def progress(done: int, total: int, name: str) -> None:
    """Show on a terminal's last line how much is done; elsewhere nothing.

    Args:
        done: how many turns are over.
        total: how many there are.
        name: who is next.
    """
    if sys.stderr.isatty():
        bar = "#" * (20 * done // total)
        text = f"[{bar:20}] {done} of {total} {name}" if done < total else ""
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def ratio(results: dict[str, list[dict[str, Any]]], name: str, other: str, key: str) -> str:
    """Compare two contenders within each round, where both saw the same machine.

    Args:
        results: what `turns` returned.
        name: whose measure is divided.
        other: by whose it is divided.
        key: which measure.

    Returns:
        The median of the ratios, and the smallest and largest beside it; nothing if `other` has not
        been measured.
    """
    if other not in results:
        return ""
    pairs = zip(results[name], results[other], strict=True)
    ratios = sorted(a[key] / b[key] for a, b in pairs if b[key])
    if not ratios:
        return ""
    spread = f" ({ratios[0]:.3g} to {ratios[-1]:.3g})" if len(ratios) > 1 and name != other else ""
    return f"{median(ratios):.3g}{spread}"


def machine() -> dict[str, Any]:
    """Return what a reader must know about where numbers come from.

    ``load`` is how many processes wanted a core in the minute before: numbers are worth little
    where others want them, too. It is missing where the system does not tell.
    """
    release = platform.release().partition("-")[0]
    known: dict[str, Any] = {
        "python": platform.python_version(),
        "websockets": metadata.version("websockets"),
        "system": f"{platform.system()} {release} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
    }
    with contextlib.suppress(AttributeError, OSError):
        known["load"] = round(os.getloadavg()[0], 1)
    return known


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def add_common(parser: argparse.ArgumentParser, quick: str, rounds: int | None = 3) -> None:
    """Give a bench the options that all have: ``--quick``, ``--rounds`` and ``--json``.

    Args:
        parser: the bench's own.
        quick: what is less in its quick form.
        rounds: turns of each contender; None where the quick form has fewer.
    """
    parser.add_argument("--quick", action="store_true", help=quick)
    default = "fewer with --quick" if rounds is None else f"default {rounds}"
    parser.add_argument(
        "--rounds", type=at_least(1), default=rounds, help=f"turns of each ({default})"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the results to FILE")


def save_json(args: argparse.Namespace, results: dict[str, Any]) -> None:
    """Write what was measured to the file named by ``--json``, if one was.

    Args:
        args: the bench's words.
        results: what JSON can hold.

    Raises:
        UserError: the file can't be written.
    """
    if args.json:
        try:
            Path(args.json).write_text(json.dumps(results, indent=2) + "\n")
        except OSError as exc:
            raise UserError(f"can't write {args.json}: {exc.strerror}.") from None
