"""What was seen of one connection, and how to wait for what comes next without sleeping."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self, cast

from wslessons.wire import Decoder, Direction, Record, TransportKind

__all__ = ["Chunk", "Recording"]

# What a chunk costs beside its bytes, roughly: a flood of single bytes must be bounded as well.
_CHUNK_OVERHEAD = 200

_ENDED = "the connection closed without what was waited for"

Check = Callable[[Sequence[Record]], object]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes as one read of the link got them, `time` seconds after the connection began."""

    direction: Direction
    time: float
    data: bytes


class Recording:
    """The records and raw bytes of one connection; `wslessons.link.relay.Connection` adds to it.

    Args:
        keep: how many records are kept.
        keep_bytes: how many bytes are kept in raw chunks (of which each counts as 200 more than it
            has) and in the records' headers and payloads together; the oldest go first.
    """

    def __init__(self, *, keep: int, keep_bytes: int) -> None:
        self.chunks: deque[Chunk] = deque()
        """The raw bytes, oldest first: feed them to a `Decoder` to see its records again."""
        self._decoder = Decoder(keep=keep)
        self._keep_bytes, self._chunk_bytes = keep_bytes, 0
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._watchers: list[tuple[Check, asyncio.Future[object]]] = []
        self._closed = asyncio.Event()

    @property
    def records(self) -> list[Record]:
        """What was decoded so far, oldest first."""
        return list(self._decoder.records)

    @property
    def total_records(self) -> int:
        """How many records there were, those no longer kept included."""
        return self._decoder.total

    @property
    def closed(self) -> bool:
        """Whether both sockets are closed: nothing is recorded any more."""
        return self._closed.is_set()

    async def wait_for(self, predicate: Callable[[Record], bool]) -> Record:
        """Wait for the first record, kept or yet to come, for which `predicate` is true.

        For a limit in time, put it into `asyncio.timeout`. What the predicate raises, this raises.

        Args:
            predicate: called with each record.

        Returns:
            The record.

        Raises:
            ConnectionError: the connection has closed without such a record.
        """
        if (found := next(filter(predicate, self._decoder.records), None)) is not None:
            return found
        return cast(Record, await self._watch(lambda new: next(filter(predicate, new), None)))

    async def wait_until(self, condition: Callable[[Self], bool]) -> None:
        """Return once `condition` of this connection is true, for example of `up.held`.

        What the condition raises, this raises.

        Args:
            condition: called with this connection whenever something has changed.

        Raises:
            ConnectionError: the connection has closed before.
        """
        if not condition(self):
            await self._watch(lambda _: condition(self) or None)

    async def wait_closed(self) -> None:
        """Return when both sockets are closed."""
        await self._closed.wait()

    def changed(self, new: Sequence[Record] = ()) -> None:
        """Wake those who wait for one of the `new` records, or for a change of the counts.

        Args:
            new: records that were added.
        """
        for check, future in self._watchers:
            if future.done():
                continue
            try:
                if (found := check(new)) is not None:
                    future.set_result(found)
            except Exception as exc:  # it belongs to the one who waits, not to the link
                future.set_exception(exc)

    def _now(self) -> float:
        return self._loop.time() - self._began

    def _record_bytes(self, direction: Direction, data: bytes) -> list[Record]:
        now = self._now()
        self.chunks.append(Chunk(direction, now, data))
        self._chunk_bytes += len(data) + _CHUNK_OVERHEAD
        new = self._decoder.feed(direction, data, now)
        self._forget()
        return new

    def _forget(self) -> None:
        """Forget the oldest, be it a chunk or a record, until the rest is within the bound."""
        chunks, records = self.chunks, self._decoder.records
        while self._chunk_bytes + self._decoder.held > self._keep_bytes:
            if self._decoder.held and not (chunks and chunks[0].time < records[0].time):
                self._decoder.forget_oldest()
            else:
                self._chunk_bytes -= len(chunks.popleft().data) + _CHUNK_OVERHEAD

    def _record_fin(self, direction: Direction) -> list[Record]:
        return self._decoder.feed_eof(direction, self._now())

    def _record_event(self, direction: Direction, event: TransportKind, text: str) -> list[Record]:
        new = self._decoder.add_event(direction, self._now(), event, text)
        self.changed(new)
        return new

    def _record_closed(self) -> None:
        self._closed.set()
        self.changed()
        for _, future in self._watchers:
            if not future.done():
                future.set_exception(ConnectionError(_ENDED))

    async def _watch(self, check: Check) -> object:
        if self.closed:
            raise ConnectionError(_ENDED)
        watcher = (check, self._loop.create_future())
        self._watchers.append(watcher)
        try:
            return await watcher[1]
        finally:
            self._watchers.remove(watcher)
