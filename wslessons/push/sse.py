"""Server-sent events: lines of text in one HTTP response that does not end.

Framing as in the HTML standard, section 9.2
(https://html.spec.whatwg.org/multipage/server-sent-events.html); a browser reads it with
`EventSource`. Not handled here: event types other than `message`, and a byte order mark.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass

__all__ = ["HEARTBEAT", "Event", "decode", "encode"]

_LINE_END = re.compile(r"\r\n|\r|\n")

HEARTBEAT = b": still here\n\n"
"""A comment: readers skip it, and what stands between sees that the connection is in use."""


@dataclass(frozen=True, slots=True)
class Event:
    """What one event carried: its data, and its id, which a reader sends when it comes back."""

    data: str
    id: str = ""


def encode(data: str, id: str) -> bytes:
    r"""Frame one event; a line break in `data` becomes a second ``data:`` line.

    The standard has three line breaks (CR, LF and both), and a reader gets a newline for each.

    >>> encode("two\r\nlines", "7")
    b'id: 7\ndata: two\ndata: lines\n\n'

    Args:
        data: any text.
        id: what a reader sends when it comes back; one line, without NUL.

    Returns:
        The bytes of the event, its blank line included.

    Raises:
        ValueError: `id` holds a line break or NUL.
    """
    if "\0" in id or _LINE_END.search(id):
        raise ValueError(f"an event's id is one line without NUL, not {id[:80]!r}")
    lines = "".join(f"data: {line}\n" for line in _LINE_END.split(data))
    return f"id: {id}\n{lines}\n".encode()


async def decode(lines: AsyncIterable[bytes]) -> AsyncIterator[Event]:
    """Yield the events of a response's `lines`; the id stays until an event brings another.

    Args:
        lines: each ends with a newline, and may hold lines that end with CR alone.

    Yields:
        The events.
    """
    data: list[str] = []
    id = ""
    async for raw in lines:
        text = raw.decode(errors="replace")
        for line in _LINE_END.split(text.removesuffix("\n").removesuffix("\r")):
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "data":
                data.append(value)
            elif field == "id" and "\0" not in value:
                id = value
            elif not line and data:
                yield Event("\n".join(data), id)
                data = []
