"""Draw a channel: the ring, what it keeps, and where each reader's cursor stands."""

from __future__ import annotations

import html
from typing import Any

from wslessons.chat.channel import Channel, Receiver
from wslessons.lab.source import Shown
from wslessons.lab.theme import BLUE, FRAME, GREY
from wslessons.tables import table

__all__ = ["draw_channel"]

BOX = f"border:{FRAME};padding:4px 10px;text-align:center;font-family:monospace"
LABEL = f"padding:2px 10px;text-align:right;color:{GREY}"
CURSOR = "padding:2px 6px;text-align:center;font-family:monospace"


def draw_channel(channel: Channel[Any], **readers: Receiver[Any]) -> Shown:
    """Draw what a channel keeps, and under it each reader at the item that it reads next.

    A reader whose next item is gone already is lapped, and named with how many it has lost.

    Args:
        channel: what to draw; it is not changed.
        readers: its receivers, by the names that they get in the picture.

    Returns:
        The picture of this moment.
    """
    kept = {channel.oldest + i: str(item) for i, item in enumerate(channel)}
    under: dict[int, list[str]] = {}
    notes: list[str] = []
    for name, reader in readers.items():
        lost = channel.oldest - 1 - reader.offset
        if lost > 0:
            notes.append(f"{name}: lapped, {lost} gone")
        elif reader.behind == 0:
            notes.append(f"{name}: has read everything")
        else:
            under.setdefault(reader.offset + 1, []).append(name)

    offsets = "".join(f'<td style="{CURSOR};color:{GREY}">{offset}</td>' for offset in kept)
    boxes = "".join(f'<td style="{BOX}">{html.escape(item)}</td>' for item in kept.values())
    arrows = "".join(
        f'<td style="{CURSOR};color:{BLUE}">'
        + (f"&uarr;<br>{html.escape(', '.join(under[offset]))}" if offset in under else "")
        + "</td>"
        for offset in kept
    )
    drawn = (
        f'<div style="overflow-x:auto"><table><tr><td style="{LABEL}">offset</td>{offsets}</tr>'
        f'<tr><td style="{LABEL}">the ring ({channel.capacity})</td>{boxes}</tr>'
        f'<tr><td style="{LABEL}">reads next</td>{arrows}</tr></table></div>'
        + "".join(f"<div>{html.escape(note)}</div>" for note in notes)
    )
    cursors = ["^" + ",".join(under[offset]) if offset in under else "" for offset in kept]
    rows = [["item", *kept.values()], ["next", *cursors]]
    text = table(["offset", *map(str, kept)], rows, left=range(len(kept) + 1))
    return Shown("\n".join([text, *notes]), {"text/html": drawn})
