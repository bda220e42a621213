"""Tables of text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["table"]


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: Iterable[int] = (0,)) -> str:
    """Lay out rows under `head`.

    Args:
        head: what stands above the columns.
        rows: texts, as many in each row as in `head`.
        left: the columns whose texts begin at the left; those of the others end at the right.

    Returns:
        The lines, without an end of line after the last.

    >>> print(table(["who", "rate"], [["chat", "12.5"], ["naive", "1"]]))
    who    rate
    chat   12.5
    naive     1
    """
    left = set(left)
    lines = [list(head), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            text.ljust(width) if column in left else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
