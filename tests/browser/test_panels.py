"""Panels in JupyterLab in Chromium whose kernel is gone, and in a notebook that is opened again."""

from __future__ import annotations

import asyncio
import os
import signal

import psutil
import pytest
from jupyterlab_page import Lab
from playwright.async_api import expect

from wslessons.lab.panel import GONE

CELLS = (
    "from wslessons import echo, lab\nserver = await lab.serve('echo', echo.echo)",
    "await lab.echo_panel(server)",
    "lab.predict('What comes back?', ['hi', 'Echo: hi'])",
)
TITLES = ("echo panel", "What comes back?")

pytestmark = [pytest.mark.timeout(300), pytest.mark.cells(*CELLS)]


async def gone(lab: Lab) -> None:
    """Wait until each panel says that its kernel is gone, and offers nothing else."""
    for title in TITLES:
        panel = lab.panel(title)
        await expect(panel.get_by_text(GONE)).to_be_visible()
        for role in ("button", "textbox", "radio", "spinbutton"):
            assert await panel.get_by_role(role).count() == 0
        await expect(panel.get_by_text("connected")).to_be_hidden()


async def alive(lab: Lab) -> None:
    """Wait until the panels work."""
    panel = lab.panel("echo panel")
    await expect(panel).to_contain_text("● connected")
    await expect(panel.get_by_text(GONE)).to_be_hidden()
    await expect(lab.panel("What comes back?").get_by_role("radio")).to_have_count(2)


async def test_panels_say_that_their_kernel_is_gone(lab: Lab):
    """After a restart, a kill and a shutdown they say what to do; run again, they work again."""
    async with asyncio.timeout(280):
        await lab.run_all()
        await alive(lab)

        await lab.menu("Kernel", "Restart Kernel…")
        await lab.page.get_by_role("button", name="Confirm Kernel Restart").click()
        await gone(lab)
        await lab.ready()
        await lab.run_all()
        await alive(lab)

        (pid,) = [
            child.pid
            for child in psutil.Process().children(recursive=True)
            if "ipykernel_launcher" in child.cmdline()
        ]
        os.kill(pid, signal.SIGKILL)
        await gone(lab)
        await lab.page.get_by_role("button", name="Ok", exact=True).click()
        await lab.ready()
        await lab.run_all()
        await alive(lab)

        await lab.menu("Kernel", "Shut Down Kernel")
        await gone(lab)


async def test_a_saved_notebook_shows_static_pictures(lab: Lab):
    """Opened again, with its kernel or without, it says how to get the panels back."""
    async with asyncio.timeout(280):
        await lab.run_all()
        await alive(lab)
        unsaved = lab.page.locator(".jp-mod-dirty")
        await expect(unsaved).not_to_have_count(0)
        await lab.menu("File", "Save Notebook")
        await expect(unsaved).to_have_count(0)
        await alive(lab)
        for shut_down in (False, True):
            if shut_down:
                await lab.menu("Kernel", "Shut Down Kernel")
                await expect(lab.page.get_by_text("No Kernel").first).to_be_visible()
            await lab.open()
            outputs = lab.page.locator(".jp-OutputArea-output")
            for title in TITLES:
                output = outputs.filter(has_text=title)
                await expect(output).to_contain_text("Run this cell to use the panel")
            assert await lab.page.get_by_text("Error displaying widget").count() == 0
            assert await lab.page.get_by_text("Loading widget").count() == 0
