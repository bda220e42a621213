"""Clusters of chat servers, each under a name, as `wslessons.lab.background` has servers."""

from __future__ import annotations

from typing import Any

from wslessons.lab.kernel import running_loop
from wslessons.lab.names import Names
from wslessons.scaling.cluster import Cluster

__all__ = ["cluster"]

_running: Names[Cluster] = Names(lambda cluster: cluster.stop())


async def cluster(name: str, servers: int = 2, bus: str = "memory", **options: Any) -> Cluster:
    """Start chat servers as processes of their own, in place of those that had this name.

    So a cell may run again, or with another `bus`, and leaves nothing behind. They end with the
    kernel.

    Args:
        name: what to call them; starting under the same name again replaces them.
        servers: how many.
        bus: what carries the rooms: ``memory``, ``nats``, ``redis``, ``kafka``, or a broker's URL.
        options: whatever else `wslessons.scaling.cluster.Cluster` takes.

    Returns:
        The cluster; its servers accept connections.

    Raises:
        UserError: the bus can't be used.
    """
    running_loop()

    async def start() -> Cluster:
        started = Cluster(servers, bus, **options)
        await started.start()
        return started

    return await _running.replace(name, start)
