"""Questions and answers over one WebSocket: in any order, from both ends, bounded."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest
from websockets import ConnectionClosed, ServerConnection, connect

from wslessons import serving
from wslessons.calls import CallFailed, Calls


class Bench:
    """A server that answers, and what it has seen."""

    def __init__(self) -> None:
        self.gates: dict[str, asyncio.Event] = {}
        self.cancelled: list[str] = []
        self.began = asyncio.Event()
        self.calls: Calls | None = None

    async def add(self, a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    async def wait(self, gate: str) -> str:
        """Wait until the gate is opened."""
        self.began.set()
        try:
            await self.gates.setdefault(gate, asyncio.Event()).wait()
        except asyncio.CancelledError:
            self.cancelled.append(gate)
            raise
        return gate

    async def fail(self) -> None:
        """Fail, as a function with a fault does."""
        raise RuntimeError("a fault")

    async def refuse(self) -> None:
        """Refuse, with a word of its own."""
        raise CallFailed("closed", "come back tomorrow")

    async def strange(self) -> object:
        """Return what JSON can't hold."""
        return object()


@contextlib.asynccontextmanager
async def running(most: int = 64) -> AsyncGenerator[tuple[Bench, str]]:
    """Serve a bench inside a timeout."""
    bench = Bench()

    async def handler(connection: ServerConnection) -> None:
        answers: dict[str, Callable[..., Awaitable[Any]]] = {
            name: getattr(bench, name) for name in ("add", "wait", "fail", "refuse", "strange")
        }
        async with Calls(connection, most=most, **answers) as bench.calls:
            await bench.calls.wait_closed()

    async with asyncio.timeout(30), serving.serve(handler) as server:
        yield bench, serving.urls(server)[0]


@contextlib.asynccontextmanager
async def asking(url: str, **answers: Any) -> AsyncGenerator[Calls]:
    """Connect, and ask."""
    async with connect(url, proxy=None) as connection, Calls(connection, **answers) as calls:
        yield calls


async def test_answers_find_their_questions_in_any_order() -> None:
    """A slow question holds up no other one."""
    async with running() as (bench, url), asking(url) as calls, asyncio.TaskGroup() as tasks:
        slow = [tasks.create_task(calls.ask("wait", gate=str(n))) for n in range(5)]
        assert await asyncio.gather(*(calls.ask("add", a=n, b=1) for n in range(50))) == [
            n + 1 for n in range(50)
        ]
        for n in reversed(range(5)):
            bench.gates[str(n)].set()
            assert await slow[n] == str(n)


async def test_both_ends_may_ask() -> None:
    """The server asks its client, while the client asks the server."""

    async def name() -> str:
        return "ann"

    async with running() as (bench, url), asking(url, name=name) as calls:
        assert await calls.ask("add", a=1, b=2) == 3
        assert bench.calls is not None
        assert await bench.calls.ask("name") == "ann"


@pytest.mark.parametrize(
    ("name", "params", "code", "words"),
    [
        ("nothing", {}, "unknown", "there is no 'nothing'; there are: add, fail"),
        ("add", {"a": 1}, "invalid", "add: missing a required argument: 'b'"),
        ("add", {"a": 1, "b": 2, "c": 3}, "invalid", "unexpected keyword argument 'c'"),
        ("fail", {}, "failed", "fail failed there: its log says why"),
        ("refuse", {}, "closed", "come back tomorrow"),
        ("strange", {}, "failed", "nothing JSON can hold"),
    ],
)
async def test_what_has_no_answer_says_why(
    name: str, params: dict[str, Any], code: str, words: str
) -> None:
    """And the connection goes on; what went wrong inside stays inside."""
    async with running() as (_, url), asking(url) as calls:
        with pytest.raises(CallFailed, match=words) as failed:
            await calls.ask(name, **params)
        assert failed.value.code == code
        assert await calls.ask("add", a=2, b=2) == 4


async def test_who_no_longer_waits_says_so() -> None:
    """By a time limit or a cancelled task: the other end stops working on it."""
    async with running() as (bench, url), asking(url) as calls:
        with pytest.raises(TimeoutError):
            await calls.ask("wait", gate="late", seconds=0.05)
        task = asyncio.create_task(calls.ask("wait", gate="cancelled"))
        while "cancelled" not in bench.gates:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        task.cancel()
        while len(bench.cancelled) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert sorted(bench.cancelled) == ["cancelled", "late"]
        assert await calls.ask("add", a=1, b=1) == 2


async def test_too_many_at_a_time_are_refused() -> None:
    """A flood of questions takes no memory without bound."""
    async with running(most=3) as (bench, url), asking(url) as calls, asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(calls.ask("wait", gate=str(n))) for n in range(3)]
        while len(bench.gates) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        with pytest.raises(CallFailed, match="3 questions are worked on"):
            await calls.ask("add", a=1, b=1)
        for gate in bench.gates.values():
            gate.set()
        assert await asyncio.gather(*waiting) == ["0", "1", "2"]
        assert await calls.ask("add", a=1, b=1) == 2


async def test_the_end_of_the_connection_ends_all_questions() -> None:
    """At both ends: who asked is told, and what was worked on stops."""
    async with running() as (bench, url), connect(url, proxy=None) as connection:
        async with Calls(connection) as calls:
            asked = asyncio.create_task(calls.ask("wait", gate="x", seconds=None))
            await bench.began.wait()
            await connection.close()
            with pytest.raises(ConnectionClosed):
                await asked
            with pytest.raises(ConnectionClosed):
                await calls.ask("add", a=1, b=1)
        while bench.cancelled != ["x"]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_leaving_the_block_ends_what_is_worked_on() -> None:
    """No task is left behind, and the connection is still the caller's."""
    async with running() as (_, url), connect(url, proxy=None) as connection:
        async with Calls(connection) as calls:
            asked = asyncio.create_task(calls.ask("wait", gate="x"))
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await asked
        await connection.ping()


@pytest.mark.parametrize("message", ["hi", b"\xff", '{"type": "ask"}', "[" * 100_000])
async def test_what_is_no_question_ends_the_connection(message: str | bytes) -> None:
    """With 1007, and the server goes on."""
    async with running() as (_, url):
        async with connect(url, proxy=None) as connection:
            await connection.send(message)
            with pytest.raises(ConnectionClosed) as closed:
                await connection.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1007
        async with connect(url, proxy=None) as connection:
            for id, name in (("1", "wait"), ("1", "add")):
                params = {"gate": "x"} if name == "wait" else {}
                await connection.send(
                    json.dumps({"type": "ask", "id": id, "name": name, "params": params})
                )
            assert json.loads(await connection.recv())["text"] == "this id is in use"


async def test_asking_outside_the_block() -> None:
    """It would wait for ever for somebody to read the answer."""
    async with running() as (_, url), connect(url, proxy=None) as connection:
        with pytest.raises(RuntimeError, match="enter it first"):
            await Calls(connection).ask("add", a=1, b=1)
