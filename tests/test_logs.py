"""Logs that clients can neither forge nor flood, and that nobody has to read."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from subprocess import PIPE

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waits import until
from websockets import connect

from wslessons.logs import Folded, Formatter, ThreadedHandler, fold_accept_errors, one_line


@given(st.text())
def test_a_text_stays_on_its_line(text: str) -> None:
    """Whatever it holds, what is written is printable, and short."""
    assert one_line(text).isprintable()
    assert len(one_line(text * 1000)) < 6000
    if text.isprintable() and len(text) < 500:
        assert one_line(text) == text


def test_a_traceback_cannot_look_like_a_line_of_the_log() -> None:
    """Our own faults keep their traceback, indented, with nothing of the client's in control."""
    try:
        raise ValueError("bad\n2026-01-01 00:00:00 root logged in\x1b[2J")
    except ValueError:
        record = logging.LogRecord("x", 40, "", 0, "failed: %s", ("a\nb",), sys.exc_info())
    lines = Formatter("%(message)s").format(record).split("\n")
    assert lines[0] == r"failed: a\nb"
    assert all(line.startswith("    ") and line.isprintable() for line in lines[1:])


def test_a_log_that_nobody_reads_holds_up_nobody() -> None:
    """Lines beyond what may wait are dropped, and counted once somebody reads again."""
    reading, writing = os.pipe()
    handler = ThreadedHandler(writing, waiting=10)
    logger = logging.Logger("test")
    logger.addHandler(handler)
    for n in range(2000):
        logger.info("%d %s", n, "x" * 1000)
    data = b""
    while True:
        # Not simply read: the last line may be here, and its thread not have said so yet.
        if select.select([reading], [], [], 0.05)[0]:
            data += os.read(reading, 2**20)
        elif b"were dropped" in data and not handler._lines.unfinished_tasks:
            break
    lines = data.decode().splitlines()
    numbers = [int(line.split()[0]) for line in lines if line.endswith("xxx")]
    dropped = [int(line.split()[0]) for line in lines if "were dropped" in line]
    assert numbers == sorted(set(numbers))
    assert sum(dropped) > 1000
    assert sum(dropped) + handler.dropped + len(numbers) == 2000
    os.close(reading)
    os.close(writing)


def test_last_lines_are_written() -> None:
    """`flush`, which logging calls at the end of the process, waits for the thread."""
    reading, writing = os.pipe()
    handler = ThreadedHandler(writing)
    for n in range(100):
        handler.handle(logging.LogRecord("x", 20, "", 0, "%d", (n,), None))
    handler.flush()
    os.close(writing)
    with os.fdopen(reading) as lines:
        assert lines.read().split() == [str(n) for n in range(100)]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to send")
async def test_a_server_whose_stderr_nobody_reads_goes_on_and_stops() -> None:
    """64 KiB of log fill the pipe; people are served all the same, and SIGTERM ends it."""
    command = [sys.executable, "-m", "wslessons", "echo", "--port", "0"]
    with subprocess.Popen(command, stdout=PIPE, stderr=PIPE) as process:  # noqa: ASYNC220
        assert process.stdout is not None
        try:
            async with asyncio.timeout(50):
                url = (await asyncio.to_thread(process.stdout.readline)).decode().strip()
                for _ in range(400):
                    async with connect(url, proxy=None) as client:
                        await client.close(4000, "\x1b" * 120)
                async with connect(url, proxy=None) as client:
                    await client.send("hi")
                    assert await client.recv() == "Echo: hi"
                process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(process.wait, 30) == 0
        finally:
            process.kill()


async def test_lines_of_one_kind_are_folded(caplog: pytest.LogCaptureFixture) -> None:
    """The first is shown at once, of the others the last, with the count."""
    caplog.set_level(logging.INFO)
    folded = Folded(logging.getLogger("test"), every=0.2)
    for n in range(1000):
        folded.log(f"line {n}")
    assert [record.getMessage() for record in caplog.records] == ["line 0"]
    async with asyncio.timeout(50):
        await until(lambda: len(caplog.records) >= 2)
    assert caplog.records[1].getMessage() == "line 999 (and 998 more like it)"


async def test_want_of_descriptors_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """asyncio reports each attempt with a traceback; other errors stay as they are."""
    caplog.set_level(logging.INFO)
    loop = asyncio.get_running_loop()
    with fold_accept_errors():
        for _ in range(100):
            error = OSError(24, "Too many open files")
            loop.call_exception_handler({"message": "no accept", "exception": error})
        assert len(caplog.records) == 1
        assert caplog.records[0].exc_info is None
        loop.call_exception_handler({"message": "else", "exception": ValueError("x")})
        assert caplog.records[1].exc_info
    assert loop.get_exception_handler() is None


def test_lines_of_several_threads_are_whole() -> None:
    """What is logged at once by several threads is written line by line."""
    reading, writing = os.pipe()
    handler = ThreadedHandler(writing, waiting=10_000)

    def work(letter: str) -> None:
        for _ in range(200):
            handler.handle(logging.LogRecord("x", 20, "", 0, letter * 20, (), None))

    threads = [threading.Thread(target=work, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    deadline = time.monotonic() + 10
    while handler._lines.unfinished_tasks and time.monotonic() < deadline:
        time.sleep(0.01)
    os.close(writing)
    with os.fdopen(reading) as lines:
        assert sorted(lines.read().split()) == sorted(200 * [c * 20 for c in "abcd"])
