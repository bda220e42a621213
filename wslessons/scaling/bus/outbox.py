"""Events that wait for the broker."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

__all__ = ["Outbox"]

T = TypeVar("T")


class Outbox(Generic[T]):
    """Encoded items on their way to the broker, the oldest first; bounded in number and bytes."""

    def __init__(self, count: int, size: int) -> None:
        self.most, self._most_bytes = count, size
        self.size = 0
        """Bytes that wait."""
        self._waiting: deque[tuple[T, bytes]] = deque()
        self.changed = asyncio.Event()
        """Set while something waits."""

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[T]:
        """Iterate over what waits, the oldest first."""
        return (item for item, _ in self._waiting)

    def has_room(self, data: bytes) -> bool:
        """Whether one more can wait."""
        return len(self._waiting) < self.most and self.size + len(data) <= self._most_bytes

    def put(self, item: T, data: bytes) -> None:
        """Add an item, whose encoding is `data`."""
        if not self._waiting:
            self.changed.set()
        self._waiting.append((item, data))
        self.size += len(data)

    def pop(self) -> tuple[T, bytes]:
        """Remove and return the oldest."""
        item, data = self._waiting.popleft()
        self.size -= len(data)
        if not self._waiting:
            self.changed.clear()
        return item, data

    def clear(self) -> None:
        """Remove all."""
        while self._waiting:
            self.pop()

    def take(self, count: int, size: int) -> list[tuple[T, bytes]]:
        """Remove and return the oldest, at least one, at most `count` and about `size` bytes."""
        taken: list[tuple[T, bytes]] = []
        while self._waiting and len(taken) < count:
            size -= len(self._waiting[0][1]) + 1
            if taken and size < 0:
                break
            taken.append(self.pop())
        return taken
