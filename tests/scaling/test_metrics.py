"""What ``GET /metrics`` tells of a bus, while its broker is there, is killed, and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
from waits import until
from webs import Web, read_until, serving

from wslessons.chat import ChatServer
from wslessons.scaling.brokers import Broker
from wslessons.scaling.brokers import run as run_broker
from wslessons.scaling.bus import Bus, Event, from_url


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def broker() -> AsyncGenerator[Broker]:
    """A broker that the tests may kill, one after the other."""
    async with run_broker("nats", own=True) as own:
        yield own


async def bus_metrics(served: Web) -> dict[str, float]:
    """What is told of the bus, by the rest of its name."""
    start = "chat_bus_"
    found = await served.metrics()
    return {name.removeprefix(start): n for name, n in found.items() if name.startswith(start)}


async def come_back(broker: Broker, bus: Bus) -> None:
    """Start the broker again, and wait until the bus has noticed."""
    await broker.nodes[0].restart()
    await until(lambda: bus.status.state == "connected")


@pytest.mark.asyncio(loop_scope="module")
async def test_a_log_that_is_away_shows_as_backlog_and_lag(broker: Broker) -> None:
    """What is said meanwhile waits, is seen to wait for longer and longer, and nothing is lost."""
    url = f"{broker.url}?stream=metrics"
    async with (
        asyncio.timeout(60),
        from_url(url) as bus,
        serving(chat=ChatServer(bus=bus)) as served,
        served.join("alice") as alice,
        served.join("bob") as bob,
    ):
        await until(lambda: bus.backlog == 0)
        before = await bus_metrics(served)
        lag = before.pop("lag_seconds")
        assert 0 < lag < 10
        assert before == {
            "connected": 1,
            "backlog": 0,
            "events_missed_total": 0,
            "events_unsent_total": 0,
            "reconnects_total": 0,
        }
        await broker.nodes[0].kill()
        await until(lambda: bus.status.state == "reconnecting")
        await alice.send("is anybody there?")
        await until(lambda: bus.backlog)
        await until(lambda: bus.lag > lag)
        away = await bus_metrics(served)
        assert (away["connected"], away["backlog"]) == (0, 1)
        longer = (await bus_metrics(served))["lag_seconds"]
        assert longer > away["lag_seconds"] > lag
        await come_back(broker, bus)
        await read_until(bob, "[alice] is anybody there?")
        await until(lambda: bus.backlog == 0)
        after = await bus_metrics(served)
        assert after["reconnects_total"] == 1
        assert (after["events_missed_total"], after["events_unsent_total"]) == (0, 0)
        # How long that one took stays known until the next one has been timed.
        assert after["lag_seconds"] >= longer


@pytest.mark.asyncio(loop_scope="module")
async def test_without_a_log_losses_are_counted_on_both_sides(broker: Broker) -> None:
    """What is said while the broker is away is unsent here, and missed there."""
    url = f"{broker.url}?subject=metrics"
    async with (
        asyncio.timeout(60),
        from_url(url, beat=0.2) as bus,
        from_url(url, beat=0.2) as other,
        serving(chat=ChatServer(bus=bus)) as served,
        served.join("alice") as alice,
    ):
        await alice.send("one")
        reader = other.subscribe(since=0)
        async for item in reader:
            if isinstance(item, Event) and "one" in str(item.data):
                break
        await broker.nodes[0].kill()
        await until(lambda: {bus.status.state, other.status.state} == {"reconnecting"})
        for text in ("two", "three"):
            await alice.send(text)
        await until(lambda: bus.unsent == 2)
        away = await bus_metrics(served)
        assert (away["connected"], away["backlog"], away["events_unsent_total"]) == (0, 0, 2)
        await come_back(broker, bus)
        await until(lambda: other.stats()["missed"] == 2)
        assert (await bus_metrics(served))["reconnects_total"] == 1


async def test_a_chat_without_a_bus_tells_of_none() -> None:
    """A series that is always 0 would say that all is well with what is not there."""
    async with serving() as served:
        assert await bus_metrics(served) == {}
