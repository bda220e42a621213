"""What the buses with a broker share: events waiting to be sent, the people, and the status."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any

import msgspec

from wslessons.errors import UserError
from wslessons.scaling.bus.items import Beat, Event, Move, People, Status, decode, encode
from wslessons.scaling.bus.outbox import Outbox
from wslessons.scaling.bus.presence import Presence
from wslessons.scaling.bus.seam import Backplane
from wslessons.scaling.bus.tasks import end
from wslessons.scaling.bus.transport import Transport

__all__ = ["Remote"]

logger = logging.getLogger(__name__)


class Remote(Backplane):
    """A bus over a broker.

    In: `transport`; `node` and `keep` as for `Backplane`; `backlog`, events that may wait for the
    broker, and `backlog_bytes`; `max_event`, bytes of one event; `beat`, seconds between the signs
    of life that servers exchange.
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
        self._seq = 0
        self._sent = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def backlog(self) -> int:
        """How many events wait for the broker."""
        return len(self._waiting)

    def enter(self, room: str, connection: str, name: str) -> None:
        """Tell other servers that somebody is here."""
        self._tell(self._presence.enter(room, connection, name))

    def leave(self, room: str, connection: str) -> None:
        """Tell other servers that somebody is not here any more."""
        self._tell(self._presence.leave(room, connection))

    def people(self, room: str) -> tuple[People, int]:
        """Return who is in `room` on other servers: some by connection id, and how many."""
        return self._presence.people(room)

    async def start_up(self) -> None:
        """Connect. Raises `UserError` when that can't be done."""
        await self._transport.open(self)
        self._presence = Presence(self.node, self._presence.beat)
        self._tasks = [asyncio.create_task(work, name=f"bus {self.node}") for work in self._work()]
        self._tell_beats(ask=True)
        self.started = True

    async def stop(self) -> None:
        """Say goodbye, send in a second what can be sent, and disconnect. Idempotent."""
        if self.status.state == "connected" and self._tasks:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    self._tell(self._presence.farewell())
                    await self.flush()
        tasks, self._tasks = self._tasks, []
        await end(*tasks)
        await self._transport.close()
        await super().stop()

    # What the transport calls.

    def heard(self, data: bytes) -> None:
        """Take what another server told everybody."""
        try:
            parts = decode(data)
        except msgspec.DecodeError as exc:
            logger.info("ignored a message from elsewhere on %s: %s", self._transport.label, exc)
            return
        for part in parts:
            if part.node == self.node:
                continue
            if isinstance(part, Event):
                self._take_event(part)
            elif isinstance(part, Beat):
                self._take_beat(part)
            else:
                self._presence.take_move(part)

    def lost(self, why: str) -> None:
        """Take note that the broker can't be reached."""
        self._set_status(Status("reconnecting", why))

    def back(self) -> None:
        """Take note that the broker can be reached."""
        self._presence.postpone()
        self._set_status(Status("connected"))
        if self._tasks:
            # Others have missed our beats, and we theirs.
            self._tell_beats(ask=True)

    # For the implementations.

    def _work(self) -> list[Coroutine[Any, Any, None]]:
        """Return what is to run while the bus does."""
        return [self._send_all(), self._beat()]

    async def _send_all(self) -> None:
        raise NotImplementedError

    def _take_event(self, event: Event) -> None:
        raise NotImplementedError

    def _tell(self, part: Beat | Move) -> None:
        """Send a part of a message to whoever listens now; if it is lost, the next beat repeats."""
        raise NotImplementedError

    def _published(self) -> dict[str, int]:
        """Return for each room how many events this server has published, where that matters."""
        return {}

    def _stamp(self, event: Event) -> bytes:
        """Sign an event and encode it. Raises `UserError` where it is too large, or no JSON."""
        self._check_open()
        event.node, event.seq = self.node, self._seq + 1
        event.offset = event.prev = event.lost = 0
        event.epoch = ""
        try:
            data = encode(event)
        except (TypeError, ValueError, msgspec.MsgspecError) as exc:
            raise UserError(f"this event is not something JSON can hold: {exc}.") from None
        # A message has two brackets around its events.
        limit = min(self.max_event, self._transport.limit - 2)
        if len(data) > limit:
            raise UserError(f"an event of {len(data)} bytes is too large: the limit is {limit}.")
        self._seq += 1
        return data

    def _take_beat(self, beat: Beat) -> None:
        change = self._presence.take_beat(beat)
        if change is not None:
            self._put(change)
        if beat.ask:
            self._tell_beats()

    def _tell_beats(self, *, ask: bool = False) -> None:
        for beat in self._presence.beats(self._published(), ask=ask):
            self._tell(beat)

    async def _beat(self) -> None:
        loop, beat = asyncio.get_running_loop(), self._presence.beat
        while True:
            due = loop.time() + beat
            await asyncio.sleep(beat)
            if loop.time() > due + beat:
                # Our own loop was held up: what the others sent has not been looked at yet.
                self._presence.postpone()
            if self.status.state == "connected":
                self._tell_beats()
                for down in self._presence.expired():
                    self._put(down)

    async def flush(self, most: int = 0) -> None:
        """Wait until at most `most` events wait, and with 0 until the broker has them all."""
        while self._is_sending() if most == 0 else self.backlog > most:
            self._sent.clear()
            await self._sent.wait()

    def _is_sending(self) -> bool:
        return bool(self._waiting)
