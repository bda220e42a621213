"""Servers that break the rules, flood, or never come to an end, and what the client makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from websockets import ServerConnection, serve
from websockets.frames import Frame, Opcode
from websockets.typing import Subprotocol

from wslessons import serving
from wslessons.chat.events import SUBPROTOCOL, Ack, Pong, Welcome, encode
from wslessons.client import ChatClient, Disconnected
from wslessons.client.outbox import Outbox
from wslessons.client.sessions import JsonSession
from wslessons.errors import UserError


def soon() -> Any:
    """Yield no delays."""
    while True:
        yield 0.0


def hostile(handler: Callable[[ServerConnection], Any]) -> Any:
    """Serve the chat's subprotocol by a handler that lets everybody in first."""

    async def welcoming(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.send(encode(Welcome("ann", "/", "e", 0, [], 0)), text=True)
        await handler(connection)

    return serve(welcoming, "127.0.0.1", 0, subprotocols=[Subprotocol(SUBPROTOCOL)])


def too_big(length: int) -> bytes:
    """Return the head of a frame that is as long as it says."""
    return bytes([0x81, 127]) + length.to_bytes(8)


@pytest.mark.parametrize(
    ("data", "code", "sentence"),
    [
        (too_big(10**8), 1009, "sent a message that is too big: frame with 100000000 bytes"),
        (
            too_big(2**63 - 1),
            1009,
            "sent a message that is too big: frame with 9223372036854775807",
        ),
        (b"\x01\x00" + b"\x00\x00" * 70_000, 1009, "sent a message that is too big: too many"),
        (b"\x81\x80\x00\x00\x00\x00", 1002, "broke the protocol: incorrect masking"),
        (b"\x83\x00", 1002, "broke the protocol: invalid opcode"),
        (b"\x81\x01\xff", 1007, "sent what is no text: invalid start byte"),
    ],
)
async def test_a_server_that_breaks_the_rules_is_named_and_not_asked_again(
    data: bytes, code: int, sentence: str
):
    """What we have to close for is said in a sentence; the server would only do it once more."""
    connections = 0

    async def handler(connection: ServerConnection) -> None:
        nonlocal connections
        connections += 1
        connection.transport.write(data)
        await connection.wait_closed()

    async with asyncio.timeout(40), hostile(handler) as server:
        url = serving.urls(server)[0]
        async with ChatClient(url, "ann", reconnect_delays=soon) as ann:
            ends: list[int] = []

            async def iterate() -> None:
                async for event in ann:
                    if isinstance(event, Disconnected):
                        ends.append(event.code)

            with pytest.raises(UserError, match=sentence):
                await iterate()
            assert ends == [code]
            assert connections == 1


async def test_a_flood_of_pings_that_nobody_reads_takes_no_memory():
    """Of pings whose answers are not read the newest is kept, and answered once they are."""
    last, answered = b"the last", asyncio.Event()

    async def handler(connection: ServerConnection) -> None:
        def acknowledge(data: bytes) -> None:
            if data == last:
                answered.set()

        connection.acknowledge_pings = acknowledge  # the library's own hook for pongs
        connection.transport.pause_reading()
        flood = Frame(Opcode.PING, b"p" * 125).serialize(mask=False) * 100
        for _ in range(600):
            connection.transport.write(flood)
            await connection.drain()
        connection.transport.write(Frame(Opcode.PING, last).serialize(mask=False))
        connection.transport.write(Frame(Opcode.TEXT, b'{"type":"pong"}').serialize(mask=False))
        await connection.wait_closed()

    async with (
        asyncio.timeout(60),
        hostile(handler) as server,
        ChatClient(serving.urls(server)[0], "ann") as ann,
    ):
        async for event in ann:
            if isinstance(event, Pong):
                break
        assert ann._connection is not None
        # 60,000 answers would be 7.9 MB. What arrives in one read is answered before anybody knows
        # that it has to wait.
        assert ann._connection.transport.get_write_buffer_size() < 2**20
        (peer,) = server.connections
        peer.transport.resume_reading()
        await answered.wait()


async def test_acknowledgements_without_end_take_no_memory():
    """A server may invent acknowledgements: of what was never said nothing is remembered."""
    session = JsonSession("ann", Outbox(8, 3), 5, "e")
    for number in range(5000):
        list(session.receive(encode(Ack(f"invented {number}", 10 + 2 * number, 0.0))))
    assert len(session._acknowledged_early) == 0
    assert session.offset == 5


@pytest.mark.parametrize("text", [False, True], ids=["json", "text"])
async def test_closing_takes_one_timeout_whatever_the_server_does(text: bool):
    """A server that neither reads nor answers holds up `close` for one `close_timeout`, not two."""

    async def handler(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.send(
            "Welcome, ann!" if text else encode(Welcome("ann", "/", "e", 0, [], 0)).decode()
        )
        await connection.recv()
        connection.transport.pause_reading()
        await connection.wait_closed()

    subprotocols = None if text else [Subprotocol(SUBPROTOCOL)]
    async with (
        asyncio.timeout(40),
        serve(handler, "127.0.0.1", 0, subprotocols=subprotocols) as server,
    ):
        url = serving.urls(server)[0]
        async with ChatClient(url, "ann", text=text, close_timeout=3) as ann:
            sending = asyncio.create_task(ann.send("hello"))
            if text:
                await sending
            began = asyncio.get_running_loop().time()
            await ann.close()
            assert asyncio.get_running_loop().time() - began < 5.5
            await asyncio.wait([sending])
            sending.exception()
        for connection in server.connections:
            connection.transport.abort()
