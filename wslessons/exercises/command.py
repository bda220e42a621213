"""The commands that judge: ``wslessons check`` a file or a server, ``wslessons grade`` a folder.

    wslessons check mine.py:counter --as counter
    wslessons check mine.py:handler --as echo
    wslessons check --url ws://127.0.0.1:9001 --as chat
    wslessons grade handed_in --csv grades.csv

The exit code of a check is 0 if every behaviour passes, 1 if not; that of grading is 0, however the
students did. Words that don't fit are 2.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import sys
import types
from pathlib import Path
from typing import Any

from websockets import InvalidURI
from websockets.uri import parse_uri

from wslessons import exercises
from wslessons.errors import UserError, at_least, need
from wslessons.exercises.conformance import CONFORMANCE, Conformance
from wslessons.exercises.exercise import Exercise
from wslessons.exercises.isolation import own_lines
from wslessons.exercises.verdict import Verdict

__all__ = ["add_check", "add_grade", "check", "grade", "load"]


def add_check(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the arguments of `wslessons check`.

    Args:
        parser: that of ``wslessons check``.
    """
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


def check(args: argparse.Namespace) -> int:
    """Run ``wslessons check``: judge it, print the verdict, and return 0 if it passes.

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
        known |= {exercise.name: exercise for exercise in exercises.check}
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

    Returns:
        What stands under that name.

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


def add_grade(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the arguments of `wslessons grade`.

    Args:
        parser: that of ``wslessons grade``.
    """
    parser.add_argument("folder", metavar="DIR", type=Path, help="the folder of the notebooks")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a row per exercise")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with all details")
    parser.add_argument(
        "--jobs",
        type=at_least(1),
        metavar="N",
        default=os.cpu_count() or 2,
        help="notebooks at the same time (default: the number of cores, %(default)s)",
    )
    parser.add_argument(
        "--cell-timeout",
        type=at_least(0.1, float),
        metavar="SECONDS",
        default=60.0,
        help="what a cell may take (default: %(default)g)",
    )
    parser.add_argument(
        "--timeout",
        type=at_least(0.1, float),
        metavar="SECONDS",
        default=900.0,
        help="what a notebook may take (default: %(default)g)",
    )
    parser.add_argument(
        "--memory",
        type=at_least(1),
        metavar="MIB",
        default=2048,
        help="memory that a notebook may take (default: %(default)s)",
    )


def grade(args: argparse.Namespace) -> int:
    """Run ``wslessons grade``: grade, print the table, write the files, and return 0.

    Raises:
        UserError: there is nothing to grade, a file can't be written, or the extra is missing.
    """
    for module in ("jupyter_client", "ipykernel", "psutil"):
        need(module, "lab")
    from wslessons.bench.tools import progress
    from wslessons.exercises.grade import report
    from wslessons.exercises.grade.grader import Limits, Result, find
    from wslessons.exercises.grade.grader import grade as grade_all

    writers = (
        (args.csv, report.as_csv),
        (args.junit, report.as_junit),
        (args.html, report.as_html),
    )
    for file, _ in writers:
        # Before the work, and not after it.
        if file is not None and not file.absolute().parent.is_dir():
            raise UserError(f"there is no folder for {file}: make it first.", exit_code=2)
    paths = find(args.folder)
    limits = Limits(args.cell_timeout, args.timeout, args.memory * 2**20, args.jobs)
    done = itertools.count(1)

    def on_result(result: Result) -> None:
        number = next(done)
        if sys.stderr.isatty():
            progress(number, len(paths), result.path.name)
        else:
            print(f"{number} of {len(paths)}: {result.path}", file=sys.stderr, flush=True)

    results = asyncio.run(grade_all(args.folder, paths, limits, on_result))
    print(report.as_table(results))
    for file, write in writers:
        if file is not None:
            try:
                file.write_text(write(results), encoding="utf-8", newline="")
            except OSError as error:
                why = error.strerror or type(error).__name__
                raise UserError(f"{file} can't be written ({why}).") from None
    return 0
