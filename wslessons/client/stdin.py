"""Standard input beside an event loop, on every system, for pipes, files and terminals alike."""

from __future__ import annotations

import asyncio
import codecs
import os
import sys
import threading
from collections.abc import AsyncGenerator

__all__ = ["piped_lines"]


async def piped_lines() -> AsyncGenerator[str]:
    """Yield the lines of standard input as they come, without their ends.

    A loop can't watch stdin everywhere: Windows has no way to, and on Unix a redirected file is no
    pipe (https://github.com/python/cpython/issues/71019 and 87694). A thread can wait for it
    everywhere. It is a daemon, so nobody has to wait for input that never comes; and it reads the
    descriptor itself, because a thread that dies inside `sys.stdin` keeps its lock and the
    interpreter can't end.
    """
    loop = asyncio.get_running_loop()
    # One chunk at a time: what is not yet wanted stays in the pipe, and slows whoever fills it.
    chunks: asyncio.Queue[bytes] = asyncio.Queue(maxsize=1)
    descriptor = sys.stdin.fileno()

    def read() -> None:
        data = b"?"
        while data:
            try:
                data = os.read(descriptor, 65536)
            except OSError:
                data = b""
            try:
                asyncio.run_coroutine_threadsafe(chunks.put(data), loop).result()
            except (RuntimeError, asyncio.CancelledError):  # the loop has ended
                return

    threading.Thread(target=read, name="stdin", daemon=True).start()
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    rest = ""
    while chunk := await chunks.get():
        *lines, rest = (rest + decoder.decode(chunk)).split("\n")
        for line in lines:
            yield line.removesuffix("\r")
    if rest := rest + decoder.decode(b"", final=True):
        yield rest
