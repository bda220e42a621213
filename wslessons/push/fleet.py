"""The statuses of a fleet of services, the log of their changes, and how to follow it.

Not handled here: anything on disk. A fleet that is made anew counts from 0 again, and its `boot`
tells its followers so.
"""

from __future__ import annotations

import asyncio
import random
import re
import secrets
import time
from collections.abc import Iterator, Sequence

import msgspec

from wslessons.chat.channel import Channel, Closed, Lagged, Receiver
from wslessons.errors import UserError

__all__ = [
    "STATUSES",
    "Change",
    "Fleet",
    "Follower",
    "Snapshot",
    "Update",
    "drift",
    "live",
    "moments",
]

_NUMBER = re.compile(r"[0-9]{1,18}")

STATUSES = ("queued", "building", "deploying", "healthy", "failed")
SERVICES = ("accounts", "api", "billing", "cart", "images", "mail", "search", "web")


class Change(msgspec.Struct, frozen=True, tag_field="kind", tag="change"):
    """One service's new status: the fleet's `version` from then on, `at` (seconds, Unix time)."""

    version: int
    service: str
    status: str
    at: float


class Snapshot(msgspec.Struct, frozen=True, tag_field="kind", tag="snapshot"):
    """All statuses at `version`, and when the last of them changed; `boot` names the fleet."""

    boot: str
    version: int
    services: dict[str, str]
    at: float


Update = Snapshot | Change


class Fleet:
    """Services, each with a status; a bounded log of `capacity` changes; any number of followers.

    >>> fleet = Fleet(["api", "web"], boot="b")
    >>> fleet.report("api", "failed").version
    1
    >>> fleet.report("api", "failed") is None  # it was so already
    True
    >>> fleet.tag
    'b-1'

    Args:
        services: their names; each is healthy at first.
        boot: what tells this fleet from others; by default random.
        capacity: how many changes the log keeps for those who resume.
    """

    def __init__(
        self, services: Sequence[str] = SERVICES, *, boot: str | None = None, capacity: int = 256
    ) -> None:
        self.services = dict.fromkeys(services, "healthy")
        self.boot = secrets.token_hex(4) if boot is None else boot
        self.log: Channel[Change] = Channel(capacity)
        self._at = time.time()

    @property
    def version(self) -> int:
        """How many changes there were."""
        return self.log.offset

    @property
    def tag(self) -> str:
        """What names this very state: the ETag, an event's id, and what `follow` takes."""
        return f"{self.boot}-{self.version}"

    def snapshot(self) -> Snapshot:
        """Return the state as it is now."""
        return Snapshot(self.boot, self.version, dict(self.services), self._at)

    def report(self, service: str, status: str) -> Change | None:
        """Set one status and tell all followers.

        Args:
            service: one of the fleet's.
            status: one of `STATUSES`.

        Returns:
            The change, or None when it was so already.

        Raises:
            UserError: there is no such service or status.
        """
        if service not in self.services:
            raise UserError(f"there is no service {service!r}: choose {', '.join(self.services)}.")
        if status not in STATUSES:
            raise UserError(f"there is no status {status!r}: choose {', '.join(STATUSES)}.")
        if self.services[service] == status:
            return None
        self.services[service], self._at = status, time.time()
        change = Change(self.version + 1, service, status, self._at)
        self.log.send(change)
        return change

    def follow(self, tag: str | None = None) -> Follower:
        """Return a follower that begins after the state named by `tag`, or with a snapshot.

        Args:
            tag: of the last state that the follower has seen; None for none.

        Returns:
            The follower, which asks for updates at its own pace.
        """
        return Follower(self, tag)


class Follower:
    """One reader of a fleet: `next` returns a snapshot or the missed changes, then each change.

    It starts with a snapshot where it can't know what was missed: without a tag, with the tag of
    another fleet, and when it is more than the log's capacity behind.

    Args:
        fleet: whose updates it reads.
        tag: of the last state that is known; None for none.
    """

    def __init__(self, fleet: Fleet, tag: str | None) -> None:
        self._fleet = fleet
        boot, _, version = (tag or "").rpartition("-")
        self._reader: Receiver[Change] | None = None
        self._closed = False
        # A client says it: other digits than ASCII's, or more than Python reads, are none of ours.
        if (
            boot == fleet.boot
            and _NUMBER.fullmatch(version)
            and (seen := int(version)) <= fleet.version
        ):
            self._reader = fleet.log.subscribe(since=seen)

    async def next(self) -> Update:
        """Wait for the next update and return it; cancelling is safe, nothing gets lost.

        Raises:
            Closed: the follower is closed.
        """
        if self._closed:
            raise Closed("this follower is closed")
        if self._reader is not None:
            try:
                return await self._reader.recv()
            except Lagged:
                self._reader.close()
        self._reader = self._fleet.log.subscribe()
        return self._fleet.snapshot()

    async def changed(self, seconds: float) -> bool:
        """Wait at most `seconds` for an update without keeping it: is there one?

        Args:
            seconds: to wait.

        Returns:
            Whether there is.
        """
        try:
            async with asyncio.timeout(seconds):
                await self.next()
        except (TimeoutError, Closed):
            return False
        return True

    def close(self) -> None:
        """Follow no longer. Idempotent."""
        self._closed = True
        if self._reader is not None:
            self._reader.close()


def drift(services: Sequence[str] = SERVICES, seed: int = 0) -> Iterator[tuple[str, str]]:
    """Yield random changes without end, as (service, status); the same ones for the same `seed`.

    Every change is one, given that all services are healthy at first and nobody else reports.

    Args:
        services: their names.
        seed: the same one gives the same changes.

    Yields:
        The service and its new status.
    """
    rng = random.Random(seed)
    now = dict.fromkeys(services, "healthy")
    while True:
        service = rng.choice(list(now))
        now[service] = rng.choice([status for status in STATUSES if status != now[service]])
        yield service, now[service]


def moments(count: int, seconds: float, seed: int = 0) -> list[float]:
    """Return `count` random moments between 0 and `seconds`, in order, the same for a `seed`.

    Changes that come independently of each other are a Poisson process, and of one whose count is
    known the moments are spread evenly at random.

    Args:
        count: how many.
        seconds: the end of the time that they fall into.
        seed: the same one gives the same moments.

    Returns:
        The moments, in seconds.
    """
    rng = random.Random(seed)
    return sorted(rng.uniform(0, seconds) for _ in range(count))


async def live(fleet: Fleet, rate: float, seed: int = 0) -> None:
    """Change `fleet` at random, `rate` times a second on average, until cancelled.

    Args:
        fleet: what changes.
        rate: changes a second, on average.
        seed: the same one gives the same changes.
    """
    rng = random.Random(seed)
    for service, status in drift(list(fleet.services), seed):
        await asyncio.sleep(rng.expovariate(rate))
        fleet.report(service, status)
