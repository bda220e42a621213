"""What an answer that is no plain handler is served in; `Trial.stage` chooses one by its name.

They run where the answer is, so that a behaviour needs nothing but the URL that they return.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from websockets import Request, ServerConnection

from wslessons.errors import need

if TYPE_CHECKING:
    from wslessons.exercises.trial import Trial

__all__ = ["Broken", "app", "pair", "process_request"]


class Broken(Exception):
    """What the application of `app` raises when it is told to fail."""


async def process_request(trial: Trial) -> str:
    """Serve an echo whose `process_request` is the answer; return its URL."""

    async def process(connection: ServerConnection, request: Request) -> Any:
        with trial.isolation.learners():
            response = trial.answer(connection, request)
            return await response if inspect.isawaitable(response) else response

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    return await trial.serve_this(echo, theirs=False, process_request=process)


async def app(trial: Trial) -> str:
    """Serve an echo behind the answer, an ASGI middleware; return its URL for WebSockets."""
    need("uvicorn", "web")
    from wslessons import asgi

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"ok"})
            return
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            return await send({"type": "lifespan.shutdown.complete"})
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            if message.get("text") == "fail":
                raise Broken
            await send({"type": "websocket.send", "text": message.get("text") or ""})

    with trial.isolation.learners():
        wrapped = trial.answer(echo)

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        try:
            await trial.isolation.guard(wrapped(scope, receive, send))
        except Broken as error:
            trial.isolation.crashes.remove(error)

    server = await trial.enter(asgi.serve(guarded))
    return server.ws_url


async def pair(trial: Trial) -> tuple[str, str]:
    """Serve two objects of the answer, a class, on one bus; return their URLs."""
    from wslessons.scaling.bus import Memory

    bus = await trial.enter(Memory())
    urls = []
    for _ in range(2):
        with trial.isolation.learners():
            server = trial.answer(bus)
        trial.start(server.run())
        urls.append(await trial.serve_this(server.handler))
    return urls[0], urls[1]
