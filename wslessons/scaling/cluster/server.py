"""One chat server of a cluster, as the cluster sees it: a process that may be killed.

The two tell each other one line of JSON each, over the pipes. The cluster writes a `Config`, then
an empty line for each `Stats` that it wants, or a number: for so many seconds the server's event
loop is held up. The server answers the `Config` once with `Ready` or `Failed`. The end of its pipe
tells a server that the cluster is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections import deque
from typing import IO, Any, Literal

import msgspec

from wslessons.errors import UserError
from wslessons.processes import guarded

__all__ = ["Answer", "ClusterServer", "Config", "Failed", "Ready", "Stats"]

START_TIME = 30.0
"""Seconds for a server to import, connect to its broker and accept."""
MOST_ASKED = 100
"""Questions that one which hangs may have before it."""
STOP_TIME = 5.0
"""Seconds for a server to close its clients, say goodbye on the bus, and end."""


class Config(msgspec.Struct):
    """How to serve. It goes through a pipe since `bus` may hold a password, which `ps` shows."""

    bus: str
    host: str
    port: int
    beat: float
    chat: dict[str, Any]
    """Arguments of the `ChatServer`."""
    secret: bytes
    """One more, that no log shows."""
    max_connections: int | None
    max_per_address: int
    heartbeat: tuple[float, float]
    """See `wslessons.serving.serve`."""
    node: str = ""
    """Its name on the bus; made up if not given."""
    send_buffer: int = 0
    """Bytes that the kernel holds for each connection; 0 for as much as the system likes. With few
    a slow reader is soon a blocked one."""
    reuse_port: bool = False
    """Whether other servers may listen on the same port (SO_REUSEPORT)."""


class Ready(msgspec.Struct, tag="ready"):
    """The server accepts connections."""

    url: str


class Failed(msgspec.Struct, tag="failed"):
    """The server can't start; `sentence` is that of the `UserError`."""

    sentence: str


class Stats(msgspec.Struct, tag="stats"):
    """One server's numbers, since it started where they count something."""

    connections: int
    """WebSockets open now."""
    tasks: int
    """Tasks on its event loop."""
    people: int
    """People who are known here in all rooms, those on other servers too."""
    said: int
    """Messages from its own clients, their names not counted."""
    heard: int
    """Events that the bus brought from other servers: messages, joins and leaves."""
    lag: float | None
    """Milliseconds from an event on another server to its delivery here, the median of the last
    hundred; None before the first. All servers share this machine's clock."""
    waiting: int
    """Events that wait for the broker."""
    missed: int
    """Events of others that are known to be gone for this server."""
    unsent: int
    """Events of this server that are known to be gone for the others."""
    bus: str
    """How it stands with the broker: connected, reconnecting or closed."""
    why: str
    """Why it is not connected."""


Answer = Ready | Failed | Stats


class ClusterServer:
    """A chat server in a process of its own. Made by `Cluster`.

    Args:
        number: which of the cluster's it is, from 1.
        config: how to serve.
        loop: its event loop, "asyncio" or "uvloop".

    Attributes:
        number: which of the cluster's it is, from 1.
        url: where it listens, such as ``ws://127.0.0.1:54321``; the same after a restart.
        last_words: when it has ended, the end of its log on one line.
        state: "running"; "stopped" by us; "gone" when it ended otherwise, as by `kill`.
    """

    def __init__(self, number: int, config: Config, loop: str = "asyncio") -> None:
        self.number = number
        self.url = ""
        self.last_words = ""
        self.state: Literal["running", "stopped", "gone"] = "stopped"
        self._config, self._loop = config, loop
        self._process: Process | None = None
        self._starting = asyncio.Lock()
        self._reader: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[str] | None = None
        self._asked: deque[asyncio.Future[Stats]] = deque()

    @property
    def pid(self) -> int | None:
        """Its process id; None while it does not run."""
        return self._process.pid if self._process and self.state == "running" else None

    async def start(self) -> None:
        """Start it and wait until it accepts.

        Raises:
            UserError: it can't; the sentence says why.
        """
        async with self._starting:
            # Of two who start it at the same time, one would have a process that nobody ends. So
            # would one who starts it while another says goodbye, whose end would be taken for that
            # of the new one.
            if self.state != "running":
                await self.wait_ended()
                await self._start()

    async def _start(self) -> None:
        # A file, since a pipe that nobody reads for a while would hold the server up.
        log = tempfile.TemporaryFile()  # noqa: SIM115
        words = guarded(sys.executable, "-m", "wslessons.scaling.cluster.worker", self._loop)
        self._process = await asyncio.create_subprocess_exec(
            *words, stdin=PIPE, stdout=PIPE, stderr=log
        )
        self.state = "running"
        self._ready = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(
            self._read(self._process, self._ready, log), name=f"server {self.number}"
        )
        try:
            self._write(msgspec.json.encode(self._config))
            async with asyncio.timeout(START_TIME):
                self.url = await asyncio.shield(self._ready)
        except TimeoutError:
            await self.kill()
            raise UserError(
                f"server {self.number} was not ready within {START_TIME:g} seconds."
            ) from None
        except BaseException:
            await self.kill()
            raise
        # Whoever lost it looks for it where it was.
        self._config.port = int(self.url.rpartition(":")[2])

    async def stats(self, *, timeout: float = 5) -> Stats:
        """Ask for its numbers.

        Args:
            timeout: seconds for an answer.

        Returns:
            The numbers as they are now.

        Raises:
            UserError: it is not there, or does not answer.
        """
        if self.state != "running":
            raise UserError(f"server {self.number} is {self.state}.")
        if len(self._asked) >= MOST_ASKED:
            raise UserError(f"server {self.number} does not answer.")
        question: asyncio.Future[Stats] = asyncio.get_running_loop().create_future()
        self._asked.append(question)
        self._write(b"")
        try:
            async with asyncio.timeout(timeout):
                return await question
        except TimeoutError:
            raise UserError(f"server {self.number} does not answer.") from None

    def hold_up(self, seconds: float) -> None:
        """Hold its event loop up, as a handler does that computes without awaiting.

        Args:
            seconds: for how long; nothing happens if it does not run.
        """
        if self.state == "running":
            self._write(f"{seconds}".encode())

    async def kill(self) -> None:
        """End it with SIGKILL, as a crash would: no close frame, no goodbye to the others."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self.wait_ended()

    async def stop(self) -> None:
        """End it in good order, its clients told 1001, or by force when that takes long."""
        if self.state != "running":
            return
        self.state = "stopped"
        process = self._process
        assert process is not None
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(STOP_TIME):
                await self.wait_ended()
        except TimeoutError:
            await self.kill()
        except BaseException:
            # Nobody will come back for it.
            process.kill()
            raise

    async def restart(self) -> None:
        """Start it again, on the same port, after `stop` if it runs.

        Raises:
            UserError: it can't be started.
        """
        await self.stop()
        await self.start()

    async def wait_ended(self) -> None:
        """Wait until its process has ended, for whatever reason."""
        if self._process is not None and self._reader is not None:
            await asyncio.shield(self._reader)

    def _write(self, line: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")

    async def _read(self, process: Process, ready: asyncio.Future[str], log: IO[bytes]) -> None:
        assert process.stdout is not None
        sentence = ""
        async for line in process.stdout:
            match msgspec.json.decode(line, type=Answer):
                case Ready(url=url) if not ready.done():
                    ready.set_result(url)
                case Failed(sentence=sentence):
                    pass
                case Stats() as stats if self._asked:
                    question = self._asked.popleft()
                    if not question.done():
                        question.set_result(stats)
        code = await process.wait()
        self.last_words = _end_of(log)
        if self.state == "running":
            self.state = "gone"
        error = UserError(sentence or self._obituary(code))
        for future in (ready, *self._asked):
            if not future.done():
                future.set_exception(error)
                # It may be that nobody waits any more.
                future.exception()
        self._asked.clear()

    def _obituary(self, code: int) -> str:
        words = self.last_words
        return f"server {self.number} ended with {code}{': ' if words else ''}{words}."

    def __repr__(self) -> str:
        return f"<server {self.number}, {self.state}>"


def _end_of(log: IO[bytes]) -> str:
    with log:
        log.seek(0)
        lines = log.read().decode(errors="replace").split("\n")
    return " / ".join(line.strip() for line in lines if line.strip())[-300:]
