"""Waiting that ends as soon as nothing can come, and never before."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator

import pytest

from wslessons.exercises import check, trial
from wslessons.exercises import idle as idle_module
from wslessons.exercises.exercise import Exercise
from wslessons.exercises.idle import Idle, aside, starved
from wslessons.exercises.isolation import Isolation
from wslessons.exercises.verdict import State

LONG = 50.0
"""Seconds that no test here may last: what ends earlier has not waited for them."""


@pytest.fixture
async def idle() -> AsyncIterator[Idle]:
    """One that is looked at by a fence, as in a check."""
    async with Isolation() as isolation:
        yield isolation.idle


async def test_what_cannot_come_is_not_waited_for(idle: Idle):
    """Nobody sets this future: that is known long before the time is over."""
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with idle.timeout(LONG):
            await asyncio.get_running_loop().create_future()
    assert time.monotonic() - began < LONG / 2


async def test_an_event_that_nobody_sets_after_a_timer_that_sets_none(idle: Idle):
    """A timer that is due in time is waited for, and then nothing is left."""
    began = time.monotonic()
    timer = asyncio.create_task(asyncio.sleep(1))
    with pytest.raises(TimeoutError):
        async with idle.timeout(LONG):
            await asyncio.Event().wait()
    assert timer.done()
    assert 1 <= time.monotonic() - began < LONG


@pytest.mark.parametrize("way", ["timer", "thread of the loop", "thread", "socket"])
async def test_what_is_on_its_way_is_waited_for(idle: Idle, way: str):
    """However late it comes, within the time."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[str] = loop.create_future()

    def come() -> None:
        time.sleep(1)
        loop.call_soon_threadsafe(future.set_result, "here")

    here, there = socket.socketpair()
    with here, there, contextlib.ExitStack() as stack:
        if way == "timer":
            loop.call_later(1, future.set_result, "here")
        elif way == "thread of the loop":
            loop.run_in_executor(None, come)
        elif way == "thread":
            threading.Thread(target=come).start()
        else:
            # What is read slowly, piece by piece, is never silent for long.
            def read() -> None:
                if there.recv(1) == b".":
                    future.set_result("here")
                else:
                    loop.call_soon(here.send, b"." if loop.time() - began > 1 else b"x")

            began = loop.time()
            there.setblocking(False)
            loop.add_reader(there, read)
            stack.callback(loop.remove_reader, there)
            here.send(b"x")
        async with idle.timeout(LONG):
            assert await future == "here"


async def test_the_time_is_over_all_the_same(idle: Idle):
    """Where something goes on for ever, the whole timeout is waited."""

    async def forever() -> None:
        for _ in itertools.count():
            await asyncio.sleep(0.02)

    task = asyncio.create_task(forever())
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with idle.timeout(0.7):
            await asyncio.Event().wait()
    assert time.monotonic() - began >= 0.69
    task.cancel()


async def test_what_only_passes_the_time_does_not_count(idle: Idle):
    """A kernel's ticker brings nothing, and is not waited for."""
    context = contextvars.copy_context()
    context.run(aside.set, True)

    async def tick() -> None:
        for _ in itertools.count():
            await asyncio.sleep(0.02)

    task = asyncio.create_task(tick(), context=context)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with idle.timeout(LONG):
            await asyncio.Event().wait()
    assert time.monotonic() - began < LONG / 2
    task.cancel()


async def test_an_open_world_is_given_all_the_time(idle: Idle):
    """What another process may send can't be known here."""
    idle.open = True
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with idle.timeout(0.7):
            await asyncio.Event().wait()
    assert time.monotonic() - began >= 0.69


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has no time for us for nine seconds of ten, and limits that feel it."""
    monkeypatch.setattr(idle_module, "starved", lambda who: 0.9 * time.monotonic())
    monkeypatch.setattr(trial, "TIMEOUT", 0.3)
    monkeypatch.setattr(Exercise, "limit", 0.3)


async def test_a_right_answer_on_a_busy_machine_is_not_too_slow(
    busy: None, monkeypatch: pytest.MonkeyPatch
):
    """Each answer takes longer than its limit, and nearly all of that is other people's time."""
    monkeypatch.setattr(Exercise, "limit", 1.0)

    async def shout(connection):
        async for message in connection:
            await asyncio.sleep(0.35)
            await connection.send(message.upper() if isinstance(message, str) else message)

    verdict = await check.shout(shout)
    assert verdict.passed, verdict


async def test_a_hanging_answer_on_a_busy_machine_is_told_in_bounded_time(busy: None):
    """Also one that always has something going on; the verdict names the limit."""

    async def talk(url, lines):
        for _ in itertools.count():
            await asyncio.sleep(0.01)

    began = time.monotonic()
    verdict = await check.talk(talk)
    assert verdict.state is State.TIMED_OUT
    assert verdict.lines[0].got == "no end within 0.3 s"
    # Ten times each of the limits, and the ends of what was started.
    assert time.monotonic() - began < LONG / 2


def test_the_system_tells_for_how_long_it_had_no_time():
    """Two who want one processor: each of them waits for the other, and knows it."""
    if not starved():
        pytest.skip("this system does not tell")
    spin = "import sys\nwhile True: pass"
    before, cores = starved(), os.sched_getaffinity(0)
    rival = subprocess.Popen([sys.executable, "-c", spin])
    try:
        os.sched_setaffinity(0, {min(cores)})
        os.sched_setaffinity(rival.pid, {min(cores)})
        while starved() < before + 0.02:
            pass
    finally:
        os.sched_setaffinity(0, cores)
        rival.kill()
        rival.wait()


async def test_it_tells_whether_anything_happens(idle: Idle):
    """First a timer, then nothing more."""
    fired: list[int] = []
    asyncio.get_running_loop().call_later(0.5, fired.append, 1)
    while await idle.stirs(LONG):
        pass
    assert fired == [1]


async def test_wait_ends_with_the_futures_or_without(idle: Idle):
    """As `asyncio.wait`, but not in vain."""
    loop = asyncio.get_running_loop()
    done, never = loop.create_future(), loop.create_future()
    loop.call_later(0.1, done.set_result, None)
    await idle.wait([done], LONG)
    assert done.done()
    await idle.wait([done, never], LONG, asyncio.FIRST_COMPLETED)
    await idle.wait([done, never], LONG)
    assert not never.done()
    await idle.wait([], LONG)
