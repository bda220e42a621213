"""``wslessons bench connect``: how fast connections are accepted, and what that costs.

In the chat a connection counts when it has joined, with its name and its welcome; of the bare
library it counts when it is open.
"""

from __future__ import annotations

import argparse
import contextlib
import selectors
import socket
import time
from statistics import median
from typing import Any

from wslessons.bench.fanout_load import answer_pings, client_frame
from wslessons.bench.peers import Peer, RunningPeer, add_peers, floor, server
from wslessons.bench.tools import (
    add_common,
    machine,
    raise_descriptor_limit,
    ratio,
    save_json,
    turns,
)
from wslessons.errors import UserError, at_least
from wslessons.link.pipe import ON_RESET
from wslessons.tables import table
from wslessons.testing.raw import handshake

__all__ = ["CONNECTIONS", "Crowd", "add_arguments", "contenders", "measure_all", "run"]

CONNECTIONS = {True: 1000, False: 5000}
"""How many connections, with ``--quick`` and without."""
# Browsers offer it, too; who wants none does not take it.
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
HEAD_END = b"\r\n\r\n"
AT_ONCE = 64
"""Handshakes under way at a time."""
TIMEOUT = 60.0
"""Seconds that a crowd may take to get in."""


def contenders() -> dict[str, tuple[Peer, bool]]:
    """Return the servers that can be measured here, and whether one says a name to join."""
    servers = {"library": (server("library"), False), "chat": (server("chat"), True)}
    if bottom := floor():
        servers["floor"] = (bottom, True)
    return servers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this bench's options to `parser`.

    Args:
        parser: that of ``wslessons bench connect``.
    """
    add_common(parser, "1,000 connections instead of 5,000")
    parser.add_argument("--connections", type=at_least(1), help="how many connections")
    add_peers(parser, "the chat's plain protocol: the name first, then lines")


class Crowd:
    """Connections that come in as fast as they are let in, and then do no more than answer pings.

    Args:
        port: where the server listens.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.pings = 0
        """How many were answered."""
        self.sockets: list[socket.socket] = []
        self._selector = selectors.DefaultSelector()

    def come(self, count: int, joining: bool) -> float:
        """Open `count` connections; return the seconds until the last one was in.

        Args:
            count: how many.
            joining: whether each says a name and waits for its welcome.

        Returns:
            The seconds.

        Raises:
            UserError: the server refuses or drops one, or it takes too long.
        """
        begun = time.perf_counter()
        opened = done = 0
        while done < count:
            if time.perf_counter() - begun > TIMEOUT:
                raise UserError(f"only {done} of {count} connections were let in.")
            while opened < count and opened - done < AT_ONCE:
                try:
                    self._open()
                except OSError as exc:
                    raise UserError(f"can't connect to the bench's server: {exc}.") from exc
                opened += 1
            for key, _ in self._selector.select(0.05):
                done += self._go_on(key, joining)
        return time.perf_counter() - begun

    def _open(self) -> None:
        sock = socket.socket()
        self.sockets.append(sock)
        # As a reset leaves no socket in TIME_WAIT: three rounds would run out of ports.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ON_RESET)
        sock.connect(("127.0.0.1", self.port))
        sock.setblocking(False)
        sock.send(handshake(host=f"127.0.0.1:{self.port}", more=DEFLATE))
        name = f"user{len(self.sockets):06d}"
        self._selector.register(sock, selectors.EVENT_READ, (HEAD_END, name))

    def _go_on(self, key: selectors.SelectorKey, joining: bool) -> bool:
        """Read on one connection; return whether it is in now."""
        sock, (awaited, name) = key.fileobj, key.data
        assert isinstance(sock, socket.socket)
        # A joined one hears all who come after it; that is read and dropped.
        data = sock.recv(2**16)
        if not data:
            raise UserError("the server closed a connection.")
        arrived = awaited in data
        if awaited == HEAD_END:
            head, _, data = data.partition(HEAD_END)
            if arrived and b" 101 " not in head:
                raise UserError(f"the server refused: {head[:60]!r}")
        self.pings += answer_pings(sock, data)[0]
        if not awaited or not arrived:
            return False
        if awaited == HEAD_END and joining:
            sock.send(client_frame(name.encode()))
            self._selector.modify(sock, selectors.EVENT_READ, (b"Welcome, ", name))
            return False
        self._selector.modify(sock, selectors.EVENT_READ, (b"", name))
        return True

    def settle(self, seconds: float = 0.3) -> None:
        """Read until nothing has come for `seconds`; pings go on, so at most ten times as long.

        Args:
            seconds: of silence.
        """
        end = time.perf_counter() + 10 * seconds
        while (ready := self._selector.select(seconds)) and time.perf_counter() < end:
            for key, _ in ready:
                self._go_on(key, False)

    def answer(self, seconds: float) -> None:
        """Answer pings for so long.

        Args:
            seconds: how long.

        Raises:
            UserError: the server drops a connection.
        """
        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            for key, _ in self._selector.select(left):
                self._go_on(key, False)

    def close(self) -> None:
        """Drop all of them."""
        self._selector.close()
        for sock in self.sockets:
            sock.close()


def run(args: argparse.Namespace) -> int:
    """Measure, print the table, write the JSON file; return the exit code."""
    count, results = measure_all(args, contenders())
    head = ["", "in per second", "of the library", "CPU each", "of the library's"]
    rows = [
        [
            name,
            f"{median(turn['rate'] for turn in mine):,.0f}",
            ratio(results, name, "library", "rate"),
            f"{median(turn['cpu'] for turn in mine) * 1e6:.0f} us",
            ratio(results, name, "library", "cpu"),
        ]
        for name, mine in results.items()
    ]
    print(f"{count:,} connections, {AT_ONCE} handshakes at a time")
    print(table(head, rows), flush=True)
    about = {"connections": count, "machine": machine()}
    save_json(args, {"bench": "connect", **about, "turns": results})
    return 0


def measure_all(
    args: argparse.Namespace, servers: dict[str, tuple[Peer, bool]]
) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """Let crowds into servers in turns, those of ``--peer`` included.

    Args:
        args: the bench's words.
        servers: as `contenders` returns them.

    Returns:
        How many connections came, and for each server what `measure` returned in its turns.
    """
    count = args.connections or CONNECTIONS[args.quick]
    raise_descriptor_limit(count + 256)
    servers = servers | {peer.name: (peer, True) for peer in args.peer}

    def one(name: str) -> dict[str, Any]:
        peer, joining = servers[name]
        with peer.start() as server:
            return measure(server, count, joining)

    return count, turns(list(servers), args.rounds, one)


def measure(server: RunningPeer, count: int, joining: bool) -> dict[str, Any]:
    """Let a crowd into one server.

    Args:
        server: it listens already.
        count: how many connections come.
        joining: whether they say a name.

    Returns:
        ``rate`` in connections per second, and for each ``cpu`` in seconds and ``memory`` in bytes.
    """
    with contextlib.closing(Crowd(server.port)) as crowd:
        # What exists once is there after the first ones.
        crowd.come(20, joining)
        crowd.settle()
        before = server.ask()
        took = crowd.come(count, joining)
        crowd.settle()
        after = server.ask()
    return {
        "rate": count / took,
        "cpu": (after["cpu"] - before["cpu"]) / count,
        "memory": ((after["rss"] or 0) - (before["rss"] or 0)) / count,
    }
