"""Run what a learner wrote on the loop that everything else lives on, and let nothing out of it.

    async with Isolation() as isolation:
        await isolation.guard(handler(connection))
    isolation.crashes, isolation.blocked, isolation.unawaited

Code under test raises, blocks the loop, leaks tasks, floods the output, calls `sys.exit` or stops
the loop. On a loop of its own, in a thread, it could do less harm; but a learner's handler shares
sets, servers and channels with the notebook's loop, and joining a thread would stop those. So it
runs here, and a context variable tells what is the learner's and what is not: tasks inherit it,
and even a signal handler sees whose step it has interrupted.

Not handled here: code that ends the process (`os._exit`), and a C function that never looks for
signals. `wslessons grade` runs each notebook in a process of its own for those.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import linecache
import signal
import sys
import sysconfig
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from contextvars import ContextVar, copy_context
from pathlib import Path
from types import FrameType
from typing import Any, Self

from websockets import ConnectionClosed

from wslessons.exercises.idle import Idle, starved

__all__ = ["Blocked", "Isolation", "NoFence", "own_lines"]

BLOCKED_AFTER = 2.0
"""Seconds for which a step of the learner's code may hold the loop."""
TICK = 0.05
"""Seconds between two signs of life of the loop."""
TRIES = 100
"""Milliseconds to wait for the learner's own line when a library's holds the loop."""
PRINTED = 1_000
"""Characters that the learner's code may print during a check."""

PATHS = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
PATHS.append(Path(__file__).parents[1])
# As they are and as they really are: a virtual environment's standard library is a link.
LIBRARIES = ("<frozen", *(str(path) for each in PATHS for path in (each, each.resolve())))

current: ContextVar[Isolation | None] = ContextVar("isolation", default=None)


class Blocked(BaseException):
    """Raised inside code that holds the loop, to get it out of there."""


def own_lines(error: BaseException) -> str:
    """Say what was raised, and name each line of the learner's that it went through.

    >>> own_lines(ValueError("no name"))
    'ValueError: no name'

    Args:
        error: what was raised.

    Returns:
        The error, and a line for each of the last three steps in the learner's code.
    """
    said = f"{type(error).__name__}: {error}".rstrip(": ")
    lines = []
    step = error.__traceback__
    while step is not None:
        frame = step.tb_frame
        if _is_learners(frame.f_code.co_filename):
            lines.append(_where(frame, step.tb_lineno))
        step = step.tb_next
    return "\n".join([said, *lines[-3:]])


def _is_learners(filename: str) -> bool:
    return not filename.startswith(LIBRARIES)


def _culprit(frame: FrameType) -> FrameType | None:
    """Find the learner's innermost frame in the step of the loop that `frame` belongs to."""
    step: FrameType | None = frame
    while step is not None:
        code = step.f_code
        if _is_learners(code.co_filename):
            return step
        if code.co_filename == __file__ or (
            code.co_name == "_run" and "asyncio" in code.co_filename
        ):
            return None
        step = step.f_back
    return None


def _where(frame: FrameType, number: int) -> str:
    line = linecache.getline(frame.f_code.co_filename, number, frame.f_globals).strip()
    return f"in {frame.f_code.co_name}, line {number}: {line}".rstrip(": ")


class Isolation:
    """A fence around the learner's code, for as long as its `async with` block runs.

    Args:
        blocked_after: seconds for which the learner's code may hold the loop; then `Blocked` is
            raised inside it (on systems with `signal.setitimer`, in the main thread).
    """

    def __init__(self, blocked_after: float = BLOCKED_AFTER) -> None:
        self.blocked_after = blocked_after
        self.crashes: list[BaseException] = []
        """What the learner's coroutines let out; an ended connection is not among them."""
        self.blocked = ""
        """Which line held the loop, if one did."""
        self.ended_loop = False
        """Whether the code tried to stop or close the loop."""
        self.left: list[str] = []
        """Coroutines that were still running when all should have ended."""
        self.immortal: list[str] = []
        """Those of them that ignored being cancelled."""
        self.idle = Idle()
        """What knows whether anything can still come."""
        self._tasks: list[tuple[asyncio.Task[Any], str]] = []
        self._stack = contextlib.ExitStack()
        self._strikes, self._raised = 0, False
        self._starved = 0.0
        self._written = 0
        self._ticking: asyncio.Handle | None = None
        self._alarms = False
        self._caught: Sequence[warnings.WarningMessage] = ()

    async def __aenter__(self) -> Self:
        self.loop = asyncio.get_running_loop()
        self._stack.enter_context(self.idle.watching(self.loop))
        parts = (self._watch, self._pulse, self._tend, self._forbid, self._warn, self._limit_output)
        for part in parts:
            self._stack.enter_context(part())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            await self.end()
        finally:
            self._stack.close()

    async def guard(self, learners: Awaitable[Any]) -> Any:
        """Await what the learner wrote; whatever gets out of it is kept in `crashes` and raised.

        Args:
            learners: a coroutine, or whatever else can be awaited.

        Returns:
            What it returned.

        Raises:
            Exception: what the code raised. `SystemExit`, `KeyboardInterrupt` and `Blocked`, which
                would end the loop or the check, come as `RuntimeError`.
        """
        with self.learners():
            return await learners

    @contextlib.contextmanager
    def learners(self) -> Generator[None]:
        """Mark what runs in this block as the learner's own, and keep what gets out of it."""
        token = current.set(self)
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit, ConnectionClosed):
            raise
        except Exception as error:
            self.crashes.append(error)
            raise
        except BaseException as error:
            self.crashes.append(error)
            raise RuntimeError(f"the code under test raised {type(error).__name__}") from error
        finally:
            # A generator that is closed from outside ends in another context.
            with contextlib.suppress(ValueError):
                current.reset(token)

    async def elsewhere(self, work: Callable[[], None]) -> None:
        """Run `work` in a thread, for what brings a loop of its own.

        One that takes longer than `blocked_after` seconds is told by its line, and interrupted
        between two steps of the interpreter: a thread that sleeps ends when it wakes up.

        Args:
            work: what to run; what it raises comes out of here.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def finish(error: BaseException | None) -> None:
            if not done.done():
                done.set_exception(error) if error else done.set_result(None)

        def body() -> None:
            error: BaseException | None = None
            try:
                work()
            except Exception as exc:
                error = exc
            except BaseException as exc:
                error = RuntimeError(f"the code under test raised {type(exc).__name__}")
            with contextlib.suppress(RuntimeError):  # a loop that was closed meanwhile
                loop.call_soon_threadsafe(finish, error)

        context = copy_context()
        # Not asyncio.to_thread, whose threads are waited for when the process ends.
        thread = threading.Thread(target=context.run, args=(body,), daemon=True)
        thread.start()
        try:
            self.idle.workers = {f"self/task/{thread.native_id}"}
            await self.idle.wait([done], self.blocked_after)
            if not done.done():
                frame = sys._current_frames().get(thread.ident or 0)
                culprit = None if frame is None else _culprit(frame)
                if culprit is not None:
                    self.blocked = _where(culprit, culprit.f_lineno)
                    raise RuntimeError("the code under test held its event loop")
            await done
        finally:
            self.idle.workers = {"thread-self"}
            if not done.done():
                ident = ctypes.c_ulong(thread.ident or 0)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(Blocked))
                done.cancel()

    async def end(self, grace: float = 3.0) -> None:
        """End every task that the learner's code has started, and note which ones had to be.

        Args:
            grace: seconds for them to end by themselves, and again once they are cancelled.
        """
        alive = await self._still_running(grace)
        self.left += [name for _, name in alive]
        for _ in range(3):
            for task, _ in alive:
                task.cancel()
            if not (alive := await self._still_running(grace / 3)):
                break
        self.immortal += [name for _, name in alive]
        for task, _ in self._tasks:
            # A private flag, but the only one that tells whether anybody has asked for it.
            if task.done() and not task.cancelled() and getattr(task, "_log_traceback", False):
                error = task.exception()
                if error is not None and not isinstance(error, ConnectionClosed):
                    cause = error.__cause__ if isinstance(error, RuntimeError) else None
                    self.crashes.append(cause or error)
        self._tasks.clear()

    async def _still_running(self, seconds: float) -> list[tuple[asyncio.Task[Any], str]]:
        await self.idle.wait([task for task, _ in self._tasks if not task.done()], seconds)
        return [(task, name) for task, name in self._tasks if not task.done()]

    # Who holds the loop

    @contextlib.contextmanager
    def _watch(self) -> Generator[None]:
        """Let a timer of the system go off unless the loop keeps winding it up."""
        main = threading.current_thread() is threading.main_thread()
        if not main or not hasattr(signal, "setitimer"):
            yield
            return
        began = time.monotonic()
        before = signal.signal(signal.SIGALRM, self._on_alarm)
        remaining, interval = _wind(self.blocked_after)
        self._alarms = True
        try:
            yield
        finally:
            self._alarms = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            if remaining:
                # Somebody else's timer, a test's time limit, say, goes on.
                remaining = max(remaining - (time.monotonic() - began), 0.001)
                signal.setitimer(signal.ITIMER_REAL, remaining, interval)

    @contextlib.contextmanager
    def _pulse(self) -> Generator[None]:
        """Give a sign of life at every tick, and look what else lives."""
        self._tick()
        try:
            yield
        finally:
            if self._ticking is not None:
                self._ticking.cancel()

    def _tick(self) -> None:
        if self._alarms:
            self._strikes, self._raised = 0, False
            self._starved = starved()
            _wind(self.blocked_after)
        self._ticking = self.loop.call_soon(self._glance)

    def _glance(self) -> None:
        self.idle.glance(self.loop)
        self._ticking = self.loop.call_soon(self._look)

    def _look(self) -> None:
        self.idle.look(self.loop)
        self._ticking = self.loop.call_later(TICK, self._tick)

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        before, self._starved = self._starved, starved()
        if (owed := self._starved - before) > TICK:
            # The step has not had its time yet: others have kept the machine busy.
            _wind(owed)
            return
        self._strikes += 1
        culprit = None if frame is None else _culprit(frame)
        if self._strikes == 1 or current.get() is not self or culprit is None:
            # Somebody else's step, or a machine that slept: the loop gets one more moment.
            _wind(4 * TICK)
            return
        if culprit is not frame and self._strikes < TRIES:
            # In the middle of a library's work, an exception could leave it half done.
            _wind(1e-3)
            return
        self.blocked = self.blocked or _where(culprit, culprit.f_lineno)
        # Code that catches everything swallows this one, too: the next comes so soon that it
        # meets the code between two attempts, where nothing catches it.
        _wind(1e-5 if self._raised else TICK)
        self._raised = True
        raise Blocked

    # What it starts

    @contextlib.contextmanager
    def _tend(self) -> Generator[None]:
        """Know each task that the learner's code starts, and let none of them end the loop."""
        before = self.loop.get_task_factory()

        def make(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
            build: Callable[..., Any] = before or _plain_task
            if current.get() is not self or not asyncio.iscoroutine(coro):
                return build(loop, coro, **options)
            name = getattr(coro, "__qualname__", "a coroutine")
            task: Any = build(loop, self._in_task(coro), **options)
            # Cancelled before its first step, it would be reported as never awaited.
            task.add_done_callback(lambda _: coro.close())
            self._tasks.append((task, name))
            return task

        handle = self.loop.get_exception_handler()
        self.loop.set_task_factory(make)
        self.loop.set_exception_handler(self._on_loop_error)
        self._handle = handle
        try:
            yield
        finally:
            self.loop.set_task_factory(before)
            self.loop.set_exception_handler(handle)

    async def _in_task(self, coro: Coroutine[Any, Any, Any]) -> Any:
        try:
            return await coro
        except (SystemExit, KeyboardInterrupt, Blocked) as error:
            raise RuntimeError(f"a task raised {type(error).__name__}") from error

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        mine = current.get() is self or context.get("future") in [t for t, _ in self._tasks]
        if mine and error is not None:
            self.crashes.append(error)
        elif self._handle is not None:
            self._handle(loop, context)
        else:
            loop.default_exception_handler(context)

    # What it must not do

    @contextlib.contextmanager
    def _forbid(self) -> Generator[None]:
        """Refuse to stop or close the loop, on which a notebook's servers live, too."""
        names = ("stop", "close")

        def refusing(method: Callable[[], Any]) -> Callable[[], Any]:
            def refuse() -> Any:
                if current.get() is not self:
                    return method()
                self.ended_loop = True
                raise RuntimeError("the event loop is not yours to end: just return")

            return refuse

        try:
            for name in names:
                setattr(self.loop, name, refusing(getattr(self.loop, name)))
        except AttributeError:  # a loop in C has no room for attributes
            pass
        try:
            yield
        finally:
            for name in names:
                getattr(self.loop, "__dict__", {}).pop(name, None)

    @contextlib.contextmanager
    def _warn(self) -> Generator[None]:
        """Collect the warnings about forgotten `await`s, and pass on all others."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self._caught = caught
            yield
        for warning in caught:
            if "was never awaited" not in str(warning.message):
                warnings.warn_explicit(
                    warning.message, warning.category, warning.filename, warning.lineno
                )

    @property
    def unawaited(self) -> list[str]:
        """Names of coroutines that were called and not awaited."""
        texts = [str(each.message) for each in self._caught]
        return [text.split("'")[1] for text in texts if "was never awaited" in text]

    @contextlib.contextmanager
    def _limit_output(self) -> Generator[None]:
        """Let the learner's code print, but not without end."""
        before = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = (_Limited(stream, self) for stream in before)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before

    def printable(self, text: str) -> str:
        """Cut `text` to what the learner's code may still print.

        Args:
            text: what it prints.

        Returns:
            As much of it as there is room for.
        """
        room = PRINTED - self._written
        self._written += len(text)
        if room <= 0:
            return ""
        return (
            text if len(text) <= room else text[:room] + "\n(what it prints beyond is left out)\n"
        )


class NoFence(Isolation):
    """A record like `Isolation`'s, filled by somebody else: the code runs in another process."""

    async def __aenter__(self) -> Self:
        return self

    async def end(self, grace: float = 3.0) -> None:
        """Do nothing: whoever runs the code ends it."""


class _Limited:
    """A stream that passes everything on, and of the learner's output no more than allowed."""

    def __init__(self, stream: Any, isolation: Isolation) -> None:
        self._stream = stream
        self._isolation = isolation

    def write(self, text: str) -> int:
        if current.get() is self._isolation:
            text = self._isolation.printable(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _wind(seconds: float) -> tuple[float, float]:
    """Let the alarm go off after so many seconds, and again and again; return what was set before.

    Again: one that comes right before a system call begins to wait does not end that wait, and
    Python looks for signals only after it.
    """
    return signal.setitimer(signal.ITIMER_REAL, seconds, 4 * TICK)


def _plain_task(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
    return asyncio.Task(coro, loop=loop, **options)
