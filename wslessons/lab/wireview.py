"""What a link has recorded, as a table, as a sequence diagram, and as the handshake's own lines."""

from __future__ import annotations

import html
from collections.abc import Iterable

from wslessons.lab.source import Shown
from wslessons.link import Recording
from wslessons.tables import table
from wslessons.wire import (
    CLIENT_TO_SERVER,
    FrameRecord,
    HandshakeRequest,
    HandshakeResponse,
    Record,
)
from wslessons.wire.wording import printable

__all__ = ["handshake", "mermaid_text", "sequence", "wire_table"]

Wire = Recording | Iterable[Record]

COLUMNS = ("", "what", "FIN", "RSV", "mask", "header", "length", "payload")
# A row is a line of columns, and the payload wraps below them where it has no room beside them.
ROW = "display:flex;flex-wrap:wrap;font-family:monospace;font-size:12px"
COLUMN = "text-align:left;padding:2px 0;flex:none;box-sizing:border-box;width:{width}ch"
PAYLOAD = (
    "text-align:left;padding:2px 0;flex:1 1 24ch;min-width:0;"
    "white-space:pre-wrap;overflow-wrap:anywhere"
)


def _records(wire: Wire) -> list[Record]:
    return list(wire.records if isinstance(wire, Recording) else wire)


def _row(record: Record) -> tuple[str, ...]:
    arrow = "-->" if record.direction == CLIENT_TO_SERVER else "<--"
    if isinstance(record, FrameRecord):
        reserved = "".join(str(int(bit)) for bit in (record.rsv1, record.rsv2, record.rsv3))
        mask = "yes" if record.masked else "no"
        header, length = str(record.header_length), str(record.payload_length)
        fin = str(int(record.fin))
        return (arrow, record.opcode, fin, reserved, mask, header, length, record.text)
    if isinstance(record, HandshakeRequest | HandshakeResponse):
        return (arrow, "HTTP", "", "", "", "", "", record.text)
    return (arrow, getattr(record, "event", "problem"), "", "", "", "", "", record.text)


def wire_table(wire: Wire) -> Shown:
    """Show what was recorded as a table, in the order of time.

    ``-->`` is from client to server. Lengths are bytes on the wire: ``header`` holds the first
    bytes, the extended length and the masking key (RFC 6455, section 5.2).

    Args:
        wire: a link's connection, or some of its records.

    Returns:
        The table: HTML in a notebook, columns of text elsewhere.
    """
    rows = [_row(record) for record in _records(wire)]
    widths = [max(map(len, column)) + 2 for column in zip(COLUMNS, *rows, strict=True)]
    styles = [*(COLUMN.format(width=width) for width in widths[:-1]), PAYLOAD]
    head, *body = (
        f'<tr style="{ROW}">'
        + "".join(
            f'<{tag} style="{style}">{html.escape(text)}</{tag}>'
            for style, text in zip(styles, row, strict=True)
        )
        + "</tr>"
        for tag, row in [("th", COLUMNS), *(("td", row) for row in rows)]
    )
    drawn = f'<table style="width:100%"><thead>{head}</thead><tbody>{"".join(body)}</tbody></table>'
    return Shown(table(COLUMNS, rows, left=range(len(COLUMNS))), {"text/html": drawn})


def mermaid_text(text: str, limit: int = 48) -> str:
    """Write `text` so that Mermaid shows it and obeys none of it.

    Args:
        text: may be hostile.
        limit: characters after which it is cut.

    Returns:
        The text, with entity codes for what Mermaid might obey.

    >>> mermaid_text("a;b #1 <i>")
    'a#59;b #35;1 #60;i#62;'
    """
    # Entity codes, see https://mermaid.js.org/syntax/sequenceDiagram.html
    kept = "".join(
        c if c.isalnum() or c in " .,:/!?'()[]-_=" or ord(c) > 127 else f"#{ord(c)};"
        for c in printable(text, limit)
    )
    return kept or "(empty)"


def sequence(wire: Wire, client: str = "client", server: str = "server") -> Shown:
    """Draw what was recorded as a sequence diagram.

    The HTTP handshake and closing frames have their own kind of arrow, the rest of the frames is
    named by opcode and payload.

    Args:
        wire: a link's connection, or some of its records.
        client: what to call the client in the picture.
        server: what to call the server.

    Returns:
        The diagram, which JupyterLab draws; its text is Mermaid's.
    """
    c, s = mermaid_text(client), mermaid_text(server)
    # For those who can't see it, https://mermaid.js.org/config/accessibility.html
    title = f"accTitle: {c} and {s}, and what they have sent, in the order of time"
    lines = [title, f"participant c as {c}", f"participant s as {s}"]
    for record in _records(wire):
        ends = "cs" if record.direction == CLIENT_TO_SERVER else "sc"
        label, arrow = record.text, "->>"
        if isinstance(record, FrameRecord):
            label = f"{record.opcode} {record.text}".strip()
            arrow = "--)" if record.opcode == "CLOSE" else "->>"
        elif isinstance(record, HandshakeRequest | HandshakeResponse):
            arrow = "-->>"
        else:
            label = f"{getattr(record, 'event', 'problem')}: {record.text}"
            arrow = "-x"
        lines.append(f"{ends[0]}{arrow}{ends[1]}: {mermaid_text(label)}")
    source = "\n".join(["sequenceDiagram", *(f"    {line}" for line in lines)])
    return Shown(source, {"text/markdown": f"```mermaid\n{source}\n```"})


def handshake(wire: Wire) -> Shown:
    """Show the opening handshake line by line, as it was sent (RFC 6455, section 1.3).

    Args:
        wire: a link's connection, or some of its records.

    Returns:
        The request's lines, an empty one, and the response's.
    """
    parts = [
        record.raw.decode("latin-1").replace("\r\n", "\n").strip()
        for record in _records(wire)
        if isinstance(record, HandshakeRequest | HandshakeResponse)
    ]
    return Shown("\n\n".join("\n".join(printable(x) for x in part.split("\n")) for part in parts))
