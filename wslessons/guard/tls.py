"""What counts a connection from its first moment on, and not from the end of its TLS handshake.

asyncio calls a server's protocol when the handshake is done. Whoever never finishes it would be in
no count, and a thousand of them would take all file descriptors.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Any, cast

from wslessons.connection import host_port
from wslessons.limits import ConnectionLimit
from wslessons.logs import Folded

__all__ = ["TlsDoor"]

_full, _unfinished = Folded(logging.getLogger(__name__)), Folded(logging.getLogger(__name__))


class TlsDoor(asyncio.Protocol):
    """Let a connection in once its TLS handshake is done, and count it until then.

    Who is too many is cut off: nothing but TLS could tell them why.

    Args:
        context: the server's.
        limit: counts the connections; what `accept` returns counts them from the handshake on.
        accept: makes the protocol of the application.
        timeout: seconds for the handshake.
        waiting: the set that this is in meanwhile.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        limit: ConnectionLimit,
        accept: Callable[[], asyncio.Protocol],
        timeout: float,
        waiting: set[TlsDoor],
    ) -> None:
        self._context, self._limit, self._accept = context, limit, accept
        self._timeout, self._waiting = timeout, waiting
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it, and begin the handshake (asyncio's callback)."""
        self.transport = cast("asyncio.Transport", transport)
        address = transport.get_extra_info("peername")
        self._host, self._peer = address[0] if address else None, host_port(address)
        if words := self._limit.enter(self._host):
            _full.log(f"{self._peer} was cut off: {words}")
            self.transport.abort()
            return
        # What it sends is for TLS.
        self.transport.pause_reading()
        self._waiting.add(self)
        self._task = asyncio.get_running_loop().create_task(self._shake_hands())

    def end(self) -> None:
        """End it, as the server stops."""
        if self._task is not None:
            self._task.cancel()

    async def _shake_hands(self) -> None:
        loop, early = asyncio.get_running_loop(), _Early()
        encrypted: asyncio.Transport | None = None
        try:
            encrypted = await loop.start_tls(
                self.transport,
                early,
                self._context,
                server_side=True,
                ssl_handshake_timeout=self._timeout,
            )
        except OSError:  # all that TLS, the network and the time can bring
            _unfinished.log(f"{self._peer} did not finish the TLS handshake")
        finally:
            self._waiting.discard(self)
            # From here on the application's protocol counts it, where it is let in.
            self._limit.leave(self._host)
            if encrypted is None:
                self.transport.abort()
        if encrypted is not None and not early.lost:
            early.hand_over(encrypted, self._accept())


class _Early(asyncio.Protocol):
    """Keep what comes between the end of the handshake and the start of the application."""

    def __init__(self) -> None:
        self.lost = False
        self._ended = False
        self._data = bytearray()

    def data_received(self, data: bytes) -> None:
        """Keep it (asyncio's callback)."""
        self._data += data

    def eof_received(self) -> None:
        """Take note, and have asyncio close the connection (asyncio's callback)."""
        self._ended = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note (asyncio's callback)."""
        self.lost = True

    def hand_over(self, transport: asyncio.Transport, protocol: Any) -> None:
        """Give the connection to the application, with all that has come."""
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if self._data and not transport.is_closing():
            protocol.data_received(bytes(self._data))
        if self._ended and not transport.is_closing():
            protocol.eof_received()
