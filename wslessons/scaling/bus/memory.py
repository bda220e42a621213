"""The bus of a single server: the channel of lesson 2, and nothing else."""

from __future__ import annotations

from wslessons.scaling.bus.items import Event
from wslessons.scaling.bus.seam import Backplane

__all__ = ["Memory"]


class Memory(Backplane):
    """Deliver what is published at once, in this process. See `Backplane`."""

    local = True

    def __init__(self, *, node: str = "", keep: int = 4096) -> None:
        super().__init__(node=node, keep=keep)
        self._seq = 0

    def publish(self, event: Event) -> None:
        """Deliver the event."""
        self._check_open()
        if self._is_repeat(event.key):
            return
        self._seq += 1
        event.node, event.seq = self.node, self._seq
        self._deliver_here(event)
