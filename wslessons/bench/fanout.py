"""``wslessons bench fanout``: one message to many, and what it costs.

Three questions, each put to all contenders in turns, several times, with a server process and a
load process that counts what really arrives:

- **rate**: with so many messages in flight, how many deliveries a second, and how much of the
  server's CPU time for each? (A message is in flight until every receiver has it.)
- **latency**: at a given pace, how long does a delivery take?
- **stalled**: what does one member that does not read cost the other 200?

See `wslessons.bench.servers` for the contenders and `wslessons.bench.peers` for the floor.
Ratios are taken within a round, where both sides saw the same machine, and then the median over the
rounds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

from wslessons.bench.fanout_load import TEXT_SIZE, Deaf, Load
from wslessons.bench.peers import Peer, RunningPeer, add_peers, floor
from wslessons.bench.tools import (
    Child,
    add_common,
    machine,
    progress,
    quantile,
    raise_descriptor_limit,
    ratio,
    save_json,
    turns,
)
from wslessons.errors import at_least
from wslessons.tables import table

__all__ = ["CONTENDERS", "add_arguments", "measure_rate", "run"]

CONTENDERS = ("chat", "tasks", "broadcast", "naive")
RATES = [
    (receivers, senders, window)
    for receivers in (100, 500, 2000)
    for senders in (1, 20)
    for window in (128, 24)
]
QUICK_RATES = [(500, 1, 128), (500, 20, 128)]
DEFAULT = [name for name in CONTENDERS if name != "tasks"]
Turns = dict[str, list[dict[str, Any]]]
"""What each contender's turns gave, by its name."""
PACES = (50, 2000)
"""Messages a second."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this bench's options to `parser`.

    Args:
        parser: that of ``wslessons bench fanout``.
    """
    add_common(parser, "less than a minute instead of a quarter hour", None)
    parser.add_argument("--seconds", type=at_least(0.01, float), help="length of one measurement")
    parser.add_argument(
        "--contenders",
        nargs="+",
        choices=CONTENDERS,
        default=DEFAULT,
        metavar="NAME",
        help=f"some of {', '.join(CONTENDERS)} (default all but tasks)",
    )
    parser.add_argument(
        "--only", choices=("rate", "latency", "stalled"), help="ask one question only"
    )
    add_peers(parser, "the chat's plain protocol: the name first, then lines")


def run(args: argparse.Namespace) -> int:
    """Measure, print the tables, write the JSON file; return the exit code."""
    rounds = args.rounds if args.rounds is not None else 1 if args.quick else 3
    seconds = args.seconds if args.seconds is not None else 0.5 if args.quick else 1.5
    raise_descriptor_limit(4096)
    results: dict[str, Any] = {"bench": "fanout", "text_size": TEXT_SIZE, "machine": machine()}
    print(
        f"fan-out of {TEXT_SIZE}-byte texts; "
        + ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    )
    peers = {peer.name: peer for peer in [*args.peer, floor()] if peer is not None}
    contenders = [*args.contenders, *peers]
    if "floor" not in peers:
        print("(no C compiler is found here: there is no floor to compare with)")
    if args.only in (None, "rate"):
        results["rate"] = [
            _rate_case(*case, contenders, peers, rounds, seconds)
            for case in (QUICK_RATES if args.quick else RATES)
        ]
    if args.only in (None, "latency"):
        results["latency"] = [
            _latency_case(pace, contenders, peers, rounds, seconds, args.quick) for pace in PACES
        ]
    if args.only in (None, "stalled"):
        results["stalled"] = _stalled_case(rounds if args.quick else rounds + 2, seconds)
    save_json(args, results)
    return 0


def _start(name: str, peers: dict[str, Peer]) -> Child | RunningPeer:
    return peers[name].start() if name in peers else Child("fanout", name)


def _rate_case(
    receivers: int,
    senders: int,
    window: int,
    contenders: list[str],
    peers: dict[str, Peer],
    rounds: int,
    seconds: float,
) -> dict[str, Any]:
    """Measure the rate of all contenders in turns."""

    def one(name: str) -> dict[str, Any]:
        return measure_rate(_start(name, peers), name, receivers, senders, window, seconds)

    everything = turns(contenders, rounds, _or_deaf(one))
    results = _hearing(everything)
    rows = [
        [
            name,
            _large(median(turn["rate"] for turn in mine)),
            ratio(results, name, "broadcast", "rate"),
            ratio(results, name, "floor", "rate"),
            f"{median(turn['cpu'] for turn in mine) * 1e6:.3g} us",
            _missing(mine),
        ]
        for name, mine in results.items()
    ]
    print(f"\n{_many(receivers, 'receiver')}, {_many(senders, 'sender')}, window {window}")
    head = ["", "deliveries/s", "over broadcast", "of the floor", "CPU/delivery", "lost"]
    print(table(head, rows), flush=True)
    _tell_deaf(everything)
    return {"receivers": receivers, "senders": senders, "window": window, "turns": everything}


def measure_rate(
    started: Child | RunningPeer,
    contender: str,
    receivers: int,
    senders: int,
    window: int,
    seconds: float,
) -> dict[str, Any]:
    """Keep `window` messages in flight, and count what arrives.

    Args:
        started: the server, which ends with the measurement.
        contender: its name.
        receivers: how many hear.
        senders: how many speak.
        window: messages in flight.
        seconds: for how long, after a quarter as long that does not count.

    Returns:
        ``rate`` in deliveries per second, the server's ``cpu`` seconds for each, how many are
        ``missing``, whether those were just ``late``, and whether all came ``in_order``.

    Raises:
        UserError: nothing arrived.
    """
    with started as server, Load(server.port, receivers, senders) as load:
        load.saturate(seconds / 4, window)
        cpu, arrived = server.ask()["cpu"], load.arrived
        took = load.saturate(seconds, window)
        cpu, arrived = server.ask()["cpu"] - cpu, load.arrived - arrived
        missing, late = load.drain()
        if not arrived:
            raise Deaf(0, receivers)
        return {
            "rate": arrived / took,
            "cpu": cpu / arrived,
            "missing": missing,
            "late": late,
            "in_order": load.in_order,
        }


def _latency_case(
    pace: int,
    contenders: list[str],
    peers: dict[str, Peer],
    rounds: int,
    seconds: float,
    quick: bool,
) -> dict[str, Any]:
    """Measure the latency of all contenders at one pace, in turns."""

    def one(name: str) -> dict[str, Any]:
        with _start(name, peers) as server, Load(server.port, 500, 1) as load:
            latencies = load.pace(min(seconds, 1.0) if pace > 100 else seconds, pace)
            missing, late = load.drain(1 if quick else 30, timeout=0.5)
            return {
                "p50": quantile(latencies, 0.5),
                "p99": quantile(latencies, 0.99),
                "missing": missing,
                "late": late,
            }

    everything = turns(contenders, rounds, _or_deaf(one))
    results = _hearing(everything)
    rows = [
        [
            name,
            *(f"{median(turn[q] for turn in results[name]) * 1e3:.1f} ms" for q in ("p50", "p99")),
            ratio(results, name, "floor", "p50"),
            _missing(results[name]),
        ]
        for name in results
    ]
    print(f"\n500 receivers, 1 sender, {pace} messages a second")
    print(table(["", "p50", "p99", "p50 over the floor's", "lost"], rows), flush=True)
    _tell_deaf(everything)
    return {"receivers": 500, "pace": pace, "turns": everything}


def _or_deaf(one: Callable[[str], dict[str, Any]]) -> Callable[[str], dict[str, Any]]:
    """Have a contender that leaves receivers deaf give a sentence in place of its measures."""

    def measured(name: str) -> dict[str, Any]:
        try:
            return one(name)
        except Deaf as deaf:
            return {"deaf": str(deaf)}

    return measured


def _hearing(results: Turns) -> Turns:
    """Return the turns of the contenders whose receivers heard, in each of them."""
    return {n: mine for n, mine in results.items() if not any("deaf" in turn for turn in mine)}


def _tell_deaf(results: Turns) -> None:
    for name, mine in results.items():
        if sentence := next((turn["deaf"] for turn in mine if "deaf" in turn), ""):
            print(f"{name}: {sentence}", flush=True)


def _stalled_case(rounds: int, seconds: float) -> dict[str, Any]:
    """Measure the rate at 200 members with and without one more that never reads."""
    results: list[dict[str, Any]] = []
    for number in range(rounds):
        progress(number, rounds, "a member that does not read")
        turn: dict[str, Any] = {}
        for name, stalled in (("without", False), ("with", True)):
            with (
                Child("fanout", "chat") as server,
                Load(server.port, 200, 1, stalled=stalled) as load,
            ):
                # The stalled one has to fill the kernel's buffers first, some megabytes.
                for _ in range(20):
                    if load.sent < 60_000:
                        load.saturate(0.5, 128)
                before, arrived = server.ask(), load.arrived
                took = load.saturate(seconds, 128)
                after, arrived = server.ask(), load.arrived - arrived
                turn[name] = arrived / took
                turn[f"cpu_{name}"] = (after["cpu"] - before["cpu"]) / arrived
                if stalled:
                    missing, _ = load.drain()
                    woken = load.wake_stalled()
                    turn |= {
                        "grown": None if before["rss"] is None else after["rss"] - before["rss"],
                        "missing": missing,
                        "sent": load.sent,
                        "heard": woken.count,
                        "told_missed": woken.missed,
                    }
        results.append(turn)
    progress(rounds, rounds, "")
    share = median(turn["with"] / turn["without"] for turn in results)
    cpu_ratio = median(turn["cpu_with"] / turn["cpu_without"] for turn in results)
    exact = all(t["heard"] + t["told_missed"] == t["sent"] for t in results)
    last = results[-1]
    print("\n200 receivers, 1 sender, window 128, and one member that does not read")
    print(f"rate of the others, with it to without it: {share:.3f} (median of {rounds})")
    print(f"the server's CPU time for each delivery, likewise: {cpu_ratio:.3f}")
    print(f"lost by the others: {sum(turn['missing'] for turn in results)}")
    if last["grown"] is not None:
        grown = max(turn["grown"] for turn in results)
        print(f"growth of the server's memory meanwhile: {grown / 1024:.0f} KiB at most")
    print(
        f"when it woke it heard {last['heard']:,} and was told of {last['told_missed']:,} missed,"
        f" of {last['sent']:,} sent: {'exact' if exact else 'NOT exact'}",
        flush=True,
    )
    return {"ratio": share, "cpu_ratio": cpu_ratio, "exact": exact, "turns": results}


def _missing(mine: Iterable[dict[str, Any]]) -> str:
    """Sum up what did not arrive; "late" is what was still arriving when we stopped waiting."""
    lost = sum(turn["missing"] for turn in mine if not turn["late"])
    late = sum(turn["missing"] for turn in mine if turn["late"])
    disorder = "" if all(turn.get("in_order", True) for turn in mine) else ", out of order"
    return f"{lost:,}" + (f", {late:,} late" if late else "") + disorder


def _large(value: float) -> str:
    return f"{value / 1e6:.2f}M" if value >= 1e6 else f"{value / 1e3:.0f}k"


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
