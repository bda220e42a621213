"""The commands that serve: echo, chat, cluster and web, and the words that they share.

Each function here gives a parser its arguments and returns what runs them. What a command needs is
imported when it runs, so that ``wslessons --help`` needs none of it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

from wslessons.errors import at_least, port_number
from wslessons.limits import (
    HEARTBEAT,
    MAX_CONNECTIONS,
    MAX_PER_ADDRESS,
    ConnectionLimit,
    raise_descriptors,
)
from wslessons.logs import log_to

__all__ = ["chat", "cluster", "echo", "web"]

Run = Callable[[argparse.Namespace], int]

SECRET = "WSLESSONS_SECRET"
BUSES = ("memory", "nats", "redis", "kafka")
BUS_VARIABLE = "WSLESSONS_BUS"
"""The environment variable that names a bus; a command line can be read by anybody here."""


def add_address(parser: argparse.ArgumentParser, port: int) -> None:
    """Give a serving command its ``--host`` and ``--port``."""
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to bind (default: %(default)s)"
    )
    parser.add_argument(
        "--port",
        type=port_number,
        default=port,
        help="port to bind, 0 for a free one (default: %(default)s)",
    )


def add_loop(parser: argparse.ArgumentParser) -> None:
    """Give a serving command the choice of its event loop."""
    parser.add_argument(
        "--loop",
        choices=("asyncio", "uvloop"),
        default="asyncio",
        help="the event loop; uvloop comes with the extra `fast`, and makes lesson 1's echo cheaper"
        " and a fan-out dearer, as it has no sockets to write to directly (default: %(default)s)",
    )


Row = tuple[str, float, float | None, str, str]
"""An option that takes a number: name, least value, default, unit and meaning. It takes whole
numbers where both are."""

CAPACITY_AND_RATE: list[Row] = [
    ("--capacity", 1, 256, "N", "events that a room keeps for slow readers and those who return"),
    (
        *("--rate", 0.0, 20.0, "N"),
        "messages a second from one connection, 0 for any; what comes faster waits, and is refused"
        " when too much waits",
    ),
]
CHAT: list[Row] = [
    *CAPACITY_AND_RATE,
    ("--burst", 1.0, None, "N", "messages at once after a rest (default: five seconds' worth)"),
    ("--max-rooms", 1, 1000, "N", "rooms at a time, beside the default one"),
    (
        *("--max-rooms-per-address", 0, 20, "N"),
        "rooms that one address may have opened while somebody is in them, 0 for any; this"
        " machine's own are not counted",
    ),
]
CONNECTIONS: list[Row] = [
    (
        *("--max-connections", 1, MAX_CONNECTIONS, "N"),
        "connections in all, or fewer where the system allows fewer open files",
    ),
    (
        *("--max-per-address", 0, MAX_PER_ADDRESS, "N"),
        "connections from one address, 0 for any; this machine's own are not counted",
    ),
    ("--ping-interval", 0.01, HEARTBEAT[0], "SECONDS", "time from one ping to the next"),
    (
        *("--ping-timeout", 0.01, HEARTBEAT[1], "SECONDS"),
        "time of silence after a ping until a client is dropped",
    ),
]
CLUSTER: list[Row] = [
    (
        *("--servers", 1, 3, "N"),
        "how many, each in a process of its own; with --port they take that one and those after it",
    ),
    ("--nodes", 1, 1, "N", "servers of the broker, where it is started here"),
]
WEB_NAMES = [
    (
        *("--origins", "ORIGIN"),
        "pages that may talk to the chat beside its own, such as https://example.com",
    ),
    (
        *("--hosts", "NAME"),
        "names that the server answers to beside its address and this machine's own, such as"
        " chat.example.com; * for any (default: none)",
    ),
    (
        *("--proxies", "ADDRESS"),
        "addresses or networks of proxies that are believed in X-Forwarded-For (default: none)",
    ),
    (
        *("--observers", "ADDRESS"),
        "addresses or networks that may see /rooms and /metrics beside this machine"
        " (default: none)",
    ),
]
"""Options that take names: each with its unit and meaning."""


def _shown(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


def _add_numbers(parser: argparse.ArgumentParser, rows: list[Row]) -> None:
    for name, least, default, unit, what in rows:
        kind = int if isinstance(least, int) and isinstance(default, int) else float
        parser.add_argument(
            name,
            type=at_least(least, kind),
            default=default,
            metavar=unit,
            help=what if default is None else f"{what} (default: {_shown(default)})",
        )


def add_limits(parser: argparse.ArgumentParser, max_size: int, rows: list[Row]) -> None:
    """Give a serving command its bounds; they are the same words everywhere.

    Args:
        parser: the command's.
        max_size: bytes that a message may have, by default.
        rows: those beside the bounds on connections.
    """
    size = ("--max-size", 1, max_size, "BYTES", "bytes in one message")
    _add_numbers(parser, [*CONNECTIONS, size, *rows])


def add_chat_limits(parser: argparse.ArgumentParser) -> None:
    """Give a command that serves a chat its bounds, and who may see what."""
    add_limits(parser, 8192, CHAT)
    parser.add_argument(
        "--history",
        action="store_true",
        help="let newcomers have what a room has kept from before they came, if they ask for it",
    )
    parser.epilog = (
        "Who was in a room may come back after a restart, or to another server, and have what was"
        f" said meanwhile, if all have the same text in the environment variable {SECRET}."
    )


def connection_limits(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `serving.serve` for what `add_limits` has parsed.

    The process may then open as many files as the system lets it.
    """
    raise_descriptors()
    most = min(args.max_connections, ConnectionLimit().most)
    return {
        "limit": ConnectionLimit(most, args.max_per_address),
        "heartbeat": (args.ping_interval, args.ping_timeout),
    }


def chat_limits(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `ChatServer` for what `add_limits` has parsed with `CHAT`."""
    if args.burst is None:
        args.burst = max(1.0, 5 * args.rate)
    names = ("capacity", "rate", "burst", "max_size", "max_rooms", "max_rooms_per_address")
    return {name: getattr(args, name) for name in (*names, "history")}


def secret() -> bytes | None:
    """Return what the chat's proofs are signed with, where the environment gives it."""
    return os.environ.get(SECRET, "").encode(errors="surrogateescape") or None


def echo(parser: argparse.ArgumentParser) -> Run:
    """Give `parser` the arguments of ``wslessons echo``, and return what runs it.

    Args:
        parser: that of the command.

    Returns:
        The function that runs it, given what was parsed.
    """
    add_address(parser, 8765)
    parser.add_argument(
        "--raw",
        action="store_true",
        help="echo text without the prefix, and messages of up to 16 MiB, as conformance suites do;"
        " not for strangers, each of whom may keep a processor busy with a few compressed bytes",
    )

    parser.add_argument(
        "--fast",
        action="store_true",
        help="serve by lesson 7's leaner protocol, without a task per connection",
    )

    add_loop(parser)
    add_limits(parser, 2**20, [])

    def run(args: argparse.Namespace) -> int:
        from wslessons import serving
        from wslessons.echo import RAW_MAX_SIZE, echo, echo_raw

        log_to(sys.stderr)
        if args.fast:
            from wslessons.fast import Echo

            size = RAW_MAX_SIZE if args.raw else args.max_size
            bounds: dict[str, Any] = {"max_size": size, **connection_limits(args)}
            start = Echo.serve(args.host, args.port, raw=args.raw, **bounds)
            serving.run_on(args.loop, serving.run_until_stopped(start, args.host, args.port))
            return 0
        handler = echo_raw if args.raw else echo
        # Compressed, a message of a few bytes would be a megabyte to echo.
        options = {"compression": None, "max_size": args.max_size, **connection_limits(args)}
        if args.raw:
            options |= {"max_size": RAW_MAX_SIZE, "compression": "deflate"}
        main = serving.serve_until_stopped(handler, args.host, args.port, **options)
        serving.run_on(args.loop, main)
        return 0

    return run


def chat(parser: argparse.ArgumentParser) -> Run:
    """Give `parser` the arguments of ``wslessons chat``, and return what runs it.

    Args:
        parser: that of the command.

    Returns:
        The function that runs it, given what was parsed.
    """
    add_address(parser, 8765)
    add_loop(parser)
    add_chat_limits(parser)
    parser.add_argument(
        "--bus",
        default=os.environ.get(BUS_VARIABLE, "memory:"),
        metavar="URL",
        help="share the rooms with other servers over nats://HOST:PORT, redis://HOST:PORT or"
        " kafka://HOST:PORT; with ?stream=NAME the first two keep a log (default: share nothing,"
        f" or what {BUS_VARIABLE} holds, where a password is not seen in the list of processes)",
    )

    def run(args: argparse.Namespace) -> int:
        from wslessons import serving
        from wslessons.chat import ChatServer
        from wslessons.scaling.bus import from_url

        log_to(sys.stderr)

        async def serve() -> None:
            async with from_url(args.bus) as bus:
                server = ChatServer(bus=bus, secret=secret(), **chat_limits(args))
                await serving.serve_until_stopped(
                    server.handler,
                    args.host,
                    args.port,
                    **connection_limits(args),
                    **server.options,
                )

        serving.run_on(args.loop, serve())
        return 0

    return run


def _bus(text: str) -> str:
    """Parse a bus for argparse: a word for a broker, or a URL, not looked at any closer."""
    if text.partition("?")[0] not in BUSES and ":" not in text:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a bus: give {', '.join(BUSES)}, or a URL such as nats://HOST:PORT"
        )
    return text


def cluster(parser: argparse.ArgumentParser) -> Run:
    """Give `parser` the arguments of ``wslessons cluster``, and return what runs it.

    Args:
        parser: that of the command.

    Returns:
        The function that runs it, given what was parsed.
    """
    _add_numbers(parser, CLUSTER)
    parser.add_argument(
        "--bus",
        type=_bus,
        default=os.environ.get(BUS_VARIABLE, "nats"),
        help="memory, nats, redis, kafka (an emulator, where there is no Kafka), one of them with"
        " options, as nats?stream=chat, or the URL of a broker that runs (default: what"
        f" {BUS_VARIABLE} holds, or else nats)",
    )
    parser.add_argument(
        "--share-port",
        action="store_true",
        help="all servers on one port, among which the kernel divides the connections",
    )
    add_address(parser, 0)
    add_loop(parser)
    add_chat_limits(parser)

    def run(args: argparse.Namespace) -> int:
        # Only here: what it imports would make every command start late.
        from wslessons.scaling.cluster import command

        limits = {"max_connections": args.max_connections, "max_per_address": args.max_per_address}
        limits["heartbeat"] = args.ping_interval, args.ping_timeout
        return command.run(args, secret=secret(), **limits, **chat_limits(args))

    return run


def web(parser: argparse.ArgumentParser) -> Run:
    """Give `parser` the arguments of ``wslessons web``, and return what runs it.

    Args:
        parser: that of the command.

    Returns:
        The function that runs it, given what was parsed.
    """
    add_address(parser, 8000)
    add_chat_limits(parser)
    for name, unit, what in WEB_NAMES:
        parser.add_argument(name, nargs="+", default=[], metavar=unit, help=what)
    parser.add_argument("--certfile", metavar="FILE", help="serve TLS with this certificate chain")
    parser.add_argument("--keyfile", metavar="FILE", help="its key, where that is a file apart")
    drain = ("--drain", 0.0, 3.0, "SECONDS", "when stopped, send people away over so long")
    _add_numbers(parser, [drain])

    def run(args: argparse.Namespace) -> int:
        # Only here: the command's help needs none of what the extra brings.
        from wslessons.chat import ChatServer
        from wslessons.web import command

        log_to(sys.stderr)
        chat = ChatServer(secret=secret(), **chat_limits(args))
        return command.run(args, chat, **connection_limits(args))

    return run
