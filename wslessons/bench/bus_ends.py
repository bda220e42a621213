"""The two ends that the bus's bench measures: a bus of ours, and a bare client.

Both send the same JSON over the same broker. Run as a module, it is the receiving end: a line of
JSON ``{"open": [CONTENDER, KIND, URL]}`` has it listen, ``{"count": n}`` wait until it has received
so many more, ``{"open": null}`` listen no longer; it answers each with a line. It ends with its
stdin.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import msgspec

from wslessons.client.stdin import piped_lines
from wslessons.errors import need
from wslessons.scaling.bus import Bus, Event, from_url, log, pubsub
from wslessons.scaling.bus.transport import close_quietly

__all__ = ["KINDS", "BusEnd", "make_end"]

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

    _listening: asyncio.Task[None] | None = None

    @abstractmethod
    async def open(self) -> None:
        """Connect."""

    @abstractmethod
    async def listen(self, heard: Heard) -> None:
        """Call `heard` with all that arrives from now on."""

    @abstractmethod
    async def send(self, data: Any) -> None:
        """Send one message as soon as possible."""

    @abstractmethod
    async def pump(self, messages: list[Any]) -> None:
        """Send many as fast as possible, and wait until the broker has them."""

    async def close(self) -> None:
        """Listen no longer, and disconnect."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait([self._listening])


class BareNats(End):
    """nats-py, and a subject."""

    async def open(self) -> None:
        """Connect."""
        self.client = await need("nats", "nats").connect(self.url.partition("?")[0])

    async def listen(self, heard: Heard) -> None:
        """Subscribe."""

        async def take(msg: Any) -> None:
            heard(decode(msg.data))

        await self.client.subscribe("bare", cb=take)
        await self.client.flush()

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

    async def open(self) -> None:
        """Connect, and create the stream if there is none."""
        await super().open()
        self.jetstream = self.client.jetstream()
        await self.jetstream.add_stream(
            name="bare", subjects=["bare-stream"], max_age=86_400, max_bytes=2**28
        )

    async def listen(self, heard: Heard) -> None:
        """Subscribe to what is new."""

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

    async def open(self) -> None:
        """Connect."""
        self.client = need("redis.asyncio", "redis").Redis.from_url(self.url.partition("?")[0])
        self.pubsub = self.client.pubsub()

    async def listen(self, heard: Heard) -> None:
        """Subscribe."""
        await self.pubsub.subscribe("bare")
        await self.pubsub.get_message(timeout=5)

        async def read() -> None:
            async for message in self.pubsub.listen():
                heard(decode(message["data"]))

        self._listening = asyncio.create_task(read())

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
        await super().close()
        await self.pubsub.aclose()
        await self.client.aclose()


class BareStream(BareRedis):
    """redis-py, and a stream."""

    async def listen(self, heard: Heard) -> None:
        """Read what comes after the newest entry."""
        reader = need("redis.asyncio", "redis").Redis.from_url(self.url.partition("?")[0])
        newest = await reader.xrevrange("bare-stream", count=1)
        last: Any = newest[0][0] if newest else "0"

        async def read() -> None:
            nonlocal last
            while True:
                for _, entries in await reader.xread({"bare-stream": last}, WINDOW, 1000) or []:
                    for last, fields in entries:  # noqa: B007 -- the last one is where to go on
                        heard(decode(fields[b"d"]))

        self._listening = asyncio.create_task(read())

    async def send(self, data: Any) -> None:
        """Add it."""
        await self.client.xadd("bare-stream", {"d": encode(data)}, maxlen=100_000)

    def _add(self, pipeline: Any, data: Any) -> None:
        pipeline.xadd("bare-stream", {"d": encode(data)}, maxlen=100_000)


class BareKafka(End):
    """aiokafka, and a topic."""

    async def open(self) -> None:
        """Connect."""
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

    async def listen(self, heard: Heard) -> None:
        """Read from the end of the topic."""
        found = await self.producer.partitions_for("bare")
        partition = need("aiokafka", "kafka").TopicPartition
        partitions = [partition("bare", number) for number in found]
        self.consumer.assign(partitions)
        await self.consumer.seek_to_end(*partitions)

        async def read() -> None:
            async for record in self.consumer:
                heard(decode(record.value))

        self._listening = asyncio.create_task(read())

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
        await super().close()
        await self.consumer.stop()
        await self.producer.stop()


KINDS: dict[str, tuple[str, str, type[End]]] = {
    "nats": ("nats", "subject=bench", BareNats),
    "nats stream": ("nats", "stream=bench", BareJetStream),
    "redis": ("redis", "channel=bench", BareRedis),
    "redis stream": ("redis", "stream=bench", BareStream),
    "kafka": ("kafka", "topic=bench", BareKafka),
}
"""The kinds of bus: the broker that each needs, what its URL ends in, and the bare client."""


class BusEnd(End):
    """A bus of `wslessons.scaling.bus`."""

    bus: Bus

    async def open(self) -> None:
        """Start the bus."""
        self.bus = from_url(self.url)
        await self.bus.start_up()

    async def listen(self, heard: Heard) -> None:
        """Subscribe."""
        # The position is taken now, and not when the task comes to run.
        events = self.bus.subscribe()

        async def read() -> None:
            async for item in events:
                if isinstance(item, Event):
                    heard(item.data)

        self._listening = asyncio.create_task(read())

    async def send(self, data: Any) -> None:
        """Publish it."""
        self.bus.publish(Event("/", data))

    async def pump(self, messages: list[Any]) -> None:
        """Publish all, without letting the backlog overflow."""
        for data in messages:
            self.bus.publish(Event("/", data))
            if self.bus.backlog > 2000:
                await self.bus.flush(1000)
        await self.bus.flush()

    async def close(self) -> None:
        """Stop the bus."""
        await super().close()
        await self.bus.stop()


def make_end(contender: str, kind: str, url: str) -> End:
    """Make an end that is not connected yet.

    Args:
        contender: "bus" or "bare".
        kind: one of `KINDS`.
        url: of the broker, with the bus's options.

    Returns:
        The end.
    """
    return BusEnd(url) if contender == "bus" else KINDS[kind][2](url)


class Receiver:
    """The receiving end of one turn: it notes when what was sent has arrived.

    Args:
        end: it is not connected yet.
    """

    def __init__(self, end: End) -> None:
        self.end = end
        self._latencies: list[float] = []
        self._arrived = asyncio.Event()
        self._wanted = 0

    def heard(self, data: Any) -> None:
        """Take one message."""
        self._latencies.append(time.monotonic() - data["t"])
        if len(self._latencies) == self._wanted:
            self._arrived.set()

    async def count(self, wanted: int) -> dict[str, Any]:
        """Wait for messages.

        Args:
            wanted: how many more.

        Returns:
            Their ``latencies`` in seconds, sorted, and the time at which the last was here, ``at``.
        """
        self._wanted = wanted
        if len(self._latencies) < wanted:
            await self._arrived.wait()
        found = sorted(self._latencies[:wanted])
        del self._latencies[:]
        self._arrived.clear()
        self._wanted = 0
        return {"latencies": found, "at": time.monotonic()}


async def receive() -> None:
    """Be the receiving end, one turn after another, until stdin ends."""
    receiver: Receiver | None = None
    print(json.dumps({"ready": True}), flush=True)
    async for line in piped_lines():
        question = json.loads(line)
        answer: dict[str, Any] = {}
        if "count" in question and receiver is not None:
            answer = await receiver.count(question["count"])
        else:
            if receiver is not None:
                # A client that does not let go must not cost the result of its turn.
                await close_quietly(receiver.end.close, seconds=5)
            receiver = Receiver(make_end(*question["open"])) if question["open"] else None
            if receiver is not None:
                await receiver.end.open()
                await receiver.end.listen(receiver.heard)
        print(json.dumps(answer), flush=True)
    if receiver is not None:
        await receiver.end.close()


if __name__ == "__main__":
    asyncio.run(receive())
