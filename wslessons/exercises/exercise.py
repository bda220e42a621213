r"""An exercise: its task, stub, hints and solution, and the behaviours that an answer must show.

    class Counter(HandlerExercise):
        '''Answer each message with how many this connection has sent so far.'''

        lesson = 1
        stub = "async def counter(connection):\n    ..."
        solution = "..."
        hints = ("...", "...")

        @behaviour("the first message is answered with 1")
        async def first(self, trial): ...

Each behaviour runs in a world of its own (`Trial`) behind a fence (`Isolation`), inside a time
limit that its line names. After one that ran out of time the others are not run.
"""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import dis
import functools
import inspect
import os
import types
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

from websockets import ConnectionClosed

from wslessons.exercises import progress
from wslessons.exercises.isolation import Isolation, own_lines
from wslessons.exercises.trial import Mismatch, Nothing, Trial, shown
from wslessons.exercises.verdict import Line, Note, State, Verdict

__all__ = ["ENDING", "Exercise", "HandlerExercise", "behaviour"]

Test = Callable[[Any, Trial], Awaitable[None]]

_turns: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = (
    weakref.WeakKeyDictionary()
)

ATTEMPTS = 3
"""Attempts after which the solution is shown without a pass."""

ENDING = "nothing of it runs on when all is over"
"""The last behaviour of every exercise."""

SLIPPED = "It has passed before: what have you changed since?"

UNFORESEEN = "The check could not go on from here. Does the connection stay open?"

NOT_AWAITABLE = (
    "Only what is made to wait can be awaited: asyncio.sleep can be awaited, time.sleep not."
)

CRASH_HINTS = (
    (RuntimeError, "asyncio.run", "asyncio.run starts a loop, and one is running: just await."),
    (RuntimeError, "is not yours to end", "The loop serves everybody: a handler only returns."),
    (
        RuntimeError,
        "changed size",
        "Others come and go while you await: loop over a copy, such as list(x).",
    ),
    (TypeError, "data must be", "send takes text or bytes: turn a number into text with str()."),
    (TypeError, "can't be used in 'await'", NOT_AWAITABLE),
    # The same, as Python says it from 3.14 on.
    (TypeError, "can't be awaited", NOT_AWAITABLE),
    (TypeError, "must be str or bytes", "send takes text or bytes: turn a number into text first."),
    (
        UnboundLocalError,
        "",
        "Assigning to a name makes it local to the function. Set it inside the function, before"
        " it is used.",
    ),
    (NameError, "", "That name is not defined where it is used: import it, or define it above."),
    (
        ConnectionClosed,
        "",
        "When the connection has ended, recv raises ConnectionClosed: catch it with try and"
        " except, and look at connection.close_code.",
    ),
    (SystemExit, "", "sys.exit ends the whole program, with everybody on it: just return."),
    (KeyboardInterrupt, "", "That stops the whole program, with everybody on it: just return."),
)
"""For errors that people make often: the type, a part of the text, and what to do."""


def behaviour(text: str) -> Callable[[Test], Test]:
    """Mark a method as the test of a behaviour, which `text` describes in one clause.

    Args:
        text: a clause, such as "two clients count apart".

    Returns:
        The decorator.
    """

    def mark(test: Test) -> Test:
        test.behaviour = text  # ty: ignore[missing-attribute]
        return test

    return mark


class Exercise:
    """One exercise; awaiting a call of it with the learner's answer gives a `Verdict`.

    The docstring of each subclass is its task.
    """

    lesson: ClassVar[int]
    stub: ClassVar[str]
    """What the learner begins with."""
    solution_source: ClassVar[str]
    hints: ClassVar[tuple[str, ...]]
    """From a nudge to nearly the answer, each at most 60 words."""
    crash_hints: ClassVar[tuple[tuple[type[BaseException], str, str], ...]] = ()
    """As `CRASH_HINTS`, for what goes wrong in this exercise alone."""
    limit: ClassVar[float] = 15.0
    """Seconds for each behaviour, in which the machine has time for it: see `Idle.limit`."""
    kind: ClassVar[str] = "function"
    """What the learner writes: function, async function, generator, handler, class or value."""
    portable: ClassVar[bool] = True
    """Whether its behaviours can judge an answer that lives in another process."""
    name: ClassVar[str]
    """The exercise's name, made from the class's: `ShortOnly` is `short_only`."""
    answer_name: ClassVar[str]
    """The name under which a notebook defines the answer; the exercise's own unless given."""

    def __init_subclass__(cls) -> None:
        """Name the exercise after its class."""
        words = "".join(f"_{c.lower()}" if c.isupper() else c for c in cls.__name__)
        cls.name = words.lstrip("_")
        if "answer_name" not in vars(cls):
            cls.answer_name = cls.name

    @property
    def task(self) -> str:
        """What there is to do."""
        return inspect.cleandoc(self.__doc__ or "")

    @functools.cached_property
    def cell(self) -> str:
        """The stub as it stands in a lesson: without its imports, which an earlier cell holds.

        Whoever pastes an answer over the whole cell loses nothing then.
        """
        nodes = ast.parse(self.stub).body
        imports = [node for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))]
        end = max((node.end_lineno or 0 for node in imports), default=0)
        return "\n".join(self.stub.splitlines()[end:]).strip()

    def __repr__(self) -> str:
        return repr(Note(f"check.{self.name}, lesson {self.lesson}", self.task))

    async def __call__(self, answer: Any = None) -> Verdict:
        """Judge what the learner wrote.

        Args:
            answer: what the exercise asks for; the untouched stub counts as not attempted.
        """
        loop = asyncio.get_running_loop()
        # Two fences at once would not know whose tasks are whose.
        async with _turns.setdefault(loop, asyncio.Lock()):
            verdict = await self.judge(answer)
        if verdict.state is State.NOT_ATTEMPTED:
            return verdict
        before, trouble = progress.note(self.name, verdict.passed)
        said = SLIPPED if before.passed and not verdict.passed else ""
        return dataclasses.replace(verdict, note=" ".join(filter(None, [said, trouble])))

    async def judge(self, answer: Any) -> Verdict:
        """Run every behaviour against `answer`, one after the other.

        Args:
            answer: as for a call.

        Returns:
            The verdict; nobody's progress has it.
        """
        if answer is None or answer is ...:
            what = f"Pass what you wrote: await check.{self.name}({self.answer_name})"
            return Verdict(self.name, note=what)
        return self.at_a_glance(answer) or await self.run(lambda fence: Trial(answer, fence))

    def at_a_glance(self, answer: Any) -> Verdict | None:
        """Judge what needs no run: the untouched stub, and what is of the wrong kind.

        Args:
            answer: as for a call.

        Returns:
            The verdict, None if it takes a run to tell.
        """
        if self.untouched(answer):
            what = "Write it in the cell above, run that cell, then this one again."
            return Verdict(self.name, note=what)
        if wrong := self.refuse(answer):
            expected, got, hint = wrong
            line = Line(f"it is {expected}", State.FAIL, expected, got, hint)
            return Verdict(self.name, [line])
        return None

    async def run(
        self, world: Callable[[Isolation], Trial], fence: type[Isolation] = Isolation
    ) -> Verdict:
        """Run every behaviour in a world of its own, one after the other.

        Args:
            world: makes a world, given the fence around it.
            fence: what keeps the learner's code in; `NoFence` where it runs in another process.

        Returns:
            The verdict.
        """
        lines: list[Line] = []
        left: list[str] = []
        immortal: list[str] = []
        blocked = False
        for text, test in self.behaviours():
            if (
                blocked
                or immortal
                or (lines and lines[-1].state in (State.TIMED_OUT, State.NOT_RUN))
            ):
                lines.append(Line(text, State.NOT_RUN))
                continue
            async with fence() as isolation:
                line = await self._one(text, test, world(isolation), isolation)
            if any((line.got, line.hint) == (other.got, other.hint) for other in lines):
                line = dataclasses.replace(line, hint="")
            lines.append(line)
            blocked = bool(isolation.blocked)
            left += isolation.left
            immortal += isolation.immortal
        lines.append(self._ending(lines, left, immortal))
        return Verdict(self.name, lines)

    async def _one(self, text: str, test: Test, trial: Trial, isolation: Isolation) -> Line:
        try:
            try:
                async with isolation.idle.limit(self.limit), trial:
                    await test(self, trial)
            finally:
                # Where the trial was cut off, tasks of the learner's may still run.
                await isolation.end()
        except TimeoutError:
            got, hint = await trial.diagnosis(self) or (f"no end within {self.limit:g} s", "")
            hint = hint or "Something in it waits for ever. Which await has nobody to end it?"
            return Line(text, State.TIMED_OUT, got=got, hint=hint)
        except Mismatch as error:
            explains = isinstance(error.got, Nothing) or isolation.blocked
            found = await trial.diagnosis(self) if explains else None
            got, hint = found or (shown(error.got), "")
            return Line(text, State.FAIL, error.expected, got, hint or error.hint)
        except Exception as error:
            # Something that no behaviour has foreseen: still a verdict, and no traceback of ours.
            got, hint = await trial.diagnosis(self) or (own_lines(error), "")
            return Line(text, State.FAIL, "a server that goes on", got, hint or UNFORESEEN)
        if isolation.blocked or isolation.ended_loop:
            got, hint = await trial.diagnosis(self) or ("", "")
            return Line(text, State.FAIL, "a loop that goes on for everybody", got, hint)
        return Line(text, State.PASS)

    def diagnosis(self, isolation: Isolation) -> tuple[str, str] | None:
        """Say what the learner's code did that explains why an answer is missing.

        Args:
            isolation: what was around the code.

        Returns:
            What it did and a hint; None if nothing explains it.
        """
        if isolation.blocked:
            seconds = f"{isolation.blocked_after:g} s"
            return (
                f"your code held the event loop for {seconds} {isolation.blocked}",
                "While one line computes or sleeps, nobody else is served. Await something"
                " asynchronous instead, such as asyncio.sleep, or asyncio.to_thread(function).",
            )
        if isolation.crashes:
            error = isolation.crashes[0]
            return f"your code raised {own_lines(error)}", self.crash_hint(error)
        if isolation.unawaited:
            name = isolation.unawaited[0]
            short = name.rsplit(".", 1)[-1]
            return (
                f"{name} was called and never awaited",
                f"Calling an async function only makes a coroutine: write await ...{short}(...).",
            )
        return None

    def crash_hint(self, error: BaseException) -> str:
        """A hint for what the learner's code raised; empty if there is none better.

        Args:
            error: what was raised.

        Returns:
            The hint.
        """
        for kind, part, hint in (*self.crash_hints, *CRASH_HINTS):
            if isinstance(error, kind) and part in str(error):
                return self._import(error) or hint
        return ""

    def _import(self, error: BaseException) -> str:
        """The hint for a name that only has to be imported, as in the solution."""
        name = error.name if isinstance(error, NameError) else None
        for node in ast.parse(self.solution_source).body:
            imports = isinstance(node, (ast.Import, ast.ImportFrom))
            if imports and name in [alias.name for alias in node.names]:
                return f"Import it, at the top of your cell: `{ast.unparse(node)}`."
        return ""

    def _ending(self, lines: list[Line], left: list[str], immortal: list[str]) -> Line:
        text = ENDING
        if immortal:
            hint = (
                "It catches CancelledError, or everything, and goes on. Catch what you expect"
                " only, and let a cancelled task end."
            )
            return Line(text, State.FAIL, "no task", f"{immortal[0]} ignores being cancelled", hint)
        if left:
            hint = (
                "Who starts a task ends it: use an asyncio.TaskGroup, or cancel the task in a"
                " finally block. And a handler ends when its connection does."
            )
            return Line(text, State.FAIL, "no task", f"still running: {left[0]}", hint)
        if any(line.state is not State.PASS for line in lines):
            return Line(text, State.NOT_RUN)
        return Line(text, State.PASS)

    def hint(self, number: int = 1) -> Note:
        """Give hint `number`; the first is a nudge, the last nearly the answer.

        Args:
            number: from 1 on.

        Returns:
            The hint, or how many there are.
        """
        count = len(self.hints)
        if not 1 <= number <= count:
            return Note(f"check.{self.name} has hints 1 to {count}")
        return Note(f"Hint {number} of {count}", self.hints[number - 1])

    def solution(self) -> Note:
        """Show the solution, after a pass or `ATTEMPTS` attempts; or always, with `--solutions`."""
        known = progress.read().get(self.name, progress.Entry())
        always = bool(os.environ.get("WSLESSONS_SOLUTIONS"))
        if not (always or known.passed) and (left := ATTEMPTS - known.attempts) > 0:
            more = "one more attempt" if left == 1 else f"{left} more attempts"
            hints = f"Its hints are check.{self.name}.hint(1) to hint({len(self.hints)})."
            return Note(f"The solution is shown after a pass, or {more}", hints)
        return Note(f"One solution of check.{self.name}", self.solution_source, code=True)

    def behaviours(self) -> list[tuple[str, Test]]:
        """Return the text and the test of each behaviour, in the order of the source."""
        found: dict[str, Test] = {}
        for cls in reversed(type(self).__mro__):
            found |= {k: v for k, v in vars(cls).items() if hasattr(v, "behaviour")}
        return [(getattr(test, "behaviour", ""), test) for test in found.values()]

    def untouched(self, answer: Any) -> bool:
        """Tell whether `answer` is still the stub, or has an empty body.

        Args:
            answer: as for a call.

        Returns:
            Whether it is.
        """
        if isinstance(answer, (tuple, list)):
            return ... in answer
        mine = _fingerprint(answer)
        if mine is None:
            return False
        return mine in (_fingerprint(self.made_of(self.stub)), *EMPTY)

    def made_of(self, source: str) -> Any:
        """Run `source` and return what it defines under the exercise's name.

        Args:
            source: Python.

        Returns:
            What is defined there.
        """
        names: dict[str, Any] = {"__name__": "answer"}
        exec(compile(source, "<answer>", "exec"), names)
        return names[self.answer_name]

    def refuse(self, answer: Any) -> tuple[str, str, str] | None:
        """Say what is expected, what came and what to do, if `answer` is of the wrong kind.

        Args:
            answer: as for a call.

        Returns:
            The three; None if it is of the right kind.
        """
        if inspect.iscoroutine(answer):
            answer.close()
            call = f"check.{self.name}({self.answer_name})"
            hint = f"Pass the function itself, without calling it: {call}"
            return "a function", "a coroutine", hint
        if self.kind == "value":
            return None
        if not callable(answer):
            hint = f"Pass the {self.kind} itself: check.{self.name}({self.answer_name})"
            return f"a {self.kind}", shown(answer), hint
        wants_async = self.kind in ("async function", "handler")
        is_async = inspect.iscoroutinefunction(answer) or inspect.iscoroutinefunction(
            getattr(answer, "__call__", None)  # noqa: B004 - the method is wanted
        )
        if wants_async and inspect.isasyncgenfunction(answer):
            hint = "yield makes a generator of it. To answer a client, await connection.send(...)."
            return f"an {self.kind}", "an async generator", hint
        if wants_async and not is_async and not inspect.isclass(answer):
            hint = "It has to wait for the network, so it is an async function: write async def."
            return "an async function", "a plain function", hint
        if self.kind == "generator" and not inspect.isgeneratorfunction(answer):
            hint = "A function becomes a generator by yield: yield one delay, then the next."
            return "a generator function", "a function without yield", hint
        if self.kind == "function" and is_async:
            return "a plain function", "an async function", "It waits for nothing: write def."
        return None


class HandlerExercise(Exercise):
    """An exercise whose answer is a handler for `websockets.serve`."""

    kind = "handler"


def _fingerprint(thing: Any) -> Any:
    """What a function or class does, without names of variables, docstrings and line numbers."""
    if isinstance(thing, type):
        methods = {k: _fingerprint(v) for k, v in vars(thing).items() if callable(v)}
        return sorted(methods.items(), key=lambda item: item[0])
    code = getattr(thing, "__code__", None)
    return _code(code) if isinstance(code, types.CodeType) else None


def _code(code: types.CodeType) -> Any:
    steps = []
    for step in dis.get_instructions(code):
        # Where `import time` stands in the same unit, as in a file and not in a notebook, which
        # compiles each statement by itself, `time.sleep` is no method, and jumps are shorter.
        if step.opname == "PUSH_NULL":
            continue
        name = "LOAD_ATTR" if step.opname == "LOAD_METHOD" else step.opname
        value = None if step.opcode in JUMPS else step.argval
        steps.append((name, _code(value) if isinstance(value, types.CodeType) else value))
    return (bool(code.co_flags & inspect.CO_COROUTINE), steps)


JUMPS = frozenset({*dis.hasjrel, *dis.hasjabs})


def _empty() -> None: ...


async def _empty_async() -> None: ...


EMPTY = (_fingerprint(_empty), _fingerprint(_empty_async))
"""What a function with nothing in it looks like."""
