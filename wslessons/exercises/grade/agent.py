"""The part of the grader inside the student's kernel: it serves and calls what it is told to.

It decides nothing. Its modules are taken out of `sys.modules` before the student's first cell, so
that whoever changes the checks in a notebook changes another copy of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Mapping
from typing import Any

from wslessons.errors import extra
from wslessons.exercises import check
from wslessons.exercises.exercise import Exercise
from wslessons.exercises.grade import remote
from wslessons.exercises.isolation import Isolation
from wslessons.exercises.trial import Mismatch, Nothing, Trial
from wslessons.exercises.verdict import Verdict

with extra("lab"):
    import psutil

__all__ = ["ROOM", "start"]

METHODS = ("serve", "serve_small", "stage", "call", "take", "value")
ROOM = 2**30
"""Bytes of address space beyond the limit of memory and what is mapped at the start, for what the
student's code maps and does not use."""


async def start(port: int, token: str, memory: int, names: Mapping[str, Any]) -> None:
    """Connect to the grader, and do what it says in the background.

    Args:
        port: where the grader listens, on loopback.
        token: what this kernel says it is.
        memory: bytes of memory that this process may take.
        names: where the notebook's names are.
    """
    exercises = {exercise.name: exercise for exercise in check}
    _limit(memory)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=remote.LIMIT)
    remote.write(writer, token)
    task = asyncio.create_task(_Agent(exercises, names).run(reader, writer))
    # asyncio keeps no task alive, and the modules that could are about to go: the socket does.
    protocol: Any = writer.transport.get_protocol()
    protocol.agent = task
    for name in [name for name in sys.modules if name.startswith("wslessons.exercises")]:
        del sys.modules[name]
    if (package := sys.modules.get("wslessons")) is not None:
        vars(package).pop("exercises", None)


def _limit(memory: int) -> None:
    try:
        import resource
    except ImportError:  # Windows; there the grader's own watch has to do
        return
    # A kernel's threads have hundreds of MiB mapped before anybody uses them, more on many cores.
    mapped = psutil.Process().memory_info().vms
    for kind, most in (
        (resource.RLIMIT_AS, mapped + memory + ROOM),
        (resource.RLIMIT_FSIZE, 2**26),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (most, most))


class _Agent:
    def __init__(self, exercises: Mapping[str, Exercise], names: Mapping[str, Any]) -> None:
        self.exercises = exercises
        self.names = names
        self.isolation = Isolation()
        self.trial: Trial | None = None

    async def run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer each request, one after the other, until the grader is gone."""
        while (request := await remote.read(reader)) is not None:
            operation, *args = request
            try:
                answer = await getattr(self, f"on_{operation}")(*args)
            except Mismatch as error:
                nothing = error.got if isinstance(error.got, Nothing) else Nothing("no value")
                answer = "mismatch", error.expected, nothing.why, nothing.code, nothing.reason
                answer = *answer, error.hint, self.raised()
            except Exception as error:
                answer = "error", f"{type(error).__name__}: {error}"[:300], self.raised()
            else:
                answer = "value", answer
            remote.write(writer, answer)
            await writer.drain()

    def raised(self) -> list[str]:
        """Name the types of what the student's code has raised, and of what those derive from."""
        return [kind.__name__ for error in self.isolation.crashes for kind in type(error).__mro__]

    async def on_glance(self, name: str) -> Any:
        """Say whether the answer is there, and what is known of it without a run."""
        exercise = self.exercises[name]
        if exercise.answer_name not in self.names:
            return "missing"
        answer = self.names[exercise.answer_name]
        if answer is None or answer is ...:
            return "missing"
        verdict = exercise.at_a_glance(answer)
        return None if verdict is None else _plain(verdict)

    async def on_judge(self, name: str) -> Any:
        """Judge an answer that no other process can, here."""
        exercise = self.exercises[name]
        return _plain(await exercise.judge(self.names[exercise.answer_name]))

    async def on_open(self, name: str) -> None:
        """Begin the world of one behaviour."""
        self.isolation = Isolation()
        # The clients, and the servers that a client of the student's talks to, are elsewhere.
        self.isolation.idle.open = True
        await self.isolation.__aenter__()
        self.trial = Trial(self.names[self.exercises[name].answer_name], self.isolation)

    async def on_do(self, method: str, args: list[Any], options: dict[str, Any]) -> Any:
        """Serve or call the answer."""
        if self.trial is None or method not in METHODS:
            raise ValueError(method)
        return await getattr(self.trial, method)(*args, **options)

    async def on_diagnosis(self, name: str) -> Any:
        """Say what the student's code did that explains why something is missing."""
        return self.exercises[name].diagnosis(self.isolation)

    async def on_turns(self) -> None:
        """Give the student's tasks some turns."""
        if self.trial is not None:
            await self.trial.turns()

    async def on_forget(self) -> None:
        """Forget what was raised: it was expected."""
        self.isolation.crashes.clear()

    async def on_cut(self) -> None:
        """End every connection."""
        if self.trial is not None:
            self.trial.cut_off()

    async def on_close(self, name: str) -> Any:
        """End the world, and say what was left of it, and what explains a failure."""
        trial, self.trial = self.trial, None
        try:
            if trial is not None:
                await trial.__aexit__(None, None, None)
            found = self.exercises[name].diagnosis(self.isolation)
        finally:
            await self.isolation.__aexit__(None, None, None)
        fence = self.isolation
        return {
            "left": fence.left,
            "immortal": fence.immortal,
            "blocked": fence.blocked,
            "ended_loop": fence.ended_loop,
            "diagnosis": found,
        }


def _plain(verdict: Verdict) -> Any:
    lines = [
        (line.behaviour, str(line.state), line.expected, line.got, line.hint)
        for line in verdict.lines
    ]
    return lines, verdict.note
