"""What goes wrong when: drawn from a seed, so that the same seed gives the same schedule."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["COMMON", "KINDS", "Kind", "Step", "draw"]


class Kind(NamedTuple):
    """A kind of fault, and how it is drawn."""

    weight: float
    """How often it comes, compared with others."""
    shortest: float
    longest: float
    """Seconds until it is undone."""
    target: str
    """What it happens to: a server, a node of the broker or all of it, a link of people or one to
    the broker, or a person."""


KINDS = {
    "kill server": Kind(3, 0.2, 5, "server"),
    "stop server": Kind(2, 0.2, 4, "server"),
    "freeze server": Kind(3, 0.3, 7, "server"),
    "block loop": Kind(2, 0.3, 5, "server"),
    "kill broker": Kind(2, 0.2, 5, "node"),
    "freeze broker": Kind(2, 0.3, 6, "node"),
    "empty broker": Kind(0.5, 0, 0, "broker"),
    "fill broker": Kind(1, 1, 5, "broker"),
    "stall bus": Kind(2, 0.3, 6, "bus link"),
    "cut bus": Kind(3, 0, 3, "bus link"),
    "delay bus": Kind(2, 1, 8, "bus link"),
    "throttle bus": Kind(1, 1, 5, "bus link"),
    "stall link": Kind(3, 0.3, 8, "link"),
    "cut link": Kind(4, 0, 2, "link"),
    "close half of link": Kind(2, 0, 2, "link"),
    "delay link": Kind(3, 1, 8, "link"),
    "throttle link": Kind(2, 1, 6, "link"),
    "cut link after": Kind(2, 0.5, 4, "link"),
    "move link": Kind(2, 0, 0, "link"),
    "crowd": Kind(2, 1, 5, "link"),
    "slow reader": Kind(1, 2, 8, "link"),
    "flood": Kind(2, 0.5, 3, "person"),
    "restore broker": Kind(0.5, 6, 9, "broker"),
    "refuse entries": Kind(1, 1, 5, "broker"),
}
COMMON = [kind for kind in KINDS if kind != "refuse entries"]
"""Those that come unless others are asked for."""


class Step(NamedTuple):
    """A fault: what, to which one, from when and for how long, and how bad."""

    at: float
    """Seconds after the beginning."""
    kind: str
    which: float
    """From 0 to 1: which of its targets, whatever their number."""
    seconds: float
    """How long it lasts; it is over before the end."""
    strength: float
    """From 0 to 1."""

    def __str__(self) -> str:
        return f"{self.at:6.1f} s  {self.kind} ({self.which:.2f}) for {self.seconds:.1f} s"


def draw(
    seed: object, seconds: float, kinds: Iterable[str] = COMMON, *, every: float = 2.0
) -> list[Step]:
    """Draw a schedule.

    Args:
        seed: the same one gives the same schedule.
        seconds: how long it goes on.
        kinds: the faults that may happen, of `KINDS`.
        every: seconds between two faults, on average.

    Returns:
        The steps, in the order in which they begin.
    """
    rng = random.Random(f"{seed}")
    names = sorted(kinds)
    weights = [KINDS[name].weight for name in names]
    steps: list[Step] = []
    at = rng.expovariate(1 / every)
    while at < seconds:
        kind = rng.choices(names, weights)[0]
        length = rng.uniform(KINDS[kind].shortest, KINDS[kind].longest)
        which, strength = rng.random(), rng.random()
        steps.append(Step(at, kind, which, min(length, seconds - at), strength))
        at += rng.expovariate(1 / every)
    return steps
