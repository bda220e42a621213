"""Brokers and servers are killed while people talk: a log loses nothing, the rest is counted."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import pytest

from wslessons.chat.events import Message, Missed
from wslessons.client import ChatClient
from wslessons.link import Link
from wslessons.processes import free_port
from wslessons.scaling import brokers
from wslessons.scaling.brokers import kafka

pytestmark = pytest.mark.timeout(220)

SERVER = """
import asyncio, sys
from wslessons import serving
from wslessons.scaling.bus import from_url
from wslessons.chat import ChatServer

async def main():
    async with from_url(sys.argv[1], beat=1) as bus:
        # A file keeps a secret; servers that share a broker are given one.
        secret = None if bus.secret else b"what all of them share"
        chat = ChatServer(bus=bus, capacity=4096, secret=secret)
        async with chat.serve(port=int(sys.argv[2])) as server:
            print(*serving.urls(server), flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main())
"""


class ServerProcess:
    """A chat server in a process of its own, that can be killed and started again."""

    def __init__(self, bus: str) -> None:
        self._bus = bus
        self._process: asyncio.subprocess.Process | None = None
        self.url = ""

    async def start(self) -> None:
        """Start it, on the port that it had before."""
        port = self.url.rpartition(":")[2] or str(free_port())
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SERVER, self._bus, port,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.url = (await self._process.stdout.readline()).decode().strip()
        assert self.url

    async def kill(self) -> None:
        """End it with SIGKILL."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        await self._process.communicate()


@contextlib.asynccontextmanager
async def servers(*buses: str) -> AsyncGenerator[list[ServerProcess]]:
    """Run a server on each of these buses."""
    started = [ServerProcess(bus) for bus in buses]
    try:
        await asyncio.gather(*(each.start() for each in started))
        yield started
    finally:
        await asyncio.gather(*(each.kill() for each in started))


def delays() -> Generator[float]:
    """Come back soon."""
    while True:
        yield 0.1


class Person:
    """Somebody who says numbered lines, and keeps what is heard."""

    def __init__(self, client: ChatClient, lines: int) -> None:
        self.client, self.lines = client, lines
        self.heard: list[tuple[str, int]] = []
        self.missed: list[int | None] = []
        self.said = 0

    async def talk(self) -> None:
        """Say all lines, each once the one before is in the log."""
        for number in range(self.lines):
            await self.client.send(f"{number}")
            self.said += 1
            await asyncio.sleep(0.05)

    async def listen(self) -> None:
        """Keep what is heard, for ever."""
        async for event in self.client:
            if isinstance(event, Message):
                self.heard.append((event.sender, int(event.text)))
            elif isinstance(event, Missed):
                self.missed.append(event.count)


class Crowd:
    """People on several servers, all in one room, who talk to each other."""

    def __init__(self, people: list[Person]) -> None:
        self.people = people

    @property
    def said(self) -> int:
        """Lines that are in the log."""
        return sum(person.said for person in self.people)

    async def until(self, share: float) -> None:
        """Wait until this share of all lines has been said."""
        lines = sum(person.lines for person in self.people)
        while self.said < share * lines:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async def settled(self, count: int) -> None:
        """Wait until everybody has heard, or been told to have missed, so many lines."""
        for person in self.people:
            while len(person.heard) + sum(n or 0 for n in person.missed) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def crowd(urls: list[str], each: int, lines: int) -> AsyncGenerator[Crowd]:
    """Let `each` people on every server talk; everybody is in before the first one talks."""
    async with contextlib.AsyncExitStack() as stack:
        people: list[Person] = []
        for number in range(len(urls) * each):
            client = ChatClient(
                urls[number % len(urls)], f"p{number}", reconnect_delays=delays, keep=10_000
            )
            people.append(Person(await stack.enter_async_context(client), lines))
        async with asyncio.TaskGroup() as tasks:
            listening = [tasks.create_task(person.listen()) for person in people]
            talking = [tasks.create_task(person.talk()) for person in people]
            yield Crowd(people)
            await asyncio.gather(*talking)
            for task in listening:
                task.cancel()


def losses(people: list[Person]) -> dict[str, int]:
    """Count what went wrong, over all who listened."""
    found = Counter(lost=0, twice=0, disorder=0, reported=0)
    names = [person.client.name for person in people]
    for person in people:
        found["reported"] += len(person.missed)
        heard = Counter(person.heard)
        found["twice"] += sum(count - 1 for count in heard.values())
        for name in names:
            if name == person.client.name:
                continue
            numbers = [number for sender, number in person.heard if sender == name]
            found["lost"] += person.lines - len(set(numbers))
            found["disorder"] += numbers != sorted(numbers)
        found["twice"] += sum(sender == person.client.name for sender, _ in person.heard)
    return dict(found)


NOTHING = {"lost": 0, "twice": 0, "disorder": 0, "reported": 0}


async def test_a_replicated_stream_survives_a_node_a_server_and_a_stalled_link():
    """60 people on three servers: nothing lost, nothing twice, each one's lines in order."""
    async with asyncio.timeout(200), brokers.run("nats", 3, own=True) as nats:
        stream = "?stream=chat&replicas=3"
        async with (
            Link(nats.nodes[2].url.partition("://")[2]) as link,
            servers(
                f"{nats.url}{stream}",
                f"{nats.url}{stream}",
                f"nats://127.0.0.1:{link.port}{stream}",
            ) as running,
            crowd([each.url for each in running], 20, 30) as people,
        ):
            await people.until(0.15)
            await nats.nodes[0].kill()
            await people.until(0.35)
            await running[1].kill()
            await asyncio.gather(nats.nodes[0].restart(), running[1].start())
            await people.until(0.7)
            with link.stall():
                await asyncio.sleep(4)
            await people.until(1)
            await people.settled(59 * 30)
        assert losses(people.people) == NOTHING


@pytest.mark.skipif(not kafka.find(), reason="there is no real Kafka, and the emulator forgets all")
async def test_a_kafka_of_three_nodes_survives_kill_9_and_an_empty_disk():
    """One comes back with its data, one without: nothing lost, twice or out of order."""
    async with asyncio.timeout(200), brokers.run("kafka", 3, own=True) as three:
        async with (
            servers(three.url, three.url) as running,
            crowd([each.url for each in running], 5, 30) as people,
        ):
            await people.until(0.2)
            await three.nodes[0].kill()
            await people.until(0.4)
            await three.nodes[0].restart()
            await people.until(0.6)
            await three.nodes[1].kill()
            shutil.rmtree(three.nodes[1]._server.home / "data")
            await three.nodes[1].restart()
            await people.until(1)
            await people.settled(9 * 30)
        assert losses(people.people) == NOTHING


async def test_streams_of_redis_survive_a_stop_and_restart():
    """The broker is away for a second, for everybody: nothing lost, twice or out of order; that it
    can't prove that is said to each, once.
    """
    async with asyncio.timeout(120), brokers.run("redis", own=True) as redis:
        url = f"{redis.url}?stream=chat"
        async with (
            servers(url, url) as running,
            crowd([each.url for each in running], 10, 30) as people,
        ):
            await people.until(0.3)
            await redis.nodes[0].kill()
            await asyncio.sleep(1)
            await redis.nodes[0].restart()
            await people.until(1)
            await people.settled(19 * 30)
        assert losses(people.people) == {**NOTHING, "reported": 20}
        assert {count for person in people.people for count in person.missed} == {None}


async def test_a_file_loses_nothing_that_was_acknowledged_to_kill_9(tmp_path: Path):
    """The only server is killed three times under load; everybody resumes over it."""
    async with (
        asyncio.timeout(120),
        servers(f"sqlite:{tmp_path / 'chat.db'}") as [server],
        crowd([server.url], 20, 30) as people,
    ):
        for share in (0.2, 0.5, 0.8):
            await people.until(share)
            await server.kill()
            await server.start()
        await people.until(1)
        await people.settled(19 * 30)
    assert losses(people.people) == NOTHING


@pytest.mark.parametrize(("kind", "nodes"), [("nats", 3), ("redis", 1)])
async def test_what_publish_and_subscribe_lose_is_reported_to_every_client(kind: str, nodes: int):
    """For each listener, what was heard and what was told to be missed are all that was said."""
    async with asyncio.timeout(120), brokers.run(kind, nodes, own=True) as own:
        # Each server on a node of its own, if there are several.
        buses = [node.url for node in own.nodes] if nodes > 1 else [own.url, own.url]
        buses[0] = own.url
        async with (
            servers(*buses) as running,
            crowd([each.url for each in running], 5, 60) as people,
        ):
            everybody = len(people.people)
            await people.until(0.3)
            await own.nodes[-1].kill()
            await asyncio.sleep(1)
            await own.nodes[-1].restart()
            await people.until(1)
            await people.settled((everybody - 1) * 60)
        result = losses(people.people)
        assert result["lost"] > 0
        assert (result["twice"], result["disorder"]) == (0, 0)
        for person in people.people:
            counts: list[Any] = person.missed
            assert len(person.heard) + sum(counts) == (everybody - 1) * 60
        assert result["lost"] == sum(sum(map(int, map(str, p.missed))) for p in people.people)
