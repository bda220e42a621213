"""Run `wslessons` commands as a user's shell would."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator


class Shell:
    """A running command: its process, and the first line that it printed."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.url = ""

    async def line(self) -> str:
        """Return the next line of its stdout, without the end of line."""
        assert self.process.stdout is not None
        return (await self.process.stdout.readline()).decode().rstrip("\r\n")

    async def end(self, number: signal.Signals) -> tuple[int, str]:
        """Send a signal; return the exit code and all of stderr."""
        self.process.send_signal(number)
        _, errors = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, errors.decode()


@contextlib.asynccontextmanager
async def serving(*words: str) -> AsyncGenerator[Shell]:
    """Start a serving command, wait for its URL, and kill it at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "wslessons", *words, stdout=PIPE, stderr=PIPE
    )
    shell = Shell(process)
    try:
        shell.url = await shell.line()
        yield shell
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def run(*words: str) -> tuple[int, str, str]:
    """Run a command to its end; return its exit code, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "wslessons", *words, stdout=PIPE, stderr=PIPE
    )
    try:
        out, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(), errors.decode()
