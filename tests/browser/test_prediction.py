"""A prediction in JupyterLab in Chromium: chosen by hand, revealed by the next cell."""

from __future__ import annotations

import asyncio

import pytest
from jupyterlab_page import Lab
from playwright.async_api import expect

QUESTION = "How many of <b id=injected>400</b> lines does bob get?"

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.cells(
        f"from wslessons import lab\nguess = lab.predict({QUESTION!r}, [0, 256, 400])\nguess",
        "guess.reveal('bob got 61 of 400')",
    ),
]


async def test_learner_predicts_and_is_shown_what_happened(lab: Lab):
    """Choose, run the experiment: both stand side by side, and the choice is kept."""
    async with asyncio.timeout(150):
        await lab.run_cell(0)
        panel = lab.panel(QUESTION)
        await expect(panel.get_by_role("radio")).to_have_count(3)
        assert await panel.get_by_role("radio", checked=True).count() == 0
        await panel.get_by_label("256").check()
        await lab.run_cell(1)
        for shown in (panel, lab.cell(1)):
            await expect(shown).to_contain_text("You predicted")
            await expect(shown).to_contain_text("256")
            await expect(shown).to_contain_text("bob got 61 of 400")
        assert await lab.page.locator("#injected").count() == 0
        await expect(panel.get_by_label("0", exact=True)).to_be_disabled()
