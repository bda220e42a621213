"""Draw a channel: the ring, what it keeps, and where each reader's cursor stands."""

from __future__ import annotations

import html
from typing import Any

from wslessons.chat.channel import Channel, Receiver
from wslessons.lab.theme import BLUE, FRAME, GREY

__all__ = ["ChannelDrawing", "draw_channel"]

BOX = f"border:{FRAME};padding:4px 10px;text-align:center;font-family:monospace"
LABEL = f"padding:2px 10px;text-align:right;color:{GREY}"
CURSOR = "padding:2px 6px;text-align:center;font-family:monospace"


class ChannelDrawing:
    """A picture of a channel at one moment; made by `draw_channel`.

    Args:
        channel: what to draw.
        readers: its receivers, by name.
    """

    def __init__(self, channel: Channel[Any], readers: dict[str, Receiver[Any]]) -> None:
        first = channel.oldest
        self.items = [(first + i, str(item)) for i, item in enumerate(channel)]
        self.capacity = channel.capacity
        self.under: dict[int, list[str]] = {}
        self.notes: list[str] = []
        for name, reader in readers.items():
            lost = first - 1 - reader.offset
            if lost > 0:
                self.notes.append(f"{name}: lapped, {lost} gone")
            elif reader.behind == 0:
                self.notes.append(f"{name}: has read everything")
            else:
                self.under.setdefault(reader.offset + 1, []).append(name)

    def __repr__(self) -> str:
        columns = [
            (str(offset), item, "^" + ",".join(self.under[offset]) if offset in self.under else "")
            for offset, item in self.items
        ]
        rows = []
        for label, cells in zip(
            ("offset", "item", "next"), zip(*columns, strict=True), strict=True
        ):
            widths = [max(map(len, column)) for column in columns]
            padded = "  ".join(f"{c:<{w}}" for c, w in zip(cells, widths, strict=True))
            rows.append(f"{label:<8}{padded}".rstrip())
        return "\n".join([*rows, *self.notes])

    def _repr_html_(self) -> str:
        offsets = "".join(f'<td style="{CURSOR};color:{GREY}">{o}</td>' for o, _ in self.items)
        boxes = "".join(f'<td style="{BOX}">{html.escape(item)}</td>' for _, item in self.items)
        arrows = "".join(
            f'<td style="{CURSOR};color:{BLUE}">'
            + (f"&uarr;<br>{html.escape(', '.join(self.under[o]))}" if o in self.under else "")
            + "</td>"
            for o, _ in self.items
        )
        notes = "".join(f"<div>{html.escape(note)}</div>" for note in self.notes)
        return (
            f'<div style="overflow-x:auto"><table><tr><td style="{LABEL}">offset</td>{offsets}</tr>'
            f'<tr><td style="{LABEL}">the ring ({self.capacity})</td>{boxes}</tr>'
            f'<tr><td style="{LABEL}">reads next</td>{arrows}</tr></table></div>{notes}'
        )


def draw_channel(channel: Channel[Any], **readers: Receiver[Any]) -> ChannelDrawing:
    """Draw what a channel keeps, and under it each reader at the item that it reads next.

    A reader whose next item is gone already is lapped, and named with how many it has lost.

    Args:
        channel: what to draw; it is not changed.
        readers: its receivers, by the names that they get in the picture.

    Returns:
        The picture of this moment.
    """
    return ChannelDrawing(channel, readers)
