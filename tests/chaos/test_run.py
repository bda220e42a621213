"""Chaos, played: servers over a real broker, people who talk, and everything that breaks."""

from __future__ import annotations

import pytest

from wslessons.chaos.run import run
from wslessons.chaos.world import World
from wslessons.errors import UserError
from wslessons.scaling.brokers import kafka
from wslessons.scaling.cluster import ClusterServer
from wslessons.scaling.cluster.server import Config, Stats


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("bus", "seed"), [("redis?stream=chat", 49), ("nats", 19)])
async def test_every_promise_is_kept_while_everything_breaks(bus: str, seed: int):
    """People hear all, once, in one order, or are told; and nobody is left behind."""
    report = await run(seconds=9, seed=seed, bus=bus, servers=2, people=32, every=0.6)
    assert report.findings == []
    assert len({step.kind for step in report.steps}) > 10
    assert report.heard > report.acknowledged > report.unconfirmed
    assert report.connections > report.people


async def test_a_server_that_is_killed_while_others_answer_holds_nothing():
    """What is measured then is not this process, which holds all that people have heard."""

    class Killed(ClusterServer):
        async def stats(self, timeout: float = 0) -> Stats:
            return Stats(0, 5, 0, 0, 0, None, 0, 0, 0, "connected", "")

    world = World("nats", 1, 1)
    config = Config("memory:", "127.0.0.1", 0, 1, {}, b"", None, 0, (1, 1))
    world.servers = [Killed(1, config)]
    assert await world.usage() == {}


KILLED = ("kill broker", "freeze broker", "cut link")


@pytest.mark.timeout(300)
@pytest.mark.skipif(not kafka.find(), reason="there is no real Kafka")
async def test_every_promise_is_kept_over_a_kafka_that_is_killed_and_frozen():
    """One node, with its data: nobody hears anything twice, and what is acknowledged is heard."""
    report = await run(seconds=7, seed=8, bus="kafka", servers=2, people=16, every=3, kinds=KILLED)
    assert report.findings == []
    assert {step.kind for step in report.steps} == {"kill broker", "freeze broker"}
    assert report.acknowledged > 0


async def test_chaos_needs_a_real_kafka(monkeypatch: pytest.MonkeyPatch):
    """The emulator forgets everything when it is killed, and comes back elsewhere."""
    monkeypatch.setattr(kafka, "find", lambda: None)
    with pytest.raises(UserError, match=r"chaos needs a real Kafka.*wslessons\.scaling\.brokers"):
        await run(seconds=1, seed=1, bus="kafka")
    with pytest.raises(UserError, match="can't break 'memory'"):
        await run(seconds=1, seed=1, bus="memory")
