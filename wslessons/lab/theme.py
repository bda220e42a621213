"""Colours that can be read in JupyterLab's light theme and in its dark one.

Each is mixed with the theme's own ink, which is dark in the one and light in the other; measured in
both, a text in it has a contrast of at least 4.5 to 1 (WCAG 2.2, success criterion 1.4.3).
"""

from __future__ import annotations

__all__ = ["BLUE", "FRAME", "GREEN", "GREY", "PURPLE", "RED", "SHADES"]

_INK = "var(--jp-content-font-color1, #212121)"


def _ink(colour: str) -> str:
    return f"color-mix(in srgb, {colour} 55%, {_INK})"


BLUE, GREEN, PURPLE, RED = map(_ink, ("#1976d2", "#2e9d36", "#9c3fd0", "#e53935"))
GREY = f"color-mix(in srgb, {_INK} 72%, transparent)"
FRAME = "1px solid var(--jp-border-color1, #bdbdbd)"

SHADES = {
    "in": BLUE,
    "out": GREEN,
    "wait": GREY,
    "note": GREY,
    "error": RED,
}
"""The colour of each kind of line in a transcript."""
