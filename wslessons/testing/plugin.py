"""The pytest plugin: fixtures for a server, a link, a hostile server, bytes, and virtual time.

They are for asynchronous tests that pytest-asyncio runs, and end with the test.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from websockets import ConnectionClosed, ServerConnection, serve

from wslessons.errors import extra
from wslessons.link import Link
from wslessons.serving import urls
from wslessons.testing.hostile import Connected, Hostile
from wslessons.testing.raw import Raw, dial
from wslessons.testing.virtual import run

with extra("testing"):
    import pytest
    import pytest_asyncio

__all__ = [
    "Dial",
    "MakeHostile",
    "MakeLink",
    "Serve",
    "virtual_run",
    "ws_dial",
    "ws_hostile",
    "ws_link",
    "ws_serve",
]

A = TypeVar("A")
T = TypeVar("T")
Handler = Callable[[ServerConnection], Awaitable[None]]
Serve = Callable[..., Awaitable[str]]
"""``await ws_serve(handler, **options)``: returns the URL."""
MakeLink = Callable[[str], Awaitable[Link]]
"""``await ws_link(url)``: returns the link; connect to its `url`."""
MakeHostile = Callable[[str | Connected], Awaitable[Hostile]]
"""``await ws_hostile("drop")``: returns the server; connect to its `url`."""
Dial = Callable[[str], Awaitable[Raw]]
"""``await ws_dial(url)``: returns a connection of bytes."""


@pytest_asyncio.fixture
async def ws_serve() -> AsyncGenerator[Serve]:
    """Serve handlers by `websockets.serve`, each on a free port of 127.0.0.1.

    A handler that raises fails the test, with the exception: else a client would see only 1011.
    What ends a handler because its connection has ended is no failure.
    """
    failures: list[Exception] = []
    async with contextlib.AsyncExitStack() as stack:

        async def start(handler: Handler, **options: Any) -> str:
            async def watched(connection: ServerConnection) -> None:
                try:
                    await handler(connection)
                except ConnectionClosed:
                    raise
                except Exception as exc:
                    failures.append(exc)
                    raise

            options = {"close_timeout": 1} | options
            server = await stack.enter_async_context(serve(watched, "127.0.0.1", 0, **options))
            return urls(server)[0]

        yield start
    if failures:
        raise ExceptionGroup("a handler failed", failures)


@contextlib.asynccontextmanager
async def _making(
    kind: Callable[[A], contextlib.AbstractAsyncContextManager[T]],
) -> AsyncGenerator[Callable[[A], Awaitable[T]]]:
    """Give what makes contexts of one kind and enters them; they end with the block."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(argument: A) -> T:
            return await stack.enter_async_context(kind(argument))

        yield make


@pytest_asyncio.fixture
async def ws_link() -> AsyncGenerator[MakeLink]:
    """Set links between clients and servers: see `wslessons.link.Link`."""
    async with _making(Link) as make:
        yield make


@pytest_asyncio.fixture
async def ws_hostile() -> AsyncGenerator[MakeHostile]:
    """Start servers that break the protocol: see `wslessons.testing.hostile.BEHAVIOURS`."""
    async with _making(Hostile) as make:
        yield make


@pytest_asyncio.fixture
async def ws_dial() -> AsyncGenerator[Dial]:
    """Connect to servers in bytes: see `wslessons.testing.raw.Raw`."""
    async with _making(dial) as make:
        yield make


@pytest.fixture
def virtual_run() -> Callable[[Coroutine[Any, Any, None]], None]:
    """Run a coroutine on a clock that jumps to the next timer; for tests that are no coroutines.

    No real socket works there, as nothing waits for it: use `wslessons.testing.connections`.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return run
    raise RuntimeError("virtual_run brings a loop of its own: the test must be a plain function")
