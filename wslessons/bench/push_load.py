"""Real tabs against a real server in a process of its own, every byte through a link, measured.

    async with PushBench() as bench:
        run = await bench.measure("polling", tabs=20, interval=0.02, changes=2, seconds=4)

`PushBench` starts the server; `measure` is one run of one kind of tab; `unit_costs` finds what one
poll, one push, one ping and one idle connection cost.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from time import monotonic
from typing import Self

from wslessons import push
from wslessons.bench.tools import Child, quantile, raise_descriptor_limit
from wslessons.link import Link
from wslessons.push.fleet import drift, moments

__all__ = ["PushBench", "Run", "unit_costs"]

STORY_TABS, STORY_INTERVAL, STORY_CHANGE_EVERY = 500, 2.0, 200.0
"""The story: 500 tabs poll every 2 s, and 99 % of the answers are "nothing changed"."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one kind of tab cost and got, from when all were open until all knew the last change.

    `seconds` is how long that was; `cpu` the server's seconds of CPU; `up` and `down` bytes by TCP,
    to and from the server; `opening` those before, both ways; `memory` what the tabs added to the
    server's resident bytes (0 where it can't be told); `delays` sorted, in seconds.
    """

    kind: str
    tabs: int
    changes: int
    seconds: float
    requests: int
    unchanged: int
    updates: int
    missed: int
    breaks: int
    up: int
    down: int
    opening: int
    cpu: float
    memory: int
    delays: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds

    @property
    def share_unchanged(self) -> float:
        """The share of requests that were answered with "nothing changed"; 0 without requests."""
        return self.unchanged / self.requests if self.requests else 0.0

    @property
    def traffic(self) -> float:
        """Bytes a second, both ways."""
        return (self.up + self.down) / self.seconds

    def delay(self, q: float) -> float:
        """Find what most delays did not exceed.

        Args:
            q: the share of all updates, 0 to 1.

        Returns:
            The delay in seconds.
        """
        return quantile(self.delays, q)


class PushBench:
    """The server and the link before it.

    Args:
        ping_interval: seconds between the server's pings to a WebSocket, the first of which comes
            at a random moment of the first interval; 0 for none, where every byte counts.

    Raises:
        UserError: on entering, when the server does not start.
    """

    def __init__(self, ping_interval: float = push.costs.PING_INTERVAL) -> None:
        self._ping_interval = ping_interval
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            self.child = Child("push", "fleet", str(self._ping_interval), wait=False)
            stack.callback(self.child.close)
            await asyncio.to_thread(self.child.wait_ready)
            target = f"127.0.0.1:{self.child.port}"
            # Nothing is kept of what passes, so that the link is not what gets measured.
            link = Link(target, keep=1, keep_bytes=0, keep_connections=10_000)
            self.link = await stack.enter_async_context(link)
            # Reports go past the link: they are no tab's traffic.
            self._builds = await stack.enter_async_context(push.Builds(f"http://{target}"))
            self._drift = drift()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    @property
    def url(self) -> str:
        """Where tabs connect: the link."""
        return f"http://127.0.0.1:{self.link.port}"

    async def story(
        self, kind: str, *, tabs: int = 20, speed: float = 100, changes: int = 2
    ) -> Run:
        """Run the story with fewer tabs, and faster.

        Args:
            kind: one of `wslessons.push.KINDS`.
            tabs: how many are open.
            speed: how many times faster than the story.
            changes: after how many it ends.

        Returns:
            What it cost.

        Raises:
            TimeoutError: a tab did not learn of the last change within 30 seconds.
        """
        return await self.measure(
            kind,
            tabs=tabs,
            interval=STORY_INTERVAL / speed,
            changes=changes,
            seconds=changes * STORY_CHANGE_EVERY / speed,
        )

    async def measure(
        self, kind: str, *, tabs: int, interval: float, changes: int, seconds: float, seed: int = 0
    ) -> Run:
        """Open tabs, make changes at random moments, and count.

        The run ends when time is up and every tab shows the last change.

        Args:
            kind: one of `wslessons.push.KINDS`.
            tabs: how many are open.
            interval: seconds between two polls of a polling tab.
            changes: how many.
            seconds: within which they come.
            seed: the same one gives the same moments.

        Returns:
            What it cost.

        Raises:
            TimeoutError: a tab did not learn of the last change within 30 seconds.
        """
        raise_descriptor_limit(4 * tabs + 200)  # a tab, and both sides of the link
        rng, make = random.Random(seed), push.KINDS[kind]
        before = await asyncio.to_thread(self.child.ask)
        bytes_before = sum(self._bytes())
        async with contextlib.AsyncExitStack() as stack:
            # One after the other, and not too many at once for the server's backlog.
            opened: list[push.Tab] = [
                make(self.url, interval=interval, rng=random.Random(rng.random()))
                for _ in range(tabs)
            ]
            for start in range(0, tabs, 50):
                batch = opened[start : start + 50]
                await asyncio.gather(*(stack.enter_async_context(tab) for tab in batch))
            for tab in opened:
                tab.requests = tab.unchanged = 0
            began, usage = monotonic(), await asyncio.to_thread(self.child.ask)
            up, down = self._bytes()
            version = opened[0].version + changes
            await self._make_changes(moments(changes, 0.9 * seconds, seed), began)
            await asyncio.sleep(began + seconds - monotonic())
            async with asyncio.timeout(30):
                for tab in opened:
                    await tab.reached(version)
            took, after = monotonic() - began, await asyncio.to_thread(self.child.ask)
            up_after, down_after = self._bytes()
            return Run(
                kind=kind,
                tabs=tabs,
                changes=changes,
                seconds=took,
                requests=sum(tab.requests for tab in opened),
                unchanged=sum(tab.unchanged for tab in opened),
                updates=sum(tab.updates for tab in opened),
                missed=sum(tab.missed for tab in opened),
                breaks=sum(tab.breaks for tab in opened),
                up=up_after - up,
                down=down_after - down,
                opening=up + down - bytes_before,
                cpu=after["cpu"] - usage["cpu"],
                memory=(usage["rss"] or 0) - (before["rss"] or 0),
                delays=tuple(sorted(delay for tab in opened for delay in tab.delays)),
            )

    async def _make_changes(self, when: Sequence[float], began: float) -> None:
        for moment, (service, status) in zip(when, islice(self._drift, len(when)), strict=True):
            await asyncio.sleep(began + moment - monotonic())
            await self._builds.report(service, status)

    def _bytes(self) -> tuple[int, int]:
        connections = self.link.connections
        return (
            sum(connection.up.forwarded for connection in connections),
            sum(connection.down.forwarded for connection in connections),
        )


async def unit_costs(tabs: int = 250, seconds: float = 1.0) -> push.UnitCosts:
    """Measure what one poll, one push, one ping and one idle connection cost.

    The server's own idling is not taken off: a wake-up every 0.1 seconds, under 2 % of each run.
    Memory is that of the first tabs of a fresh process, so each kind has one to itself.

    Args:
        tabs: how many are open.
        seconds: of each of the three runs; all take about five times as long.

    Returns:
        The costs.
    """
    async with PushBench(ping_interval=0) as bench:
        told = await bench.measure("WebSocket", tabs=tabs, interval=0, changes=20, seconds=seconds)
    async with PushBench(ping_interval=seconds / 4) as bench:
        polls = await bench.measure(
            "polling", tabs=tabs, interval=seconds / 2, changes=0, seconds=seconds
        )
        pinged = await bench.measure("WebSocket", tabs=tabs, interval=0, changes=0, seconds=seconds)
    pings = pinged.up / push.costs.PONG_BYTES
    return push.UnitCosts(
        poll_cpu=polls.cpu / polls.requests,
        poll_bytes=(polls.up + polls.down) / polls.requests,
        poll_idle=polls.memory / tabs,
        push_cpu=told.cpu / told.updates,
        push_bytes=(told.up + told.down) / told.updates,
        push_idle=told.memory / tabs,
        ping_cpu=pinged.cpu / pings,
    )
