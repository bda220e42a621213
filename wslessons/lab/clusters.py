"""One cluster of chat servers at a time, in place of the one before."""

from __future__ import annotations

import asyncio
from typing import Any

from wslessons.cluster import Cluster
from wslessons.lab.kernel import running_loop

_running: Cluster | None = None
_lock = asyncio.Lock()


async def cluster(servers: int = 2, bus: str = "memory", **options: Any) -> Cluster:
    """Start chat servers as processes of their own, after stopping those of the last call.

    So a cell may run again, or with another `bus`, and a page never has more processes than it
    shows. They end with the kernel.

    In: what `wslessons.cluster.Cluster` takes.

    Raises:
        UserError: the bus can't be used.
    """
    global _running
    running_loop()
    async with _lock:
        old, _running = _running, None
        if old is not None:
            await old.stop()
        started = Cluster(servers, bus, **options)
        await started.start()
        _running = started
    return started
