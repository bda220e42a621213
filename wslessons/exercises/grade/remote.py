"""A trial whose answer lives in a student's kernel; clients and expectations live here."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from wslessons.exercises.exercise import Exercise
from wslessons.exercises.isolation import Isolation
from wslessons.exercises.trial import TIMEOUT, Mismatch, Nothing, Trial

__all__ = ["KernelTrial", "Lost"]

Ask = Callable[..., Awaitable[Any]]


class Lost(BaseException):
    """The kernel is gone or does not answer any more; no behaviour catches this."""


class KernelTrial(Trial):
    """The world of one behaviour, half of it in a kernel.

    Args:
        exercise: what is judged.
        ask: sends the agent a request and returns its answer.
        fence: a record, filled with what the agent has seen.
    """

    def __init__(self, exercise: Exercise, ask: Ask, fence: Isolation) -> None:
        super().__init__(None, fence)
        self.exercise = exercise
        self.ask = ask
        self.found: tuple[str, str] | None = None
        self.closed = False

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        await self._ask("open", self.exercise.name)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The clients and our own servers go first: a handler that listens then ends by itself.
        await super().__aexit__(kind, error, trace)
        if isinstance(error, Lost):
            return
        seen = await self._ask("close", self.exercise.name)
        self.closed = True
        fence, found = self.isolation, seen["diagnosis"]
        self.found = (str(found[0]), str(found[1])) if found else None
        fence.left += [str(name) for name in seen["left"]]
        fence.immortal += [str(name) for name in seen["immortal"]]
        fence.blocked, fence.ended_loop = str(seen["blocked"] or ""), bool(seen["ended_loop"])

    async def serve(self, **options: Any) -> str:
        """Serve the answer in its kernel, and return the URL."""
        return await self._do("serve", **options)

    async def serve_small(self) -> str:
        """Serve it there with little room per connection."""
        return await self._do("serve_small")

    async def stage(self, name: str) -> Any:
        """Serve it there in a stage."""
        return await self._do("stage", name)

    async def call(
        self,
        *args: Any,
        timeout: float = TIMEOUT,
        hint: str = "It waits for ever: for what?",
        endless: asyncio.Event | None = None,
    ) -> Any:
        """Call it there, and return the result, or wait for it until the timeout."""
        return await self._do("call", *args, timeout=timeout, hint=hint)

    async def take(self, count: int, *args: Any) -> list[Any]:
        """Take items of what it yields there."""
        return await self._do("take", count, *args)

    async def value(self) -> Any:
        """Return the value that it is there."""
        return await self._do("value")

    async def crashed(self, kind: type[Exception]) -> bool:
        """Tell whether it has raised an error of that kind, and forget it."""
        found = await super().crashed(kind)
        if found:
            await self._ask("forget")
        return found

    async def diagnosis(self, exercise: Exercise) -> tuple[str, str] | None:
        """Say what the agent has seen that explains a missing answer."""
        if not self.closed:
            found = await self._ask("diagnosis", exercise.name)
            self.found = (str(found[0]), str(found[1])) if found else None
        return self.found

    async def turns(self) -> None:
        """Give it some turns of the kernel's loop."""
        await self._ask("turns")

    async def _do(self, method: str, *args: Any, **options: Any) -> Any:
        return await self._ask("do", method, list(args), options)

    async def _ask(self, *request: Any) -> Any:
        answer = await self.ask(*request)
        match answer:
            case ("value", value):
                return value
            case ("mismatch", expected, why, code, reason, hint, raised):
                self._raised(raised)
                raise Mismatch(str(expected), Nothing(str(why), code, str(reason)), str(hint))
            case ("error", what, raised):
                self._raised(raised)
                raise Mismatch("a result", Nothing(f"an exception: {what}"), "")
        raise Lost

    def _raised(self, names: list[str]) -> None:
        """Keep errors of the kinds that the agent has named, as far as they are Python's own."""
        for name in names:
            kind = getattr(builtins, str(name), None)
            if isinstance(kind, type) and issubclass(kind, Exception):
                self.isolation.crashes.append(kind())
                return
        if names:
            self.isolation.crashes.append(Exception())
