"""The one timer for many: who is called when, and that one of them can't hurt the others."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref

import pytest

from wslessons.heartbeat.pacer import MOST_ENDED, Pacer
from wslessons.testing.virtual import run


class Item:
    """Something that is due every `period` seconds, and notes when it was called."""

    def __init__(self, period: float, *, slack: float = 0.0, fails: bool = False) -> None:
        self.period, self.slack, self.fails = period, slack, fails
        self.ended = False
        self.called: list[float] = []
        self.late: list[float] = []

    def tick(self, now: float, late: float) -> float | None:
        """Note it."""
        self.called.append(now)
        self.late.append(late)
        if self.fails:
            raise RuntimeError("as ordered")
        return now - late + self.period


def timers() -> int:
    """How many timers the running loop has."""
    scheduled = asyncio.get_running_loop()._scheduled  # ty: ignore[missing-attribute]
    return len([handle for handle in scheduled if not handle.cancelled()])


def test_each_is_called_when_it_is_due_and_all_share_one_timer():
    """Three with different periods are each called in time, and the loop has a single timer."""

    async def main() -> None:
        pacer = Pacer()
        items = [Item(3), Item(5), Item(7)]
        for item in items:
            pacer.add(item, item.period)
        assert timers() == 1
        await asyncio.sleep(15.5)
        assert [len(item.called) for item in items] == [5, 3, 2]
        assert items[0].called == pytest.approx([3, 6, 9, 12, 15])
        assert (len(pacer), timers()) == (3, 1)

    run(main())


def test_those_with_slack_are_served_in_one_go_and_never_late():
    """Ten that are due within the slack of each other are called at the same moment, early."""

    async def main() -> None:
        pacer = Pacer()
        items = [Item(100, slack=0.5) for _ in range(10)]
        for number, item in enumerate(items):
            pacer.add(item, 1 + number / 25)
        await asyncio.sleep(2)
        assert {call for item in items for call in item.called} == {1.0}
        assert all(-0.5 <= late <= 0 for item in items for late in item.late)

    run(main())


def test_one_that_raises_stops_alone(caplog: pytest.LogCaptureFixture):
    """It is logged and not called again; the others go on."""

    async def main() -> None:
        pacer = Pacer()
        bad, good = Item(1, fails=True), Item(1)
        pacer.add(bad, 1)
        pacer.add(good, 1)
        await asyncio.sleep(3.5)
        assert (len(bad.called), len(good.called)) == (1, 3)
        assert len(pacer) == 1
        bad.ended = True
        pacer.forget()
        assert len(pacer) == 1

    with caplog.at_level(logging.ERROR):
        run(main())
    assert "served no more" in caplog.text


def test_those_that_ended_are_forgotten_before_they_are_due():
    """The heap does not keep what has ended until its time comes, which may be far."""

    async def main() -> None:
        pacer = Pacer()
        items = [Item(1e6) for _ in range(3 * MOST_ENDED)]
        for item in items:
            pacer.add(item, item.period)
        for number, item in enumerate(items, 1):
            item.ended = True
            pacer.forget()
            assert len(pacer) == len(items) - number
        assert len(pacer._heap) < MOST_ENDED
        await asyncio.sleep(2e6)
        assert (len(pacer), len(pacer._heap), timers()) == (0, 0, 0)
        assert [item.called for item in items] == [[]] * len(items)

    run(main())


async def test_every_loop_has_a_pacer_of_its_own():
    """Asked twice on one loop it is the same, and on another loop it is another."""
    mine = Pacer.for_running_loop()
    assert Pacer.for_running_loop() is mine

    async def other() -> None:
        assert Pacer.for_running_loop() is not mine

    async with asyncio.timeout(50):
        await asyncio.to_thread(run, other())


def test_a_loop_that_is_over_is_not_kept_alive():
    """Neither the loop nor what is still in its heap outlives the loop, run after run."""
    alive: list[weakref.ref[object]] = []

    async def main() -> None:
        item = Item(1e6)
        pacer = Pacer.for_running_loop()
        pacer.add(item, item.period)
        alive.extend(map(weakref.ref, (asyncio.get_running_loop(), pacer, item)))

    for _ in range(3):
        asyncio.run(main())
    gc.collect()
    assert len(alive) == 9
    assert [ref() for ref in alive] == [None] * 9


def test_a_pacer_lives_as_long_as_there_is_something_to_serve():
    """Though nobody but the loop's timer holds it, what was added goes on being called."""

    async def main() -> None:
        item = Item(1)
        Pacer.for_running_loop().add(item, 1)
        gc.collect()
        await asyncio.sleep(3.5)
        gc.collect()
        assert (len(item.called), len(Pacer.for_running_loop())) == (3, 1)

    run(main())
