"""The habits that all our servers share: how they log, tell where they listen, and stop.

`serve` is `websockets.serve` plus these: whatever a client does is one line in the log, what one
connection can hold in memory is bounded in bytes, a client that stops reading or answering is
dropped in time, and `shut` ends the server in bounded time, also when a handler is stuck.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import signal
import socket
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar

import websockets
from websockets import ConnectionClosed, Request, Server, ServerConnection
from websockets.frames import CloseCode

from wslessons.errors import UserError, print_line
from wslessons.fast import FastConnection
from wslessons.logs import Folded, fold_accept_errors, one_line

if TYPE_CHECKING:
    from wslessons.heartbeat import Heartbeat
    from wslessons.limits import ConnectionLimit

__all__ = [
    "Handler",
    "LoggedConnection",
    "check_close",
    "explained_bind_errors",
    "host_port",
    "peer",
    "run_until_stopped",
    "serve",
    "serve_until_stopped",
    "shut",
    "stop_event",
    "urls",
]

logger = logging.getLogger(__name__)

Handler = Callable[[ServerConnection], Awaitable[None]]

SLICE = 2**15
"""Bytes that are parsed at once: they may be some thousand messages."""
COMPRESSED_SLICE = 2**12
"""The same where they may be compressed, and become a thousand times as many."""
QUEUED = 2**20
"""Bytes of whole messages that may wait for a handler, where its `max_size` is not above half."""


def host_port(address: Any) -> str:
    """Write a socket's address as in a URL: ``127.0.0.1:8765``, or ``[::1]:8765`` for IPv6.

    >>> host_port(("::1", 8765, 0, 0))
    '[::1]:8765'
    """
    if not address:
        return "unknown peer"
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_close(code: int, reason: str = "") -> None:
    """Refuse what no close frame can carry, before anything is closed with it.

    Args:
        code: a close code that an endpoint may send: 1000 to 1003, 1007 to 1014, 3000 to 4999.
        reason: at most 123 bytes of UTF-8.

    Raises:
        UserError: the code or the reason can't be sent.

    Source: RFC 6455, sections 5.5 and 7.4.
    """
    if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        raise UserError(
            f"a close frame can't carry {code}: use 1000, or 4000 to 4999 for your own codes."
        )
    try:
        size = len(reason.encode())
    except UnicodeEncodeError:
        raise UserError("a close frame's reason has to be text that UTF-8 can carry.") from None
    if size > 123:
        raise UserError(f"a close frame has room for a reason of 123 bytes; this one has {size}.")


def peer(connection: ServerConnection) -> str:
    """Name the other end of `connection` by its address, for the log."""
    return host_port(connection.remote_address)


def urls(server: Server, scheme: str = "ws") -> list[str]:
    """List the URLs where `server` accepts connections, with real ports, one per socket."""
    return [f"{scheme}://{host_port(sock.getsockname())}" for sock in server.sockets]


class _OneLine(logging.Filter):
    """Fold what clients cause into one line; what is the server's own fault keeps its traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, ConnectionClosed):
            connection = getattr(record, "websocket", None)
            who = peer(connection) if connection is not None else "a client"
            record.msg, record.args = "%s disconnected: %s", (who, one_line(error))
            record.exc_info = record.exc_text = None
            record.levelno, record.levelname = logging.INFO, "INFO"
        return True


_full, _refused = Folded(logger), Folded(logger, most=10)

# The library's own lines below WARNING name no peer; ours do, so its lines stay out.
library_logger = logging.getLogger("wslessons.websockets")
library_logger.setLevel(logging.WARNING)
library_logger.addFilter(_OneLine())


class Door:
    """Who may come in, for all connections of one server.

    Who comes in vain gets an answer over HTTP, for which it has to stay until its request is here.
    So there is a bound on those, too; the others are cut off.
    """

    MOST_WAITING = 32

    def __init__(self, limit: ConnectionLimit) -> None:
        self.limit = limit
        self.waiting = 0
        """Connections that are to be refused."""

    def enter(self, host: str | None) -> str:
        """Count a connection; return a few words if there is no room for it."""
        if words := self.limit.enter(host):
            self.waiting += 1
        return words

    def leave(self, host: str | None, words: str) -> None:
        """Count a connection less, about which `enter` had these words."""
        if words:
            self.waiting -= 1
        else:
            self.limit.leave(host)

    @staticmethod
    def answer(words: str) -> tuple[HTTPStatus, str]:
        """Return the HTTP status and the sentence that refuse a connection for these words."""
        status = HTTPStatus.TOO_MANY_REQUESTS if "from" in words else HTTPStatus.SERVICE_UNAVAILABLE
        return status, f"{words.capitalize()}: try again later.\n"


class LoggedConnection(FastConnection):
    """A server connection that always ends, in one line of the log, and whose memory is bounded.

    The library notes a deadline when it fails a connection, but acts on it only inside a call such
    as `close` or the next keepalive ping: a client that breaks the protocol and then keeps its
    socket open would stay for all that time. Here the deadline holds by itself.

    The library parses all that has arrived before it looks whether its queue is full: up to 256 KiB
    at once, which may be compressed and 1,000 times as much. And it answers each ping, also to a
    peer that reads none of the pongs. Here data is parsed in slices, and none while messages wait
    for the handler or while the peer does not read what we send; it waits as it came, and then
    reading stops.
    """

    alive: ClassVar[weakref.WeakSet[LoggedConnection]] = weakref.WeakSet()

    __slots__ = ("_deadline", "_unparsed", "door", "heartbeat", "opened", "received", "unwelcome")

    door: Door | None
    unwelcome: str
    """Why there is no room for it."""
    opened: bool
    """Whether its handler has been called."""
    received: int
    """Bytes that have arrived."""
    heartbeat: Heartbeat | None
    """The one it has, which sets this."""
    _deadline: asyncio.TimerHandle | None
    _unparsed: bytearray | None

    def __init__(self, *args: Any, door: Door | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.door, self.unwelcome = door, ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the connection from its first moment, for `shut` (asyncio's callback)."""
        self.opened, self.received, self.heartbeat = False, 0, None
        self._deadline = self._unparsed = None
        super().connection_made(transport)
        self.recv_messages.resume = self._read_on_soon
        self.alive.add(self)
        if self.door is not None:
            self.unwelcome = self.door.enter(self._host)
            if self.unwelcome and self.door.waiting > Door.MOST_WAITING:
                self.transport.abort()

    @property
    def _host(self) -> str | None:
        address = self.remote_address
        return address[0] if address else None

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, or keep it while it must wait (asyncio's callback)."""
        self.received += len(data)
        size = COMPRESSED_SLICE if self.protocol.extensions else SLICE
        if len(data) <= size and self._unparsed is None and not self.paused:
            super().data_received(data)
        else:
            if self._unparsed is None:
                self._unparsed = bytearray()
            self._unparsed += data
            self._read_on()
        # Keep the deadline that failing or closing the connection has set.
        if self.close_deadline is not None and self._deadline is None:
            self._deadline = self.loop.call_at(self.close_deadline, self.transport.abort)

    def resume_writing(self) -> None:
        """Read again what the peer sends, as it has read what we sent (asyncio's callback)."""
        super().resume_writing()
        if self._unparsed is not None:
            self._read_on_soon()

    def acknowledge_pings(self, data: bytes) -> None:
        """Show a pong to the heartbeat (the library's own hook for its keepalive)."""
        if self.heartbeat is None or not self.heartbeat.pong(data):
            super().acknowledge_pings(data)

    def _read_on_soon(self) -> None:
        # Not at once: the handler that has made room for more would never let go of the loop.
        self.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        """Parse what waits, slice by slice, and read from the socket again once nothing waits."""
        unparsed = self._unparsed
        size = COMPRESSED_SLICE if self.protocol.extensions else SLICE
        while unparsed:
            if self.paused or self.recv_messages.paused:
                self.transport.pause_reading()
                return
            piece = bytes(unparsed[:size])
            del unparsed[:size]
            super().data_received(piece)
        self._unparsed = None
        if not self.recv_messages.paused:
            self.transport.resume_reading()

    async def close(self, code: CloseCode | int = 1000, reason: str = "") -> None:
        """Complete the closing handshake, or abort after `close_timeout` seconds.

        The library has a deadline for the peer's answer and none for getting its own close frame
        into a socket that is full, so that a peer that reads nothing would hold its handler.
        """
        timeout = None if self.close_timeout is None else self.close_timeout + 0.1
        try:
            async with asyncio.timeout(timeout):
                await super().close(code, reason)
        except TimeoutError:
            self.transport.abort()
            await self.wait_closed()

    def connection_lost(self, exc: Exception | None) -> None:
        """Log a connection that ends before its handler could start (asyncio's callback)."""
        super().connection_lost(exc)
        self.alive.discard(self)
        self._unparsed = None
        if self._deadline is not None:
            self._deadline.cancel()
        if self.door is not None:
            self.door.leave(self._host, self.unwelcome)
        if self.opened:
            return
        if self.unwelcome:
            _full.log(f"{peer(self)} was refused: {self.unwelcome}")
        elif self.response is None or self.response.status_code == 101:
            logger.info("%s left before the opening handshake was finished", peer(self))
        else:
            # Without the query, which may hold a secret.
            path = self.request.path.partition("?")[0] if self.request is not None else ""
            why = f": {self.protocol.handshake_exc}" if self.protocol.handshake_exc else ""
            refused = f"{peer(self)} was refused with {self.response.status_code}"
            _refused.log(f"{refused}: {one_line(path, 100)}{one_line(why, 200)}")


def serve(
    handler: Handler,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    heartbeat: tuple[float, float] | None = None,
    limit: ConnectionLimit | None = None,
    **options: Any,
) -> Any:
    """Start a WebSocket server as `websockets.serve` does, with the habits of this module.

    Args:
        handler: called with each connection once its opening handshake is done.
        host: the address to bind; only this machine can connect unless you say otherwise.
        port: the TCP port; 0 takes a free one, see `urls`.
        heartbeat: interval and timeout of a `Heartbeat` for each connection, in seconds, in place
            of the library's keepalive, which waits for ever behind what a peer does not read.
        limit: how many connections there may be; who is too many is answered with HTTP 503, or with
            429 if it is for its address. Not with a `create_connection` of your own.
        options: whatever else `websockets.serve` takes. Here `close_timeout` is 1 second, and
            `max_queue` as many messages as `QUEUED` bytes hold, 2 to 16.

    Returns:
        What `websockets.serve` returns: ``async with serve(...) as server``.

    Source: https://websockets.readthedocs.io/en/stable/reference/asyncio/server.html
    """
    options.setdefault("logger", library_logger)
    if limit is not None:
        door, process_request = Door(limit), options.pop("process_request", None)

        def refuse_or_process(connection: LoggedConnection, request: Request) -> Any:
            if connection.unwelcome:
                return connection.respond(*door.answer(connection.unwelcome))
            return process_request(connection, request) if process_request is not None else None

        options["create_connection"] = functools.partial(LoggedConnection, door=door)
        options["process_request"] = refuse_or_process
    options.setdefault("create_connection", LoggedConnection)
    # With the library's 10 seconds, one mute client holds up a stop or a re-run for as long.
    options.setdefault("close_timeout", 1)
    max_size = options.get("max_size", 2**20)
    if isinstance(max_size, int):
        options.setdefault("max_queue", min(16, max(2, QUEUED // max(1, max_size))))
    beating = None
    if heartbeat is not None:
        from wslessons import heartbeat as beats  # what has none need not load it

        options["ping_interval"] = None
        beating = functools.partial(beats.Heartbeat, interval=heartbeat[0], timeout=heartbeat[1])

    def handle(connection: ServerConnection) -> Awaitable[None]:
        if isinstance(connection, LoggedConnection):
            connection.opened = True
        if beating is not None:
            beating(connection).start()
        return handler(connection)

    return websockets.serve(handle, host, port, **options)


async def shut(
    server: Server,
    code: int = 1001,
    reason: str = "",
    timeout: float = 0.5,  # noqa: ASYNC109 - it bounds two steps, each by itself
) -> None:
    """Close `server` and everything of it in bounded time.

    A connection whose peer has not answered in time is aborted, a handler that has not returned is
    cancelled, and one that ignores even that is left behind after as long again.

    Args:
        server: one of `serve`.
        code: the close code that clients get; 1001 is "going away".
        reason: the reason that clients get, at most 123 bytes of UTF-8.
        timeout: seconds to wait for the peers, and again for the handlers.

    Source: RFC 6455, section 7.4.1.
    """
    server.close(code=code, reason=reason)
    closed = asyncio.ensure_future(server.wait_closed())
    try:
        await asyncio.wait([closed], timeout=timeout)
        if closed.done():
            return
        for connection in [c for c in LoggedConnection.alive if c.server is server]:
            connection.transport.abort()
        stuck = set(server.handler_tasks)
        for task in stuck:
            task.cancel()
        await asyncio.wait([closed], timeout=timeout)
        if not closed.done():
            logger.warning("%d handlers ignored being cancelled and were left", len(stuck))
    finally:
        closed.cancel()


@contextlib.contextmanager
def stop_event() -> Generator[asyncio.Event]:
    """Give an event that SIGINT and SIGTERM set, in place of their usual effect."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def on_signal(signum: int, frame: object) -> None:
        loop.call_soon_threadsafe(stop.set)

    # Not `loop.add_signal_handler`: Windows lacks it.
    previous = {
        number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def explained_bind_errors(host: str, port: int) -> Generator[None]:
    """Turn the errors of binding a listening socket into a `UserError` that says what to do."""
    try:
        yield
    except socket.gaierror:
        raise UserError(
            f"the host {host!r} is not known here: give --host an address of this machine,"
            " such as 127.0.0.1."
        ) from None
    except OSError as exc:
        # asyncio words the error itself and keeps only its number.
        if exc.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {port} on {host} is in use: choose another port, or 0 for a free one."
            ) from None
        if exc.errno in (errno.EACCES, errno.EPERM):
            raise UserError(
                f"this user may not listen on port {port}: choose one above 1023,"
                " or 0 for a free one."
            ) from None
        if exc.errno == errno.EADDRNOTAVAIL:
            raise UserError(
                f"{host} is not an address of this machine: give --host one that is,"
                " such as 127.0.0.1."
            ) from None
        raise


async def run_until_stopped(
    serving: contextlib.AbstractAsyncContextManager[Any], host: str, port: int
) -> None:
    """Serve from a shell: print each URL on a line of its own, and stop on SIGINT or SIGTERM.

    The URL is printed when connections are accepted, with the real port.

    Args:
        serving: what serves while it is entered, and gives the server, with its `sockets`.
        host: the address that it binds, for the sentence if it can't.
        port: the port that it binds, for the sentence if it can't.

    Raises:
        UserError: the address can't be bound.
    """
    with stop_event() as stop, fold_accept_errors():
        async with contextlib.AsyncExitStack() as stack:
            with explained_bind_errors(host, port):
                server = await stack.enter_async_context(serving)
            for url in urls(server):
                print_line(url)
            await stop.wait()


async def serve_until_stopped(handler: Handler, host: str, port: int, **options: Any) -> None:
    """Serve `handler` from a shell, as `run_until_stopped` says.

    On the signal, clients get close code 1001 (going away), and the call returns in bounded time.

    Raises:
        UserError: the address can't be bound.
    """

    @contextlib.asynccontextmanager
    async def run() -> AsyncGenerator[Server]:
        server = await serve(handler, host, port, **options)
        try:
            yield server
        finally:
            await shut(server)

    await run_until_stopped(run(), host, port)
