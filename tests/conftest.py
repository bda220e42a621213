"""What every test here may use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest


@pytest.fixture(autouse=True)
async def no_task_left_behind() -> AsyncIterator[None]:
    """Fail an async test that ends with tasks still running: it has leaked them."""
    before = asyncio.all_tasks()
    yield
    # A closed connection's last callbacks run on the loop's next turns, not in the test.
    for _ in range(200):
        left = asyncio.all_tasks() - before - {asyncio.current_task()}
        if not left:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"tasks left behind: {left}")
