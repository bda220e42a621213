"""Whatever strangers send, in either protocol and to either end: somebody beside them is served."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets import ConnectionClosed, connect, serve

from wslessons.chat import ChatServer
from wslessons.chat.events import SUBPROTOCOL
from wslessons.client import ChatClient
from wslessons.errors import UserError
from wslessons.serving import urls

KINDS = ["hello", "say", "who", "ping", "renew", "welcome", "ack", "missed", "message", "joined"]
KINDS += ["left", "roster", "pong", "system", "expires", "renewed", "error", "nothing"]
MEMBERS = ["name", "since", "epoch", "session", "text", "id", "token", "room", "offset", "prev"]
MEMBERS += ["people", "count", "time", "sender", "code", "seconds"]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
# Nearly right: the members that the protocols have, with what they must not hold.
EVENTS = st.builds(
    lambda kind, members: {"type": kind, **members},
    st.sampled_from(KINDS),
    st.dictionaries(st.sampled_from(MEMBERS), JSON | st.integers(-(2**70), 2**70), max_size=5),
)
MESSAGES = (
    st.text(max_size=60)
    | st.binary(max_size=60)
    | EVENTS.map(json.dumps)
    | JSON.map(json.dumps)
    | EVENTS.map(json.dumps).map(lambda text: text[: len(text) // 2])
    | st.sampled_from(["", "/who", "[" * 5000, "9" * 8000, '{"type":"say","text":"' + "x" * 8100])
)
CONVERSATIONS = st.lists(MESSAGES, min_size=1, max_size=6)


class Beside:
    """A chat, and somebody in it who is asked after each conversation whether all is well."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.stack = contextlib.AsyncExitStack()
        self.run(self._start())

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run in the chat's loop, inside a timeout."""

        async def bounded() -> None:
            async with asyncio.timeout(20):
                await work

        self.runner.run(bounded())

    async def _start(self) -> None:
        server = await self.stack.enter_async_context(ChatServer().serve())
        self.url = urls(server)[0]
        self.bystander = await self.stack.enter_async_context(ChatClient(self.url, "bystander"))
        self.said = 0

    async def is_well(self) -> None:
        """The bystander can say something, on the connection that it had from the beginning."""
        self.said += 1
        ack = await self.bystander.send(str(self.said))
        assert ack is not None
        assert self.bystander.subprotocol == SUBPROTOCOL

    def close(self) -> None:
        """Stop everything."""
        self.run(self.stack.aclose())
        self.runner.close()


@pytest.fixture(scope="module")
def beside() -> Iterator[Beside]:
    """Start a chat for all examples."""
    one = Beside()
    yield one
    one.close()


FEW = settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None)


@FEW
@given(CONVERSATIONS, st.booleans(), st.booleans())
def test_a_server_survives_any_client(
    beside: Beside, conversation: list[str | bytes], is_json: bool, welcome: bool
) -> None:
    """Before and after the name; each ends with a close code that fits, or goes on."""

    async def talk() -> None:
        subprotocols = [SUBPROTOCOL] if is_json else None
        async with connect(
            beside.url, proxy=None, subprotocols=subprotocols, close_timeout=1
        ) as client:
            with contextlib.suppress(ConnectionClosed):
                if welcome:
                    await client.send('{"type":"hello","name":"ann"}' if is_json else "ann")
                for message in conversation:
                    await client.send(message)
            await client.close()
        assert client.close_code in (1000, 1003, 1007, 1008, 1009)
        await beside.is_well()

    beside.run(talk())


@FEW
@given(CONVERSATIONS, st.booleans())
def test_a_client_survives_any_server(
    beside: Beside, conversation: list[str | bytes], is_json: bool
) -> None:
    """It iterates to the end or to one sentence, whatever it is told, and takes bounded time."""

    async def handler(connection: Any) -> None:
        await connection.recv()
        if is_json:
            welcome = {"name": "ann", "room": "/", "epoch": "e", "offset": 0}
            await connection.send(
                json.dumps({"type": "welcome", **welcome, "people": [], "count": 0})
            )
        for message in conversation:
            await connection.send(message)
        await connection.close()

    async def talk() -> None:
        options: dict[str, Any] = {"subprotocols": [SUBPROTOCOL]} if is_json else {}
        async with serve(handler, "127.0.0.1", 0, **options) as server:
            with contextlib.suppress(UserError):
                async with ChatClient(urls(server)[0], "ann", attempts=1, timeout=0.5) as client:
                    async for _ in client:
                        pass
        await beside.is_well()

    beside.run(talk())
