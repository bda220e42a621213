"""Waits that a test can't do without."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest
from websockets import ClientConnection, ConnectionClosed

__all__ = ["closed", "is_alive", "no_task_left_behind", "started_since", "until"]


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


def started_since(before: list[psutil.Process]) -> list[psutil.Process]:
    """List the processes that this one has started, and those that they have.

    Args:
        before: those that were there. What they start is none of the caller's: another test's
            browser does so at any time.

    Returns:
        The others.
    """
    old, new = {each.pid for each in before}, []
    for each in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if each not in before and each.ppid() not in old:
                new.append(each)
    return new


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not reaped yet does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True
