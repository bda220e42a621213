"""Real Valkey or Redis servers for lessons and tests; several stand under three Sentinels."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from wslessons.errors import UserError
from wslessons.scaling.brokers.process import Process, Stopped

__all__ = ["SERVICE", "ValkeyServer", "start", "start_sentinels"]

SERVICE = "wslessons"
"""The name under which Sentinels know the primary."""
TRIES = 5
DOWN_AFTER = 1000
"""Milliseconds of silence after which a Sentinel takes the primary for dead."""


class ValkeyServer:
    """One server. It keeps its port and data (an append-only file) when it is restarted.

    Unlike NATS it can't choose a port and say which, so a free one is drawn, and another if
    somebody took it in between.
    """

    def __init__(self, binary: str, name: str, password: str, *, sentinel: bool = False) -> None:
        self._binary, self._password, self._sentinel = binary, password, sentinel
        self.process = Process(f"valkey-{name}")
        self.port = 0
        self.settings: list[str] = []
        """Further lines of its configuration."""

    @property
    def address(self) -> str:
        """Where clients connect, ``HOST:PORT``."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server, again on the same port and data if it ran before."""
        given, words = self.port, ""
        for _ in range(1 if given else TRIES):
            self.port = given or _free_port()
            config = self._write(fresh=not given)
            self.process.start(
                self._binary, str(config), *(["--sentinel"] if self._sentinel else [])
            )
            try:
                self.process.wait_for(self._ready)
                return
            except Stopped as exc:
                words = str(exc)
        self.port = given
        raise UserError(f"{Path(self._binary).name} did not start: {words}.")

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.kill()

    def _write(self, *, fresh: bool) -> Path:
        home, config = self.process.home, self.process.home / "valkey.conf"
        if not fresh:
            # Sentinel and replicas keep what they learnt in this file.
            return config
        lines = [f"port {self.port}", "bind 127.0.0.1", f'dir "{home}"', "daemonize no"]
        if not self._sentinel:
            # Written before a client is answered, so what was acknowledged survives SIGKILL.
            lines += ['save ""', "appendonly yes", "appendfsync everysec"]
        if self._password:
            lines += [f"requirepass {self._password}", f"masterauth {self._password}"]
        config.write_text("\n".join(lines + self.settings) + "\n")
        return config

    def _ready(self) -> bool | None:
        """Whether the one who answers on our port is ours, and has read its data."""
        auth = f"AUTH {self._password}\r\n" if self._password else ""
        answer = b""
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), timeout=0.2) as sock,
        ):
            sock.sendall(f"{auth}INFO server\r\nPING\r\n".encode())
            while not answer.endswith(b"+PONG\r\n"):
                if not (data := sock.recv(65536)):
                    break
                answer += data
        ours = f"process_id:{self.process.pid}\r".encode() in answer
        return True if ours and answer.endswith(b"+PONG\r\n") else None


def start(binary: str, nodes: int, password: str) -> list[ValkeyServer]:
    """Start a primary and, for more than one node, its replicas; return them, the primary first."""
    servers: list[ValkeyServer] = []
    try:
        for number in range(nodes):
            server = ValkeyServer(binary, f"v{number + 1}", password)
            servers.append(server)
            if number:
                server.settings = [f"replicaof 127.0.0.1 {servers[0].port}"]
            server.start()
    except BaseException:
        for server in servers:
            server.process.close()
        raise
    return servers


def start_sentinels(binary: str, primary: ValkeyServer, password: str) -> list[ValkeyServer]:
    """Start three Sentinels that watch `primary`; two of them must agree that it is dead."""
    sentinels: list[ValkeyServer] = []
    try:
        for number in range(3):
            sentinel = ValkeyServer(binary, f"s{number + 1}", "", sentinel=True)
            sentinels.append(sentinel)
            sentinel.settings = [
                f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} 2",
                f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER}",
                f"sentinel failover-timeout {SERVICE} 5000",
            ]
            if password:
                sentinel.settings.append(f"sentinel auth-pass {SERVICE} {password}")
            sentinel.start()
    except BaseException:
        for sentinel in sentinels:
            sentinel.process.close()
        raise
    return sentinels


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
