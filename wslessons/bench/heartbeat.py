"""``wslessons bench heartbeat``: what it costs to keep asking thousands of idle connections.

One server process with 5,000 connections that say nothing, and this process at their other end,
which answers each ping. In turns: `wslessons.heartbeat`, the keepalive of `websockets` at the same
interval, and nobody pinging. Measured are the server's CPU time, without what opening the
connections took, and its memory, as a median over the rounds.

Not measured: the bytes on the network, and how fast a dead peer is noticed, which is no matter of
cost (see ``tests/test_heartbeat.py``).
"""

from __future__ import annotations

import argparse
import contextlib
import time
from statistics import median
from typing import Any

from wslessons.bench.connect import Crowd
from wslessons.bench.tools import (
    Child,
    add_common,
    machine,
    raise_descriptor_limit,
    save_json,
    turns,
)
from wslessons.errors import at_least
from wslessons.tables import table

__all__ = ["add_arguments", "measure", "run", "show", "summary"]

CONTENDERS = ("wslessons", "library", "none")


def measure(contender: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run one contender once.

    Args:
        contender: its name.
        args: the bench's words.

    Returns:
        ``cpu_per_minute`` in seconds, ``pings_per_minute``, and ``bytes_per_connection``, None
        where memory can't be told.
    """
    with Child("heartbeat", contender, str(args.interval)) as server:
        empty = server.ask()
        with contextlib.closing(Crowd(server.port)) as peers:
            peers.come(args.connections, joining=False)
            # In the first interval each connection allocates what its first beat needs.
            peers.answer(args.interval)
            before, pings = server.ask(), peers.pings
            begun = time.perf_counter()
            peers.answer(args.seconds)
            after, minutes = server.ask(), (time.perf_counter() - begun) / 60
            memory = None
            if after["rss"] is not None:
                memory = (after["rss"] - empty["rss"]) / args.connections
            return {
                "cpu_per_minute": (after["cpu"] - before["cpu"]) / minutes,
                "bytes_per_connection": memory,
                "pings_per_minute": (peers.pings - pings) / minutes,
            }


def summary(rounds: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float | None]]:
    """Take the medians of what `measure` returned, for each contender.

    Args:
        rounds: for each contender what its turns gave.

    Returns:
        For each contender its medians, None for what was never known.
    """

    def middle(runs: list[dict[str, Any]], what: str) -> float | None:
        values = [run[what] for run in runs if run[what] is not None]
        return median(values) if values else None

    return {who: {what: middle(runs, what) for what in runs[0]} for who, runs in rounds.items()}


def show(medians: dict[str, dict[str, float | None]]) -> str:
    """Lay the medians out as a table, with what each costs over no heartbeat at all.

    Args:
        medians: what `summary` returned.

    Returns:
        The table's lines.
    """
    none = medians["none"]
    rows = []
    for who, values in medians.items():
        cpu, memory = values["cpu_per_minute"], values["bytes_per_connection"]
        assert cpu is not None
        assert none["cpu_per_minute"] is not None
        over = (memory - (none["bytes_per_connection"] or 0)) / 1024 if memory is not None else None
        rows.append(
            [
                who,
                f"{values['pings_per_minute']:,.0f}",
                f"{cpu:.2f}",
                f"{cpu - none['cpu_per_minute']:+.2f}",
                "unknown" if memory is None else f"{memory / 1024:.2f}",
                "unknown" if over is None else f"{over:+.2f}",
            ]
        )
    head = ["heartbeat", "pings/min", "CPU s/min", "over none", "KiB/connection", "over none"]
    return table(head, rows)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options of this bench.

    Args:
        parser: that of ``wslessons bench heartbeat``.
    """
    add_common(parser, "500 connections, seconds, one round")
    parser.add_argument(
        "--connections", type=at_least(1), default=5000, help="default: %(default)s"
    )
    parser.add_argument(
        "--interval", type=at_least(0.01, float), default=15.0, help="seconds between two pings"
    )
    parser.add_argument(
        "--seconds", type=at_least(0.01, float), default=30.0, help="measured, for each run"
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print the table, and return 0."""
    if args.quick:
        args.connections, args.interval, args.seconds, args.rounds = 500, 1.0, 3.0, 1
    raise_descriptor_limit(args.connections + 100)
    rounds = turns(CONTENDERS, args.rounds, lambda who: measure(who, args))
    medians = summary(rounds)
    print(f"{args.connections:,} idle connections, a ping every {args.interval:g} s, ", end="")
    print(f"{args.seconds:g} s measured, medians of {args.rounds}")
    print(show(medians))
    options = {name: getattr(args, name) for name in ("connections", "interval", "seconds")}
    save_json(args, {"machine": machine(), **options, "medians": medians, "rounds": rounds})
    return 0
