"""The chat client over real sockets and broken links: every message once, or told what is gone."""

from __future__ import annotations

import asyncio
import random
import re
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import pytest
from websockets import ConnectionClosed, ServerConnection, broadcast
from websockets.datastructures import Headers
from websockets.exceptions import (
    InvalidMessage,
    InvalidProxyStatus,
    InvalidStatus,
    NegotiationError,
    SecurityError,
)
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from wslessons import serving
from wslessons.chat import ChatServer
from wslessons.chat.events import (
    SUBPROTOCOL,
    Ack,
    Error,
    Joined,
    Left,
    Message,
    Missed,
    Roster,
    Welcome,
    encode,
)
from wslessons.client import (
    ChatClient,
    ChatClosed,
    Connected,
    Disconnected,
    Notice,
    Refused,
    Retrying,
    Unconfirmed,
    full_jitter,
)
from wslessons.client.inbox import Event, Inbox
from wslessons.client.outbox import Outbox, Outgoing
from wslessons.client.retry import LONGEST, explain, is_loopback, retry_after, transient
from wslessons.client.sessions import JsonSession, TextSession
from wslessons.connection import host_port
from wslessons.errors import UserError
from wslessons.link import Link
from wslessons.link.faults import Way

E = TypeVar("E")

SOON = partial(full_jitter, 0.001, 0.01)
"""Delays for tests: the same generator, a thousandth of the time."""

# Signed by itself for 127.0.0.1, worth nothing anywhere else; made with `openssl req -x509`.
TEST_CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgMCAxUKXugUCU23LL
Jl2ZgGesI0BLHfiCyOJR7Z9LCYGhRANCAASwTfnOgDZlCUgh5nerP4w6eoCk3/wF
dBp4bVmpMV4ADsbrwZlGoRZqovVkAdc7QCEUAF61Xe26hXjvAAszvYug
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBmzCCAUCgAwIBAgIUNr77NoqxUlHlx3IaATMNP6/PCxUwCgYIKoZIzj0EAwIw
GTEXMBUGA1UEAwwOd3NsZXNzb25zIHRlc3QwIBcNMjYxMTI0MDQwMDM2WhgPMjEy
NjEwMzEwNDAwMzZaMBkxFzAVBgNVBAMMDndzbGVzc29ucyB0ZXN0MFkwEwYHKoZI
zj0CAQYIKoZIzj0DAQcDQgAEsE35zoA2ZQlIIeZ3qz+MOnqApN/8BXQaeG1ZqTFe
AA7G68GZRqEWaqL1ZAHXO0AhFABetV3tuoV47wALM72LoKNkMGIwHQYDVR0OBBYE
FAZjIzNFurEOO/d7tZK9EfZbbsFdMB8GA1UdIwQYMBaAFAZjIzNFurEOO/d7tZK9
EfZbbsFdMA8GA1UdEwEB/wQFMAMBAf8wDwYDVR0RBAgwBocEfwAAATAKBggqhkjO
PQQDAgNJADBGAiEAzfSV1Uu+2bQa6GDSVk4Fqew1kyIAhe8y16ZuPQPjtcUCIQD4
KtgOTdU+ZMVAwWHJU1U1xlt1VfmGuwiOTOaaGVD1Cg==
-----END CERTIFICATE-----
"""


@asynccontextmanager
async def chat_server(**options: Any) -> AsyncGenerator[tuple[ChatServer, str]]:
    """Run a chat; give it and its URL."""
    chat = ChatServer(**options)
    async with chat.serve() as server:
        yield chat, serving.urls(server)[0]


@asynccontextmanager
async def plain_server(
    handler: Callable[[ServerConnection], Awaitable[None]], **options: Any
) -> AsyncGenerator[str]:
    """Run another server; give its URL."""
    async with serving.serve(handler, **options) as server:
        yield serving.urls(server)[0]


async def first(client: ChatClient, kind: type[E]) -> E:
    """Return the next event of this kind, leaving out those before it."""
    async for event in client:
        if isinstance(event, kind):
            return event
    raise AssertionError(f"the iteration ended without a {kind.__name__}")


async def texts(client: ChatClient, count: int) -> list[str]:
    """Return the next `count` messages; fail when any are missed."""
    found: list[str] = []
    async for event in client:
        assert not isinstance(event, Missed)
        if isinstance(event, Message):
            found.append(event.text)
        if len(found) == count:
            return found
    raise AssertionError("the iteration ended")


async def rest(client: ChatClient) -> list[Event]:
    """Return all events until the iteration ends."""
    return [event async for event in client]


# A conversation.


async def test_send_returns_when_the_server_has_it():
    """`send` returns the acknowledgement, with the offset that everybody else sees."""
    async with (
        asyncio.timeout(20),
        chat_server() as (_, url),
        ChatClient(url, "bob") as bob,
        ChatClient(url, "alice") as alice,
    ):
        ack = await alice.send("  hello  ")
        assert ack is not None
        message = await first(bob, Message)
        assert (message.sender, message.text) == ("alice", "hello")
        assert (message.offset, message.id) == (ack.offset, ack.id)
        await first(alice, Joined)
        assert alice.offset == ack.offset


async def test_entering_tells_of_handshake_and_welcome():
    """The first events are the handshake's status and who is here."""
    async with asyncio.timeout(20), chat_server() as (_, url):
        async with ChatClient(url, "bob"), ChatClient(url, " alice ") as alice:
            assert alice.name == "alice"
            assert await anext(alice) == Connected(101, "Switching Protocols", SUBPROTOCOL)
            welcome = await first(alice, Welcome)
            assert (welcome.people, welcome.name) == (["bob"], "alice")
            assert (await first(alice, Joined)).name == "alice"
            await alice.who()
            assert (await first(alice, Roster)).people == ["bob", "alice"]
        assert alice.subprotocol == SUBPROTOCOL


async def test_sends_at_once_keep_their_order():
    """A hundred sends started together arrive in the order in which they were started."""
    async with (
        asyncio.timeout(20),
        chat_server() as (_, url),
        ChatClient(url, "bob") as bob,
        ChatClient(url, "alice", pending=7) as alice,
    ):
        sent = [str(number) for number in range(100)]
        await asyncio.gather(*map(alice.send, sent))
        assert await texts(bob, 100) == sent


async def test_sending_from_inside_the_iteration_is_safe():
    """A client that answers each message in its own loop never waits for itself."""
    async with (
        asyncio.timeout(20),
        chat_server() as (_, url),
        ChatClient(url, "bot", keep=4) as bot,
        ChatClient(url, "alice") as alice,
    ):

        async def answer() -> None:
            async for event in bot:
                if isinstance(event, Message):
                    await bot.send(f"you said {event.text}")

        answering = asyncio.create_task(answer())
        for number in range(20):
            await alice.send(str(number))
            assert await texts(alice, 1) == [f"you said {number}"]
        await bot.close()
        await answering


@pytest.mark.parametrize("text", [False, True])
async def test_a_text_that_utf8_cannot_carry_harms_only_itself(text: bool):
    """Half a surrogate pair is the caller's mistake; what is said beside it arrives."""
    async with (
        asyncio.timeout(20),
        chat_server() as (_, url),
        ChatClient(url, "alice", text=text) as alice,
        ChatClient(url, "bob") as bob,
    ):
        outcomes = await asyncio.gather(
            *map(alice.send, ["fine", "caf\udce9", "also fine"]), return_exceptions=True
        )
        assert isinstance(outcomes[1], ValueError)
        assert "surrogate" in str(outcomes[1])
        heard = [
            event.text async for event in _until(bob, "also fine") if isinstance(event, Message)
        ]
        assert heard[-1] == "also fine"
        assert not [each for each in (outcomes[0], outcomes[2]) if isinstance(each, Exception)]


async def _until(client: ChatClient, text: str) -> AsyncGenerator[Event]:
    async for event in client:
        yield event
        if isinstance(event, Message) and event.text == text:
            return


@pytest.mark.parametrize("text", [False, True], ids=["json", "text"])
async def test_a_text_that_is_too_long_harms_only_itself(text: bool):
    """What the server would end the connection for is refused here; the limit itself is said."""
    async with (
        asyncio.timeout(20),
        chat_server() as (_, url),
        ChatClient(url, "bob") as bob,
        ChatClient(url, "alice", text=text) as alice,
    ):
        # In JSON, a quotation mark is two bytes, and there are others around the text.
        size = 8192 if text else 4000
        longest = ("x" if text else '"') * size
        *sent, failed, last = await asyncio.gather(
            alice.send("before"),
            alice.send(longest),
            alice.send(longest + "x" * 300),
            alice.send("after"),
            return_exceptions=True,
        )
        assert not [each for each in (*sent, last) if isinstance(each, BaseException)]
        assert isinstance(failed, ValueError)
        assert "8,192 bytes" in str(failed)
        assert await texts(bob, 3) == ["before", longest, "after"]


async def test_a_name_that_utf8_cannot_carry_is_refused_at_once():
    """The name, too, goes over the wire."""
    with pytest.raises(ValueError, match="surrogate"):
        ChatClient("ws://127.0.0.1:1", "caf\udce9")


async def test_a_client_that_was_not_entered_says_so():
    """Whoever forgets `async with` is told, and does not wait for ever."""
    client = ChatClient("ws://127.0.0.1:1", "alice")
    async with asyncio.timeout(5):
        for use in (client.send("hi"), client.who(), anext(client)):
            with pytest.raises(RuntimeError, match="async with"):
                await use


@pytest.mark.parametrize(("code", "reason"), [(1006, ""), (999, ""), (1000, "é" * 62)])
async def test_a_close_that_no_frame_can_carry_closes_nothing(code: int, reason: str):
    """The mistake is said at once, and the client goes on talking."""
    async with asyncio.timeout(20), chat_server() as (_, url), ChatClient(url, "alice") as alice:
        with pytest.raises(UserError, match="close frame"):
            await alice.close(code, reason)
        assert await alice.send("still here") is not None


@pytest.mark.parametrize("blank", ["", " ", "\n\t"])
async def test_blank_text_is_not_sent(blank: str):
    """A blank text is the caller's mistake and costs no round trip."""
    async with asyncio.timeout(20), chat_server() as (_, url), ChatClient(url, "alice") as alice:
        with pytest.raises(ValueError, match="blank"):
            await alice.send(blank)


async def test_close_completes_the_handshake_and_ends_the_iteration():
    """Leaving the block says 1000, the server hears it, and the iteration ends without an error."""
    async with asyncio.timeout(20), chat_server() as (_, url), ChatClient(url, "bob") as bob:
        async with ChatClient(url, "alice") as alice:
            pass
        assert (await rest(alice))[-1] == Disconnected(1000)
        await alice.close()
        assert (await first(bob, Left)).name == "alice"
        with pytest.raises(ChatClosed, match="not sent"):
            await alice.send("too late")


# Links that break.


async def test_hundred_cuts_and_each_message_once():
    """100 cuts at random bytes while 2,000 messages flow: each arrives once, in order.

    A cut hits what alice sends, the acknowledgements she gets, or what bob is sent; carol's link is
    whole, so what she sees is what was published.
    """
    rng = random.Random(20_26)
    sent = [f"{number}:{'x' * rng.randrange(80)}" for number in range(2000)]
    options: dict[str, Any] = {"reconnect_delays": SOON, "tries": 100}
    async with (
        asyncio.timeout(50),
        chat_server() as (_, url),
        Link(url) as alices,
        Link(url) as bobs,
        ChatClient(url, "carol") as carol,
        ChatClient(bobs.url, "bob", **options) as bob,
        ChatClient(alices.url, "alice", **options) as alice,
    ):
        seen = [asyncio.create_task(texts(client, 2000)) for client in (bob, carol)]

        async def cut_once() -> None:
            places: list[tuple[Link, Way]] = [(alices, "up"), (alices, "down"), (bobs, "down")]
            link, direction = rng.choice(places)
            connection = await link.wait_for_connection(link.accepted)
            with link.drop_after(rng.randint(1, 1000), direction):
                await connection.wait_closed()
            # The next cut is to hit a connection, not the pause before it.
            await link.wait_for_connection(connection.number + 1)

        for start in range(0, 2000, 20):
            cutting = asyncio.create_task(cut_once())
            await asyncio.gather(*map(alice.send, sent[start : start + 20]))
            await cutting
        for task in seen:
            assert await task == sent
        assert alices.accepted + bobs.accepted >= 100 + 2


async def test_what_is_gone_is_counted_exactly():
    """Who was away for longer than the room's log gets the exact count, and then what is kept."""
    async with (
        asyncio.timeout(20),
        chat_server(capacity=8) as (_, url),
        Link(url) as link,
        ChatClient(url, "alice") as alice,
        ChatClient(link.url, "bob", reconnect_delays=SOON) as bob,
    ):
        await first(bob, Joined)
        with link.cut():
            await first(alice, Left)
            for number in range(20):
                await alice.send(str(number))
        # bob's leaving, 20 messages and his coming back are 22 events, and 8 are kept.
        assert (await first(bob, Missed)).count == 14
        assert await texts(bob, 7) == [str(number) for number in range(13, 20)]
        assert (await first(bob, Joined)).name == "bob"


async def test_short_break_is_not_noticed_in_the_events():
    """A break within the log's reach loses nothing; the events say that it happened."""
    async with (
        asyncio.timeout(20),
        chat_server() as (_, url),
        Link(url) as link,
        ChatClient(url, "alice") as alice,
        ChatClient(link.url, "bob", reconnect_delays=SOON) as bob,
    ):
        await first(bob, Joined)
        with link.cut():
            assert await first(bob, Disconnected) == Disconnected(1006)
            assert (await first(bob, Retrying)).why == ""
            await alice.send("one")
        await alice.send("two")
        assert await texts(bob, 2) == ["one", "two"]


async def test_message_that_arrived_is_not_said_twice():
    """When the acknowledgement is lost with its connection, the repeat is published once."""
    async with (
        asyncio.timeout(20),
        chat_server() as (_, url),
        Link(url) as link,
        ChatClient(url, "bob") as bob,
        ChatClient(link.url, "alice", reconnect_delays=SOON) as alice,
    ):
        await first(alice, Joined)
        with link.stall("down"):
            sending = asyncio.create_task(alice.send("once"))
            assert await texts(bob, 1) == ["once"]
            link.cut().undo()
        ack = await sending
        assert ack is not None
        await alice.send("then")
        assert await texts(bob, 1) == ["then"]
        await alice.close()
        assert not [event for event in await rest(alice) if isinstance(event, Message)]


async def test_repeat_is_published_once_also_when_the_log_has_moved_on():
    """A message that left the room's log before its sender came back is known by its id."""
    async with (
        asyncio.timeout(20),
        chat_server(capacity=4) as (_, url),
        Link(url) as link,
        ChatClient(url, "bob") as bob,
        ChatClient(link.url, "alice", reconnect_delays=SOON) as alice,
    ):
        await first(alice, Joined)
        with link.stall("down"):
            sending = asyncio.create_task(alice.send("once"))
            assert await texts(bob, 1) == ["once"]
            with link.cut():
                await first(bob, Left)
                for number in range(10):
                    await bob.send(str(number))
        assert await sending is not None
        await alice.send("then")
        assert await texts(bob, 1) == ["then"]


async def test_restarted_server_is_told_as_a_gap_nobody_can_count():
    """A new life of the room begins with `Missed(None)`; what was in doubt says so."""
    async with (
        asyncio.timeout(20),
        chat_server() as (_, old),
        chat_server() as (_, new),
        Link(old) as link,
        ChatClient(link.url, "alice", reconnect_delays=SOON) as alice,
        ChatClient(new, "bob") as bob,
    ):
        await first(alice, Joined)
        epoch = alice.epoch
        with link.stall():
            doubtful = asyncio.create_task(alice.send("did it arrive?"))
            await link.connections[0].wait_until(lambda seen: seen.up.held > 0)
            link.target = ("127.0.0.1", int(new.rpartition(":")[2]))
            link.cut().undo()
        with pytest.raises(Unconfirmed, match=r"restarted.*may or may not have arrived"):
            await doubtful
        assert (await first(alice, Missed)).count is None
        assert alice.epoch != epoch
        assert (await alice.send("hello")) is not None
        assert await texts(bob, 1) == ["hello"]


async def test_message_not_yet_written_survives_a_restart():
    """What no server has seen can be said to the next one: there is no doubt about it."""
    async with (
        asyncio.timeout(20),
        chat_server() as (_, old),
        chat_server() as (_, new),
        Link(old) as link,
        ChatClient(link.url, "alice", reconnect_delays=SOON) as alice,
        ChatClient(new, "bob") as bob,
    ):
        with link.cut():
            await first(alice, Retrying)
            sending = asyncio.create_task(alice.send("later"))
            link.target = ("127.0.0.1", int(new.rpartition(":")[2]))
        assert await sending is not None
        assert await texts(bob, 1) == ["later"]


async def test_a_later_client_resumes_where_an_earlier_one_stopped():
    """`offset` and `epoch` are all that a program has to keep between two runs."""
    async with asyncio.timeout(20), chat_server() as (_, url), ChatClient(url, "alice") as alice:
        async with ChatClient(url, "bob") as bob:
            await alice.send("one")
            await texts(bob, 1)
            since, epoch = bob.offset, bob.epoch
        await alice.send("two")
        async with ChatClient(url, "bob", since=since, epoch=epoch) as bob:
            assert await texts(bob, 1) == ["two"]


async def test_a_later_client_is_given_what_the_earlier_one_had_not_taken():
    """The offset is what the iteration handed out: who resumes by it loses nothing that waited."""
    async with (
        asyncio.timeout(20),
        chat_server() as (_, url),
        ChatClient(url, "ann") as ann,
    ):
        async with ChatClient(url, "logger") as logger:
            for number in range(10):
                ack = await ann.send(str(number))
            assert ack is not None
            await logger.send("behind them all, and acknowledged")
            taken = []
            while len(taken) < 2:
                taken.append((await first(logger, Message)).text)
            resume = logger.offset, logger.epoch
            assert resume[0] is not None
            assert resume[0] < ack.offset
        since, epoch = resume
        async with ChatClient(url, "logger", since=since, epoch=epoch) as logger:
            taken += await texts(logger, 8)
            assert taken == [str(number) for number in range(10)]


@pytest.mark.parametrize("taken", [0, 1])
async def test_a_restart_that_was_not_taken_yet_is_not_lost(taken: int):
    """Who stops between the old life's last event and the new one's welcome hears of the gap."""
    lives = iter(["old", "new"])
    told = asyncio.Event()

    async def server(connection: ServerConnection) -> None:
        life = next(lives)
        await connection.recv()
        await connection.send(encode(Welcome("a", "/", life, 0, [], 0)), text=True)
        if life == "old":
            for number in (1, 2):
                await connection.send(encode(Message("b", "x", str(number), number)), text=True)
            await connection.close(1012)
        else:
            await connection.send(encode(Missed(None, 7)), text=True)
            told.set()
            id = re.findall(r'"id":"(\w+)"', str(await connection.recv()))[0]
            await connection.send(encode(Ack(id, 1, 0.0)), text=True)
            await connection.wait_closed()

    async with (
        asyncio.timeout(20),
        plain_server(server, subprotocols=[Subprotocol(SUBPROTOCOL)]) as url,
        ChatClient(url, "a", reconnect_delays=SOON) as alice,
    ):
        await told.wait()
        # An answer shows that all before it has been received, though nothing was taken.
        await alice.send("are you there?")
        for _ in range(taken):
            await first(alice, Message)
        assert (alice.offset, alice.epoch) == (taken, "old")
        while taken < 2:
            taken = (await first(alice, Message)).offset
        assert (alice.offset, alice.epoch) == (2, "old")
        assert (await first(alice, Welcome)).epoch == "new"
        assert (alice.offset, alice.epoch) == (0, "new")
        await first(alice, Missed)
        assert (alice.offset, alice.epoch) == (7, "new")


async def test_an_acknowledgement_in_a_gap_is_asked_for_again():
    """A `Missed` that swallowed the answer makes the client repeat, without counting a try."""
    said: list[bytes | str] = []

    async def forgetful(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.send(encode(Welcome("a", "/", "e", 0, [], 0)), text=True)
        for gap in (5, 9):
            said.append(await connection.recv())
            await connection.send(encode(Missed(4, gap)), text=True)
        said.append(await connection.recv())
        id = re.findall(r'"id":"(\w+)"', str(said[-1]))[0]
        await connection.send(encode(Ack(id, 3, 0.0)), text=True)
        await connection.wait_closed()

    async with (
        asyncio.timeout(20),
        plain_server(forgetful, subprotocols=[Subprotocol(SUBPROTOCOL)]) as url,
        ChatClient(url, "a", tries=1) as alice,
    ):
        ack = await alice.send("hello")
        assert ack is not None
        assert ack.offset == 3
        assert len(said) == 3
        assert len(set(said)) == 1
        assert alice.offset == 0
        await first(alice, Missed)
        await first(alice, Missed)
        assert alice.offset == 9


async def test_repeating_into_a_gap_counts_each_connection_once():
    """What is repeated on one connection stays one try, is in doubt as before, and keeps order."""
    outbox = Outbox(limit=8, tries=2)
    one, two, three = [await added(outbox, text) for text in ("one", "two", "three")]
    assert [await outbox.next(), await outbox.next()] == [one, two]
    outbox.ask_again()
    outbox.ask_again()
    assert [await outbox.next() for _ in range(3)] == [one, two, three]
    assert [out.tries for out in (one, two, three)] == [1, 1, 1]
    outbox.rewind()
    outbox.ask_again()
    assert [await outbox.next() for _ in range(3)] == [one, two, three]
    assert [out.tries for out in (one, two, three)] == [2, 2, 2]
    outbox.ask_again()
    outbox.withdraw(one)
    assert one.id in outbox


async def test_closing_is_bounded_when_the_peer_has_stopped_reading():
    """A close frame that can't leave the write buffer is not waited for without end.

    The library's own `close_timeout` begins after it has left; a release that changes this makes
    `wslessons.client.connections.shut` superfluous.
    """
    async with asyncio.timeout(20), chat_server(max_size=2**24) as (_, url), Link(url) as link:
        async with ChatClient(link.url, "alice", close_timeout=0.1, max_say=2**24) as alice:
            with link.stall():
                sending = asyncio.create_task(alice.send("x" * 2**23))
                await link.connections[0].wait_until(lambda seen: seen.up.held >= 65_536)
                await alice.close()
                with pytest.raises(Unconfirmed):
                    await sending
        assert (await rest(alice))[-1] == Disconnected(1006)


async def test_cancelled_send_is_taken_back_if_it_was_not_written():
    """A message that waits for a connection can be called back; one that was written can't."""
    async with (
        asyncio.timeout(20),
        chat_server() as (_, url),
        Link(url) as link,
        ChatClient(url, "bob") as bob,
        ChatClient(link.url, "alice", reconnect_delays=SOON) as alice,
    ):
        await first(alice, Joined)
        with link.stall():
            written = asyncio.create_task(alice.send("written"))
            await link.connections[0].wait_until(lambda seen: seen.up.held > 0)
            written.cancel()
            link.cut().undo()
        assert await texts(bob, 1) == ["written"]
        await first(alice, Welcome)
        with link.cut():
            await first(alice, Retrying)
            waiting = asyncio.create_task(alice.send("called back"))
            await asyncio.sleep(0)
            waiting.cancel()
        await alice.send("next")
        assert await texts(bob, 1) == ["next"]


async def test_repeating_is_bounded():
    """A message that ends every connection it is written to is given up, and says so."""

    async def drop_after_say(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.send(encode(Welcome("a", "/", "epoch", 0, [], 0)), text=True)
        await connection.recv()
        connection.transport.abort()

    async with (
        asyncio.timeout(20),
        plain_server(drop_after_say, subprotocols=[Subprotocol(SUBPROTOCOL)]) as url,
        ChatClient(url, "alice", reconnect_delays=SOON, tries=3) as alice,
    ):
        with pytest.raises(Unconfirmed, match="no acknowledgement on 3 connections"):
            await alice.send("poison")


# Coming back.


def test_full_jitter_doubles_its_bound_up_to_the_cap():
    """The bound doubles and stops at the cap, for any number of attempts."""
    bounds = [*islice(full_jitter(0.5, 30, uniform=lambda low, high: high), 2000)]
    assert bounds[:8] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert bounds[-1] == 30


def test_full_jitter_draws_from_the_whole_interval():
    """The delays of many clients fill the interval from 0 evenly; none is outside."""
    rng = random.Random(5)
    delays = [next(islice(full_jitter(1, 60, rng.uniform), 3, None)) for _ in range(4000)]
    assert min(delays) >= 0
    assert max(delays) <= 8
    counts = [sum(int(delay) == second for delay in delays) for second in range(8)]
    assert all(400 < count < 600 for count in counts)


async def test_every_reconnection_waits_for_its_delay():
    """Also the first one after a loss waits, where connect() by itself comes back at once."""
    delays = [0.001 * number for number in range(1, 50)]
    async with (
        asyncio.timeout(20),
        chat_server() as (_, url),
        Link(url) as link,
        ChatClient(link.url, "a", reconnect_delays=lambda: (d for d in delays)) as a,
    ):
        for expected in delays[:3]:
            link.cut().undo()
            assert (await first(a, Retrying)).delay == expected
            await first(a, Welcome)


async def test_no_attempt_is_made_before_its_time():
    """While the delay lasts nobody knocks: neither at once nor after a while."""
    async with (
        asyncio.timeout(20),
        chat_server() as (_, url),
        Link(url) as link,
        ChatClient(url, "bob") as bob,
        ChatClient(link.url, "alice", reconnect_delays=lambda: (3600.0 for _ in range(9))) as alice,
    ):
        link.cut().undo()
        assert (await first(alice, Retrying)).delay == 3600
        for number in range(50):
            await bob.send(str(number))
        assert link.accepted == 1


async def test_delays_begin_anew_after_a_stable_connection():
    """A connection that lasted takes the delays back to the first."""
    delays = [0.001 * number for number in range(1, 50)]
    async with (
        asyncio.timeout(20),
        chat_server() as (_, url),
        Link(url) as link,
        ChatClient(link.url, "a", reconnect_delays=lambda: (d for d in delays), stable=0) as a,
    ):
        for _ in range(3):
            link.cut().undo()
            assert (await first(a, Retrying)).delay == delays[0]
            await first(a, Welcome)


async def test_attempts_are_bounded():
    """A server that stays away ends the iteration with one sentence, after `attempts` failures."""
    async with asyncio.timeout(20), chat_server() as (_, url):
        link = Link(url)
        async with link, ChatClient(link.url, "a", reconnect_delays=SOON, attempts=3) as alice:
            await link.close()
            with pytest.raises(UserError, match="nobody accepts connections") as raised:
                await rest(alice)
            assert "\n" not in str(raised.value)
            with pytest.raises(ChatClosed):
                await alice.send("hello?")


async def test_failed_attempts_say_why():
    """Between two attempts an event tells what went wrong and how long the wait is."""
    async with asyncio.timeout(20), chat_server() as (_, url):
        link = Link(url)
        async with link, ChatClient(link.url, "a", reconnect_delays=SOON, attempts=2) as alice:
            await link.close()
            assert (await first(alice, Retrying)).why == ""
            assert "nobody accepts connections" in (await first(alice, Retrying)).why


async def test_attempts_bound_connections_that_end_before_the_welcome():
    """A server that accepts and then sends all away is asked at most `attempts` times."""
    handshakes = 0

    async def full(connection: ServerConnection) -> None:
        nonlocal handshakes
        handshakes += 1
        await connection.recv()
        if handshakes == 1:
            await connection.send(encode(Welcome("a", "/", "e", 0, [], 0)), text=True)
            await connection.close(1012)
        else:
            await connection.close(1013, "full")

    async with (
        asyncio.timeout(20),
        plain_server(full, subprotocols=[Subprotocol(SUBPROTOCOL)]) as url,
        ChatClient(url, "a", reconnect_delays=SOON, attempts=3) as alice,
    ):
        with pytest.raises(UserError, match=r"before it let us in: 1013 \(full\)"):
            await rest(alice)
        assert handshakes == 1 + 3


async def test_late_welcome_after_a_break_is_another_attempt():
    """A server that is busy after its restart is asked again, and our own 1002 is not its word."""
    handshakes = 0

    async def busy(connection: ServerConnection) -> None:
        nonlocal handshakes
        handshakes += 1
        number = handshakes
        await connection.recv()
        if number == 2:
            await connection.wait_closed()
            return
        await connection.send(encode(Welcome("a", "/", "e", 0, [], 0)), text=True)
        if number == 1:
            await connection.close(1012)
        await connection.wait_closed()

    async with (
        asyncio.timeout(20),
        plain_server(busy, subprotocols=[Subprotocol(SUBPROTOCOL)]) as url,
        ChatClient(url, "a", reconnect_delays=SOON, timeout=0.5) as alice,
    ):
        await first(alice, Welcome)
        await first(alice, Welcome)
        assert handshakes >= 3


@pytest.mark.parametrize("status", [408, 425, 429, 503])
async def test_server_that_says_later_is_asked_later(status: int):
    """An HTTP answer that asks us to wait leads to another attempt, after `Retry-After`."""
    refusals: list[int] = []
    chat = ChatServer()

    def gate(
        connection: ServerConnection, request: Request
    ) -> Response | Awaitable[Response | None] | None:
        if not refusals:
            return chat.process_request(connection, request)
        headers = Headers({"Retry-After": "1"})
        return Response(refusals.pop(), "Later", headers, b"slow down\n")

    async with asyncio.timeout(20), chat.serve(process_request=gate) as server:
        url = serving.urls(server)[0]
        async with ChatClient(url, "a", reconnect_delays=SOON) as alice:
            await first(alice, Connected)
            refusals.append(status)
            for connection in server.connections:
                connection.transport.abort()
            assert (await first(alice, Retrying)).why == ""
            retrying = await first(alice, Retrying)
            assert f"HTTP {status}" in retrying.why
            assert 1 <= retrying.delay <= 1.01
            await first(alice, Welcome)


@pytest.mark.parametrize("code", [1001, 1011, 1012, 1013])
async def test_server_that_goes_away_is_come_back_to(code: int):
    """These close codes promise that another attempt may succeed."""

    async def handler(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.send(encode(Welcome("a", "/", "epoch", 0, [], 0)), text=True)
        await connection.close(code, "later")

    async with (
        asyncio.timeout(20),
        plain_server(handler, subprotocols=[Subprotocol(SUBPROTOCOL)]) as url,
        ChatClient(url, "alice", reconnect_delays=SOON) as alice,
    ):
        assert await first(alice, Disconnected) == Disconnected(code, "later")
        await first(alice, Welcome)


@pytest.mark.parametrize("code", [1002, 1003, 1008, 1009, 4000])
async def test_server_that_says_we_are_wrong_is_believed(code: int):
    """These close codes would only come again: the iteration ends with code and reason."""

    async def handler(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.send(encode(Welcome("a", "/", "epoch", 0, [], 0)), text=True)
        await connection.close(code, "no\x1b[2J")

    async with (
        asyncio.timeout(20),
        plain_server(handler, subprotocols=[Subprotocol(SUBPROTOCOL)]) as url,
        ChatClient(url, "alice", reconnect_delays=SOON) as alice,
    ):
        with pytest.raises(UserError, match=rf"closed .* for good: {code} \(no\\x1b\[2J\)"):
            await rest(alice)


async def test_server_that_is_done_ends_the_iteration():
    """After a close with 1000 there is nothing to come back for, and nothing went wrong."""
    async with (
        asyncio.timeout(20),
        chat_server() as (chat, _),
        chat.serve() as server,
        ChatClient(serving.urls(server)[0], "alice") as alice,
    ):
        server.close(code=1000, reason="good night")
        assert (await rest(alice))[-1] == Disconnected(1000, "good night")


# Plain text.


async def test_plain_text_carries_the_same_events():
    """Lines become events; `send` returns None, since nobody acknowledges."""
    async with asyncio.timeout(20), chat_server() as (_, url):
        async with (
            ChatClient(url, "bob", text=True) as bob,
            ChatClient(url, "alice", text=True) as alice,
        ):
            assert (await first(bob, Connected)).subprotocol is None
            assert await first(bob, Welcome) == Welcome("bob", "", "", 0, [], 0)
            await first(alice, Joined)
            assert await bob.send("[system] hello") is None
            assert await first(alice, Message) == Message("bob", "[system] hello")
            await alice.who()
            assert await first(alice, Notice) == Notice("[system] here now: bob, alice")
            await bob.close()
            assert await first(alice, Left) == Left("bob")
        assert alice.offset is None


async def test_plain_text_says_that_it_cannot_resume():
    """After a break it goes on, and says that nobody knows what was missed."""
    async with (
        asyncio.timeout(20),
        chat_server() as (_, url),
        Link(url) as link,
        ChatClient(url, "alice") as alice,
        ChatClient(link.url, "bob", text=True, reconnect_delays=SOON) as bob,
    ):
        await first(bob, Joined)
        with link.cut():
            await first(alice, Left)
            await alice.send("lost")
        assert await first(bob, Missed) == Missed(None, 0)
        await first(bob, Joined)
        await alice.send("heard")
        assert await texts(bob, 1) == ["heard"]


async def test_plain_text_does_not_repeat_what_is_in_doubt():
    """Without ids a repeat could be said twice: what broke with its connection says so."""
    async with (
        asyncio.timeout(20),
        chat_server(max_size=2**24) as (_, url),
        Link(url) as link,
        ChatClient(link.url, "a", text=True, max_say=2**24, reconnect_delays=SOON) as alice,
    ):
        with link.stall():
            sending = asyncio.create_task(alice.send("x" * 2**23))
            await link.connections[0].wait_until(lambda seen: seen.up.held >= 65_536)
            link.cut().undo()
        with pytest.raises(Unconfirmed, match="the connection broke"):
            await sending
        assert await alice.send("next") is None


class Article:
    """An emulation of the article's Rust server: plain text on any path, no subprotocol at all.

    It subscribes before it knows the name, as that one does, so a line can come before the welcome.
    """

    def __init__(self) -> None:
        self.connections: set[ServerConnection] = set()
        self.paths: list[str] = []

    async def handler(self, connection: ServerConnection) -> None:
        """Serve one connection."""
        assert connection.request is not None
        self.paths.append(connection.request.path)
        self.connections.add(connection)
        await connection.send("[ghost] said before you had a name")
        try:
            name = str(await connection.recv()).strip()
            await connection.send(f"Welcome, {name}!")
            broadcast(self.connections, f"[system] >>> {name} joined the chat")
            async for text in connection:
                broadcast(self.connections - {connection}, f"[{name}] {str(text).strip()}")
        except ConnectionClosed:
            pass
        finally:
            self.connections.discard(connection)


async def test_server_that_ignores_the_offer_is_talked_to_in_plain_text():
    """The article's server takes any path and answers no subprotocol; the client follows."""
    article = Article()
    async with (
        asyncio.timeout(20),
        plain_server(article.handler) as url,
        ChatClient(f"{url}/any/path?x=1", "bob") as bob,
        ChatClient(f"{url}/", "alice") as alice,
    ):
        assert article.paths == ["/any/path?x=1", "/"]
        assert (await first(bob, Connected)).subprotocol is None
        assert await first(bob, Message) == Message("ghost", "said before you had a name")
        assert await first(bob, Welcome) == Welcome("bob", "", "", 0, [], 0)
        await alice.send("hello")
        assert await first(bob, Message) == Message("alice", "hello")


async def test_server_that_welcomes_nobody_is_talked_to_all_the_same():
    """Any server of text lines will do, after a bounded wait for the welcome."""

    async def shout(connection: ServerConnection) -> None:
        async for text in connection:
            await connection.send(str(text).upper())

    async with (
        asyncio.timeout(20),
        plain_server(shout) as url,
        ChatClient(url, "bob", timeout=0.05) as bob,
    ):
        assert await first(bob, Notice) == Notice("BOB")
        await bob.send("hello")
        assert await first(bob, Notice) == Notice("HELLO")


# What can't be done, in one sentence.


async def refuse(connection: Any, request: Request) -> Response:
    """Answer as a web server does that knows no WebSocket here."""
    return Response(503, "Service Unavailable", Headers(), b"<h1>busy</h1>\nmore")


async def never(connection: ServerConnection) -> None:
    """Take everything and say nothing."""
    await connection.wait_closed()


async def fails(url: str, **options: Any) -> str:
    """Return the sentence with which entering a client fails."""
    with pytest.raises(UserError) as raised:
        async with ChatClient(url, options.pop("name", "alice"), **options):
            pass
    sentence = str(raised.value)
    assert re.fullmatch(r"[^\n]+\.", sentence)
    return sentence


@pytest.mark.parametrize(
    "url", ["http://localhost", "localhost:8765", "ws://", "ws://a:99999", "ws://[", "", "ws://a#b"]
)
async def test_wrong_url(url: str):
    """What is not a valid WebSocket URL is said so, before anything is tried."""
    assert await fails(url) == (
        f"{url!r} is not a valid WebSocket URL: give it as ws://HOST:PORT/PATH,"
        " or with wss:// for TLS."
    )


async def test_nobody_there():
    """A refused connection names host and port."""
    async with asyncio.timeout(20):
        async with chat_server() as (_, url):
            pass
        where = url.removeprefix("ws://")
        says = f"nobody accepts connections at {where}: start the server, or check the port."
        assert await fails(url) == says
        assert await fails(url.replace("127.0.0.1", "localhost")) == says.replace(
            "127.0.0.1", "localhost"
        )


async def test_http_answers():
    """An HTTP status instead of a WebSocket is named, with the server's own words if they help."""
    async with asyncio.timeout(20), chat_server() as (_, url):
        assert "answered HTTP 404 Not Found for /no (There is no room here" in await fails(
            f"{url}/no"
        )
        async with plain_server(never, process_request=refuse) as url:
            assert (await fails(url)).endswith("answered HTTP 503 Service Unavailable for /.")


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize(
    ("name", "why"),
    [("system", "reserved"), ("", "blank"), ("x" * 33, "longer"), ("a[b", "no square")],
)
async def test_name_not_accepted(name: str, why: str, text: bool):
    """The server's reason for a name is passed on, in both protocols."""
    async with asyncio.timeout(20), chat_server() as (_, url):
        sentence = await fails(url, name=name, text=text)
        assert sentence.startswith("the server did not let us in: 1008 (")
        assert why in sentence


async def test_server_that_ends_it_before_the_welcome():
    """A server that leaves first is named, with the code."""

    async def full(connection: ServerConnection) -> None:
        await connection.close(1013, "full")

    async with asyncio.timeout(20), plain_server(full) as url:
        says = "the server ended the connection before it let us in: 1013 (full)."
        assert await fails(url) == says


async def test_server_that_agrees_and_then_says_nothing():
    """A server of chat.v1+json that never welcomes is not waited for without end."""
    async with (
        asyncio.timeout(20),
        plain_server(never, subprotocols=[Subprotocol(SUBPROTOCOL)]) as url,
    ):
        says = "the server did not welcome us within 0.05 s."
        assert await fails(url, timeout=0.05) == says


async def test_something_else_listens_there():
    """What does not speak WebSocket is said so; a silent one, too, in bounded time."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        await reader.read()
        writer.close()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with asyncio.timeout(20):
        for handler, says in [(greet, "does not speak WebSocket"), (silent, "did not answer in")]:
            async with await asyncio.start_server(handler, "127.0.0.1", 0) as server:
                url = f"ws://{host_port(server.sockets[0].getsockname())}"
                assert says in await fails(url, open_timeout=0.2)


async def test_tls_failures(tmp_path: Path):
    """An untrusted certificate, TLS where there is none, and none where there is TLS."""
    (tmp_path / "pem").write_text(TEST_CERTIFICATE, encoding="ascii")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pem")
    async with asyncio.timeout(20), chat_server() as (chat, plain):
        async with chat.serve(ssl=context) as server:
            secure = serving.urls(server, "wss")[0]
            says = await fails(secure)
            words = r"the TLS certificate of .* is not trusted: self.signed .* in SSL_CERT_FILE\)\."
            assert re.fullmatch(words, says)
            assert "does not speak WebSocket; if it expects TLS, use wss://" in await fails(
                secure.replace("wss", "ws")
            )
            trust = ssl.create_default_context(cadata=TEST_CERTIFICATE)
            async with ChatClient(secure, "alice", ssl=trust) as alice:
                assert await alice.send("hello") is not None
        assert "does this server expect ws://?" in await fails(plain.replace("ws", "wss", 1))


def test_errors_that_need_a_network():
    """Names and proxies fail in a sentence, too."""
    uri = parse_uri("wss://example.test/chat")
    for exc, says in [
        (socket.gaierror(-2, "unknown"), "the host 'example.test' is not known: check the URL."),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] x"), "TLS with example.test:443 failed"),
        (InvalidProxyStatus(Response(407, "", Headers())), "the proxy on the way to"),
        (NegotiationError("unsupported subprotocol: x"), "chose what we did not offer"),
        (SecurityError("more than 10 redirects"), "sent us elsewhere"),
        (OSError(101, "Network is unreachable"), "no connection to example.test:443: "),
        (ConnectionResetError(), "broke off during the TLS handshake"),
    ]:
        assert says in str(explain(exc, uri))


def test_which_failures_are_worth_another_attempt():
    """A network that is away may return; a certificate is not trusted the next time either."""
    for exc in (ConnectionRefusedError(), TimeoutError(), socket.gaierror(), ssl.SSLEOFError()):
        assert transient(exc)
    for status, expected in [(503, True), (429, True), (404, False), (401, False)]:
        assert transient(InvalidStatus(Response(status, "", Headers()))) is expected
    for exc in (ssl.SSLCertVerificationError(), NegotiationError("x"), InvalidMessage("x")):
        assert not transient(exc)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        ("9" * 5000, LONGEST),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST),
        ("-1", 0),
        ("nan", 0),
        ("soon", 0),
        ("", 0),
    ],
)
def test_retry_after_is_read_in_both_forms(value: str, seconds: float):
    """Seconds and dates count, within bounds; what makes no sense is no wait."""
    response = Response(503, "", Headers({"Retry-After": value}))
    assert retry_after(InvalidStatus(response)) == seconds


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("example.org", False)],
)
def test_proxies_are_left_out_on_loopback(host: str, expected: bool):
    """A proxy that the system may have has no business on this machine's own addresses."""
    assert is_loopback(host) is expected


# The parts by themselves.


async def json_session() -> tuple[JsonSession, Outbox]:
    """A session that has been welcomed at offset 10."""
    outbox = Outbox(limit=8, tries=3)
    session = JsonSession("alice", outbox, None, "")
    receive(session, Welcome("alice", "/", "epoch", 10, [], 0))
    return session, outbox


async def added(outbox: Outbox, text: str) -> Outgoing:
    """Put a message into the outbox."""
    out = Outgoing(text)
    await outbox.add(out)
    return out


def receive(session: JsonSession, event: Any) -> list[Event]:
    """Give the session an event of the server."""
    return list(session.receive(encode(event)))


async def test_acknowledgement_may_overtake_the_message():
    """The answer to a repeat can come before the replay of what it acknowledges."""
    session, outbox = await json_session()
    out = await added(outbox, "mine")
    assert receive(session, Ack(out.id, 13, 0.0)) == []
    assert session.offset == 10
    assert receive(session, Joined("bob", 11)) == [Joined("bob", 11)]
    assert receive(session, Message("bob", "x", "", 12)) == [Message("bob", "x", "", 12)]
    assert receive(session, Message("alice", "mine", out.id, 13)) == []
    assert session.offset == 13


async def test_nothing_is_given_twice():
    """An event at or before the newest offset is not passed on again."""
    session, _ = await json_session()
    assert receive(session, Message("bob", "x", "", 11)) != []
    assert receive(session, Message("bob", "x", "", 11)) == []


async def test_gap_in_the_offsets_is_told():
    """Should a server leave events out without a word, the numbers show it."""
    session, _ = await json_session()
    assert receive(session, Left("bob", 15)) == [Missed(4, 14), Left("bob", 15)]


async def test_nobody_else_can_acknowledge():
    """A message under my id from another sender is a message, not my acknowledgement."""
    session, outbox = await json_session()
    out = await added(outbox, "mine")
    forged = Message("mallory", "mine", out.id, 11)
    assert receive(session, forged) == [forged]
    assert not out.acknowledged.done()


async def test_refused_message_raises():
    """An error that names a message's id is that message's; any other is an event."""
    session, outbox = await json_session()
    out = await added(outbox, "mine")
    assert receive(session, Error("rate", "too fast", "other")) != []
    assert receive(session, Error("blank", "a blank message", out.id)) == []
    with pytest.raises(Refused, match="a blank message") as raised:
        await out.acknowledged
    assert raised.value.code == "blank"


async def test_message_that_is_not_understood_is_shown():
    """A newer or broken server can't end the client by what it says."""
    session, _ = await json_session()
    for data in ("nonsense", '{"type": "dance"}', b"\xff", "[" * 5000):
        (notice,) = session.receive(data)
        assert isinstance(notice, Notice)


MANY = "9" * 5000
"""More digits than Python makes a number of."""


async def test_text_lines_that_look_alike_are_told_apart():
    """Only what our server can't let a person say is taken for more than a message."""
    session = TextSession("bob")
    for line, event in [
        ("Welcome, bob!", Welcome("bob", "", "", 0, [], 0)),
        ("Welcome, stranger!", Notice("Welcome, stranger!")),
        ("[system] >>> x joined the chat", Joined("x")),
        ("[system] >>> x left the chat", Left("x")),
        ("[system] you missed 1 message", Missed(1, 0)),
        ("[system] you missed 20 messages", Missed(20, 0)),
        ("[system] you missed messages", Missed(None, 0)),
        (f"[system] you missed {MANY} messages", Notice(f"[system] you missed {MANY} messages")),
        ("[system] here now: x", Notice("[system] here now: x")),
        ("[x] [system] >>> y left the chat", Message("x", "[system] >>> y left the chat")),
        ("[x] two\nlines", Message("x", "two\nlines")),
        ("no brackets", Notice("no brackets")),
        (b"\x00\x01", Notice("a binary message of 2 bytes")),
    ]:
        assert list(session.receive(line)) == [event]


async def test_slow_iteration_is_told_what_it_lost():
    """The oldest events go first; the count is of room events, with gaps of the server's added."""
    inbox = Inbox(keep=3)
    inbox.put(Connected(101, "", None))
    for number in range(1, 5):
        inbox.put(Message("a", str(number), "", number))
    inbox.put(Missed(5, 9))
    for number in range(10, 13):
        inbox.put(Message("a", str(number), "", number))
    assert await inbox.get() == Missed(9, 9)
    assert [event.offset for event in [await inbox.get() for _ in range(3)]] == [10, 11, 12]  # ty: ignore
    inbox.put(Missed(None, 0))
    for number in range(13, 16):
        inbox.put(Message("a", str(number), "", number))
    assert (await inbox.get()) == Missed(None, 0)


async def test_outbox_waits_while_it_is_full():
    """`add` beyond the limit waits for an acknowledgement: the bound on what is repeated."""
    outbox = Outbox(limit=1, tries=3)
    one = await added(outbox, "one")
    adding = asyncio.create_task(added(outbox, "two"))
    await asyncio.sleep(0)
    assert (len(outbox), adding.done()) == (1, False)
    outbox.confirm(one.id, None)
    two = await adding
    assert [out.text for out in (await outbox.next(),)] == ["two"]
    assert two.id != one.id
