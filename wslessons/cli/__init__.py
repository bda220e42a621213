"""The command line: ``wslessons COMMAND``; alone it opens the lessons, ``wslessons 2`` lesson 2."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import signal
import sys
import warnings
from collections.abc import Callable, Generator, Sequence

from wslessons import __version__
from wslessons.cli import serve
from wslessons.errors import UserError, told_of_stdout

__all__ = ["build_parser", "interruptible", "main"]

OLDEST_PYTHON = (3, 11)


Add = Callable[[argparse.ArgumentParser], Callable[[argparse.Namespace], int]]
"""Gives a parser a command's arguments, and returns what runs the command."""


def _in(module: str, add: str = "add_arguments", run: str = "run") -> Add:
    """Find a command in a module, which is imported only when a parser is built."""

    def found(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
        imported = importlib.import_module(f"wslessons.{module}")
        getattr(imported, add)(parser)
        return getattr(imported, run)

    return found


def _files(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    parser.add_argument("name", metavar="NAME", nargs="?", help="the one to print")

    def run(args: argparse.Namespace) -> int:
        from wslessons.guard import files

        return files.show(args.name)

    return run


BENCHES = {
    "fanout": "one message to many receivers, against broadcast() and a naive loop",
    "echo": "a round trip, by the library, by us, and by others that are installed",
    "connect": "how fast connections are let in",
    "memory": "what an open connection takes, and what compression adds",
    "report": "fanout, echo, connect and memory in a row, as a table and a picture",
    "push": "polling, long polling, server-sent events and WebSocket, for the same dashboard",
    "web": "the chat through ASGI and uvicorn, against the library and a naive loop",
    "heartbeat": "thousands of idle connections, with our heartbeat, the library's, and none",
    "bus": "a bus over each broker, against a bare client of the same broker",
}


def _bench(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    parser.add_argument("name", metavar="NAME", nargs="?", help="one of those that are listed here")
    parser.add_argument("options", metavar="...", nargs=argparse.REMAINDER, help="its own options")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    width = max(map(len, BENCHES))
    listed = "\n".join(f"  {name:{width}}  {summary}" for name, summary in BENCHES.items())
    more = "`wslessons bench NAME --help` shows the options of one."
    parser.epilog = f"benches:\n{listed}\n\n{more}"

    def run(args: argparse.Namespace) -> int:
        if args.name is None:
            print(parser.epilog)
            return 0
        if args.name not in BENCHES:
            parser.error(f"there is no bench {args.name!r}: choose one of {', '.join(BENCHES)}")
        # Only the bench that is wanted is imported: each brings the servers it compares.
        bench = importlib.import_module(f"wslessons.bench.{args.name}")
        own = argparse.ArgumentParser(prog=f"wslessons bench {args.name}")
        bench.add_arguments(own)
        try:
            return bench.run(own.parse_args(args.options))
        except KeyboardInterrupt:
            # In place of the bar that shows how far it is.
            clear = "\r\x1b[K" if sys.stderr.isatty() else ""
            print(f"{clear}wslessons: interrupted, nothing was measured.", file=sys.stderr)
            return 130

    return run


COMMANDS: dict[str, tuple[Add, str]] = {
    "lab": (_in("lab.launch"), "open the lessons in JupyterLab (what wslessons alone does)"),
    "echo": (serve.echo, "serve the echo of lesson 1"),
    "bench": (_bench, "measure what the lessons claim, in turns, as ratios"),
    "chat": (serve.chat, "serve the chat of lesson 2"),
    "cluster": (serve.cluster, "serve the chat of lesson 6: several servers over one broker"),
    "chaos": (
        _in("chaos.command"),
        "break servers, brokers and links at random, and judge what people hear",
    ),
    "client": (_in("client.terminal"), "talk in a chat, from a terminal or a pipe"),
    "web": (serve.web, "serve the chat of lesson 4, with a page for browsers"),
    "check": (
        _in("exercises.command", "add_check", "check"),
        "judge a handler of yours, or any server that is running",
    ),
    "grade": (
        _in("exercises.command", "add_grade", "grade"),
        "grade a folder of handed-in notebooks",
    ),
    "files": (_files, "print a file for those who run a server: nginx's settings, systemd's unit"),
    "record": (_in("lab.record"), "run notebooks and keep their outputs, or check them"),
    "html": (
        _in("lab.html"),
        "write the lessons and a reference of the package as web pages, to be read",
    ),
    "nbval-rules": (
        _in("lab.record", "add_rules_arguments", "say_rules"),
        "print the path of nbval's sanitize file for the lessons",
    ),
}


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """Build the parser of all commands; each sets `run`, which takes the arguments.

    Args:
        only: the command that is meant, if that is known: the others get no arguments then, so that
            nothing needs to be imported for them.

    Returns:
        The parser.
    """
    parser = argparse.ArgumentParser(
        prog="wslessons", description="Learn WebSockets by running them."
    )
    parser.add_argument("--version", action="version", version=f"wslessons {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND")
    for name, (add, summary) in COMMANDS.items():
        command = subparsers.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
        )
        if only in (None, name):
            command.set_defaults(run=add(command))
    return parser


@contextlib.contextmanager
def interruptible() -> Generator[None]:
    """Let Ctrl-C raise `KeyboardInterrupt` while the block runs, if `__main__` has put that off."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_DFL:
        yield
        return
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the words after ``wslessons``; by default those of the process.

    Returns:
        0 for a clean end, 2 for words that don't fit the command, 1 for anything else that went
        wrong; then one sentence on stderr says what and how to put it right.
    """
    if sys.version_info < OLDEST_PYTHON:
        have, need = (".".join(map(str, v[:2])) for v in (sys.version_info, OLDEST_PYTHON))
        print(f"wslessons: this is Python {have}; install {need} or newer.", file=sys.stderr)
        return 1
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0].isdecimal():
        words = ["lab", *words]
    tell = sys.unraisablehook

    def tell_unless_half_made(what: sys.UnraisableHookArgs) -> None:
        # Ctrl-C may have caught asyncio while it made its loop, which then says what it lacks.
        # (Which object ends, Python says up to 3.13 only; where that has failed, always.)
        step = what.exc_traceback
        ends = step.tb_frame.f_code.co_qualname if step is not None else ""
        if ends != "BaseEventLoop.__del__" or not isinstance(what.exc_value, AttributeError):
            tell(what)

    sys.unraisablehook = tell_unless_half_made
    try:
        with told_of_stdout():
            # What is printed here takes no command's arguments.
            known = words[0] in {*COMMANDS, "-h", "--help", "--version"}
            args = build_parser(words[0] if known else None).parse_args(words)
            with interruptible():
                return args.run(args)
    except UserError as exc:
        # With no stderr at all, print would take stdout; a terminal may have gone meanwhile.
        with contextlib.suppress(OSError):
            print(f"wslessons: {exc}", file=sys.stderr or io.StringIO())
        return exc.exit_code
    except KeyboardInterrupt as exc:
        with warnings.catch_warnings():
            # Ctrl-C may have come after a command had made its coroutine, and before the loop took
            # it: the coroutine ends with the frames that held it, and says that nobody awaited it.
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            exc.__traceback__ = None
        return 130
    finally:
        sys.unraisablehook = tell
