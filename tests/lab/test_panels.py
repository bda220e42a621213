"""Panels without a browser: clicks that come twice, one connection, and what a transcript says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import ipywidgets
import pytest
from waits import until

from wslessons import lab
from wslessons.chat import ChatServer
from wslessons.echo import echo
from wslessons.errors import UserError
from wslessons.lab.background import BackgroundServer
from wslessons.lab.chatpanel import ChatPanel
from wslessons.lab.panel import ClientPanel

Make = Callable[[BackgroundServer], Awaitable[ClientPanel]]


async def chat_panel(server: BackgroundServer) -> ChatPanel:
    """One person in the room."""
    return (await lab.chat_panels(server, "ann"))["ann"]


async def echo_panel(server: BackgroundServer) -> ClientPanel:
    """An echo panel."""
    return await lab.echo_panel(server)


async def plug_panel(server: BackgroundServer) -> ClientPanel:
    """A plug panel."""
    return await lab.plug_panel(server)


@pytest.fixture(params=[echo_panel, chat_panel, plug_panel], ids=lambda make: make.__name__)
async def made(request: Any) -> AsyncGenerator[tuple[BackgroundServer, ClientPanel, Make]]:
    """A server in the kernel, a panel that is connected to it, and what makes another."""
    make = request.param
    async with asyncio.timeout(50):
        handler = ChatServer() if make is chat_panel else echo
        server = await lab.serve("panels", handler)
        panel = await make(server)
        yield server, panel, make
        await panel.close()
        await server.stop()


def find(widget: Any, kind: type, description: str) -> Any:
    """The widget of that kind and description inside another."""
    for child in widget.children:
        if isinstance(child, kind) and child.description == description:
            return child
        if hasattr(child, "children") and (found := find(child, kind, description)):
            return found
    return None


async def one_connection(server: BackgroundServer, panel: ClientPanel) -> None:
    """Wait until the panel is connected, and its connection is the server's only one."""
    await until(lambda: panel.connected and len(server.connections) == 1)


async def idle(panel: ClientPanel) -> None:
    """Wait until no click is being worked on."""
    await until(lambda: not (panel._busy or panel._turn.locked()))


@pytest.mark.parametrize("pause", [None, 0, 0.02, 0.1])
async def test_two_clicks_on_reconnect_leave_one_connection(
    made: tuple[BackgroundServer, ClientPanel, Make], pause: float | None
):
    """Whether the second comes at once or while the first one's at work, and with a cell's call."""
    server, panel, _ = made
    await one_connection(server, panel)
    button = find(panel.widget, ipywidgets.Button, "Reconnect")
    by_a_cell = asyncio.create_task(panel.connect()) if pause == 0 else None
    button.click()
    if pause is not None:
        await asyncio.sleep(pause)
    button.click()
    await asyncio.sleep(0)
    await idle(panel)
    if by_a_cell:
        await by_a_cell
    await one_connection(server, panel)
    # And it is a connection that works.
    await panel.close()
    assert not panel.connected
    await until(lambda: not server.connections)


async def test_making_it_again_leaves_one_connection(
    made: tuple[BackgroundServer, ClientPanel, Make],
):
    """Two cells at once that make the same panel: the last one lives."""
    server, first, make = made
    panels = await asyncio.gather(make(server), make(server))
    connected = [panel for panel in (first, *panels) if panel.connected]
    assert len(connected) == 1
    await one_connection(server, connected[0])
    await connected[0].close()


async def test_a_panel_that_can_not_open_leaves_nothing(
    made: tuple[BackgroundServer, ClientPanel, Make],
):
    """No server of that name: one sentence, and the old panel is closed, as its cell ran again."""
    server, panel, make = made
    await server.stop()
    with pytest.raises(UserError, match="no server named 'panels' runs here"):
        await make(server)
    assert not panel.connected


async def test_who_is_answered_in_the_transcript():
    """`/who` typed in a panel shows who is here as a line, and says nothing to the others."""
    async with asyncio.timeout(50):
        server = await lab.serve("panels", ChatServer())
        panels = await lab.chat_panels(server, "ann", "ben")
        entry = next(
            child for child in panels["ann"].widget.children if isinstance(child, ipywidgets.Text)
        )
        entry.value = "/who"
        assert await panels["ann"].transcript.wait_for("here:") == "here: ann, ben"
        assert entry.value == ""
        await panels["ann"].send("bye")
        await panels["ben"].transcript.wait_for("bye")
        assert not [line for _, line in panels["ben"].transcript.lines if "who" in line]
        for name in ("ann", "ben"):
            await panels[name].close()
        await server.stop()


async def test_a_line_waits_until_the_server_has_it():
    """What is said offline is shown as waiting, and as sent when it is acknowledged."""
    async with asyncio.timeout(50):
        server = await lab.serve("panels", ChatServer())
        panel = (await lab.chat_panels(server, "ann"))["ann"]
        await panel.go_offline()
        saying = asyncio.create_task(panel.send("in a tunnel"))
        await panel.transcript.wait_for("in a tunnel")
        assert ["wait", "in a tunnel"] in panel.transcript.lines
        await panel.go_online()
        await saying
        assert ["out", "in a tunnel"] in panel.transcript.lines

        with pytest.raises(UserError, match="not sent: a message has at most 8,192 bytes"):
            await panel.send("x" * 9000)
        assert panel.transcript.lines[-1][0] == "error"
        await panel.close()
        with pytest.raises(UserError, match="press Reconnect first"):
            await panel.send("too late")
        await server.stop()
