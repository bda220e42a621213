"""What every test here may use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest


@pytest.fixture(autouse=True)
async def no_task_left_behind(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """An async test that ends with more tasks than it began with has leaked one."""
    before = asyncio.all_tasks()
    yield
    # A closed connection's callbacks run on the loop's next turns, not in the test.
    for _ in range(100):
        left = asyncio.all_tasks() - before
        if not left:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"tasks left behind: {left}")
