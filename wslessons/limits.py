"""How many connections a server has room for, in all and for each address.

Without a bound a thousand connections close a server to everybody, whoever makes them; and a
server that runs out of file descriptors can't even refuse. So there is one below what the process
may open, and one for each address, since one machine should not be able to take them all.

Not handled here: an attacker who has many addresses. Then it is a matter of numbers, and of what
stands in front of the server.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections import Counter
from http import HTTPStatus

__all__ = [
    "HEARTBEAT",
    "MAX_CONNECTIONS",
    "MAX_PER_ADDRESS",
    "ConnectionLimit",
    "Door",
    "descriptors",
    "raise_descriptors",
]

MAX_CONNECTIONS = 10_000
"""Connections in all, where the process may open so many files: some 200 MB of memory."""

MAX_PER_ADDRESS = 100
"""Connections from one address: a household or a small class behind one router, and no crowd."""

HEARTBEAT = (20.0, 20.0)
"""Seconds between pings, and of silence after one until a client is dropped: the numbers that
`websockets` has for its own keepalive."""

SPARE = 64
"""File descriptors that a server needs for other things than its clients."""

MOST_DESCRIPTORS = 65_536


def descriptors() -> int:
    """Return how many files this process may have open."""
    try:
        import resource
    except ImportError:  # Windows, where sockets are no files
        return MOST_DESCRIPTORS
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def raise_descriptors() -> None:
    """Let this process open as many files as it is allowed to; many systems start with 1,024."""
    try:
        import resource
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class ConnectionLimit:
    """Counts connections, and says which one is too many.

    >>> limit = ConnectionLimit(most=3, per_address=2)
    >>> [limit.enter("192.0.2.7") for _ in range(3)]
    ['', '', 'too many connections from 192.0.2.7']
    >>> limit.leave("192.0.2.7")
    >>> limit.enter("192.0.2.7")
    ''

    Clients of this machine itself are not counted by address: a proxy here, or a lesson, has as
    many as it likes of `most`. An IPv6 client has a network of its own, 2**64 addresses: they count
    as one.

    Args:
        most: connections in all; by default `MAX_CONNECTIONS`, or fewer where the process may not
            open so many files.
        per_address: connections from one address; 0 for any number.
    """

    def __init__(self, most: int | None = None, per_address: int = MAX_PER_ADDRESS) -> None:
        room = max(1, descriptors() - SPARE)
        self.most = min(MAX_CONNECTIONS, room) if most is None else most
        self.per_address = per_address
        self.open = 0
        """Connections now."""
        self._by_address: Counter[str] = Counter()

    def enter(self, host: str | None) -> str:
        """Count one more connection, or say why there is no room for it.

        Args:
            host: the other end's address, None where it has none, as over a Unix socket.

        Returns:
            Nothing if there is room; call `leave` when it ends. Else a few words, and `full` tells
            which of the two limits it is.
        """
        if self.full:
            return "too many connections"
        key = _key(host)
        if key and self.per_address and self._by_address[key] >= self.per_address:
            return f"too many connections from {key}"
        self.open += 1
        if key:
            self._by_address[key] += 1
        return ""

    @property
    def full(self) -> bool:
        """Whether there is room for nobody."""
        return self.open >= self.most

    def leave(self, host: str | None) -> None:
        """Count one connection less, of those that `enter` has let in.

        Args:
            host: the address that `enter` was given.
        """
        self.open -= 1
        if key := _key(host):
            self._by_address[key] -= 1
            if not self._by_address[key]:
                del self._by_address[key]


class Door:
    """Who may come in, for all connections of one server.

    Who comes in vain gets an answer over HTTP, for which it has to stay until its request is here.
    So there is a bound on those, too; the others are cut off.

    Args:
        limit: counts who is in, and knows who is too many.
    """

    MOST_WAITING = 32

    def __init__(self, limit: ConnectionLimit) -> None:
        self.limit = limit
        self.waiting = 0
        """Connections that are to be refused."""

    def enter(self, host: str | None) -> str:
        """Count a connection.

        Args:
            host: the other end's address, None where it has none.

        Returns:
            Nothing if there is room, else a few words.
        """
        if words := self.limit.enter(host):
            self.waiting += 1
        return words

    def leave(self, host: str | None, words: str) -> None:
        """Count a connection less.

        Args:
            host: the one that `enter` was given.
            words: what `enter` returned for it.
        """
        if words:
            self.waiting -= 1
        else:
            self.limit.leave(host)

    @staticmethod
    def answer(words: str) -> tuple[HTTPStatus, str]:
        """Say over HTTP why there is no room for a connection.

        Args:
            words: those of `enter`.

        Returns:
            The HTTP status and the sentence.
        """
        status = HTTPStatus.TOO_MANY_REQUESTS if "from" in words else HTTPStatus.SERVICE_UNAVAILABLE
        return status, f"{words.capitalize()}: try again later.\n"


def _key(host: str | None) -> str:
    """Return under which name an address is counted, or nothing if it is not."""
    try:
        address = ipaddress.ip_address((host or "").partition("%")[0])
    except ValueError:
        return ""
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback:
        return ""
    if address.version == 6:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
