"""Commands of a cell: whatever they write is read, for as long as they run."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE

from wslessons.lab.commands import KEPT_LINES, Command, serving

TALKER = """
import sys
print("ws://127.0.0.1:1", flush=True)
for number in range(20_000):
    print("out", number)
    print("error", number, file=sys.stderr)
sys.stdout.write("no end of line")
sys.stdout.flush()
input()
"""


async def test_a_command_that_talks_is_never_held_up():
    """It writes far more than a pipe holds while nobody asks; the newest lines can be asked for."""
    async with asyncio.timeout(50):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", TALKER, stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
        command = Command(process)
        await command.write("\n")
        assert await command.wait() == 0
        lines = command.out.rest().splitlines()
        assert len(lines) == KEPT_LINES
        assert lines[-2:] == ["out 19999", "no end of line"]
        assert command.errors.rest().endswith("error 19999\n")
        assert await command.line() == lines[0]


async def test_lines_come_as_they_are_written():
    """The first line is the URL; stderr can be followed, and ends with the command."""
    async with asyncio.timeout(50), serving("echo", "--port", "0") as command:
        assert command.url.startswith("ws://127.0.0.1:")
        reading = asyncio.create_task(command.line())
        code, errors = await command.end()
        assert (code, errors) == (0, "")
        assert await reading == ""
        assert await command.errors.next() == ""
