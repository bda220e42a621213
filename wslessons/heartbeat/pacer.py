"""One timer for thousands of things that are each due now and then, such as heartbeats.

A task for each costs a coroutine, a future and a timer of asyncio's own, over a kilobyte, and each
of them wakes the event loop by itself. Here all of a loop stand in one heap, of which only the
head has a timer; and as each may run a little early (`slack`), a wake-up serves all that are
due about now.

Not handled here: threads; a pacer belongs to the event loop that it was made on.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from typing import ClassVar, Protocol, Self
from weakref import WeakKeyDictionary, ref

__all__ = ["Paced", "Pacer"]

logger = logging.getLogger(__name__)

MOST_ENDED = 100
"""So many that have ended may stay in the heap, however short it is."""


class Paced(Protocol):
    """What a pacer takes."""

    @property
    def slack(self) -> float:
        """Seconds by which `tick` may come early."""

    @property
    def ended(self) -> bool:
        """Whether it needs no more serving; once true, always true."""

    def tick(self, now: float, late: float) -> float | None:
        """Do what is due.

        Args:
            now: the loop's time.
            late: by how many seconds it comes late.

        Returns:
            The loop's time when it is due again, or None if it has ended.
        """


class Pacer:
    """The one timer of an event loop, and a heap of what it must serve.

    `for_running_loop` gives the loop's own; a pacer is made on a running loop and used only there.
    """

    # Weak on both sides: a pacer's timer and what it serves refer to the loop, and so would keep it
    # alive. While there is something to serve, the loop's timer holds the pacer.
    _of_loop: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, ref[Pacer]]] = (
        WeakKeyDictionary()
    )

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Paced]] = []
        self._numbers = itertools.count()
        self._ended = 0
        self._running = False
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    def for_running_loop(cls) -> Self:
        """Return the pacer of the running event loop.

        Raises:
            RuntimeError: no event loop runs here.
        """
        loop = asyncio.get_running_loop()
        known = cls._of_loop.get(loop)
        pacer = known() if known is not None else None
        if not isinstance(pacer, cls):
            pacer = cls()
            cls._of_loop[loop] = ref(pacer)
        return pacer

    def __len__(self) -> int:
        """How many it serves."""
        return sum(not item.ended for _, _, item in self._heap)

    def add(self, item: Paced, due: float) -> None:
        """Call ``item.tick`` at `due`, by the loop's clock, and again whenever it asks for it.

        Args:
            item: what has its turns, until it says that it has ended.
            due: when, in seconds.
        """
        heapq.heappush(self._heap, (due, next(self._numbers), item))
        self._arm()

    def forget(self) -> None:
        """Take note that one of those added has ended.

        To search for it costs more than to leave it in the heap until it is due; but when half of
        the heap has ended, all those go.
        """
        self._ended += 1
        self._sweep()

    def _sweep(self) -> None:
        if self._running or self._ended < MOST_ENDED or self._ended * 2 < len(self._heap):
            return
        self._heap = [entry for entry in self._heap if not entry[2].ended]
        heapq.heapify(self._heap)
        self._ended = 0
        self._arm()

    def _arm(self) -> None:
        """Set the timer for the head of the heap."""
        due = self._heap[0][0] if self._heap else None
        if self._running or (self._timer is not None and self._timer.when() == due):
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer = asyncio.get_running_loop().call_at(due, self._run)

    def _run(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        ready = []
        while self._heap and self._heap[0][0] - self._heap[0][2].slack <= now:
            ready.append(heapq.heappop(self._heap))
        self._running = True
        try:
            for due, _, item in ready:
                self._serve(item, now, due)
        finally:
            self._running = False
        self._sweep()
        self._arm()

    def _serve(self, item: Paced, now: float, due: float) -> None:
        try:
            again = None if item.ended else item.tick(now, now - due)
        except Exception:
            # The others must go on, whatever is wrong with this one.
            logger.exception("%r failed and is served no more", item)
            return
        if again is not None:
            heapq.heappush(self._heap, (again, next(self._numbers), item))
        else:
            self._ended -= 1
