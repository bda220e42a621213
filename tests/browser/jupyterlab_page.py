"""JupyterLab as a person uses it: menus, keys, and what is on the screen."""

from __future__ import annotations

import json
import re
from pathlib import Path

from playwright.async_api import Locator, Page, expect


class Lab:
    """JupyterLab in a browser's page, with one notebook in front."""

    def __init__(self, page: Page, notebook: Path, url: str) -> None:
        self.page, self.url = page, url
        cells = json.loads(notebook.read_text())["cells"]
        self.code_cells = sum(cell["cell_type"] == "code" for cell in cells)

    async def open(self) -> None:
        """Open the notebook, or open it again in place of the page that is there."""
        await self.page.goto(self.url)
        await self.ready()

    async def ready(self) -> None:
        """Wait until the notebook's kernel is there and idle, and no cell waits for it."""
        await expect(self.page.get_by_text("[*]:", exact=True)).to_have_count(0, timeout=60_000)
        status = self.page.locator("#jp-main-statusbar")
        await expect(status.get_by_text("| Idle")).to_be_visible(timeout=40_000)

    async def menu(self, name: str, item: str) -> None:
        """Choose `item` of the menu `name`."""
        await self.page.get_by_role("menuitem", name=name, exact=True).click()
        # By its label: its name, for those who can't see, has the shortcut in it.
        label = self.page.locator(".lm-Menu-itemLabel").get_by_text(item, exact=True)
        await label.click()

    async def press(self, command: str) -> None:
        """Press the notebook toolbar's button for `command`."""
        await self.page.locator(f'[data-command="notebook:{command}"]').first.click()

    async def run_all(self) -> None:
        """Run all cells, and wait until the last one has its count."""
        await self.menu("Run", "Run All Cells")
        await self.ready()
        last = self.page.locator(".jp-CodeCell").last.locator(".jp-InputPrompt")
        await expect(last).to_have_text(f"[{self.code_cells}]:", timeout=60_000)

    def cell(self, index: int) -> Locator:
        """The code cell of that index, from 0."""
        return self.page.locator(".jp-CodeCell").nth(index)

    async def run_cell(self, index: int) -> None:
        """Run one code cell, and wait until it has ended."""
        await self.cell(index).locator(".cm-content").click()
        await self.page.keyboard.press("Control+Enter")
        await self.ready()

    async def theme(self, name: str) -> None:
        """Switch JupyterLab to the theme ``Light`` or ``Dark``."""
        await self.page.get_by_role("menuitem", name="Settings", exact=True).click()
        await self.page.locator(".lm-Menu-itemLabel").get_by_text("Theme", exact=True).hover()
        choice = self.page.locator('.lm-Menu-item[data-command="apputils:change-theme"]')
        await choice.filter(has_text=f"JupyterLab {name}").first.click()
        is_light = "true" if name == "Light" else "false"
        await expect(self.page.locator("body")).to_have_attribute("data-jp-theme-light", is_light)

    def panel(self, title: str) -> Locator:
        """The panel of ours whose heading is `title`."""
        return self.page.locator(".wslessons-panel").filter(
            has=self.page.locator("b", has_text=re.compile(f"^{re.escape(title)}$"))
        )

    async def errors(self) -> list[str]:
        """The text of every error output on the page."""
        return await self.page.locator(
            '.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"],'
            '.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"]'
        ).all_inner_texts()
