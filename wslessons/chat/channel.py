"""A bounded broadcast channel: one log, any number of readers, nobody waits for anybody.

The log keeps the newest `capacity` items and numbers every item it was ever given: 1, 2, 3, ...
A reader is nothing but a cursor in that log, the offset it read last. So a slow reader costs no
memory, a sender never waits for one, and a client that comes back after a break is just a very
slow reader that says where it stopped.

What a slow reader loses it is told, exactly once and with the exact count (`Lagged`), and then
it goes on. That is the point of the exercise: a reader that stops listening after its first loss,
while its socket stays open, looks alive and is deaf for ever.

The semantics are those of Rust's `tokio::sync::broadcast`
(https://docs.rs/tokio/latest/tokio/sync/broadcast/), with these differences:

- exactly `capacity` items are kept; tokio rounds up to a power of two;
- a new reader may begin in the past, with `subscribe(since=offset)`; tokio's begin now;
- `send` with nobody subscribed returns 0 and keeps the item for those; tokio returns an error;
- one object sends and makes receivers; it ends by `close()`, not when the last sender is dropped;
- `take_ready` hands over all that is ready at once.

Not handled here: threads (all callers share one event loop), anything on disk, and readers in
another process.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Iterator
from typing import Any, Generic, Self, TypeVar

__all__ = ["Channel", "Closed", "Empty", "Lagged", "Receiver"]

T = TypeVar("T")


class Closed(Exception):
    """The channel is closed and this reader has had everything it kept."""


class Empty(Exception):
    """Nothing is ready now; more may come."""


class Lagged(Exception):
    """The reader fell out of the log: `skipped` items are gone for it. It may go on reading.

    Args:
        skipped: how many.
    """

    def __init__(self, skipped: int) -> None:
        super().__init__(f"skipped {skipped} item{'' if skipped == 1 else 's'}")
        self.skipped = skipped


class Channel(Generic[T]):
    """A bounded log that any number of readers follow, each at its own pace.

    >>> channel = Channel(capacity=2)
    >>> reader = channel.subscribe()
    >>> channel.send("a"), channel.send("b"), channel.send("c")  # how many readers each one has
    (1, 1, 1)
    >>> reader.recv_nowait()
    Traceback (most recent call last):
    wslessons.chat.channel.Lagged: skipped 1 item
    >>> reader.take_ready()
    ['b', 'c']

    Args:
        capacity: how many items are kept, at least 1.
        max_bytes: the size that they may have together, as `send` is told of it; the newest is kept
            whatever its size. None for any.

    Raises:
        ValueError: the capacity is less than 1.
    """

    def __init__(self, capacity: int = 256, max_bytes: int | None = None) -> None:
        if capacity < 1:
            raise ValueError("a channel keeps at least one item")
        self.capacity = capacity
        self.max_bytes = max_bytes
        self.offset = 0
        """Offset of the newest item; 0 before the first."""
        self.closed = False
        # The item with offset n is at (n - 1) % capacity; None is in the place of one let go early.
        self._ring: list[T | None] = []
        self._sizes: list[int] = []
        self._kept = self._bytes = 0
        # Weak, so that a reader which is merely forgotten is not counted for ever. (A `WeakSet`
        # does the same, but its length is computed in Python, at every `send`.)
        self._receivers: set[weakref.ReferenceType[Receiver[T]]] = set()
        # By reader, so that one that closes or is cancelled costs the others nothing.
        self._waiting: dict[Receiver[T], list[asyncio.Future[None]]] = {}

    @property
    def oldest(self) -> int:
        """Offset of the oldest item kept; `offset + 1` while there is none."""
        return self.offset - self._kept + 1

    @property
    def receivers(self) -> list[Receiver[T]]:
        """All readers there are now, in no particular order."""
        return [receiver for ref in self._receivers if (receiver := ref()) is not None]

    def __len__(self) -> int:
        return self._kept

    def __iter__(self) -> Iterator[T]:
        """Iterate over the items kept, the oldest first."""
        return iter(self._slice(self.offset - self._kept, self._kept))

    def _slice(self, offset: int, count: int) -> list[T]:
        """Return `count` items that are kept, from the one after `offset` on."""
        first = offset % self.capacity
        items: list[Any] = self._ring[first : first + count]
        # What did not fit before the ring's end goes on at its beginning.
        return items + self._ring[: count - len(items)]

    def send(self, item: T, size: int = 0) -> int:
        """Append `item`. Never waits.

        Args:
            item: what all readers get.
            size: its bytes in memory, for `max_bytes`.

        Returns:
            The number of readers there are.

        Raises:
            Closed: the channel has been closed.
        """
        if self.closed:
            raise Closed("the channel is closed")
        if len(self._ring) < self.capacity:
            self._ring.append(item)
            self._sizes.append(size)
        else:
            place = self.offset % self.capacity
            if self._kept == self.capacity:
                self._kept -= 1
                self._bytes -= self._sizes[place]
            self._ring[place], self._sizes[place] = item, size
        self.offset += 1
        self._kept += 1
        self._bytes += size
        if self.max_bytes is not None:
            while self._bytes > self.max_bytes and self._kept > 1:
                place = (self.offset - self._kept) % self.capacity
                self._bytes -= self._sizes[place]
                self._kept -= 1
                self._ring[place] = None
        if self._waiting:
            self._wake()
        return len(self._receivers)

    def subscribe(self, since: int | None = None) -> Receiver[T]:
        """Add a reader. What it asks for and is no longer kept, its first read reports.

        Args:
            since: the offset of the last item it has seen; None begins with the next item sent,
                0 with the first ever.

        Returns:
            The reader.

        Raises:
            ValueError: no item has this offset yet.
        """
        if since is None:
            since = self.offset
        elif not 0 <= since <= self.offset:
            raise ValueError(f"no item has offset {since} yet: the newest is {self.offset}")
        return Receiver(self, since)

    def close(self) -> None:
        """Take no more items; each reader still gets what it has not read. Idempotent."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for futures in waiting.values():
            _wake_all(futures)


def _wake_all(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


class Receiver(Generic[T]):
    """One reader of a channel: a cursor. Made by `Channel.subscribe`; a context manager.

    `async for item in receiver` ends when the channel is closed. `Lagged` comes out of the loop as
    an exception; a new `async for` over the same receiver goes on after the gap.

    Args:
        channel: what is read.
        offset: that of the last item before those it reads.
    """

    def __init__(self, channel: Channel[T], offset: int) -> None:
        self.channel = channel
        self.offset = offset
        """Offset of the last item read (or skipped, once `Lagged` has said so)."""
        self._left = False
        self._ref: weakref.ReferenceType[Receiver[T]] = weakref.ref(
            self, channel._receivers.discard
        )
        channel._receivers.add(self._ref)

    @property
    def behind(self) -> int:
        """How many items have been sent that this reader has not read, kept or not."""
        return self.channel.offset - self.offset

    def recv_nowait(self) -> T:
        """Return the next item.

        Raises:
            Lagged: items that this reader has not read are gone; the next call goes on after them.
            Empty: nothing is ready now.
            Closed: the channel is closed and there is nothing left to read.
        """
        channel = self.channel
        self._check()
        if self.offset == channel.offset:
            raise Empty("nothing is ready")
        item: Any = channel._ring[self.offset % channel.capacity]
        self.offset += 1
        return item

    async def recv(self) -> T:
        """Wait for the next item and return it.

        Cancelling is safe: an item is either returned or still there for the next call.

        Raises:
            Lagged: items that this reader has not read are gone; the next call goes on after them.
            Closed: the channel is closed and there is nothing left to read.
        """
        self._check()
        while self.offset == self.channel.offset:
            await self._wait()
            self._check()
        return self.recv_nowait()

    async def _wait(self) -> None:
        # A future for each waiter: a task cancelled while it awaits a shared one would cancel it
        # for all the others too.
        future = asyncio.get_running_loop().create_future()
        self.channel._waiting.setdefault(self, []).append(future)
        try:
            await future
        except asyncio.CancelledError:
            mine = self.channel._waiting.get(self, [])
            if future in mine:
                mine.remove(future)
                if not mine:
                    del self.channel._waiting[self]
            raise

    def take_ready(self) -> list[T]:
        """Return all that is ready, the oldest first; an empty list when nothing is.

        Raises:
            Lagged: items that this reader has not read are gone; the next call goes on after them.
            Closed: the channel is closed and there is nothing left to read.
        """
        self._check()
        channel = self.channel
        ready, first = channel.offset - self.offset, self.offset % channel.capacity
        self.offset = channel.offset
        # As `Channel._slice`; each line of a chat comes through here.
        items: list[Any] = channel._ring[first : first + ready]
        return items + channel._ring[: ready - len(items)]

    def close(self) -> None:
        """Stop reading: the channel no longer counts this reader. Idempotent."""
        self._left = True
        self.channel._receivers.discard(self._ref)
        _wake_all(self.channel._waiting.pop(self, []))

    def _check(self) -> None:
        """Raise what has to be said before the next item, if anything has."""
        channel = self.channel
        if self._left:
            raise Closed("this receiver is closed")
        skipped = channel.offset - channel._kept - self.offset
        if skipped > 0:
            self.offset += skipped
            raise Lagged(skipped)
        if channel.closed and self.offset == channel.offset:
            raise Closed("the channel is closed")

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        try:
            return await self.recv()
        except Closed:
            raise StopAsyncIteration from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
