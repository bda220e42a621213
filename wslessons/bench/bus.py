"""``wslessons bench bus``: what our bus adds to a broker's bare client.

For each kind of bus, in turns and several times, over one broker, with the sender here and the
receiver in another process:

- **latency**: at a given pace, how long from `publish` on one server to an event on another?
- **rate**: how many events a second can one server publish, until the broker has them?

The bare client sends the same JSON: one message for each, and for the rate as its library does it
best, in a pipeline or a window as long as the most events that the bus joins in one message. Ratios
and differences are taken within a round, and then the median over the rounds. The memory bus has no
broker and no other process to reach, so it is not here. Where there is no Apache Kafka (see
`wslessons.scaling.brokers.kafka`) an emulator takes its place and is called one: its times are not
Kafka's, and only what our bus adds to them is of interest.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from importlib import metadata
from statistics import median
from typing import Any

from wslessons.bench.bus_ends import KINDS, make_end
from wslessons.bench.tools import Child, add_common, machine, progress, quantile, save_json
from wslessons.errors import at_least
from wslessons.scaling import brokers
from wslessons.scaling.bus import from_url
from wslessons.scaling.bus.url import with_options
from wslessons.tables import table

__all__ = ["add_arguments", "run"]

TEXT = "x" * 64
RECEIVER = "wslessons.bench.bus_ends"
ARRIVAL = 30.0
"""Seconds for all that was sent to arrive."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this bench's options to `parser`.

    Args:
        parser: that of ``wslessons bench bus``.
    """
    add_common(parser, "less than a minute", None)
    parser.add_argument(
        "--pace", type=at_least(0.1, float), default=200, help="events a second (default 200)"
    )
    parser.add_argument(
        "--kinds",
        nargs="+",
        choices=KINDS,
        default=list(KINDS),
        metavar="KIND",
        help=f"some of {', '.join(KINDS)} (default all)",
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print the tables, write the JSON file; return the exit code."""
    rounds = args.rounds if args.rounds is not None else (2 if args.quick else 5)
    seconds, count = (0.8, 5_000) if args.quick else (2.0, 20_000)
    results: dict[str, Any] = {
        "bench": "bus",
        "pace": args.pace,
        "machine": machine()
        | {name: metadata.version(name) for name in ("nats-py", "redis", "aiokafka")},
        "kinds": asyncio.run(measure(args.kinds, rounds, args.pace, seconds, count)),
    }
    print(f"latency at {args.pace:g} events a second, and events a second at most:")
    print(table(HEAD, [row(kind, found) for kind, found in results["kinds"].items()]))
    save_json(args, results)
    return 0


HEAD = [
    "bus",
    "p50 ms",
    "bare p50",
    "added p50",
    "p99 ms",
    "bare p99",
    "rate",
    "bare rate",
    "rate/bare",
]


def row(kind: str, found: dict[str, Any]) -> list[str]:
    """Lay out the medians of one kind of bus; an emulator is called one.

    Args:
        kind: one of `KINDS`.
        found: what `measure` found for it.

    Returns:
        The cells of a row under `HEAD`.
    """
    bus, bare = found["bus"], found["bare"]
    return [
        kind + (" (emulator)" if "emulator" in found["broker"] else ""),
        *(f"{1000 * value:.2f}" for value in (bus["p50"], bare["p50"], found["added_p50"])),
        *(f"{1000 * value:.2f}" for value in (bus["p99"], bare["p99"])),
        *(f"{value:,.0f}" for value in (bus["rate"], bare["rate"])),
        f"{found['rate_ratio']:.2f}",
    ]


async def measure(
    kinds: list[str], rounds: int, pace: float, seconds: float, count: int
) -> dict[str, Any]:
    """Measure each kind of bus and its bare client in turns.

    Args:
        kinds: some of `KINDS`.
        rounds: turns of each contender.
        pace: events a second, for the latency.
        seconds: how long the latency is measured in each turn.
        count: events that are sent at once, for the rate.

    Returns:
        For each kind the ``broker`` that ran, and the medians of `summary`.

    Raises:
        UserError: a broker can't be started or reached.
    """
    with Child(module=RECEIVER, timeout=ARRIVAL, wait=False) as receiver:
        await asyncio.to_thread(receiver.wait_ready)
        return await _measure(receiver, kinds, rounds, pace, seconds, count)


async def _measure(
    receiver: Child, kinds: list[str], rounds: int, pace: float, seconds: float, count: int
) -> dict[str, Any]:
    results: dict[str, Any] = {}
    total, done = 2 * rounds * len(kinds), 0
    for family in dict.fromkeys(KINDS[kind][0] for kind in kinds):
        async with brokers.run(family) as running:
            print(f"{family}: {running.label}", file=sys.stderr)
            for kind in [kind for kind in kinds if KINDS[kind][0] == family]:
                url = with_options(running.url, KINDS[kind][1])
                # Only the bus says in a sentence that a broker can't be reached, or refuses.
                async with from_url(url):
                    pass
                found: dict[str, list[dict[str, float]]] = {"bus": [], "bare": []}
                for number in range(rounds):
                    # Whoever comes first finds the machine in another state.
                    for contender in ("bus", "bare")[:: 1 if number % 2 else -1]:
                        progress(done, total, f"{kind}, {contender}")
                        found[contender].append(
                            await turn(receiver, contender, kind, url, pace, seconds, count)
                        )
                        done += 1
                results[kind] = {"broker": running.label, **summary(found)}
    progress(total, total, "")
    return results


def summary(found: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Take the medians over the rounds.

    Args:
        found: what `turn` measured in each round, for the ``bus`` and the ``bare`` client.

    Returns:
        The medians of both, and those of what is compared within each round: ``added_p50`` in
        seconds and ``rate_ratio``.
    """
    pairs = list(zip(found["bus"], found["bare"], strict=True))
    return {
        contender: {key: median(each[key] for each in turns) for key in turns[0]}
        for contender, turns in found.items()
    } | {
        "added_p50": median(bus["p50"] - bare["p50"] for bus, bare in pairs),
        "rate_ratio": median(bus["rate"] / bare["rate"] for bus, bare in pairs),
    }


async def turn(
    receiver: Child,
    contender: str,
    kind: str,
    url: str,
    pace: float,
    seconds: float,
    count: int,
) -> dict[str, float]:
    """Measure one contender once.

    Args:
        receiver: the other process; it ends if the turn does not come to its end.
        contender: "bus" or "bare".
        kind: one of `KINDS`.
        url: of the broker, with the bus's options.
        pace: events a second, for the latency.
        seconds: how long the latency is measured.
        count: events that are sent at once, for the rate.

    Returns:
        ``p50`` and ``p99`` of the seconds on the way, and events a second: ``rate`` until the
        broker had them, ``received_rate`` until the other process had them.

    Raises:
        UserError: the broker can't be reached, or what was sent does not arrive.
    """

    async def ask(question: dict[str, Any]) -> dict[str, Any]:
        # This loop has to go on sending what is queued.
        return await asyncio.to_thread(receiver.ask, question)

    end = make_end(contender, kind, url)
    await end.open()
    try:
        await ask({"open": [contender, kind, url]})
        # The first ones pay for whatever has to be set up.
        for _ in range(20):
            await end.send({"t": time.monotonic(), "text": TEXT})
        await ask({"count": 20})
        paced = int(pace * seconds)
        begun = time.monotonic()
        for number in range(paced):
            await asyncio.sleep(max(0.0, begun + number / pace - time.monotonic()))
            await end.send({"t": time.monotonic(), "text": TEXT})
        latencies = (await ask({"count": paced}))["latencies"]
        begun = time.monotonic()
        await end.pump([{"t": begun, "text": TEXT}] * count)
        took = time.monotonic() - begun
        received = (await ask({"count": count}))["at"] - begun
        await ask({"open": None})
    except BaseException:
        # Before the broker, whose end it would complain of; and whoever waits for it waits no more.
        receiver.close()
        raise
    finally:
        await end.close()
    return {
        "p50": quantile(latencies, 0.5),
        "p99": quantile(latencies, 0.99),
        "rate": count / took,
        "received_rate": count / received,
    }
