"""Errors that are meant to be read by the person who caused them."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Generator
from types import ModuleType
from typing import Any

__all__ = [
    "MissingExtra",
    "UserError",
    "at_least",
    "extra",
    "imported_late",
    "need",
    "port_number",
    "print_line",
    "told_of_stdout",
]


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


class MissingExtra(UserError, ModuleNotFoundError):
    """A package is not installed that an extra of this one brings; the sentence names the extra.

    It is an `ImportError`, so that a program can try such an import and do without.
    """


def print_line(text: str) -> None:
    """Print a line on standard output, at once.

    Args:
        text: the line, without its end.

    Raises:
        UserError: standard output is closed, full, or a pipe whose reader has gone.
    """
    if sys.stdout is None:
        raise _closed()
    try:
        print(text, flush=True)
    except OSError as exc:
        raise _takes_nothing(exc) from None


@contextlib.contextmanager
def told_of_stdout() -> Generator[None]:
    """Say so if standard output does not take what is printed in the block, by whomever.

    Raises:
        UserError: standard output is closed, full, or a pipe whose reader has gone.
    """
    stdout: Any = sys.stdout
    if stdout is None:
        raise _closed()
    failed: list[OSError] = []

    def told(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            try:
                return method(*args)
            except OSError as exc:
                failed.append(exc)
                raise

        return call

    # Nothing in an OSError tells which file it is about, and argparse keeps it to itself.
    stdout.write, stdout.flush = told(stdout.write), told(stdout.flush)
    try:
        yield
        stdout.flush()
    except (OSError, SystemExit):
        with contextlib.suppress(OSError):
            stdout.flush()
        if not failed:
            raise
    finally:
        del stdout.write, stdout.flush
    if failed:
        raise _takes_nothing(failed[0])


def _closed() -> UserError:
    return UserError("standard output is closed: give the command a terminal, a file or a pipe.")


def _takes_nothing(exc: OSError) -> UserError:
    # Python would complain once more when it flushes what is left at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    why = (exc.strerror or str(exc)).lower()
    return UserError(f"standard output can't be written to: {why}.")


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


def at_least(least: float, kind: type[int] | type[float] = int) -> Callable[[str], float]:
    """Return what parses a number of a command line, for argparse.

    Args:
        least: the smallest that is taken.
        kind: whether it has to be a whole number.

    Returns:
        The parser, which raises `argparse.ArgumentTypeError` with a sentence.
    """

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except (ValueError, OverflowError):
            value = least - 1
        if not least <= value < float("inf"):
            shown = text if len(text) <= 40 else f"{text[:40]}..."
            raise argparse.ArgumentTypeError(f"{shown!r} is not a number of {least:g} or more")
        return value

    return parse


@contextlib.contextmanager
def extra(name: str) -> Generator[None]:
    """Say which extra brings a package that is imported in the block and is not installed.

    ``with extra("web"):`` and then the imports: whoever lacks the extra reads one sentence.

    Args:
        name: the extra of this package that brings all that the block imports.

    Raises:
        MissingExtra: something is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as exc:
        if isinstance(exc, MissingExtra) or (exc.name or "wslessons").startswith("wslessons"):
            raise
        sentence = f"{exc.name} is not installed: get it with pip install 'wslessons[{name}]'."
        missing = MissingExtra(sentence)
        missing.name = exc.name
        raise missing from None


def need(module: str, name: str) -> ModuleType:
    """Import `module`, or raise an error that names the extra that brings it.

    >>> need("json", "lab").__name__
    'json'

    Args:
        module: its full name.
        name: the extra of this package that brings it.

    Returns:
        The module.

    Raises:
        MissingExtra: it is not installed.
    """
    with extra(name):
        return importlib.import_module(module)


class _Late(ModuleType):
    """Stands for a module until something of it is used."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


@contextlib.contextmanager
def imported_late(module: str) -> Generator[None]:
    """Have what is imported in the block import `module` only when it uses something of it.

    For what a package imports beside what we use of the package. Nothing changes if the module is
    imported already, or is not installed.

    >>> with imported_late("tabnanny"):
    ...     import tabnanny
    >>> "tabnanny" in sys.modules
    False
    >>> tabnanny.verbose
    0
    >>> "tabnanny" in sys.modules
    True

    Args:
        module: its full name; it is part of no package.
    """
    from importlib.util import find_spec

    if module in sys.modules or find_spec(module) is None:
        yield
        return
    sys.modules[module] = _Late(module)
    try:
        yield
    finally:
        del sys.modules[module]
