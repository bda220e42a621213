"""A real Chromium, and JupyterLab as `wslessons lab` starts it."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import shell
from jupyterlab_page import Lab
from playwright.async_api import Page, async_playwright

from wslessons.lab.lessons import find

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
async def lab(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> AsyncGenerator[Lab]:
    """JupyterLab in a work folder and with settings of its own.

    It is opened on lesson 1, or on the one that ``pytest.mark.lesson(WORD)`` names.
    """
    marker = request.node.get_closest_marker("lesson")
    lesson = marker.args[0] if marker else "echo"
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    for name in ("JUPYTER_CONFIG_PATH", "JUPYTER_TOKEN", "JUPYTERLAB_SETTINGS_DIR"):
        monkeypatch.delenv(name, raising=False)
    work = tmp_path / "work"
    words = ["lab", lesson, "--no-browser", "--port", "0", "--dir", str(work)]
    async with shell.serving(*words) as process:
        await page.goto(process.url)
        lab = Lab(page, work / find(lesson).name)
        await lab.ready()
        yield lab
