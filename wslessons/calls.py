"""Questions and answers over one WebSocket, from either end to the other, any number at a time.

    async def add(a: int, b: int) -> int:
        return a + b

    async def handler(connection):  # the server: `websockets.serve(handler, ...)`
        async with Calls(connection, add=add) as calls:
            await calls.wait_closed()

    async with connect(url) as connection, Calls(connection) as calls:
        print(await calls.ask("add", a=1, b=2))

A WebSocket carries messages and knows nothing of which answers which. So each question has an id,
and its answer repeats it; answers come in any order. Who no longer waits, since time is up or its
task was cancelled, says so, and the other end stops working on it.

One JSON object a message, told apart by ``type``:

| type | members | meaning |
|---|---|---|
| `ask` | `id`, `name`, `params` | a question |
| `answer` | `id`, `result` | its answer |
| `failed` | `id`, `code`, `text` | why there is none: `unknown`, `invalid`, `busy`, `failed` |
| `cancel` | `id` | nobody waits for it any more |

Not handled here: a connection that comes back. What was asked may have been done, or not; only the
one who asks can know whether it may be repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, Self

import msgspec
from websockets import ConnectionClosed

from wslessons.serving import start_task

__all__ = ["CallFailed", "Calls"]

logger = logging.getLogger(__name__)

MOST = 64
"""Questions of the other end that are worked on at a time."""


class Ask(msgspec.Struct, tag="ask"):
    """A question."""

    id: str
    name: str
    params: dict[str, Any] = {}


class Answer(msgspec.Struct, tag="answer"):
    """An answer."""

    id: str
    result: Any = None


class Failed(msgspec.Struct, tag="failed"):
    """Why there is no answer."""

    id: str
    code: str
    text: str = ""


class Cancel(msgspec.Struct, tag="cancel"):
    """Nobody waits for the answer any more."""

    id: str


Part = Ask | Answer | Failed | Cancel
_decoder: msgspec.json.Decoder[Part] = msgspec.json.Decoder(Part)
_encode = msgspec.json.Encoder().encode


class Socket(Protocol):
    """A WebSocket of `websockets`, client's or server's."""

    async def recv(self) -> str | bytes:
        """Return the next message."""
        ...

    async def send(self, message: str, /) -> None:
        """Send a text message."""
        ...

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Complete the closing handshake."""
        ...


class CallFailed(Exception):
    """The other end did not answer a question.

    Args:
        code: one word for programs: `unknown`, `invalid`, `busy` or `failed`.
        text: a sentence.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text or code)
        self.code = code


class Calls:
    """One end of a connection over which both may ask; an async context manager.

    It alone receives from the connection; others may send what is no JSON object of ours only if
    the other end knows what to do with it.

    Args:
        connection: one whose opening handshake is done.
        most: questions of the other end that are worked on at a time; more are refused.
        answers: what answers the questions, asynchronous functions by name.
    """

    def __init__(
        self, connection: Socket, *, most: int = MOST, **answers: Callable[..., Awaitable[Any]]
    ) -> None:
        self._connection = connection
        self._most = most
        self._answers = answers
        self._ids = map(str, itertools.count(1))
        self._asked: dict[str, asyncio.Future[Any]] = {}
        self._working: dict[str | tuple[str, str], asyncio.Task[None]] = {}
        self._reader: asyncio.Task[None] | None = None
        self._end: ConnectionClosed | None = None

    async def __aenter__(self) -> Self:
        self._reader = asyncio.create_task(self._read(), name="calls")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._reader is not None
        self._reader.cancel()
        await asyncio.wait([self._reader])

    async def wait_closed(self) -> None:
        """Wait until the connection has ended."""
        if self._reader is not None:
            await asyncio.wait([self._reader])

    async def ask(self, name: str, *, seconds: float | None = 10, **params: Any) -> Any:
        """Ask the other end, and wait for the answer.

        Args:
            name: that of the function which answers there.
            seconds: how long to wait; None for as long as the connection lasts.
            params: its arguments; what JSON can hold.

        Returns:
            What the function returned.

        Raises:
            CallFailed: there is no answer; its `code` says why.
            TimeoutError: none came in time; the other end is told to stop.
            ConnectionClosed: the connection ended first; it may have been done, or not.
            RuntimeError: the `async with` block has not begun.
        """
        if self._reader is None:
            raise RuntimeError("enter it first: async with Calls(connection) as calls")
        if self._end is not None:
            raise self._end
        id = next(self._ids)
        future = self._asked[id] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(seconds):
                await self._send(Ask(id, name, params))
                return await future
        except (TimeoutError, asyncio.CancelledError):
            if self._end is None:
                # In a task of its own: whoever cancelled us does not wait.
                self._work(("cancel", id), self._give_up(id))
            raise
        finally:
            del self._asked[id]

    async def _give_up(self, id: str) -> None:
        with contextlib.suppress(ConnectionClosed):
            await self._send(Cancel(id))

    async def _read(self) -> None:
        try:
            while True:
                data = await self._connection.recv()
                try:
                    part = _decoder.decode(data)
                except (msgspec.DecodeError, RecursionError) as exc:
                    await self._connection.close(1007, f"not a question or answer: {exc}"[:120])
                    continue
                await self._take(part)
        except ConnectionClosed as exc:
            self._end = exc
        finally:
            for future in self._asked.values():
                if not future.done():
                    future.set_exception(self._end) if self._end else future.cancel()
            working = list(self._working.values())
            for task in working:
                task.cancel()
            if working:
                await asyncio.wait(working)

    async def _take(self, part: Part) -> None:
        match part:
            case Ask(id=id) if id in self._working:
                await self._send(Failed(id, "invalid", "this id is in use"))
            case Ask(id=id) if len(self._working) >= self._most:
                await self._send(Failed(id, "busy", f"{self._most} questions are worked on"))
            case Ask(id=id):
                self._work(id, self._answer(part))
            case Cancel(id=id):
                if (task := self._working.get(id)) is not None:
                    task.cancel()
            case Answer(id=id) | Failed(id=id):
                future = self._asked.get(id)
                if future is None or future.done():
                    return  # nobody waits for it any more
                if isinstance(part, Answer):
                    future.set_result(part.result)
                else:
                    future.set_exception(CallFailed(part.code, part.text))

    def _work(self, id: str | tuple[str, str], work: Coroutine[Any, Any, None]) -> None:
        task = self._working[id] = start_task(work, "answering a call")
        task.add_done_callback(lambda _: self._working.pop(id, None))

    async def _answer(self, ask: Ask) -> None:
        """Work on a question of the other end, and answer it."""
        function = self._answers.get(ask.name)
        if function is None:
            known = ", ".join(sorted(self._answers)) or "none"
            reply: Part = Failed(ask.id, "unknown", f"there is no {ask.name!r}; there are: {known}")
        else:
            reply = await self._call(function, ask)
        with contextlib.suppress(ConnectionClosed):
            await self._send(reply)

    @staticmethod
    async def _call(function: Callable[..., Awaitable[Any]], ask: Ask) -> Part:
        try:
            inspect.signature(function).bind(**ask.params)
        except TypeError as exc:
            return Failed(ask.id, "invalid", f"{ask.name}: {exc}")
        try:
            return Answer(ask.id, await function(**ask.params))
        except CallFailed as exc:
            return Failed(ask.id, exc.code, str(exc))
        except Exception:
            logger.exception("%s failed", ask.name)
            return Failed(ask.id, "failed", f"{ask.name} failed there: its log says why")

    async def _send(self, part: Part) -> None:
        try:
            data = _encode(part)
        except (TypeError, ValueError, msgspec.MsgspecError) as exc:
            if not isinstance(part, Answer):
                raise
            data = _encode(Failed(part.id, "failed", f"the answer is nothing JSON can hold: {exc}"))
        await self._connection.send(data.decode())
