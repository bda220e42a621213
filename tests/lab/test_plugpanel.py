"""The plug panel without a browser: what its buttons do to the link, and what its chart draws."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator

import pytest
from waits import until

from wslessons import serving
from wslessons.echo import echo
from wslessons.errors import UserError
from wslessons.lab.plugpanel import PlugPanel, plug_panel, rtt_chart


@pytest.fixture
async def panel() -> AsyncGenerator[PlugPanel]:
    """A panel, connected to an echo; all in twenty seconds."""
    async with asyncio.timeout(20), serving.serve(echo) as server:
        panel = await plug_panel(serving.urls(server)[0], "test panel", interval=0.05, timeout=0.1)
        yield panel
        await panel.close()


async def shown(panel: PlugPanel, kind: str, words: str) -> None:
    """Wait until the transcript has a line with these words."""
    await until(lambda: any(kind == k and words in line for k, line in panel.transcript.lines))


async def test_pulled_plug_is_noticed_and_healing_lets_it_reconnect(panel: PlugPanel):
    """Stall, the drop in the transcript, a refused reconnect, heal, and a connection again."""
    await panel.stall()
    await shown(panel, "error", "dropped by this side: sent 1011")
    assert not panel.connected
    with pytest.raises(UserError, match="is the plug pulled"):
        await panel.connect()
    await panel.heal()
    await panel.connect()
    assert panel.connected
    assert panel.link.active == []


async def test_faults_take_the_numbers_of_the_fields(panel: PlugPanel):
    """Delay and throttle are set on the link as the panel says, and wrong numbers are refused."""
    await panel.delay()
    await panel.throttle()
    assert [str(fault) for fault in panel.link.active] == [
        "<delay both latency=0.1 jitter=0.05>",
        "<throttle both rate=100>",
    ]
    panel._jitter.value = 101
    with pytest.raises(UserError, match="a jitter of 101 ms"):
        await panel.delay()
    panel._rate.value = 0
    with pytest.raises(UserError, match="pulled plug"):
        await panel.throttle()


async def test_cut_is_noticed_without_a_heartbeat(panel: PlugPanel):
    """A TCP reset ends the connection at once, and the link takes new ones."""
    await panel.cut()
    await shown(panel, "note", "closed: no close frame")
    await panel.connect()
    assert panel.connected


async def test_making_it_again_closes_the_old_one(panel: PlugPanel):
    """Running the cell twice leaves one panel, and the text to compare is always the same."""
    again = await plug_panel(panel.link.target[0] + f":{panel.link.target[1]}", "test panel")
    assert again._repr_mimebundle_()["text/plain"] == "[test panel]"
    assert not panel.connected
    await again.close()


def test_chart_breaks_its_line_where_beats_are_missing():
    """Two runs of pongs with silence between them are two strokes; a loss is a line of its own."""
    points = [(1.0, 0.1), (1.1, 0.2), (5.0, 0.1), (5.1, 0.1), (99.0, 0.1)]
    chart = rtt_chart(points, 10.0, window=10.0, gap=0.5, losses=[2.0, -3.0])
    losses, dots, strokes = re.findall(r'<path d="([^"]*)"', chart)
    assert (strokes.count("M"), strokes.count("L"), dots.count("h0")) == (2, 2, 4)
    assert losses == "M200.0 100.0v-100"
    assert 'data-beats="4"' in chart
    assert "200 ms" in chart


def test_chart_of_nothing_is_drawn():
    """Before the first pong there are axes and no line."""
    assert "10 ms" in rtt_chart([], 0.0, window=10.0, gap=1.0)
