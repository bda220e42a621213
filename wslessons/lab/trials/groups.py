"""Lesson 6's experiment with a consumer group: who reads which part of a topic of Kafka.

On a real Kafka where there is one. The emulator has no groups that grow, so where it takes Kafka's
place, the rule is asked by which Kafka's clients divide a topic among themselves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from wslessons.errors import need
from wslessons.scaling import brokers
from wslessons.scaling.brokers import kafka

__all__ = ["RULE", "ConsumerGroup", "consumer_group"]

RULE = "the rule of Kafka's clients, as there is no Kafka here"
"""The `label` of a group that was computed."""
TOPIC = "chat"
TIMEOUT = 30.0
"""Seconds for a group to have shared out the topic."""

# It warns of each rebalance, which is what this is about.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


class ConsumerGroup:
    """A group that reads a topic; see `consumer_group`.

    Args:
        partitions: of the topic.
        label: what divides them, for people.

    Attributes:
        label: the Kafka that runs, or `RULE`.
    """

    def __init__(self, partitions: int, label: str) -> None:
        self.partitions, self.label = partitions, label
        self._shares: list[set[int]] = []

    async def grow(self, members: int) -> list[int]:
        """Let servers join the group until there are so many, and wait for the rebalance.

        Args:
            members: how many servers are in the group then.

        Returns:
            How many partitions each reads, the most first.
        """
        aiokafka_rule = need("aiokafka.coordinator.assignors.range", "kafka").RangePartitionAssignor
        cluster = need("aiokafka.cluster", "kafka").ClusterMetadata()
        cluster.partitions_for_topic = lambda topic: set(range(self.partitions))
        group = {f"{number}": aiokafka_rule.metadata({TOPIC}) for number in range(members)}
        division = aiokafka_rule.assign(cluster, group).values()
        self._shares = [{n for _, part in each.assignment for n in part} for each in division]
        return self._counts()

    async def publish(self, events: int) -> list[int]:
        """Publish events, to the partitions in turns, and count who gets them.

        Args:
            events: how many.

        Returns:
            How many each member of the group got, the most first.
        """
        turns = [number % self.partitions for number in range(events)]
        return _most_first([sum(turn in share for turn in turns) for share in self._shares])

    def _counts(self) -> list[int]:
        return _most_first([len(share) for share in self._shares])


class _RealGroup(ConsumerGroup):
    """A group on a Kafka that runs."""

    def __init__(self, partitions: int, label: str, hosts: Sequence[str], stack: Any) -> None:
        super().__init__(partitions, label)
        self._kafka = need("aiokafka", "kafka")
        self._hosts, self._stack = list(hosts), stack
        self._members: list[Any] = []

    async def start(self) -> None:
        """Create the topic."""
        admin = need("aiokafka.admin", "kafka")
        client = admin.AIOKafkaAdminClient(bootstrap_servers=self._hosts)
        await client.start()
        try:
            await client.create_topics([admin.NewTopic(TOPIC, self.partitions, 1)])
        finally:
            await client.close()

    async def grow(self, members: int) -> list[int]:
        while len(self._members) < members:
            member = self._kafka.AIOKafkaConsumer(
                TOPIC, bootstrap_servers=self._hosts, group_id="servers",
                # So soon does a member hear that another has come.
                heartbeat_interval_ms=100,
                auto_offset_reset="earliest", enable_auto_commit=False,
            )  # fmt: skip
            self._stack.push_async_callback(member.stop)
            await member.start()
            self._members.append(member)
        async with asyncio.timeout(TIMEOUT):
            while not self._is_shared_out():  # noqa: ASYNC110 -- the client tells nobody
                await asyncio.sleep(0.05)
        return self._counts()

    def _is_shared_out(self) -> bool:
        self._shares = [{part.partition for part in each.assignment()} for each in self._members]
        counts = self._counts()
        # A former division may still stand at some of them.
        return sum(counts) == self.partitions and counts[0] - counts[-1] <= 1

    async def publish(self, events: int) -> list[int]:
        producer = self._kafka.AIOKafkaProducer(bootstrap_servers=self._hosts)
        await producer.start()
        try:
            for number in range(events):
                await producer.send_and_wait(TOPIC, b"hi", partition=number % self.partitions)
        finally:
            await producer.stop()
        heard = [0] * len(self._members)
        async with asyncio.timeout(TIMEOUT):
            while sum(heard) < events:
                for number, member in enumerate(self._members):
                    ready = await member.getmany(timeout_ms=50)
                    heard[number] += sum(map(len, ready.values()))
        return _most_first(heard)


def _most_first(counts: list[int]) -> list[int]:
    return sorted(counts, reverse=True)


@asynccontextmanager
async def consumer_group(partitions: int = 4) -> AsyncGenerator[ConsumerGroup]:
    """Make a topic of Kafka, and a group of servers to read it, without a member yet.

    Args:
        partitions: of the topic.

    Yields:
        The group; its `label` says whether a Kafka ran or the division was computed.

    Raises:
        UserError: Kafka does not start.
    """
    if kafka.find() is None:
        yield ConsumerGroup(partitions, RULE)
        return
    async with brokers.run("kafka", own=True) as broker, AsyncExitStack() as stack:
        hosts = broker.url.partition("://")[2].split(",")
        group = _RealGroup(partitions, broker.label, hosts, stack)
        await group.start()
        yield group
