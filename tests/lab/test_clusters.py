"""Clusters under a name, and panels on their servers."""

from __future__ import annotations

import asyncio

import pytest

from wslessons.errors import UserError
from wslessons.lab.chatpanel import chat_panels
from wslessons.lab.clusters import cluster


@pytest.mark.timeout(60)
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


@pytest.mark.timeout(60)
async def test_a_bus_that_cannot_be_used_is_one_sentence():
    """And the name is free again."""
    with pytest.raises(UserError, match="is not the URL of a bus"):
        await cluster("a", servers=1, bus="pigeons")


@pytest.mark.timeout(60)
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
