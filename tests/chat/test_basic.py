"""The first two drafts of the chat: what they promise as `ChatServer` does, and what they can't."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest
from websockets import connect
from websockets.asyncio.client import ClientConnection

from wslessons import serving
from wslessons.chat import ChatServer
from wslessons.chat.basic import QueueChat, SetChat

Join = Callable[..., Awaitable[ClientConnection]]

LINE = "x" * 4000


@contextlib.asynccontextmanager
async def joining(chat: SetChat | ChatServer) -> AsyncGenerator[Join]:
    """Serve `chat`, and give what joins it under a name and reads up to its own join."""
    async with (
        asyncio.timeout(40),
        serving.serve(chat.handler, compression=None) as server,
        contextlib.AsyncExitStack() as stack,
    ):

        async def join(name: str, **options: Any) -> ClientConnection:
            client = await stack.enter_async_context(
                connect(serving.urls(server)[0], proxy=None, close_timeout=1, **options)
            )
            # Whatever it has not read by the end shall not hold up its closing.
            stack.callback(client.transport.abort)
            await client.send(name)
            assert await client.recv() == f"Welcome, {name}!"
            assert await client.recv() == f"[system] >>> {name} joined the chat"
            return client

        yield join


@pytest.fixture(params=[SetChat, QueueChat, ChatServer])
def chat(request: pytest.FixtureRequest) -> SetChat | ChatServer:
    """Each draft, and the server that lesson 2 arrives at."""
    return request.param()


async def test_everyone_hears_who_comes_talks_and_goes(chat: SetChat | ChatServer) -> None:
    """The lines of plain text, byte for byte; no one hears their own."""
    async with joining(chat) as join:
        alice = await join("alice")
        bob = await join("bob")
        assert await alice.recv() == "[system] >>> bob joined the chat"
        await alice.send("hi there")
        assert await bob.recv() == "[alice] hi there"
        await bob.send("Grüße 👋")
        await bob.close()
        assert await alice.recv() == "[bob] Grüße 👋"
        assert await alice.recv() == "[system] >>> bob left the chat"


async def test_lines_reach_everyone_in_order(chat: SetChat | ChatServer) -> None:
    """Twenty members hear two hundred lines of each of two others, in the order they were said."""
    async with joining(chat) as join:
        listeners = [await join(f"n{n}") for n in range(20)]
        talkers = [await join("a"), await join("b")]

        async def talk(client: ClientConnection) -> None:
            for n in range(200):
                await client.send(str(n))

        async def hear(client: ClientConnection) -> dict[str, list[str]]:
            heard: dict[str, list[str]] = {"[a]": [], "[b]": []}
            while min(map(len, heard.values())) < 200:
                who, _, text = str(await client.recv()).partition(" ")
                if who in heard:
                    heard[who].append(text)
            return heard

        hearing = [asyncio.create_task(hear(client)) for client in listeners]
        await asyncio.gather(*map(talk, talkers))
        expected = [str(n) for n in range(200)]
        for heard in await asyncio.gather(*hearing):
            assert heard == {"[a]": expected, "[b]": expected}


async def test_one_that_breaks_off_is_missed_by_nobody(chat: SetChat | ChatServer) -> None:
    """A connection that is reset ends in a `left`, and the others go on."""
    async with joining(chat) as join:
        alice, bob, carol = await join("alice"), await join("bob"), await join("carol")
        bob.transport.abort()
        while await alice.recv() != "[system] >>> bob left the chat":
            pass
        await alice.send("still here")
        while await carol.recv() != "[alice] still here":
            pass


class Crowd:
    """One member who talks, one who hears, and one who reads nothing."""

    lines = 5000

    async def join(self, join: Join) -> None:
        """Join all three, and begin to talk."""
        self.hearing = await join("hearing")
        # It stops reading its socket as soon as one message waits.
        self.deaf = await join("deaf", max_queue=1)
        self.talking = await join("talking")
        self.heard = 0
        self.task = asyncio.create_task(self.talk())

    async def talk(self) -> None:
        """Say all lines."""
        for _ in range(self.lines):
            await self.talking.send(LINE)

    async def hear_all(self) -> None:
        """Hear until there is nothing more to come; the caller has a timeout."""
        while self.heard < self.lines:
            self.heard += str(await self.hearing.recv()).startswith("[talking]")
        await self.task


async def test_in_a_set_one_that_does_not_read_stops_everybody() -> None:
    """The loop waits for whoever does not read; once they have gone, the others hear the rest."""
    crowd = Crowd()
    async with joining(SetChat()) as join:
        await crowd.join(join)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await crowd.hear_all()
        assert crowd.heard < crowd.lines
        crowd.deaf.transport.abort()
        await crowd.hear_all()


async def test_queues_keep_all_that_one_does_not_read() -> None:
    """Everyone else hears everything, and what is kept for one who does not read has no bound."""
    chat, crowd = QueueChat(), Crowd()
    async with joining(chat) as join:
        await crowd.join(join)
        await crowd.hear_all()
        # What did not fit into the sockets' buffers, which hold some MiB.
        assert max(queue.qsize() for queue in chat.queues.values()) > 2000
        crowd.deaf.transport.abort()
        while await crowd.hearing.recv() != "[system] >>> deaf left the chat":
            pass
        assert len(chat.members) == 2


async def test_a_channel_neither_waits_nor_keeps() -> None:
    """`ChatServer` with the same crowd: everyone else hears everything, and memory is bounded."""
    chat, crowd = ChatServer(), Crowd()
    async with joining(chat) as join:
        await crowd.join(join)
        await crowd.hear_all()
        assert len(chat.rooms["/"].log) <= chat.capacity
