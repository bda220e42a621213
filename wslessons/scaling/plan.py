"""How many servers a chat of many people takes, computed from what one thing costs.

    plan = Plan(Assumptions(people=1_000_000))
    plan.nodes, plan.bound_by

All rates are averages, and people, rooms and messages are spread evenly; `headroom` is what is left
for the rest. A node is one process of one core, since that is what an event loop uses.

Not handled here: the kernel's own memory for sockets, network cards, TLS, and the price.
"""

from __future__ import annotations

import math
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import repeat

from wslessons.client import full_jitter
from wslessons.errors import UserError

__all__ = ["Assumptions", "Plan", "Storm", "at_once", "seeded", "storm"]


@dataclass(frozen=True)
class Assumptions:
    """What a plan begins with. The unit costs are those of two cores on loopback, see the lesson.

    Raises:
        UserError: with these numbers there is nothing to compute.
    """

    people: float = 1_000_000
    room_size: float = 100
    says_per_minute: float = 1.0
    """Messages of one person."""
    shards: float = 1
    """Groups of servers, each with its share of the rooms and a subject of its own."""
    memory_per_person: float = 16 * 1024
    """Bytes of an open connection and its place in a room."""
    cpu_per_delivery: float = 9.4e-6
    """Core-seconds to write one message to one socket, where there is nothing to batch."""
    cpu_per_bus_event: float = 30e-6
    """Core-seconds to take one event from the bus."""
    event_bytes: float = 250
    """Bytes of one event on the bus."""
    joins_per_second: float = 2500.0
    """Connections that one core takes per second, from handshake to welcome."""
    node_memory: float = 4 * 2**30
    headroom: float = 0.5
    """The share of a node that is kept free."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name not in ("says_per_minute", "headroom") and value <= 0:
                raise UserError(f"{name}={value} is not possible: give a number above 0.")
        if self.says_per_minute < 0 or not 0 <= self.headroom < 1:
            raise UserError("says_per_minute is 0 or more, and headroom from 0 to below 1.")

    @property
    def said(self) -> float:
        """Messages per second, of all people together."""
        return self.people * self.says_per_minute / 60

    @property
    def deliveries(self) -> float:
        """Messages per second that are written to a socket: each goes to the rest of its room."""
        return self.said * (self.room_size - 1)


class Plan:
    """The nodes that the assumptions ask for, and what each of them does.

    >>> plan = Plan(Assumptions(people=100_000))
    >>> plan.nodes, plan.bound_by
    (4, 'CPU')

    Args:
        assumptions: what it begins with.
    """

    def __init__(self, assumptions: Assumptions) -> None:
        self.given = a = assumptions
        free = 1 - a.headroom
        self.bus_cpu = a.said / a.shards * a.cpu_per_bus_event
        """The part of each node's core that goes to the bus, however many nodes there are."""
        by_memory = math.ceil(a.people * a.memory_per_person / (a.node_memory * free))
        left = free - self.bus_cpu
        by_cpu = math.ceil(a.deliveries * a.cpu_per_delivery / left) if left > 0 else math.inf
        wanted = max(by_memory, by_cpu, 1)
        self.nodes: float = wanted if wanted == math.inf else max(wanted, a.shards)
        """How many nodes; infinite where the bus alone fills each of them."""
        self.bound_by = "memory" if by_memory > by_cpu else "CPU"
        """What makes it so many: memory, CPU, the bus, or the shards, each of which needs one."""
        if wanted == math.inf:
            self.bound_by = "the bus"
        elif wanted < a.shards:
            self.bound_by = "shards"

    @property
    def people_per_node(self) -> float:
        """Connections on one node."""
        return self.given.people / self.nodes

    @property
    def memory(self) -> float:
        """Bytes on one node."""
        return self.people_per_node * self.given.memory_per_person

    @property
    def cpu(self) -> float:
        """Busy cores on one node, of 1."""
        return self.bus_cpu + self.given.deliveries * self.given.cpu_per_delivery / self.nodes

    @property
    def broker_messages(self) -> float:
        """Messages per second that leave the broker: each goes to every node of its shard."""
        return self.given.said * self.nodes / self.given.shards

    @property
    def broker_bytes(self) -> float:
        """Bytes per second that leave the broker."""
        return self.broker_messages * self.given.event_bytes

    def comeback(self, lost: int = 1) -> float:
        """Return how many people each survivor must take when `lost` nodes die at once.

        Args:
            lost: how many nodes die.

        Returns:
            People for each of the others.

        Raises:
            UserError: nobody would survive.
        """
        if not 0 < lost < self.nodes:
            raise UserError(f"of {self.nodes} nodes, {lost} can't be lost and leave a survivor.")
        return lost * self.people_per_node / (self.nodes - lost)

    def deployment(self, share: float = 0.1) -> float:
        """Return the seconds to restart all nodes one after another, each one drained.

        Args:
            share: the part of the others' capacity for joins that may go to those who move, above
                0, up to 1.

        Returns:
            The seconds.

        Raises:
            UserError: the share is none, or there is one node only.
        """
        if not 0 < share <= 1:
            raise UserError(f"share={share} is not possible: give a part above 0, up to 1.")
        if self.nodes < 2:
            raise UserError("one node can't be drained: there is nowhere to go.")
        return self.given.people / ((self.nodes - 1) * self.given.joins_per_second * share)

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield what there is to say, as name and text."""
        yield "messages said per second", f"{self.given.said:,.0f}"
        yield "messages delivered per second", f"{self.given.deliveries:,.0f}"
        if self.nodes == math.inf:
            yield "nodes", "no number is enough"
            yield "bound by", self.bound_by
            yield "busy core of a node, for the bus alone", f"{self.bus_cpu:.2f}"
            return
        yield "nodes", f"{self.nodes:,}"
        yield "bound by", self.bound_by
        yield "people on a node", f"{self.people_per_node:,.0f}"
        yield "memory of a node", f"{self.memory / 2**20:,.0f} MiB"
        yield "busy core of a node", f"{self.cpu:.2f}"
        yield "of which for the bus", f"{self.bus_cpu:.2f}"
        yield "messages out of the broker per second", f"{self.broker_messages:,.0f}"
        yield "traffic out of the broker", f"{8 * self.broker_bytes / 1e6:,.0f} Mbit/s"


@dataclass(frozen=True)
class Storm:
    """What one server saw while many came back to it.

    Attributes:
        attempts: how many knocked, by tenth of a second.
        joined: how many got in, by tenth of a second.
        wasted: attempts that were served after their client had given up.
        outside: how many were not in at the end.
        refused: attempts that were turned away, for which the server did next to nothing.
    """

    attempts: Counter[int]
    joined: Counter[int]
    wasted: int
    outside: int
    refused: int

    @property
    def peak(self) -> int:
        """The most attempts in a tenth of a second."""
        return max(self.attempts.values(), default=0)

    @property
    def over(self) -> float:
        """The second after which everybody is in; infinite where somebody never is."""
        return math.inf if self.outside else (max(self.joined, default=-1) + 1) / 10


def storm(
    clients: int,
    joins_per_second: float,
    delays: Callable[[], Iterator[float]],
    *,
    timeout: float = 10.0,
    limit: float = math.inf,
    seconds: int = 300,
) -> Storm:
    """Simulate `clients` who lose their server at 0 and come to this one, which serves in order.

    A client waits for the first of its `delays`, knocks, gives up after `timeout` seconds in the
    queue, waits for the next, and so on. The server can't see that somebody gave up before it has
    served them: that work is wasted. While `limit` people wait it turns others away, who wait for
    their next delay. Ends after `seconds`, whoever is in by then.

    Args:
        clients: how many lose their server.
        joins_per_second: how many this one serves.
        delays: makes the delays of one client, in seconds, without end.
        timeout: seconds in the queue after which a client gives up.
        limit: how many may wait before others are turned away.
        seconds: after which the simulation ends.

    Returns:
        What the server saw.
    """
    if joins_per_second <= 0:
        raise UserError(
            f"joins_per_second={joins_per_second} is not possible: give a number above 0."
        )
    waits = [delays() for _ in range(clients)]
    coming = [(next(own), n) for n, own in enumerate(waits)]
    heapify(coming)
    queue: deque[tuple[float, int]] = deque()
    waiting: deque[tuple[float, int]] = deque()
    """The same attempts, to see who gives up; those who are in stay until their time is up."""
    outside, gave_up = set(range(clients)), set[tuple[float, int]]()
    attempts, joined = Counter[int](), Counter[int]()
    wasted, refused, budget = 0, 0, 0.0
    for tick in range(seconds * 10):
        now = (tick + 1) / 10
        while coming and coming[0][0] < now:
            moment, n = attempt = heappop(coming)
            attempts[tick] += 1
            if len(queue) >= limit:
                refused += 1
                heappush(coming, (max(now, moment + next(waits[n])), n))
                continue
            queue.append(attempt)
            waiting.append(attempt)
        while waiting and waiting[0][0] + timeout < now:
            moment, n = attempt = waiting.popleft()
            if n in outside:
                gave_up.add(attempt)
                heappush(coming, (max(now, moment + timeout + next(waits[n])), n))
        # What was not used is gone, but for the fraction of one that slow servers add up.
        budget = min(budget, 1) + joins_per_second / 10
        while queue and budget >= 1:
            budget -= 1
            if (attempt := queue.popleft()) in gave_up:
                wasted += 1
            else:
                joined[tick] += 1
                outside.discard(attempt[1])
        if not outside:
            break
    return Storm(attempts, joined, wasted, len(outside), refused)


def at_once() -> Iterator[float]:
    """Yield the delays of a client that comes back at once, each time."""
    yield from repeat(0.0)


def seeded(seed: int = 6455) -> Callable[[], Iterator[float]]:
    """Return the delays of our own client, with dice that fall alike in each run.

    Args:
        seed: the same one gives the same delays.

    Returns:
        What makes the delays of one client, for `storm`.
    """
    uniform = random.Random(seed).uniform
    return lambda: full_jitter(uniform=uniform)
