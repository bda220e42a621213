"""What a check says: one line per behaviour, as plain text and as HTML that needs no widget.

    check.counter: 1 of 3 behaviours pass
      pass  the first message is answered with 1
      fail  each message counts one up
            expected: '2'
            got:      '1'
            hint:     The number begins anew with each message: set it once, before the loop.
      not run  two clients count apart

Nothing in it differs from run to run: no duration, no address, no port.
"""

from __future__ import annotations

import enum
import html
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["MARKS", "Line", "Note", "State", "Verdict"]

WIDTH = 96
"""Columns of the plain text."""


class State(enum.StrEnum):
    """How one behaviour, or a whole exercise, came out."""

    PASS = "pass"
    FAIL = "fail"
    TIMED_OUT = "timed out"
    NOT_RUN = "not run"
    NOT_ATTEMPTED = "not attempted yet"


def _ink(colour: str) -> str:
    """Mix a colour with the theme's ink, so that it can be read on light and on dark paper."""
    return f"color-mix(in srgb, {colour} 55%, var(--jp-content-font-color1, #212121))"


GREEN, RED = _ink("#2e9d36"), _ink("#e53935")
GREY = "var(--jp-ui-font-color1, #555)"

MARKS = {
    State.PASS: ("✓", GREEN),
    State.FAIL: ("✗", RED),
    State.TIMED_OUT: ("⏱", RED),
    State.NOT_RUN: ("·", GREY),
    State.NOT_ATTEMPTED: ("○", GREY),
}
"""For each state a mark and its colour, in JupyterLab's themes and everywhere else."""


@dataclass(frozen=True)
class Line:
    """One behaviour and how it came out.

    Args:
        behaviour: one clause, such as "two clients count apart".
        state: how it came out.
        expected: what should have come; empty if it passed.
        got: what came instead.
        hint: what to look at, at most 60 words.
    """

    behaviour: str
    state: State
    expected: str = ""
    got: str = ""
    hint: str = ""

    @property
    def details(self) -> list[tuple[str, str]]:
        """The label and the text of each detail there is, in the order of reading."""
        labelled = (("expected", self.expected), ("got", self.got), ("hint", self.hint))
        return [(label, text) for label, text in labelled if text]


@dataclass(frozen=True)
class Note:
    """A titled text, such as a hint or a solution, that a notebook and a terminal can show.

    Args:
        title: the first line.
        body: what follows.
        code: whether the body is Python, which is shown as it is.
    """

    title: str
    body: str = ""
    code: bool = False

    def __repr__(self) -> str:
        if self.code:
            return f"{self.title}\n\n{self.body}".rstrip()
        return "\n".join([self.title, *_wrapped(self.body, "  ")])

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        code = f"<pre>{html.escape(self.body)}</pre>"
        shown = code if self.code else f"<div>{_sentence(self.body)}</div>"
        return {
            "text/plain": repr(self),
            "text/html": f"<div><b>{html.escape(self.title)}</b>{shown}</div>",
        }


@dataclass(frozen=True)
class Verdict:
    """What a check found out about one exercise.

    Args:
        name: the exercise.
        lines: one per behaviour; none if it was not attempted.
        note: a sentence below them.
    """

    name: str
    lines: Sequence[Line] = ()
    note: str = ""

    @property
    def state(self) -> State:
        """The exercise's state: the worst of its lines; a time-out outweighs a failure."""
        states = {line.state for line in self.lines}
        if not states:
            return State.NOT_ATTEMPTED
        for worst in (State.TIMED_OUT, State.FAIL, State.NOT_RUN):
            if worst in states:
                return State.FAIL if worst is State.NOT_RUN else worst
        return State.PASS

    @property
    def passed(self) -> bool:
        """Whether every behaviour passed."""
        return self.state is State.PASS

    @property
    def title(self) -> str:
        """The first line: the exercise and how many behaviours pass."""
        if self.state is State.NOT_ATTEMPTED:
            return f"check.{self.name}: not attempted yet"
        good = sum(line.state is State.PASS for line in self.lines)
        if good == len(self.lines):
            return f"check.{self.name}: passed"
        return f"check.{self.name}: {good} of {len(self.lines)} behaviours pass"

    def __repr__(self) -> str:
        parts = [self.title]
        for line in self.lines:
            parts.append(f"  {line.state:<9}  {line.behaviour}")
            for label, text in line.details:
                parts += _wrapped(text, " " * 13, f"{label + ':':<10}")
        parts += _wrapped(self.note, "  ")
        return "\n".join(parts)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        rows = "".join(_row(line) for line in self.lines)
        note = f"<div>{_sentence(self.note)}</div>" if self.note else ""
        mark, colour = MARKS[self.state]
        title = f'<b><span style="color:{colour}">{mark}</span> {html.escape(self.title)}</b>'
        body = f'<div style="color:var(--jp-ui-font-color1, inherit)">{title}{rows}{note}</div>'
        return {"text/plain": repr(self), "text/html": body}


def _sentence(text: str) -> str:
    """Return what we say as HTML, with `code` for what stands between backticks."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _row(line: Line) -> str:
    mark, colour = MARKS[line.state]
    details = "".join(
        f'<div style="margin-left:1.6em;white-space:pre-wrap"><b>{label}:</b>'
        f" {_sentence(text) if label == 'hint' else html.escape(text)}</div>"
        for label, text in line.details
    )
    return (
        f'<div style="margin:.2em 0 .2em .6em"><span style="color:{colour}" title="{line.state}">'
        f"{mark} {line.state}:</span> {html.escape(line.behaviour)}{details}</div>"
    )


def _wrapped(text: str, indent: str, label: str = "") -> list[str]:
    """Fold `text` at `WIDTH`; line breaks that stand in it stay."""
    lines: list[str] = []
    for number, part in enumerate(text.splitlines()):
        first = indent + (label if number == 0 else " " * len(label))
        rest = indent + " " * len(label)
        lines += textwrap.wrap(
            part, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
        ) or [first.rstrip()]
    return lines
