"""The two ends that the bus's bench measures: a bus of ours, and a bare client.

Both send the same JSON over the same broker. Run as a module, it is the receiving end: a line of
JSON ``{"open": [CONTENDER, KIND, URL]}`` has it listen, ``{"count": n}`` wait until it has received
so many more, ``{"open": null}`` listen no longer; it answers each with a line. It ends with its
stdin.
"""

from __future__ import annotations

import asyncio
import json
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
                await receiver.end.close()
            receiver = Receiver(make_end(*question["open"])) if question["open"] else None
            if receiver is not None:
                await receiver.end.open(receiver.heard)
        print(json.dumps(answer), flush=True)
    if receiver is not None:
        await receiver.end.close()


if __name__ == "__main__":
    asyncio.run(receive())
