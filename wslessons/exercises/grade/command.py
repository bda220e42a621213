"""`wslessons grade`: a table of who has solved what, from a folder of handed-in notebooks."""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import sys
from pathlib import Path

from wslessons.errors import UserError, need

__all__ = ["add_arguments", "run"]


def seconds(text: str) -> float:
    """Parse a number of seconds above 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not (0 < value < math.inf):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return value


def count(text: str) -> int:
    """Parse a whole number above 0, for argparse."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the arguments of `wslessons grade`."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="the folder of the notebooks")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a row per exercise")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with all details")
    parser.add_argument(
        "--jobs",
        type=count,
        metavar="N",
        default=os.cpu_count() or 2,
        help="notebooks at the same time (default: the number of cores, %(default)s)",
    )
    parser.add_argument(
        "--cell-timeout",
        type=seconds,
        metavar="SECONDS",
        default=60.0,
        help="what a cell may take (default: %(default)g)",
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        default=900.0,
        help="what a notebook may take (default: %(default)g)",
    )
    parser.add_argument(
        "--memory",
        type=count,
        metavar="MIB",
        default=2048,
        help="memory that a notebook may take (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Grade, print the table, and write the files; 0, however the students did.

    Raises:
        UserError: there is nothing to grade, a file can't be written, or the extra is missing.
    """
    for module in ("jupyter_client", "ipykernel", "psutil"):
        need(module, "lab")
    from wslessons.exercises.grade import report
    from wslessons.exercises.grade.grader import Limits, Result, find, grade

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
    bar = Bar(len(paths))

    def on_result(result: Result) -> None:
        bar.step(str(result.path))

    results = asyncio.run(grade(args.folder, paths, limits, on_result))
    bar.end()
    print(report.as_table(results))
    for file, write in writers:
        if file is not None:
            try:
                file.write_text(write(results), encoding="utf-8", newline="")
            except OSError as error:
                why = error.strerror or type(error).__name__
                raise UserError(f"{file} can't be written ({why}).") from None
    return 0


class Bar:
    """A progress bar on standard error; a line for each step where that is no terminal.

    Args:
        total: how many steps there are.
    """

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.live = sys.stderr.isatty()

    def step(self, what: str) -> None:
        """Show that one more is done."""
        self.done += 1
        if self.live:
            full = 30 * self.done // self.total
            bar = "#" * full + "." * (30 - full)
            text = f"[{bar}] {self.done} of {self.total}  {what}"[:78]
            print(f"\r{text:<78}", end="", file=sys.stderr, flush=True)
        else:
            print(f"{self.done} of {self.total}: {what}", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the bar's line."""
        if self.live:
            print(file=sys.stderr)
