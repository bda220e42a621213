"""Servers under a name: replacing, stopping, listing, also when a handler is stuck."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import webs
from websockets import ServerConnection, connect

from wslessons import lab
from wslessons.echo import echo
from wslessons.errors import UserError
from wslessons.lab import background
from wslessons.processes import free_port
from wslessons.testing.raw import handshake


@pytest.fixture(autouse=True)
async def nothing_runs_afterwards() -> AsyncIterator[None]:
    """Stop what a test has started."""
    yield
    for server in lab.servers():
        await server.stop()


async def deaf(connection: ServerConnection) -> None:
    """A handler that ignores its first cancellation."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        await asyncio.Event().wait()


async def test_handle_tells_url_connections_and_state():
    """The handle knows where it listens, who is connected, and whether it runs."""
    async with asyncio.timeout(50):
        server = await lab.serve("echo", echo)
        assert server.url.startswith("ws://127.0.0.1:")
        async with connect(server.url, proxy=None) as client:
            await client.send("x")
            await client.recv()
            assert len(server.connections) == 1
        assert lab.servers() == [server]
        assert repr(server) == "<server 'echo', running>"
        await server.stop()
        await server.stop()
        assert lab.servers() == []
        assert repr(server) == "<server 'echo', stopped>"


async def test_with_a_certificate_the_url_says_so(tmp_path: Path):
    """It can be given to a client as it is."""
    chain, key, trusting = webs.certificate(tmp_path)
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(chain, key)
    async with asyncio.timeout(50):
        server = await lab.serve("echo", echo, ssl=ours)
        async with connect(server.url, proxy=None, ssl=trusting) as client:
            await client.send("x")
            assert await client.recv() == "Echo: x"


@pytest.mark.parametrize("handler", [echo, deaf])
async def test_serving_again_under_a_name_replaces_the_server(handler: background.serving.Handler):
    """The old clients get 1012 and the new server answers on the same fixed port, stuck or not."""
    async with asyncio.timeout(50):
        port = free_port()
        first = await lab.serve("echo", handler, port=port)
        old = await connect(first.url, proxy=None)
        second = await lab.serve("echo", echo, port=port)
        await old.wait_closed()
        assert old.close_code == 1012
        assert second.url == first.url
        assert (first.running, second.running) == (False, True)
        async with connect(second.url, proxy=None) as client:
            await client.send("new")
            assert await client.recv() == "Echo: new"
    for task in asyncio.all_tasks():
        if "deaf" in repr(task.get_coro()) or "protocol_handler" in repr(task.get_coro()):
            task.cancel()


async def test_a_client_that_reads_nothing_does_not_hold_up_the_stop():
    """A peer with full buffers, to which no close frame gets through, is cut off."""
    full = asyncio.Event()

    async def flood(connection: ServerConnection) -> None:
        # More than any socket buffers of two kernels hold, so this send can't end.
        sending = asyncio.create_task(connection.send(bytes(64 << 20)))
        await asyncio.sleep(0)
        full.set()
        await sending

    async with asyncio.timeout(20):
        server = await lab.serve("flood", flood, ping_interval=None)
        host, port = server.url.removeprefix("ws://").split(":")
        _, writer = await asyncio.open_connection(host, int(port), limit=1)
        writer.write(handshake())
        await full.wait()
        await server.stop()
        assert server.connections == set()
        writer.close()


async def test_two_cells_at_once_leave_one_server():
    """Serving twice under one name at the same moment leaves exactly one server."""
    async with asyncio.timeout(50):
        first, second = await asyncio.gather(lab.serve("echo", echo), lab.serve("echo", echo))
        assert lab.servers() == [second]
        assert not first.running


async def test_a_port_that_is_taken_keeps_the_sentence_and_the_other_server():
    """Binding a taken port is a UserError, and whoever had the port serves on."""
    async with asyncio.timeout(50):
        first = await lab.serve("first", echo)
        with pytest.raises(UserError, match="is in use: choose another port"):
            await lab.serve("second", echo, port=int(first.url.rsplit(":", 1)[1]))
        assert lab.servers() == [first]


async def test_a_name_that_does_not_run_is_explained():
    """Looking for a server that is not there names those that are."""
    async with asyncio.timeout(50):
        await lab.serve("echo", echo)
        with pytest.raises(
            UserError, match=r"no server named 'chat' runs here \(running: 'echo'\)"
        ):
            background.find("chat")


def test_card_escapes_the_name():
    """A hostile name stays text in the HTML card."""
    card = background.BackgroundServer.__new__(background.BackgroundServer)
    card.name, card.url = "<script>", "ws://127.0.0.1:1"
    assert "<script>" not in card._repr_html_()


@pytest.mark.parametrize(("code", "reason"), [(1006, ""), (999, ""), (1001, "x" * 124)])
async def test_a_stop_that_no_close_frame_can_carry_stops_nothing(code: int, reason: str):
    """The mistake is said at once, and the server goes on serving."""
    async with asyncio.timeout(20):
        server = await lab.serve("echo", echo)
        async with connect(server.url, proxy=None) as client:
            with pytest.raises(UserError, match="close frame"):
                await server.stop(code, reason)
            await client.send("hi")
            assert await client.recv() == "Echo: hi"
        await server.stop()
