"""``wslessons bench push``: polling, long polling, server-sent events and WebSocket, in turns.

The story is that of lesson 0: 500 dashboard tabs that poll every 2 seconds, while something changes
every 200 seconds. It is run with fewer tabs and faster; requests a second scale with both, while
shares and ratios stay. A poller's delay shrinks with the interval, the pushed ones' does not.
"""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from wslessons.bench.tools import machine, save_json
from wslessons.errors import UserError
from wslessons.tables import table

if TYPE_CHECKING:  # else every command would need the extra `push`
    from wslessons.bench.push_load import Run
    from wslessons.push import UnitCosts

__all__ = ["add_arguments", "run"]

HEAD = (
    *("kind", "requests/s", "no change", "up B/s", "down B/s", "CPU ms/s"),
    *("p50 ms", "p99 ms", "bytes, ratio", "CPU, ratio"),
)
MILLION = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command its options.

    Args:
        parser: that of ``wslessons bench push``.
    """
    parser.add_argument(
        "--tabs", type=int, default=50, help="open tabs, 1 to 2000 (default: %(default)s)"
    )
    parser.add_argument(
        "--speed",
        type=float,
        default=40,
        help="how many times faster than the story, 1 to 200 (default: %(default)s)",
    )
    parser.add_argument(
        "--changes", type=int, default=4, help="changes in each run, 1 or more (default: 4)"
    )
    parser.add_argument("--quick", action="store_true", help="10 tabs, 200 times faster, 1 change")
    parser.add_argument("--json", metavar="FILE", help="write all numbers to this file, too")


def run(args: argparse.Namespace) -> int:
    """Measure, print the tables, and return the exit code."""
    if args.quick:
        args.tabs, args.speed, args.changes = 10, 200.0, 1
    for name, least, most in (("tabs", 1, 2000), ("speed", 1, 200), ("changes", 1, 1000)):
        if not least <= getattr(args, name) <= most:
            raise UserError(f"--{name} goes from {least} to {most}.", exit_code=2)
    results = asyncio.run(_measure(args))
    save_json(args, results)
    return 0


async def _measure(args: argparse.Namespace) -> dict[str, Any]:
    from wslessons.bench import push_load

    kinds = list(push_load.push.KINDS)
    interval = push_load.STORY_INTERVAL / args.speed
    seconds = args.changes * push_load.STORY_CHANGE_EVERY / args.speed
    print(
        f"{args.tabs} tabs for the story's {push_load.STORY_TABS}, 1 s for its {args.speed:g} s: "
        f"a poll every {interval * 1000:g} ms, {args.changes} changes in {seconds:g} s a run."
    )
    runs: list[Run] = []
    async with push_load.PushBench() as bench:
        for kind in kinds:
            print(f"  {kind} ...", flush=True)
            scale = {"tabs": args.tabs, "changes": args.changes}
            runs.append(await bench.story(kind, speed=args.speed, **scale))
    print("  one poll, one push, one ping ...", flush=True)
    unit = await push_load.unit_costs(*((100, 0.5) if args.quick else ()))
    print(_report(runs, args.tabs / interval))
    print(_forecast(unit, push_load.STORY_INTERVAL, push_load.STORY_CHANGE_EVERY))
    return {
        "machine": machine(),
        "scale": {"tabs": args.tabs, "speed": args.speed, "changes": args.changes},
        "runs": [asdict(run) | {"rate": run.rate, "share": run.share_unchanged} for run in runs],
        "unit_costs": asdict(unit),
    }


def _report(runs: list[Run], nominal: float) -> str:
    base = runs[-1]
    rows = [
        [
            run.kind,
            f"{run.rate:,.1f}",
            f"{run.share_unchanged:.1%}" if run.requests else "-",
            f"{run.up / run.seconds:,.0f}",
            f"{run.down / run.seconds:,.0f}",
            f"{1000 * run.cpu / run.seconds:.1f}",
            f"{1000 * run.delay(0.5):.1f}",
            f"{1000 * run.delay(0.99):.1f}",
            f"{run.traffic / base.traffic:,.1f}",
            f"{run.cpu / base.cpu:,.1f}",
        ]
        for run in runs
    ]
    lines = [table(HEAD, rows)]
    if runs[0].rate < 0.9 * nominal:
        lines.append(
            f"The machine fell behind: {nominal:,.0f} polls a second were due. Use a lower --speed."
        )
    return "\n".join(lines)


def _forecast(unit: UnitCosts, interval: float, change_every: float) -> str:
    poll, push = unit.polling(MILLION, interval), unit.pushing(MILLION, change_every)
    rows = [
        [
            name,
            f"{load.cores:.2f}",
            f"{8 * load.traffic / 1e6:,.1f}",
            f"{load.memory / 2**30:.1f}",
        ]
        for name, load in (("polling", poll), ("WebSocket", push))
    ]
    micro = 1e6
    return "\n".join(
        [
            "",
            f"One poll {micro * unit.poll_cpu:.0f} us and {unit.poll_bytes:.0f} bytes; "
            f"one push {micro * unit.push_cpu:.0f} us and {unit.push_bytes:.0f} bytes; "
            f"one ping {micro * unit.ping_cpu:.0f} us.",
            "",
            table(["a million tabs at the story's pace", "cores", "Mbit/s", "GiB"], rows),
            "",
            "Polling takes less CPU for those who look less often than every "
            f"{unit.break_even(change_every):,.0f} s, and with a change every second, "
            f"less often than every {unit.break_even(1):,.1f} s.",
        ]
    )
