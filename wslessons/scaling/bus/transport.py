"""A connection to a broker that is kept: it breaks, it is noticed, it comes back.

The clients' own reconnecting is switched off everywhere: one hangs in silence when its subscriber's
connection drops, another waits for ever for a stalled socket to close. So there is one loop for
all, and a sign of life is asked for every second.
"""

from __future__ import annotations

import asyncio
import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Protocol

from wslessons.errors import UserError
from wslessons.scaling.bus.tasks import Unreachable, apart, end

__all__ = ["CHECK", "LOST_AFTER", "Host", "LogHost", "LogTransport", "Transport"]

logger = logging.getLogger(__name__)

CHECK = 1.0
"""Seconds between two questions whether the broker is still there."""
LOST_AFTER = 2.0
"""Seconds for an answer before the connection counts as lost."""
CONNECT_TIME = 10.0
"""Seconds for one attempt to connect, with whatever has to be created there."""
LONGEST_DELAY = 2.0
"""Most seconds between two attempts to come back; the first come within a tenth."""


class Host(Protocol):
    """What a transport tells its bus."""

    def heard(self, data: bytes) -> None:
        """Take a message that another server told everybody (or this one did)."""
        ...

    def lost(self, why: str) -> None:
        """Take note that the broker can't be reached."""
        ...

    def back(self) -> None:
        """Take note that it can be reached, first or again."""
        ...


class LogHost(Host, Protocol):
    """What a transport with a log tells its bus as well."""

    def opened(self, epoch: str, before: dict[int, int]) -> None:
        """Take note in which life the log is, and after which numbers (by lane) reading begins.

        Called before the first entry, and again only if the log was replaced by another.
        """
        ...

    def entry(self, lane: int, first: int, step: int, data: bytes) -> None:
        """Take the next entry of a lane: its events have the numbers first, first + step, ..."""
        ...

    def trimmed(self, lane: int, number: int, count: int | None) -> None:
        """Take note that the log no longer has what we would have read next, up to `number`."""
        ...


class Transport(ABC):
    """One broker's messages, at most once. In: `label`, the broker's name in sentences."""

    limit = 2**20
    """Bytes that one message may have."""

    def __init__(self, label: str) -> None:
        self.label = label
        self._connected = False
        self._keeper: asyncio.Task[None] | None = None

    async def open(self, host: Host) -> None:
        """Connect, and keep the connection from now on. Raises `UserError`."""
        self.host = host
        try:
            await apart(self._connect(), CONNECT_TIME)
        except BaseException as exc:
            await self._disconnect()
            if isinstance(exc, Unreachable):
                sentence = f"can't reach {self.label}: {exc}. Is it running, and is the URL right?"
                raise UserError(sentence) from None
            raise
        self._connected = True
        host.back()
        self._keeper = asyncio.create_task(self._keep(), name=f"connection to {self.label}")

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        if self._keeper is not None:
            await end(self._keeper)
            self._keeper = None
        self._connected = False
        await self._disconnect()

    @abstractmethod
    async def tell(self, data: bytes) -> None:
        """Send a message to all servers that listen now. Raises `Unreachable`."""

    @abstractmethod
    async def flush(self) -> None:
        """Wait until the broker has all that was told. Raises `Unreachable`."""

    @abstractmethod
    async def _connect(self) -> None:
        """Connect and subscribe. Raises `Unreachable`, or `UserError` for what won't mend."""

    @abstractmethod
    async def _serve(self) -> None:
        """Receive until the connection is lost. Raises `Unreachable`."""

    @abstractmethod
    async def _disconnect(self) -> None:
        """Let go of whatever `_connect` made, in bounded time. Never raises."""

    async def _keep(self) -> None:
        while True:
            why = "the connection ended"
            try:
                await apart(self._serve())
            except Unreachable as exc:
                why = str(exc)
            self._connected = False
            logger.info("lost %s: %s", self.label, why)
            self.host.lost(why)
            for delay in _delays():
                await self._disconnect()
                await asyncio.sleep(delay)
                try:
                    await apart(self._connect(), CONNECT_TIME)
                    break
                except (Unreachable, UserError) as exc:
                    self.host.lost(str(exc))
            self._connected = True
            logger.info("connected to %s again", self.label)
            self.host.back()

    def _check_connected(self) -> None:
        if not self._connected:
            raise Unreachable(f"{self.label} can't be reached now")


class LogTransport(Transport):
    """One broker's log, and beside it messages at most once."""

    history = 4096
    """How many of the newest entries to read at first."""
    tail: dict[int, int]
    """How far, by lane, the log went when it was opened first."""

    def lane(self, room: str) -> int:
        """Return the lane of `room`, the same on all servers."""
        return 0

    def group(self, room: str) -> str:
        """Return whose events may share an entry with those of `room`, the same on all servers."""
        return ""

    @abstractmethod
    async def append(self, group: str, data: bytes, id: str, count: int, last: int) -> None:
        """Append an entry; return once the broker has it for good. Raises `Unreachable`.

        In: the entry's `id`, the same if it is appended again; the `count` of events in it, and the
        sequence number of the `last`.
        """


def _delays() -> Iterator[float]:
    """Yield the seconds to wait before each attempt to come back, so that not all come at once."""
    most = 0.1
    while True:
        yield random.uniform(0, most)
        most = min(LONGEST_DELAY, most * 2)
