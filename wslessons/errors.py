"""Errors that are meant to be read by the person who caused them."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Generator
from types import ModuleType

__all__ = ["UserError", "need", "port_number", "print_line", "told_of_stdout"]


class UserError(Exception):
    """Something the user can put right; its text is one sentence that says what and how.

    The command line prints the sentence after ``wslessons: `` and exits with `exit_code`:
    2 for words that don't fit the command (as argparse does), 1 for everything else.

    Args:
        sentence: what was wrong and what to do.
        exit_code: the command line's.
    """

    def __init__(self, sentence: str, *, exit_code: int = 1) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code

    def _render_traceback_(self) -> list[str]:
        """Show a learner the sentence and no traceback (IPython looks for this method)."""
        return [f"wslessons: {self}"]


def print_line(text: str) -> None:
    """Print a line on standard output, at once.

    Args:
        text: the line, without its end.

    Raises:
        UserError: standard output is closed, full, or a pipe whose reader has gone.
    """
    with told_of_stdout():
        print(text)


@contextlib.contextmanager
def told_of_stdout() -> Generator[None]:
    """Say so if standard output does not take what is printed in the block.

    Raises:
        UserError: standard output is closed, full, or a pipe whose reader has gone.
    """
    if sys.stdout is None:
        raise UserError("standard output is closed: give the command a terminal, a file or a pipe.")
    try:
        yield
    except (OSError, SystemExit):
        # It may be about something else; what could not be printed is still there to be flushed.
        _flush()
        raise
    _flush()


def _flush() -> None:
    assert sys.stdout is not None
    try:
        sys.stdout.flush()
    except OSError as exc:
        # Python would complain once more when it flushes what is left at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        why = (exc.strerror or str(exc)).lower()
        raise UserError(f"standard output can't be written to: {why}.") from None


def port_number(text: str) -> int:
    """Parse the TCP port of a command line.

    Args:
        text: the word that was given.

    Returns:
        The port, from 0 (any free one) to 65535.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: give a number from 0 to 65535")
    return int(text)


def need(module: str, extra: str) -> ModuleType:
    """Import `module`, or raise a `UserError` that names the extra that brings it.

    >>> need("json", "lab").__name__
    'json'

    Args:
        module: its full name.
        extra: the extra of this package that brings it.

    Returns:
        The module.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as exc:
        if exc.name != module.partition(".")[0] and exc.name != module:
            raise
        raise UserError(
            f"{module} is not installed: get it with pip install 'wslessons[{extra}]'."
        ) from None
