"""The arithmetic of lesson 6: nodes, and who comes back when one dies."""

from __future__ import annotations

import math
from itertools import repeat
from typing import Any

import pytest

from wslessons.errors import UserError
from wslessons.scaling.plan import Assumptions, Plan, at_once, seeded, storm


def idle(**changes: Any) -> Assumptions:
    """A million people who say nothing, 1 KiB each, on nodes of 1 MiB that may be filled."""
    numbers: dict[str, Any] = {
        "says_per_minute": 0,
        "memory_per_person": 1024,
        "node_memory": 2**20,
        "headroom": 0,
    }
    return Assumptions(**(numbers | changes))


def test_silent_people_cost_memory_alone() -> None:
    """1,024 people fit on a node, so a million take 977 nodes."""
    plan = Plan(idle())
    assert (plan.nodes, plan.bound_by, plan.cpu) == (977, "memory", 0)
    assert plan.memory <= 2**20


def test_headroom_is_kept() -> None:
    """Half of each node free takes twice the nodes."""
    assert Plan(idle(headroom=0.5)).nodes == 1954


def test_busy_people_cost_deliveries_and_the_bus() -> None:
    """6,000 people in rooms of 11, 100 messages a second: 1,000 deliveries of 1 ms, and the bus."""
    plan = Plan(
        Assumptions(
            people=6000,
            room_size=11,
            cpu_per_delivery=1e-3,
            cpu_per_bus_event=5e-3,
            headroom=0.25,
        )
    )
    # Half of each core goes to the bus, so a quarter is left for 1 core of deliveries.
    assert plan.given.deliveries == 1000
    assert (plan.nodes, plan.bound_by) == (4, "CPU")
    assert plan.cpu == pytest.approx(0.75)
    assert plan.broker_messages == 400
    assert plan.broker_bytes == 400 * 250


def test_no_number_of_nodes_helps_where_each_reads_too_much() -> None:
    """Every node reads everything: what fills one fills all, until the rooms are sharded."""
    numbers: dict[str, Any] = {"cpu_per_bus_event": 100e-6, "cpu_per_delivery": 10e-6}
    plan = Plan(Assumptions(**numbers))
    assert (plan.nodes, plan.bound_by) == (math.inf, "the bus")
    assert ("nodes", "no number is enough") in list(plan.rows())
    assert Plan(Assumptions(**numbers, shards=8)).nodes < 100


def test_each_shard_has_a_node() -> None:
    """A group of no servers would serve nobody."""
    plan = Plan(Assumptions(people=10, shards=4))
    assert (plan.nodes, plan.bound_by) == (4, "shards")


def test_survivors_share_the_lost_people() -> None:
    """Of 977 nodes one dies: everyone else takes 1/976 of its people."""
    plan = Plan(idle())
    assert plan.comeback() == pytest.approx(plan.people_per_node / 976)
    for lost in (0, 977):
        with pytest.raises(UserError, match="survivor"):
            plan.comeback(lost)


def test_deployment_goes_at_the_pace_of_joins() -> None:
    """976 nodes that give a tenth of 2,500 joins a second take a million people in 4.1 s."""
    assert Plan(idle()).deployment() == pytest.approx(1_000_000 / (976 * 250))
    with pytest.raises(UserError, match="nowhere"):
        Plan(Assumptions(people=1)).deployment()
    with pytest.raises(UserError, match="share"):
        Plan(idle()).deployment(0)


@pytest.mark.parametrize("changes", [{"people": 0}, {"headroom": 1}, {"says_per_minute": -1}])
def test_impossible_assumptions_are_refused(changes: dict[str, Any]) -> None:
    """In one sentence."""
    with pytest.raises(UserError):
        Assumptions(**changes)


def test_storm_without_dice_is_one_wave() -> None:
    """All knock in the first tenth of a second, and are served in order."""
    wave = storm(1000, 500, at_once)
    assert (wave.peak, wave.over, wave.wasted, wave.outside) == (1000, 2.0, 0, 0)
    assert sum(wave.joined.values()) == 1000


def test_jitter_spreads_the_wave() -> None:
    """Our client's delays reach over two seconds at first; alike in each run."""
    wave = storm(1000, 5000, seeded())
    assert wave.peak < 100
    assert wave.over <= 2.0
    assert wave == storm(1000, 5000, seeded())


def test_work_for_those_who_gave_up_is_wasted() -> None:
    """30 at 1 a second with a timeout of 10 s: ten get in, and the rest are served for nothing."""
    wave = storm(30, 1, at_once, seconds=25)
    assert sum(wave.joined.values()) < 25
    assert wave.wasted > 0
    assert wave.outside + sum(wave.joined.values()) == 30
    assert wave.over == math.inf


def test_a_server_that_is_fast_enough_wastes_nothing() -> None:
    """Who is served within their timeout never comes twice."""
    wave = storm(1000, 100, lambda: repeat(0.5), timeout=10.5)
    assert (wave.wasted, sum(wave.attempts.values()), wave.outside) == (0, 1000, 0)


def test_refusing_early_wastes_nothing() -> None:
    """Whoever is let into the queue is served in time, and the rest come again."""
    wave = storm(200, 10, lambda: repeat(3.0), limit=50)
    assert (wave.wasted, wave.outside) == (0, 0)
    assert wave.refused == sum(wave.attempts.values()) - 200
    assert wave.over < 25 < storm(200, 10, lambda: repeat(3.0)).over


def test_a_storm_of_nobody_is_over_at_once() -> None:
    """And a server that takes nobody is refused."""
    assert storm(0, 10, at_once).over == 0
    with pytest.raises(UserError):
        storm(1, 0, at_once)
