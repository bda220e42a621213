"""Lesson 2 in JupyterLab in Chromium: two panels, and one goes offline."""

from __future__ import annotations

import asyncio

import pytest
from jupyterlab_page import Lab
from playwright.async_api import Locator, expect

pytestmark = [pytest.mark.timeout(180), pytest.mark.lesson("chat")]


async def say(panel: Locator, text: str) -> None:
    """Type `text` into the panel's entry and press Enter."""
    entry = panel.get_by_placeholder("press Enter")
    await entry.fill(text)
    await entry.press("Enter")


async def test_panels_talk_and_one_goes_offline(lab: Lab):
    """Alice and bob hear each other; bob, offline, lags, is told, and goes on."""
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
