"""`wslessons check`: judge a file's handler, or any server that is running, from a shell.

    wslessons check mine.py:counter --as counter
    wslessons check mine.py:handler --as echo
    wslessons check --url ws://127.0.0.1:9001 --as chat

The exit code is 0 if every behaviour passes, 1 if not, and 2 for words that don't fit.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import types
from pathlib import Path
from typing import Any

from websockets import InvalidURI
from websockets.uri import parse_uri

from wslessons.errors import UserError
from wslessons.exercises import check
from wslessons.exercises.conformance import CONFORMANCE, Conformance
from wslessons.exercises.exercise import Exercise
from wslessons.exercises.isolation import own_lines
from wslessons.exercises.verdict import Verdict

__all__ = ["add_arguments", "load", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the arguments of `wslessons check`."""
    parser.add_argument(
        "what", metavar="FILE.py:NAME", nargs="?", help="what to check: a name in a Python file"
    )
    parser.add_argument("--url", help="check the server that listens there instead")
    parser.add_argument(
        "--as",
        dest="kind",
        metavar="WORD",
        required=True,
        help=f"{' or '.join(CONFORMANCE)}; for a file also the name of an exercise",
    )


def run(args: argparse.Namespace) -> int:
    """Judge it, print the verdict, and return 0 if it passes.

    Raises:
        UserError: the words don't fit, the file can't be run, or nobody listens at the URL.
    """
    if (args.what is None) == (args.url is None):
        raise UserError("name either FILE.py:NAME or --url URL.", exit_code=2)
    exercise = _exercise(args.kind, url=args.url is not None)
    if args.url is not None:
        verdict = asyncio.run(_against(args.url, exercise))
    else:
        answer = load(args.what, exercise.answer_name)
        verdict = asyncio.run(exercise.judge(answer))
    print(verdict)
    return 0 if verdict.passed else 1


def _exercise(word: str, *, url: bool) -> Exercise:
    known: dict[str, Exercise] = dict(CONFORMANCE)
    if not url:
        known |= {exercise.name: exercise for exercise in check}
    if word not in known:
        choice = ", ".join(known)
        raise UserError(f"--as {word} is not known here: choose one of {choice}.", exit_code=2)
    return known[word]


async def _against(url: str, exercise: Exercise) -> Verdict:
    assert isinstance(exercise, Conformance)
    try:
        uri = parse_uri(url)
    except InvalidURI:
        raise UserError(
            f"{url} is no WebSocket URL: it begins with ws:// or wss://.", exit_code=2
        ) from None
    try:
        async with asyncio.timeout(10):
            _, writer = await asyncio.open_connection(uri.host, uri.port)
            writer.close()
    except (OSError, TimeoutError):
        raise UserError(f"nobody listens at {url}: start the server first.") from None
    return await exercise.against(url)


def load(what: str, default: str) -> Any:
    """Run a Python file and return what it defines under a name.

    Args:
        what: ``FILE.py:NAME``, or ``FILE.py`` alone.
        default: the name, where none is given.

    Raises:
        UserError: there is no such file, it raises, or it defines no such name.
    """
    file, colon, name = what.rpartition(":")
    # A drive letter on Windows has a colon, too.
    if not colon or not file.endswith(".py"):
        file, name = what, default
    path = Path(file)
    if not path.is_file() or path.suffix != ".py":
        raise UserError(f"there is no Python file {file}: name one as FILE.py:NAME.", exit_code=2)
    module = types.ModuleType("answer")
    module.__file__ = str(path)
    # As for a script, modules beside the file can be imported.
    sys.path.insert(0, str(path.resolve().parent))
    try:
        # Not by the import system: it would keep bytecode beside the file, and take that for the
        # file's when an edit changes neither its second nor its size.
        exec(compile(path.read_bytes(), path, "exec"), vars(module))
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        said = own_lines(error).replace("\n", ", ")
        raise UserError(f"{file} can't be run: {said}") from None
    if not hasattr(module, name):
        raise UserError(f"{file} defines no {name}: name what it defines, as in {file}:NAME.")
    return getattr(module, name)
