"""The page's chat client in Chromium, against servers that say what a test wants them to say."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest
from playwright.async_api import Page, expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from webs import serving

from wslessons import asgi
from wslessons.chat import ChatServer
from wslessons.chat.events import SUBPROTOCOL
from wslessons.web.page import page_routes


class Member:
    """The other end of a page's WebSocket: what a server knows of a member."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    async def hear(self, kind: str) -> dict[str, Any]:
        """Return the next event of a kind; heartbeats are answered on the way."""
        while True:
            event = json.loads(await self._websocket.receive_text())
            if event["type"] == kind:
                return event
            if event["type"] == "ping":
                await self.tell(type="pong", id=event["id"])

    async def tell(self, **event: Any) -> None:
        """Send an event."""
        await self._websocket.send_text(json.dumps(event))

    async def welcome(self, epoch: str = "e", offset: int = 0) -> None:
        """Let it in."""
        await self.hear("hello")
        await self.tell(
            type="welcome", name="eve", room="/", epoch=epoch, offset=offset, people=[], count=0
        )

    async def message(self, offset: int, text: str = "hi") -> None:
        """Tell it what bob said."""
        await self.tell(type="message", sender="bob", text=text, id="", offset=offset, time=1.0)

    async def ack(self, id: str, offset: int) -> None:
        """Acknowledge what it said."""
        await self.tell(type="ack", id=id, offset=offset, time=1.0)

    async def send(self, text: str) -> None:
        """Send what may be no event."""
        await self._websocket.send_text(text)

    async def close(self, code: int) -> None:
        """End it."""
        await self._websocket.close(code)


@contextlib.asynccontextmanager
async def scripted(
    *script: Callable[[Member], Awaitable[None]], refusals: list[Response] | None = None
) -> AsyncGenerator[str]:
    """Serve the page, and one step of `script` to each connection (the last to all others, too).

    Tickets are refused first, with `refusals`.
    """
    steps, answers = list(script), [] if refusals is None else refusals

    async def ticket(request: Request) -> Response:
        return answers.pop(0) if answers else JSONResponse({"ticket": "t"})

    async def socket(websocket: WebSocket) -> None:
        step = steps.pop(0) if len(steps) > 1 else steps[0]
        await websocket.accept(SUBPROTOCOL)
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            member = Member(websocket)
            await step(member)
            await member.hear("the end")

    routes = [
        *page_routes(),
        Route("/ticket", ticket, methods=["POST"]),
        WebSocketRoute("/ws", socket),
    ]
    async with asyncio.timeout(100), asgi.serve(Starlette(routes=routes)) as server:
        yield server.url


START = """async (options) => {
    const { ChatClient } = await import("./static/client.js");
    const { name, room } = { name: "eve", room: "", ...options };
    window.eve = new ChatClient(document.baseURI, name, room, options);
    window.states = [];
    window.events = [];
    eve.addEventListener("state", ({ state, reason, delay }) => {
        states.push({ state, reason, delay });
    });
    eve.addEventListener("chat", ({ event }) => events.push(event));
    eve.start();
}"""


async def start(page: Page, url: str, **options: Any) -> None:
    """Start the client `eve` on the page."""
    await page.goto(url)
    await page.evaluate(START, options)


async def until(page: Page, condition: str) -> None:
    """Wait until a condition in JavaScript holds. (The page's policy forbids playwright's eval.)"""
    await page.evaluate(f"""new Promise((resolve) => {{
        const look = () => ({condition} ? resolve() : setTimeout(look, 10));
        look();
    }})""")


async def happened(page: Page, kind: str) -> list[dict[str, Any]]:
    """Return the events of one kind that the page was told."""
    return await page.evaluate("(kind) => events.filter(({ type }) => type === kind)", kind)


async def refused(page: Page, text: str) -> str:
    """Return why a text can't be said."""
    return await page.evaluate(
        "(text) => { try { eve.say(text); } catch (error) { return error.message; } }", text
    )


async def open_states(page: Page, count: int) -> None:
    """Wait until the client has been let in so many times."""
    await until(page, f"states.filter(({{ state }}) => state === 'open').length === {count}")


async def heard(queue: asyncio.Queue[dict[str, Any]], member: Member) -> None:
    """Put all that a member says into a queue."""
    while True:
        queue.put_nowait(await member.hear("say"))


@pytest.mark.parametrize("status", [408, 425, 429, 503])
async def test_a_server_that_says_later_is_asked_later(page: Page, status: int):
    """What is as transient as 503 is another attempt, after the seconds of `Retry-After`."""
    refusal = PlainTextResponse("slow down", status, {"Retry-After": "1"})
    # Chromium itself repeats a request at once that is answered with 408 on a used connection.
    refusals: list[Response] = [refusal] * (9 if status == 408 else 1)
    async with scripted(Member.welcome, refusals=refusals) as url:
        await start(page, url)
        await until(page, "eve.state === 'waiting'")
        refusals.clear()
        await open_states(page, 1)
        waiting = await page.evaluate("states.find(({ state }) => state === 'waiting')")
        assert waiting["reason"] == "slow down"
        assert 1000 <= waiting["delay"] <= 2000


async def test_retry_after_is_read_in_both_forms(page: Page):
    """Seconds or a date, from nothing to an hour; what is neither is nothing."""
    values = ["5", "99999999999999999999", "-1", "soon", None, "Thu, 01 Jan 1970 00:00:07 GMT"]
    async with scripted(Member.welcome) as url:
        await page.goto(url)
        waits = await page.evaluate(
            """async (values) => {
                const { retryAfter } = await import("./static/client.js");
                return values.map((value) => retryAfter(value, 0));
            }""",
            values,
        )
        assert waits == [5000, 3_600_000, 0, 0, 0, 7000]


async def test_an_acknowledgement_in_a_gap_is_asked_for_again(page: Page):
    """The answer is among what was missed: the same id is said again, and answered."""

    async def lose_the_answer(member: Member) -> None:
        await member.welcome()
        first = await member.hear("say")
        await member.tell(type="missed", count=9, offset=9)
        again = await member.hear("say")
        assert again == first
        await member.ack(again["id"], 4)

    async with scripted(lose_the_answer) as url:
        await start(page, url)
        await open_states(page, 1)
        id = await page.evaluate("eve.say('hello')")
        await until(page, "eve.pending.size === 0")
        assert [each["id"] for each in await happened(page, "ack")] == [id]
        # That number is of the past and moves nothing.
        assert await page.evaluate("eve.offset") == 9


async def test_a_gap_in_the_numbers_is_told_and_asked_about(page: Page):
    """Numbers that never came are missed, exactly as many; an answer may be among them."""

    async def skip(member: Member) -> None:
        await member.welcome()
        await member.message(1)
        first = await member.hear("say")
        await member.message(7)
        await member.message(7)
        again = await member.hear("say")
        assert again == first
        await member.ack(again["id"], 3)

    async with scripted(skip) as url:
        await start(page, url)
        await until(page, "events.some(({ type }) => type === 'message')")
        await page.evaluate("eve.say('hello')")
        await until(page, "eve.pending.size === 0")
        assert await happened(page, "missed") == [{"type": "missed", "count": 5, "offset": 6}]
        assert [each["offset"] for each in await happened(page, "message")] == [1, 7]


async def test_half_an_emoji_harms_nobody(page: Page):
    """Half of a surrogate pair, in a text or in the name, is said as U+FFFD, once."""
    chat = ChatServer()
    async with asyncio.timeout(100), serving(chat=chat) as served:
        await page.goto(served.url)
        await page.evaluate(START.replace('"eve"', '"half \\ud83d"'), {})
        await open_states(page, 1)
        await page.evaluate("eve.say('cut \\ud83d')")
        await until(page, "eve.pending.size === 0")
        assert len(await happened(page, "ack")) == 1
        assert chat.people() == ["half \ufffd"]
        texts = [getattr(record.event, "text", None) for record in chat.rooms["/"].log]
        assert "cut \ufffd" in texts


async def test_a_text_that_is_too_long_harms_only_itself(page: Page):
    """It is refused before it is sent, by its size on the wire; the others are not harmed."""
    async with asyncio.timeout(100), serving() as served:
        await start(page, served.url)
        await open_states(page, 1)
        sentence = await refused(page, "\u6f22" * 3000)
        assert sentence.startswith("A message has at most 8192 bytes; this one has 9")
        await page.evaluate("eve.say('next')")
        await until(page, "eve.pending.size === 0")
        assert len(await happened(page, "ack")) == 1
        assert await page.evaluate("states.map(({ state }) => state)") == ["connecting", "open"]


async def test_what_cannot_be_said_stays_in_the_field(page: Page):
    """The page says why, and keeps what was typed."""
    async with asyncio.timeout(100), serving() as served:
        await page.goto(served.url)
        await page.get_by_label("Your name").fill("alice")
        await page.get_by_role("button", name="Join").click()
        await expect(page.get_by_role("status")).to_have_text("connected")
        await page.evaluate("document.getElementById('text').maxLength = 9000")
        await page.get_by_label("Message", exact=True).fill("x" * 9000)
        await page.keyboard.press("Enter")
        await expect(page.get_by_text("A message has at most 8192 bytes")).to_be_visible()
        assert len(await page.get_by_label("Message", exact=True).input_value()) == 9000


async def test_a_late_welcome_after_a_break_is_another_attempt(page: Page):
    """A server that is busy after its restart, and lets nobody in in time, is asked again."""

    async def break_off(member: Member) -> None:
        await member.welcome()
        await member.close(1012)

    async def say_nothing(member: Member) -> None:
        await member.hear("the end")

    async with scripted(break_off, say_nothing, Member.welcome) as url:
        await start(page, url, timeout=300)
        await open_states(page, 2)
        reasons = await page.evaluate("states.map(({ reason }) => reason).filter(Boolean)")
        assert reasons == ["connection lost, code 1012", "no sign of life from the server"]


async def test_a_restarted_server_leaves_what_was_written_in_doubt(page: Page):
    """The new life knows no ids of the old one: repeated, a text might be said twice."""
    said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def take_and_break_off(member: Member) -> None:
        await member.welcome()
        said.put_nowait(await member.hear("say"))
        await member.close(1012)

    async def begin_anew(member: Member) -> None:
        await member.welcome("another")
        await heard(said, member)

    async with scripted(take_and_break_off, begin_anew) as url:
        await start(page, url)
        await open_states(page, 1)
        written = await page.evaluate("eve.say('written')")
        assert (await said.get())["id"] == written
        await until(page, "eve.state === 'waiting'")
        unwritten = await page.evaluate("eve.say('not written yet')")
        assert (await said.get())["id"] == unwritten
        (error,) = await happened(page, "error")
        assert (error["id"], error["code"]) == (written, "unconfirmed")


async def test_the_end_answers_what_waits(page: Page):
    """Who said something is told what became of it, also when the server closes for good."""

    async def end(member: Member) -> None:
        await member.welcome()
        await member.hear("say")
        await member.close(1008)

    async with scripted(end) as url:
        await start(page, url)
        await open_states(page, 1)
        id = await page.evaluate("eve.say('hello')")
        await until(page, "eve.state === 'ended'")
        assert [each["id"] for each in await happened(page, "error")] == [id]
        assert await refused(page, "x") == "The chat has ended: join again"


async def test_acknowledgements_without_end_take_no_memory(page: Page):
    """A server may invent acknowledgements; of ids that are none of ours nothing is remembered."""

    async def invent(member: Member) -> None:
        await member.welcome()
        for number in range(3000):
            await member.ack(f"invented {number}", 10 + 2 * number)
        await member.message(1, "the end")

    async with scripted(invent) as url:
        await start(page, url)
        await until(page, "events.some(({ text }) => text === 'the end')")
        assert await page.evaluate("eve.early.size") == 0


async def test_what_is_no_event_is_ignored(page: Page):
    """A message that can't be read, or of a kind to come, leaves the connection as it is."""

    async def babble(member: Member) -> None:
        await member.welcome()
        for text in ("", "{", "null", "7", "[]", '{"type": 3}', '{"type": "from the future"}'):
            await member.send(text)
        await member.message(1, "the end")

    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    async with scripted(babble) as url:
        await start(page, url)
        await until(page, "events.some(({ text }) => text === 'the end')")
        assert problems == []
        assert len(await page.evaluate("states")) == 2


@pytest.mark.parametrize("room", [".", ".."])
async def test_rooms_that_are_a_way_up_are_refused(page: Page, room: str):
    """In a path `.` and `..` mean another one: the form refuses them, the client and the server."""
    async with asyncio.timeout(100), serving() as served:
        await page.goto(served.url)
        await page.get_by_label("Your name").fill("alice")
        await page.get_by_label("Room").fill(room)
        assert await page.evaluate("document.getElementById('join').checkValidity()") is False
        await start(page, served.url, room=room)
        reasons = await page.evaluate("states.map(({ reason }) => reason)")
        assert reasons == ["a room can't be called . or .."]
        assert served.chat.refusal(f"/rooms/{room}") is not None


@pytest.mark.parametrize(("status", "state"), [(431, "ended"), (404, "ended"), (503, "waiting")])
async def test_a_handshake_that_fails_is_explained_over_http(page: Page, status: int, state: str):
    """A page isn't told why: it asks by GET, and shows what it is told."""

    async def refuse(websocket: WebSocket) -> None:
        await websocket.close()

    async def explain(request: Request) -> Response:
        return PlainTextResponse("because", status)

    async def ticket(request: Request) -> Response:
        return JSONResponse({"ticket": "t"})

    routes = [
        *page_routes(),
        Route("/ticket", ticket, methods=["POST"]),
        WebSocketRoute("/ws", refuse),
        Route("/ws", explain),
    ]
    async with asyncio.timeout(100), asgi.serve(Starlette(routes=routes)) as server:
        await start(page, server.url)
        await until(page, f"eve.state === '{state}'")
        # (Who waits may be trying again by now.)
        assert await page.evaluate("states.some(({ reason }) => reason === 'because')")
        await page.evaluate("eve.stop()")


@contextlib.asynccontextmanager
async def proxy(target: str, change: Callable[[list[str]], list[str]]) -> AsyncGenerator[str]:
    """Pass HTTP requests on, one per connection, after `change` has had their lines."""
    port = int(target.rpartition(":")[2])

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
            lines = [*change(head), "Connection: close", "", ""]
            up_writer.write("\r\n".join(lines).encode("latin-1"))
            while data := await up_reader.read(65536):
                writer.write(data)
            up_writer.close()
        writer.close()

    server = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def without(*names: str) -> Callable[[list[str]], list[str]]:
    """Return what drops headers, as proxies do."""
    return lambda head: [line for line in head if line.partition(":")[0].lower() not in names]


async def test_a_proxy_that_keeps_the_upgrade_is_named(page: Page):
    """HTTP gets through and a WebSocket doesn't: the page says what the proxy has to pass on."""
    async with (
        asyncio.timeout(100),
        serving() as served,
        proxy(served.url, without("upgrade", "connection")) as url,
    ):
        await start(page, url)
        await until(page, "eve.state === 'ended'")
        reason = await page.evaluate("states.at(-1).reason")
        assert "a proxy on the way must pass on the headers Upgrade and Connection" in reason
        tries = await page.evaluate("states.filter(({ state }) => state === 'connecting').length")
        assert tries == 3


async def test_a_proxy_that_rewrites_the_host_is_named(page: Page):
    """The page's origin is not the host that the server was asked for: the page says the cure."""

    def change(head: list[str]) -> list[str]:
        return [*without("host", "connection")(head), "Host: backend.example:8000"]

    async with (
        asyncio.timeout(100),
        serving(hosts=["backend.example"]) as served,
        proxy(served.url, change) as url,
    ):
        await start(page, url)
        await until(page, "eve.state === 'ended'")
        reason = await page.evaluate("states.at(-1).reason")
        assert "its origin is not allowed" in reason
        assert f"or the server is to be started with --origins {url}." in reason


async def test_a_server_that_is_about_to_stop_is_quoted(page: Page):
    """A handshake that fails is explained over HTTP, and the attempt is repeated."""
    async with asyncio.timeout(100), serving() as served:
        served.web.draining = True
        await start(page, served.url)
        await until(page, "eve.state === 'waiting'")
        assert await page.evaluate("states.at(-1).reason") == "This server is about to stop."
        served.web.draining = False
        await open_states(page, 1)


async def test_http_says_what_a_websocket_would_be_told():
    """GET where a WebSocket belongs is 426, or the refusal that the handshake would get."""
    async with serving(chat=ChatServer(max_rooms=1)) as served:
        status, text, answer = await served.request("/ws")
        assert (status, answer.headers["Upgrade"]) == (426, "websocket")
        assert text == "Here is a WebSocket: ask for the upgrade.\n"
        async with served.join("bob"):
            status, text, _ = await served.request("/ws/rooms/another")
            assert (status, text) == (503, "All rooms are taken: try again later.\n")
        status, text, _ = await served.request("/ws", headers={"Cookie": "x" * 8100})
        assert status == 431
        served.web.draining = True
        status, text, _ = await served.request("/ws")
        assert (status, text) == (503, "This server is about to stop.\n")
