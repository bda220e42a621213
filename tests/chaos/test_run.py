"""Chaos, played: servers over a real broker, people who talk, and everything that breaks."""

from __future__ import annotations

import pytest

from wslessons.chaos import run


@pytest.mark.timeout(300)
async def test_every_promise_is_kept_while_everything_breaks():
    """People over a log hear all, once, in one order, or are told; and nobody is left behind."""
    report = await run(seconds=12, seed=1, bus="redis?stream=chat", servers=2, people=24, every=1.0)
    assert report.findings == []
    assert len({step.kind for step in report.steps}) > 5
    assert report.heard > report.acknowledged > report.unconfirmed
    assert report.connections > report.people
