"""``wslessons bench report``: the other benches in a row, as one table and one picture.

It writes ``report.md`` and ``report.svg`` with the machine and the versions that the numbers come
from. With ``--into README.md`` the table there is replaced, too: it is what stands between the two
comments `MARKS`.
"""

from __future__ import annotations

import argparse
import contextlib
import html
import importlib
import io
import json
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from wslessons.bench.tools import machine, ratio
from wslessons.errors import UserError

__all__ = ["Row", "add_arguments", "markdown", "picture", "rows", "run"]

BENCHES = {
    "fanout": ["--only", "rate", "--rounds", "3"],
    "echo": [],
    "connect": [],
    "memory": [],
}
"""Those that a report runs, and their options beside ``--quick`` and ``--json``."""
MARKS = "<!-- by wslessons bench report -->", "<!-- end of the report -->"
"""What stands before and after a report's table in another file."""


@dataclass(frozen=True)
class Row:
    """One contender's answer to one question.

    Attributes:
        question: what was measured, and how much of a thing is good.
        contender: who was measured.
        value: the median, with its unit.
        compared: the median ratio to the baseline, with its spread.
        share: the ratio alone; None for the baseline's own row.
    """

    question: str
    contender: str
    value: str
    compared: str
    share: float | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this bench's options to `parser`.

    Args:
        parser: that of ``wslessons bench report``.
    """
    parser.add_argument("--quick", action="store_true", help="each in its quick form")
    parser.add_argument("--folder", default=".", help="where to write (default: this folder)")
    parser.add_argument(
        "--into", metavar="FILE", help="also replace the table in this file, such as README.md"
    )
    parser.add_argument("--only", nargs="+", choices=BENCHES, default=list(BENCHES))


def run(args: argparse.Namespace) -> int:
    """Run the benches, write the table and the picture; return the exit code."""
    folder = Path(args.folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give --folder one that exists.", exit_code=2)
    if args.into:
        _replace(Path(args.into), None)
    found: list[Row] = []
    facts = ", ".join(f"{key} {value}" for key, value in machine().items())
    command = f"wslessons bench report{' --quick' if args.quick else ''}"
    for name in args.only:
        print(f"bench {name} ...", flush=True)
        found += rows(_measured(name, args.quick))
    written = [folder / "report.md", folder / "report.svg"]
    text = markdown(found, facts, command)
    written[0].write_text(f"# Measured\n\n{text}\n![the ratios as bars](report.svg)\n", "utf-8")
    written[1].write_text(picture(found, facts), "utf-8")
    if args.into:
        written.append(Path(args.into))
        _replace(written[-1], text)
    print(f"written: {', '.join(map(str, written))}")
    return 0


def _replace(file: Path, text: str | None) -> None:
    """Put `text` between the marks in `file`; None only looks whether that can be done."""
    begin, end = MARKS
    try:
        before, found, rest = file.read_text("utf-8").partition(f"{begin}\n")
        _, found_end, after = rest.partition(end)
        if not found or not found_end:
            raise UserError(f"{file} has no lines {begin} and {end} to write between.", exit_code=2)
        if text is not None:
            file.write_text(f"{before}{begin}\n{text}{end}{after}", "utf-8")
    except OSError as exc:
        raise UserError(f"can't use {file}: {(exc.strerror or str(exc)).lower()}.") from None


def _measured(name: str, quick: bool) -> dict[str, Any]:
    """Run one bench and return what it wrote."""
    bench = importlib.import_module(f"wslessons.bench.{name}")
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results.json"
        words = [*BENCHES[name], "--json", str(file), *(["--quick"] if quick else [])]
        with contextlib.redirect_stdout(io.StringIO()):
            bench.run(parser.parse_args(words))
        return json.loads(file.read_text())


def rows(results: dict[str, Any]) -> list[Row]:
    """Return the rows of one bench's results, the baseline's first.

    Args:
        results: what a bench writes with ``--json``.

    Returns:
        A row for each contender and question.
    """
    match results["bench"]:
        case "fanout":
            found = []
            for case in results["rate"]:
                senders = f"{case['senders']} sender{'' if case['senders'] == 1 else 's'}"
                question = (
                    f"deliveries per second, {case['receivers']} receivers, {senders},"
                    f" window {case['window']} (more is better)"
                )
                found += _compared(question, case["turns"], "broadcast", "rate", 1, "")
            return found
        case "echo":
            question = f"CPU per round trip, {results['connections']} connections (less is better)"
            return _compared(question, results["turns"], "library", "cpu", 1e6, " us")
        case "connect":
            question = (
                f"connections let in per second, {results['connections']}; those of the chat have"
                " joined, and all are told (more is better)"
            )
            return _compared(question, results["turns"], "library", "rate", 1, "")
        case _:
            question = f"memory per connection, {results['connections']} (less is better)"
            return _compared(question, results["turns"], "library", "memory", 1 / 1024, " KiB")


def _compared(
    question: str,
    turns: dict[str, list[dict[str, Any]]],
    baseline: str,
    key: str,
    scale: float,
    unit: str,
) -> list[Row]:
    found = []
    # Who left receivers deaf has not been measured.
    turns = {n: mine for n, mine in turns.items() if all(key in turn for turn in mine)}
    for name in sorted(turns, key=lambda name: name != baseline):
        value = median(turn[key] for turn in turns[name]) * scale
        compared = ratio(turns, name, baseline, key)
        share = float(compared.split()[0]) if compared and name != baseline else None
        found.append(Row(question, name, f"{_three_digits(value)}{unit}", compared, share))
    return found


def _three_digits(value: float) -> str:
    """Write a number as people do: three digits that count, and no exponent.

    >>> _three_digits(8_071_234), _three_digits(22.71)
    ('8,070,000', '22.7')
    """
    digits = len(f"{value:.0f}")
    return f"{round(value, 3 - digits):,.0f}" if digits > 3 else f"{value:.3g}"


def markdown(found: list[Row], facts: str, command: str) -> str:
    """Write the rows as one table in Markdown, with where they come from.

    Args:
        found: the rows, those of a question together.
        facts: the machine and the versions, in a line.
        command: what repeats the measurement.

    Returns:
        The lines.
    """
    lines = [
        "| measured | who | median | times the first, smallest and largest |",
        "|---|---|--:|---|",
    ]
    question = ""
    for row in found:
        shown = "" if row.question == question else row.question
        question = row.question
        compared = row.compared if row.share is not None else "1"
        lines.append(f"| {shown} | {row.contender} | {row.value} | {compared} |")
    lines += [
        "",
        f"Measured on: {facts}. All took turns in one run; a ratio is taken within a turn.",
        f"Repeat it with `{command}`.",
    ]
    return "\n".join(lines) + "\n"


def picture(found: list[Row], facts: str) -> str:
    """Draw each ratio as a bar beside the baseline's, on a page of any colour.

    Args:
        found: the rows, those of a question together.
        facts: the machine and the versions, in a line.

    Returns:
        The text of an SVG file.
    """
    height, y, parts = 20, 0, list[str]()

    def write(x: float, text: str, *more: str) -> None:
        words = " ".join([f'x="{x:.1f}" y="{y}"', *more])
        parts.append(f"<text {words}>{html.escape(text)}</text>")

    for question in dict.fromkeys(row.question for row in found):
        group = [row for row in found if row.question == question]
        most = max(1.0, *(row.share or 1.0 for row in group))
        y += height + 8
        write(8, question, 'font-weight="bold"')
        for row in group:
            y += height
            share = 1.0 if row.share is None else row.share
            width = max(1.0, 300 * share / most)
            colour = "#9e9e9e" if row.share is None else "#1976d2"
            write(120, row.contender, 'text-anchor="end"')
            parts.append(
                f'<rect x="130" y="{y - 12}" width="{width:.1f}" height="14" fill="{colour}"/>'
            )
            write(136 + width, f"{row.value}  ({share:.3g})")
    for line in textwrap.wrap(f"Measured on: {facts}.", 100):
        y += height
        write(8, line, 'fill="#424242"')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {y + height}" width="640"'
        ' font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        + "".join(parts)
        + "</svg>\n"
    )
