"""Lesson 2's first cells where others read them: in Notebook 7, and as a page of voila."""

from __future__ import annotations

import asyncio
from pathlib import Path

import nbformat
import pytest
from jupyterlab_page import Jupyter
from playwright.async_api import Page, expect

from wslessons.lab.lessons import find
from wslessons.lab.outputs import code_cells

pytestmark = pytest.mark.timeout(240)


def beginning(jupyter: Jupyter, code: int) -> Path:
    """Copy the lesson, up to so many code cells."""
    lesson = find("chat")
    notebook = nbformat.read(jupyter.work / lesson.name, as_version=4)
    last = [index for number, index, _ in code_cells(notebook) if number == code]
    notebook.cells = notebook.cells[: last[0] + 1]
    path = jupyter.new_folder() / lesson.name
    nbformat.write(notebook, path)
    return path


async def the_panels_talk(page: Page) -> None:
    """What alice writes, bob hears through the server in the kernel."""
    # Both are in a panel that holds them side by side.
    panels = page.locator(".wslessons-panel .wslessons-panel")
    alice, bob = panels.nth(0), panels.nth(1)
    await expect(alice).to_contain_text("here: alice, bob")
    entry = alice.get_by_placeholder("press Enter")
    await entry.fill("hello bob")
    await entry.press("Enter")
    await expect(bob).to_contain_text("← [alice] hello bob")


async def test_the_panels_talk_in_notebook_7(jupyter: Jupyter, page: Page):
    """Opened at its address there, and run by its menu."""
    async with asyncio.timeout(200):
        # "Idle" is what is shown before there is a kernel, too, and then its menu runs nothing.
        async with page.expect_websocket(lambda each: "/channels" in each.url):
            await page.goto(jupyter.address("notebooks", beginning(jupyter, 2)))
        idle = page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
        await expect(idle).to_have_count(1)
        await page.get_by_role("menuitem", name="Run", exact=True).click()
        label = page.locator(".lm-Menu-itemLabel").get_by_text("Run All Cells", exact=True)
        await label.click()
        await the_panels_talk(page)
        await jupyter.end_kernels()


async def test_the_panels_talk_on_a_page_of_voila(jupyter: Jupyter, page: Page):
    """It shows the lesson's words and what its cells put out, and no code."""
    async with asyncio.timeout(200):
        await page.goto(jupyter.address("voila/render", beginning(jupyter, 2)))
        await the_panels_talk(page)
        await expect(page.get_by_role("heading", level=1)).to_contain_text("Lesson 2")
        assert await page.get_by_text("await lab.serve").count() == 0
        await jupyter.end_kernels()
