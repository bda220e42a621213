"""How grader and agent talk: one Python literal per line, whose reading executes nothing."""

from __future__ import annotations

import ast
import asyncio
from typing import Any

from wslessons.exercises.trial import Salted

__all__ = ["LIMIT", "read", "write"]

LIMIT = 2**26
"""Bytes that one line may have: the largest arguments are 26 MB of text."""
SALTED = "a salted text"


async def read(reader: asyncio.StreamReader) -> Any:
    """Read one value; None when the other side is gone.

    Raises:
        ValueError: the line is no literal, or longer than `LIMIT`.
    """
    line = await reader.readline()
    if not line.endswith(b"\n"):
        return None
    try:
        return _plain(ast.literal_eval(line.decode()))
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError("what the agent says can't be read") from error


def write(writer: asyncio.StreamWriter, value: Any) -> None:
    """Write one value; what is no literal goes as its `repr`."""
    writer.write(repr(_literal(value)).encode("utf-8", "backslashreplace") + b"\n")


def _literal(value: Any) -> Any:
    if type(value) is Salted:
        return {SALTED: (str(value), value.salt)}
    if isinstance(value, (list, tuple, set, frozenset)):
        parts = [_literal(part) for part in value]
        return parts if isinstance(value, list) else tuple(parts)
    if isinstance(value, dict):
        return {_literal(key): _literal(part) for key, part in value.items()}
    if value is None or value is ... or type(value) in (bool, str, bytes):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        # inf and nan are no literals.
        return float(value) if value - value == 0 else repr(value)
    return _repr(value)


def _repr(value: Any) -> str:
    try:
        return repr(value)[:200]
    except Exception as error:
        return f"something whose repr raises {type(error).__name__}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {SALTED}:
        return Salted(*value[SALTED])
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(part) for part in value)
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return value
