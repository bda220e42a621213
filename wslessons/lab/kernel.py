"""Make the kernel a good place for servers: the stop button, quiet logs, charts, clear errors."""

from __future__ import annotations

import asyncio
import contextvars
import importlib.metadata
import logging
import re
import sysconfig
import traceback
from collections import deque
from pathlib import Path
from typing import Any

from wslessons.errors import UserError
from wslessons.exercises.idle import aside
from wslessons.lab import charts

__all__ = [
    "LogBook",
    "check_versions",
    "logbook",
    "release",
    "running_loop",
    "setup",
    "setup_in_kernel",
]

TICK = 0.1
"""Seconds between two wake-ups of the kernel's loop; the stop button acts within this time."""

OLDEST = {"ipykernel": (7, 4), "ipywidgets": (8, 1, 9), "websockets": (17, 4)}

_ticker: asyncio.Task[None] | None = None


class LogBook(logging.Handler):
    """Keep the newest log lines of servers out of the cells, for the cell that wants to look.

    Args:
        keep: how many records; the oldest go first.
    """

    def __init__(self, keep: int = 500) -> None:
        super().__init__()
        self.records: deque[logging.LogRecord] = deque(maxlen=keep)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record; the logging module calls this.

        Args:
            record: what a logger was told.
        """
        self.records.append(record)

    def lines(self) -> list[str]:
        """List what was logged.

        Returns:
            One line per event, oldest first, with the last line of its error behind it.
        """
        lines = []
        for record in self.records:
            error = record.exc_info[1] if record.exc_info else None
            tail = f": {type(error).__name__}: {error}" if error is not None else ""
            lines.append(record.getMessage() + tail)
        return lines

    def crash(self) -> str:
        """Tell the newest error, without the libraries' part and what differs between Pythons.

        Returns:
            The lines of the learner's code that led to it, then what it was.
        """
        for record in reversed(self.records):
            if record.exc_info and (error := record.exc_info[1]) is not None:
                frames = [f for f in traceback.extract_tb(error.__traceback__) if _own(f.filename)]
                steps = [f"in {frame.name}: {frame.line}" for frame in frames]
                return "\n".join([*steps, f"{type(error).__name__}: {error}"])
        return "nothing crashed"


def _own(filename: str) -> bool:
    """Whether a frame's file is neither a library nor the package."""
    libraries = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
    return not filename.startswith((*libraries, str(Path(__file__).parents[1])))


logbook = LogBook()


def release(version: str) -> tuple[int, ...]:
    """Read the numbers at the head of a version.

    Args:
        version: such as ``7.4.0rc1``.

    Returns:
        Such as ``(7, 4, 0)``; empty if it begins with no number.
    """
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def check_versions() -> None:
    """Make sure that the packages are new enough for the lessons.

    Raises:
        UserError: one is too old; the sentence names it, and the command that cures it.
    """
    for package, oldest in OLDEST.items():
        have = importlib.metadata.version(package)
        if release(have) < oldest:
            want = ".".join(map(str, oldest))
            raise UserError(
                f"{package} {have} is too old for the lessons: run"
                f" pip install '{package}>={want}', then restart the kernel."
            )


def running_loop() -> asyncio.AbstractEventLoop:
    """Find the asyncio loop that runs the cells.

    Returns:
        The loop of the caller.

    Raises:
        UserError: top-level ``await`` is switched off, or belongs to another library's loop.
    """
    import IPython
    from IPython.core.async_helpers import _asyncio_runner

    shell = IPython.get_ipython()
    if shell is not None and not (shell.autoawait and shell.loop_runner is _asyncio_runner):
        raise UserError(
            "cells don't run on asyncio's event loop here: run %autoawait asyncio, then this cell"
            " again."
        )
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise UserError(
            "no asyncio event loop runs here: use this in a notebook cell, or in a coroutine."
        ) from None


async def _tick() -> None:
    # A signal only sets a flag; Python acts on it when it next runs bytecode, and a loop that
    # waits for sockets alone runs none. Waking up now and then is what makes "stop" work.
    while True:  # noqa: ASYNC110 -- waking up is the point
        await asyncio.sleep(TICK)


def _show_stop(shell: Any, kind: Any, error: Any, trace: Any, tb_offset: Any = None) -> None:
    """Word a cell that the stop button ended in one line, where IPython shows the libraries' part.

    The kernel stops an ``await`` by cancelling the cell's task. A cancellation of the learner's own
    is no stop, and is shown as any other error.
    """
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    if kind is KeyboardInterrupt or (task and task.cancelling()):
        frames = traceback.extract_tb(trace)
        cells = [frame for frame in frames if shell.compile.format_code_name(frame.filename)]
        where = f" in line {cells[-1].lineno}: {cells[-1].line}" if cells else ""
        # IPython asks an error for its own traceback before it makes one.
        error._render_traceback_ = lambda: [f"wslessons: stopped{where}"]
        error.__context__ = None
    shell.showtraceback((kind, error, trace), running_compiled_code=True)


def _set_up_charts(shell: Any) -> None:
    shell.config.InlineBackend.rc = {"figure.figsize": (7, 3)}
    charts.show_figures_with_words(shell)


def setup() -> None:
    """Prepare this kernel for the lessons; harmless to call again.

    Starts the ticker that lets the stop button end a quiet ``await``, shows a stopped cell in one
    line, sends the servers' log into `logbook` instead of into the cells, and makes charts pictures
    with words that are the same at each run.

    Raises:
        UserError: not a Jupyter kernel, or the kernel or a package is too old, or the kernel's
            event loop is not asyncio's.
    """
    global _ticker
    import IPython

    shell = IPython.get_ipython()
    if shell is None or getattr(shell, "kernel", None) is None:
        raise UserError(
            "wslessons.lab works inside a Jupyter kernel: open a lesson with wslessons lab,"
            " or import wslessons.echo and its neighbours in a script."
        )
    check_versions()
    loop = running_loop()
    if _ticker is None or _ticker.done() or _ticker.get_loop() is not loop:
        context = contextvars.copy_context()
        context.run(aside.set, True)
        _ticker = loop.create_task(_tick(), name="wslessons ticker", context=context)
    for name in ("wslessons", "websockets"):
        logger = logging.getLogger(name)
        logger.propagate = False
        if logbook not in logger.handlers:
            logger.addHandler(logbook)
    logging.getLogger("wslessons").setLevel(logging.INFO)
    shell.set_custom_exc((KeyboardInterrupt, asyncio.CancelledError), _show_stop)
    _set_up_charts(shell)


def setup_in_kernel() -> None:
    """Run `setup` if this process is a kernel; elsewhere importing the lab does nothing."""
    import IPython

    shell = IPython.get_ipython()
    if shell is not None and getattr(shell, "kernel", None) is not None:
        setup()
