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
import gc
import logging
import signal
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

import websockets
from websockets import Request, Server, ServerConnection

from wslessons.connection import LoggedConnection, host_port, library_logger, malformed
from wslessons.errors import UserError, need, print_line
from wslessons.logs import fold_accept_errors

if TYPE_CHECKING:
    from wslessons.limits import ConnectionLimit

__all__ = [
    "Handler",
    "cancel_and_wait",
    "check_close",
    "explained_bind_errors",
    "first_to_end",
    "run_on",
    "run_until_stopped",
    "running",
    "serve",
    "serve_until_stopped",
    "shut",
    "small_tls_buffers",
    "start_task",
    "stop_event",
    "urls",
]

logger = logging.getLogger(__name__)

Handler = Callable[[ServerConnection], Awaitable[None]]

T = TypeVar("T")

Failed = Callable[[Exception], object]

COLLECT_AFTER = 20_000
"""New objects after which a server's garbage collector looks for cycles among them."""
QUEUED = 2**20
"""Bytes of whole messages that may wait for a handler, where its `max_size` is not above half."""


TLS_RECORD = 5 + 2**14 + 256
"""Bytes of the largest record of TLS (RFC 8446, section 5.2), its header included."""


def small_tls_buffers() -> None:
    """Have asyncio keep a buffer of one record for each connection with TLS from now on.

    It keeps 256 KiB, from the first byte of a handshake on: silent strangers by the thousand would
    take gigabytes. There is no argument for it, so this acts on all connections of the process.
    """
    from asyncio import sslproto

    sslproto.SSLProtocol.max_size = min(sslproto.SSLProtocol.max_size, TLS_RECORD)


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


def urls(server: Server | asyncio.Server, scheme: str = "ws") -> list[str]:
    """List the URLs where `server` accepts connections, with real ports, one per socket.

    Args:
        server: one of `serve`, that has started.
        scheme: ``ws``, or ``wss`` behind TLS.

    Returns:
        The URLs, such as ``ws://127.0.0.1:54321``.
    """
    return [f"{scheme}://{host_port(sock.getsockname())}" for sock in server.sockets]


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
    process_request, door = options.pop("process_request", None), None
    if limit is not None:
        from wslessons.limits import Door  # what has none need not load it

        door = Door(limit)
        options["create_connection"] = functools.partial(LoggedConnection, door=door)

    def refuse_or_process(connection: ServerConnection, request: Request) -> Any:
        if door is not None and (unwelcome := getattr(connection, "unwelcome", "")):
            return connection.respond(*door.answer(unwelcome))
        if wrong := malformed(request):
            return connection.respond(HTTPStatus.BAD_REQUEST, wrong)
        return process_request(connection, request) if process_request is not None else None

    options["process_request"] = refuse_or_process
    options.setdefault("create_connection", LoggedConnection)
    # With the library's 10 seconds, one mute client holds up a stop or a re-run for as long.
    options.setdefault("close_timeout", 1)
    if options.get("ssl") is not None:
        # As for the handshake that follows; asyncio's own is a minute.
        options.setdefault("ssl_handshake_timeout", options.get("open_timeout", 10))
        small_tls_buffers()
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
    timeout: float = 0.5,
) -> None:
    """Close `server` and everything of it in bounded time.

    A connection whose peer has not answered in time is aborted, a handler that has not returned is
    cancelled, and one that ignores even that is left behind after as long again.

    Args:
        server: one of `serve`.
        code: the close code that clients get; 1001 is "going away".
        reason: the reason that clients get, at most 123 bytes of UTF-8.
        timeout: seconds to wait for the peers, and again for the handlers.

    Raises:
        UserError: a close frame can't carry the code or the reason; nothing is closed.

    Source: RFC 6455, section 7.4.1.
    """
    check_close(code, reason)
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


@contextlib.asynccontextmanager
async def running(
    handler: Handler,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    timeout: float = 0.5,
    **options: Any,
) -> AsyncGenerator[Server]:
    """Serve while the block runs, and then end in bounded time, as `shut` does.

    Args:
        handler: serves one connection; as for `serve`.
        host: the address to bind.
        port: the TCP port; 0 takes a free one.
        timeout: that of `shut`, in seconds.
        options: those of `serve`.

    Yields:
        The server.

    Raises:
        OSError: the address can't be bound.
    """
    server = await serve(handler, host, port, **options)
    try:
        yield server
    finally:
        await shut(server, timeout=timeout)


@contextlib.contextmanager
def stop_event() -> Generator[asyncio.Event]:
    """Give an event that SIGINT, SIGTERM and SIGHUP set, in place of their usual effect.

    SIGHUP is what a process gets whose terminal is closed. Where it is ignored, as under nohup, it
    stays so.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def on_signal(signum: int, frame: object) -> None:
        loop.call_soon_threadsafe(stop.set)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        numbers.append(signal.SIGHUP)
    # Not `loop.add_signal_handler`: Windows lacks it.
    previous = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def explained_bind_errors(host: str, port: int) -> Generator[None]:
    """Turn the errors of binding a listening socket into a `UserError` that says what to do.

    Args:
        host: the address that is bound, for the sentence.
        port: the TCP port.
    """
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
        # A newer asyncio tries every address of a name, and then says so with no number.
        if exc.errno == errno.EADDRNOTAVAIL or "could not bind on any address" in str(exc):
            raise UserError(
                f"{host} is not an address of this machine: give --host one that is,"
                " such as 127.0.0.1."
            ) from None
        raise


@contextlib.contextmanager
def _collecting_less() -> Generator[None]:
    """Have the garbage collector do what a server needs of it, and no more.

    By default it looks after every 700 new objects, which are seven connections or a hundred lines,
    and the larger its rounds, the more of what was loaded at the start it walks through: a fifth of
    what letting somebody in takes. What is there by now stays there for good.

    Source: https://docs.python.org/3/library/gc.html#gc.freeze
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def run_on(loop: str, main: Coroutine[Any, Any, T]) -> T:
    """Run a server's `main` as `asyncio.run` does, on an event loop of this kind.

    Args:
        loop: "asyncio" or "uvloop".
        main: what to run.

    Returns:
        What `main` returns.

    Raises:
        UserError: the loop is not installed.

    Source: https://uvloop.readthedocs.io/
    """
    try:
        factory = need("uvloop", "fast").new_event_loop if loop == "uvloop" else None
        with _collecting_less(), asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(main)
    finally:
        # Interrupted before it has begun, it would be complained about.
        main.close()


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


def start_task(
    work: Coroutine[Any, Any, T], what: str, failed: Failed | None = None
) -> asyncio.Task[T]:
    """Run something in the background that somebody hears of if it fails.

    A task that nobody awaits takes its error with it, and leaves all the rest running.

    Args:
        work: what to run.
        what: its name, for the log.
        failed: called with the error; the log has it in any case.

    Returns:
        The task, to be kept as long as it runs.
    """

    def look(task: asyncio.Task[T]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            logger.error("%s failed", what, exc_info=error)
            if failed is not None:
                failed(error)

    task = asyncio.create_task(work, name=what)
    task.add_done_callback(look)
    return task


async def serve_until_stopped(handler: Handler, host: str, port: int, **options: Any) -> None:
    """Serve `handler` from a shell, as `run_until_stopped` says.

    On the signal, clients get close code 1001 (going away), and the call returns in bounded time.

    Args:
        handler: serves one connection; as for `serve`.
        host: the address to bind.
        port: the TCP port; 0 takes a free one.
        options: those of `serve`.

    Raises:
        UserError: the address can't be bound.
    """
    await run_until_stopped(running(handler, host, port, **options), host, port)


async def first_to_end(*work: Awaitable[object]) -> None:
    """Await all until one of them ends or raises, and cancel the others.

    Args:
        work: what is awaited, beside each other.
    """
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await cancel_and_wait(*tasks)


async def cancel_and_wait(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks until they have ended, and take note of their errors.

    Until: a client may turn a cancellation that meets a closing connection into an error of its
    own, and whoever catches that goes on.

    Args:
        tasks: may have ended already.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.1)
    for task in tasks:
        if not task.cancelled():
            task.exception()
