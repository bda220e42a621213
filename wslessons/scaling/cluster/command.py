"""``wslessons cluster``: several chat servers over one broker, from a shell.

It shows a table that renews itself, or lines for a pipe.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import sys
from typing import Any, TextIO

from wslessons import tables
from wslessons.errors import UserError, print_line
from wslessons.scaling.bus.url import Address
from wslessons.scaling.cluster import Cluster, ClusterServer, Stats
from wslessons.serving import cancel_and_wait, first_to_end, stop_event

__all__ = ["Display", "describe_broker", "run", "serve_until_stopped", "summary", "table"]

LOOK = 1.0
"""Seconds between two looks at the servers' numbers."""
HEAD = ("server", "connections", "messages", "heard", "lag", "lost", "broker")
"""`Stats` says what is counted; short enough together for 80 columns."""
EVERY = 30
"""Looks after which a pipe gets a line though nothing changed."""


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


def describe_broker(cluster: Cluster) -> str:
    """Say in a line what is between the servers of a cluster, without anybody's password.

    Args:
        cluster: which runs.

    Returns:
        The line.
    """
    if cluster.bus_url == "memory:":
        return "no broker: each server keeps to itself"
    shown = Address(cluster.bus_url).shown
    return f"{cluster.broker.label}, {shown}" if cluster.broker is not None else shown


def table(cluster: Cluster, stats: list[Stats | None]) -> list[str]:
    """Lay out the newest numbers.

    Args:
        cluster: whose they are.
        stats: those of each server; None for one that gave none.

    Returns:
        The lines: what the broker is, the head, and one for each server.
    """
    alone = cluster.bus_url == "memory:"
    rows = [_row(*each, alone) for each in zip(cluster.servers, stats, strict=True)]
    lines = tables.table(HEAD, rows, left=(0, len(HEAD) - 1)).splitlines()
    return [describe_broker(cluster), *lines]


def summary(cluster: Cluster, stats: list[Stats | None]) -> str:
    """Say the whole cluster in one line.

    Args:
        cluster: which one.
        stats: the numbers of each server; None for one that gave none.

    Returns:
        The line.
    """
    here = [each for each in stats if each is not None]
    parts = [
        f"{sum(server.state == 'running' for server in cluster.servers)} of {len(stats)} servers",
        f"{sum(each.connections for each in here)} connections",
        f"{sum(each.said for each in here)} messages",
        f"{sum(each.waiting for each in here)} waiting",
        f"{sum(each.missed + each.unsent for each in here)} lost",
    ]
    if lags := [each.lag for each in here if each.lag is not None]:
        parts.append(f"lag {max(lags):.1f} ms")
    return f"{', '.join(parts)}; {_changing(cluster, stats)}"


def _row(server: ClusterServer, stats: Stats | None, alone: bool) -> tuple[str, ...]:
    name = f"{server.number} {server.url.removeprefix('ws://')}"
    if stats is None:
        state = "no answer" if server.state == "running" else server.state
        return (name, *["-"] * (len(HEAD) - 2), state)
    lag = "-" if stats.lag is None else f"{stats.lag:.1f} ms"
    numbers = map(str, (stats.connections, stats.said, stats.heard))
    lost = str(stats.missed + stats.unsent)
    return (name, *numbers, lag, lost, "none" if alone else _broker(stats))


def _broker(stats: Stats) -> str:
    waiting = f", {stats.waiting} waiting" if stats.waiting else ""
    return f"{stats.bus}{waiting}{': ' if stats.why else ''}{stats.why}"


def _changing(cluster: Cluster, stats: list[Stats | None]) -> str:
    """Return what a reader wants to know at once when it changes."""
    gone = [f"server {each.number} {each.state}" for each in cluster.servers if each.pid is None]
    if cluster.bus_url == "memory:":
        return "; ".join(["no broker", *gone])
    states = {each.bus for each in stats if each is not None}
    return "; ".join([f"broker {' and '.join(sorted(states)) or 'unknown'}", *gone])


class Display:
    """Show a cluster's numbers: in place on a terminal, else now and then a line.

    Args:
        stream: where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._drawn = 0
        """Lines of the table on the terminal."""
        self._looks = 0
        self._before = ""

    def show(self, cluster: Cluster, stats: list[Stats | None]) -> None:
        """Show the newest numbers; call it once a second.

        Args:
            cluster: whose they are.
            stats: those of each server; None for one that gave none.
        """
        columns, rows = shutil.get_terminal_size()
        lines = table(cluster, stats)
        # The cursor can't go up beyond the top of the screen.
        if self._stream.isatty() and len(lines) < rows:
            up = f"\x1b[{self._drawn}A" if self._drawn else ""
            text = "".join(f"{line[: columns - 1]}\x1b[K\n" for line in lines)
            self._stream.write(f"\r{up}{text}")
            self._drawn = len(lines)
        else:
            changing = _changing(cluster, stats)
            if changing == self._before and self._looks % EVERY:
                self._looks += 1
                return
            self._before, self._looks = changing, 1
            print(summary(cluster, stats), file=self._stream)
        self._stream.flush()


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
