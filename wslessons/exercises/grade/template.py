"""A process that has imported everything, and forks into one student's kernel after another.

Most of a kernel's start is a second of imports; a fork of a process that has them is ready in a
tenth of one. Standard input brings a line of JSON per kernel: its folder, its connection file and
its environment; standard output gets the kernel's process id. With the end of its input it ends.

On Linux alone: other systems have no fork, or libraries that don't survive one.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import threading
from typing import NoReturn

__all__ = ["main"]


def main() -> None:
    """Import, and fork whenever a line comes."""
    import ipykernel.ipkernel
    import ipykernel.kernelapp

    from wslessons.exercises import check
    from wslessons.exercises.grade import agent

    assert ipykernel.ipkernel is not None
    assert agent is not None
    assert list(check)
    # Nobody waits for the kernels: the system then buries them by itself.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        folder, connection, environment = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(folder, connection, environment)
        print(pid, flush=True)


def _become(folder: str, connection: str, environment: dict[str, str]) -> NoReturn:
    """Be a kernel like any other, that knows nothing of the process it was."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        grader = os.pidfd_open(int(environment["JPY_PARENT_PID"]))
        threading.Thread(target=_end_with, args=(grader,), daemon=True).start()
        sys.dont_write_bytecode = True
        random.seed()
        from ipykernel.kernelapp import IPKernelApp

        IPKernelApp.launch_instance(argv=["-f", connection])
    finally:
        # Never back into the loop of the process that was forked.
        os._exit(0)


def _end_with(grader: int) -> None:
    """End this kernel and what it has started when the process of this descriptor is gone.

    IPython's own watch knows only the parent, which forks, and which a notebook may end.
    """
    select.select([grader], [], [])
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    # As for a kernel, the folder that this was started in is no place to import from.
    del sys.path[0]
    main()
