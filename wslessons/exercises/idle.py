"""Wait for something, but no longer than it can still come.

    async with idle.timeout(3):
        await connection.recv()     # TimeoutError after 3 s, or as soon as nothing can come

A check's world is closed: what the learner wrote, the clients and our own servers live on one loop.
When nothing is ready to run there, no socket has anything to read, no timer is due before the
deadline and no thread works for the loop, then nothing will ever come. That is certain long before
the time is over, on a slow machine as on a fast one.

And no shorter than what is waited for had a chance to come: seconds for which the machine had no
time for us do not count, so that a right answer is not too slow where others keep it busy.

Not handled here: a world that is open, with a server in another process, or with buffers so
small that the kernel itself waits before it goes on. Set `open` then, and every
timeout is waited for to its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import AsyncGenerator, Collection, Generator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["CLOSE", "MOST", "Idle", "aside", "starved"]

aside: ContextVar[bool] = ContextVar("aside", default=False)
"""Set in the context of what only passes the time, such as a ticker: nothing comes of it."""

LOOKS = 6
"""Looks in a row that find nothing, until it is certain: the kernel takes a moment to deliver."""

CLOSE = 0.05
"""Seconds before a deadline in which a wait counts as over, and not as cut short."""

MOST = 10
"""Times its seconds that a limit may last, however busy the machine is."""


def starved(who: str = "thread-self") -> float:
    """Return for how many seconds of its life a thread could have run, and had no processor.

    Args:
        who: a folder of ``/proc``: a process's number, for its first thread, or ``self/task/7``.

    Returns:
        The seconds; 0.0 where the system does not tell. Linux does.

    Source: Linux, Documentation/scheduler/sched-stats.rst.
    """
    try:
        return int(Path(f"/proc/{who}/schedstat").read_bytes().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


@dataclass
class _Limit:
    """One limit: when it is over, the last moment for that, and the seconds lost until now."""

    timer: asyncio.TimerHandle
    latest: float
    lost: float


class Idle:
    """Knows whether anything can still happen on a loop, and ends what waits for it in vain.

    Somebody calls `glance` and then `look` at regular intervals, each by `loop.call_soon`, in two
    turns of the loop that follow each other, and with no timer pending.
    """

    def __init__(self) -> None:
        self.open = False
        """Whether something may come from outside this loop."""
        self.workers = {"thread-self"}
        """Whose time is waited for, as `starved` knows them."""
        self._limits: dict[asyncio.Timeout, _Limit] = {}
        self._early: set[asyncio.Timeout] = set()
        """The limits that are over as soon as nothing can come."""
        self._turns: set[asyncio.Future[None]] = set()
        self._looked = False
        self._still = 0
        self._timers: set[int] = set()
        self._working: set[asyncio.Future[Any]] = set()
        self._threads: set[threading.Thread] = set()
        self._busy = False

    @contextlib.contextmanager
    def watching(self, loop: asyncio.AbstractEventLoop) -> Generator[None]:
        """Count what other threads do for `loop` while the block runs.

        Args:
            loop: the one that is watched.
        """
        self._threads = set(threading.enumerate())
        run = loop.run_in_executor

        def run_in_executor(*args: Any) -> Any:
            future = run(*args)
            self._working.add(future)
            future.add_done_callback(self._working.discard)
            return future

        try:
            loop.run_in_executor = run_in_executor  # ty: ignore[invalid-assignment]
        except AttributeError:  # a loop in C has no room for attributes
            self.open = True
        try:
            yield
        finally:
            getattr(loop, "__dict__", {}).pop("run_in_executor", None)

    def glance(self, loop: asyncio.AbstractEventLoop) -> None:
        """See whether anything is ready: the selector has just been asked.

        Args:
            loop: the one that is watched.
        """
        self._busy = any(map(_counts, getattr(loop, "_ready", ())))

    def look(self, loop: asyncio.AbstractEventLoop) -> None:
        """See whether anything is going on, and end the waiting that is in vain.

        What a socket has to say is among the callbacks that are ready, in this turn or in the one
        of `glance`: what was sent in that turn can be read in this one.

        Args:
            loop: the one that is watched.
        """
        internals: Any = loop
        self._looked = not self.open and hasattr(loop, "_ready") and hasattr(loop, "_scheduled")
        if not self._looked:
            return
        ready, scheduled = internals._ready, internals._scheduled
        timers = {id(each): each.when() for each in scheduled if _counts(each)}
        # A thread of its own may call back at any time; one that waits for work may not.
        threads = bool(self._working) or bool(set(threading.enumerate()) - self._threads)
        ours = {self._limits[scope].timer.when() for scope in self._early}
        others = {each for each, when in timers.items() if when not in ours}
        quiet = (
            not any(map(_counts, ready))
            and not self._busy
            and not threads
            and others == self._timers
        )
        self._timers = others
        self._still = self._still + 1 if quiet else 0
        if not quiet:
            for turn in self._turns:
                if not turn.done():
                    turn.set_result(None)
        if self._still < LOOKS:
            return
        due = min(timers.values(), default=math.inf)
        for scope in list(self._early):
            if self._limits[scope].timer.when() <= due and not scope.expired():
                self._early.discard(scope)
                scope.reschedule(loop.time())

    @contextlib.asynccontextmanager
    async def limit(self, seconds: float) -> AsyncGenerator[asyncio.Timeout]:
        """As `asyncio.timeout`, not counting the time for which the `workers` had no processor.

        Args:
            seconds: the most to wait; on a busy machine at most `MOST` times as many.

        Yields:
            The timeout.

        Raises:
            TimeoutError: what the block waits for did not come.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(None) as scope:
            timer = loop.call_later(seconds, self._over, scope)
            self._limits[scope] = _Limit(timer, loop.time() + MOST * seconds, self._lost())
            try:
                yield scope
            finally:
                self._limits.pop(scope).timer.cancel()

    def _over(self, scope: asyncio.Timeout) -> None:
        """End a limit, or give it the time that it has lost."""
        loop, limit = asyncio.get_running_loop(), self._limits[scope]
        before, limit.lost = limit.lost, self._lost()
        owed = min(limit.lost - before, limit.latest - loop.time())
        if owed > CLOSE:
            limit.timer = loop.call_later(owed, self._over, scope)
        elif not scope.expired():
            scope.reschedule(loop.time())

    def _lost(self) -> float:
        return sum(map(starved, self.workers))

    @contextlib.asynccontextmanager
    async def timeout(self, seconds: float) -> AsyncGenerator[asyncio.Timeout]:
        """As `limit`, and over as soon as nothing can happen within those seconds.

        Args:
            seconds: the most to wait, as for `limit`.

        Yields:
            The timeout.

        Raises:
            TimeoutError: what the block waits for did not come.
        """
        async with self.limit(seconds) as scope:
            self._early.add(scope)
            self._still = 0
            try:
                yield scope
            finally:
                self._early.discard(scope)

    async def stirs(self, seconds: float) -> bool:
        """Wait until something happens on the loop, or those seconds are over.

        Args:
            seconds: the most to wait.

        Returns:
            False only if it is certain that nothing can happen in that time any more; something
            may have happened in the meantime.
        """
        if self._looked:
            loop = asyncio.get_running_loop()
            turn, end = loop.create_future(), loop.time() + seconds
            self._turns.add(turn)
            try:
                async with self.timeout(seconds):
                    await turn
            except TimeoutError:
                return loop.time() >= end - CLOSE
            finally:
                self._turns.discard(turn)
        else:
            await asyncio.sleep(min(seconds, 0.05))
        return True

    async def wait(
        self,
        futures: Collection[asyncio.Future[Any]],
        seconds: float,
        return_when: str = asyncio.ALL_COMPLETED,
    ) -> None:
        """Wait for `futures` as `asyncio.wait` does, but not in vain.

        Args:
            futures: what is waited for.
            seconds: the most to wait.
            return_when: as for `asyncio.wait`.
        """
        if futures:
            with contextlib.suppress(TimeoutError):
                async with self.timeout(seconds):
                    await asyncio.wait(futures, return_when=return_when)


def _counts(handle: Any) -> bool:
    """Tell whether something may come of a callback that is ready or scheduled."""
    return not handle.cancelled() and not handle._context.get(aside, False)
