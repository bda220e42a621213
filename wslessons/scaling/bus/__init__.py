"""Many servers, one conversation: one seam, and four things to put behind it.

    async with from_url("nats://127.0.0.1:4222?stream=chat") as bus:
        bus.publish(Event("/rooms/tea", {"text": "hello"}))
        async for item in bus.subscribe():
            print(item)

| URL | what carries the events | promise |
|---|---|---|
| `memory:` | this process | |
| `nats://HOST` | subjects of NATS | at most once, losses counted |
| `nats://HOST?stream=NAME` | a JetStream stream | a log |
| `redis://HOST` | Redis or Valkey's publish and subscribe | at most once, losses counted |
| `redis://HOST?stream=NAME` | a stream of Redis or Valkey | a log |
| `kafka://HOST` | a topic of Kafka, read in full by every server | a log |

With a log all servers agree on one order and its numbers, events are kept, and a client may resume
on another server. Several servers of a broker are separated by commas. Options:
`wslessons.scaling.bus.addresses.OPTIONS`; with `redis://`, ``sentinel=SERVICE`` says that the hosts
are Sentinels.

The parts: `seam` is the interface, `subscription` its readers, `items` what they are given;
`memory`, `pubsub` and `log` are the promises, `remote`, `outbox` and `presence` what the latter two
share; `nats`, `jetstream`, `redis`, `streams` and `kafka` are transports, kept connected by
`transport`; `broker` starts brokers for lessons and tests.
"""

from __future__ import annotations

from typing import Any

from wslessons.scaling.bus.addresses import Address
from wslessons.scaling.bus.items import (
    Down,
    Dropped,
    Event,
    Gap,
    Item,
    NewEpoch,
    Numbered,
    Status,
    Up,
)
from wslessons.scaling.bus.log import Log
from wslessons.scaling.bus.memory import Memory
from wslessons.scaling.bus.pubsub import PubSub
from wslessons.scaling.bus.seam import Backplane
from wslessons.scaling.bus.subscription import Subscription

__all__ = [
    "Backplane",
    "Down",
    "Dropped",
    "Event",
    "Gap",
    "Item",
    "Log",
    "Memory",
    "NewEpoch",
    "Numbered",
    "PubSub",
    "Status",
    "Subscription",
    "Up",
    "from_url",
]


def from_url(url: str, **options: Any) -> Backplane:
    """Return the bus that `url` names, not connected yet: ``async with from_url(...) as bus``.

    In: `options`, the keyword arguments of `Memory`, `PubSub` or `Log`; those of all three are
    `node` and `keep`. Raises `UserError` for a URL that can't be used, and for an extra that is
    not installed.
    """
    if url in ("memory:", "memory://"):
        return Memory(**options)
    address = Address(url)
    if address.scheme == "nats":
        from wslessons.scaling.bus import jetstream, nats

        if address.has("stream"):
            return Log(jetstream.JetStream(address), **options)
        return PubSub(nats.Core(address), **options)
    if address.scheme == "redis":
        from wslessons.scaling.bus import redis, streams

        if address.has("stream"):
            return Log(streams.Streams(address), **options)
        return PubSub(redis.Channels(address), **options)
    from wslessons.scaling.bus import kafka

    return Log(kafka.Topic(address), **options)
