"""Bare clients of the brokers, for the bus's bench: what our bus is measured against."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import msgspec

from wslessons.errors import need
from wslessons.scaling.bus import log, pubsub

__all__ = ["BARE", "End", "Heard"]

WINDOW = max(pubsub.BATCH, log.BATCH)
"""Messages that a client sends before it waits for their acknowledgements: what the bus joins."""

Heard = Callable[[Any], None]

encode = msgspec.json.encode
decode = msgspec.json.decode


class End(ABC):
    """One end of the way of a message.

    Args:
        url: of the broker, with the bus's options, which a bare client drops.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    async def open(self, heard: Heard | None = None) -> None:
        """Connect, and call `heard` with all that arrives from now on."""

    @abstractmethod
    async def send(self, data: Any) -> None:
        """Send one message as soon as possible."""

    @abstractmethod
    async def pump(self, messages: list[Any]) -> None:
        """Send many as fast as possible, and wait until the broker has them."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect."""


class BareNats(End):
    """nats-py, and a subject."""

    async def open(self, heard: Heard | None = None) -> None:
        """Connect and subscribe."""
        self.client = await need("nats", "nats").connect(self.url.partition("?")[0])
        if heard is not None:
            await self._subscribe(heard)
            await self.client.flush()

    async def _subscribe(self, heard: Heard) -> None:
        async def take(msg: Any) -> None:
            heard(decode(msg.data))

        await self.client.subscribe("bare", cb=take)

    async def send(self, data: Any) -> None:
        """Publish it."""
        await self.client.publish("bare", encode(data))

    async def pump(self, messages: list[Any]) -> None:
        """Publish all."""
        for data in messages:
            await self.client.publish("bare", encode(data))
        await self.client.flush()

    async def close(self) -> None:
        """Disconnect."""
        await self.client.close()


class BareJetStream(BareNats):
    """nats-py, and a stream."""

    async def open(self, heard: Heard | None = None) -> None:
        """Connect, and create the stream if there is none."""
        await super().open()
        self.jetstream = self.client.jetstream()
        await self.jetstream.add_stream(
            name="bare", subjects=["bare-stream"], max_age=86_400, max_bytes=2**28
        )
        if heard is not None:

            async def take(msg: Any) -> None:
                heard(decode(msg.data))

            policy = need("nats.js.api", "nats").DeliverPolicy.NEW
            await self.jetstream.subscribe(
                "bare-stream", cb=take, ordered_consumer=True, deliver_policy=policy
            )

    async def send(self, data: Any) -> None:
        """Publish it, and wait for the acknowledgement."""
        await self.jetstream.publish("bare-stream", encode(data))

    async def pump(self, messages: list[Any]) -> None:
        """Publish all; the client bounds how many are under way."""
        for data in messages:
            await self.jetstream.publish_async("bare-stream", encode(data))
        await self.jetstream.publish_async_completed()


class BareRedis(End):
    """redis-py, and a channel."""

    _task: asyncio.Task[None] | None = None

    async def open(self, heard: Heard | None = None) -> None:
        """Connect and subscribe."""
        self.client = need("redis.asyncio", "redis").Redis.from_url(self.url.partition("?")[0])
        self.pubsub = self.client.pubsub()
        if heard is not None:
            await self._subscribe(heard)

    async def _subscribe(self, heard: Heard) -> None:
        await self.pubsub.subscribe("bare")
        await self.pubsub.get_message(timeout=5)

        async def read() -> None:
            async for message in self.pubsub.listen():
                heard(decode(message["data"]))

        self._task = asyncio.create_task(read())

    async def send(self, data: Any) -> None:
        """Publish it."""
        await self.client.publish("bare", encode(data))

    async def pump(self, messages: list[Any]) -> None:
        """Publish all, a window at a time in one pipeline."""
        for begin in range(0, len(messages), WINDOW):
            pipeline = self.client.pipeline(transaction=False)
            for data in messages[begin : begin + WINDOW]:
                self._add(pipeline, data)
            await pipeline.execute()

    def _add(self, pipeline: Any, data: Any) -> None:
        pipeline.publish("bare", encode(data))

    async def close(self) -> None:
        """Disconnect."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self.pubsub.aclose()
        await self.client.aclose()


class BareStream(BareRedis):
    """redis-py, and a stream."""

    async def _subscribe(self, heard: Heard) -> None:
        reader = need("redis.asyncio", "redis").Redis.from_url(self.url.partition("?")[0])
        ready = asyncio.Event()

        async def read() -> None:
            newest = await reader.xrevrange("bare-stream", count=1)
            last: Any = newest[0][0] if newest else "0"
            ready.set()
            while True:
                for _, entries in await reader.xread({"bare-stream": last}, WINDOW, 1000) or []:
                    for last, fields in entries:  # noqa: B007 -- the last one is where to go on
                        heard(decode(fields[b"d"]))

        self._task = asyncio.create_task(read())
        await ready.wait()

    async def send(self, data: Any) -> None:
        """Add it."""
        await self.client.xadd("bare-stream", {"d": encode(data)}, maxlen=100_000)

    def _add(self, pipeline: Any, data: Any) -> None:
        pipeline.xadd("bare-stream", {"d": encode(data)}, maxlen=100_000)


class BareKafka(End):
    """aiokafka, and a topic."""

    _task: asyncio.Task[None] | None = None

    async def open(self, heard: Heard | None = None) -> None:
        """Connect, and read from the end of the topic."""
        aiokafka = need("aiokafka", "kafka")
        # It calls it an error that a topic is about to be created.
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
        servers = self.url.partition("://")[2].partition("?")[0].split(",")
        self.producer = aiokafka.AIOKafkaProducer(
            bootstrap_servers=servers, enable_idempotence=True
        )
        await self.producer.start()
        self.consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=servers, fetch_max_wait_ms=5)
        await self.consumer.start()
        if heard is not None:
            found = await self.producer.partitions_for("bare")
            partitions = [aiokafka.TopicPartition("bare", number) for number in found]
            self.consumer.assign(partitions)
            await self.consumer.seek_to_end(*partitions)

            async def read() -> None:
                async for record in self.consumer:
                    heard(decode(record.value))

            self._task = asyncio.create_task(read())

    async def send(self, data: Any) -> None:
        """Send it, and wait for the acknowledgement."""
        await self.producer.send_and_wait("bare", encode(data), key=b"/")

    async def pump(self, messages: list[Any]) -> None:
        """Send all; the client joins them in batches."""
        for begin in range(0, len(messages), WINDOW):
            sent = [
                await self.producer.send("bare", encode(data), key=b"/")
                for data in messages[begin : begin + WINDOW]
            ]
            await asyncio.gather(*sent)

    async def close(self) -> None:
        """Disconnect."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self.consumer.stop()
        await self.producer.stop()


BARE: dict[str, type[End]] = {
    "nats": BareNats,
    "nats stream": BareJetStream,
    "redis": BareRedis,
    "redis stream": BareStream,
    "kafka": BareKafka,
}
