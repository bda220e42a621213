"""Lesson 4 in JupyterLab in Chromium: the page in its frame, a panel beside it, and an attack."""

from __future__ import annotations

import asyncio

import pytest
from jupyterlab_page import Lab
from playwright.async_api import Page, expect

from wslessons import asgi
from wslessons.lab.trials.web import bank
from wslessons.web import hostile_application

pytestmark = [pytest.mark.timeout(180), pytest.mark.lesson("web")]


async def test_learner_runs_the_lesson_and_talks_from_the_page(lab: Lab):
    """Run all; join on the page in the notebook; page and panel hear each other; see the theft."""
    async with asyncio.timeout(150):
        await lab.run_all()
        assert await lab.errors() == []

        page = lab.panel("chat page").last.frame_locator("iframe")
        await page.get_by_role("button", name="Join").click()
        await expect(page.get_by_role("status")).to_have_text("connected")
        bob = lab.panel("bob").last
        await expect(bob).to_contain_text("alice joined")
        await page.get_by_label("Message", exact=True).fill("hello panel")
        await page.get_by_label("Message", exact=True).press("Enter")
        await expect(bob).to_contain_text("← [alice] hello panel")
        entry = bob.get_by_placeholder("press Enter")
        await entry.fill("<b>hello page</b>")
        await entry.press("Enter")
        await expect(page.get_by_role("log")).to_contain_text("<b>hello page</b>")


async def test_theft_works_from_the_same_site_only(page: Page):
    """Another origin of the bank's site reads alice's balance; to another site no cookie goes."""
    async with asyncio.timeout(60), asgi.serve(bank()) as victim:
        attack = hostile_application(victim.url + "/", victim.ws_url + "/ws")
        async with asgi.serve(attack) as hostile:
            await page.goto(victim.url)
            await page.goto(hostile.url)
            await expect(page.locator("#fetch")).to_have_text("refused")
            await expect(page.locator("#socket")).to_have_text("read: balance of alice: 1,000")
            await page.goto(hostile.url.replace("127.0.0.1", "localhost"))
            await expect(page.locator("#fetch")).to_have_text("refused")
            await expect(page.locator("#socket")).to_have_text("read: nobody is logged in")
