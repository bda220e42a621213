"""A check in Chromium: not attempted, failed, passed, failed again; and the index's card."""

from __future__ import annotations

import asyncio
import os

import pytest
from jupyterlab_page import Jupyter, Lab
from looks import OURS, findings
from playwright.async_api import Locator, Page, expect

from wslessons.exercises import check

COUNTER = check.counter.solution_source
CHECK = "await check.counter(counter)"
ANSWERS = [check.counter.stub, COUNTER.replace("count = 0", "count = 7"), COUNTER]

pytestmark = [
    pytest.mark.timeout(260),
    pytest.mark.cells(
        "from wslessons.exercises import check",
        *(cell for answer in [*ANSWERS, ANSWERS[1]] for cell in (answer, CHECK)),
    ),
]


async def test_a_check_and_the_card_follow_what_the_learner_does(
    lab: Lab, jupyter: Jupyter, page: Page
):
    """Ticks and hints beside the cell, and the row of the lesson on the index, in another tab.

    axe-core finds nothing serious in them.
    """
    async with asyncio.timeout(220):
        index = jupyter.lab(page, jupyter.work / "index.ipynb")
        # So high that no cell is out of view, where JupyterLab would leave it out.
        await page.set_viewport_size({"width": 1280, "height": 4000})
        await index.open()
        await index.run_all()
        card = index.panel("your progress")
        row = card.locator("tr").filter(has_text="lesson 1, echo")
        await expect(row).to_contain_text("0 of 4 exercises pass")

        async def checked(number: int) -> Locator:
            """Run the answer of that number and its check; return the check's cell."""
            for cell in (2 * number + 1, 2 * number + 2):
                await lab.run_cell(cell)
            return lab.cell(2 * number + 2)

        await lab.run_cell(0)
        stub = await checked(0)
        await expect(stub).to_contain_text("○ check.counter: not attempted yet")
        await expect(stub).to_contain_text("Write it in the cell above")
        await expect(row).not_to_contain_text("✗")

        wrong = await checked(1)
        await expect(wrong).to_contain_text("✗ check.counter: 0 of 4 behaviours pass")
        await expect(wrong).to_contain_text("expected: '1'")
        await expect(wrong).to_contain_text("got: '8'")
        await expect(wrong).to_contain_text("hint: Each connection begins with 1")
        await expect(row).to_contain_text("✗")

        solved = await checked(2)
        await expect(solved).to_contain_text("✓ check.counter: passed")
        await expect(solved.get_by_text("✓ pass")).to_have_count(4)
        await expect(row).to_contain_text("1 of 4 exercises pass")
        if folder := os.environ.get("WSLESSONS_SCREENSHOTS"):
            await wrong.screenshot(path=f"{folder}/check_failed.png")
            await card.screenshot(path=f"{folder}/card_passed.png")

        broken = await checked(3)
        await expect(broken).to_contain_text("It has passed before: what have you changed since?")
        await expect(row).to_contain_text("passed before, and fails now: counter")
        if folder:
            await page.screenshot(path=f"{folder}/index_slipped.png")
        assert await lab.errors() == []
        assert await index.errors() == []
        assert await findings(lab.page, OURS) == []
        await expect(page.locator(".jp-RenderedMermaid img")).to_have_count(1)
        assert await findings(page, OURS) == []
