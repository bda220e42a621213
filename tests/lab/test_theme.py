"""The colours of panels, measured in the themes that JupyterLab brings."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from wslessons.exercises import verdict
from wslessons.lab import theme

THEMES = Path(sys.prefix) / "share/jupyter/lab/themes/@jupyterlab"
Colour = tuple[float, float, float]


def read(text: str, under: Colour = (255, 255, 255)) -> Colour:
    """Read a CSS colour, mixed with what is under it where it is not opaque."""
    text = {"white": "#ffffff", "black": "#000000"}.get(text, text)
    if match := re.fullmatch(r"rgba\((\d+), ?(\d+), ?(\d+), ?([.\d]+)\)", text):
        *parts, alpha = map(float, match.groups())
        r, g, b = (alpha * part + (1 - alpha) * low for part, low in zip(parts, under, strict=True))
        return r, g, b
    digits = text.removeprefix("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16)


def variable(css: str, name: str) -> str:
    """Return the value of a variable; one that refers to another is its fallback."""
    match = re.search(rf"{name}: *([^;]+);", css)
    assert match is not None, name
    return re.sub(r"var\([^,]+, ?(.+)\)", r"\1", match[1].strip())


def luminance(colour: Colour) -> float:
    """Relative luminance (WCAG 2.2)."""
    parts = [part / 255 for part in colour]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: Colour, other: Colour) -> float:
    """The ratio that success criterion 1.4.3 is about."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def mixed(css_colour: str, ink: Colour, paper: Colour) -> Colour:
    """What `color-mix` makes of a theme's ink, as the browser draws it on its paper."""
    match = re.fullmatch(r"color-mix\(in srgb, (.+) (\d+)%, (.+)\)", css_colour)
    assert match is not None, css_colour
    first, percent, second = match.groups()
    share = int(percent) / 100
    colours = [
        paper if part == "transparent" else read(part) if part.startswith("#") else ink
        for part in (first, second)
    ]
    r, g, b = (share * a + (1 - share) * b for a, b in zip(*colours, strict=True))
    return r, g, b


def test_contrast_is_computed_as_the_standard_says() -> None:
    """Black on white is 21, and a colour on itself 1."""
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((9, 9, 9), (9, 9, 9)) == 1
    assert read("rgba(0,0,0,.5)") == (127.5, 127.5, 127.5)


@pytest.mark.parametrize("name", ["light", "dark"])
@pytest.mark.parametrize("colour", ["BLUE", "GREEN", "GREY", "PURPLE", "RED"])
def test_texts_can_be_read_in_both_themes(name: str, colour: str) -> None:
    """At least 4.5 to 1 on the page and on a cell's paper."""
    css = (THEMES / f"theme-{name}-extension/index.css").read_text(encoding="utf-8")
    for layer in ("--jp-layout-color0", "--jp-layout-color1"):
        paper = read(variable(css, layer))
        ink = read(variable(css, "--jp-content-font-color1"), paper)
        assert contrast(mixed(getattr(theme, colour), ink, paper), paper) >= 4.5


def test_verdicts_have_the_panels_colours() -> None:
    """They bring no Jupyter with them, so they name the colours themselves."""
    assert (verdict.GREEN, verdict.RED) == (theme.GREEN, theme.RED)
