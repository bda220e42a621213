"""JupyterLab as a person uses it: menus, keys, and what is on the screen."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from urllib.parse import parse_qs, urljoin, urlsplit

from playwright.async_api import Locator, Page, expect


class Jupyter:
    """A running JupyterLab and the one page that shows it, for one notebook after the other.

    Loading the page takes a browser five seconds of work, opening one more notebook in it hardly
    any. So the page stays, as a person's does.

    Args:
        address: what `wslessons lab` has printed, the token in it. Started with
            ``LabApp.expose_app_in_browser``, so that a test need not click its way to a file.
        work: its folder.
        settings: where it keeps what a person sets in its menus.
        page: of the browser.
    """

    def __init__(self, address: str, work: Path, settings: Path, page: Page) -> None:
        self._address, self.work, self._settings, self.page = address, work, settings, page
        self._token = parse_qs(urlsplit(address).query)["token"][0]
        self._number = 0

    def new_folder(self) -> Path:
        """Make a folder that no test has used before."""
        self._number += 1
        folder = self.work / f"test{self._number}"
        folder.mkdir()
        return folder

    def address(self, view: str, notebook: Path) -> str:
        """The address of another view of the same server: ``notebooks``, or ``voila/render``."""
        path = notebook.relative_to(self.work).as_posix()
        return urljoin(self._address, f"/{view}/{path}?token={self._token}")

    def lab(self, page: Page, notebook: Path) -> Lab:
        """Return a notebook that `page` can open, in a workspace of its folder's name."""
        path = notebook.relative_to(self.work).as_posix()
        address = f"/lab/workspaces/{notebook.parent.name}/tree/{path}?token={self._token}"
        return Lab(page, notebook, urljoin(self._address, address))

    async def open(self, notebook: Path) -> Lab:
        """Open a notebook beside no other one."""
        lab = self.lab(self.page, notebook)
        path = notebook.relative_to(self.work).as_posix()
        if await self.page.evaluate("window.jupyterapp === undefined"):
            await lab.open()
        else:
            script = (
                "path => jupyterapp.commands.execute('docmanager:open', { path }).then(() => 0)"
            )
            await self.page.evaluate(script, path)
            await lab.ready()
        return lab

    async def tidy(self) -> None:
        """Close all notebooks unsaved, end their kernels, and forget what was set in the menus.

        A page that is not as it was before is left: the next notebook loads another.
        """
        await self.page.evaluate("[...jupyterapp.shell.widgets('main')].forEach(w => w.dispose())")
        await self.end_kernels()
        changed = self._settings.exists() or await self.page.locator(".jp-Dialog").count()
        shutil.rmtree(self._settings, ignore_errors=True)
        if changed:
            await self.page.goto("about:blank")

    async def end_kernels(self) -> None:
        """End all kernels: those of notebooks, and then those that belong to none."""
        headers, request = {"Authorization": f"token {self._token}"}, self.page.request
        for api in ("/api/sessions", "/api/kernels"):
            listed = await request.get(urljoin(self._address, api), headers=headers)
            for each in await listed.json():
                one = urljoin(self._address, f"{api}/{each['id']}")
                await request.delete(one, headers=headers)


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
        await expect(status.get_by_text("| Idle")).to_be_visible()

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
