"""Lesson 0 in JupyterLab in Chromium: the curves redraw, and the dashboard is alive."""

from __future__ import annotations

import asyncio

import pytest
from jupyterlab_page import Lab
from playwright.async_api import expect

DASHBOARD = """\
from wslessons import lab, push

live = await lab.serve_app("live fleet", push.application(push.Fleet(), rate=0.5))
await lab.dashboard_panel(live)"""

CURVES = """\
costs = push.UnitCosts(
    poll_cpu=3e-4, poll_bytes=286, poll_idle=5e3,
    push_cpu=3e-5, push_bytes=92, push_idle=2e4, ping_cpu=1e-4,
)
lab.cost_curves(costs)"""

pytestmark = [pytest.mark.timeout(240), pytest.mark.cells(DASHBOARD, CURVES)]


async def test_choices_redraw_and_the_dashboard_lives(lab: Lab):
    """Run lesson 0's two panels, choose other numbers, and let something fail for half a second."""
    async with asyncio.timeout(210):
        await lab.run_all()
        assert await lab.errors() == []

        curves = lab.panel("cost curves")
        picture = curves.get_by_role("img", name="seconds between two looks")
        await expect(picture).to_be_visible()
        before = await picture.evaluate("img => img.src")
        await expect(curves).to_contain_text("Pushing takes 1/")
        # By their labels, which is how those who can't see find them.
        await curves.get_by_label("open tabs").select_option("1,000,000")
        await expect(curves).to_contain_text("500,000", timeout=30_000)
        # Rarer and rarer readers, until polling is the cheaper way.
        await curves.get_by_label("look every").select_option("1 d")
        await expect(curves).to_contain_text("Polling takes 1/", timeout=30_000)
        assert await picture.evaluate("img => img.src") != before

        board = lab.panel("dashboard")
        asks, told = (
            board.locator(".wslessons-side").nth(0),
            board.locator(".wslessons-side").nth(1),
        )
        # The fleet changes by itself, and both sides hear of it.
        for side in (asks, told):
            await expect(side).to_contain_text("s after it happened", timeout=30_000)
            await expect(side).to_contain_text("accounts")
        await board.get_by_label("ask every").fill("5")
        await expect(told).to_contain_text("1 request, 0 ")
        await expect(asks).not_to_contain_text("1 request, ")

        # A failure shorter than the interval: who is told shows it.
        await board.get_by_role("button", name="Fail for half a second").click()
        await expect(told).to_contain_text("api failed")
        await board.get_by_role("button", name="Deploy").click()
        await expect(told.get_by_role("row", name="web")).to_contain_text("deploying")
        await expect(asks).not_to_contain_text("missed 0", timeout=30_000)
