"""``wslessons cluster``: several chat servers over one broker, from a shell."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from typing import Any

from wslessons.errors import UserError, print_line
from wslessons.scaling.bus.transport import cancel_and_wait, first_to_end
from wslessons.scaling.cluster import Cluster
from wslessons.scaling.cluster.table import Display
from wslessons.serving import stop_event

__all__ = ["run", "serve_until_stopped"]

LOOK = 1.0
"""Seconds between two looks at the servers' numbers."""


async def serve_until_stopped(cluster: Cluster) -> None:
    """Run a cluster until SIGINT or SIGTERM: URLs on stdout, numbers on stderr.

    Args:
        cluster: it is not started yet.

    Raises:
        UserError: it can't start, or all its servers have ended by themselves.
    """
    with stop_event() as stop:
        starting = asyncio.create_task(cluster.start())
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                return
            starting.result()
            for url in cluster.urls:
                print_line(url)
            await first_to_end(_until(stop), _watch(cluster), _all_ended(cluster))
        finally:
            # Once: it has things to put away, and another cancellation would keep it from that.
            starting.cancel()
            await asyncio.wait([starting])
            await cancel_and_wait(starting, stopping)
            await cluster.stop()


async def _until(stop: asyncio.Event) -> None:
    await stop.wait()


async def _watch(cluster: Cluster) -> None:
    display = Display(sys.stderr)
    while True:
        stats = await cluster.stats(timeout=2 * LOOK)
        # Nobody who reads is no reason to stop serving.
        with contextlib.suppress(OSError):
            display.show(cluster, stats)
        await asyncio.sleep(LOOK)


async def _all_ended(cluster: Cluster) -> None:
    await asyncio.gather(*(server.wait_ended() for server in cluster.servers))
    words = next((each.last_words for each in cluster.servers if each.last_words), "")
    raise UserError(f"all servers have ended{': ' if words else ''}{words}.")


def run(args: argparse.Namespace, **limits: Any) -> int:
    """Run the cluster that the command line asks for, until it is stopped.

    Args:
        args: the words of the command line.
        limits: those of `Cluster`, on its chats and their connections.

    Returns:
        The exit code.

    Raises:
        UserError: as `serve_until_stopped`.
    """
    cluster = Cluster(
        servers=args.servers,
        bus=args.bus,
        nodes=args.nodes,
        host=args.host,
        port=args.port,
        share_port=args.share_port,
        loop=args.loop,
        **limits,
    )
    asyncio.run(serve_until_stopped(cluster))
    return 0
