"""Logs that clients can't forge, flood, or use to stop a server.

A line of a log is made of what clients send: names, paths, reasons for closing. So it is escaped,
it has a bounded length, and what many clients cause at once is folded into one line a second. And
whoever reads the log may stop reading: a pipe holds 64 KiB, after which a write to it waits, and
the whole event loop with it. So lines are written by a thread of their own; what has to wait for
too long is dropped and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import queue
import select
import threading
import time
from collections.abc import Generator
from typing import Any

__all__ = ["Folded", "Formatter", "ThreadedHandler", "fold_accept_errors", "log_to", "one_line"]

logger = logging.getLogger(__name__)

LONGEST = 500
"""Characters of a client's text in a line of the log."""
WAITING = 1000
"""Lines that may wait for whoever reads the log."""
LAST_WORDS = 0.5
"""Seconds that the last lines have to be written when the process ends."""


def one_line(text: object, longest: int = LONGEST) -> str:
    r"""Return `text` as it may stand in a log: on one line, nothing in it invisible, not too long.

    >>> print(one_line("bye\n12:00 root logged in \x1b[2J"))
    bye\n12:00 root logged in \x1b[2J

    Args:
        text: what a client sent, or an object that is written with `str`.
        longest: characters to keep.

    Returns:
        The line.
    """
    text = str(text)
    if len(text) > longest:
        text = f"{text[:longest]}... ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Formatter(logging.Formatter):
    """Format a record as one line, whatever is in it; a traceback follows, indented."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line without the traceback."""
        return one_line(super().formatMessage(record), 4 * LONGEST)

    def formatException(self, ei: Any) -> str:
        """Return the traceback, of which no line looks like one of the log's own."""
        return "\n".join(
            f"    {one_line(line)}" for line in super().formatException(ei).split("\n")
        )


class ThreadedHandler(logging.Handler):
    """Write lines to a file descriptor from a thread, and drop them while too many wait.

    Args:
        descriptor: where to write; it stays open.
        waiting: lines that may wait.
    """

    def __init__(self, descriptor: int, waiting: int = WAITING) -> None:
        super().__init__()
        self.descriptor = descriptor
        self.dropped = 0
        """Lines dropped since the last one that was written."""
        self._counting = threading.Lock()
        self._lines: queue.Queue[bytes] = queue.Queue(waiting)
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a record to the thread; never waits."""
        try:
            line = self.format(record) + "\n"
        except Exception:
            self.handleError(record)
            return
        # Started with the first line, since a process may fork before.
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            self._thread.start()
        try:
            self._lines.put_nowait(line.encode(errors="backslashreplace"))
        except queue.Full:
            with self._counting:
                self.dropped += 1

    def flush(self) -> None:
        """Wait until the last line has been written, for a bounded time."""
        deadline = time.monotonic() + LAST_WORDS
        while self._lines.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.005)

    def _run(self) -> None:
        while True:
            line = self._lines.get()
            with self._counting:
                dropped, self.dropped = self.dropped, 0
            if dropped:
                line += b"%d lines of the log were dropped: nobody read them\n" % dropped
            self._write(line)
            self._lines.task_done()

    def _write(self, data: bytes) -> None:
        # Not through `sys.stderr`, whose lock a thread that waits here would hold for ever.
        while data:
            try:
                data = data[os.write(self.descriptor, data) :]
            except BlockingIOError:
                select.select([], [self.descriptor], [])
            except OSError:
                return  # Nobody will ever read it, or the disk is full: there is no other place.


def log_to(stream: Any, level: int = logging.INFO) -> None:
    """Have our servers log to `stream`, one line an event; a second call changes nothing.

    Args:
        stream: such as `sys.stderr`; None, as where a service manager gives none, logs nowhere.
        level: of our own lines; those of libraries are shown from WARNING on.
    """
    root = logging.getLogger()
    if stream is None or root.handlers:
        return
    handler: logging.Handler
    try:
        handler = ThreadedHandler(stream.fileno())
    except (OSError, AttributeError):
        handler = logging.StreamHandler(stream)
    handler.setFormatter(Formatter("%(asctime)s %(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("wslessons").setLevel(level)


class Folded:
    """Lines of one kind, of which a log gets so many a second, with the count of the others.

    Args:
        logger: where they go.
        level: their level.
        most: lines that are shown as they are, each second.
        every: seconds, where it is not one.
    """

    def __init__(
        self,
        logger: logging.Logger,
        level: int = logging.INFO,
        most: int = 1,
        every: float = 1.0,
    ) -> None:
        self._logger, self._level, self._most, self._every = logger, level, most, every
        self._next = 0.0
        self._shown = self._more = 0
        self._last = ""
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def log(self, line: str) -> None:
        """Log `line` now, or count it and log it within a second. Needs a running event loop.

        Args:
            line: what to log.
        """
        loop, now = asyncio.get_running_loop(), time.monotonic()
        if self._loop is not loop:
            self._loop, self._timer = loop, None
        if now >= self._next and self._timer is None:
            self._next, self._shown = now + self._every, 0
        if self._shown < self._most and self._timer is None:
            self._shown += 1
            self._logger.log(self._level, "%s", line)
            return
        self._more += 1
        self._last = line
        if self._timer is None:
            self._timer = loop.call_later(max(0, self._next - now), self._flush)

    def _flush(self) -> None:
        more, self._more, self._timer = self._more, 0, None
        self._next, self._shown = time.monotonic() + self._every, 1
        others = f" (and {more - 1} more like it)" if more > 1 else ""
        self._logger.log(self._level, "%s%s", self._last, others)


@contextlib.contextmanager
def fold_accept_errors() -> Generator[None]:
    """Fold what asyncio says while a server can accept nobody, for want of descriptors.

    It says so up to a hundred times a second for each listening socket, with a traceback each.
    Inside the block the running loop's exception handler is ours; what is about anything else goes
    to the one before.
    """
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    folded = Folded(logger, logging.WARNING)

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            folded.log("nobody can connect: all file descriptors are in use")
        elif before is not None:
            before(loop, context)
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(handle)
    try:
        yield
    finally:
        loop.set_exception_handler(before)
