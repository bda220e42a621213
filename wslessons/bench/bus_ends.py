"""The two ends that the bus's bench measures: a bus of ours, and a bare client.

Both send the same JSON over the same broker. Run as a module with CONTENDER, KIND and URL, it is
the receiving end: it prints a line when it listens, and for each line of JSON ``{"count": n}`` that
it is sent, once it has received so many more, a line with what it found. It ends with its stdin.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from wslessons.bench.bus_bare import BARE, End, Heard
from wslessons.client.stdin import piped_lines
from wslessons.scaling.bus import Bus, Event, from_url

__all__ = ["KINDS", "BusEnd", "make_end"]

KINDS = {
    "nats": ("nats", "subject=bench"),
    "nats stream": ("nats", "stream=bench"),
    "redis": ("redis", "channel=bench"),
    "redis stream": ("redis", "stream=bench"),
    "kafka": ("kafka", "topic=bench"),
}
"""The kinds of bus, each with the broker it needs and what its URL ends in."""


class BusEnd(End):
    """A bus of `wslessons.scaling.bus`."""

    bus: Bus
    _task: asyncio.Task[None] | None = None

    async def open(self, heard: Heard | None = None) -> None:
        """Start the bus."""
        self.bus = from_url(self.url)
        await self.bus.start_up()
        if heard is not None:
            self._task = asyncio.create_task(self._read(heard))

    async def _read(self, heard: Heard) -> None:
        async for item in self.bus.subscribe():
            if isinstance(item, Event):
                heard(item.data)

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
        await self.bus.stop()
        if self._task is not None:
            await self._task


def make_end(contender: str, kind: str, url: str) -> End:
    """Make an end that is not connected yet.

    Args:
        contender: "bus" or "bare".
        kind: one of `KINDS`.
        url: of the broker, with the bus's options.

    Returns:
        The end.
    """
    return BusEnd(url) if contender == "bus" else BARE[kind](url)


async def receive(contender: str, kind: str, url: str) -> None:
    """Be the receiving end until stdin ends.

    Args:
        contender: "bus" or "bare".
        kind: one of `KINDS`.
        url: of the broker, with the bus's options.
    """
    latencies: list[float] = []
    arrived, wanted = asyncio.Event(), 0

    def heard(data: Any) -> None:
        latencies.append(time.monotonic() - data["t"])
        if len(latencies) == wanted:
            arrived.set()

    end = make_end(contender, kind, url)
    await end.open(heard)
    print(json.dumps({"listening": True}), flush=True)
    async for line in piped_lines():
        wanted = json.loads(line)["count"]
        if len(latencies) < wanted:
            await arrived.wait()
        found = sorted(latencies[:wanted])
        print(json.dumps({"latencies": found, "at": time.monotonic()}), flush=True)
        del latencies[:]
        arrived.clear()
        wanted = 0
    await end.close()


if __name__ == "__main__":
    asyncio.run(receive(*sys.argv[1:]))
