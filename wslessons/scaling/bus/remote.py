"""What the buses with a broker share: events waiting to be sent, the members, and the status."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from itertools import islice
from typing import Any, Generic, TypeVar

import msgspec

from wslessons.chat.room import Room
from wslessons.errors import UserError
from wslessons.scaling.bus.bus import Bus
from wslessons.scaling.bus.items import (
    Beat,
    Counts,
    CountsWanted,
    Event,
    Members,
    PresenceChange,
    Status,
    check,
    decode,
    encode,
)
from wslessons.scaling.bus.presence import Presence
from wslessons.scaling.bus.rooms import SharedRooms
from wslessons.scaling.bus.transport import Transport, keep_running
from wslessons.serving import cancel_and_wait

__all__ = ["Outbox", "Remote", "Signal"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
Signal = Beat | PresenceChange | Counts | CountsWanted
"""What servers tell each other beside the events."""


class Remote(Bus):
    """A bus over a broker.

    Args:
        transport: the connection to the broker.
        node: as for `Bus`.
        keep: as for `Bus`.
        backlog: events that may wait for the broker (default 4,096).
        backlog_bytes: bytes that may wait for it (default 8 MiB).
        max_event: bytes that one event may have (default 128 KiB).
        beat: seconds between two signs of life that servers exchange (default 2).
    """

    def __init__(
        self,
        transport: Transport,
        *,
        node: str = "",
        keep: int = 4096,
        backlog: int = 4096,
        backlog_bytes: int = 2**23,
        max_event: int = 2**17,
        beat: float = 2.0,
    ) -> None:
        super().__init__(node=node, keep=keep)
        self.max_event = max_event
        self._transport = transport
        self._waiting: Outbox[Any] = Outbox(backlog, backlog_bytes)
        """Events, and where they go out in one line with them, signs of life."""
        self._presence = Presence(self.node, beat)
        self._sent = asyncio.Event()
        self._lag = 0.0
        self._timed: tuple[int, float] | None = None
        """The sequence number of the event whose way is being timed, and when it was published."""
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def backlog(self) -> int:
        """How many events the broker has not acknowledged."""
        return len(self._waiting)

    @property
    def lag(self) -> float:
        """Seconds that an event of this server took: to the broker and, where that has a log, back.

        One event is timed after another, by this machine's clock alone. While one is under way for
        longer than the last one took, it is as long as that has been.
        """
        so_far = time.monotonic() - self._timed[1] if self._timed else 0.0
        return max(self._lag, so_far)

    def enter(self, room: str, connection: str, name: str) -> None:
        """Let the other servers know that somebody is here."""
        self._announce(self._presence.enter(room, connection, name))

    def leave(self, room: str, connection: str) -> None:
        """Let the other servers know that somebody is not here any more."""
        self._announce(self._presence.leave(room, connection))

    def members(self, room: str) -> tuple[Members, int]:
        """Return who is in `room` on other servers: some by connection id, and how many."""
        return self._presence.members(room)

    def room_factory(
        self, rooms: Mapping[str, Room], forget: Callable[[str], None]
    ) -> Callable[[str, int], Room]:
        """Return what opens rooms that are shared: see `wslessons.chat.server.RoomSource`."""
        return SharedRooms(self, rooms, forget).open

    async def start_up(self) -> None:
        """Connect.

        Raises:
            UserError: the broker can't be reached, or refuses us.
        """
        await self._transport.open(self)
        self._presence = Presence(self.node, self._presence.beat)
        self._tasks = [
            asyncio.create_task(keep_running(what, work, self._transport.drop), name=what)
            for what, work in self._work().items()
        ]
        self._announce_all(ask=True)
        self.started = True

    async def stop(self) -> None:
        """Say goodbye, send in a second what can be sent, and disconnect. Idempotent."""
        if self.status.state == "connected" and self._tasks:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    self._announce(self._presence.farewell(self._seq))
                    await self.flush()
        tasks, self._tasks = self._tasks, []
        await cancel_and_wait(*tasks)
        await self._transport.close()
        await super().stop()
        self._sent.set()

    async def flush(self, most: int = 0) -> None:
        """Wait until few events wait for the broker. Bound it with a timeout.

        Args:
            most: how many may still wait; with 0 the broker has them all.

        Raises:
            UserError: the bus was stopped before.
        """
        while self._is_sending() if most == 0 else self.backlog > most:
            self._check_open()
            self._sent.clear()
            await self._sent.wait()

    # What the transport calls.

    def on_message(self, data: bytes) -> None:
        """Take a message that another server published.

        Args:
            data: as it came.
        """
        try:
            if len(data) > self._transport.limit:
                raise ValueError("it is too large")
            parts = decode(data)
        except ValueError as exc:
            logger.info("ignored a message from elsewhere on %s: %s", self._transport.label, exc)
            return
        for part in parts:
            if part.node == self.node:
                continue
            if isinstance(part, Event):
                self._take_event(part)
            elif isinstance(part, Beat):
                self._take_beat(part)
            elif isinstance(part, PresenceChange):
                self._presence.take_change(part)
            else:
                self._take_counts(part)

    def on_lost(self, why: str) -> None:
        """Take note that the broker can't be reached.

        Args:
            why: for the status.
        """
        self._set_status(Status("reconnecting", why))

    def on_connected(self) -> None:
        """Take note that the broker can be reached."""
        self._presence.postpone()
        self._set_status(Status("connected"))
        if self._tasks:
            self.reconnects += 1
            # Others have missed our beats, and we theirs.
            self._announce_all(ask=True)

    # For the implementations.

    def _work(self) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
        """Return what is to run while the bus does, by name."""
        return {"sending events": self._send_all, "sending signs of life": self._beat}

    async def _send_all(self) -> None:
        raise NotImplementedError

    def _is_sending(self) -> bool:
        """Return whether the broker does not have everything yet."""
        raise NotImplementedError

    def _take_event(self, event: Event) -> None:
        raise NotImplementedError

    def _take_counts(self, part: Counts | CountsWanted) -> None:
        """Take what only a bus without a log has to do with."""

    def _announce(self, part: Signal) -> None:
        """Send a part of a message to whoever listens now; if it is lost, the next beat repeats."""
        raise NotImplementedError

    def _leaves(self, seq: int) -> None:
        """Take note that an event begins its way, and time it if no other one is timed."""
        if self._timed is None:
            self._timed = seq, time.monotonic()

    def _arrives(self, seq: int) -> None:
        """Take note that our events up to this sequence number are at the end of their way."""
        if self._timed is not None and self._timed[0] <= seq:
            self._lag, self._timed = time.monotonic() - self._timed[1], None

    def _encode(self, event: Event) -> bytes:
        """Return an event as JSON.

        Raises:
            UserError: it is too large, or nothing that JSON can hold.
        """
        check(event)
        try:
            data = encode(event)
        except (TypeError, ValueError, msgspec.MsgspecError) as exc:
            raise UserError(f"this event is not something JSON can hold: {exc}.") from None
        # A message has two brackets around its events.
        limit = min(self.max_event, self._transport.limit - 2)
        if len(data) > limit:
            raise UserError(f"an event of {len(data)} bytes is too large: the limit is {limit}.")
        return data

    def _take_beat(self, beat: Beat) -> None:
        change = self._presence.take_beat(beat)
        if change is not None:
            self._put(change)
        if beat.ask:
            self._announce_all()

    def _announce_all(self, *, ask: bool = False) -> None:
        for beat in self._presence.beats(self._seq, ask=ask):
            self._announce(beat)

    async def _beat(self) -> None:
        loop, beat = asyncio.get_running_loop(), self._presence.beat
        while True:
            due = loop.time() + beat
            await asyncio.sleep(beat)
            if loop.time() > due + beat:
                # Our own loop was held up: what the others sent has not been looked at yet.
                self._presence.postpone()
            if self.status.state == "connected":
                self._announce_all()
                for down in self._presence.expired():
                    self._put(down)


class Outbox(Generic[T]):
    """Encoded items on their way to the broker, the oldest first.

    Args:
        count: the most items that may wait.
        size: the most bytes that may wait.
    """

    def __init__(self, count: int, size: int) -> None:
        self._most, self._most_bytes = count, size
        self.size = 0
        """Bytes that wait."""
        self._waiting: deque[tuple[T, bytes]] = deque()
        self.changed = asyncio.Event()
        """Set while something waits."""

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def oldest(self) -> T:
        """The item that has waited longest."""
        return self._waiting[0][0]

    def has_room(self, data: bytes) -> bool:
        """Return whether one more can wait.

        Args:
            data: the encoded item.

        Returns:
            Whether it can.
        """
        return len(self._waiting) < self._most and self.size + len(data) <= self._most_bytes

    def put(self, item: T, data: bytes) -> None:
        """Add an item, whose encoding is `data`.

        Args:
            item: what it is.
            data: its encoding.
        """
        self._waiting.append((item, data))
        self.size += len(data)
        self.changed.set()

    def peek(self, count: int, size: int) -> list[tuple[T, bytes]]:
        """Return the oldest, at least one if any waits.

        Args:
            count: the most items.
            size: the most bytes, about.

        Returns:
            Each item with its encoding.
        """
        oldest: list[tuple[T, bytes]] = []
        for item, data in islice(self._waiting, count):
            size -= len(data) + 1
            if oldest and size < 0:
                break
            oldest.append((item, data))
        return oldest

    def drop(self, count: int = 1) -> None:
        """Remove so many of the oldest.

        Args:
            count: how many.
        """
        for _ in range(count):
            self.size -= len(self._waiting.popleft()[1])
        if not self._waiting:
            self.changed.clear()

    def take(self, count: int, size: int) -> list[tuple[T, bytes]]:
        """Remove and return the oldest, as `peek` does.

        Args:
            count: the most items.
            size: the most bytes, about.

        Returns:
            Each item with its encoding.
        """
        taken = self.peek(count, size)
        self.drop(len(taken))
        return taken
