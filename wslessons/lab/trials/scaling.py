"""Lesson 6's experiments: who hears what on several servers, and what a kill costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import cycle
from statistics import median
from typing import Any

from wslessons.chat.events import Message, Missed, Roster
from wslessons.client import ChatClient
from wslessons.errors import extra
from wslessons.scaling import brokers
from wslessons.scaling.bus import Status, from_url
from wslessons.scaling.cluster import Cluster

with extra("lab"):
    import psutil


__all__ = [
    "LINES",
    "Hop",
    "Outage",
    "draw_outages",
    "event_cost",
    "frozen_and_killed",
    "hop",
    "how_many_hear",
    "outage",
    "people_cost",
    "roster",
]

LINES = 60
PAUSE = 0.02
"""Seconds between two lines that alice says."""
KILL, RESTART = 15, 40
"""Before which of her lines the broker is killed, and before which it is started again."""


async def how_many_hear(urls: Sequence[str], people: int = 30, timeout: float = 2.0) -> int:
    """Deal people out to servers in turn, let the first one ask, and count who hears it.

    Args:
        urls: of the servers.
        people: how many there are.
        timeout: seconds to wait for those who hear nothing.

    Returns:
        How many of the others heard the question.
    """

    async def hears(person: ChatClient) -> None:
        async for event in person:
            if isinstance(event, Message):
                return

    async with AsyncExitStack() as stack:
        crowd = [
            await stack.enter_async_context(ChatClient(f"{url}/rooms/crowd", f"person {n}"))
            for n, url in zip(range(people), cycle(urls), strict=False)
        ]
        ears = [asyncio.create_task(hears(person)) for person in crowd[1:]]
        await crowd[0].send("is anybody there?")
        done, waiting = await asyncio.wait(ears, timeout=timeout)
        for ear in waiting:
            ear.cancel()
        if waiting:
            await asyncio.wait(waiting)
        return len(done)


async def roster(client: ChatClient) -> list[str]:
    """Ask who is in the client's room, and return the names in order.

    Args:
        client: somebody in the room.

    Returns:
        The names.
    """
    await client.who()
    async for event in client:
        if isinstance(event, Roster):
            return sorted(event.people)
    return []


@dataclass(frozen=True)
class Outage:
    """What became of alice's lines while the broker was away.

    Attributes:
        bus: what carried the rooms.
        said: when she said each, in seconds of one clock.
        heard: number and moment of each line that bob heard.
        missed: how many lines he was told that he missed.
    """

    bus: str
    said: list[float] = field(default_factory=list)
    heard: list[tuple[int, float]] = field(default_factory=list)
    missed: int = 0

    @property
    def in_order(self) -> bool:
        """Whether he heard each line at most once, and in the order in which it was said."""
        numbers = [number for number, _ in self.heard]
        return numbers == sorted(set(numbers))

    def __str__(self) -> str:
        count, told = len(self.heard), self.missed
        exact = "" if count == LINES else "~"
        return f"heard {exact}{count}, told of {exact}{told} missed, together {count + told}"


async def outage(bus: str) -> Outage:
    """Let alice speak on one server and bob listen on another, and kill the broker between them.

    She says 60 lines, one every 20 ms. Before the 16th the broker is killed, before the 41st it is
    started again.

    Args:
        bus: as `Cluster` takes it, such as ``nats`` or ``nats?stream=chat``.

    Returns:
        What became of her lines.
    """
    async with Cluster(servers=2, bus=bus, own=True) as cluster:
        assert cluster.broker is not None
        node = cluster.broker.nodes[0]
        return Outage(bus, *await _talk(cluster, {KILL: node.kill, RESTART: node.restart}))


async def _talk(
    cluster: Cluster, at: Mapping[int, Callable[[], Awaitable[object]]]
) -> tuple[list[float], list[tuple[int, float]], int]:
    """Let alice speak on the first server and bob listen on the second."""
    async with (
        ChatClient(cluster.urls[0], "alice") as alice,
        ChatClient(cluster.urls[1], "bob") as bob,
    ):
        ears = asyncio.create_task(_listen(bob))
        try:
            said = await _speak(alice, at)
            return said, *await ears
        finally:
            ears.cancel()


async def _listen(client: ChatClient) -> tuple[list[tuple[int, float]], int]:
    heard: list[tuple[int, float]] = []
    missed = 0
    async with asyncio.timeout(30):
        async for event in client:
            if isinstance(event, Message):
                heard.append((int(event.text), time.monotonic()))
            elif isinstance(event, Missed) and event.count:
                missed += event.count
            if len(heard) + missed >= LINES:
                break
    return heard, missed


async def _speak(
    client: ChatClient, at: Mapping[int, Callable[[], Awaitable[object]]]
) -> list[float]:
    said: list[float] = []
    async with asyncio.TaskGroup() as tasks:
        for number in range(LINES):
            if number in at:
                await at[number]()
            said.append(time.monotonic())
            tasks.create_task(client.send(str(number)))
            await asyncio.sleep(PAUSE)
    return said


def draw_outages(outages: Sequence[Outage]) -> None:
    """Draw for each line that bob heard how late it was, and a cross for each that he did not.

    Args:
        outages: one above the other.
    """
    import matplotlib.pyplot as plt

    figure, rows = plt.subplots(
        len(outages), sharex=True, sharey=True, figsize=(5.8, 1.8 * len(outages)), squeeze=False
    )
    for axes, each in zip(rows.flat, outages, strict=True):
        said = [moment - each.said[0] for moment in each.said]
        late = [moment - each.said[number] for number, moment in each.heard]
        lost = sorted(set(range(LINES)) - {number for number, _ in each.heard})
        axes.axvspan(said[KILL], said[RESTART], color="#9e9e9e", alpha=0.3)
        axes.plot([said[number] for number, _ in each.heard], late, ".", color="#1565c0")
        axes.plot([said[number] for number in lost], [0] * len(lost), "x", color="#c62828")
        axes.set_title(f"{each.bus}: {len(lost)} lost (crosses)", loc="left", fontsize=9)
    figure.supxlabel("said at, in seconds (grey: the broker is down)", fontsize=9)
    figure.supylabel("heard later, by seconds", fontsize=9)
    figure.tight_layout()
    plt.show()


async def frozen_and_killed(
    by_hand: Callable[[str, asyncio.Event], Awaitable[object]],
) -> AsyncGenerator[tuple[str, str, str]]:
    """Freeze, thaw and kill a Redis server under two subscribers: one by hand, and the bus.

    Args:
        by_hand: called with the server's URL and an event that it sets once it listens.

    Yields:
        What happened, what the bus reported to its readers, and what the one by hand did.
    """
    async with (
        asyncio.timeout(60),
        brokers.run("redis", own=True) as redis,
        from_url(redis.url) as bus,
    ):
        reader, listening = bus.subscribe(), asyncio.Event()
        naive = asyncio.ensure_future(by_hand(redis.url, listening))
        await listening.wait()

        async def reports(state: str) -> str:
            async for item in reader:
                if isinstance(item, Status) and item.state == state:
                    break
            return state

        def does() -> str:
            if not naive.done():
                return "waits"
            return f"has ended: {type(naive.exception()).__name__}, and told nobody"

        node = redis.nodes[0]
        frozen = psutil.Process(node.pid)
        frozen.suspend()
        yield "frozen", await reports("reconnecting"), does()
        frozen.resume()
        yield "thawed", await reports("connected"), does()
        await node.kill()
        reported = await reports("reconnecting")
        await asyncio.wait([naive], timeout=10)
        yield "killed", reported, does()
        naive.cancel()


@dataclass(frozen=True)
class Hop:
    """Milliseconds, medians: the whole way from alice to carol, and the part between servers."""

    way: float
    part: float


async def hop(bus: str, **options: Any) -> Hop:
    """Time alice's lines to bob, who is on another server of the same cluster.

    Args:
        bus: as `Cluster` takes it.
        options: whatever else `Cluster` takes.

    Returns:
        The medians.
    """
    async with Cluster(servers=2, bus=bus, **options) as cluster:
        said, heard, _ = await _talk(cluster, {})
        way = [1000 * (moment - said[number]) for number, moment in heard]
        return Hop(median(way), (await cluster.servers[1].stats()).lag or 0.0)


def _cpu(process: psutil.Process) -> float:
    return sum(process.cpu_times()[:2])


async def people_cost(cluster: Cluster, people: int = 200) -> tuple[float, float]:
    """Let people come to server 2 of `cluster`, a hundred to a room.

    Args:
        cluster: of two servers.
        people: how many.

    Returns:
        Bytes of memory for each, and joins per second of CPU.
    """
    process = psutil.Process(cluster.servers[1].pid)
    memory, began = process.memory_info().rss, _cpu(process)
    async with AsyncExitStack() as stack:
        for n in range(people):
            url = f"{cluster.urls[1]}/rooms/r{n // 100}"
            await stack.enter_async_context(ChatClient(url, f"p{n}", ping_interval=None))
        memory = process.memory_info().rss - memory
        return memory / people, people / max(_cpu(process) - began, 1e-3)


async def event_cost(cluster: Cluster, lines: int = 2000) -> float:
    """Say `lines` on server 1 of `cluster`, in a room that has nobody on server 2.

    Args:
        cluster: of two servers.
        lines: how many.

    Returns:
        Seconds of CPU that each has cost server 2.
    """
    process = psutil.Process(cluster.servers[1].pid)
    began = _cpu(process)
    async with ChatClient(f"{cluster.urls[0]}/rooms/elsewhere", "alice") as alice:
        for _ in range(lines // 10):
            await asyncio.gather(*(alice.send("x" * 64) for _ in range(10)))
    await asyncio.sleep(0.5)
    return (_cpu(process) - began) / lines
