"""What an application of one's own does with the chat: over both libraries, in both protocols."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from waits import until
from websockets import ClientConnection, ConnectionClosed, InvalidStatus, connect

from wslessons import web
from wslessons.chat import ChatServer, Denied, Identity, Member, Opening
from wslessons.chat.events import SUBPROTOCOL
from wslessons.chat.identity import EXPIRED, REVOKED
from wslessons.client import ChatClient, Disconnected
from wslessons.errors import UserError
from wslessons.scaling import brokers
from wslessons.scaling.bus import from_url
from wslessons.serving import urls

Serve = Callable[[ChatServer], contextlib.AbstractAsyncContextManager[str]]


@contextlib.asynccontextmanager
async def over_websockets(chat: ChatServer) -> AsyncGenerator[str]:
    """Serve a chat by the library; give the lobby's URL."""
    async with asyncio.timeout(40), chat.serve() as server:
        yield urls(server)[0]


@contextlib.asynccontextmanager
async def over_asgi(chat: ChatServer) -> AsyncGenerator[str]:
    """Serve it by uvicorn."""
    async with asyncio.timeout(40), web.serve(chat) as server:
        yield f"{server.ws_url}/ws"


@pytest.fixture(params=[over_websockets, over_asgi], ids=["websockets", "asgi"])
def serve(request: pytest.FixtureRequest) -> Serve:
    """Serve a chat by either library."""
    return request.param


class Person:
    """A client in one of the two protocols that says what it hears in plain words."""

    def __init__(self, connection: ClientConnection, name: str) -> None:
        self.connection, self.name = connection, name
        self.is_json = connection.subprotocol == SUBPROTOCOL
        self.said = 0

    async def hello(self) -> None:
        """Give the name."""
        hello = {"type": "hello", "name": self.name}
        await self.connection.send(json.dumps(hello) if self.is_json else self.name)

    async def say(self, text: str, id: str = "") -> None:
        """Say something."""
        self.said += 1
        say = {"type": "say", "text": text, "id": id or str(self.said)}
        await self.connection.send(json.dumps(say) if self.is_json else text)

    async def hear(self, words: str) -> dict[str, Any]:
        """Wait for what has these words in it; return the event, in plain text the line."""
        while True:
            data = await self.connection.recv()
            assert isinstance(data, str)
            if words in data:
                return json.loads(data) if self.is_json else {"line": data}

    async def end(self) -> tuple[int, str]:
        """Wait for the end; return its code and reason."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self.connection.recv()
        return self.connection.close_code or 0, self.connection.close_reason or ""


@contextlib.asynccontextmanager
async def person(
    url: str, name: str, protocol: str, token: str = "", *, come_in: bool = True
) -> AsyncGenerator[Person]:
    """Connect, and come in."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    subprotocols = [SUBPROTOCOL] if protocol == "json" else None
    async with connect(
        url, proxy=None, additional_headers=headers, subprotocols=subprotocols, close_timeout=2
    ) as connection:
        one = Person(connection, name)
        with contextlib.suppress(ConnectionClosed) if not come_in else contextlib.nullcontext():
            await one.hello()
        if come_in:
            await one.hear("welcome" if one.is_json else "Welcome, ")
        yield one


both = pytest.mark.parametrize("protocol", ["text", "json"])


class Office:
    """Knows tokens; each may be good for a while only, or be no good any more."""

    def __init__(self) -> None:
        self.people = {"a": Identity("1", "ann"), "b": Identity("2")}
        self.lasting: dict[str, float] = {}
        """Seconds for which a token's identity lasts, from when it is shown."""
        self.asked: list[Opening] = []

    async def __call__(self, opening: Opening) -> Identity:
        """Say whose token it is."""
        self.asked.append(opening)
        identity = self.people.get(opening.token)
        if identity is not None and opening.token in self.lasting:
            identity = replace(identity, until=time.time() + self.lasting[opening.token])
        if identity is None:
            raise Denied("log in first", status=401)
        if opening.path == "/rooms/board" and identity.subject != "1":
            raise Denied("this room is not for you")
        return identity


@both
async def test_who_may_come_in_and_under_which_name(serve: Serve, protocol: str) -> None:
    """No login and the wrong room are refused over HTTP; the login decides the name, or not."""
    office = Office()
    async with serve(ChatServer(authenticate=office)) as url:
        for path, token, status, words in (
            ("", "", 401, b"log in first"),
            ("", "wrong", 401, b"log in first"),
            ("rooms/board", "b", 403, b"this room is not for you"),
        ):
            with pytest.raises(InvalidStatus) as refused:
                async with person(f"{url.rstrip('/')}/{path}".rstrip("/"), "x", protocol, token):
                    pass
            assert (refused.value.response.status_code, words) == (status, words)
            assert words in refused.value.response.body
        async with (
            person(url, "eve", protocol, "a") as ann,
            person(url, "bob", protocol, "b") as bob,
        ):
            await ann.hear("bob")
            await ann.say("hi")
            event = await bob.hear("hi")
            assert event.get("sender", event.get("line")) in ("ann", "[ann] hi")
        assert office.asked[-1].peer.startswith("127.0.0.1:")
        assert office.asked[-1].headers["authorization"] == "Bearer b"


@both
async def test_a_page_is_told_after_the_handshake(serve: Serve, protocol: str) -> None:
    """Who may not be told a status gets a close code and the reason."""

    async def authenticate(opening: Opening) -> Identity:
        raise Denied("only on weekdays", status=None, code=4003)

    async with (
        serve(ChatServer(authenticate=authenticate)) as url,
        person(url, "ann", protocol, come_in=False) as ann,
    ):
        assert await ann.end() == (4003, "only on weekdays")


@both
async def test_said_refuses_changes_and_carries_out(serve: Serve, protocol: str) -> None:
    """A filter, a command and a fault of the application, each answered once."""
    done: list[str] = []

    async def said(member: Member, text: str) -> str | None:
        match text:
            case "/clear":
                done.append(f"{member.name} in {member.room}")
                chat.notify("cleared", name=member.name)
                return None
            case "darn":
                raise Denied("no such words here")
            case "fail":
                raise RuntimeError("a fault of the application's")
            case _:
                return text.replace("heck", "h***")

    chat = ChatServer(said=said)
    async with (
        serve(chat) as url,
        person(url, "ann", protocol) as ann,
        person(url, "bob", protocol) as bob,
    ):
        await ann.say("/clear", "c")
        await ann.say("/clear", "c")
        await ann.hear("[system] cleared" if protocol == "text" else "cleared")
        await ann.say("darn")
        await ann.hear("no such words here")
        await ann.say("fail")
        await ann.hear("something went wrong here: this was not said")
        await ann.say("what the heck")
        heard = await bob.hear("h***")
        if protocol == "json":
            # The two before were "joined"; what was not said has no place in the log.
            assert (heard["offset"], heard["text"]) == (3, "what the h***")
            # A repeat of what was carried out is acknowledged, and not carried out again.
            assert done == ["ann in /"]
        else:
            assert done == ["ann in /"] * 2


async def test_what_waits_for_its_turn_is_judged_too() -> None:
    """A sender who is too fast and leaves gets past no filter."""

    async def said(member: Member, text: str) -> str | None:
        return text.replace("x", "-")

    chat = ChatServer(said=said, rate=5, burst=1)
    async with over_websockets(chat) as url, person(url, "bob", "text") as bob:
        async with person(url, "ann", "text") as ann:
            for n in range(5):
                await ann.say(f"x{n}")
        assert [(await bob.hear(f"] -{n}"))["line"] for n in range(5)] == [
            f"[ann] -{n}" for n in range(5)
        ]


@both
async def test_joined_greets_and_left_knows_who_went(serve: Serve, protocol: str) -> None:
    """A welcome bot: its words come after the welcome; who is turned away goes again."""
    gone: list[Member] = []

    async def joined(member: Member) -> None:
        if member.name == "eve":
            raise Denied("not you", code=4009)
        if member.name == "zoe":
            raise RuntimeError("a fault of the application's")
        chat.say(f"hello, {member.name}", sender="bot", room=member.room)

    async def left(member: Member) -> None:
        gone.append(member)
        raise Denied("means nothing here")

    chat = ChatServer(joined=joined, left=left)
    async with serve(chat) as url, person(url, "ann", protocol) as ann:
        await ann.hear("hello, ann")
        async with person(url, "eve", protocol) as eve:
            assert await eve.end() == (4009, "not you")
        async with person(url, "zoe", protocol) as zoe:
            await zoe.say("hi")
            await ann.hear("hi")
        await until(lambda: len(gone) == 2)
        assert [(m.name, m.room, m.identity) for m in gone] == [
            ("eve", "/", None),
            ("zoe", "/", None),
        ]


@pytest.fixture
def asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have people asked to renew their login as soon as they are in."""
    monkeypatch.setattr("wslessons.chat.application.SHARE", 1.0)
    monkeypatch.setattr("wslessons.chat.application.RENEWAL", 1e9)


@both
@pytest.mark.usefixtures("asked_at_once")
async def test_an_identity_that_is_not_renewed_ends(serve: Serve, protocol: str) -> None:
    """It is asked in time, and the end has a code of its own."""
    office = Office()
    office.lasting["a"] = 3.0
    chat = ChatServer(authenticate=office)
    async with serve(chat) as url, person(url, "ann", protocol, "a") as ann:
        asked = await ann.hear("[system] your login ends in" if protocol == "text" else "expires")
        assert protocol == "text" or 0 <= asked["seconds"] <= 3.0
        assert await ann.end() == (EXPIRED, "your login has ended: connect again with a new one")


@pytest.mark.usefixtures("asked_at_once")
async def test_a_login_ends_though_the_question_for_a_new_one_fails(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever can't be asked does not stay for ever."""

    def fail(seconds: float) -> None:
        raise RuntimeError("no such event")

    monkeypatch.setattr("wslessons.chat.application.Expires", fail)
    office = Office()
    office.lasting["a"] = 3600
    chat = ChatServer(authenticate=office)
    async with serve(chat) as url, person(url, "ann", "json", "a") as ann:
        assert await ann.end() == (EXPIRED, "your login has ended: connect again with a new one")


@pytest.mark.usefixtures("asked_at_once")
async def test_an_identity_is_renewed_by_one_of_the_same_person(serve: Serve) -> None:
    """Neither a wrong token nor somebody else's does; the old end means nothing afterwards."""
    office = Office()
    office.lasting |= {"a": 3600, "c": 2.0, "d": 3600}
    office.people["c"] = office.people["d"] = office.people["a"]
    chat = ChatServer(authenticate=office)
    async with serve(chat) as url, person(url, "ann", "json", "a") as ann:
        await ann.hear("expires")
        for token, words in (("wrong", "log in first"), ("b", "the login of somebody else")):
            await ann.connection.send(json.dumps({"type": "renew", "token": token}))
            error = await ann.hear("error")
            assert error["code"] == "denied"
            assert words in error["text"]
        for token, seconds in (("c", 2.0), ("d", 3600)):
            await ann.connection.send(json.dumps({"type": "renew", "token": token}))
            assert seconds - 2 <= (await ann.hear("renewed"))["seconds"] <= seconds
        await asyncio.sleep(2.5)  # past the end of c
        await ann.say("still here")
        await ann.hear("ack")


@pytest.mark.usefixtures("asked_at_once")
async def test_the_python_client_renews_by_itself(serve: Serve) -> None:
    """It is asked for a token at the handshake and for each `expires`, on one connection."""
    office, issued = Office(), 0

    async def token() -> str:
        nonlocal issued
        issued += 1
        office.people[f"t{issued}"] = office.people["a"]
        if issued < 4:
            office.lasting[f"t{issued}"] = 3600
        return f"t{issued}"

    chat = ChatServer(authenticate=office)
    async with serve(chat) as url, ChatClient(url, "x", token=token) as client:
        await until(lambda: len(office.asked) == 4)
        assert chat.people() == ["ann"]
        ack = await client.send("four logins, one connection")
        assert ack is not None
        assert ack.offset == 2
        await client.close()
        ends = [event.code async for event in client if isinstance(event, Disconnected)]
        assert ends == [1000]


async def test_a_client_whose_login_ends_comes_back_with_a_new_one() -> None:
    """What can't be renewed in band is at the next handshake."""
    office, calls = Office(), 0
    office.lasting["a"] = 2.0

    async def token() -> str:
        nonlocal calls
        calls += 1
        if calls == 2:
            del office.lasting["a"]
            raise RuntimeError("the login service is away")
        return "a"

    chat = ChatServer(authenticate=office)
    async with (
        over_websockets(chat) as url,
        ChatClient(url, "x", token=token, reconnect_delays=_at_once) as one,
    ):
        async for event in one:
            if isinstance(event, Disconnected):
                assert event.code == EXPIRED
                break
        assert await one.send("again here") is not None
        assert calls == 3


def _at_once() -> Any:
    while True:
        yield 0.0


async def test_a_client_without_a_login_says_why_it_ends() -> None:
    """401 is a sentence, and so is 4401 without a token to come back with."""
    office = Office()
    async with over_websockets(ChatServer(authenticate=office)) as url:
        with pytest.raises(UserError, match=r"401.*log in first"):
            async with ChatClient(url, "ann"):
                pass

        office.lasting["a"] = 1.0
        headers = {"Authorization": "Bearer a"}
        async with ChatClient(url, "ann", additional_headers=headers) as client:
            with pytest.raises(UserError, match=r"4401.*your login has ended"):
                async for _ in client:
                    pass


@both
async def test_a_revoked_identity_ends_everywhere_also_on_its_way_in(
    serve: Serve, protocol: str
) -> None:
    """All its connections end, others stay, and one that has not said its name yet is caught."""
    office = Office()
    chat = ChatServer(authenticate=office)
    async with (
        serve(chat) as url,
        person(url, "", protocol, "a") as ann,
        person(f"{url.rstrip('/')}/rooms/tea", "", protocol, "a") as again,
        person(url, "bob", protocol, "b") as bob,
        connect(
            url,
            proxy=None,
            additional_headers={"Authorization": "Bearer a"},
            subprotocols=[SUBPROTOCOL] if protocol == "json" else None,
        ) as late,
    ):
        del office.people["a"]
        chat.revoke("1", "you are out")
        assert await ann.end() == (REVOKED, "you are out")
        assert await again.end() == (REVOKED, "you are out")
        coming = Person(late, "ann")
        await coming.hello()
        assert (await coming.end())[0] == REVOKED
        await bob.say("still here")
        await bob.hear("ack") if protocol == "json" else None
        assert chat.people() == ["bob"]


@both
async def test_notices_and_words_from_anywhere(serve: Serve, protocol: str) -> None:
    """To all, to one room, to one person; from this loop and from another thread."""
    chat = ChatServer()
    with pytest.raises(RuntimeError, match="not served yet"):
        await asyncio.to_thread(chat.notify, "too early")
    async with (
        serve(chat) as url,
        person(url, "ann", protocol) as ann,
        person(f"{url.rstrip('/')}/rooms/tea", "bob", protocol) as bob,
    ):
        thread = threading.Thread(
            target=lambda: (
                chat.notify("to all\n[ann] of you"),
                chat.notify("to tea", room="/rooms/tea"),
                chat.notify("to ann", name="ann"),
                chat.say("good evening", sender="news", room="/rooms/tea"),
                chat.say("good morning", sender="news"),
            )
        )
        thread.start()
        assert "to all [ann] of you" in str(await ann.hear("to "))
        assert "to ann" in str(await ann.hear("to "))
        said = await ann.hear("good ")
        assert (said.get("sender"), said.get("text"), said.get("line")) in (
            ("news", "good morning", None),
            (None, None, "[news] good morning"),
        )
        assert "to all" in str(await bob.hear("to "))
        assert "to tea" in str(await bob.hear("to "))
        assert "good evening" in str(await bob.hear("good "))
        await asyncio.to_thread(thread.join)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda chat: chat.say(" ", sender="bot"), "1 to 8192 bytes"),
        (lambda chat: chat.say("x" * 9000, sender="bot"), "1 to 8192 bytes"),
        (lambda chat: chat.say("hi", sender="system"), "reserved"),
        (lambda chat: chat.say("hi", sender="bot", room="tea"), "give / or /rooms/NAME"),
        (lambda chat: chat.notify("\n"), "1 to 8192 bytes"),
    ],
)
async def test_what_an_application_can_not_say(
    call: Callable[[ChatServer], None], words: str
) -> None:
    """It is told at once, in one sentence."""
    with pytest.raises(ValueError, match=words):
        call(ChatServer())


async def test_an_application_opens_no_room_too_many() -> None:
    """A room that only a bot has been in goes like any empty one; at the bound it is refused."""
    chat = ChatServer(max_rooms=1)
    chat.say("hi", sender="bot", room="/rooms/a")
    assert list(chat.rooms) == ["/rooms/a"]
    async with over_websockets(chat) as url, person(f"{url}/rooms/b", "ann", "text"):
        with pytest.raises(UserError, match="All rooms are taken"):
            chat.say("hi", sender="bot", room="/rooms/c")
    chat.forget("/rooms/b")


async def test_one_who_does_not_read_holds_a_bounded_number_of_notices() -> None:
    """What is too much for one is dropped for that one; the others get all."""
    chat = ChatServer()
    async with (
        over_websockets(chat) as url,
        person(url, "ann", "text") as ann,
        person(url, "bob", "text") as bob,
    ):
        await ann.hear("bob joined")
        ann.connection.transport.pause_reading()
        for n in range(3000):
            chat.notify(f"{n} {'x' * 8000}", name="ann")
            if n % 50 == 0:
                await asyncio.sleep(0)
        assert max(chat._notices.values(), default=0) <= 64
        chat.notify("for bob", name="bob")
        await bob.hear("for bob")
        ann.connection.transport.resume_reading()
        await ann.hear("] 0 x")
        reading = asyncio.create_task(ann.end())
        await until(lambda: not chat._notices)
        await ann.connection.close()
        await reading


async def login(request: Any) -> Identity:
    """Tell people by a cookie."""
    if request.cookies.get("session") != "s1":
        raise Denied("log in first", status=401)
    return Identity("17", "ann", until=time.time() + 3600)


async def test_a_ticket_names_who_is_logged_in() -> None:
    """Without a login there is no ticket, and without a ticket nobody comes in."""
    async with asyncio.timeout(40), web.serve(ChatServer(), login=login) as server:
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{server.url}/ticket") as answer:
                assert (answer.status, await answer.text()) == (401, "log in first\n")
            cookies = {"Cookie": "session=s1"}
            async with session.post(f"{server.url}/ticket", headers=cookies) as answer:
                ticket = (await answer.json())["ticket"]
            other = cookies | {"Origin": "http://elsewhere.example"}
            async with session.post(f"{server.url}/ticket", headers=other) as answer:
                assert answer.status == 403
        async with person(f"{server.ws_url}/ws", "bob", "text", come_in=False) as nobody:
            assert await nobody.end() == (1008, "ticket missing: POST /ticket for one")
        url = f"{server.ws_url}/ws?ticket={ticket}"
        async with person(url, "bob", "json", come_in=False) as one:
            assert (await one.hear("welcome"))["name"] == "ann"
            await one.connection.send(json.dumps({"type": "renew", "token": ticket}))
            assert 3500 < (await one.hear("renewed"))["seconds"] <= 3600
            await one.connection.send(json.dumps({"type": "renew", "token": "x"}))
            assert "not one of ours" in (await one.hear("error"))["text"]


@pytest.fixture(params=["nats", "redis-stream"])
async def bus_url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """Start a broker."""
    kind, _, stream = request.param.partition("-")
    async with asyncio.timeout(60), brokers.run(kind) as broker:
        yield f"{broker.url}?stream=chat" if stream else broker.url


async def test_all_servers_obey_whichever_is_told(bus_url: str) -> None:
    """Notices and revocations reach people elsewhere, and a process without any people speaks."""
    office = Office()
    async with (
        from_url(bus_url) as one_bus,
        from_url(bus_url) as other_bus,
        from_url(bus_url) as script_bus,
    ):
        one = ChatServer(bus=one_bus, authenticate=office)
        other = ChatServer(bus=other_bus, authenticate=office)
        async with (
            over_websockets(one) as one_url,
            over_websockets(other) as other_url,
            person(one_url, "", "json", "a") as ann,
            person(other_url, "bob", "text", "b") as bob,
        ):
            script = ChatServer(bus=script_bus)
            script.say("the shop is open", sender="news")
            assert (await ann.hear("shop"))["sender"] == "news"
            assert await bob.hear("shop") == {"line": "[news] the shop is open"}
            script.notify("for all")
            await ann.hear("for all")
            await bob.hear("[system] for all")
            other.revoke("1")
            assert await ann.end() == (REVOKED, "your login was revoked")
            await bob.hear("ann left")
