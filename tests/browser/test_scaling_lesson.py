"""Lesson 6 in JupyterLab in Chromium: two panels on different servers."""

from __future__ import annotations

import asyncio

import pytest
from jupyterlab_page import Lab
from playwright.async_api import Locator, expect

CELL = """\
from wslessons import lab

tea = await lab.cluster("tea", servers=2, bus={bus!r})
await lab.chat_panels(tea.urls, "alice", "bob", room="/rooms/tea")"""

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.cells(CELL.format(bus="memory"), CELL.format(bus="nats")),
]


async def say(panel: Locator, text: str) -> None:
    """Type `text` into the panel's entry and press Enter."""
    entry = panel.get_by_placeholder("press Enter")
    await entry.fill(text)
    await entry.press("Enter")


async def test_panels_on_two_servers_talk(lab: Lab):
    """Over the bus alice and bob hear each other and know of each other; without one they don't."""
    async with asyncio.timeout(200):
        await lab.run_all()
        assert await lab.errors() == []
        alice, bob = lab.panel("alice").last, lab.panel("bob").last
        await expect(alice).to_contain_text("● connected")
        await expect(alice).to_contain_text("here: alice, bob")
        await say(alice, "hello bob")
        await expect(bob).to_contain_text("← [alice] hello bob")
        await say(bob, "hello alice")
        await expect(alice).to_contain_text("← [bob] hello alice")

        # The first cell's panels were on servers without a bus. (Number 0 is the row of both.)
        alone = lab.panel("alice").nth(1)
        await expect(alone).to_contain_text("alice joined")
        await expect(alone).not_to_contain_text("bob joined")
