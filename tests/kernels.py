"""A real Jupyter kernel for tests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest_asyncio
import waits
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager

from wslessons.processes import kernel_sockets


class Kernel:
    """A kernel that runs cells one at a time."""

    def __init__(self, manager: AsyncKernelManager, client: AsyncKernelClient) -> None:
        self.manager = manager
        self.client = client
        self.printed = asyncio.Event()

    def start(self, code: str) -> asyncio.Task[str]:
        """Run a cell in the background; `printed` is set when it has printed something."""
        self.printed.clear()
        return asyncio.create_task(self.run(code))

    async def run(self, code: str) -> str:
        """Run a cell; return what it printed and its result's plain text, or raise its error."""
        parts: list[str] = []
        errors: list[str] = []

        def on_output(message: dict[str, Any]) -> None:
            content = message["content"]
            match message["msg_type"]:
                case "stream":
                    parts.append(content["text"])
                    self.printed.set()
                case "execute_result" | "display_data":
                    parts.append(content["data"]["text/plain"])
                case "error":
                    errors.append("\n".join(content["traceback"]))

        await self.client.execute_interactive(code, output_hook=on_output, allow_stdin=False)
        if errors:
            raise CellError(errors[0])
        return "".join(parts)


class CellError(Exception):
    """A cell raised; the text is what a learner sees."""


@contextlib.asynccontextmanager
async def kernel() -> AsyncGenerator[Kernel]:
    """Start a kernel of this Python, and end it."""
    manager = AsyncKernelManager(kernel_name="python3", **kernel_sockets())
    await manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=60)
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)


# Fixtures for test modules that import both, and whose tests share a loop and a kernel on it.


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def no_task_left_behind() -> AsyncIterator[None]:
    """Fail a test that leaves tasks behind, here on the loop that all tests share."""
    async for _ in waits.no_task_left_behind():
        yield


@pytest_asyncio.fixture(loop_scope="module", scope="module", name="shared")
async def shared_kernel() -> AsyncIterator[Kernel]:
    """A kernel, which takes longer to start than any test here takes."""
    async with kernel() as started:
        yield started
