"""axe-core looks at our pages, and the keyboard alone goes through one.

What is ours inside of JupyterLab it looks at in test_themes.py and test_practice.py.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from looks import findings
from playwright.async_api import Page, expect
from webs import serving

from wslessons.lab import html, lessons

pytestmark = pytest.mark.timeout(240)


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


async def test_the_rendered_lessons_have_no_serious_finding(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The index, a lesson with panels and a diagram, and one with charts; on a phone, too."""
    chosen = [lessons.find(word) for word in ("index", "chat", "heartbeats")]
    monkeypatch.setattr(html, "all_lessons", lambda: chosen)
    monkeypatch.setattr(html, "_reference", lambda *args: None)
    folder = await asyncio.to_thread(html.write, tmp_path)
    for lesson in chosen:
        await page.goto((folder / lesson.name).with_suffix(".html").as_uri())
        assert await findings(page) == [], lesson.name
        await page.set_viewport_size({"width": 390, "height": 844})
        assert await page.evaluate("document.documentElement.scrollWidth") <= 390, lesson.name
        await page.set_viewport_size({"width": 1280, "height": 900})
