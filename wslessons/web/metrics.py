"""What the server and its bus count, for Prometheus to collect from ``GET /metrics``.

Counting must not slow down a fan-out that writes a hundred messages at once to a thousand members,
so `Meter` adds plain integers, and looks into joined frames once for all the members that get them.
Prometheus' own objects (a lock for each increment) are made when it asks.

Source: https://prometheus.io/docs/practices/naming/ and
https://prometheus.github.io/client_python/collector/custom/
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from wslessons.chat import ChatServer

__all__ = ["Meter", "Metrics", "code_label", "payloads", "texts"]

PACE = 0.25
"""Seconds between two measurements of the loop's delay."""
BUS: dict[str, tuple[type[GaugeMetricFamily | CounterMetricFamily], str, str]] = {
    "connected": (
        GaugeMetricFamily,
        "chat_bus_connected",
        "Whether the broker can be reached: 1 or 0.",
    ),
    "backlog": (
        GaugeMetricFamily,
        "chat_bus_backlog",
        "Events of this server that the broker has not acknowledged.",
    ),
    "lag": (
        GaugeMetricFamily,
        "chat_bus_lag_seconds",
        "How long an event takes to the broker and, with a log, back.",
    ),
    "missed": (
        CounterMetricFamily,
        "chat_bus_events_missed",
        "Events of other servers that this one never got.",
    ),
    "unsent": (
        CounterMetricFamily,
        "chat_bus_events_unsent",
        "Events of this server that the others never got.",
    ),
    "reconnects": (
        CounterMetricFamily,
        "chat_bus_reconnects",
        "How often the broker was reached again.",
    ),
}
"""What a bus counts, as `Bus.stats` names it: its kind, its name here, and what it means."""
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

# Nobody's text can begin so: a text message begins with its sender's name in brackets, and a JSON
# one with another type.
_MISSED = re.compile(rb'\[system\] you missed (\d+) message|\{"type":"missed","count":(\d+)')


def code_label(code: int) -> str:
    """Return a close code as a label: itself if RFC 6455 has it, else its class.

    Clients choose codes, and each label is a time series that Prometheus keeps.

    >>> code_label(1001), code_label(4321)
    ('1001', '4xxx')

    Args:
        code: a close code.

    Returns:
        The label.
    """
    return str(code) if 1000 <= code <= 1015 else f"{code // 1000}xxx"


def payloads(data: bytes) -> Iterator[bytes]:
    """Yield the payloads of whole, unmasked frames that were joined (RFC 6455, section 5.2).

    Args:
        data: whole frames, unmasked and not compressed.

    Yields:
        Each payload, in order.
    """
    at = 0
    while at < len(data):
        size, head = data[at + 1], 2
        if size >= 126:
            head = 4 if size == 126 else 10
            size = int.from_bytes(data[at + 2 : at + head])
        yield data[at + head : at + head + size]
        at += head + size


def texts(data: bytes) -> list[str]:
    """Return the texts of joined text frames.

    >>> from wslessons.connection import text_frame
    >>> texts(text_frame(b"one") + text_frame("zwölf".encode()))
    ['one', 'zwölf']

    Args:
        data: whole frames, unmasked and not compressed.

    Returns:
        The texts, in order.
    """
    return [payload.decode() for payload in payloads(data)]


class Meter:
    """Plain counts of all connections."""

    def __init__(self) -> None:
        self.opened = 0
        self.closed: Counter[str] = Counter()
        """Connections that have ended, by `code_label`."""
        self.received = 0
        self.sent = 0
        self.missed = 0
        """Events that slow readers were told they had missed."""
        self._data, self._count = b"", 0
        self._split: tuple[bytes, list[str]] = (b"", [])

    def sent_payload(self, payload: bytes) -> None:
        """Count one message.

        Args:
            payload: its text, as UTF-8.
        """
        self.sent += 1
        self._count_missed(payload)

    def wrote(self, data: bytes) -> None:
        """Count what is in joined frames; the same object for the next member costs nothing.

        Args:
            data: whole frames, unmasked and not compressed.
        """
        if data is not self._data:
            found = list(payloads(data))
            self._data, self._count = data, len(found)
            # The notice of a gap is always written by itself, to the one whom it concerns.
            self._count_missed(found[0])
        self.sent += self._count

    def split(self, data: bytes) -> list[str]:
        """Return the texts in joined frames, taken apart once for all members that get them.

        Args:
            data: whole frames, unmasked and not compressed.

        Returns:
            The texts, in order.
        """
        if data is not self._split[0]:
            self._split = (data, texts(data))
            self._count_missed(self._split[1][0].encode())
        return self._split[1]

    def _count_missed(self, payload: bytes) -> None:
        if found := _MISSED.match(payload):
            self.missed += int(found[1] or found[2])


class Metrics(Collector):
    """The registry of one application, and the task that watches the event loop.

    Args:
        chat: whose rooms and members are counted.
    """

    def __init__(self, chat: ChatServer) -> None:
        self.meter = Meter()
        self._chat = chat
        self.registry = CollectorRegistry()
        self._delay = Histogram(
            "chat_loop_delay_seconds",
            f"How much later than due the event loop ran, measured every {PACE} s.",
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Yield what there is to tell (prometheus_client's interface)."""
        meter, rooms = self.meter, self._chat.rooms.values()
        yield GaugeMetricFamily(
            "chat_connections",
            "WebSockets that are open.",
            meter.opened - meter.closed.total(),
        )
        yield GaugeMetricFamily(
            "chat_people",
            "People in all rooms, whichever library carries them.",
            sum(len(room.members) for room in rooms),
        )
        yield GaugeMetricFamily(
            "chat_rooms", "Rooms with people in them.", sum(bool(room.members) for room in rooms)
        )
        yield CounterMetricFamily(
            "chat_messages_received", "Messages from clients.", meter.received
        )
        yield CounterMetricFamily("chat_messages_sent", "Messages to clients.", meter.sent)
        yield CounterMetricFamily(
            "chat_events_missed",
            "Events that readers who lagged were told they missed.",
            meter.missed,
        )
        closed = CounterMetricFamily(
            "chat_connections_closed", "WebSockets that have ended.", labels=["code"]
        )
        for label, count in sorted(meter.closed.items()):
            closed.add_metric([label], count)
        yield closed
        # A bus that somebody wrote for their own rooms need not count anything.
        if stats := getattr(self._chat.bus, "stats", None):
            for name, value in stats().items():
                kind, title, help_text = BUS[name]
                yield kind(title, help_text, value)

    def expose(self, accept: str = "") -> tuple[bytes, str]:
        """Return all of it as text, in the format that `accept` prefers, and its media type.

        Args:
            accept: the request's Accept header.

        Returns:
            The text, and its media type.
        """
        encoder, media_type = choose_encoder(accept)
        return encoder(self.registry), media_type

    async def watch_loop(self) -> None:
        """Measure for ever how late the loop runs what is due: its users wait as long, each."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + PACE
            await asyncio.sleep(PACE)
            self._delay.observe(max(0.0, loop.time() - due))
