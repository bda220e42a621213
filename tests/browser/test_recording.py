"""The animated picture of the README, made anew by `pytest -m recording -n0 tests/browser`.

Lesson 2's panels talk through a link, and below them stands what went over it.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import time
from pathlib import Path

import pytest
from jupyterlab_page import Lab
from PIL import Image
from playwright.async_api import FloatRect, Locator, Page, expect

pytestmark = [pytest.mark.recording, pytest.mark.timeout(240)]

PICTURE = Path(__file__).parents[2] / "notebooks" / "img" / "02_chat.gif"
SERVE = """\
import asyncio

from wslessons import lab
from wslessons.chat import ChatServer
from wslessons.link import Link

server = await lab.serve("chat", ChatServer(), compression=None)
link = await Link(server.url).__aenter__()


async def follow(shown):
    while True:
        records = [each for one in link.connections for each in one.records]
        frames = sorted((each for each in records if hasattr(each, "opcode")), key=lambda f: f.time)
        shown.update(lab.wire_table(frames[-6:]))
        await asyncio.sleep(0.1)"""
PANELS = """\
panels = await lab.chat_panels(link.url, "alice", "bob")
panels"""
WIRE = """\
wire = display(lab.wire_table(link.connections[0]), display_id=True)
following = asyncio.create_task(follow(wire))"""


class Recorder:
    """Takes a picture of a part of the page again and again, each kept with its time."""

    def __init__(self, page: Page, clip: FloatRect) -> None:
        self.page, self.clip = page, clip
        self.frames: list[tuple[float, Image.Image]] = []

    async def run(self) -> None:
        """Take pictures until it is cancelled; one that differs from none before it is left out."""
        last = b""
        while True:
            taken, png = time.monotonic(), await self.page.screenshot(clip=self.clip)
            if png != last:
                self.frames.append((taken, Image.open(io.BytesIO(png)).convert("RGB")))
                last = png
            await asyncio.sleep(0.1)

    def save(self, path: Path) -> None:
        """Write all frames as an animated GIF that begins again after a rest."""
        times = [taken for taken, _ in self.frames]
        lasts = [later - before for before, later in itertools.pairwise(times)]
        # Its colours are those of all frames: an online dot's and an offline one's, too.
        width, height = self.frames[0][1].size
        whole = Image.new("RGB", (width, height * len(self.frames)))
        for number, (_, frame) in enumerate(self.frames):
            whole.paste(frame, (0, height * number))
        palette = whole.quantize(128)
        first, *others = (
            frame.quantize(palette=palette, dither=Image.Dither.NONE) for _, frame in self.frames
        )
        first.save(
            path,
            save_all=True,
            append_images=others,
            duration=[*(round(1000 * min(each, 1.5)) for each in lasts), 3000],
            loop=0,
        )


async def say(panel: Locator, text: str) -> None:
    """Type `text` as a person does, and press Enter."""
    entry = panel.get_by_placeholder("press Enter")
    await entry.press_sequentially(text, delay=70)
    await entry.press("Enter")


@pytest.mark.cells(SERVE, PANELS, WIRE)
async def test_record_the_picture_of_the_readme(lab: Lab):
    """Alice writes and bob hears; bob goes offline and comes back, and what waited is said."""
    async with asyncio.timeout(200):
        await lab.page.set_viewport_size({"width": 1200, "height": 1500})
        await lab.run_all()
        alice, bob = lab.panel("alice").last, lab.panel("bob").last
        await expect(alice).to_contain_text("here: alice, bob")
        await alice.get_by_placeholder("press Enter").click()
        top, end = await lab.cell(1).bounding_box(), await lab.cell(2).bounding_box()
        assert top
        assert end
        height = end["y"] + 340 - top["y"]
        recorder = Recorder(lab.page, {**top, "height": height})
        recording = asyncio.create_task(recorder.run())
        await lab.page.wait_for_timeout(800)
        await say(alice, "hello bob")
        await expect(bob).to_contain_text("← [alice] hello bob")
        await say(bob, "hi alice")
        await expect(alice).to_contain_text("← [bob] hi alice")
        await lab.page.wait_for_timeout(800)
        await bob.get_by_role("button", name="Go offline").click()
        await expect(alice).to_contain_text("bob left")
        await say(bob, "said in a tunnel")
        await say(alice, "are you there?")
        await lab.page.wait_for_timeout(800)
        await bob.get_by_role("button", name="Go online").click()
        await expect(bob).to_contain_text("← [alice] are you there?")
        await expect(alice).to_contain_text("← [bob] said in a tunnel")
        await lab.page.wait_for_timeout(700)
        recording.cancel()
        await asyncio.wait([recording])
        await asyncio.to_thread(recorder.save, PICTURE)
