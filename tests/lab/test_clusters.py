"""Clusters under a name, and panels on their servers."""

from __future__ import annotations

import asyncio

import psutil
import pytest
from waits import started_since, until

from wslessons.errors import UserError
from wslessons.lab.background import cluster
from wslessons.lab.chatpanel import chat_panels


async def test_a_name_stands_for_one_cluster():
    """Starting under the same name again stops the old servers; another name leaves them alone."""
    async with asyncio.timeout(50):
        first = await cluster("a", servers=1)
        other = await cluster("b", servers=1)
        second = await cluster("a", servers=1)
        try:
            states = [each.servers[0].state for each in (first, other, second)]
            assert states == ["stopped", "running", "running"]
        finally:
            await other.stop()
            await second.stop()


@pytest.mark.parametrize("moment", ["stopping the old one", "starting the new one"])
async def test_a_cell_that_is_stopped_leaves_nothing(moment: str):
    """The stop button while a cell replaces its cluster: no server and no broker stays."""
    before = psutil.Process().children(recursive=True)
    async with asyncio.timeout(80):
        first = await cluster("a", servers=2, bus="redis", own=True)
        assert len(psutil.Process().children(recursive=True)) >= len(before) + 3
        again = asyncio.create_task(cluster("a", servers=2, bus="redis", own=True))
        if moment == "stopping the old one":
            pid = first.servers[0].pid
            assert pid is not None
            # It hangs, so stopping it takes its time.
            psutil.Process(pid).suspend()
            await until(lambda: first.servers[1].state != "running")
        else:
            broker = first.broker
            assert broker is not None
            await until(lambda: not broker.pids)
        again.cancel()
        with pytest.raises(asyncio.CancelledError):
            await again
        await until(lambda: not started_since(before))


async def test_a_bus_that_cannot_be_used_is_one_sentence():
    """And the name is free again."""
    with pytest.raises(UserError, match="is not a valid URL of a bus"):
        await cluster("a", servers=1, bus="pigeons")


async def test_panels_are_dealt_out_to_servers():
    """Of three people on two servers without a bus, the first and the third share a room."""
    async with asyncio.timeout(50):
        servers = await cluster("a", servers=2)
        try:
            panels = await chat_panels(servers.urls, "ann", "ben", "cy", room="/rooms/tea")
            await panels["ann"].send("hello")
            assert await panels["cy"].transcript.wait_for("[ann]") == "[ann] hello"
            await panels["ben"].send("nobody here?")
            await panels["ann"].send("bye")
            await panels["cy"].transcript.wait_for("bye")
            assert not any("ann" in line for _, line in panels["ben"].transcript.lines)
            for name in ("ann", "ben", "cy"):
                await panels[name].close()
        finally:
            await servers.stop()


async def test_a_line_is_shown_as_waiting_until_it_is_acknowledged():
    """While the broker of a log is away nobody hears it, and its sender's panel says so."""
    async with asyncio.timeout(50):
        servers = await cluster("a", servers=2, bus="nats?stream=chat", own=True)
        try:
            panels = await chat_panels(servers.urls, "ann", "ben", room="/rooms/tea")
            assert servers.broker is not None
            await servers.broker.nodes[0].kill()
            saying = asyncio.create_task(panels["ann"].send("anybody?"))
            ann = panels["ann"].transcript
            await ann.wait_for("anybody?")
            assert ["wait", "anybody?"] in ann.lines
            assert not saying.done()
            await servers.broker.nodes[0].restart()
            await saying
            assert ["out", "anybody?"] in ann.lines
            await panels["ben"].transcript.wait_for("[ann] anybody?")
            for name in ("ann", "ben"):
                await panels[name].close()
        finally:
            await servers.stop()
