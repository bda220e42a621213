"""Waits that a test can't do without."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest
from websockets import ClientConnection, ConnectionClosed

__all__ = ["closed", "no_task_left_behind", "until"]


async def until(condition: Callable[[], object]) -> None:
    """Wait for a state that nothing tells of; the caller has a timeout.

    Args:
        condition: true in that state.
    """
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.002)


async def no_task_left_behind() -> AsyncIterator[None]:
    """Fail an async test that ends with tasks still running: it has leaked them.

    To be made a fixture, on the loop that the test runs on.
    """
    before = asyncio.all_tasks()
    yield
    # A closed connection's last callbacks run on the loop's next turns, not in the test.
    for _ in range(200):
        left = asyncio.all_tasks() - before - {asyncio.current_task()}
        if not left:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"tasks left behind: {left}")


async def closed(client: ClientConnection) -> tuple[int | None, str | None]:
    """Wait for the end of a connection; return close code and reason."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await client.recv()
    return client.close_code, client.close_reason
