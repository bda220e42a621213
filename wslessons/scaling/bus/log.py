"""A bus over a broker's log: one order and one numbering for all servers, and nothing lost.

An event reaches all readers, those of its own server too, when it comes back from the log with its
number. So a client can leave one server and resume on another.

**Once and in order.** A server has one message under way to the broker at a time, with all the
events that became ready meanwhile, and repeats it until the broker has it. A repeat that turns out
to be one is recognized by its sequence number and delivered to nobody. What was delivered from a
log that was lost since, and is repeated for the next one, leaves a `Gap` here. Whoever goes to a
server that had not read the lost log hears it there once more: nobody can know where it had got to.

**What the broker will never take**, as it has a limit of its own, is given up, alone: `Unsent` says
so to this server's readers.

**While the broker can't be reached** nothing is delivered, as nothing has a number: what is
published waits, and goes out when the broker is back. When too much waits, `publish` refuses with a
sentence. That is consistency before availability; `wslessons.scaling.bus.pubsub` chooses the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from wslessons.errors import UserError
from wslessons.scaling.bus.bus import KEYS, ORDERS, Recent
from wslessons.scaling.bus.items import Event, Gap, Status, Unsent, decode, encode, join
from wslessons.scaling.bus.remote import Outbox, Remote, Signal, logger
from wslessons.scaling.bus.transport import LogTransport, Refused, Unreachable

__all__ = ["Log"]

BATCH = 500
"""Events in one entry of the log; below `PLACES` of the brokers that number entries only."""
BATCH_BYTES = 2**18
RETRY = 0.05
"""Seconds before an entry is repeated that the broker did not take, and each time twice as many."""
LONGEST_RETRY = 0.5
NODES = 10_000
"""Servers whose last sequence number is remembered."""


class Log(Remote):
    """One order and one numbering for all servers, and nothing lost.

    Args:
        transport: the connection to the broker.
        options: the other arguments of `Remote`.
    """

    has_log = True

    def __init__(self, transport: LogTransport, **options: Any) -> None:
        super().__init__(transport, **options)
        self._log = transport
        transport.history = self._channel.capacity
        self._beside: Outbox[None] = Outbox(1000, 2**20)
        """Signs of life, which go beside the log."""
        self._seqs: Recent[int] = Recent(NODES)
        """The newest sequence number of each server."""
        self._old_seqs: Recent[int] = Recent(NODES)
        """The same of logs that were lost."""
        self._old_keys: Recent[int] = Recent(KEYS)
        """Keys of what was delivered from them."""
        self._opened = False
        self._confirming = asyncio.Lock()
        self._asked = self._confirmed = 0
        """How often `confirm` has sent something, and the last time of which it came back."""

    async def start_up(self) -> None:
        """Connect, and read what the log has kept.

        Raises:
            UserError: the broker can't be reached, refuses us, or does not give its history.
        """
        await super().start_up()
        self.secret = self._log.secret
        try:
            async with asyncio.timeout(10):
                await self.reached("", self._log.tail)
        except TimeoutError:
            raise UserError(f"{self._log.label} does not give its history in time.") from None

    async def stop(self) -> None:
        """Send in a second what can be sent, and disconnect. Idempotent."""
        stopped = self._channel.closed
        await super().stop()
        if self.backlog and not stopped:
            logger.warning("stopped: %s never got %d events", self._log.label, self.backlog)
            self.unsent += self.backlog

    async def confirm(self) -> None:
        """Wait until something that is sent from now on has come back with a number.

        Whoever waits meanwhile shares the next one: a broker that was emptied sends everybody here.

        Raises:
            UserError: too much waits for the broker, or the bus was stopped.
        """
        asked = self._asked
        async with self._confirming:
            if self._confirmed > asked:
                return
            self._asked += 1
            self.publish(Event(ORDERS))
            seq = self._seq
            while self._seqs.get(self.node, 0) < seq:
                self._check_open()
                self._sent.clear()
                await self._sent.wait()
            self._confirmed = self._asked

    def _send(self, event: Event, force: bool) -> None:
        """Take the event on its way to the log."""
        data = self._encode(event)
        if not force and not self._waiting.has_room(data):
            # This goes to clients too, who need not know which broker.
            raise UserError("too much waits for the broker to take it: try again later.")
        self._seq = event.seq
        self._waiting.put(event, data)
        self._leaves(event.seq)

    # What a transport with a log calls as well: see `LogHost`.

    def on_opened(self, epoch: str, before: int) -> None:
        """Take note which life of the log this is, and where reading begins.

        Args:
            epoch: the name of this life.
            before: the number after which reading begins.
        """
        if not self._opened:
            self._opened, self.epoch = True, epoch
        else:
            logger.info("%s has lost its log, and begins a new one", self._log.label)
            # What their senders had no answer for is repeated, and was heard here.
            for old, new in (self._old_seqs, self._seqs), (self._old_keys, self._keys):
                for key, number in new.items():
                    old[key] = number
            self._seqs.clear()
            self._begin_anew(epoch)
            # What was in the lost log and not read yet will never come.
            self._timed = None
        self._start = self._at = before

    def on_entry(self, first: int, data: bytes) -> None:
        """Deliver the events of one entry.

        Args:
            first: the number of the first of them.
            data: the entry as it was written.
        """
        try:
            parts = decode(data)
        except ValueError as exc:
            logger.info("skipped an entry from elsewhere in %s: %s", self._log.label, exc)
            parts = []
        mine = 0
        for number, event in enumerate(parts, first):
            if isinstance(event, Event):
                self._take(event, number)
                if event.node == self.node:
                    mine = event.seq
                    self._arrives(mine)
        # The broker's answer may come later, and whoever said it may say more before that.
        self._has(mine)
        self._progress(first + max(0, len(parts) - 1))

    def on_trimmed(self, number: int, count: int | None) -> None:
        """Report what the log did not keep until we could read it.

        Args:
            number: the last that is gone.
            count: how many are; None where nobody knows.
        """
        self.missed += count or 0
        self._start = number
        self._newest.clear()
        self._put(Gap(count, None, "", number), number)
        self._progress(number)

    def on_doubt(self, number: int) -> None:
        """Report that events may be missing before a number, and nobody knows how many.

        Args:
            number: up to which that may have been.
        """
        self._put(Gap(None, None, "", number), number)
        self._progress(number)

    def _take(self, event: Event, number: int) -> None:
        if event.seq <= self._seqs.get(event.node, 0):
            return
        self._seqs[event.node] = event.seq
        if event.key in self._keys:
            return
        if event.seq <= self._old_seqs.get(event.node, 0) or event.key in self._old_keys:
            # Others may not have heard it, and come here from a server where it has this number.
            gap = Gap(None, event.room, "", number, key=event.key)
            self._number(gap, event.room, number)
            self._put(gap, number)
            return
        event.epoch = self.epoch
        self._number(event, event.room, number)
        self._put(event, number)

    # To the broker.

    def _work(self) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
        """Return what is to run while the bus does, by name."""
        return {**super()._work(), "sending beside the log": self._send_beside}

    async def _send_all(self) -> None:
        while True:
            await self._waiting.changed.wait()
            await self._append(self._waiting.peek(BATCH, min(BATCH_BYTES, self._log.limit - 2)))

    async def _append(self, batch: list[tuple[Event, bytes]]) -> None:
        data = join([data for _, data in batch])
        first, last = batch[0][0].seq, batch[-1][0].seq
        delay = RETRY
        while self._is_waiting(last):
            try:
                await self._log.append(data, f"{self.node}:{first}-{last}", len(batch), last)
                self._has(last)
            except Refused as exc:
                if len(batch) == 1:
                    self._give_up(batch[0][0], str(exc))
                    return
                # One of them is not taken, or are they too many for one entry?
                half = len(batch) // 2
                await self._append(batch[:half])
                await self._append(batch[half:])
            except Unreachable as exc:
                if delay > RETRY and self.status == Status("connected"):
                    # It is there, and takes nothing: it may be full.
                    logger.warning("%s does not take events: %s", self._log.label, exc)
                    self._set_status(Status("connected", str(exc)))
                await asyncio.sleep(delay)
                delay = min(2 * delay, LONGEST_RETRY)
        if self.status.state == "connected" and self.status.why:
            logger.warning("%s takes events again", self._log.label)
            self._set_status(Status("connected"))

    def _is_waiting(self, seq: int) -> bool:
        """Return whether the event with this sequence number is not known to be in the log."""
        return bool(self._waiting) and self._waiting.oldest.seq <= seq

    def _has(self, seq: int) -> None:
        """Take note that the log has our events up to this sequence number."""
        while self._is_waiting(seq):
            self._waiting.drop()
        self._sent.set()

    def _give_up(self, event: Event, why: str) -> None:
        """Go on without an event that the log will never take."""
        logger.warning("%s refused an event for %s: %s", self._log.label, event.room, why)
        self.unsent += 1
        self._has(event.seq)
        self._arrives(event.seq)
        self._put(Unsent(event, why))

    async def _send_beside(self) -> None:
        while True:
            await self._beside.changed.wait()
            batch = self._beside.take(BATCH, min(BATCH_BYTES, self._log.limit - 2))
            try:
                await self._log.publish(join([data for _, data in batch]))
            except Unreachable as exc:
                logger.debug("not sent beside the log: %s", exc)

    def _announce(self, part: Signal) -> None:
        data = encode(part)
        if self.status.state == "connected" and self._beside.has_room(data):
            self._beside.put(None, data)

    def _is_sending(self) -> bool:
        return bool(self._waiting)

    def _take_event(self, event: Event) -> None:
        """Events come through the log; what is here was sent by a bus without one."""
        logger.info("a server without a log uses the same name on %s", self._log.label)
