"""Clusters of chat servers, each under a name, as `wslessons.lab.background` has servers."""

from __future__ import annotations

import asyncio
from typing import Any

from wslessons.lab.kernel import running_loop
from wslessons.scaling.cluster import Cluster

__all__ = ["cluster"]

_running: dict[str, Cluster] = {}
_locks: dict[str, asyncio.Lock] = {}


async def cluster(name: str, servers: int = 2, bus: str = "memory", **options: Any) -> Cluster:
    """Start chat servers as processes of their own, in place of those that had this name.

    So a cell may run again, or with another `bus`, and leaves nothing behind. They end with the
    kernel.

    In: what `wslessons.scaling.cluster.Cluster` takes.

    Raises:
        UserError: the bus can't be used.
    """
    running_loop()
    async with _locks.setdefault(name, asyncio.Lock()):
        if (old := _running.get(name)) is not None:
            await old.stop()
            del _running[name]
        started = Cluster(servers, bus, **options)
        await started.start()
        _running[name] = started
    return started
