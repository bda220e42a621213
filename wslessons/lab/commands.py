"""Run `wslessons` commands as a shell would, from a cell or a test."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator

from wslessons.processes import guarded, memory

__all__ = ["Command", "memory", "run", "serving"]


class Command:
    """A running command.

    Attributes:
        url: the first line that it printed.
    """

    def __init__(self, process: Process) -> None:
        self.process = process
        self.url = ""

    async def line(self) -> str:
        """Return the next line of its stdout, without the end of line; empty once it has ended."""
        assert self.process.stdout is not None
        return (await self.process.stdout.readline()).decode().rstrip("\r\n")

    async def write(self, text: str) -> None:
        """Write `text` to its stdin."""
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        await self.process.stdin.drain()

    async def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Send it a signal; return the exit code and all that it wrote to stderr."""
        self.process.send_signal(number)
        _, errors = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, errors.decode()


async def _start(*words: str) -> Process:
    command = guarded(sys.executable, "-m", "wslessons", *words)
    return await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE)


async def _kill(process: Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.communicate()


@contextlib.asynccontextmanager
async def serving(*words: str) -> AsyncGenerator[Command]:
    """Start a serving command, wait for its URL, and kill it at the end if it still runs.

    ``async with serving("echo", "--port", "0") as server:`` and then ``server.url``.
    """
    command = Command(await _start(*words))
    try:
        command.url = await command.line()
        yield command
    finally:
        await _kill(command.process)


async def run(*words: str, stdin: str = "") -> tuple[int, str, str]:
    """Run a command to its end, with `stdin` piped in; return exit code, stdout and stderr."""
    process = await _start(*words)
    try:
        out, errors = await process.communicate(stdin.encode())
    finally:
        await _kill(process)
    assert process.returncode is not None
    return process.returncode, out.decode(), errors.decode()
