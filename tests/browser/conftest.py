"""A real Chromium, and JupyterLab as `wslessons lab` starts it."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path

import nbformat
import pytest
import shell
from jupyterlab_page import Lab
from nbformat.v4 import new_code_cell, new_notebook
from playwright.async_api import Page, async_playwright

from wslessons.lab.lessons import find
from wslessons.lab.outputs import NOTEBOOK_METADATA

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str:
    """Return the browser's path; without one skip the test, but never in CI."""
    if found := os.environ.get("WSLESSONS_CHROMIUM") or next(
        filter(None, map(shutil.which, NAMES)), ""
    ):
        return found
    sentence = "no Chromium found: install it, or name it in WSLESSONS_CHROMIUM"
    if os.environ.get("CI"):
        pytest.fail(sentence)
    pytest.skip(sentence)


@pytest.fixture
async def page() -> AsyncGenerator[Page]:
    """A page of a new, empty browser."""
    path = chromium()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=path,
            # Root can't have Chromium's sandbox; the rest keeps it from calling home.
            args=["--no-sandbox", "--disable-background-networking", "--disable-component-update"],
        )
        page = await browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(40_000)
        yield page
        await browser.close()


@pytest.fixture
def own_jupyter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of whoever runs the tests out of them, and the tests out of those."""
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    for name in ("JUPYTER_CONFIG_PATH", "JUPYTER_TOKEN", "JUPYTERLAB_SETTINGS_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def lab(
    page: Page, tmp_path: Path, own_jupyter: None, request: pytest.FixtureRequest
) -> AsyncGenerator[Lab]:
    """JupyterLab in a work folder and with settings of its own.

    It is opened on lesson 1, or on the one that ``pytest.mark.lesson(WORD)`` names; or, with
    ``pytest.mark.cells(SOURCE, ...)``, on a notebook of these code cells.
    """
    work, marker = tmp_path / "work", request.node.get_closest_marker("lesson")
    lesson = marker.args[0] if marker else "echo"
    notebook = work / find(lesson).name
    async with shell.serving("lab", lesson, "--no-browser", "--port=0", f"--dir={work}") as process:
        url = process.url
        if cells := request.node.get_closest_marker("cells"):
            notebook, before = work / "cells.ipynb", notebook.name
            made = new_notebook(cells=[new_code_cell(source) for source in cells.args])
            made.metadata = nbformat.from_dict(NOTEBOOK_METADATA)
            nbformat.write(made, notebook)
            url = url.replace(before, notebook.name)
        lab = Lab(page, notebook, url)
        await lab.open()
        yield lab
