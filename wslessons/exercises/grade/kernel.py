"""A student's kernel: a process of its own, with limits of time and memory, and an agent inside."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from wslessons.errors import extra
from wslessons.exercises import progress
from wslessons.exercises.grade import remote
from wslessons.exercises.grade.remote import Lost
from wslessons.processes import kernel_sockets

with extra("lab"):
    import psutil
    from jupyter_client.manager import AsyncKernelManager


__all__ = ["Died", "Office", "StudentKernel"]

WATCH_EVERY = 0.2
"""Seconds between two looks at a kernel's memory."""
START = 60.0
"""Seconds for a kernel to start; several do at once."""
INTERRUPT = 5.0
"""Seconds for an interrupted cell to end."""


class Died(Exception):
    """The kernel is gone; the text says why."""


class Office:
    """Where kernels are started, and where their agents report; each is known by its token."""

    def __init__(self) -> None:
        self.waiting: dict[str, asyncio.Future[Any]] = {}
        self._template: asyncio.subprocess.Process | None = None
        self._started: list[asyncio.subprocess.Process] = []
        self._turns = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncGenerator[Office]:
        """Listen on loopback while the block runs."""
        server = await asyncio.start_server(self._on_agent, "127.0.0.1", 0, limit=remote.LIMIT)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            if self._template is not None:
                with contextlib.suppress(ProcessLookupError):
                    self._template.kill()
                await self._template.wait()

    async def start(
        self, folder: Path, connection: str, environment: dict[str, str]
    ) -> psutil.Process:
        """Start a kernel, the leader of a session of its own.

        Args:
            folder: its current folder.
            connection: its connection file.
            environment: its environment.

        Returns:
            The process.

        Raises:
            Died: it does not start.
        """
        if sys.platform == "linux":
            return await self._fork(folder, connection, environment)
        started = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ipykernel_launcher", "-f", connection),
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        # Whoever forgets it ends it.
        self._started.append(started)
        return psutil.Process(started.pid)

    async def _fork(
        self, folder: Path, connection: str, environment: dict[str, str]
    ) -> psutil.Process:
        request = json.dumps([str(folder), connection, environment]).encode() + b"\n"
        # The second time if a notebook has ended the process that forks.
        for _ in range(2):
            async with self._turns:
                if self._template is None or self._template.returncode is not None:
                    self._template = await asyncio.create_subprocess_exec(
                        *(sys.executable, "-m", "wslessons.exercises.grade.template"),
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.DEVNULL,
                    )
                ask, answer = self._template.stdin, self._template.stdout
                assert ask is not None
                assert answer is not None
                with contextlib.suppress(OSError, ValueError, psutil.Error):
                    ask.write(request)
                    await ask.drain()
                    return psutil.Process(int(await answer.readline()))
                await self._template.wait()
        raise Died("the kernel did not start")

    async def _on_agent(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        token = None
        with contextlib.suppress(ValueError, OSError, TimeoutError):
            async with asyncio.timeout(START):
                token = await remote.read(reader)
        waiting = self.waiting.pop(token, None) if isinstance(token, str) else None
        if waiting is None or waiting.done():
            writer.close()
        else:
            waiting.set_result((reader, writer))


class StudentKernel:
    """One kernel, from its start to its end; made by `run`.

    Args:
        office: where its agent reports.
        folder: its current folder.
        memory: bytes that it and its children may take.
    """

    def __init__(self, office: Office, folder: Path, memory: int) -> None:
        self.office, self.folder, self.memory = office, folder, memory
        self.why = ""
        """Why it was ended, if it was."""
        self._due = 0
        """Answers of the agent that have not been read."""

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncGenerator[StudentKernel]:
        """Start it with its agent inside, and end it and its children with the block.

        Raises:
            Died: it does not start.
        """
        with tempfile.TemporaryDirectory(prefix="wslessons-home-") as home:
            environment = {
                **os.environ,
                progress.VARIABLE: "",
                "HOME": home,
                "IPYTHONDIR": home,
                "MPLCONFIGDIR": home,
                "PYTHONDONTWRITEBYTECODE": "1",
                # With it a kernel ends when whoever has started it is gone.
                "JPY_PARENT_PID": str(os.getpid()),
            }
            environment.pop("WSLESSONS_SOLUTIONS", None)
            meeting = AsyncKernelManager(**kernel_sockets(Path(home)))
            meeting.write_connection_file()
            self.client = meeting.client()
            self.process = await self.office.start(
                self.folder, meeting.connection_file, environment
            )
            watch = asyncio.create_task(self._watch())
            try:
                await self._connect()
                yield self
            finally:
                watch.cancel()
                await asyncio.wait([watch])
                await self._end()

    async def _connect(self) -> None:
        self.client.start_channels()
        try:
            async with asyncio.timeout(START):
                while not await self._answers():
                    if not self._alive():
                        raise Died("the kernel did not start")
        except TimeoutError:
            raise Died("the kernel did not start in time") from None
        token = secrets.token_hex(16)
        arrived = self.office.waiting[token] = asyncio.get_running_loop().create_future()
        code = (
            "from wslessons.exercises.grade.agent import start as _start\n"
            f"await _start({self.office.port}, {token!r}, {self.memory}, globals())\n"
            "del _start"
        )
        await self._execute(code, START, hidden=True)
        try:
            async with asyncio.timeout(START):
                self.reader, self.writer = await arrived
        except TimeoutError:
            raise Died("the agent did not start") from None

    async def _answers(self) -> bool:
        """Tell whether the kernel answers, and what it does is heard here as well.

        The client's own way takes a kernel for dead whose imports last more than a second.
        """
        self.client.kernel_info()
        with contextlib.suppress(queue.Empty):
            await self.client.get_shell_msg(timeout=1)
            await self.client.get_iopub_msg(timeout=1)
            return True
        return False

    async def cell(self, source: str, seconds: float) -> str:
        """Run a cell; return the error it ended with, in one line, or "".

        Args:
            source: the cell's.
            seconds: what it may take.

        Returns:
            The error in one line, "" if there was none.

        Raises:
            Died: the kernel is gone, by itself or since the cell would not end.
        """
        try:
            return await self._execute(source, seconds)
        except TimeoutError:
            pass
        late = f"no end within {seconds:g} s"
        with contextlib.suppress(TimeoutError, RuntimeError, OSError):
            self._interrupt()
            await self._done(INTERRUPT)
            return late
        self.why = self.why or f"{late}, and it can't be interrupted"
        self._kill()
        raise Died(self.why)

    async def _execute(self, source: str, seconds: float, *, hidden: bool = False) -> str:
        """Run code; what it prints is read and thrown away.

        Raises:
            TimeoutError: it takes longer.
        """
        self.last = self.client.execute(
            source, silent=hidden, store_history=not hidden, allow_stdin=False
        )
        return await self._done(seconds)

    async def _done(self, seconds: float) -> str:
        """Wait until the last cell has ended; return its error in one line, or ""."""
        error = ""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while True:
            message = await self._message(end - loop.time())
            if message["parent_header"].get("msg_id") != self.last:
                continue
            content = message["content"]
            if message["msg_type"] == "error":
                error = f"{content['ename']}: {content['evalue']}".partition("\n")[0][:200]
            elif message["msg_type"] == "status" and content["execution_state"] == "idle":
                return error

    async def _message(self, seconds: float) -> dict[str, Any]:
        """Receive one message of the kernel's, looking now and then whether it lives."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while (left := end - loop.time()) > 0:
            with contextlib.suppress(Exception):  # queue.Empty, and what can't be parsed
                return await self.client.get_iopub_msg(timeout=min(left, 0.5))
            if not self._alive():
                raise Died(self.why or "the kernel has ended")
        raise TimeoutError

    async def ask(self, *request: Any, seconds: float = 60.0) -> Any:
        """Send the agent a request and return its answer.

        Args:
            request: an operation and its arguments.
            seconds: how long to wait.

        Returns:
            The answer.

        Raises:
            Lost: it does not answer.
        """
        try:
            async with asyncio.timeout(seconds):
                remote.write(self.writer, request)
                self._due += 1
                await self.writer.drain()
                # A behaviour that was cut off has left its answer behind.
                while self._due:
                    answer = await remote.read(self.reader)
                    self._due -= 1
        except (TimeoutError, ValueError, OSError):
            answer = None
        if answer is None:
            self.why = self.why or "the kernel does not answer any more"
            self._kill()
            raise Lost
        return answer

    async def _watch(self) -> None:
        """End it when it takes too much memory, its children's included."""
        try:
            while True:
                used, top = 0, self.process
                for process in [top, *top.children(recursive=True)]:
                    with contextlib.suppress(psutil.Error):
                        used += process.memory_info().rss
                if used > self.memory:
                    self.why = f"more than {self.memory // 2**20} MiB of memory"
                    self._kill()
                    return
                await asyncio.sleep(WATCH_EVERY)
        except psutil.Error:
            return

    def _alive(self) -> bool:
        with contextlib.suppress(psutil.Error):
            return self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE
        return False

    def _interrupt(self) -> None:
        """Do what the stop button does, to the kernel and what it has started."""
        if hasattr(os, "killpg"):
            os.killpg(self.process.pid, signal.SIGINT)

    def _kill(self) -> None:
        """End the process and its children, at once."""
        with contextlib.suppress(psutil.Error):
            for process in [*self.process.children(recursive=True), self.process]:
                with contextlib.suppress(psutil.Error):
                    process.kill()

    async def _end(self) -> None:
        if hasattr(self, "writer"):
            self.writer.close()
        if hasattr(self, "client"):
            self.client.stop_channels()
        self._kill()
        # Whoever has started it buries it.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(INTERRUPT):
                while self._alive():  # noqa: ASYNC110 - no event tells
                    await asyncio.sleep(0.02)
