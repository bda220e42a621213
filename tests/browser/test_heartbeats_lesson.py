"""Lesson 5 in JupyterLab in Chromium: the plug panel, and its chart of round-trip times."""

from __future__ import annotations

import asyncio
import re

import pytest
from jupyterlab_page import Lab
from playwright.async_api import expect

pytestmark = [pytest.mark.timeout(180), pytest.mark.lesson("heartbeats")]


async def test_learner_runs_the_lesson_and_pulls_the_plug(lab: Lab):
    """Run all, watch the chart move, delay, pull the plug, be dropped, heal, reconnect, cut."""
    async with asyncio.timeout(170):
        await lab.run_all()
        assert await lab.errors() == []
        panel = lab.panel("plug panel")
        await expect(panel).to_contain_text("● connected")
        await expect(panel).to_contain_text("link is healthy")

        chart = panel.locator("svg.wslessons-rtt")
        line = chart.locator("path").last
        await expect(chart).to_have_attribute(
            "data-beats", re.compile(r"^[1-9]\d+$"), timeout=20_000
        )
        for _ in range(3):  # it moves
            before = await line.get_attribute("d")
            assert before is not None
            await expect(line).not_to_have_attribute("d", before)

        latency = panel.locator("input[type=number]").first
        await latency.fill("120")
        await latency.press("Tab")
        await panel.get_by_role("button", name="Delay").click()
        await expect(panel).to_contain_text("delayed by 120 ± 50 ms each way")
        # Two ways of 70 ms at least, which the chart's scale of 10 ms can't hold.
        await expect(panel).to_contain_text(re.compile(r"round trip (1[4-9]\d|[2-4]\d\d) ms"))
        await expect(panel).to_contain_text(re.compile(r"(200|500) msround trip"))

        await panel.get_by_role("button", name="Pull the plug").click()
        await expect(panel).to_contain_text(re.compile(r"silent for \d\.\d of 4.5 s"))
        await expect(panel).to_contain_text("dropped by this side: sent 1011", timeout=20_000)
        await expect(panel).to_contain_text("● not connected")
        await panel.get_by_role("button", name="Reconnect").click()
        await expect(panel).to_contain_text("is the plug pulled? Press Heal.")

        await panel.get_by_role("button", name="Heal").click()
        await panel.get_by_role("button", name="Reconnect").click()
        await expect(panel).to_contain_text("● connected, round trip")
        await panel.get_by_role("button", name="Cut").click()
        await expect(panel).to_contain_text("closed: no close frame received or sent")
        await expect(panel).to_contain_text("● not connected")

        rate = panel.locator("input[type=number]").last
        await rate.fill("0")
        await rate.press("Tab")
        await panel.get_by_role("button", name="Throttle").click()
        await expect(panel).to_contain_text("0 bytes per second is a pulled plug")
        assert await lab.errors() == []
