"""A trial whose answer lives in a student's kernel; clients and expectations live here.

Grader and agent send each other one Python literal per line, whose reading executes nothing.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from wslessons.exercises.exercise import Exercise
from wslessons.exercises.isolation import Isolation
from wslessons.exercises.trial import TIMEOUT, Mismatch, Nothing, Salted, Trial

__all__ = ["LIMIT", "KernelTrial", "Lost", "read", "write"]

Ask = Callable[..., Awaitable[Any]]
LIMIT = 2**26
"""Bytes that one line may have: the largest arguments are 26 MB of text."""
SALTED = "a salted text"


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


async def read(reader: asyncio.StreamReader) -> Any:
    """Read one value; None when the other side is gone.

    Args:
        reader: of the connection.

    Returns:
        The value.

    Raises:
        ValueError: the line is no literal, or longer than `LIMIT`.
    """
    line = await reader.readline()
    if not line.endswith(b"\n"):
        return None
    try:
        return _plain(ast.literal_eval(line.decode()))
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError("what the agent says can't be read") from error


def write(writer: asyncio.StreamWriter, value: Any) -> None:
    """Write one value; what is no literal goes as its `repr`.

    Args:
        writer: of the connection.
        value: to be sent.
    """
    writer.write(repr(_literal(value)).encode("utf-8", "backslashreplace") + b"\n")


def _literal(value: Any) -> Any:
    if type(value) is Salted:
        return {SALTED: (str(value), value.salt)}
    if isinstance(value, (list, tuple, set, frozenset)):
        parts = [_literal(part) for part in value]
        return parts if isinstance(value, list) else tuple(parts)
    if isinstance(value, dict):
        return {_literal(key): _literal(part) for key, part in value.items()}
    if value is None or value is ... or type(value) in (bool, str, bytes):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        # inf and nan are no literals.
        return float(value) if value - value == 0 else repr(value)
    return _repr(value)


def _repr(value: Any) -> str:
    try:
        return repr(value)[:200]
    except Exception as error:
        return f"something whose repr raises {type(error).__name__}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {SALTED}:
        return Salted(*value[SALTED])
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(part) for part in value)
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return value
