"""Things that run in the kernel under a name, one at a time: a server, a cluster, a panel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Generic, TypeVar

__all__ = ["Names"]

T = TypeVar("T")
S = TypeVar("S")


class Names(Generic[T]):
    """What runs under which name; running a cell again replaces what it has started before.

    Args:
        stop: ends one of them for good. If it is cancelled, the thing keeps its name, so that the
            next attempt ends it.
    """

    def __init__(self, stop: Callable[[T], Awaitable[None]]) -> None:
        self._stop = stop
        self._running: dict[str, Any] = {}
        self._turns: dict[str, asyncio.Lock] = {}

    async def replace(self, name: str, start: Callable[[], Awaitable[S]]) -> S:
        """Stop what has this name, then start another in its place; one at a time for each name.

        Args:
            name: what it is called.
            start: starts it, a kind of `T`. What it raises is raised here; the old one is gone by
                then, since both may want one port.
        """
        async with self._turns.setdefault(name, asyncio.Lock()):
            if (old := self._running.get(name)) is not None:
                await self._stop(old)
                self._running.pop(name, None)
            self._running[name] = started = await start()
        return started

    def get(self, name: str) -> T | None:
        """Return what runs under `name`, or None."""
        return self._running.get(name)

    def forget(self, name: str, thing: T) -> None:
        """Let `name` be free, if `thing` has it: it has ended by itself."""
        if self._running.get(name) is thing:
            del self._running[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._running)

    def values(self) -> list[T]:
        """List what runs, oldest first."""
        return list(self._running.values())
