"""Measure on a page what eyes would complain about: faint texts, words broken in two, cut edges.

And what axe-core finds for those who use no eyes, or no mouse.
"""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import axe_playwright_python
from PIL import Image
from playwright.async_api import Locator, Page

LOOKS = r"""(root, skipped) => {
    const colour = (css) => {
        const numbers = css.match(/[\d.]+(e-?\d+)?/g).map(Number);
        // rgb() counts to 255, color(srgb) to 1.
        const [r, g, b] = numbers.slice(0, 3).map((v) => (css.startsWith("color(") ? 255 * v : v));
        return [r, g, b, numbers[3] ?? 1];
    };
    const over = ([r, g, b, a], under) =>
        [...[r, g, b].map((value, i) => a * value + (1 - a) * under[i]), 1];
    const light = (parts) => parts.slice(0, 3).map((v) => v / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = (element) => element === null ? [255, 255, 255, 1]
        : over(colour(getComputedStyle(element).backgroundColor), ground(element.parentElement));
    const edge = root.getBoundingClientRect().right;
    const found = [];
    const inked = (element, said) => {
        const below = ground(element);
        const ink = over(colour(getComputedStyle(element).color), below);
        const [low, high] = [light(ink), light(below)].sort((a, b) => a - b);
        // WCAG 2.2, success criterion 1.4.3
        const ratio = (high + 0.05) / (low + 0.05);
        if (ratio < 4.5) found.push(`contrast ${ratio.toFixed(2)}: ${said}`);
    };
    for (const input of root.querySelectorAll("input"))
        if (input.checkVisibility() && !input.closest(skipped)) inked(input, input.placeholder);
    const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const text = walker.currentNode, element = text.parentElement;
        if (!text.data.trim() || !element.checkVisibility() || element.closest(skipped)) continue;
        const range = document.createRange();
        range.selectNodeContents(text);
        const box = range.getBoundingClientRect();
        if (!box.width || !box.height) continue;
        const said = text.data.trim().slice(0, 40);
        inked(element, said);
        if (box.right > edge + 1) found.push(`past the edge: ${said}`);
        for (const word of text.data.matchAll(/\b[A-Za-z]{2,16}\b/g)) {
            range.setStart(text, word.index);
            range.setEnd(text, word.index + word[0].length);
            const lines = new Set([...range.getClientRects()].map((r) => Math.round(r.bottom)));
            if (lines.size > 1) found.push(`broken in two: ${word[0]}`);
        }
    }
    for (const picture of root.querySelectorAll("img, svg, table, .wslessons-panel"))
        if (picture.checkVisibility() && picture.getBoundingClientRect().right > edge + 1)
            found.push(`past the edge: ${picture.outerHTML.slice(0, 60)}`);
    return found;
}"""


async def complaints(root: Locator, skip: str = "style") -> list[str]:
    """List what can't be read well inside `root`, leaving out what is inside of `skip` (CSS)."""
    return await root.evaluate(f"(root, skip) => ({LOOKS})(root, skip)", skip)


def luminance(*colour: int) -> float:
    """Relative luminance (WCAG 2.2) of red, green and blue, up to 255 each."""
    parts = [part / 255 for part in colour]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


async def picture_contrast(picture: Locator) -> float:
    """The contrast of a picture's middle: of its commonest colour and the one farthest from it."""
    with Image.open(io.BytesIO(await picture.screenshot())) as whole:
        width, height = whole.size
        box = (round(0.4 * width), round(0.25 * height), round(0.6 * width), round(0.75 * height))
        data = whole.convert("RGB").crop(box).tobytes()
    pixels = Counter(zip(data[::3], data[1::3], data[2::3], strict=True))
    ground = luminance(*pixels.most_common(1)[0][0]) + 0.05
    inks = [luminance(*colour) + 0.05 for colour in pixels]
    return max(max(ink / ground, ground / ink) for ink in inks)


AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
LOOK = """async (context) => {
    const tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
    const found = await axe.run(context, {runOnly: tags, resultTypes: ["violations"]})
    return found.violations.filter(each => ["serious", "critical"].includes(each.impact))
}"""
OURS = {
    "include": [".jp-RenderedMarkdown", ".jp-OutputArea-output"],
    "exclude": [".cm-editor"],
}
"""What is ours on a page of JupyterLab: words and outputs, not menus and editors around them."""


async def findings(page: Page, context: str | dict[str, list[str]] = "html") -> list[str]:
    """Each serious finding of axe-core on the page, with where it is.

    Only what axe-core calls serious or critical counts, by the rules of WCAG 2.2, level AA.

    Args:
        page: as it is now.
        context: the part of it to look at, as axe-core takes it: CSS, or parts to include and to
            exclude.
    """
    await page.evaluate(AXE)
    found: list[dict[str, Any]] = await page.evaluate(LOOK, context)
    return [f"{each['id']}: {node['html'][:200]}" for each in found for node in each["nodes"]]
