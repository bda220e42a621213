"""The chat page in Chromium: people here and elsewhere, breaks, attacks, and how it looks."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import pytest
from looks import complaints
from playwright.async_api import Page, expect
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket
from webs import read_until, serving

from wslessons import asgi, web
from wslessons.chat import ChatServer, Identity
from wslessons.chat.events import Message
from wslessons.client import ChatClient
from wslessons.link import Link
from wslessons.processes import free_port


async def enter(page: Page, url: str, name: str) -> None:
    """Open the page and join as `name`."""
    await page.goto(url)
    await page.get_by_label("Your name").fill(name)
    await page.get_by_role("button", name="Join").click()
    await expect(page.get_by_role("status")).to_have_text("connected")


async def say(page: Page, text: str) -> None:
    """Type `text` and press Enter."""
    await page.get_by_label("Message", exact=True).fill(text)
    await page.keyboard.press("Enter")


async def test_two_tabs_and_a_client_talk(page: Page):
    """Two tabs and a `ChatClient` on the other library hear each other; rosters and acks agree."""
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    chat = ChatServer()
    async with asyncio.timeout(100), serving(chat=chat) as served, chat.serve() as library:
        assert page.context.browser is not None
        other = await page.context.browser.new_page()
        await enter(page, served.url, "alice")
        await enter(other, served.url, "bob")
        port = library.sockets[0].getsockname()[1]
        async with ChatClient(f"ws://127.0.0.1:{port}", "carol") as carol:
            await expect(page.get_by_role("listitem").filter(has_text="carol")).to_have_count(1)
            await expect(page.get_by_role("log")).to_contain_text("carol joined")
            await say(page, "hello from a tab")
            await expect(page.get_by_text("· sent")).to_have_count(1)
            await expect(other.get_by_role("log")).to_contain_text("hello from a tab")
            await carol.send("hello from a script")
            for tab in (page, other):
                await expect(tab.get_by_role("log")).to_contain_text("hello from a script")
                await expect(tab.get_by_role("heading", name="Here")).to_have_text("Here (3)")
            async for event in carol:
                if isinstance(event, Message):
                    assert (event.sender, event.text) == ("alice", "hello from a tab")
                    break
        await expect(other.get_by_role("log")).to_contain_text("carol left")
        await other.close()
        await expect(page.get_by_role("log")).to_contain_text("bob left")
        # Once the server is gone, the page's next attempt is refused, and the browser says so.
        assert problems == []


async def test_hostile_text_stays_text(page: Page):
    """Markup in names and messages is shown as it was typed, and makes no element."""
    bad = "<img src=x onerror=document.title='owned'><b id=injected>"
    async with asyncio.timeout(100), serving() as served:
        await enter(page, served.url, "<i>alice")
        async with served.join("<b id=injected>") as other:
            await other.send(bad)
            await expect(page.get_by_text(bad)).to_be_visible()
            await say(page, bad)
            await expect(page.get_by_text(bad)).to_have_count(2)
        assert await page.locator("#injected").count() == 0
        assert await page.locator("#chat img").count() == 0
        assert await page.title() == "lobby · wslessons chat"


async def test_it_comes_back_after_a_restart_and_loses_nothing(page: Page):
    """The server goes, its port comes back: what both sides said meanwhile arrives, once."""
    chat = ChatServer()
    async with asyncio.timeout(100):
        port = free_port()
        server = await asgi.start(web.application(chat), port=port, **web.OPTIONS)
        async with chat.serve() as library:
            away = library.sockets[0].getsockname()[1]
            async with ChatClient(f"ws://127.0.0.1:{away}", "carol") as carol:
                await enter(page, server.url, "alice")
                await say(page, "before")
                await expect(page.get_by_text("· sent")).to_have_count(1)
                await server.stop()
                await expect(page.get_by_role("status")).to_contain_text("reconnecting")
                await say(page, "into the tunnel")
                await expect(page.get_by_text("· sending")).to_have_count(1)
                await carol.send("while you were away")
                server = await asgi.start(web.application(chat), port=port, **web.OPTIONS)
                await expect(page.get_by_role("status")).to_have_text("connected")
                await expect(page.get_by_text("· sent")).to_have_count(2)
                await expect(page.get_by_text("while you were away")).to_have_count(1)
                heard: list[str] = []
                async for event in carol:
                    if isinstance(event, Message):
                        heard.append(event.text)
                        if event.text == "into the tunnel":
                            break
                assert heard == ["before", "into the tunnel"]
                await carol.send("the end")
                await expect(page.get_by_text("the end")).to_be_visible()
                texts = await page.locator(".message .text").all_inner_texts()
                expected = ["before", "into the tunnel", "while you were away", "the end"]
                assert texts == expected
                await server.stop()


async def test_it_says_how_much_was_missed_and_when_nobody_knows(page: Page):
    """More than the room keeps is a counted gap; a new life of the server is told as one."""
    chat = ChatServer(capacity=16)
    async with asyncio.timeout(100), chat.serve() as library:
        port = free_port()
        server = await asgi.start(web.application(chat), port=port, **web.OPTIONS)
        away = library.sockets[0].getsockname()[1]
        async with ChatClient(f"ws://127.0.0.1:{away}", "carol") as carol:
            await enter(page, server.url, "alice")
            await server.stop()
            await expect(page.get_by_role("status")).to_contain_text("reconnecting")
            for number in range(40):
                await carol.send(f"line {number}")
            server = await asgi.start(web.application(chat), port=port, **web.OPTIONS)
            # Kept are her own return and the last 15 lines; gone are her leaving and 25 lines.
            await expect(page.get_by_text("You missed 26 messages")).to_be_visible()
            await expect(page.get_by_text("line 39")).to_be_visible()
            assert await page.get_by_text("line 24", exact=True).count() == 0
        await server.stop()
        server = await asgi.start(web.application(ChatServer()), port=port, **web.OPTIONS)
        await expect(page.get_by_text("The server was restarted")).to_be_visible()
        await expect(page.get_by_role("heading", name="Here")).to_have_text("Here (1)")
        await server.stop()


async def test_a_silent_line_is_given_up(page: Page):
    """Bytes go nowhere and nobody says so: the page's own heartbeat notices, and it comes back."""
    async with asyncio.timeout(100), serving() as served, Link(served.ws_url) as link:
        url = link.url.replace("ws", "http", 1)
        await page.goto(url)
        await page.evaluate(JOIN, {"interval": 300, "timeout": 3000})
        await expect(page).to_have_title("connecting open")
        fault = link.stall()
        await expect(page).to_have_title(re.compile("open waiting:no sign of life"))
        fault.undo()
        await expect(page).to_have_title(re.compile("waiting.* open$"))
        await page.evaluate("window.eve.stop()")


# The same client as the page's, with a pulse (ms) of the test's; its states are the title.
JOIN = """async (pulse) => {
    const { ChatClient } = await import("./static/client.js");
    window.eve = new ChatClient(document.baseURI, "eve", "", pulse);
    document.title = "";
    eve.addEventListener("state", ({ state, reason }) => {
        document.title += ` ${state}${reason ? ":" + reason : ""}`;
    });
    eve.start();
}"""


async def test_it_writes_no_more_than_the_network_takes(page: Page):
    """While much is buffered nothing more is written; when there is room all of it is, once."""
    async with asyncio.timeout(100), serving() as served, served.join("bob") as bob:
        await page.goto(served.url)
        await page.evaluate(JOIN, {"interval": 20_000, "timeout": 60_000})
        await expect(page).to_have_title("connecting open")
        written = await page.evaluate("""() => {
            window.buffered = 1_000_000;
            const fake = { get: () => window.buffered };
            Object.defineProperty(WebSocket.prototype, "bufferedAmount", fake);
            ["one", "two", "three"].forEach((text) => eve.say(text));
            return eve.written;
        }""")
        assert written == 0
        await page.evaluate("window.buffered = 0")
        assert await read_until(bob, "[eve] three") == [
            "[system] >>> eve joined the chat",
            "[eve] one",
            "[eve] two",
            "[eve] three",
        ]
        await page.evaluate("eve.stop()")


async def test_it_works_behind_a_prefix(page: Page):
    """Under another path, as jupyter-server-proxy has it, the page finds all that is its own."""
    prefix = "/user/ann/proxy/8000"
    mounted = Starlette(routes=[Mount(prefix, web.application())])
    async with asyncio.timeout(100), asgi.serve(mounted, **web.OPTIONS) as server:
        await enter(page, f"{server.url}{prefix}/", "alice")
        await say(page, "hello")
        await expect(page.get_by_text("· sent")).to_have_count(1)


async def test_a_name_that_is_refused_leads_back_to_the_door(page: Page):
    """The server's reason is shown where it can be put right."""
    async with asyncio.timeout(100), serving() as served:
        await page.goto(served.url)
        await page.get_by_label("Your name").fill("system")
        await page.get_by_role("button", name="Join").click()
        await expect(page.get_by_role("alert")).to_have_text("the name system is reserved")
        await expect(page.get_by_label("Your name")).to_be_focused()
        await page.keyboard.type("alice")
        await page.get_by_label("Your name").fill("alice")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("status")).to_have_text("connected")
        await expect(page.get_by_label("Message", exact=True)).to_be_focused()


async def test_a_page_without_ticket_is_refused_clearly(page: Page):
    """A script on our own page that sends no ticket reads why."""
    async with asyncio.timeout(100), serving() as served:
        await page.goto(served.url)
        answer = await page.evaluate(
            """(url) => new Promise((resolve) => {
                const socket = new WebSocket(url);
                socket.onclose = ({ code, reason }) => resolve([code, reason]);
            })""",
            f"{served.ws_url}/ws",
        )
        assert answer == [1008, "ticket missing: POST /ticket for one"]


async def secret(websocket: WebSocket) -> None:
    """Trust the cookie, as a first draft does."""
    await websocket.accept()
    await websocket.send_text(f"secret of {websocket.cookies.get('session')}")
    await websocket.close()


async def account(request: Request) -> Response:
    """Log in by looking, and tell the same secret over HTTP."""
    answer = PlainTextResponse("secret")
    answer.set_cookie("session", "alice", samesite="strict")
    return answer


@pytest.mark.parametrize("checked", [False, True], ids=["unchecked", "checked"])
async def test_a_hostile_page_hijacks_a_websocket_unless_the_origin_is_checked(
    page: Page, checked: bool
):
    """CORS keeps a foreign page from reading HTTP, not from a WebSocket; only the check does."""
    stack: list[Any] = [Middleware(CORSMiddleware, allow_origins=["https://bank.example"])]
    if checked:
        stack.append(Middleware(web.OriginCheck))
    routes = [Route("/", account), WebSocketRoute("/ws", secret)]
    async with (
        asyncio.timeout(100),
        asgi.serve(Starlette(routes=routes, middleware=stack)) as bank,
        asgi.serve(web.hostile_application(bank.url, f"{bank.ws_url}/ws")) as hostile,
    ):
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        await page.goto(bank.url)
        await page.goto(hostile.url)
        await expect(page.locator("#fetch")).to_have_text("refused")
        if checked:
            await expect(page.locator("#socket")).to_have_text(re.compile("closed, code 1006"))
            assert any("Unexpected response code: 403" in text for text in said)
        else:
            await expect(page.locator("#socket")).to_have_text("read: secret of alice")


async def test_the_chat_refuses_a_hostile_page(page: Page):
    """Our own application answers a foreign page with 403."""
    async with (
        asyncio.timeout(100),
        serving() as served,
        asgi.serve(web.hostile_application(served.url, f"{served.ws_url}/ws", "eve")) as hostile,
    ):
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        await page.goto(hostile.url)
        await expect(page.locator("#socket")).to_have_text(re.compile("closed, code 1006"))
        assert any("Unexpected response code: 403" in text for text in said)
        assert served.chat.people() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_fits_a_phone_and_can_be_read(page: Page, scheme: Any):
    """At 360 pixels nothing sticks out; all is reached by keyboard; contrast is 4.5 and more."""
    async with asyncio.timeout(100), serving() as served:
        await page.emulate_media(color_scheme=scheme)
        await page.set_viewport_size({"width": 360, "height": 640})
        await enter(page, served.url, "alice")
        async with served.join("bob") as bob:
            await bob.send("a" * 200)
            await say(page, "b" * 200)
            await expect(page.get_by_text("a" * 200)).to_be_visible()
            assert await page.evaluate("document.documentElement.scrollWidth") == 360
            assert await complaints(page.locator("#chat")) == []
            reached = set()
            for _ in range(8):
                await page.keyboard.press("Tab")
                reached.add(await page.evaluate("document.activeElement.tagName"))
            assert {"BUTTON", "INPUT", "SUMMARY", "DIV"} <= reached


async def test_a_login_decides_the_name_and_is_renewed(page: Page, monkeypatch: pytest.MonkeyPatch):
    """The page renews in band, shows notices, and says why it was sent away for good."""
    monkeypatch.setattr("wslessons.chat.application.SHARE", 1.0)
    monkeypatch.setattr("wslessons.chat.application.RENEWAL", 1e9)
    lasting = [3600.0, 3600.0, 3600.0]

    async def login(request: Request) -> Identity:
        seconds = lasting.pop(0) if lasting else None
        until = None if seconds is None else time.time() + seconds
        return Identity("17", "ann of accounting", until)

    chat = ChatServer()
    async with asyncio.timeout(100), serving(chat=chat, login=login) as served:
        await enter(page, served.url, "eve")
        # Each ticket has an end, so the page is asked for the next at once, until one has none.
        while lasting:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        assert chat.people() == ["ann of accounting"]
        await say(page, "four tickets")
        await expect(page.get_by_text("· sent")).to_have_count(1)
        chat.notify("we restart at noon")
        await expect(page.get_by_text("we restart at noon")).to_be_visible()
        chat.revoke("17", "log in again")
        await expect(page.locator("#refusal")).to_have_text("log in again")
