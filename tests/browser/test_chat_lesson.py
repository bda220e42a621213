"""Lesson 2 in JupyterLab in Chromium: two panels, and one goes offline."""

from __future__ import annotations

import asyncio

import pytest
from jupyterlab_page import Lab
from looks import OURS, findings
from playwright.async_api import Locator, expect

pytestmark = [pytest.mark.timeout(180), pytest.mark.lesson("chat")]


async def say(panel: Locator, text: str) -> None:
    """Type `text` into the panel's entry and press Enter."""
    entry = panel.get_by_placeholder("press Enter")
    await entry.fill(text)
    await entry.press("Enter")


async def test_panels_talk_and_one_goes_offline(lab: Lab):
    """Alice and bob hear each other; bob, offline, lags, is told, and goes on.

    axe-core finds nothing serious in any cell of the lesson.
    """
    async with asyncio.timeout(150):
        await lab.run_all()
        assert await lab.errors() == []
        alice, bob = lab.panel("alice").last, lab.panel("bob").last
        await expect(alice).to_contain_text("here: alice, bob")

        await say(alice, "hello bob")
        await expect(bob).to_contain_text("← [alice] hello bob")
        await say(bob, "<i id=injected>hi</i>")
        await expect(alice).to_contain_text("← [bob] <i id=injected>hi</i>")
        assert await lab.page.locator("#injected").count() == 0

        await bob.get_by_role("button", name="Go offline").click()
        await expect(bob).to_contain_text("● reconnecting")
        await expect(bob).to_contain_text("here: not known now")
        await expect(alice).to_contain_text("bob left")
        await expect(alice).not_to_contain_text("here: alice, bob")
        await say(alice, "said to nobody")
        await say(bob, "said in a tunnel")
        await bob.get_by_role("button", name="Go online").click()
        await expect(bob).to_contain_text("● connected")
        await expect(bob).to_contain_text("← [alice] said to nobody")
        await expect(alice).to_contain_text("← [bob] said in a tunnel")

        # So high that no cell is out of view, where JupyterLab would leave it out.
        await lab.page.set_viewport_size({"width": 1280, "height": 12000})
        await expect(lab.page.locator(".jp-RenderedMermaid img")).to_have_count(1)
        await expect(lab.page.get_by_role("heading", name="What you know now")).to_be_visible()
        # Browsers let the keyboard reach what scrolls by themselves (Chromium from 130, Firefox);
        # ipywidgets has no way to say so of a box, for those that do not.
        found = [each for each in await findings(lab.page, OURS) if "scrollable-region" not in each]
        assert found == []
