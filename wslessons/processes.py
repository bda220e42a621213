"""Child processes that end with this one, and the memory that a process holds.

    subprocess.Popen(guarded("nats-server", "--port", "4222"))
    await asyncio.create_subprocess_exec(*guarded(sys.executable, "-m", "module"), stdout=PIPE)

Whatever is started here, a broker, a server of a cluster or of a bench, a command in a cell or in a
test, is started `guarded`: see `wslessons.guardian`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from wslessons import guardian

__all__ = ["end", "guarded", "memory"]


def guarded(*command: str, home: Path | None = None) -> list[str]:
    """Return the words that run `command` so that it ends when this process does.

    To be given to `subprocess.Popen` or `asyncio.create_subprocess_exec`; the process id, the pipes
    and the exit code are the command's own. One that can't be run says why on its stderr, and ends.

    Args:
        command: the program and its arguments.
        home: a folder of the command's, to be removed if this process ends before it does.

    Returns:
        The words. On Windows they are those of `command`, which then outlives an owner that is
        killed, unless it ends with its stdin.
    """
    if os.name == "nt":
        return [*command]
    script = [sys.executable, "-I", "-S", guardian.__file__]
    return [*script, str(os.getpid()), str(home or ""), *command]


def end(process: subprocess.Popen[Any], seconds: float = 3.0) -> None:
    """End a process, by its own doing or else by force. Idempotent.

    Args:
        process: it is told by the end of its stdin, or by SIGTERM if that is no pipe.
        seconds: how long it may take before it gets SIGKILL.
    """
    if process.stdin is None:
        process.terminate()
    else:
        # What was not written yet has no reader any more.
        with contextlib.suppress(OSError):
            process.stdin.close()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def memory(pid: int | None = None) -> int:
    """Return the bytes of memory that a process holds now, its resident set.

    Args:
        pid: the process; this one by default.

    Returns:
        The bytes, 0 where we can't tell.
    """
    pid = pid or os.getpid()
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        words = ["ps", "-o", "rss=", "-p", str(pid)]
        return 1024 * int(subprocess.check_output(words, stderr=subprocess.DEVNULL))
    return 0
