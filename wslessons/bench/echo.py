"""``wslessons bench echo``: what a round trip costs, by the library, by us and by others.

Every connection sends a message of 64 bytes, waits for its answer, and sends the next. Beside round
trips per second, which the load's own speed bounds, stands the server's CPU for each.
"""

from __future__ import annotations

import argparse
import importlib.util
import selectors
import socket
import sys
import time
from statistics import median
from typing import Any

from wslessons.bench.fanout_load import PING, answer_pings, client_frame, connect
from wslessons.bench.peers import Peer, add_peers, floor, server
from wslessons.bench.tools import (
    add_common,
    machine,
    quantile,
    raise_descriptor_limit,
    ratio,
    save_json,
    turns,
)
from wslessons.errors import UserError, at_least
from wslessons.tables import table

__all__ = ["add_arguments", "contenders", "round_trips", "run"]

TEXT = b"e" * 64


def contenders() -> list[Peer]:
    """Return the servers that can be measured here: picows and aiohttp where they are installed."""
    ours = (sys.executable, "-m", "wslessons", "echo", "--port", "{port}")
    peers = [
        server("library"),
        Peer("lesson 1", ours),
        Peer("fast", (*ours, "--fast")),
    ]
    peers += [server(name) for name in ("aiohttp", "picows") if importlib.util.find_spec(name)]
    bottom = floor(echo=True)
    return [*peers, bottom] if bottom else peers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this bench's options to `parser`.

    Args:
        parser: that of ``wslessons bench echo``.
    """
    add_common(parser, "half a minute instead of two")
    parser.add_argument("--seconds", type=at_least(0.01, float), help="length of one measurement")
    parser.add_argument("--connections", type=at_least(1), default=50, help="how many (default 50)")
    add_peers(parser, "an echo, with or without a prefix")


def run(args: argparse.Namespace) -> int:
    """Measure, print the table, write the JSON file; return the exit code."""
    seconds = args.seconds if args.seconds is not None else 0.7 if args.quick else 3.0
    raise_descriptor_limit(args.connections + 256)
    peers = {peer.name: peer for peer in [*contenders(), *args.peer]}

    def one(name: str) -> dict[str, Any]:
        return round_trips(peers[name], args.connections, seconds)

    about = {"connections": args.connections, "machine": machine()}
    results = turns(list(peers), args.rounds, one)
    head = ["", "round trips/s", "of the library", "CPU each", "of the library's", "p50"]
    rows = [
        [
            name,
            f"{median(turn['rate'] for turn in mine) / 1e3:,.1f}k",
            ratio(results, name, "library", "rate"),
            f"{median(turn['cpu'] for turn in mine) * 1e6:.3g} us",
            ratio(results, name, "library", "cpu"),
            f"{median(turn['p50'] for turn in mine) * 1e3:.2f} ms",
        ]
        for name, mine in results.items()
    ]
    print(f"{args.connections} connections, 64 bytes there and back")
    print(table(head, rows), flush=True)
    save_json(args, {"bench": "echo", **about, "turns": results})
    return 0


def round_trips(peer: Peer, connections: int, seconds: float) -> dict[str, Any]:
    """Measure one server.

    Args:
        peer: the server.
        connections: how many take part.
        seconds: for how long, after a third as long that does not count.

    Returns:
        ``rate`` in round trips per second, the server's ``cpu`` seconds for each, and the median
        of the seconds that one took, ``p50``.
    """
    frame = client_frame(TEXT)
    sockets: list[socket.socket] = []
    with peer.start() as server, selectors.DefaultSelector() as selector:
        try:
            for _ in range(connections):
                sock, _ = connect(server.port)
                sockets.append(sock)
                sock.setblocking(False)
                selector.register(sock, selectors.EVENT_READ)
            sent = {sock: time.perf_counter() for sock in sockets}
            for sock in sockets:
                sock.send(frame)
            _trips(selector, sent, frame, seconds / 3)
            before = server.ask()["cpu"]
            took, times = _trips(selector, sent, frame, seconds)
            cpu = server.ask()["cpu"] - before
        finally:
            for sock in sockets:
                sock.close()
    if not times:
        raise UserError(f"{peer.name} answered nothing within {seconds:g} seconds.")
    times.sort()
    return {
        "rate": len(times) / took,
        "cpu": cpu / len(times),
        "p50": quantile(times, 0.5),
    }


def _trips(
    selector: selectors.BaseSelector,
    sent: dict[socket.socket, float],
    frame: bytes,
    seconds: float,
) -> tuple[float, list[float]]:
    """Answer each answer with the next message; return how long it went on, and each one's time."""
    times: list[float] = []
    begun = now = time.perf_counter()
    while now - begun < seconds:
        for key, _ in selector.select(0.05):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            # One small message is under way on each connection, so a read is a whole answer.
            if not (data := sock.recv(4096)):
                raise UserError("the server closed a connection in the middle of the run.")
            # Nor is a ping an answer.
            if data[0] == PING and not answer_pings(sock, data)[1]:
                continue
            now = time.perf_counter()
            times.append(now - sent[sock])
            sent[sock] = now
            sock.send(frame)
        now = time.perf_counter()
    return now - begun, times
