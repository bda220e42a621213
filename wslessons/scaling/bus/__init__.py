"""Many servers, one conversation: one interface, and what to put behind it.

    async with from_url("nats://127.0.0.1:4222?stream=chat") as bus:
        bus.publish(Event("/rooms/tea", {"text": "hello"}))
        async for item in bus.subscribe():
            print(item)

| URL | what carries the events | promise |
|---|---|---|
| `memory:` | this process | |
| `sqlite:PATH` | a file, for one server | a log |
| `nats://HOST` | subjects of NATS | at most once, losses counted |
| `nats://HOST?stream=NAME` | a JetStream stream | a log |
| `redis://HOST` | Redis or Valkey's publish and subscribe | at most once, losses counted |
| `redis://HOST?stream=NAME` | a stream of Redis or Valkey | a log |
| `kafka://HOST` | a topic of Kafka, read in full by every server | a log |

With a log all servers agree on one order and its numbers, events are kept, and a client may resume
on another server. Several servers of a broker are separated by commas. TLS is spoken with `tls://`
(NATS), `rediss://` and `kafka+ssl://`. Options: `wslessons.scaling.bus.url.OPTIONS`; with Redis,
``sentinel=SERVICE`` says that the hosts are Sentinels.

The modules: `bus` is the interface with its readers, and the bus of a single process; `items` is
what they are given; `pubsub` and `log` are the two promises, with `remote` and `presence` for what
both need; `nats`, `redis`, `kafka` and `sqlite` carry them, kept connected by `transport`; `url`
names them; `rooms` are a chat's rooms on a bus.
"""

from __future__ import annotations

from wslessons.scaling.bus.bus import Bus, Memory, Subscription
from wslessons.scaling.bus.items import (
    Event,
    Gap,
    Item,
    NewEpoch,
    NodeDown,
    NodeUp,
    Status,
    Unsent,
)
from wslessons.scaling.bus.log import Log
from wslessons.scaling.bus.pubsub import PubSub
from wslessons.scaling.bus.url import from_url

__all__ = [
    "Bus",
    "Event",
    "Gap",
    "Item",
    "Log",
    "Memory",
    "NewEpoch",
    "NodeDown",
    "NodeUp",
    "PubSub",
    "Status",
    "Subscription",
    "Unsent",
    "from_url",
]
