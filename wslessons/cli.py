"""The command line: ``wslessons COMMAND``, and ``wslessons`` alone opens the lessons."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import sys
from collections.abc import Callable, Sequence

from wslessons import __version__
from wslessons.errors import UserError

OLDEST_PYTHON = (3, 11)
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


def log_to_stderr() -> None:
    """Show what our servers log, one line an event, beside the URL on stdout."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("wslessons").setLevel(logging.INFO)


def _echo(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    add_address(parser, 8765)
    parser.add_argument(
        "--raw",
        action="store_true",
        help="echo text without the prefix, and messages of up to 16 MiB, as conformance suites do",
    )

    def run(args: argparse.Namespace) -> int:
        from wslessons import echo, serving

        log_to_stderr()
        handler = echo.echo_raw if args.raw else echo.echo
        options = {"max_size": echo.RAW_MAX_SIZE} if args.raw else {}
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
        help="messages a second from one connection; over it, it is slowed down (default: 0, any)",
    )


def _chat(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
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
        from wslessons.backplane import from_url
        from wslessons.chat import ChatServer

        log_to_stderr()

        async def serve() -> None:
            async with from_url(args.bus) as bus:
                chat = ChatServer(capacity=args.capacity, rate=args.rate, bus=bus)
                await serving.serve_until_stopped(
                    chat.handler, args.host, args.port, **chat.options
                )

        asyncio.run(serve())
        return 0

    return run


def _bus(text: str) -> str:
    """Parse a bus for argparse: a word for a broker, or a URL, not looked at any closer."""
    if text.partition("?")[0] not in BUSES and ":" not in text:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no bus: give {', '.join(BUSES)}, or a URL such as nats://HOST:PORT"
        )
    return text


def _cluster(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
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
        from wslessons.cluster import shell

        return shell.run(args)

    return run


def _client(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    from wslessons.client import terminal

    terminal.add_arguments(parser)
    return terminal.run


def _web(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    add_address(parser, 8000)
    parser.add_argument(
        "--origins",
        nargs="+",
        default=[],
        metavar="ORIGIN",
        help="pages that may talk to the chat beside its own, such as https://example.com",
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
        from wslessons.web import shell

        log_to_stderr()
        return shell.run(args)

    return run


def _lab(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    from wslessons.lab import launch

    launch.add_arguments(parser)
    return launch.run


def _record(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    from wslessons.lab import record

    record.add_arguments(parser)
    return record.run


BENCHES = {
    "fanout": "one message to many receivers, against broadcast() and a naive loop",
    "push": "polling, long polling, server-sent events and WebSocket, for the same dashboard",
    "web": "the chat through ASGI and uvicorn, against the library and a naive loop",
    "heartbeat": "thousands of idle connections, with our heartbeat, the library's, and none",
    "backplane": "a bus over each broker, against a bare client of the same broker",
}


def _bench(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    names = "; ".join(f"{name}: {summary}" for name, summary in BENCHES.items())
    parser.add_argument("name", metavar="NAME", choices=BENCHES, help=names)
    parser.add_argument("options", nargs=argparse.REMAINDER, help="wslessons bench NAME --help")

    def run(args: argparse.Namespace) -> int:
        # Only the bench that is wanted is imported: each brings the servers it compares.
        bench = importlib.import_module(f"wslessons.bench.{args.name}")
        own = argparse.ArgumentParser(prog=f"wslessons bench {args.name}")
        bench.add_arguments(own)
        return bench.run(own.parse_args(args.options))

    return run


COMMANDS = {
    "lab": (_lab, "open the lessons in JupyterLab (what wslessons alone does)"),
    "echo": (_echo, "serve the echo of lesson 1"),
    "bench": (_bench, "measure what the lessons claim, in turns, as ratios"),
    "chat": (_chat, "serve the chat of lesson 2"),
    "cluster": (_cluster, "serve the chat of lesson 6: several servers over one broker"),
    "client": (_client, "talk in a chat, from a terminal or a pipe"),
    "web": (_web, "serve the chat of lesson 4, with a page for browsers"),
    "record": (_record, "run notebooks and keep their outputs, or check them"),
}


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands; each sets `run`, which takes the arguments."""
    parser = argparse.ArgumentParser(
        prog="wslessons", description="Learn WebSockets by running them."
    )
    parser.add_argument("--version", action="version", version=f"wslessons {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND")
    for name, (add, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary.capitalize() + ".")
        command.set_defaults(run=add(command))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 for a clean end, 2 for words that don't fit the command, 1 for anything else that went
    wrong; then one sentence on stderr says what and how to put it right.
    """
    if sys.version_info < OLDEST_PYTHON:
        have, need = (".".join(map(str, v[:2])) for v in (sys.version_info, OLDEST_PYTHON))
        print(f"wslessons: this is Python {have}; install {need} or newer.", file=sys.stderr)
        return 1
    words = list(sys.argv[1:] if argv is None else argv)
    args = build_parser().parse_args(words or ["lab"])
    try:
        return args.run(args)
    except UserError as exc:
        print(f"wslessons: {exc}", file=sys.stderr)
        return exc.exit_code
    except KeyboardInterrupt:
        return 130
