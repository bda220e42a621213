"""The commands that serve: echo, chat, cluster and web, and the words that they share.

Each function here gives a parser its arguments and returns what runs them. What a command needs is
imported when it runs, so that ``wslessons --help`` needs none of it.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable
from typing import Any

from wslessons.logs import log_to

__all__ = ["chat", "cluster", "echo", "port_number", "web"]

Run = Callable[[argparse.Namespace], int]

BUSES = ("memory", "nats", "redis", "kafka")


def port_number(text: str) -> int:
    """Parse a TCP port for argparse: 0 (any free one) to 65535."""
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: give a number from 0 to 65535")
    return int(text)


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


def echo(parser: argparse.ArgumentParser) -> Run:
    """Give `parser` the arguments of ``wslessons echo``, and return what runs it."""
    add_address(parser, 8765)
    parser.add_argument(
        "--raw",
        action="store_true",
        help="echo text without the prefix, and messages of up to 16 MiB, as conformance suites do",
    )

    parser.add_argument(
        "--fast",
        action="store_true",
        help="serve by lesson 7's leaner protocol, without a task per connection",
    )

    def run(args: argparse.Namespace) -> int:
        from wslessons import serving
        from wslessons.echo import RAW_MAX_SIZE, echo, echo_raw

        log_to(sys.stderr)
        if args.fast:
            from wslessons.fast import Echo

            options = {"raw": True, "max_size": RAW_MAX_SIZE} if args.raw else {}
            start = Echo.serve(args.host, args.port, **options)
            asyncio.run(serving.run_until_stopped(start, args.host, args.port))
            return 0
        handler = echo_raw if args.raw else echo
        # Compressed, a message of a few bytes would be a megabyte to echo.
        options: dict[str, Any] = {"compression": None, "heartbeat": serving.HEARTBEAT}
        if args.raw:
            options |= {"max_size": RAW_MAX_SIZE, "compression": "deflate"}
        asyncio.run(serving.serve_until_stopped(handler, args.host, args.port, **options))
        return 0

    return run


def _at_least(least: float, kind: type[int] | type[float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = least - 1
        if not least <= value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of {least:g} or more")
        return value

    return parse


def _add_room_limits(parser: argparse.ArgumentParser) -> None:
    """Give a command its ``--capacity`` and ``--rate``."""
    parser.add_argument(
        "--capacity",
        type=_at_least(1, int),
        default=256,
        metavar="N",
        help="events that each room keeps for slow readers and those who return (default: 256)",
    )
    parser.add_argument(
        "--rate",
        type=_at_least(0, float),
        default=0,
        metavar="N",
        help="messages a second from one connection; what comes faster waits, and is refused when"
        " too much waits (default: 0, any)",
    )


def chat(parser: argparse.ArgumentParser) -> Run:
    """Give `parser` the arguments of ``wslessons chat``, and return what runs it."""
    add_address(parser, 8765)
    _add_room_limits(parser)
    parser.add_argument(
        "--bus",
        default="memory:",
        metavar="URL",
        help="share the rooms with other servers over nats://HOST:PORT, redis://HOST:PORT or"
        " kafka://HOST:PORT; with ?stream=NAME the first two keep a log (default: share nothing)",
    )

    def run(args: argparse.Namespace) -> int:
        from wslessons import serving
        from wslessons.chat import ChatServer
        from wslessons.scaling.bus import from_url

        log_to(sys.stderr)

        async def serve() -> None:
            async with from_url(args.bus) as bus:
                server = ChatServer(capacity=args.capacity, rate=args.rate, bus=bus)
                await serving.serve_until_stopped(
                    server.handler,
                    args.host,
                    args.port,
                    heartbeat=serving.HEARTBEAT,
                    **server.options,
                )

        asyncio.run(serve())
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
    """Give `parser` the arguments of ``wslessons cluster``, and return what runs it."""
    parser.add_argument(
        "--servers",
        type=_at_least(1, int),
        default=3,
        metavar="N",
        help="how many, each in a process of its own; with --port they take that one and those"
        " after it (default: %(default)s)",
    )
    parser.add_argument(
        "--bus",
        type=_bus,
        default="nats",
        help="memory, nats, redis, kafka (what is started for it is an emulator), one of them with"
        " options, as nats?stream=chat, or the URL of a broker that runs (default: %(default)s)",
    )
    parser.add_argument(
        "--nodes",
        type=_at_least(1, int),
        default=1,
        metavar="N",
        help="servers of the broker, where it is started here (default: %(default)s)",
    )
    add_address(parser, 0)
    _add_room_limits(parser)

    def run(args: argparse.Namespace) -> int:
        # Only here: what it imports would make every command start late.
        from wslessons.scaling.cluster import command

        return command.run(args)

    return run


def web(parser: argparse.ArgumentParser) -> Run:
    """Give `parser` the arguments of ``wslessons web``, and return what runs it."""
    add_address(parser, 8000)
    parser.add_argument(
        "--origins",
        nargs="+",
        default=[],
        metavar="ORIGIN",
        help="pages that may talk to the chat beside its own, such as https://example.com",
    )
    parser.add_argument(
        "--hosts",
        nargs="+",
        default=[],
        metavar="NAME",
        help="names that the server answers to beside its address and this machine's own, such as"
        " chat.example.com; * for any (default: none)",
    )
    parser.add_argument(
        "--proxies",
        nargs="+",
        default=[],
        metavar="ADDRESS",
        help="addresses or networks of proxies that are believed in X-Forwarded-For"
        " (default: none)",
    )
    parser.add_argument(
        "--observers",
        nargs="+",
        default=[],
        metavar="ADDRESS",
        help="addresses or networks that may see /rooms and /metrics beside this machine"
        " (default: none)",
    )
    parser.add_argument("--certfile", metavar="FILE", help="serve TLS with this certificate chain")
    parser.add_argument("--keyfile", metavar="FILE", help="its key, where that is a file apart")
    parser.add_argument(
        "--drain",
        type=_at_least(0, float),
        default=3,
        metavar="SECONDS",
        help="when stopped, send people away over so long (default: %(default)s)",
    )

    def run(args: argparse.Namespace) -> int:
        # Only here: the command's help needs none of what the extra brings.
        from wslessons.web import command

        log_to(sys.stderr)
        return command.run(args)

    return run
