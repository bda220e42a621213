"""What waits for the one who iterates over a client: bounded, and nothing is lost in silence."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from wslessons.chat.events import (
    Error,
    Expires,
    Joined,
    Left,
    Message,
    Missed,
    Pong,
    Renewed,
    Roster,
    Welcome,
)

__all__ = ["Connected", "Disconnected", "Event", "Inbox", "Notice", "Position", "Retrying"]

Position = tuple[int | None, str]
"""An offset, and the epoch in which it means something."""


@dataclass(frozen=True)
class Connected:
    """The opening handshake was answered with this HTTP status."""

    status: int
    phrase: str
    subprotocol: str | None
    """What was agreed on; None is plain text: no resume, no acknowledgements."""


@dataclass(frozen=True)
class Disconnected:
    """The connection ended with this close code; 1006 where no close frame came."""

    code: int
    reason: str = ""


@dataclass(frozen=True)
class Retrying:
    """The next attempt follows after `delay` seconds; `why` is empty after `Disconnected`."""

    delay: float
    why: str = ""


@dataclass(frozen=True)
class Notice:
    """A message that is no event we know, such as a notice of the plain-text protocol."""

    text: str


Event = (
    Message | Joined | Left | Missed | Welcome | Roster | Error | Pong | Expires | Renewed
    | Connected | Disconnected | Retrying | Notice
)  # fmt: skip


class Inbox:
    """Keep the newest `keep` events. `put` never waits, so a slow iterator holds nobody up.

    That matters more than it seems: an acknowledgement arrives behind the events before it, so a
    client that stopped receiving until they are taken could never send from inside its own loop.
    What is dropped here is told in a `Missed`, as the server does for a slow connection.

    Args:
        keep: how many events wait at most.
    """

    def __init__(self, keep: int) -> None:
        self._events: deque[tuple[Event, Position | None]] = deque()
        self._keep = keep
        self._gone: int | None = 0
        self._gone_offset = 0
        self._gone_before: Position | None = None
        self._more = asyncio.Event()
        self._ended = False
        self._error: Exception | None = None

    @property
    def position(self) -> Position | None:
        """Where to resume in order to be given again what waits; None when nothing does."""
        if self._gone_before is not None:
            return self._gone_before
        return next((before for _, before in self._events if before is not None), None)

    def put(self, event: Event, before: Position | None = None) -> None:
        """Add an event; at the limit, the oldest one goes.

        Args:
            event: what happened.
            before: where to resume in order to be given this event again; None for what no
                server repeats.
        """
        if len(self._events) >= self._keep:
            self._forget(*self._events.popleft())
        self._events.append((event, before))
        self._more.set()

    def end(self, error: Exception | None = None) -> None:
        """Let the iteration end, by `error` if there is one, after what is still here.

        Args:
            error: what the iteration ends by; None for an ordinary end.
        """
        self._ended, self._error = True, error
        self._more.set()

    async def get(self) -> Event:
        """Return the next event, once there is one.

        Returns:
            The oldest event that waits, or first a `Missed` for those that had to go.

        Raises:
            StopAsyncIteration: the client ended, and all was taken.
            Exception: the same, with the error that ended it.
        """
        while not self._events:
            if self._ended:
                raise self._error or StopAsyncIteration
            self._more.clear()
            await self._more.wait()
        self._gone_before = None
        if self._gone != 0:
            missed = Missed(self._gone, self._gone_offset)
            self._gone = 0
            return missed
        event, _ = self._events.popleft()
        return event

    def _forget(self, event: Event, before: Position | None) -> None:
        if self._gone_before is None:
            self._gone_before = before
        if isinstance(event, Missed):
            counts = self._gone is not None and event.count is not None
            self._gone = self._gone + event.count if counts else None
        elif isinstance(event, Message | Joined | Left):
            self._gone = None if self._gone is None else self._gone + 1
        else:
            return
        self._gone_offset = event.offset
