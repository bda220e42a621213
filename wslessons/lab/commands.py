"""Run `wslessons` commands as a shell would, from a cell or a test."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import AsyncGenerator

from wslessons.processes import guarded, memory

__all__ = ["Command", "Lines", "memory", "python", "run", "serving"]

KEPT_LINES = 10_000
LONGEST_LINE = 1 << 20


class Lines:
    """What a command writes to one of its pipes, read for as long as it runs, line by line.

    A pipe that nobody reads fills up, and then the command waits for ever. So all is read, and the
    newest 10,000 lines are kept for whoever wants to see them.

    Args:
        pipe: which nobody else reads.
    """

    def __init__(self, pipe: asyncio.StreamReader) -> None:
        self._kept: deque[str] = deque(maxlen=KEPT_LINES)
        self._more = asyncio.Event()
        self._ended = False
        self.reading = asyncio.create_task(self._read(pipe), name="lines of a command")

    async def _read(self, pipe: asyncio.StreamReader) -> None:
        begun = b""
        try:
            while chunk := await pipe.read(1 << 16):
                *whole, begun = (begun + chunk).split(b"\n")
                if len(begun) > LONGEST_LINE:
                    whole, begun = [*whole, begun], b""
                self._kept.extend(_text(line) for line in whole)
                self._more.set()
        finally:
            self._kept.extend([_text(begun)] if begun else [])
            self._ended = True
            self._more.set()

    async def next(self) -> str:
        """Return the next line, without its end; empty once the command has ended."""
        while not (self._kept or self._ended):
            self._more.clear()
            await self._more.wait()
        return self._kept.popleft() if self._kept else ""

    def rest(self) -> str:
        """Return all lines that `next` has not returned, each with a line feed."""
        return "".join(f"{line}\n" for line in self._kept)


def _text(line: bytes) -> str:
    return line.decode(errors="replace").rstrip("\r")


class Command:
    """A running command.

    Args:
        process: which has been started.

    Attributes:
        url: the first line that it printed.
        out: what it writes to stdout after that.
        errors: what it writes to stderr.
    """

    def __init__(self, process: Process) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self.process = process
        self.url = ""
        self.out, self.errors = Lines(process.stdout), Lines(process.stderr)

    async def line(self) -> str:
        """Return the next line of its stdout, without the end of line; empty once it has ended."""
        return await self.out.next()

    async def write(self, text: str) -> None:
        """Write `text` to its stdin.

        Args:
            text: as it is, line feeds included.
        """
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        await self.process.stdin.drain()

    async def wait(self) -> int:
        """Wait until it has ended and all that it wrote is read; return the exit code."""
        await asyncio.wait([self.out.reading, self.errors.reading])
        return await self.process.wait()

    async def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """End it by a signal.

        Args:
            number: the signal.

        Returns:
            The exit code, and what it wrote to stderr that was not read yet.
        """
        self.process.send_signal(number)
        return await self.wait(), self.errors.rest()


async def _start(*words: str) -> Process:
    command = guarded(sys.executable, *words)
    return await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE)


@contextlib.asynccontextmanager
async def serving(*words: str) -> AsyncGenerator[Command]:
    """Start a serving command, wait for its URL, and kill it at the end if it still runs.

    ``async with serving("echo", "--port", "0") as server:`` and then ``server.url``. What it
    says is read for as long as it runs.

    Args:
        words: the command's words after ``wslessons``.

    Yields:
        The running command.
    """
    async with python("-m", "wslessons", *words) as command:
        yield command


@contextlib.asynccontextmanager
async def python(*words: str) -> AsyncGenerator[Command]:
    """Start a Python program that serves, as `serving` does a command.

    Args:
        words: Python's arguments.

    Yields:
        The running program.
    """
    command = Command(await _start(*words))
    try:
        command.url = await command.line()
        yield command
    finally:
        if command.process.returncode is None:
            command.process.kill()
        await command.wait()


async def run(*words: str, stdin: str = "") -> tuple[int, str, str]:
    """Run a command to its end.

    Args:
        words: the command's words after ``wslessons``.
        stdin: what is piped in.

    Returns:
        Exit code, stdout and stderr.
    """
    process = await _start("-m", "wslessons", *words)
    try:
        out, errors = await process.communicate(stdin.encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), errors.decode()
