"""``wslessons bench memory``: what an open connection takes that says nothing.

It is the resident memory of the server's process, so what the kernel keeps is not in it. A
connection of the chat has joined, with its name and its welcome.
"""

from __future__ import annotations

import argparse
import sys
from statistics import median

from wslessons.bench import connect
from wslessons.bench.peers import Peer, server
from wslessons.bench.tools import (
    machine,
    ratio,
    save_json,
)
from wslessons.tables import table

__all__ = ["add_arguments", "run"]

add_arguments = connect.add_arguments


def run(args: argparse.Namespace) -> int:
    """Measure, print the table, write the JSON file; return the exit code."""
    lean = (sys.executable, "-m", "wslessons", "echo", "--fast", "--port", "{port}")
    more = {"compressed": (server("compressed"), False), "fast": (Peer("fast", lean), False)}
    count, results = connect.measure_all(args, connect.contenders() | more)
    rows = [
        [
            name,
            f"{median(turn['memory'] for turn in mine) / 1024:.1f} KiB",
            ratio(results, name, "library", "memory"),
        ]
        for name, mine in results.items()
    ]
    print(f"{count:,} open connections that say nothing")
    print(table(["", "memory each", "of the library's"], rows), flush=True)
    about = {"connections": count, "machine": machine()}
    save_json(args, {"bench": "memory", **about, "turns": results})
    return 0
