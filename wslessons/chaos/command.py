"""``wslessons chaos``: break everything at random, and see whether the promises hold."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from wslessons.chaos.schedule import COMMON, KINDS
from wslessons.errors import UserError, at_least, print_line

if TYPE_CHECKING:
    from wslessons.chaos.run import Report

__all__ = ["add_arguments", "run"]

SHOWN = 20
"""Findings that are printed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``wslessons chaos``.

    Args:
        parser: that of ``wslessons chaos``.
    """
    parser.add_argument(
        "--minutes", type=at_least(0.01, float), default=1.0, metavar="M", help="default: 1"
    )
    parser.add_argument(
        "--seed", default=None, metavar="S", help="the same one gives the same schedule"
    )
    parser.add_argument(
        "--bus",
        default="nats?stream=chat",
        help="nats or redis, with ?stream=NAME for a log; or kafka, where there is a real one"
        " (default: nats?stream=chat)",
    )
    parser.add_argument("--nodes", type=at_least(1), default=1, help="of the broker (default: 1)")
    parser.add_argument("--servers", type=at_least(1), default=3, help="default: 3")
    parser.add_argument("--people", type=at_least(1), default=120, help="default: 120")
    parser.add_argument(
        "--every",
        type=at_least(0.01, float),
        default=2.0,
        help="seconds between two faults (default: 2)",
    )
    parser.add_argument(
        "--only",
        metavar="FAULTS",
        help="such as 'flood, restore broker, refuse entries'; the last comes only if it is named"
        " (default: all others that are possible)",
    )
    parser.add_argument("--log", type=Path, metavar="FILE", help="write all logs there, as JSON")


def run(args: argparse.Namespace) -> int:
    """Run ``wslessons chaos``; return 0 if every promise was kept, else 1."""
    if not hasattr(signal, "SIGSTOP"):
        raise UserError("chaos freezes servers by a signal that only Linux and macOS have.")
    # Here, since other commands need none of it.
    from wslessons.chaos.run import run as run_chaos

    kinds = [each.strip() for each in (args.only or ",".join(COMMON)).split(",")]
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise UserError(
            f"there is no fault {unknown[0]!r}: choose of {', '.join(KINDS)}.", exit_code=2
        )
    seed = args.seed or f"{int(time.time())}"
    print_line(f"seed {seed}, {args.bus}, {args.minutes:g} minutes")
    report = asyncio.run(
        run_chaos(
            seconds=60 * args.minutes,
            seed=seed,
            bus=args.bus,
            nodes=args.nodes,
            servers=args.servers,
            people=args.people,
            every=args.every,
            kinds=kinds,
            tell=lambda line: print(line, file=sys.stderr),
        )
    )
    if args.log:
        args.log.write_bytes(msgspec.json.encode(report))
    print_line(summary(report))
    return 1 if report.findings else 0


def summary(report: Report) -> str:
    """Say what a report has in a few lines."""
    kinds = Counter(step.kind for step in report.steps)
    lines = [
        f"{len(report.steps)} faults: "
        + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())),
        f"{report.people} people on {report.connections} connections said {report.said:,}"
        f" messages: {report.acknowledged:,} acknowledged, {report.unconfirmed:,} in doubt",
        f"heard {report.heard:,} events; told of {report.missed:,} that were missing, and"
        f" {report.gaps:,} times of some that nobody could count",
        f"a server held at most {report.memory >> 20} MiB",
    ]
    if not report.findings:
        return "\n".join([*lines, "every promise was kept"])
    broken = Counter(finding.kind for finding in report.findings)
    lines.append("BROKEN: " + ", ".join(f"{count} {kind}" for kind, count in broken.items()))
    shown = [f"  {finding}" for finding in report.findings[:SHOWN]]
    more = len(report.findings) - SHOWN
    return "\n".join([*lines, *shown, *([f"  and {more} more"] if more > 0 else [])])
