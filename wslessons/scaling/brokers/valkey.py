"""Real Valkey or Redis servers for lessons and tests; several stand under three Sentinels."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from pathlib import Path

from wslessons.errors import UserError
from wslessons.processes import ServerProcess, Stopped
from wslessons.scaling.brokers.nats import quoted

__all__ = ["SERVICE", "ValkeyServer", "replica_of", "watching"]

SERVICE = "wslessons"
"""The name under which Sentinels know the primary."""
DOWN_AFTER = 1000
"""Milliseconds of silence after which a Sentinel takes the primary for dead."""


class ValkeyServer(ServerProcess):
    """One server. It keeps its port and data (an append-only file) when it is restarted.

    Unlike NATS it can't choose a port and say which, so a free one is drawn, and another if
    somebody took it in between.

    Args:
        program: the path of valkey-server or redis-server.
        name: what to call it.
        password: what clients and replicas must give; empty for none.
        settings: further lines of its configuration.
        sentinel: it is a Sentinel, which has no data.
    """

    def __init__(
        self,
        program: str,
        name: str,
        password: str = "",
        settings: Sequence[str] = (),
        *,
        sentinel: bool = False,
    ) -> None:
        super().__init__(f"valkey-{name}")
        self._program, self._password = program, password
        self.settings, self._sentinel = settings, sentinel

    def start(self) -> None:
        """Start the server, again on the same port and data if it ran before.

        Raises:
            UserError: it does not start.
        """
        fresh = not self.port
        try:
            self._start_on_a_port(lambda: self._begin(fresh=fresh), self._ready)
        except Stopped as exc:
            raise UserError(f"{Path(self._program).name} did not start: {exc}.") from None

    def _begin(self, *, fresh: bool) -> None:
        config = self._write(fresh=fresh)
        self._run(self._program, str(config), *(["--sentinel"] if self._sentinel else []))

    def _write(self, *, fresh: bool) -> Path:
        config = self.home / "valkey.conf"
        if not fresh:
            # Sentinel and replicas keep what they learnt in this file.
            return config
        lines = [f"port {self.port}", "bind 127.0.0.1", f'dir "{self.home}"', "daemonize no"]
        if not self._sentinel:
            # Written before a client is answered, so what was acknowledged survives SIGKILL. Not
            # "everysec", which puts the write off too while the disk is busy with the last second.
            lines += ['save ""', "appendonly yes", "appendfsync no"]
        if self._password:
            secret = quoted(self._password)
            lines += [f"requirepass {secret}", f"masterauth {secret}"]
        config.write_text("\n".join([*lines, *self.settings]) + "\n")
        return config

    def _ready(self) -> bool | None:
        """Whether the one who answers on our port is ours, and has read its data."""
        answer = b""
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), timeout=0.2) as sock,
        ):
            if self._password:
                secret = self._password.encode()
                sock.sendall(b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%b\r\n" % (len(secret), secret))
            sock.sendall(b"INFO server\r\nPING\r\n")
            while not answer.endswith(b"+PONG\r\n"):
                if not (data := sock.recv(65536)):
                    break
                answer += data
        ours = f"process_id:{self.pid}\r".encode() in answer
        return True if ours and answer.endswith(b"+PONG\r\n") else None


def replica_of(primary: ValkeyServer) -> list[str]:
    """Return the settings that make a server a replica.

    Args:
        primary: which runs.

    Returns:
        Lines of a configuration.
    """
    return [f"replicaof 127.0.0.1 {primary.port}"]


def watching(primary: ValkeyServer, password: str) -> list[str]:
    """Return the settings of a Sentinel; two of three must agree that the primary is dead.

    Args:
        primary: which runs.
        password: the primary's; empty for none.

    Returns:
        Lines of a configuration.
    """
    return [
        f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} 2",
        f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER}",
        f"sentinel failover-timeout {SERVICE} 5000",
        *([f"sentinel auth-pass {SERVICE} {quoted(password)}"] if password else []),
    ]
