"""One TCP connection through the link: two sockets, two pipes, and the records of what passed."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

from wslessons.link.faults import Fault, Faults
from wslessons.link.pipe import Pipe, reset
from wslessons.link.recording import Recording
from wslessons.wire import CLIENT_TO_SERVER, SERVER_TO_CLIENT, Direction

__all__ = ["Connection", "Endpoint", "Options"]


@dataclass(frozen=True, slots=True)
class Options:
    """What bounds a connection; see `wslessons.link.Link`."""

    buffer: int
    keep: int
    keep_bytes: int
    open_timeout: float


class Endpoint(asyncio.Protocol):
    """One socket of a connection: `out` carries what it receives, `into` what it is sent.

    Args:
        connection: the one that this socket is an end of.
        out: carries what the socket receives.
        into: carries what it is sent.
    """

    def __init__(self, connection: Connection, out: Pipe, into: Pipe) -> None:
        self._connection, self._out, self._into = connection, out, into

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Join the pipes to the socket."""
        stream = cast(asyncio.Transport, transport)
        # Nothing rests in the transport unless the kernel is full: the pipe knows what has left.
        stream.set_write_buffer_limits(high=0)
        self._out.source = self._into.target = stream
        self._connection.endpoint_made(stream)

    def data_received(self, data: bytes) -> None:
        """Record the bytes and pass them on."""
        self._connection.received(self._out, data)

    def eof_received(self) -> bool:
        """Record the FIN and pass it on; keep the socket open for the other direction."""
        self._connection.ended(self._out, "FIN")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Record an RST and pass it on; without `exc` the link itself has closed the socket."""
        self._into.target = self._out.source = None
        if exc is not None:
            self._connection.ended(self._out, "RST")
        self._connection.endpoint_lost()

    def pause_writing(self) -> None:
        """Hold what comes for this socket until its buffer is empty."""
        self._into.target_full = True

    def resume_writing(self) -> None:
        """Go on."""
        self._into.target_full = False
        self._into.pump()


class Connection(Recording):
    """One connection of a client through the link, open or over; made by `wslessons.link.Link`.

    What it carried, and how to wait for it, is described at `Recording`. `up` and `down`
    count the bytes `received`, `forwarded` and `held` each way.

    Args:
        number: 1 for the link's first connection.
        faults: those in force, shared with the link.
        target: host and port that the link leads to.
        rng: where chance comes from.
        opt: the link's options.
    """

    def __init__(
        self, number: int, faults: Faults, target: tuple[str, int], rng: random.Random, opt: Options
    ) -> None:
        super().__init__(keep=opt.keep, keep_bytes=opt.keep_bytes)
        self.number = number
        """1 for the link's first connection."""
        self._target, self._open_timeout = target, opt.open_timeout
        self._transports: list[asyncio.Transport] = []
        self._open_sockets = 0
        self._end: Callable[[asyncio.Transport], None] | None = None
        """How sockets are closed, once the connection is over."""

        def pipe(direction: Direction) -> Pipe:
            own = random.Random(rng.random())
            return Pipe(self, direction, faults=faults, rng=own, buffer=opt.buffer)

        self.up, self.down = pipe(CLIENT_TO_SERVER), pipe(SERVER_TO_CLIENT)
        for fault in faults.active:
            self.note_fault(fault, began=True)
        self._opening = self._loop.create_task(self._open())
        self._opening.add_done_callback(lambda _: self._check_closed())

    def cut(
        self, text: str = "The link reset both sides.", direction: Direction = CLIENT_TO_SERVER
    ) -> None:
        """Break this connection off, both sides with an RST, whatever faults are in force.

        Args:
            text: what the record of it says.
            direction: whose record it is.
        """
        if self._end is None:
            self._record_event(direction, "CUT", text)
            self._finish(reset)

    def abort(self) -> None:
        """Close both sockets at once, without waiting for bytes on their way."""
        if not self.closed:
            if self._end is None:
                self._record_event(CLIENT_TO_SERVER, "CUT", "The link was closed.")
            self._finish(lambda transport: transport.abort())

    def note_fault(self, fault: Fault, *, began: bool) -> None:
        """Record that a fault of the link began or ended.

        Args:
            fault: which.
            began: False if it ended.
        """
        for direction in fault.directions:
            text = f"Fault {'set' if began else 'undone'}: {str(fault)[1:-1]}."
            self._record_event(direction, "FAULT", text)

    def pump(self) -> None:
        """Pass on what the faults in force allow now."""
        if self._end is None:
            self.up.pump()
            self.down.pump()

    # What endpoints and pipes report.

    def endpoint_made(self, transport: asyncio.Transport) -> None:
        """Take note of a socket.

        Args:
            transport: its transport.
        """
        self._transports.append(transport)
        self._open_sockets += 1
        if self._end is not None:
            self._end(transport)
        self.pump()

    def endpoint_lost(self) -> None:
        """Take note that a socket is closed."""
        self._open_sockets -= 1
        if not self._open_sockets and self._opening.done():
            self._finish(lambda transport: transport.abort())

    def received(self, pipe: Pipe, data: bytes) -> None:
        """Record bytes and give them to their pipe.

        Args:
            pipe: that of their direction.
            data: the bytes.
        """
        if self._end is not None:
            return
        new = self._record_bytes(pipe.direction, data)
        pipe.push(data)
        self.changed(new)

    def ended(self, pipe: Pipe, end: Literal["FIN", "RST"]) -> None:
        """Record the end of what a side sends and give it to the pipe.

        Args:
            pipe: that of its direction.
            end: in good order (FIN), or by a reset (RST).
        """
        if self._end is not None:
            return
        if end == "FIN":
            new = self._record_fin(pipe.direction)
        else:
            who = pipe.direction.partition("->")[0]
            text = f"The {who} reset the connection."
            new = self._record_event(pipe.direction, "RST", text)
        pipe.push_end(end)
        self.changed(new)

    def fin_passed(self) -> None:
        """Close both sockets, what is in their buffers first, once both directions have ended."""
        if self.up.fin_sent and self.down.fin_sent:
            self._finish(lambda transport: transport.close())

    def reset_passed(self) -> None:
        """Break off the other side, as the one that sent the RST did."""
        self._finish(reset)

    async def _open(self) -> None:
        self.pump()  # a fault in force may forbid it
        if self._end is not None:
            return
        host, port = self._target
        try:
            async with asyncio.timeout(self._open_timeout):
                await self._loop.create_connection(
                    lambda: Endpoint(self, out=self.down, into=self.up), host, port
                )
        except (OSError, UnicodeError) as exc:
            number = getattr(exc, "errno", None) or 0
            # Only the system's own numbers, above 0, have the system's words.
            why = os.strerror(number) if number > 0 else str(exc) or "no answer in time"
            text = f"The target {host}:{port} can't be reached: {why}."
            self._record_event(SERVER_TO_CLIENT, "REFUSED", text)
            self._finish(reset)

    def _finish(self, end: Callable[[asyncio.Transport], None]) -> None:
        self._end = end
        self.up.close()
        self.down.close()
        self._opening.cancel()
        for transport in self._transports:
            end(transport)
        self._check_closed()

    def _check_closed(self) -> None:
        if self._end and not self._open_sockets and self._opening.done() and not self.closed:
            self._record_closed()
