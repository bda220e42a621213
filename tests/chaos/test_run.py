"""Chaos, played: servers over a real broker, people who talk, and everything that breaks."""

from __future__ import annotations

import pytest

from wslessons.chaos.run import run


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("bus", "seed"), [("redis?stream=chat", 49), ("nats", 19)])
async def test_every_promise_is_kept_while_everything_breaks(bus: str, seed: int):
    """People hear all, once, in one order, or are told; and nobody is left behind."""
    report = await run(seconds=9, seed=seed, bus=bus, servers=2, people=32, every=0.6)
    assert report.findings == []
    assert len({step.kind for step in report.steps}) > 10
    assert report.heard > report.acknowledged > report.unconfirmed
    assert report.connections > report.people
