"""Lesson 4's exercises: HTTP beside a WebSocket, whose page may come in, and how many."""

from __future__ import annotations

import asyncio
from typing import Any

from wslessons.exercises.exercise import Exercise, behaviour
from wslessons.exercises.trial import TIMEOUT, Trial
from wslessons.testing.raw import dial

__all__ = ["EXERCISES", "AtMostThree", "Health", "SameOrigin"]


class Health(Exercise):
    """Write `process_request` for a server that also answers a load balancer.

    A request for the path /healthz, also one with a query behind it, is answered over HTTP: status
    200 and the text "ok". Every other request goes on to the WebSocket.
    """

    lesson = 4
    stub = """\
def health(connection, request):
    pass  # your code here
"""
    solution_source = """\
def health(connection, request):
    if request.path.partition("?")[0] == "/healthz":
        return connection.respond(200, "ok")
"""
    hints = (
        "`request.path` is what stands behind the host, query and all. Returning `None` lets the"
        " handshake go on.",
        "`connection.respond(200, ...)` makes the response, and you return it. A path ends at the"
        ' question mark: `request.path.partition("?")[0]`.',
    )

    @behaviour("GET /healthz is answered with 200 and ok")
    async def healthz(self, trial: Trial) -> None:
        """What a load balancer asks."""
        status, body = await get(trial, await trial.stage("process_request"), "/healthz")

        def hint(got: Any) -> str:
            if got == 426:
                return "Nothing was returned, so the handshake went on: return the response."
            if got in (0, 500):
                return "Return what connection.respond(200, ...) makes, and nothing else."
            return "200 is the first argument of connection.respond."

        trial.expect(status, 200, hint)
        trial.expect(body.strip(), "ok", "The second argument of connection.respond is the text.")

    @behaviour("a WebSocket gets in, on any other path")
    async def others(self, trial: Trial) -> None:
        """Three paths that are none of health's."""
        url = await trial.stage("process_request")
        for path in ("/", "/chat", "/healthzone"):
            status = await trial.handshake(url + path)

            def hint(got: Any, path: str = path) -> str:
                if path == "/healthzone":
                    return "That path only begins like /healthz, and is another one."
                return "For every other path return None, and the handshake goes on."

            trial.require(status == 101, f"101 for {path}", status, hint)

    @behaviour("GET /healthz?from=balancer is answered, too")
    async def query(self, trial: Trial) -> None:
        """A query does not make another path."""
        status, _ = await get(trial, await trial.stage("process_request"), "/healthz?from=balancer")
        trial.expect(status, 200, "What stands behind a question mark is not part of the path.")


class SameOrigin(Exercise):
    """Write `process_request` for a server that talks only to pages of its own.

    A browser says in `Origin` whose page it is, such as http://127.0.0.1:8000, and in `Host` whom
    it talks to, such as 127.0.0.1:8000. If they don't belong together, answer with 403. A script
    sends no `Origin`, and is let in.
    """

    lesson = 4
    stub = """\
def same_origin(connection, request):
    pass  # your code here
"""
    solution_source = """\
def same_origin(connection, request):
    origin = request.headers.get("Origin")
    if origin is not None and origin != f"http://{request.headers['Host']}":
        return connection.respond(403, "not your server")
"""
    hints = (
        '`request.headers.get("Origin")` is `None` where there is none, and'
        ' `request.headers["Origin"]` raises.',
        'Our own pages have the origin `"http://" + request.headers["Host"]`, exactly. For any'
        " other return `connection.respond(403, ...)`.",
    )

    @behaviour("a page of our own gets in")
    async def own(self, trial: Trial) -> None:
        """The origin that belongs to the host."""
        url = await trial.stage("process_request")
        status = await trial.handshake(url, origin=url.replace("ws://", "http://"))
        hint = 'Our own origin is "http://" and the Host, port and all.'
        trial.expect(status, 101, hint)

    @behaviour("a page of somebody else is refused with 403")
    async def foreign(self, trial: Trial) -> None:
        """Two foreign origins."""
        url = await trial.stage("process_request")
        for origin in ("https://evil.example", "http://another.example"):
            status = await trial.handshake(url, origin=origin)

            def hint(got: Any) -> str:
                if got == 101:
                    return (
                        "It got in, with the cookies of whoever looks at that page. No list of the"
                        " bad ones is ever complete: let in only our own origin."
                    )
                if got == 500:
                    return "Return what connection.respond(403, ...) makes."
                return "The status for somebody who may not is 403."

            trial.expect(status, 403, hint)

    @behaviour("a script, which has no origin, gets in")
    async def script(self, trial: Trial) -> None:
        """No Origin header."""

        def hint(got: Any) -> str:
            if got == 500:
                return "There is no such header here: headers.get() gives None in its place."
            return "Only browsers send an Origin, and only there a page can borrow cookies."

        trial.expect(await trial.handshake(await trial.stage("process_request")), 101, hint)

    @behaviour("an origin that only looks like ours is refused")
    async def lookalike(self, trial: Trial) -> None:
        """Beginnings, endings, another port, and null."""
        url = await trial.stage("process_request")
        ours = url.replace("ws://", "http://")
        host, port = ours.rsplit(":", 1)
        cases = {
            f"{host}:{int(port) % 60000 + 1}": "Another port is another origin: compare it, too.",
            f"{ours}.evil.example": "It only begins like ours: compare the whole of it.",
            f"http://evil{ours.removeprefix('http://')}": "It only ends like ours: compare it all.",
            "null": "null is what a sandboxed page or a file has: it is no page of ours.",
        }
        for origin, hint in cases.items():
            status = await trial.handshake(url, origin=origin)
            trial.require(status == 403, "403", f"{status} for a foreign origin", hint)


class AtMostThree(Exercise):
    """Write ASGI middleware that lets in at most three WebSockets at a time.

    The fourth is refused before its handshake, by `await send({"type": "websocket.close"})`. HTTP
    requests are not counted and always served. When a WebSocket ends, in whatever way, the next one
    gets in.
    """

    lesson = 4
    stub = """\
def at_most_three(app):
    async def middleware(scope, receive, send):
        await app(scope, receive, send)

    return middleware
"""
    solution_source = """\
def at_most_three(app):
    count = 0

    async def middleware(scope, receive, send):
        nonlocal count
        if scope["type"] != "websocket":
            return await app(scope, receive, send)
        if count == 3:
            return await send({"type": "websocket.close"})
        count += 1
        try:
            await app(scope, receive, send)
        finally:
            count -= 1

    return middleware
"""
    hints = (
        'Only `scope["type"] == "websocket"` is counted; everything else goes straight on.',
        "Count in the outer function (`nonlocal`), one up before `await app(...)`, one down when"
        " it is over.",
        "`await app(...)` lasts as long as the WebSocket, and may raise: count down in a"
        " `finally` block.",
    )

    @behaviour("three WebSockets are let in and served")
    async def three(self, trial: Trial) -> None:
        """Three at once."""
        url = await trial.stage("app")
        for number in range(3):
            client = await trial.connect(f"{url}/{number}")
            hint = "Pass scope, receive and send on to app, unchanged."
            await trial.asks(client, "hello", "hello", hint)

    @behaviour("the fourth is refused before its handshake")
    async def fourth(self, trial: Trial) -> None:
        """Three inside, one at the door."""
        url = await trial.stage("app")
        for _ in range(3):
            await trial.connect(url)
        status = await trial.handshake(url)

        def hint(got: Any) -> str:
            if got == 101:
                return "It was let in. Refuse while three are inside, and send no accept before."
            return "Say no by await send({'type': 'websocket.close'}), and return."

        trial.require(status == 403, "403", status, hint)

    @behaviour("HTTP requests are not counted")
    async def http(self, trial: Trial) -> None:
        """Five requests, and then three WebSockets."""
        url = await trial.stage("app")
        for _ in range(5):
            await get(trial, url, "/")
        statuses = [await trial.handshake(url, stay=True) for _ in range(3)]
        trial.expect(statuses, [101] * 3, "An HTTP request is no WebSocket: look at scope['type'].")

    @behaviour("when one leaves, the next one gets in")
    async def leaves(self, trial: Trial) -> None:
        """One of three closes, five times over."""
        url = await trial.stage("app")
        inside = [await trial.connect(url) for _ in range(3)]
        for _ in range(5):
            await inside.pop(0).close()
            client = await self.enter(
                trial, url, "Count down when a WebSocket has ended: after await app(...)."
            )
            inside.append(client)

    @behaviour("also when its application raises")
    async def raises(self, trial: Trial) -> None:
        """An application that fails."""
        url = await trial.stage("app")
        for _ in range(3):
            client = await trial.connect(url)
            await client.send("fail")
            await client.closing()
        hint = "An application may raise, and what stands after it is skipped: use finally."
        await self.enter(trial, url, hint)

    @staticmethod
    async def enter(trial: Trial, url: str, hint: str) -> Any:
        """Connect, and try again for as long as a server may take to notice who left.

        Args:
            trial: the world of one behaviour.
            url: the server's.
            hint: what to say if nobody gets in any more.

        Returns:
            The client.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + TIMEOUT
        while (status := await trial.handshake(url, stay=True)) != 101:
            trial.require(loop.time() < end, "101 for the next one", status, hint)
            await asyncio.sleep(0.05)
        return trial.clients[-1]


async def get(trial: Trial, url: str, path: str) -> tuple[int, str]:
    """Ask for `path` over HTTP; return status and body, (0, "") if there is no answer."""
    host = url.removeprefix("ws://")
    try:
        async with trial.isolation.idle.limit(TIMEOUT), dial(url) as raw:
            raw.send(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
            head, _, body = (await raw.rest()).decode("latin-1").partition("\r\n\r\n")
    except (OSError, TimeoutError):
        return 0, ""
    words = head.split()
    return (int(words[1]), body) if len(words) > 1 and words[1].isdecimal() else (0, "")


EXERCISES = (Health(), SameOrigin(), AtMostThree())
