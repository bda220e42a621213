"""Grade notebooks: run the cells in order, and judge each exercise where its check stands."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wslessons.errors import UserError
from wslessons.exercises import check
from wslessons.exercises.exercise import Exercise
from wslessons.exercises.grade.handedin import Cell, HandedIn, Unreadable, read
from wslessons.exercises.grade.kernel import Died, Office, StudentKernel
from wslessons.exercises.grade.remote import KernelTrial, Lost
from wslessons.exercises.isolation import Isolation, NoFence
from wslessons.exercises.verdict import Line, State, Verdict

__all__ = ["Limits", "Result", "find", "grade"]

COPIED = 10 * 2**20
"""Bytes of files beside a notebook that are copied for it."""
IMPORT = "from wslessons.exercises import check"
RESTARTS = 3
"""Times that a kernel is started again for a notebook that ends it."""


@dataclass(frozen=True)
class Limits:
    """What a notebook may take.

    Args:
        cell: seconds for each cell.
        notebook: seconds for all of it.
        memory: bytes for its kernel and what that starts.
        jobs: notebooks at the same time.
    """

    cell: float = 60.0
    notebook: float = 900.0
    memory: int = 2 * 2**30
    jobs: int = 2


@dataclass
class Result:
    """What came of one notebook.

    Args:
        path: the file, below the folder of all.
        verdicts: by exercise, in the order of the lesson.
        notices: for each exercise, or "" for the whole notebook, what was noticed.
        errors: the cells that ended in an error: number, and one line.
        trouble: why there is nothing to judge, if so.
        seconds: how long it took.
    """

    path: Path
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    notices: dict[str, list[str]] = field(default_factory=dict)
    errors: list[tuple[int, str]] = field(default_factory=list)
    trouble: str = ""
    seconds: float = 0.0

    @property
    def student(self) -> str:
        """Who handed it in: the folder that it is in, or else the file's name."""
        return self.path.parts[0] if len(self.path.parts) > 1 else self.path.stem

    @property
    def passed(self) -> int:
        """How many exercises pass."""
        return sum(verdict.passed for verdict in self.verdicts.values())


def find(folder: Path) -> list[Path]:
    """Return all notebooks in a folder and below, but for checkpoints and hidden ones.

    Args:
        folder: where to look.

    Returns:
        The paths, in order.

    Raises:
        UserError: there is no such folder, or no notebook in it.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}.", exit_code=2)
    found = [
        path
        for path in sorted(folder.rglob("*.ipynb"))
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    ]
    if not found:
        raise UserError(f"there is no notebook in {folder}.", exit_code=2)
    return found


async def grade(
    folder: Path,
    paths: Sequence[Path],
    limits: Limits,
    on_result: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Grade notebooks, several at a time.

    Args:
        folder: the folder of all, for the results' names.
        paths: the notebooks.
        limits: what each may take.
        on_result: called with each result as soon as it is there.

    Returns:
        The results, in the order of `paths`.
    """
    turns = asyncio.Semaphore(limits.jobs)
    async with Office().open() as office:

        async def one(path: Path) -> Result:
            async with turns:
                began = time.monotonic()
                result = await _grade(path, folder, limits, office)
                result.seconds = time.monotonic() - began
            on_result(result)
            return result

        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(one(path)) for path in paths]
    return [task.result() for task in running]


async def _grade(path: Path, folder: Path, limits: Limits, office: Office) -> Result:
    result = Result(path.relative_to(folder))
    try:
        handed_in = await asyncio.to_thread(read, path)
    except Unreadable as error:
        result.trouble = str(error)
        return result
    result.notices = handed_in.notices
    if not handed_in.exercises:
        result.trouble = "there is no exercise in it"
        return result
    with tempfile.TemporaryDirectory(prefix="wslessons-grade-") as copy:
        work = Path(copy) / "work"
        await asyncio.to_thread(_copy, path, work)
        await _Run(handed_in, result, limits, office, work).run()
    result.verdicts = {name: result.verdicts[name] for name in handed_in.exercises}
    return result


def _copy(path: Path, work: Path) -> None:
    """Copy what stands beside a notebook, so that nothing handed in is changed."""
    work.mkdir()
    room = COPIED
    for file in sorted(path.parent.iterdir()):
        with contextlib.suppress(OSError):
            if file.is_file() and not file.is_symlink() and file.suffix != ".ipynb":
                room -= file.stat().st_size
                if room > 0:
                    shutil.copyfile(file, work / file.name)


class _Run:
    """One notebook's run: its cells in order, in as few kernels as it lets live."""

    def __init__(
        self, handed_in: HandedIn, result: Result, limits: Limits, office: Office, work: Path
    ) -> None:
        self.handed_in, self.result, self.limits = handed_in, result, limits
        self.office, self.work = office, work
        self.known = {exercise.name: exercise for exercise in check}
        self.end = time.monotonic() + limits.notebook
        self.done: list[Cell] = []
        """Cells that went well: a new kernel gets them again."""

    async def run(self) -> None:
        """Run and judge; each exercise of the notebook has a verdict afterwards."""
        queue, restarts = list(self.handed_in.cells), 0
        while True:
            try:
                async with StudentKernel(
                    self.office, self.work, self.limits.memory
                ).run() as kernel:
                    for cell in self.done:
                        await kernel.cell(cell.source, self._left())
                    while queue:
                        await self._cell(kernel, queue)
                    await self._leftover(kernel)
                return
            except TimeoutError:
                self._rest(f"the notebook took more than {self.limits.notebook:g} s")
                return
            except (Died, Lost) as error:
                why = str(error) or "the kernel does not answer any more"
                restarts += 1
                if restarts > RESTARTS:
                    self._rest(f"its kernel was ended {restarts} times, at last: {why}")
                    return

    def _left(self) -> float:
        """The seconds that a cell may take now."""
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return min(self.limits.cell, left)

    async def _cell(self, kernel: StudentKernel, queue: list[Cell]) -> None:
        """Judge what a cell checks, and run it if it does more."""
        cell = queue.pop(0)
        if cell.only_checks:
            # The check itself is ours to run; later cells may ask it for a hint.
            cell = dataclasses.replace(cell, source=IMPORT)
        try:
            error = await kernel.cell(cell.source, self._left())
        except Died as died:
            self.result.errors.append((cell.number, str(died)))
            raise
        if error:
            self.result.errors.append((cell.number, error))
        else:
            self.done.append(cell)
        for name in dict.fromkeys(cell.checks):
            await self._judge(kernel, name)

    async def _leftover(self, kernel: StudentKernel) -> None:
        """Judge exercises whose check cell is missing, by what their names mean in the end."""
        for name in self.handed_in.exercises:
            if name not in self.result.verdicts:
                await self._judge(kernel, name)

    async def _judge(self, kernel: StudentKernel, name: str) -> None:
        before = self.result.verdicts.get(name)
        if before is not None and before.passed:
            return
        exercise = self.known[name]
        try:
            verdict = await self._verdict(kernel, exercise)
        except Lost:
            got = kernel.why or "the kernel does not answer any more"
            line = Line("it can be judged", State.FAIL, "a kernel that goes on", got, GONE)
            self.result.verdicts[name] = Verdict(name, [line])
            raise
        self.result.verdicts[name] = verdict

    async def _verdict(self, kernel: StudentKernel, exercise: Exercise) -> Verdict:
        async def ask(*request: Any) -> Any:
            return await kernel.ask(*request, seconds=min(60.0, self._left() + 10))

        seen = await self._value(ask, "glance", exercise.name)
        if seen == "missing":
            note = f"{exercise.answer_name} is not defined where its check stands."
            return Verdict(exercise.name, note=note)
        if seen is not None:
            return _verdict(exercise.name, seen)
        if not exercise.portable:
            return _verdict(exercise.name, await self._value(ask, "judge", exercise.name))

        def world(fence: Isolation) -> KernelTrial:
            fence.idle.workers.add(str(kernel.process.pid))
            return KernelTrial(exercise, ask, fence)

        return await exercise.run(world, NoFence)

    @staticmethod
    async def _value(ask: Any, *request: Any) -> Any:
        match await ask(*request):
            case ("value", value):
                return value
        raise Lost

    def _rest(self, why: str) -> None:
        """Give what was not judged a verdict that says why."""
        for name in self.handed_in.exercises:
            if name not in self.result.verdicts:
                line = Line("it can be judged", State.TIMED_OUT, "an end", why, GONE)
                self.result.verdicts[name] = Verdict(name, [line])


GONE = "Look at the cells before: one of them takes too long, too much memory, or ends the kernel."


def _verdict(name: str, told: Any) -> Verdict:
    """Make a verdict of what the agent has told, whatever it is."""
    try:
        lines, note = told
        made = [Line(str(b), State(s), str(e), str(g), str(h)) for b, s, e, g, h in lines]
        return Verdict(name, made, str(note))
    except (TypeError, ValueError):
        raise Lost from None
