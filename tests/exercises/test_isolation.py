"""Hostile handlers: each one ends in a verdict, and the loop and everybody else on it live on."""

from __future__ import annotations

import asyncio
import signal
import threading
import time

import pytest
import websockets

from wslessons.exercises import check
from wslessons.exercises.isolation import Isolation
from wslessons.exercises.verdict import State, Verdict

# What is hostile here is the point.
# ruff: noqa: ASYNC251, E722, RUF006, SIM105


async def checked(handler) -> Verdict:
    """Check `handler` while another server of the same loop serves its own client."""

    async def echo(connection):
        async for message in connection:
            await connection.send(message)

    async with (
        asyncio.timeout(50),
        websockets.serve(echo, "127.0.0.1", 0) as server,
        websockets.connect(
            f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", proxy=None
        ) as client,
    ):
        tasks = asyncio.all_tasks()
        verdict = await check.shout(handler)
        await client.send("still there?")
        assert await client.recv() == "still there?"
        assert asyncio.all_tasks() <= tasks
    return verdict


def said(verdict: Verdict, word: str) -> bool:
    """Whether any line of the verdict has `word` in what came or in its hint."""
    return any(word in line.got + line.hint for line in verdict.lines)


async def test_hangs():
    """A handler that waits for ever is told so, and is ended."""

    async def shout(connection):
        await asyncio.sleep(3600)

    verdict = await checked(shout)
    assert verdict.state is State.FAIL
    assert said(verdict, "nothing so far, and nothing is on its way")
    assert said(verdict, "still running: a handler whose client had gone")


@pytest.mark.parametrize("catches", [False, True])
async def test_blocks_the_loop(catches: bool):
    """A blocked loop is freed, also from code that catches everything, and the line is named."""

    async def shout(connection):
        while True:
            try:
                time.sleep(3600)
            except:
                if not catches:
                    raise

    began = time.monotonic()
    verdict = await checked(shout)
    assert verdict.state is State.FAIL
    assert said(verdict, "held the event loop for 2 s in shout")
    assert said(verdict, "time.sleep(3600)")
    assert verdict.lines[1].state is State.NOT_RUN
    assert time.monotonic() - began < 30


async def test_an_alarm_that_ends_no_wait_comes_again(monkeypatch: pytest.MonkeyPatch):
    """One that comes right before a wait begins is seen only after it; here that is each first."""
    setitimer = signal.setitimer

    def lose(which: int, seconds: float, interval: float = 0.0) -> tuple[float, float]:
        return setitimer(which, seconds + interval if interval else 0, interval)

    async def shout(connection):
        time.sleep(8)

    monkeypatch.setattr(signal, "setitimer", lose)
    assert said(await checked(shout), "held the event loop for 2 s in shout")


async def test_computes_without_end():
    """A loop without any await is interrupted, too."""

    async def shout(connection):
        while True:
            pass

    assert said(await checked(shout), "held the event loop for 2 s in shout")


async def test_floods():
    """Messages without end, written faster than anybody reads."""

    async def shout(connection):
        while True:
            await connection.send("x")

    assert (await checked(shout)).state is State.FAIL


async def test_leaks_tasks():
    """A task that is left running is named and ended."""

    async def shout(connection):
        async def forever():
            await asyncio.sleep(3600)

        asyncio.create_task(forever())
        async for message in connection:
            await connection.send(message.upper() if isinstance(message, str) else message)

    verdict = await checked(shout)
    assert [line.state for line in verdict.lines] == [State.PASS] * 3 + [State.FAIL]
    assert said(verdict, "forever")


async def test_raises():
    """The learner's own lines of the traceback, and no line of ours."""

    async def shout(connection):
        def helper(message):
            return message / 0

        async for message in connection:
            await connection.send(helper(message))

    verdict = await checked(shout)
    got = verdict.lines[0].got
    assert got.startswith("your code raised TypeError: unsupported operand")
    assert "in shout, line" in got
    assert "in helper, line" in got
    assert "isolation.py" not in repr(verdict)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
async def test_ends_the_program(error: type[BaseException]):
    """What would end the kernel ends the handler only."""

    async def shout(connection):
        raise error

    assert (await checked(shout)).state is State.FAIL


async def test_a_task_ends_the_program():
    """The same from a task that the handler has started."""

    async def shout(connection):
        async def leave():
            raise SystemExit

        asyncio.create_task(leave())
        await connection.wait_closed()

    assert said(await checked(shout), "SystemExit")


async def test_prints_without_end(capsys: pytest.CaptureFixture[str]):
    """Output is cut, and the handler passes all the same."""

    async def shout(connection):
        async for message in connection:
            for number in range(1000):
                print("line", number)
            await connection.send(message.upper() if isinstance(message, str) else message)

    assert (await checked(shout)).passed
    out = capsys.readouterr().out
    assert "what it prints beyond is left out" in out
    assert len(out) < 5000


@pytest.mark.parametrize("method", ["stop", "close"])
async def test_ends_the_loop(method: str):
    """The loop is not a handler's to end."""

    async def shout(connection):
        getattr(asyncio.get_running_loop(), method)()

    assert said(await checked(shout), "not yours to end")
    assert method not in vars(asyncio.get_running_loop())


async def test_starts_another_loop():
    """`asyncio.run` in a handler is told apart from other errors."""

    async def shout(connection):
        asyncio.run(asyncio.sleep(0))

    assert said(await checked(shout), "just await")


async def test_shadows_names():
    """Names that the learner's module redefines are not those of the check."""
    names = {"__name__": "answer"}
    code = """
str = int = len = isinstance = print = asyncio = websockets = check = None

async def shout(connection):
    async for message in connection:
        await connection.send(message.upper() if type(message) is not bytes else message)
"""
    exec(code.replace("bytes", "type(b'')"), names)
    assert (await checked(names["shout"])).passed


async def test_forgets_an_await():
    """A coroutine that nobody awaits is named, quickly."""

    async def shout(connection):
        async for message in connection:
            connection.send(message.upper())

    assert said(await checked(shout), "send was called and never awaited")


async def test_ignores_being_cancelled():
    """What can't be ended is named, and the other behaviours are not run."""
    release = asyncio.Event()

    async def shout(connection):
        while not release.is_set():
            try:
                await release.wait()
            except BaseException:
                pass

    async with asyncio.timeout(50):
        verdict = await check.shout(shout)
    release.set()
    assert said(verdict, "ignores being cancelled")
    assert verdict.lines[1].state is State.NOT_RUN
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("thing", "word"),
    [
        ("shout", "Pass the handler itself"),
        (lambda connection: connection.send("x"), "write async def"),
        (42, "Pass the handler itself"),
    ],
)
async def test_other_things_than_handlers(thing, word: str):
    """What is no handler is said to be none."""
    assert said(await check.shout(thing), word)


async def test_a_handler_that_was_called():
    """A coroutine is named as the mistake it is, and leaves no warning."""

    async def shout(connection):
        await connection.send("")

    assert said(await check.shout(shout(None)), "without calling it")


@pytest.mark.parametrize("nothing", [None, ...])
async def test_nothing_to_check(nothing):
    """A missing answer is not attempted, and what to pass is said."""
    verdict = await check.shout(nothing)
    assert verdict.state is State.NOT_ATTEMPTED
    assert "await check.shout(shout)" in repr(verdict)


async def test_two_checks_at_once_take_turns():
    """Each of them has the fence for itself."""

    async def shout(connection):
        async for message in connection:
            await connection.send(message.upper() if isinstance(message, str) else message)

    verdicts = await asyncio.gather(check.shout(shout), check.shout(shout))
    assert [verdict.passed for verdict in verdicts] == [True, True]


async def test_work_in_a_thread_comes_back():
    """With what it has raised; what would end the process is a plain error."""

    def leave() -> None:
        raise SystemExit

    def divide() -> None:
        raise ZeroDivisionError

    async with Isolation() as isolation:
        await isolation.elsewhere(lambda: None)
        with pytest.raises(ZeroDivisionError):
            await isolation.elsewhere(divide)
        with pytest.raises(RuntimeError, match="SystemExit"):
            await isolation.elsewhere(leave)


async def test_work_in_a_thread_that_holds_it_is_named_and_ended():
    """By the learner's line; the loop goes on, and the thread ends."""
    threads = set(threading.enumerate())

    def spin() -> None:
        while True:
            pass

    async with asyncio.timeout(30), Isolation(blocked_after=0.2) as isolation:
        with pytest.raises(RuntimeError, match="held its event loop"):
            await isolation.elsewhere(spin)
        assert "in spin, line " in isolation.blocked
    for thread in set(threading.enumerate()) - threads:
        await asyncio.to_thread(thread.join, 20)
        assert not thread.is_alive()


async def test_everything_is_put_back():
    """What the fence changes of the loop and the system is as before, a timer included."""
    import signal
    import sys

    loop = asyncio.get_running_loop()

    def state():
        names = loop.get_task_factory(), loop.get_exception_handler(), sys.stdout, sys.stderr
        return *names, signal.getsignal(signal.SIGALRM), dict(vars(loop)).get("stop")

    before, timer = state(), signal.getitimer(signal.ITIMER_REAL)[0]
    async with Isolation():
        assert state() != before
    assert state() == before
    assert (signal.getitimer(signal.ITIMER_REAL)[0] > 0) == (timer > 0)


async def test_a_verdict_can_be_read_without_a_notebook():
    """Plain text without a number that changes, and HTML in which the learner's text is escaped."""

    async def shout(connection):
        async for _ in connection:
            await connection.send("<script>")

    verdict = await check.shout(shout)
    bundle = verdict._repr_mimebundle_()
    assert bundle["text/plain"] == repr(verdict)
    assert "&lt;script&gt;" in bundle["text/html"]
    assert "<script>" not in bundle["text/html"]
    assert repr(verdict) == repr(await check.shout(shout))
