"""What a cluster and its servers tell each other: one line of JSON each, over the pipes.

The cluster writes a `Config`, then an empty line for each `Stats` that it wants, or a number: for
so many seconds the server's event loop is held up. The server answers the `Config` once with
`Ready` or `Failed`. The end of its pipe tells a server that the cluster is gone.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["Answer", "Config", "Failed", "Ready", "Stats"]


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
