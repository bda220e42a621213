"""axe-core looks at our pages, and the keyboard alone goes through one.

What is ours inside of JupyterLab it looks at in test_themes.py and test_practice.py.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from looks import complaints, findings
from playwright.async_api import Page, expect
from webs import serving

from wslessons.exercises.grade.grader import Result
from wslessons.exercises.grade.report import as_html
from wslessons.exercises.verdict import Line, State, Verdict
from wslessons.lab import html, lessons

pytestmark = pytest.mark.timeout(240)

CUT_OFF = """[...document.querySelectorAll("main *")]
    .filter((each) => each.clientWidth && each.scrollWidth > each.clientWidth + 1
        && getComputedStyle(each).overflowX !== "visible")
    .map((each) => each.outerHTML.slice(0, 100))"""
"""What is wider than the place it has, and so ends in the middle until somebody scrolls."""

PROPORTIONAL = """[...document.querySelectorAll("main pre")]
    .filter((each) => !getComputedStyle(each).fontFamily.includes("monospace"))
    .map((each) => each.textContent.slice(0, 100))"""
"""Code in a font for prose."""


async def test_the_chat_page_has_no_serious_finding(page: Page):
    """Before joining, and with people, messages and a refused name on it."""
    async with asyncio.timeout(100), serving() as served:
        await page.goto(served.url)
        await expect(page.get_by_label("Your name")).to_be_visible()
        assert await findings(page) == []
        for scheme in ("light", "dark"):
            await page.emulate_media(color_scheme=scheme)
            assert await findings(page) == []
        await page.get_by_label("Your name").fill("alice")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("status")).to_have_text("connected")
        await page.get_by_label("Message", exact=True).fill("hello")
        await page.keyboard.press("Enter")
        await expect(page.get_by_text("· sent")).to_have_count(1)
        for scheme in ("light", "dark"):
            await page.emulate_media(color_scheme=scheme)
            assert await findings(page) == []


async def test_the_chat_page_needs_no_mouse(page: Page):
    """Tab finds the fields in the order of a reader, Enter joins and sends, and focus is seen."""
    async with asyncio.timeout(100), serving() as served:
        await page.goto(served.url)
        for _ in range(10):
            await page.keyboard.press("Tab")
            if await page.evaluate("document.activeElement === document.querySelector('input')"):
                break
        await page.keyboard.press("ControlOrMeta+A")
        await page.keyboard.type("alice")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("status")).to_have_text("connected")
        field = page.get_by_label("Message", exact=True)
        for _ in range(10):
            if await field.evaluate("field => field === document.activeElement"):
                break
            await page.keyboard.press("Tab")
        outline = await field.evaluate("field => getComputedStyle(field).outlineStyle")
        assert outline != "none"
        await page.keyboard.type("by keyboard")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("log")).to_contain_text("by keyboard")


async def look_in_both(page: Page, path: Path) -> None:
    """Open a page; axe-core finds nothing, be it light or dark, and a phone is wide enough."""
    await page.goto(path.as_uri())
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme=scheme)
        assert await findings(page) == [], f"{path.name}, {scheme}"
    await page.set_viewport_size({"width": 390, "height": 844})
    assert await page.evaluate("document.documentElement.scrollWidth") <= 390, path.name
    await page.set_viewport_size({"width": 1280, "height": 900})


async def test_the_rendered_lessons_have_no_serious_finding(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The index, a lesson with panels and a diagram, two with charts, and the reference.

    Of the lessons nothing is cut off, broken in two or faint at 800 pixels, and code looks like it.
    """
    chosen = [lessons.find(word) for word in ("index", "chat", "scaling")]
    chosen.append(chosen[-1].parent / "deeper" / "02_chat.ipynb")
    monkeypatch.setattr(html, "all_lessons", lambda: chosen)
    # Not all modules: these two pages have all that the others have.
    modules = ["wslessons", "wslessons.chat.channel"]
    monkeypatch.setattr(html, "modules", lambda: modules)
    monkeypatch.setattr("pdoc.extract.walk_specs", lambda specs: list(specs))
    folder = await asyncio.to_thread(html.write, tmp_path)
    for lesson in chosen:
        await look_in_both(
            page, (folder / lesson.relative_to(lessons.originals())).with_suffix(".html")
        )
        await page.set_viewport_size({"width": 800, "height": 900})
        assert await complaints(page.locator("main")) == []
        assert await page.evaluate(CUT_OFF) == []
        assert await page.evaluate(PROPORTIONAL) == []
        await page.set_viewport_size({"width": 1280, "height": 900})
    for name in modules:
        await look_in_both(page, folder.joinpath("api", *name.split(".")).with_suffix(".html"))


async def test_the_graders_page_has_no_serious_finding(page: Page, tmp_path: Path):
    """With each verdict that there is, and something noticed."""
    lines = [Line("it counts", state, "'1'", "'2'", "Count from 1.") for state in State]
    verdicts = {
        name: Verdict(name, [line])
        for name, line in zip(
            ("shout", "counter", "short_only", "nap", "relay"), lines, strict=False
        )
    }
    results = [
        Result(Path("anna/01_echo.ipynb"), verdicts, {"nap": ["its check was edited"]}),
        Result(Path("bert.ipynb"), trouble="it is no JSON"),
    ]
    path = tmp_path / "grades.html"
    path.write_text(as_html(results), encoding="utf-8")
    await look_in_both(page, path)
