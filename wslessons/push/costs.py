"""What polling and pushing cost a server, computed from what one request and one message cost.

Not handled here: what grows faster than the number of tabs, such as a kernel's tables or a
balancer's limits, and TLS, IP and TCP headers, which both sides pay and which favour fewer packets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["PING_BYTES", "PING_INTERVAL", "PONG_BYTES", "Load", "UnitCosts"]

PING_INTERVAL = 20.0
"""Seconds between two pings to an idle connection: uvicorn's and `websockets`' default."""

PONG_BYTES = 2 + 4 + len("beat 1")
"""Bytes up of a masked pong, which echoes the text of the ping (RFC 6455, sections 5.2, 5.5.3)."""

PING_BYTES = 2 + len("beat 1") + PONG_BYTES
"""Bytes of a ping of ours and its pong, both ways; one more each way from the tenth on."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a server bears: events and bytes a second (both ways), busy cores, resident bytes."""

    events: float
    cores: float
    traffic: float
    memory: float


@dataclass(frozen=True, slots=True)
class UnitCosts:
    """Costs on one server: CPU in seconds, traffic in bytes (both ways), memory in bytes.

    `poll` is an answer "nothing changed"; `push` one change sent to one tab; `ping` one keepalive;
    `idle` what an open connection holds.
    """

    poll_cpu: float
    poll_bytes: float
    poll_idle: float
    push_cpu: float
    push_bytes: float
    push_idle: float
    ping_cpu: float

    def polling(self, tabs: float, interval: float) -> Load:
        """Return the load of `tabs` that ask every `interval` seconds and hear "nothing changed".

        To polling's advantage: the few answers that carry news are counted as cheap ones, and a
        tab that asks less often than a connection is kept (75 s) holds no memory.

        Args:
            tabs: how many there are.
            interval: seconds from one poll of a tab to its next.

        Returns:
            The load of all of them.
        """
        rate = tabs / interval
        memory = tabs * self.poll_idle * min(1.0, 75 / interval)
        return Load(rate, rate * self.poll_cpu, rate * self.poll_bytes, memory)

    def pushing(self, tabs: float, change_every: float) -> Load:
        """Return the load of `tabs` that are told of a change every `change_every` seconds.

        Args:
            tabs: how many there are.
            change_every: seconds from one change to the next.

        Returns:
            The load of all of them.
        """
        pushes, pings = tabs / change_every, tabs / PING_INTERVAL
        cores = pushes * self.push_cpu + pings * self.ping_cpu
        traffic = pushes * self.push_bytes + pings * PING_BYTES
        return Load(pushes + pings, cores, traffic, tabs * self.push_idle)

    def break_even(self, change_every: float) -> float:
        """Return the interval in seconds above which polling takes less CPU than pushing.

        It does not depend on the number of tabs. `math.inf` when pushing costs nothing at all.

        Args:
            change_every: seconds from one change to the next.

        Returns:
            The interval of a poll, in seconds.
        """
        cores = self.pushing(1, change_every).cores
        return self.poll_cpu / cores if cores else math.inf
