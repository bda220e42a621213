"""Standard input beside an event loop, on every system, for pipes, files and terminals alike."""

from __future__ import annotations

import asyncio
import codecs
import os
import sys
import threading
from collections.abc import AsyncGenerator

__all__ = ["Decoder", "piped_lines"]

LONGEST = 65_536
"""Characters of a line that are kept; no chat takes more, and a line may have no end."""
MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
"""Byte-order marks, as Windows writes them in front of redirected text."""


class Decoder:
    """Bytes in, lines out, without their ends: UTF-8, or UTF-16 after a byte-order mark."""

    def __init__(self) -> None:
        self._head: bytes | None = b""
        """The beginning, until it is known to be a mark or none."""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""

    def feed(self, data: bytes, *, final: bool = False) -> list[str]:
        """Take bytes.

        Args:
            data: the next bytes.
            final: whether they are the last.

        Returns:
            The lines that are complete; a line longer than `LONGEST` is cut there.
        """
        if self._head is not None:
            data = self._head + data
            if not final and any(mark.startswith(data) and mark != data for mark in MARKS):
                self._head = data
                return []
            self._head = None
            for mark, encoding in MARKS.items():
                if data.startswith(mark):
                    self._decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
                    data = data.removeprefix(mark)
        first, *others = self._decoder.decode(data, final).split("\n")
        parts = [self._rest + first[: max(LONGEST - len(self._rest), 0)], *others]
        self._rest = parts.pop()[:LONGEST]
        lines = [line.removesuffix("\r")[:LONGEST] for line in parts]
        if final and self._rest:
            lines.append(self._rest)
        return lines


async def piped_lines() -> AsyncGenerator[str]:
    """Yield the lines of standard input as they come, without their ends.

    A loop can't watch stdin everywhere: Windows has no way to, and on Unix a redirected file is no
    pipe (https://github.com/python/cpython/issues/71019 and 87694). A thread can wait for it
    everywhere. It is a daemon, so nobody has to wait for input that never comes; and it reads the
    descriptor itself, because a thread that dies inside `sys.stdin` keeps its lock and the
    interpreter can't end. Where there is no standard input, there are no lines.
    """
    if sys.stdin is None:
        return
    loop = asyncio.get_running_loop()
    # One chunk at a time: what is not yet wanted stays in the pipe, and slows whoever fills it.
    chunks: asyncio.Queue[bytes] = asyncio.Queue()
    wanted = threading.Semaphore(1)
    descriptor = sys.stdin.fileno()

    def read() -> None:
        data = b"?"
        while data:
            wanted.acquire()
            try:
                data = os.read(descriptor, 65536)
            except OSError:
                data = b""
            try:
                loop.call_soon_threadsafe(chunks.put_nowait, data)
            except RuntimeError:  # the loop has ended
                return

    threading.Thread(target=read, name="stdin", daemon=True).start()
    decoder = Decoder()
    while chunk := await chunks.get():
        wanted.release()
        for line in decoder.feed(chunk):
            yield line
    for line in decoder.feed(b"", final=True):
        yield line
