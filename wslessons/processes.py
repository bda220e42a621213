"""Child processes that end with this one: commands, servers; and the memory that one holds.

    subprocess.Popen(guarded("nats-server", "--port", "4222"))
    await asyncio.create_subprocess_exec(*guarded(sys.executable, "-m", "module"), stdout=PIPE)

Whatever is started here, a broker, a server of a cluster or of a bench, a command in a cell or in a
test, is started `guarded`: see `wslessons.guardian`.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from wslessons import guardian
from wslessons.errors import UserError

__all__ = [
    "POLL",
    "PORTS",
    "START_TIME",
    "ServerProcess",
    "Stopped",
    "end",
    "free_port",
    "free_ports",
    "guarded",
    "kernel_sockets",
    "memory",
    "start_all",
]

T = TypeVar("T")

POLL = 0.01
"""Seconds between two looks whether a server is ready."""
START_TIME = 15.0
"""Seconds for a server to be ready."""
TRIES = 5
"""How many ports are drawn for a server, until one was not taken meanwhile."""
PORTS = range(20_000, 32_000)
"""Below those that Linux (32768 to 60999), macOS and Windows (from 49152) give to outgoing
connections."""


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


def free_port() -> int:
    """Draw one port of loopback, see `free_ports`.

    Returns:
        The port.

    Raises:
        UserError: none is free.
    """
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Draw ports of loopback for servers that others must find, also after a restart.

    With port 0 a system chooses one of those that it gives to outgoing connections as well: while
    the server is away, or has not started yet, any connection may take it for its own end.

    Args:
        count: how many.

    Returns:
        Different ones of `PORTS` that nobody has now. Somebody else may draw one of them before the
        server takes it, so try again then.

    Raises:
        UserError: so many are not free.
    """
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        # Whoever seeds the common generator means neither this to be the same, nor theirs to move.
        for port in random.Random().sample(PORTS, len(PORTS)):
            if len(found) == count:
                break
            sock = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                sock.bind(("127.0.0.1", port))
                found.append(port)
    if len(found) < count:
        raise UserError("no port is free: end some of what listens on this machine.")
    return found


def kernel_sockets(folder: Path | None = None) -> dict[str, str]:
    """Choose where a new Jupyter kernel and the one who starts it meet: at files, if that can be.

    Else `jupyter_client` draws five TCP ports and lets them go again, and until the kernel takes
    them anybody's connection may: it ends then with "Address already in use".

    Args:
        folder: for the files, which go with the kernel; that of temporary files by default.

    Returns:
        Arguments for a `jupyter_client.manager.KernelManager`.

    Source: https://jupyter-client.readthedocs.io/en/stable/api/jupyter_client.html
    """
    path = (folder or Path(tempfile.gettempdir())) / f"kernel-{secrets.token_hex(8)}.json"
    arguments = {"connection_file": str(path)}
    # Windows has none for ZeroMQ, and elsewhere their names may have some 104 characters.
    if os.name != "nt" and len(str(path)) <= 100:
        arguments["transport"] = "ipc"
    return arguments


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


class Stopped(Exception):
    """The process ended before it was ready; the text is the end of its log."""


class ServerProcess(ABC):
    """One process of a server, with a temporary folder. All methods block for a bounded time.

    Args:
        name: what to call it, in the folder's name and in errors.

    Attributes:
        home: the folder, which goes with `close`, or with this process.
        port: where it listens, if it is one port; 0 before its first start.
        log: the file in it that has the server's output.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.home = Path(tempfile.mkdtemp(prefix=f"wslessons-{name}-"))
        self.log = self.home / "log.txt"
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where clients connect, ``HOST:PORT``."""
        return f"127.0.0.1:{self.port}"

    @abstractmethod
    def start(self) -> None:
        """Start the server, again on the same port and data if it ran before.

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
        """End the server with SIGKILL; its data stay for another start."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """End the server and remove its folder. Idempotent."""
        if self._process is not None:
            end(self._process)
        shutil.rmtree(self.home, ignore_errors=True)

    def _run(self, *command: str) -> None:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                guarded(*command, home=self.home),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def _start_on_a_port(self, begin: Callable[[], None], ready: Callable[[], object]) -> None:
        """Start the server on its `port`, or on one that is drawn if it has none yet.

        Args:
            begin: runs the server on `port`.
            ready: returns something, and not None, once the server is ready.

        Raises:
            Stopped: it ended before it was ready, on the last of the ports that were tried.
            UserError: it took too long.
        """
        given = self.port
        for left in reversed(range(1 if given else TRIES)):
            self.port = given or free_port()
            begin()
            try:
                self._wait_for(ready)
                return
            except Stopped:
                # Somebody may have taken a port that was drawn.
                if not left:
                    self.port = given
                    raise
                self.log.unlink(missing_ok=True)

    def _wait_for(self, look: Callable[[], T | None], seconds: float = START_TIME) -> T:
        """Call `look` until it returns something, and return that.

        Raises:
            Stopped: the server ended first.
            UserError: it took too long.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = look()
            if found is not None:
                return found
            if self.pid is None:
                raise Stopped(self._last_words())
            time.sleep(POLL)
        raise UserError(f"{self.name} was not ready within {seconds:g} seconds.")

    def _last_words(self) -> str:
        """Return the end of the server's log, on one line."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return "it left no log"
        return " / ".join(line.strip() for line in lines[-3:])


def start_all(servers: Sequence[ServerProcess]) -> None:
    """Start the nodes of a cluster at once, since none is ready before it has met the others.

    Args:
        servers: the nodes.

    Raises:
        UserError: one does not start.
    """
    with ThreadPoolExecutor(len(servers)) as pool:
        for starting in [pool.submit(server.start) for server in servers]:
            starting.result()
