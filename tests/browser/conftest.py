"""A real Chromium, and JupyterLab as `wslessons lab` starts it.

Both take seconds to start, so the tests of a process share one of each, and one event loop with
them. A test gets a context of the browser (cookies, cache), or a folder and a kernel, of its own.
"""

from __future__ import annotations

import inspect
import json
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import nbformat
import pytest
import pytest_asyncio
import shell
import waits
from jupyterlab_page import Jupyter, Lab
from nbformat.v4 import new_code_cell, new_notebook
from playwright.async_api import Browser, Page, async_playwright, expect

from wslessons.lab.lessons import find
from wslessons.lab.outputs import NOTEBOOK_METADATA

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HERE = Path(__file__).parent

NOT_NEEDED = ",".join(
    (
        # Playwright's own list, in whose place this one comes.
        "AimEnabled",
        "AvoidCorsURLLoaderRestartOnRedirect",
        "AvoidUnnecessaryBeforeUnloadCheckSync",
        "DestroyProfileOnBrowserClose",
        "HttpsFirstBalancedModeAutoEnable",
        "HttpsUpgrades",
        "LensOverlay",
        "MediaRouter",
        "NetworkTimeServiceQuerying",
        "OptimizationHints",
        "PaintHolding",
        "PreconnectToSearch",
        "TcpPortRandomizationWin",
        "ThirdPartyStoragePartitioning",
        # A page in a process of its own for what drops down from each window's address bar, which
        # nobody sees here, and a process in store for the next page.
        "SpareRendererForSitePerProcess",
        "WebUIOmniboxAimPopup",
        "WebUIOmniboxPopup",
    )
)
"""Features of Chromium that no test needs."""

PATIENCE = 40_000
"""Milliseconds that a busy machine may take to show what a test waits for."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests of this folder on the loop that the browser and its pages belong to."""
    here = {path for path in {item.path for item in items} if HERE in path.parents}
    for item in items:
        if (
            item.path in here
            and isinstance(item, pytest.Function)
            and inspect.iscoroutinefunction(item.function)
        ):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


# A function of its own, since pytest-asyncio keeps the loop's scope as an attribute of it.
@pytest_asyncio.fixture(loop_scope="session", autouse=True)
async def no_task_left_behind() -> AsyncIterator[None]:
    """Fail a test that leaves tasks behind, here on the loop that all tests share."""
    async for _ in waits.no_task_left_behind():
        yield


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


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def browser() -> AsyncGenerator[Browser]:
    """The browser of all tests."""
    path = chromium()
    expect.set_options(timeout=PATIENCE)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=path,
            # Root can't have Chromium's sandbox. There is no graphics card: else one is computed.
            # The rest keeps it from calling home, and from work that no test sees.
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-component-update",
                f"--disable-features={NOT_NEEDED}",
            ],
        )
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser) -> AsyncGenerator[Page]:
    """A page of a browser that has seen no other page."""
    page = await browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(PATIENCE)
    yield page
    await page.close()


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def jupyter(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Jupyter]:
    """The JupyterLab of all tests, with settings and a work folder of its own, and its page."""
    folder = tmp_path_factory.mktemp("jupyter")
    config = folder / "jupyter_config_dir"
    config.mkdir()
    settings = {"LabApp": {"expose_app_in_browser": True}}
    async with AsyncExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            shell.own_jupyter(folder, patch, others=True)
            if os.name != "nt":
                # Files, as `kernel_sockets` has them: the ports that JupyterLab draws for a kernel
                # are anybody's until that takes them. Their names have to be short, which those in
                # the folder of temporary files are not everywhere.
                sockets = stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp"))
                patch.setenv("JUPYTER_RUNTIME_DIR", sockets)
                settings["KernelManager"] = {"transport": "ipc"}
            (config / "jupyter_lab_config.json").write_text(json.dumps(settings))
            words = ("lab", "--no-browser", "--port=0", f"--dir={folder / 'work'}")
            process = await stack.enter_async_context(shell.serving(*words))
        page = await browser.new_page()
        page.set_default_timeout(PATIENCE)
        yield Jupyter(process.url, folder / "work", config / "lab" / "user-settings", page)
        await page.close()


@pytest_asyncio.fixture(loop_scope="session")
async def lab(jupyter: Jupyter, request: pytest.FixtureRequest) -> AsyncGenerator[Lab]:
    """A notebook in JupyterLab: a copy of a lesson, in a folder and with a kernel of its own.

    It is lesson 1, or the one that ``pytest.mark.lesson(WORD)`` names; or, with
    ``pytest.mark.cells(SOURCE, ...)``, a notebook of these code cells.
    """
    marker = request.node.get_closest_marker("lesson")
    folder = jupyter.new_folder()
    if cells := request.node.get_closest_marker("cells"):
        notebook = folder / "cells.ipynb"
        made = new_notebook(cells=[new_code_cell(source) for source in cells.args])
        made.metadata = nbformat.from_dict(NOTEBOOK_METADATA)
        nbformat.write(made, notebook)
    else:
        lesson = find(marker.args[0] if marker else "echo").name
        notebook = Path(shutil.copy(jupyter.work / lesson, folder))
    await jupyter.page.set_viewport_size({"width": 1280, "height": 1000})
    try:
        yield await jupyter.open(notebook)
    finally:
        # A kernel that is left holds JupyterLab's pipes, whose end the last test waits for.
        await jupyter.tidy()
