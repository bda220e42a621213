"""Lesson 1 in JupyterLab in Chromium, as a learner meets it."""

from __future__ import annotations

import asyncio

import pytest
from jupyterlab_page import Lab
from playwright.async_api import expect

pytestmark = pytest.mark.timeout(180)


async def test_learner_runs_the_lesson_and_talks_to_the_panel(lab: Lab):
    """Run all of lesson 1, type into the panel, see the echo, close with a code, reconnect."""
    async with asyncio.timeout(150):
        # Just opened, it has no answer below its question, and nothing to be saved.
        prompts = await lab.page.locator(".jp-CodeCell .jp-InputPrompt").all_inner_texts()
        assert {prompt.strip() for prompt in prompts} <= {"", "[ ]:"}
        assert await lab.page.locator(".jp-OutputArea-output").count() == 0
        assert await lab.page.locator(".jp-mod-dirty").count() == 0

        await lab.run_all()
        assert await lab.errors() == []
        assert await lab.page.get_by_text("Would you like to receive").count() == 0

        # Out of order: the first cell once more. The panel is told, and finds the new server.
        panel = lab.panel("echo panel")
        await expect(panel).to_contain_text("● connected")
        first = lab.page.locator(".jp-CodeCell").first
        await first.locator(".cm-content").click()
        await lab.page.keyboard.press("Control+Enter")
        await expect(panel).to_contain_text("closed, code 1012")
        await panel.get_by_role("button", name="Reconnect").click()
        await expect(panel).to_contain_text("● connected")

        entry = panel.get_by_placeholder("type a message, press Enter")
        await entry.fill("hello from Chromium")
        await entry.press("Enter")
        await expect(panel).to_contain_text("→ hello from Chromium")
        await expect(panel).to_contain_text("← Echo: hello from Chromium")

        await entry.fill("<b id=injected>bold</b>")
        await entry.press("Enter")
        await expect(panel).to_contain_text("← Echo: <b id=injected>bold</b>")
        assert await lab.page.locator("#injected").count() == 0

        code = panel.locator("input[type=number]")
        await code.fill("1006")
        await code.press("Tab")
        await panel.get_by_role("button", name="Close with code").click()
        await expect(panel).to_contain_text("a close frame can't carry 1006")
        await code.fill("4321")
        await code.press("Tab")
        await panel.get_by_role("button", name="Close with code").click()
        await expect(panel).to_contain_text("closed, code 4321")

        # The log keeps its end in view.
        transcript = panel.locator(".wslessons-transcript")
        # One look at both: between two, a new entry replaces every line of the log.
        in_view = await transcript.evaluate(
            """log => {
                const lines = [...log.querySelectorAll("div")];
                const bottom = log.getBoundingClientRect().bottom;
                return lines.length > 1 && lines.at(-1).getBoundingClientRect().bottom <= bottom;
            }"""
        )
        assert in_view


async def test_interrupt_and_restart(lab: Lab):
    """Stop ends a cell that waits for ever; after a restart the lesson runs from the top."""
    async with asyncio.timeout(150):
        await lab.run_all()
        first = lab.page.locator(".jp-CodeCell").first
        await first.locator(".cm-content").click()
        await lab.page.keyboard.press("Control+A")
        await lab.page.keyboard.type("import asyncio; print('waiting'); await asyncio.sleep(3600)")
        await lab.page.keyboard.press("Control+Enter")
        await expect(first.locator(".jp-OutputArea-output").first).to_have_text("waiting")
        await lab.press("interrupt-kernel")
        await lab.ready()
        cell = "from wslessons import lab, echo; server = await lab.serve('echo', echo.echo)"
        await first.locator(".cm-content").click()
        await lab.page.keyboard.press("Control+A")
        await lab.page.keyboard.type(cell)
        await lab.press("restart-run-all")
        await lab.page.get_by_role("button", name="Confirm Kernel Restart").click()
        await expect(lab.panel("echo panel")).to_contain_text("● connected")
        await lab.ready()
