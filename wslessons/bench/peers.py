"""Contenders that are programs of their own, in any language: a command that listens on a port.

    --peer rust='./target/release/chat {port}'

Two of them are ours: the floor, bare sockets in C, compiled where a compiler is found; and in the
echo's benches whatever of picows and aiohttp is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from wslessons.chat.codecs import clean_text
from wslessons.errors import UserError
from wslessons.processes import ServerProcess, Stopped, free_port, memory

__all__ = ["Peer", "RunningPeer", "add_peers", "cpu_time", "floor", "server"]


@dataclass(frozen=True)
class Peer:
    """A server as a command line.

    Attributes:
        name: what the table calls it.
        command: its words; ``{port}`` in them becomes the port.
    """

    name: str
    command: tuple[str, ...]

    def start(self) -> RunningPeer:
        """Start it on a free port, and wait until it accepts connections."""
        running = RunningPeer(self)
        try:
            running.start()
        except BaseException:
            running.close()
            raise
        return running


def parse(text: str) -> Peer:
    """Read ``NAME='COMMAND {port}'``, for argparse."""
    name, found, command = text.partition("=")
    try:
        words = tuple(shlex.split(command))
    except ValueError:
        words = ()
    if not found or not name or not words or "{port}" not in command:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME='COMMAND {{port}}'")
    return Peer(name, words)


def add_peers(parser: argparse.ArgumentParser, protocol: str) -> None:
    """Give `parser` the option ``--peer``.

    Args:
        parser: the bench's own.
        protocol: what a peer has to speak, in a few words.
    """
    parser.add_argument(
        "--peer",
        action="append",
        type=parse,
        default=[],
        metavar="NAME='COMMAND {port}'",
        help=f"also measure this server, of any language, which must speak {protocol}",
    )


class RunningPeer(ServerProcess):
    """A peer that listens, until the block ends.

    Args:
        peer: what to start.
    """

    def __init__(self, peer: Peer) -> None:
        super().__init__("peer")
        self.name, self._command = peer.name, peer.command
        self.port = free_port()

    def start(self) -> None:
        """Start it, and wait until it accepts connections.

        Raises:
            UserError: it can't be started, ends, or does not listen in time.
        """
        try:
            self._run(*(word.replace("{port}", str(self.port)) for word in self._command))
            self._wait_for(self._accepts)
        except Stopped as stopped:
            assert self._process is not None
            why = clean_text(str(stopped)) or "it did not say why."
            raise UserError(f"{self.name} ended with {self._process.returncode}: {why}") from None
        except UserError:
            raise UserError(
                f"{self.name} does not listen on the port that it was given: use {{port}}."
            ) from None

    def _accepts(self) -> bool | None:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        return None

    def ask(self) -> dict[str, Any]:
        """Return what it has used: ``cpu`` in seconds and ``rss`` in bytes, None if unknown.

        Raises:
            UserError: it has ended.
        """
        if (pid := self.pid) is None:
            raise UserError(f"{self.name} ended in the middle of the run: {self._last_words()}")
        return {"cpu": cpu_time(pid), "rss": memory(pid) or None}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def cpu_time(pid: int) -> float:
    """Return the CPU seconds that the threads of a process have taken.

    Args:
        pid: the process.

    Returns:
        The seconds; 0 where we can't tell, which is everywhere but on Linux.
    """
    total = 0
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError, ValueError):
                total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9


def server(name: str) -> Peer:
    """Return a peer of `wslessons.bench.servers`.

    Args:
        name: which one.

    Returns:
        The peer.
    """
    return Peer(name, (sys.executable, "-m", "wslessons.bench.servers", "peer", name, "{port}"))


@cache
def floor(echo: bool = False) -> Peer | None:
    """Return the floor, compiled now; None where there is no C compiler or it can't be compiled.

    Args:
        echo: whether it serves the echo, or else the chat.
    """
    program = _compiled()
    if program is None:
        return None
    return Peer("floor", (str(program), "{port}", *(["echo"] if echo else [])))


@cache
def _compiled() -> Path | None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or os.name == "nt":
        return None
    source = Path(__file__).with_name("floor.c")
    # As long as this process: another version of the file must not meet an old program.
    folder = tempfile.TemporaryDirectory(prefix="wslessons-floor-")
    _folders.append(folder)
    program = Path(folder.name) / "floor"
    words = [compiler, "-O2", "-D_GNU_SOURCE", "-o", str(program), str(source)]
    done = subprocess.run(words, capture_output=True, timeout=120, check=False)
    return program if done.returncode == 0 else None


_folders: list[tempfile.TemporaryDirectory[str]] = []
