"""Kafka: a topic that every server reads in full (https://kafka.apache.org/documentation/).

No consumer group: a group shares a topic out among its members, and here each has to get all. The
record's key is the room, which decides its partition, so numbers are in order within a room: a
number is the record's offset plus one, times 1,000, plus the event's place in the record; times
the number of partitions, plus the partition. Signs of life go to the topic ``NAME.presence``, whose
oldest record has the epoch. The producer is idempotent and waits for all replicas in sync.

Not handled here: TLS, and partitions added to a topic in use, which would move its rooms.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import zlib
from collections.abc import Callable, Coroutine
from itertools import chain
from typing import Any

from wslessons.errors import need
from wslessons.scaling.bus.transport import (
    CHECK,
    LOST_AFTER,
    PLACES,
    LogTransport,
    Unreachable,
    close_quietly,
    first_to_end,
)
from wslessons.scaling.bus.url import Address

need("aiokafka", "kafka")
from aiokafka import (  # noqa: E402 -- only after the sentence above
    AIOKafkaConsumer,
    AIOKafkaProducer,
    TopicPartition,
    errors,
)

__all__ = ["Topic"]

# The client reports every failed attempt to connect; our status says it once.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


class Topic(LogTransport):
    """A topic of Kafka; the broker creates it if it is set up to.

    Args:
        address: with the options `topic` (default: wslessons) and `fetch_wait`, the milliseconds
            for which the broker holds a fetch when it has nothing to give (default: 500, which is
            Kafka's own).
    """

    def __init__(self, address: Address) -> None:
        super().__init__(f"Kafka at {address.hosts_text}")
        self._address = address
        self._topic = address.option("topic", "wslessons")
        self._wait = address.number("fetch_wait", 500)
        self._presence = TopicPartition(f"{self._topic}.presence", 0)
        self._partitions = 1
        self._next: dict[int, int] = {}
        """For each partition, the offset of the record to read next."""
        self._producer: AIOKafkaProducer | None = None
        self._consumer: AIOKafkaConsumer | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def partition(self, room: str) -> int:
        """Return the partition of `room`."""
        return zlib.crc32(room.encode()) % self._partitions

    def group(self, room: str) -> str:
        """Return the room: each has records of its own."""
        return room

    async def close(self) -> None:
        """Disconnect, and wait for all former connections to have ended. Idempotent."""
        await super().close()
        await asyncio.gather(*self._closing)

    async def publish(self, data: bytes) -> None:
        """Send to the topic beside the log."""
        await self._send(self._presence, data, None)

    async def flush(self) -> None:
        """Every record is acknowledged, so nothing is under way."""

    async def append(self, group: str, data: bytes, id: str, count: int, last: int) -> None:
        """Send a record, and wait until the replicas in sync have it."""
        await self._send(TopicPartition(self._topic, self.partition(group)), data, group.encode())

    async def _send(self, to: TopicPartition, data: bytes, key: bytes | None) -> None:
        self._check_connected()
        assert self._producer is not None
        headers = [("epoch", self._epoch.encode())] if to == self._presence else None
        try:
            async with asyncio.timeout(2 * LOST_AFTER):
                await self._producer.send_and_wait(
                    to.topic, data, key=key, partition=to.partition, headers=headers
                )
        except (errors.KafkaError, OSError, TimeoutError) as exc:
            # A producer that failed once may not be used again (its sequence has a hole).
            self._broken.set()
            raise Unreachable(_explain(exc)) from exc

    async def _connect(self) -> None:
        options: dict[str, Any] = {
            "bootstrap_servers": self._address.hosts,
            "client_id": "wslessons",
            "request_timeout_ms": int(LOST_AFTER * 1000),
            "retry_backoff_ms": 50,
        }
        if self._address.user:
            options |= {
                "security_protocol": "SASL_PLAINTEXT",
                "sasl_plain_username": self._address.user,
                "sasl_plain_password": self._address.password,
            }
        try:
            self._producer = AIOKafkaProducer(
                **options, enable_idempotence=True, max_request_size=self.limit
            )
            await self._producer.start()
            self._consumer = AIOKafkaConsumer(
                **options,
                enable_auto_commit=False,
                auto_offset_reset="none",
                fetch_max_wait_ms=self._wait,
            )
            await self._consumer.start()
            await self._assign(self._producer, self._consumer)
        except errors.AuthenticationFailedError as exc:
            raise self._refused(exc) from None
        except (errors.KafkaError, OSError) as exc:
            raise Unreachable(_explain(exc)) from exc

    async def _assign(self, producer: AIOKafkaProducer, consumer: AIOKafkaConsumer) -> None:
        """Find where to begin, and what has happened to the log meanwhile."""
        count = len(await producer.partitions_for(self._topic))
        await producer.partitions_for(self._presence.topic)
        partitions = {n: TopicPartition(self._topic, n) for n in range(count)}
        everything = [*partitions.values(), self._presence]
        consumer.assign(everything)
        oldest = await consumer.beginning_offsets(everything)
        newest = await consumer.end_offsets(everything)
        epoch = await self._find_epoch(producer, consumer, oldest[self._presence], newest)
        behind = any(newest[partitions[n]] < at for n, at in self._next.items())
        known = (self._epoch.partition("+")[0], self._partitions)
        if not self._epoch or known != (epoch, count) or behind:
            # The same epoch with fewer records: some were lost, and their numbers come again.
            self._epoch = f"{epoch}+{secrets.token_hex(4)}" if behind else epoch
            self._partitions = count
            most = max(1, self.history // count)
            self._next = {
                n: max(oldest[each], newest[each] - most) for n, each in partitions.items()
            }
            before = {n: self._before(n, at) for n, at in self._next.items()}
            self.host.on_opened(self._epoch, before)
            self.tail = self.tail or {
                n: self._number(n, newest[each] - 1)
                for n, each in partitions.items()
                if newest[each] > self._next[n]
            }
        for n, each in partitions.items():
            if oldest[each] > self._next[n]:
                self.host.on_trimmed(n, self._before(n, oldest[each]), None)
                self._next[n] = oldest[each]
            consumer.seek(each, self._next[n])
        consumer.seek(self._presence, max(newest[self._presence], oldest[self._presence]))

    async def _find_epoch(
        self,
        producer: AIOKafkaProducer,
        consumer: AIOKafkaConsumer,
        oldest: int,
        newest: dict[TopicPartition, int],
    ) -> str:
        """Return the epoch of the log; a log without one is given one by whoever comes first."""
        if newest[self._presence] == oldest:
            proposal = [("epoch", secrets.token_hex(8).encode())]
            topic, partition = self._presence
            await producer.send_and_wait(topic, b"[]", partition=partition, headers=proposal)
        consumer.pause(*(each for each in consumer.assignment() if each != self._presence))
        consumer.seek(self._presence, oldest)
        record = await consumer.getone(self._presence)
        consumer.resume(*consumer.assignment())
        return dict(record.headers).get("epoch", b"").decode()

    async def _serve(self) -> None:
        try:
            await first_to_end(self._read(), self._watch())
        except (errors.KafkaError, OSError) as exc:
            raise Unreachable(_explain(exc)) from exc

    async def _read(self) -> None:
        assert self._consumer is not None
        while True:
            ready = await self._consumer.getmany(timeout_ms=int(CHECK * 1000))
            for record in chain.from_iterable(ready.values()):
                partition, value = record.partition, record.value or b""
                if record.topic != self._topic:
                    self.host.on_message(value)
                else:
                    self._next[partition] = record.offset + 1
                    self.host.on_entry(
                        partition, self._number(partition, record.offset), self._partitions, value
                    )

    def _number(self, partition: int, offset: int) -> int:
        return (offset + 1) * PLACES * self._partitions + partition

    def _before(self, partition: int, offset: int) -> int:
        return self._number(partition, offset) - self._partitions if offset else 0

    async def _watch(self) -> None:
        """Ask for the cluster's metadata again and again, as a sign of life."""
        assert self._producer is not None
        while True:
            await asyncio.sleep(CHECK)
            try:
                async with asyncio.timeout(LOST_AFTER):
                    await self._producer.client.fetch_all_metadata()
            except TimeoutError:
                raise Unreachable("it does not answer in time") from None

    async def _disconnect(self) -> None:
        producer, consumer = self._producer, self._consumer
        self._producer = self._consumer = None
        # In their own time: a producer first waits, until the request times out, for what it has
        # not sent (which we repeat ourselves); ended before that it would go on in secret.
        if producer is not None:
            self._close_later(producer.stop)
        if consumer is not None:
            # Its `stop` ends early, with the cancellation of its own fetch, if one is under way.
            self._close_later(consumer.stop, consumer._client.close)

    def _close_later(self, *closing: Callable[[], Coroutine[Any, Any, object]]) -> None:
        task = asyncio.create_task(close_quietly(*closing, seconds=3 * LOST_AFTER))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _explain(exc: BaseException) -> str:
    """Say an error in words."""
    if isinstance(exc, TimeoutError | errors.KafkaTimeoutError | errors.RequestTimedOutError):
        return "it does not answer in time"
    return str(exc).rstrip(".") or type(exc).__name__
