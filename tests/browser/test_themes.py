"""All that a lesson can show, in JupyterLab's two themes, on a wide page and at 800 pixels."""

from __future__ import annotations

import asyncio

import pytest
from jupyterlab_page import Lab
from looks import OURS, complaints, findings, picture_contrast
from playwright.async_api import expect

CELLS = (
    "from wslessons import lab\n"
    "from wslessons.echo import echo\n"
    "server = await lab.serve('echo', echo)\n"
    "server",
    # With so many lines that it scrolls.
    "panel = await lab.echo_panel(server)\n"
    "for number in range(20):\n"
    "    panel.transcript.add('note', f'line {number}')\n"
    "panel",
    "await lab.plug_panel(server)",
    "from wslessons.chat import ChatServer\n"
    "await lab.chat_panels(await lab.serve('chat', ChatServer()), 'alice', 'bob')",
    "guess = lab.predict('How many of 400 lines does bob hear?', [0, 61, 400])\nguess",
    "guess.reveal('all of them, each once and in order, over ~7 connections')",
    "from websockets import connect\n"
    "from wslessons.link import Link\n"
    "async with Link(server.url) as link, connect(link.url, proxy=None) as client:\n"
    "    await client.send('a text of many words ' * 5)\n"
    "    await client.recv()\n"
    "lab.wire_table(link.connections[0])",
    "lab.handshake(link.connections[0])",
    "lab.sequence(link.connections[0])",
    "from wslessons.chat.channel import Channel\n"
    "channel = Channel(capacity=4)\n"
    "slow, fast = channel.subscribe(), channel.subscribe()\n"
    "for item in ('ant', 'bee', 'cow'):\n"
    "    channel.send(item)\n"
    "fast.take_ready()\n"
    "lab.draw_channel(channel, slow=slow, fast=fast)",
    "lab.show(echo)",
    "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()",
    "print('closed with 1008: ticket missing ' * 9)",
)

# The colours of code are JupyterLab's own.
SKIPPED = (
    "style, .jp-Notebook-footer, .jp-InputArea-editor, .jp-InputPrompt, .jp-OutputPrompt,"
    " pre [class*='ͼ']"
)

pytestmark = [pytest.mark.timeout(240), pytest.mark.cells(*CELLS)]


async def sound(lab: Lab) -> None:
    """Wait until nothing on the page is faint, cut off or broken in the middle of a word."""
    found = ["not looked at"]
    for _ in range(50):
        if not (found := await complaints(lab.page.locator(".jp-Notebook"), SKIPPED)):
            return
        # The page is still laid out again, after it has been given another size or theme.
        await asyncio.sleep(0.2)
    pytest.fail("\n".join(found))


async def test_all_can_be_read_in_both_themes_and_at_800_pixels(lab: Lab):
    """Nothing has a contrast below 4.5, sticks out, or breaks a word; diagrams are readable.

    Nor does axe-core find anything.
    """
    async with asyncio.timeout(200):
        await lab.run_all()
        assert await lab.errors() == []
        diagram = lab.page.locator(".jp-RenderedMermaid img")
        for theme in ("Light", "Dark"):
            await lab.theme(theme)
            for width in (1400, 800):
                # So high that no cell is out of view, where JupyterLab would leave it out.
                await lab.page.set_viewport_size({"width": width, "height": 6000})
                await sound(lab)
            assert await findings(lab.page, OURS) == []
            assert await picture_contrast(diagram) >= 4.5
        # Drawn anew in the dark theme, and then seen in the light one.
        await lab.page.set_viewport_size({"width": 1400, "height": 6000})
        await lab.run_cell(CELLS.index("lab.sequence(link.connections[0])"))
        assert await picture_contrast(diagram) >= 4.5
        await lab.theme("Light")
        assert await picture_contrast(diagram) >= 4.5
        await expect(diagram).to_have_count(1)
