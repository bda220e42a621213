"""``wslessons bench web``: what ASGI costs a fan-out, and what our extension of it gives back.

The load is that of ``wslessons bench fanout``: so many messages in flight, and how many deliveries
a second come of it, with how much of the server's CPU time for each. See
`wslessons.bench.servers` for the contenders. They take turns; ratios are taken within a round
and then the median over the rounds.
"""

from __future__ import annotations

import argparse
from statistics import median
from typing import Any

from wslessons.bench.fanout import measure_rate
from wslessons.bench.tools import (
    Child,
    add_common,
    machine,
    raise_descriptor_limit,
    ratio,
    save_json,
    turns,
)
from wslessons.errors import at_least, need
from wslessons.tables import table

__all__ = ["CONTENDERS", "add_arguments", "run"]

CONTENDERS = ("library", "frames", "asgi", "tasks", "loop")
WINDOW = 128


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this bench's options to `parser`.

    Args:
        parser: that of ``wslessons bench web``.
    """
    add_common(parser, "half a minute instead of one", None)
    parser.add_argument("--seconds", type=at_least(0.01, float), help="length of one measurement")
    parser.add_argument(
        "--receivers", type=at_least(1), default=500, help="how many hear (default 500)"
    )
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS)


def run(args: argparse.Namespace) -> int:
    """Measure, print the table, write the JSON file; return the exit code."""
    seconds = args.seconds if args.seconds is not None else 0.4 if args.quick else 1.5
    rounds = args.rounds if args.rounds is not None else 1 if args.quick else 3
    need("uvicorn", "web")
    raise_descriptor_limit(args.receivers + 1024)

    def one(name: str) -> dict[str, Any]:
        return measure_rate(Child("web", name), name, args.receivers, 1, WINDOW, seconds)

    results = turns(args.contenders, rounds, one)
    about = {"receivers": args.receivers, "window": WINDOW, "machine": machine()}
    print(f"{args.receivers} receivers, 1 sender, window {WINDOW}; " + _words(about["machine"]))
    head = ["", "deliveries/s", "of the library", "CPU/delivery", "lost"]
    print(table(head, [_row(results, name) for name in args.contenders]), flush=True)
    save_json(args, {"bench": "web", **about, "turns": results})
    return 0


def _row(results: dict[str, list[dict[str, Any]]], name: str) -> list[str]:
    mine = results[name]
    return [
        name,
        f"{median(turn['rate'] for turn in mine) / 1e3:,.0f}k",
        ratio(results, name, "library", "rate"),
        f"{median(turn['cpu'] for turn in mine) * 1e6:.3g} us",
        f"{sum(turn['missing'] for turn in mine):,}",
    ]


def _words(facts: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in facts.items())
