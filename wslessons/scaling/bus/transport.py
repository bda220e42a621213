"""A connection to a broker that is kept: it breaks, it is noticed, it comes back.

The clients' own reconnecting is switched off everywhere: one hangs and reports nothing when its
subscriber's connection drops, another waits without limit for a stalled socket to close. So there
is one loop for all, and a sign of life is asked for every second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, Protocol, TypeVar

from wslessons.errors import UserError
from wslessons.serving import cancel_and_wait, first_to_end

__all__ = [
    "CHECK",
    "LATE",
    "LOST_AFTER",
    "PLACES",
    "Host",
    "LogHost",
    "LogTransport",
    "Refused",
    "Transport",
    "Unreachable",
    "close_quietly",
    "in_time",
    "keep_running",
    "run_isolated",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")

CHECK = 1.0
"""Seconds between two questions whether the broker is still there."""
LOST_AFTER = 2.0
"""Seconds for an answer before the connection counts as lost."""
CONNECT_TIME = 10.0
"""Seconds for one attempt to connect, with whatever has to be created there."""
OPEN_TIME = 20.0
"""Seconds after which no further first attempt begins: a broker that has only just started, or is
busy, makes what we need later than we are ready to wait in one attempt."""
LATE = "it does not answer in time"
"""Why an attempt failed that may succeed if it is made again at once."""
LONGEST_DELAY = 2.0
"""Most seconds between two attempts to come back; the first come within a tenth."""
STABLE = 5.0
"""Seconds that a connection must have lasted, for the attempts after it to begin with short waits
again."""
AGAIN = 0.1
"""Seconds before a task that failed begins again."""
PLACES = 1000
"""Numbers that an entry has for its events, with a broker that numbers entries and not events."""


class Unreachable(Exception):
    """The broker can't be reached now; the text says why. It may be later."""


class Refused(Exception):
    """The broker will never take this entry, and takes others; the text says why."""


class Host(Protocol):
    """What a transport calls on its bus."""

    def on_message(self, data: bytes) -> None:
        """Take a message that another server published (or this one did).

        Args:
            data: as it was published.
        """
        ...

    def on_lost(self, why: str) -> None:
        """Take note that the broker can't be reached.

        Args:
            why: for the status.
        """
        ...

    def on_connected(self) -> None:
        """Take note that it can be reached, first or again."""
        ...


class LogHost(Host, Protocol):
    """What a transport with a log calls on its bus as well."""

    def on_opened(self, epoch: str, before: int) -> None:
        """Take note which log this is. Called before the first entry, and for another log.

        Args:
            epoch: the life of the log.
            before: the number after which reading begins.
        """
        ...

    def on_entry(self, first: int, data: bytes) -> None:
        """Take the next entry.

        Args:
            first: the number of the entry's first event; the others have the next ones.
            data: the encoded events.
        """
        ...

    def on_trimmed(self, number: int, count: int | None) -> None:
        """Take note that the log no longer has what we would have read next.

        Args:
            number: up to which number it is gone.
            count: how many events that were, None if nobody can know.
        """
        ...

    def on_doubt(self, number: int) -> None:
        """Take note that the log may have lost what others have read, and goes on.

        Args:
            number: up to which that may have been; what is read next has a higher one.
        """
        ...


class Transport(ABC):
    """One broker's messages, at most once.

    Args:
        label: the broker's name in sentences.
    """

    limit = 2**20
    """Bytes that one message may have."""
    faults: tuple[type[Exception], ...] = (OSError,)
    """What the client raises when the broker can't be reached, or says no."""
    slow: tuple[type[Exception], ...] = (TimeoutError,)
    """What it raises when the broker does not answer in time."""

    def __init__(self, label: str) -> None:
        self.label = label
        self._connected = False
        self._broken = asyncio.Event()
        """Set by whoever notices that the connection is of no use any more."""
        self._why = ""
        self._keeper: asyncio.Task[None] | None = None

    async def open(self, host: Host) -> None:
        """Connect, and keep the connection from now on.

        Args:
            host: the bus to call.

        Raises:
            UserError: the broker can't be reached, or refuses us.
        """
        self.host = host
        until = asyncio.get_running_loop().time() + OPEN_TIME
        while not self._connected:
            try:
                await self._connect_in_time()
            except BaseException as exc:
                await self._disconnect()
                if not isinstance(exc, Unreachable):
                    raise
                if str(exc) != LATE or asyncio.get_running_loop().time() > until:
                    sentence = f"can't reach {self.label}: {exc}."
                    raise UserError(f"{sentence} Is it running, and is the URL right?") from None
                logger.info("can't reach %s yet: %s", self.label, exc)
                await asyncio.sleep(AGAIN)
            else:
                self._connected = True
        host.on_connected()
        name = f"connection to {self.label}"
        self._keeper = asyncio.create_task(keep_running(name, self._keep, host.on_lost))

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        if self._keeper is not None:
            await cancel_and_wait(self._keeper)
            self._keeper = None
        self._connected = False
        await self._disconnect()

    def drop(self, why: str) -> None:
        """Give up this connection for a new one.

        Args:
            why: for the status.
        """
        self._why = why
        self._broken.set()

    @abstractmethod
    async def publish(self, data: bytes) -> None:
        """Send a message to all servers that listen now.

        Args:
            data: the message.

        Raises:
            Unreachable: the broker can't be reached.
        """

    @abstractmethod
    async def flush(self) -> None:
        """Wait until the broker has all that was published.

        Raises:
            Unreachable: the broker can't be reached.
        """

    @abstractmethod
    async def _connect(self) -> None:
        """Connect and subscribe.

        Raises:
            Unreachable: it can't be done now; as does whatever else the client raises.
            UserError: it can't be done later either.
        """

    @abstractmethod
    async def _serve(self) -> None:
        """Receive until the connection is lost.

        Raises:
            Unreachable: why it was lost.
        """

    @abstractmethod
    async def _disconnect(self) -> None:
        """Let go of whatever `_connect` made, in bounded time. Never raises."""

    async def _connect_in_time(self) -> None:
        self._broken, self._why = asyncio.Event(), ""
        await run_isolated(self._connect(), CONNECT_TIME, self._explain)

    async def _keep(self) -> None:
        loop, delays = asyncio.get_running_loop(), _delays()
        while True:
            begun = loop.time()
            try:
                ended = first_to_end(self._serve(), self._broken.wait())
                await run_isolated(ended, None, self._explain)
                why = self._why or "the connection ended"
            except (Unreachable, UserError) as exc:
                why = str(exc)
            self._connected = False
            logger.info("lost %s: %s", self.label, why)
            self.host.on_lost(why)
            if loop.time() > begun + STABLE:
                delays = _delays()
            for delay in delays:
                await self._disconnect()
                await asyncio.sleep(delay)
                try:
                    await self._connect_in_time()
                    break
                except (Unreachable, UserError) as exc:
                    self.host.on_lost(str(exc))
            self._connected = True
            logger.info("connected to %s again", self.label)
            self.host.on_connected()

    def _check_connected(self) -> None:
        if not self._connected:
            raise Unreachable(f"{self.label} can't be reached now")

    def _explain(self, exc: BaseException) -> str:
        """Say an error in words."""
        if isinstance(exc, self.slow):
            return LATE
        if any(isinstance(each, ConnectionRefusedError) for each in (exc, exc.__context__)):
            return "nobody listens there"
        if isinstance(exc, OSError) and exc.strerror:
            return exc.strerror
        if isinstance(exc, self.faults) and str(exc):
            return str(exc).rstrip(".")
        return _named(exc)

    def _refused(self, why: object = "") -> UserError:
        """Return what to raise when the broker does not take the URL's credentials."""
        reason = f": {why}" if why else ""
        return UserError(
            f"{self.label} does not accept the user name and password in the URL{reason}."
        )


class LogTransport(Transport):
    """One broker's log, and beside it messages at most once.

    Args:
        label: the broker's name in sentences.
    """

    host: LogHost
    history = 4096
    """How many of the newest events to read at first, and the rest of the entry that begins with
    an older one."""

    def __init__(self, label: str) -> None:
        super().__init__(label)
        self.tail = 0
        """The log's newest number when it was opened first."""
        self.secret: bytes | None = None
        """What signs the proofs of this log's readers, where it keeps one."""
        self._epoch = ""

    @abstractmethod
    async def append(self, data: bytes, id: str, count: int, last: int) -> None:
        """Append an entry; return once the broker has it for good.

        Args:
            data: the encoded events.
            id: names the entry, the same if it is appended again.
            count: how many events are in it.
            last: the sequence number of the last.

        Raises:
            Refused: it will never be in the log.
            Unreachable: it is not known to be in the log; append it again.
        """


def _delays() -> Iterator[float]:
    """Yield the seconds to wait before each attempt to come back, so that not all come at once."""
    most = 0.1
    while True:
        yield random.uniform(0, most)
        most = min(LONGEST_DELAY, most * 2)


# Tasks that run a client of a broker, and their ends, which clients do not always leave clean.


def _named(exc: BaseException) -> str:
    """Say an error by its type, and by its text if it has one."""
    return f"{type(exc).__name__}: {exc}".removesuffix(": ")


async def run_isolated(
    work: Coroutine[Any, Any, object],
    seconds: float | None = None,
    explain: Callable[[BaseException], str] = _named,
) -> None:
    """Run `work` in a task of its own.

    A client's call can end with a cancellation that nobody asked for, or with an error that it does
    not document. In our own task the one would end it unnoticed, and so would the other.

    Args:
        work: what to run.
        seconds: after how many it is cancelled; None for no limit.
        explain: says in words what `work` raised.

    Raises:
        UserError: as raised by `work`.
        Unreachable: all else that `work` raised, or its time was over.
    """
    task = asyncio.create_task(work)
    try:
        await wait_for_end(task, seconds)
    finally:
        await cancel_and_wait(task)
    if task.cancelled():
        raise Unreachable(LATE)
    error = task.exception()
    if isinstance(error, UserError | Unreachable):
        raise error
    if error is not None:
        logger.debug("unexpected", exc_info=error)
        raise Unreachable(explain(error)) from error


async def in_time(call: Awaitable[T], seconds: float = LOST_AFTER) -> T:
    """Return what a client's call returns.

    Args:
        call: it, not awaited yet.
        seconds: the most that it may take.

    Returns:
        The same.

    Raises:
        TimeoutError: the broker did not answer in that time.
        ConnectionError: the client has ended the call.
    """

    async def work() -> T:
        return await call

    task = asyncio.create_task(work())
    try:
        await wait_for_end(task, seconds)
        if not task.done():
            raise TimeoutError
        if task.cancelled():
            # Not by us: passed on, it would end our own task, and nobody would know why.
            raise ConnectionError("the connection ended")
        return task.result()
    finally:
        await cancel_and_wait(task)


async def keep_running(
    what: str, work: Callable[[], Coroutine[Any, Any, None]], failed: Callable[[str], object]
) -> None:
    """Run what is to run for as long as its owner: if it ends or fails, it begins again.

    A task in the background that dies takes its error with it, and leaves all the rest running.

    Args:
        what: its name, for the log and for `failed`.
        work: what to run, called anew each time.
        failed: told each time why it ended.
    """
    while True:
        try:
            await run_isolated(work())
            why = "it ended"
        except (Unreachable, UserError) as exc:
            why = str(exc)
            logger.error("%s failed, and begins again", what, exc_info=exc.__cause__)
        failed(f"{what} failed: {why}")
        await asyncio.sleep(AGAIN)


async def wait_for_end(task: asyncio.Task[Any], seconds: float | None) -> None:
    """Wait until a task has ended, for ever or for so many seconds.

    In two halves: after a time in which the loop itself was held up, what has arrived meanwhile is
    taken in before the time counts as over.
    """
    for _ in range(2):
        await asyncio.wait([task], timeout=None if seconds is None else seconds / 2)


async def close_quietly(
    *closing: Callable[[], Coroutine[Any, Any, object]], seconds: float = 0.5
) -> None:
    """Call what closes a client, one after the other, and ignore their errors.

    Args:
        closing: what to call.
        seconds: the most that each may take.
    """
    for close in closing:
        with contextlib.suppress(Unreachable):
            await run_isolated(close(), seconds)
