"""Wait for something, but no longer than it can still come.

    async with idle.timeout(3):
        await connection.recv()     # TimeoutError after 3 s, or as soon as nothing can come

A check's world is closed: what the learner wrote, the clients and our own servers live on one loop.
When nothing is ready to run there, no socket has anything to read, no timer is due before the
deadline and no thread works for the loop, then nothing will ever come. That is certain long before
the time is over, on a slow machine as on a fast one.

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
from typing import Any

__all__ = ["CLOSE", "Idle", "aside"]

aside: ContextVar[bool] = ContextVar("aside", default=False)
"""Set in the context of what only passes the time, such as a ticker: nothing comes of it."""

LOOKS = 6
"""Looks in a row that find nothing, until it is certain: the kernel takes a moment to deliver."""


CLOSE = 0.05
"""Seconds before a deadline in which a wait counts as over, and not as cut short."""


class Idle:
    """Knows whether anything can still happen on a loop, and ends what waits for it in vain.

    Somebody calls `glance` and then `look` at regular intervals, each by `loop.call_soon`, in two
    turns of the loop that follow each other, and with no timer pending.
    """

    def __init__(self) -> None:
        self.open = False
        """Whether something may come from outside this loop."""
        self._scopes: dict[asyncio.Timeout, float] = {}
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
        ours = set(self._scopes.values())
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
        for scope, end in list(self._scopes.items()):
            if end <= due and not scope.expired():
                del self._scopes[scope]
                scope.reschedule(loop.time())

    @contextlib.asynccontextmanager
    async def timeout(self, seconds: float) -> AsyncGenerator[asyncio.Timeout]:
        """As `asyncio.timeout`, and over as soon as nothing can happen within those seconds.

        Args:
            seconds: the most to wait.

        Yields:
            The timeout.

        Raises:
            TimeoutError: what the block waits for did not come.
        """
        async with asyncio.timeout(seconds) as scope:
            self._scopes[scope] = scope.when() or 0.0
            self._still = 0
            try:
                yield scope
            finally:
                self._scopes.pop(scope, None)

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
