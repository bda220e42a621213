"""Open dashboard tabs, one class for each way of staying up to date.

    async with PollingTab("http://127.0.0.1:8000", interval=2) as tab:
        ...
    print(tab.requests, tab.unchanged, tab.missed)

A tab has a connection of its own, as a browser's does, kept alive between requests, and comes back
by itself after a break. The client library for HTTP is aiohttp: a poll costs it a tenth of what it
costs httpx, so it is the server that gets measured, and it is the one of the two still released.

Not handled here: backing off from a server that stays away, which is lesson 3.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from abc import ABC, abstractmethod
from collections import deque
from typing import Self

import aiohttp
import msgspec
from websockets import ConnectionClosed, InvalidHandshake, connect

from wslessons.errors import UserError
from wslessons.push import sse
from wslessons.push.fleet import Change, Snapshot, Update

__all__ = ["KINDS", "EventSourceTab", "LongPollingTab", "PollingTab", "Tab", "WebSocketTab"]

BROKEN = (
    *(aiohttp.ClientError, ConnectionClosed, InvalidHandshake, OSError, TimeoutError),
    *(msgspec.DecodeError, ValueError),  # the latter for bytes that are no UTF-8, or no line
)
"""What may come out of a connection that breaks, or of a server that answers nonsense."""

TIMEOUT = 10.0
"""Seconds that a new tab waits for the first state."""

_decode = msgspec.json.Decoder(Snapshot | Change).decode


class Tab(ABC):
    """A dashboard in a browser's tab: enter it to open it, leave it to close it.

    Args:
        url: of the server, such as ``http://127.0.0.1:8000``.
        interval: seconds from one poll to the next (polling only).
        retry: seconds before it comes back after a break, at most; a random part of them.
        rng: draws that part, and a poller's phase.

    Raises:
        UserError: on entering, when no state has come within `TIMEOUT` seconds.
    """

    def __init__(
        self, url: str, *, interval: float = 2, retry: float = 1, rng: random.Random | None = None
    ) -> None:
        self.url, self.interval, self.retry = url.rstrip("/"), interval, retry
        self.rng = rng or random.Random()
        self.requests = 0
        """HTTP requests sent, the opening handshake of a WebSocket included."""
        self.unchanged = 0
        """How many of them were answered with "nothing changed" (304)."""
        self.updates = 0
        """How often it learnt of a change, or of several at once."""
        self.missed = 0
        """Changes that were over before it looked."""
        self.breaks = 0
        """How often its connection broke."""
        self.broken = False
        """Whether it is broken now."""
        self.delays: deque[float] = deque(maxlen=100_000)
        """Seconds from a change to here, one for each update; both clocks are this machine's."""
        self.history: deque[tuple[str, str]] = deque(maxlen=1000)
        """Each (service, status) that it has shown, the first state left out."""
        self.services: dict[str, str] = {}
        self.version = -1
        self.boot = ""
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def tag(self) -> str | None:
        """The name of the last state seen, None before the first."""
        return f"{self.boot}-{self.version}" if self.boot else None

    @abstractmethod
    async def watch(self) -> None:
        """Take updates until the connection breaks; raises one of `BROKEN`, or returns."""

    def take(self, update: Update) -> None:
        """Show `update`, and note how late it is and what was missed.

        Args:
            update: a change, or the whole state.
        """
        self.broken = False
        now, old = time.time(), self.version
        services = update.services if isinstance(update, Snapshot) else {**self.services}
        if isinstance(update, Change):
            services[update.service] = update.status
        again = bool(self.boot) and (isinstance(update, Change) or update.boot == self.boot)
        if isinstance(update, Snapshot):
            self.boot = update.boot
        if again and update.version > old:
            self.updates += 1
            self.missed += update.version - old - 1
            self.delays.append(now - update.at)
            self.history += [item for item in services.items() if item not in self.services.items()]
        self.version, self.services = update.version, services
        self._news.set()

    async def reached(self, version: int) -> None:
        """Return once the tab shows `version` or a later one.

        Args:
            version: of the fleet.
        """
        while self.version < version:
            self._news.clear()
            await self._news.wait()

    async def heard(self) -> None:
        """Return when the next answer or message is there, news or not."""
        self._news.clear()
        await self._news.wait()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._stay(), name=f"{type(self).__name__} of {self.url}")
        try:
            async with asyncio.timeout(TIMEOUT):
                await self.reached(0)
        except BaseException as exc:
            await self.close()
            if isinstance(exc, TimeoutError):
                raise UserError(
                    f"no state came from {self.url} in {TIMEOUT:g} s: is a fleet served there?"
                ) from None
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the tab. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _stay(self) -> None:
        while True:
            with contextlib.suppress(*BROKEN):
                await self.watch()
            self.breaks += 1
            self.broken = True
            await asyncio.sleep(self.rng.random() * self.retry)

    def _session(self) -> aiohttp.ClientSession:
        # A session each, since one session would share its connections among the tabs.
        connector = aiohttp.TCPConnector(limit=1, keepalive_timeout=75)
        return aiohttp.ClientSession(connector=connector, raise_for_status=True)

    async def _poll(self, session: aiohttp.ClientSession, query: str = "") -> None:
        headers = {"If-None-Match": f'"{self.tag}"'} if self.tag else {}
        self.requests += 1
        async with session.get(f"{self.url}/fleet{query}", headers=headers) as response:
            if response.status == 304:
                self.unchanged += 1
                self.broken = False
                self._news.set()
            else:
                self.take(_decode(await response.read()))


class PollingTab(Tab):
    """Asks every `interval` seconds whether something has changed."""

    async def watch(self) -> None:
        """Poll at fixed times; the time of a late answer is skipped, not made up for."""
        async with self._session() as session:
            await self._poll(session)
            loop = asyncio.get_running_loop()
            due = loop.time() + self.rng.random() * self.interval
            while True:
                await asyncio.sleep(due - loop.time())
                await self._poll(session)
                while due <= loop.time():
                    due += self.interval


class LongPollingTab(Tab):
    """Asks once, and is answered when something has changed or the timeout is over."""

    timeout = 25.0

    async def watch(self) -> None:
        """Ask again as soon as an answer is there."""
        async with self._session() as session:
            while True:
                await self._poll(session, f"?wait={self.timeout:g}" if self.tag else "")


class EventSourceTab(Tab):
    """Listens to one HTTP response that does not end, as a browser's `EventSource` does."""

    async def watch(self) -> None:
        """Ask for the events after the last one seen, and take them."""
        headers = {"Last-Event-ID": self.tag} if self.tag else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
        async with self._session() as session:
            self.requests += 1
            async with session.get(
                f"{self.url}/events", headers=headers, timeout=timeout
            ) as response:
                async for event in sse.decode(response.content):
                    self.take(_decode(event.data))


class WebSocketTab(Tab):
    """Is told, over a WebSocket."""

    async def watch(self) -> None:
        """Connect, saying what was seen last, and take what comes."""
        query = f"?since={self.tag}" if self.tag else ""
        self.requests += 1
        async with connect(
            f"ws{self.url.removeprefix('http')}/ws{query}",
            proxy=None,
            compression=None,
            ping_interval=None,  # a browser's doesn't ping either: the server does
            close_timeout=1,
        ) as websocket:
            async for message in websocket:
                self.take(_decode(message))


KINDS: dict[str, type[Tab]] = {
    "polling": PollingTab,
    "long polling": LongPollingTab,
    "server-sent events": EventSourceTab,
    "WebSocket": WebSocketTab,
}
"""All kinds of tab, by what they are called."""
