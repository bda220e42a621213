"""JupyterLab as a person uses it: menus, keys, and what is on the screen."""

from __future__ import annotations

from pathlib import Path

from playwright.async_api import Locator, Page, expect


class Lab:
    """JupyterLab in a browser's page, with one notebook in front."""

    def __init__(self, page: Page, work: Path) -> None:
        self.page = page
        self.work = work

    async def ready(self) -> None:
        """Wait until the notebook's kernel is there and idle."""
        status = self.page.locator("#jp-main-statusbar")
        await expect(status.get_by_text("| Idle")).to_be_visible(timeout=40_000)

    async def menu(self, name: str, item: str) -> None:
        """Choose `item` of the menu `name`."""
        await self.page.get_by_role("menuitem", name=name, exact=True).click()
        await self.page.get_by_role("menuitem", name=item, exact=True).click()

    async def run_all(self) -> None:
        """Run all cells, and wait until each code cell has run."""
        await self.menu("Run", "Run All Cells")
        # Below the screen JupyterLab draws no cell, so the kernel's state is what to go by.
        await self.ready()

    def panel(self, title: str) -> Locator:
        """The panel of ours whose heading is `title`."""
        return self.page.locator(".wslessons-panel").filter(
            has=self.page.locator("b", has_text=title)
        )

    async def errors(self) -> list[str]:
        """The text of every error output on the page."""
        return await self.page.locator(
            '.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"],'
            '.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"]'
        ).all_inner_texts()
