"""Tasks that run a client of a broker, and their ends, which clients do not always leave clean."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from wslessons.errors import UserError

__all__ = ["Unreachable", "apart", "end", "first_to_end", "let_go"]

logger = logging.getLogger(__name__)


class Unreachable(Exception):
    """The broker can't be reached now; the text says why. It may be later."""


async def apart(work: Coroutine[Any, Any, object], seconds: float | None = None) -> None:
    """Run `work` in a task of its own. Raises `UserError`, and for all else `Unreachable`.

    A client's call can end with a cancellation that nobody asked for, or with an error that it does
    not document. Inside our own task the one would end it, in silence, and so would the other.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait([task], timeout=seconds)
    finally:
        await end(task)
    if task.cancelled():
        raise Unreachable("it does not answer in time")
    error = task.exception()
    if isinstance(error, UserError | Unreachable):
        raise error
    if error is not None:
        logger.debug("unexpected", exc_info=error)
        raise Unreachable(f"{type(error).__name__}: {error}") from error


async def let_go(*closing: Callable[[], Coroutine[Any, Any, object]], seconds: float = 0.5) -> None:
    """Call what closes a client, for so many seconds each at most, whatever it says."""
    for close in closing:
        with contextlib.suppress(Unreachable):
            await apart(close(), seconds)


async def first_to_end(*coroutines: Coroutine[Any, Any, object]) -> None:
    """Run coroutines until one of them ends or raises, and end the others."""
    tasks = [asyncio.create_task(each) for each in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await end(*tasks)


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks until they have ended, and take note of their errors.

    Until: a client may turn a cancellation that meets a closing connection into an error of its
    own, and whoever catches that goes on.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.1)
    for task in tasks:
        if not task.cancelled():
            task.exception()
