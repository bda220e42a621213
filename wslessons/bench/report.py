"""``wslessons bench report``: the other benches in a row, as one table and one picture.

It writes ``report.md`` and ``report.svg`` with the machine and the versions that the numbers come
from. The README's table is made by it.
"""

from __future__ import annotations

import argparse
import contextlib
import html
import importlib
import io
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wslessons.bench.tools import machine, median, ratio
from wslessons.errors import UserError

__all__ = ["Row", "add_arguments", "markdown", "picture", "rows", "run"]

BENCHES = {
    "fanout": ["--only", "rate"],
    "echo": [],
    "connect": [],
    "memory": [],
}
"""Those that a report runs, and their options beside ``--quick`` and ``--json``."""


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
    """Add this bench's options to `parser`."""
    parser.add_argument("--quick", action="store_true", help="the quick form of each bench")
    parser.add_argument("--folder", default=".", help="where to write (default: this folder)")
    parser.add_argument("--only", nargs="+", choices=BENCHES, default=list(BENCHES))


def run(args: argparse.Namespace) -> int:
    """Run the benches, write the table and the picture; return the exit code."""
    folder = Path(args.folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give --folder one that exists.", exit_code=2)
    found: list[Row] = []
    for name in args.only:
        print(f"bench {name} ...", flush=True)
        found += rows(_measured(name, args.quick))
    (folder / "report.md").write_text(markdown(found), encoding="utf-8")
    (folder / "report.svg").write_text(picture(found), encoding="utf-8")
    print(f"written: {folder / 'report.md'}, {folder / 'report.svg'}")
    return 0


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
    """
    match results["bench"]:
        case "fanout":
            found = []
            for case in results["rate"]:
                question = (
                    f"deliveries/s, {case['receivers']} receivers, {case['senders']} senders,"
                    f" window {case['window']} (more is better)"
                )
                found += _compared(question, case["turns"], "broadcast", "rate", 1e-6, "M")
            return found
        case "echo":
            question = f"CPU per round trip, {results['connections']} connections (less is better)"
            return _compared(question, results["turns"], "library", "cpu", 1e6, " us")
        case "connect":
            question = f"connections let in per second, {results['connections']} (more is better)"
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
    for name in sorted(turns, key=lambda name: name != baseline):
        value = median(turn[key] for turn in turns[name]) * scale
        compared = ratio(turns, name, baseline, key)
        share = float(compared.split()[0]) if compared and name != baseline else None
        found.append(Row(question, name, f"{value:,.3g}{unit}", compared, share))
    return found


def markdown(found: list[Row]) -> str:
    """Write the rows as a page of Markdown, a table for each question."""
    facts = ", ".join(f"{key} {value}" for key, value in machine().items())
    lines = [
        "# Measured",
        "",
        f"{facts}. Contenders took turns in one run; medians, and the smallest and largest ratio.",
        "Repeat it with `wslessons bench report`.",
        "",
        "![the ratios as bars](report.svg)",
    ]
    question = ""
    for row in found:
        if row.question != question:
            question = row.question
            lines += ["", f"| {question} | | over the first |", "|---|---|---|"]
        lines.append(f"| {row.contender} | {row.value} | {row.compared} |")
    return "\n".join(lines) + "\n"


def picture(found: list[Row]) -> str:
    """Draw each ratio as a bar beside the baseline's, on a page of any colour."""
    height, y, parts = 20, 0, list[str]()
    for question in dict.fromkeys(row.question for row in found):
        group = [row for row in found if row.question == question]
        most = max(1.0, *(row.share or 1.0 for row in group))
        y += height + 8
        parts.append(f'<text x="8" y="{y}" font-weight="bold">{html.escape(question)}</text>')
        for row in group:
            y += height
            share = 1.0 if row.share is None else row.share
            width = max(1.0, 300 * share / most)
            colour = "#9e9e9e" if row.share is None else "#1976d2"
            label = html.escape(f"{row.value}  ({share:.3g})")
            parts.append(f'<text x="120" y="{y}" text-anchor="end">{row.contender}</text>')
            parts.append(
                f'<rect x="130" y="{y - 12}" width="{width:.1f}" height="14" fill="{colour}"/>'
            )
            parts.append(f'<text x="{136 + width:.1f}" y="{y}">{label}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {y + height}" width="640"'
        ' font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        + "".join(parts)
        + "</svg>\n"
    )
