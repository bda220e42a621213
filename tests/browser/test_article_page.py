"""Our page, served by the article's web server in Rust, which speaks our protocol by axum."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import rust
from playwright.async_api import Page, expect
from test_web_page import enter, say

from wslessons import serving
from wslessons.chat.events import Message
from wslessons.client import ChatClient

# Building the server may take a minute and a half.
pytestmark = pytest.mark.timeout(400)


async def test_our_page_talks_in_their_web_server(page: Page):
    """What it says is acknowledged and heard, what others say is shown, and they are named."""
    rust.program("web")
    folder = Path(serving.__file__).parent / "web" / "page"
    async with (
        asyncio.timeout(100),
        rust.serving("web", str(folder)) as url,
        ChatClient(f"{url}/ws", "rita", text=True) as rita,
    ):
        await enter(page, url.replace("ws", "http", 1), "alice")
        await say(page, "hello from a tab")
        await expect(page.get_by_text("· sent")).to_have_count(1)
        async for event in rita:
            if isinstance(event, Message):
                assert (event.sender, event.text) == ("alice", "hello from a tab")
                break
        await rita.send("hello from plain text")
        await expect(page.get_by_role("log")).to_contain_text("hello from plain text")
        await expect(page.get_by_role("heading", name="Here")).to_have_text("Here (2)")
