"""A check in JupyterLab in Chromium: not attempted, failed, passed, and failed again."""

from __future__ import annotations

import asyncio
import os

import pytest
from jupyterlab_page import Lab
from playwright.async_api import expect

from wslessons.exercises import check

COUNTER = check.counter.solution_source
CHECK = "await check.counter(counter)"
ANSWERS = [check.counter.stub, COUNTER.replace("count = 0", "count = 7"), COUNTER]

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.cells(
        "from wslessons.exercises import check",
        *(cell for answer in [*ANSWERS, ANSWERS[1]] for cell in (answer, CHECK)),
    ),
]


async def test_a_check_follows_what_the_learner_does(lab: Lab):
    """Ticks and hints in the page; who breaks what has passed is told so."""
    async with asyncio.timeout(200):
        await lab.run_all()
        stub, wrong, solved, broken = (lab.cell(2 * number) for number in (1, 2, 3, 4))
        await expect(stub).to_contain_text("○ check.counter: not attempted yet")
        await expect(stub).to_contain_text("Write it in the cell above")
        await expect(wrong).to_contain_text("✗ check.counter: 0 of 4 behaviours pass")
        await expect(wrong).to_contain_text("expected: '1'")
        await expect(wrong).to_contain_text("got: '8'")
        await expect(wrong).to_contain_text("hint: Each connection begins with 1")
        await expect(solved).to_contain_text("✓ check.counter: passed")
        await expect(solved.get_by_text("✓ pass")).to_have_count(4)
        await expect(broken).to_contain_text("It has passed before: what have you changed since?")
        assert await lab.errors() == []
        if folder := os.environ.get("WSLESSONS_SCREENSHOTS"):
            await wrong.screenshot(path=f"{folder}/check_failed.png")
            await solved.screenshot(path=f"{folder}/check_passed.png")
            await lab.theme("Dark")
            await broken.screenshot(path=f"{folder}/check_dark.png")
            await lab.theme("Light")
