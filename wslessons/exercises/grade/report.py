"""Results as a table, CSV, JUnit XML, and one page of HTML."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Sequence
from xml.etree import ElementTree

from wslessons.exercises.grade.grader import Result
from wslessons.exercises.verdict import MARKS, State, Verdict

__all__ = ["as_csv", "as_html", "as_junit", "as_table"]


def as_table(results: Sequence[Result]) -> str:
    """Write one line per notebook: what passes, and what was noticed.

    Args:
        results: what `grade` returned.

    Returns:
        The lines.
    """
    rows = [("notebook", "passed", "exercises", "noticed")]
    for result in results:
        marks = " ".join(f"{name} {MARKS[v.state][0]}" for name, v in result.verdicts.items())
        score = f"{result.passed} of {len(result.verdicts)}" if result.verdicts else "-"
        rows.append((str(result.path), score, marks or result.trouble, "; ".join(_noticed(result))))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def as_csv(results: Sequence[Result]) -> str:
    """Write one row per exercise of each notebook, for a spreadsheet.

    Args:
        results: what `grade` returned.

    Returns:
        The file's text.
    """
    out = io.StringIO()
    writer = csv.writer(out)
    head = ["student", "notebook", "lesson", "exercise", "verdict", "behaviours passed"]
    writer.writerow([*head, "behaviours", "noticed"])
    for result in results:
        path, whole = str(result.path), result.notices.get("", [])
        if not result.verdicts:
            row = [result.student, path, "", "", "unreadable", 0, 0, result.trouble]
            writer.writerow([_tame(cell) for cell in row])
        for name, verdict in result.verdicts.items():
            noticed = "; ".join([*result.notices.get(name, []), *whole])
            good = sum(line.state is State.PASS for line in verdict.lines)
            lesson = _lesson(name)
            row = [result.student, path, lesson, name, str(verdict.state), good]
            writer.writerow([_tame(cell) for cell in [*row, len(verdict.lines), noticed]])
    return out.getvalue()


def as_junit(results: Sequence[Result]) -> str:
    """Write JUnit XML: a suite per notebook, a case per exercise.

    Args:
        results: what `grade` returned.

    Returns:
        The file's text.
    """
    root = ElementTree.Element("testsuites", name="wslessons grade")
    for result in results:
        suite = ElementTree.SubElement(root, "testsuite", name=_xml(str(result.path)))
        states = [verdict.state for verdict in result.verdicts.values()]
        bad = sum(state in (State.FAIL, State.TIMED_OUT) for state in states)
        suite.set("tests", str(max(len(states), 1)))
        suite.set("failures", str(bad))
        suite.set("errors", str(int(bool(result.trouble))))
        suite.set("skipped", str(states.count(State.NOT_ATTEMPTED)))
        suite.set("time", f"{result.seconds:.1f}")
        if result.trouble:
            case = ElementTree.SubElement(
                suite, "testcase", name="notebook", classname=_xml(result.student)
            )
            ElementTree.SubElement(case, "error", message=_xml(result.trouble))
        for name, verdict in result.verdicts.items():
            classname = _xml(f"{result.student}.lesson{_lesson(name)}")
            case = ElementTree.SubElement(suite, "testcase", name=name, classname=classname)
            if verdict.state is State.NOT_ATTEMPTED:
                ElementTree.SubElement(case, "skipped", message=_xml(verdict.note))
            elif not verdict.passed:
                failure = ElementTree.SubElement(case, "failure", message=_xml(verdict.title))
                failure.text = _xml(repr(verdict))
            if notices := [*result.notices.get(name, []), *result.notices.get("", [])]:
                ElementTree.SubElement(case, "system-out").text = _xml("\n".join(notices))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def as_html(results: Sequence[Result]) -> str:
    """Write one page that needs nothing else: the table, and below it the details.

    Args:
        results: what `grade` returned.

    Returns:
        The file's text.
    """
    rows, details = [], []
    for number, result in enumerate(results):
        noticed = "<br>".join(map(html.escape, _noticed(result)))
        marks = ", ".join(
            f'<span class="{v.state.name.lower()}">{html.escape(name)} {MARKS[v.state][0]}</span>'
            for name, v in result.verdicts.items()
        )
        rows.append(
            f'<tr><td><a href="#n{number}">{html.escape(str(result.path))}</a></td>'
            f"<td>{result.passed} of {len(result.verdicts)}</td>"
            f"<td>{marks or html.escape(result.trouble)}</td><td>{noticed}</td></tr>"
        )
        details.append(_details(number, result))
    head = "<tr><th>notebook</th><th>passed</th><th>exercises</th><th>noticed</th></tr>"
    table = f"<table>{head}{''.join(rows)}</table>"
    return PAGE.format(table=table, details="".join(details))


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>wslessons grade</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
:root {{ color-scheme: light dark; }}
html {{ background: #fff; color: #111; }}
body {{ font: 16px/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; }} th {{ white-space: nowrap; }}
th, td {{ text-align: left; padding: .2rem .8rem .2rem 0;
vertical-align: top; overflow-wrap: anywhere; }} pre {{ white-space: pre-wrap; }}
a {{ color: #0b57d0; }} .pass {{ color: #1b5e20; }} .fail, .timed_out {{ color: #b71c1c; }}
.not_attempted, .not_run {{ color: #555; }}
@media (prefers-color-scheme: dark) {{
html {{ background: #181818; color: #eee; }} a {{ color: #8ab4f8; }}
.pass {{ color: #81c784; }} .fail, .timed_out {{ color: #ef9a9a; }}
.not_attempted, .not_run {{ color: #bbb; }}
}}
</style></head><body><h1>Grades</h1>{table}{details}</body></html>
"""


def _noticed(result: Result) -> list[str]:
    """What was noticed, each with the exercise that it is about, if it is about one."""
    return [
        f"{name}: {text}" if name else text
        for name, texts in result.notices.items()
        for text in texts
    ]


def _details(number: int, result: Result) -> str:
    parts = [f'<h2 id="n{number}">{html.escape(str(result.path))}</h2>']
    if result.trouble:
        parts.append(f"<p>{html.escape(result.trouble)}</p>")
    errors = [f"cell {cell} ended in an error: {text}" for cell, text in result.errors]
    if lines := [*_noticed(result), *errors]:
        items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
        parts.append(f"<ul>{items}</ul>")
    for verdict in result.verdicts.values():
        parts.append(f"<details{_open(verdict)}><summary>{html.escape(verdict.title)}</summary>")
        parts.append(f"<pre>{html.escape(repr(verdict))}</pre></details>")
    return "".join(parts)


def _open(verdict: Verdict) -> str:
    return "" if verdict.passed else " open"


def _lesson(name: str) -> int:
    from wslessons.exercises import check

    return getattr(check, name).lesson


def _xml(text: str) -> str:
    """Leave out what XML 1.0 can't hold."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)


def _tame(cell: object) -> object:
    """Keep a spreadsheet from taking a student's text for a formula."""
    if isinstance(cell, str):
        cell = _xml(cell)
        return "'" + cell if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
    return cell
