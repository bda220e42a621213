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

__all__ = ["Broken", "app", "chat", "options", "pair", "process_request"]


class Broken(Exception):
    """What the application of `app` raises when it is told to fail."""


async def echo(connection: ServerConnection) -> None:
    """Send each message back."""
    async for message in connection:
        await connection.send(message)


async def process_request(trial: Trial) -> str:
    """Serve an echo whose `process_request` is the answer; return its URL.

    Args:
        trial: whose answer it is.

    Returns:
        The URL.
    """

    async def process(connection: ServerConnection, request: Request) -> Any:
        with trial.isolation.learners():
            response = trial.answer(connection, request)
            return await response if inspect.isawaitable(response) else response

    return await trial.serve_this(echo, theirs=False, process_request=process)


async def options(trial: Trial) -> str:
    """Serve an echo with the options that are the answer; return its URL.

    Args:
        trial: whose answer it is.

    Returns:
        The URL.
    """
    from wslessons.exercises.trial import Mismatch, Nothing, shown

    if not isinstance(trial.answer, dict):
        hint = "Write a dict, with the names of options as keys."
        raise Mismatch("a dict", Nothing(shown(trial.answer)), hint)
    # Those that a trial has otherwise are not the library's own.
    defaults = {"compression": "deflate", "close_timeout": 10, "open_timeout": 10}
    given = {**defaults, **trial.answer}
    try:
        return await trial.serve_this(echo, theirs=False, **given)
    except (TypeError, ValueError, AttributeError) as error:
        hint = "websockets.serve can't be called with that: help(websockets.serve) lists them all."
        raise Mismatch("options of websockets.serve", Nothing(str(error)), hint) from error


async def chat(trial: Trial) -> str:
    """Serve a chat whose `authenticate` is the answer; return its URL.

    Args:
        trial: whose answer it is.

    Returns:
        The URL.
    """
    from wslessons.chat import ChatServer, Denied

    async def authenticate(opening: Any) -> Any:
        try:
            return await trial.isolation.guard(trial.answer(opening))
        except Denied as denied:
            # That is an answer, and no crash.
            trial.isolation.crashes.remove(denied)
            raise

    server = ChatServer(authenticate=authenticate)
    request = server.process_request
    return await trial.serve_this(server.handler, theirs=False, process_request=request)


async def app(trial: Trial) -> str:
    """Serve an echo behind the answer, an ASGI middleware; return its URL for WebSockets.

    Args:
        trial: whose answer it is.

    Returns:
        The URL.
    """
    need("uvicorn", "web")
    from wslessons import asgi

    async def application(scope: Any, receive: Any, send: Any) -> None:
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
        wrapped = trial.answer(application)

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        try:
            await trial.isolation.guard(wrapped(scope, receive, send))
        except Broken as error:
            trial.isolation.crashes.remove(error)

    server = await trial.enter(asgi.serve(guarded))
    return server.ws_url


async def pair(trial: Trial) -> tuple[str, str]:
    """Serve two objects of the answer, a class, on one bus; return their URLs.

    Args:
        trial: whose answer it is.

    Returns:
        The URLs.
    """
    from wslessons.scaling.bus import Memory

    bus = await trial.enter(Memory())
    urls = []
    for _ in range(2):
        with trial.isolation.learners():
            server = trial.answer(bus)
        trial.start(server.run())
        urls.append(await trial.serve_this(server.handler))
    return urls[0], urls[1]
