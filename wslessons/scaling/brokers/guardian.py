"""A small process that runs one broker for another process, and ends it when that one is gone.

A broker that a notebook starts must not outlive the kernel, and a kernel that was killed with
SIGKILL can't end anything. So the broker's parent is this guardian, and the guardian reads a pipe
from whoever started it: the pipe ends when its owner closes it or dies, however it dies.

- Should the guardian itself be killed, Linux ends the broker (`PR_SET_PDEATHSIG`, see prctl(2));
  that signal comes when the *thread* that started the process ends, so it is safe only here, where
  there is one thread, and not in a kernel.
- A child forked off the owner can hold the pipe open, so the guardian also looks whether it has
  been handed to another parent.
- It has a session of its own: Ctrl-C in a terminal, and the stop button of a notebook, go to the
  whole process group, and would end the broker.

One order a line on stdin, one answer a line on stdout, both JSON:

| order | answer |
|---|---|
| `["start", argv, log]` | `{"pid": 123}`, or `{"error": "..."}` |
| `["poll"]` | `{"code": null}` while it runs, else its exit code |
| `["kill"]` | `{"code": -9}` |

It is run as a script, `python -I -S guardian.py HOME`, and imports nothing of ours: it starts in a
few hundredths of a second. `HOME`, the broker's folder, is removed at the end.

Not handled here: a guardian killed with SIGKILL on macOS or Windows leaves its broker running.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

PR_SET_PDEATHSIG = 1
PATIENCE = 2.0
"""Seconds a broker has to end by itself."""


def die_with(parent: int) -> Callable[[], None]:
    """Return what a new child of `parent` runs on Linux to end when that one does."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def run() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # It may have died before we asked.
        if os.getppid() != parent:
            os._exit(1)

    return run


def orders(owner: int) -> Iterator[list[Any]]:
    """Yield the owner's orders, until its pipe ends or it is gone."""
    if os.name == "nt":
        yield from (json.loads(line) for line in sys.stdin)
        return
    rest = b""
    while os.getppid() == owner:
        if not select.select([0], [], [], 1)[0]:
            continue
        data = os.read(0, 65536)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        yield from map(json.loads, lines)


def start(argv: list[str], log: str) -> subprocess.Popen[bytes]:
    """Start the broker, its output in the file `log`."""
    last_wish = die_with(os.getpid()) if sys.platform == "linux" else None
    with open(log, "ab") as output:
        return subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, preexec_fn=last_wish
        )


def end(broker: subprocess.Popen[bytes]) -> None:
    """End the broker, by its own doing or else by force."""
    broker.terminate()
    try:
        broker.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        broker.kill()
        broker.wait()


def main() -> None:
    """Obey orders until the owner is gone, then leave nothing behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    broker: subprocess.Popen[bytes] | None = None
    try:
        for order, *words in orders(os.getppid()):
            answer: dict[str, Any] = {}
            if order == "start":
                try:
                    broker = start(*words)
                    answer = {"pid": broker.pid}
                except OSError as exc:
                    answer = {"error": f"{words[0][0]} can't be run: {exc.strerror}"}
            elif broker is not None:
                if order == "kill":
                    broker.kill()
                    broker.wait()
                answer = {"code": broker.poll()}
            # An owner that is gone reads no answer.
            with contextlib.suppress(OSError):
                print(json.dumps(answer), flush=True)
    finally:
        if broker is not None:
            end(broker)
        shutil.rmtree(sys.argv[1], ignore_errors=True)
        # Else the interpreter reports, on its way out, the pipe that nobody reads.
        os._exit(0)


if __name__ == "__main__":
    main()
