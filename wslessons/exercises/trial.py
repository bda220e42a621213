"""What a behaviour is written with: servers of what the learner wrote, real clients, expectations.

    @behaviour("a text is answered in capitals")
    async def capitals(self, trial):
        client = await trial.connect(await trial.serve())
        await trial.asks(client, "hello", "HELLO", hint="...")

A behaviour never touches the learner's object itself: it connects to where it is served, or has it
called. So the same behaviour judges an object in this kernel, one in another process, and a server
that is already running somewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from websockets import (
    ClientConnection,
    ConnectionClosed,
    InvalidHandshake,
    InvalidStatus,
    Server,
    ServerConnection,
)

# By names of their own, which nothing that a learner does to the library's can change.
from websockets import connect as open_connection
from websockets import serve as start_server

from wslessons.exercises import stages
from wslessons.exercises.idle import CLOSE, MOST, Idle
from wslessons.exercises.isolation import Isolation

__all__ = ["TIMEOUT", "Client", "Mismatch", "Nothing", "Salted", "Trial", "shown"]

TIMEOUT = 3.0
"""Seconds after which what has not come is taken as not coming."""

GRACE = 3.0
"""Seconds for a handler to end once its client has gone; a busy machine may need one of them."""

quiet = logging.getLogger("wslessons.exercises.servers")
quiet.propagate = False
quiet.setLevel(logging.CRITICAL + 1)

Hint = str | Callable[[Any], str]


@dataclass(frozen=True)
class Nothing:
    """In place of an answer: none came, and why.

    Args:
        why: a clause, such as "nothing within 3 s".
        code: the close code, if the connection is over.
        reason: the close reason.
    """

    why: str
    code: int | None = None
    reason: str = ""

    def __str__(self) -> str:
        return self.why

    def __repr__(self) -> str:
        # A learner reads it in a list of answers as well.
        return f"<{self.why}>"


class Salted(str):
    """A text whose `hash()` is what it might be in another process."""

    def __new__(cls, text: str, salt: int) -> Self:
        """Make one with that salt."""
        made = super().__new__(cls, text)
        made.salt = salt
        return made

    salt: int

    def __hash__(self) -> int:
        return hash((str.__hash__(self), self.salt))

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other)


class Mismatch(Exception):
    """A behaviour's expectation that does not hold.

    Args:
        expected: what should have come.
        got: what came.
        hint: what to look at; a function gets what came.
    """

    def __init__(self, expected: str, got: Any, hint: Hint) -> None:
        super().__init__(expected)
        self.expected = expected
        self.got = got
        self.hint = hint if isinstance(hint, str) else hint(got)


class Client:
    """One real client of what is on trial: `websockets.connect` with a timeout for each step.

    Args:
        connection: open already.
        idle: what knows whether anything can still come.
    """

    def __init__(self, connection: ClientConnection, idle: Idle) -> None:
        self.connection = connection
        self.idle = idle

    async def send(self, message: Any, *, text: bool | None = None) -> None:
        """Send, unless the connection has ended: then what is received next says so.

        Args:
            message: text, bytes, or a list of fragments.
            text: whether bytes go as text, whatever is in them.
        """
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            async with self.idle.limit(TIMEOUT):
                await self.connection.send(message, text=text)

    async def recv(self, timeout: float = TIMEOUT) -> Any:
        """Receive the next message, or a `Nothing` that says why there is none.

        Args:
            timeout: seconds.

        Returns:
            The message, or a `Nothing`.
        """
        end = asyncio.get_running_loop().time() + timeout
        try:
            async with self.idle.timeout(timeout):
                return await self.connection.recv()
        except TimeoutError:
            return Nothing(f"nothing {_for_how_long(end, timeout)}")
        except ConnectionClosed:
            return self.ending()

    async def settled(self) -> None:
        """Wait until the other side has had what was sent so far, by a ping; a closed one is."""
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            async with self.idle.limit(TIMEOUT):
                await (await self.connection.ping())

    async def closing(self, timeout: float = TIMEOUT) -> tuple[list[Any], Nothing]:
        """Receive until the other side closes; return what came before, and how it closed.

        Args:
            timeout: seconds for each message.

        Returns:
            The messages before the end, and the end.
        """
        before: list[Any] = []
        while len(before) < 1000:
            message = await self.recv(timeout)
            if isinstance(message, Nothing):
                return before, message
            before.append(message)
        return before, Nothing("messages without end")

    def ending(self) -> Nothing:
        """Say how the connection has ended."""
        code, reason = self.connection.close_code, self.connection.close_reason or ""
        words = f"the connection was closed with {code}" + (f" ({reason})" if reason else "")
        if code == 1006:
            words = "the connection ended without a close frame (1006)"
        return Nothing(words, code, reason)

    async def close(self, code: int = 1000) -> None:
        """Close with `code`, in bounded time.

        Args:
            code: the close code (RFC 6455, section 7.4.1).
        """
        with contextlib.suppress(TimeoutError):
            async with self.idle.limit(TIMEOUT):
                await self.connection.close(code)

    def vanish(self) -> None:
        """End the TCP connection without a word."""
        self.connection.transport.abort()


class Trial:
    """The world of one behaviour: everything that it starts ends with its `async with` block.

    Args:
        answer: what the learner wrote.
        isolation: the fence around it.
    """

    def __init__(self, answer: Any, isolation: Isolation) -> None:
        self.answer = answer
        self.isolation = isolation
        self.servers: list[Server] = []
        self._theirs: list[Server] = []
        self._started: list[asyncio.Future[Any]] = []
        self.clients: list[Client] = []
        self._called = ""
        """The last call of the learner's function, if its arguments can be shown."""
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Politely at first, lest what one behaviour leaves behind spoils the next one.
        goodbyes = [asyncio.ensure_future(client.close()) for client in self.clients]
        await self.isolation.idle.wait(goodbyes, 0.5)
        for client in self.clients:
            client.vanish()
        for goodbye in goodbyes:
            goodbye.cancel()
        # A handler that listens ends by itself now.
        handlers = [task for server in self._theirs for task in server.handler_tasks]
        await self._ended(handlers, "a handler whose client had gone")
        for server in self.servers:
            server.close(close_connections=False)
            for task in server.handler_tasks:
                task.cancel()
        self.cut_off()
        for task in self._started:
            task.cancel()
        if self._started:
            await self.isolation.idle.wait(self._started, GRACE)
            await asyncio.gather(*(t for t in self._started if t.done()), return_exceptions=True)
        await self.isolation.end()
        await self._stack.__aexit__(None, None, None)

    async def _ended(self, tasks: list[asyncio.Task[None]], name: str) -> None:
        for timeout in (GRACE, 0.3, 0.3, 0.3):
            if not (tasks := [task for task in tasks if not task.done()]):
                return
            await self.isolation.idle.wait(tasks, timeout)
            alive = [task for task in tasks if not task.done()]
            if alive and timeout == GRACE:
                self.isolation.left.append(name)
            for task in alive:
                task.cancel()
        if any(not task.done() for task in tasks):
            self.isolation.immortal.append(name)

    # What the learner wrote

    async def serve(self, **options: Any) -> str:
        """Serve the learner's handler on a free port, and return its URL.

        Args:
            options: whatever `websockets.serve` takes.

        Returns:
            The URL.
        """
        handler = self.answer
        if inspect.isclass(handler):
            with self.isolation.learners():
                handler = handler().handler
        return await self.serve_this(handler, **options)

    async def serve_small(self) -> str:
        """Serve with room for a few KiB per connection, so that a slow reader is soon noticed."""
        self.isolation.idle.open = True
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sock.bind(("127.0.0.1", 0))
        return await self.serve(
            host=None, port=None, sock=sock, write_limit=1024, ping_interval=None
        )

    async def stage(self, name: str) -> Any:
        """Serve the answer in the stage of that name (see `stages`), and return its URL or URLs.

        Args:
            name: that of a function in `stages`.

        Returns:
            The URL or the URLs.
        """
        return await getattr(stages, name)(self)

    async def serve_this(self, handler: Any, *, theirs: bool = True, **options: Any) -> str:
        """Serve `handler` as `serve` does; `theirs` says whether it is the learner's code.

        Args:
            handler: called with each connection.
            theirs: whether it is the learner's.
            options: whatever `websockets.serve` takes.

        Returns:
            The URL.
        """

        async def guarded(connection: ServerConnection) -> None:
            await (self.isolation.guard(handler(connection)) if theirs else handler(connection))

        options.setdefault("logger", quiet)
        options.setdefault("close_timeout", 0.5)
        options.setdefault("compression", None)
        options.setdefault("open_timeout", MOST * TIMEOUT)
        options = {"host": "127.0.0.1", "port": 0, **options}
        server = await start_server(guarded, **options)
        self.servers.append(server)
        if theirs:
            self._theirs.append(server)
        return f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def call(
        self,
        *args: Any,
        timeout: float = TIMEOUT,
        hint: str = "It waits for ever: for what?",
        endless: asyncio.Event | None = None,
    ) -> Any:
        """Call the learner's function, await it if need be, and return its result.

        Args:
            args: what it is called with.
            timeout: seconds that it may take.
            hint: what to say if it takes longer.
            endless: set by a behaviour as soon as it is certain that the call goes on for ever.

        Returns:
            The result.

        Raises:
            Mismatch: it raised, or took too long.
        """
        self._called = ""
        if all(isinstance(arg, str | bytes | int | float | list | None) for arg in args):
            words = f"({', '.join(map(repr, args))})"
            name = getattr(self.answer, "__name__", "")
            # An address would be another one each time.
            if name and len(words) <= 60 and "://" not in words:
                self._called = f", from {name}{words}"
        try:
            with self.isolation.learners():
                result = self.answer(*args)
            if not inspect.isawaitable(result):
                return result
            running = asyncio.ensure_future(self.isolation.guard(result))
        except Exception as error:
            raise Mismatch("a result", Nothing("an exception"), "") from error
        end = asyncio.get_running_loop().time() + timeout
        certain = asyncio.ensure_future((endless or asyncio.Event()).wait())
        try:
            await self.isolation.idle.wait([running, certain], timeout, asyncio.FIRST_COMPLETED)
        finally:
            certain.cancel()
            if not running.done():
                # A closing handshake that nobody answers would take the library's ten seconds.
                self.cut_off()
                running.cancel()
        if not running.done():
            why = "no end: it begins again and again"
            if not certain.done():
                why = f"no end {_for_how_long(end, timeout)}"
            await self.isolation.idle.wait([running], GRACE)
            raise Mismatch("an end", Nothing(why), hint)
        try:
            return running.result()
        except (Exception, asyncio.CancelledError) as error:
            # An ended connection that they let out is a crash here: nobody else catches it.
            if not self.isolation.crashes:
                self.isolation.crashes.append(error)
            raise Mismatch("a result", Nothing("an exception"), "") from error

    def cut_off(self) -> None:
        """End every connection that is open, without a word."""
        for client in self.clients:
            client.vanish()
        for server in self.servers:
            for connection in list(server.all_connections):
                connection.transport.abort()

    async def value(self) -> Any:
        """Return the learner's value itself."""
        return self.answer

    async def crashed(self, kind: type[Exception]) -> bool:
        """Tell whether the learner's code has raised an error of that kind, and forget it.

        Args:
            kind: of error.

        Returns:
            Whether it has.
        """
        crashes = self.isolation.crashes
        found = any(isinstance(error, kind) for error in crashes)
        if found:
            crashes.clear()
        return found

    async def diagnosis(self, exercise: Any) -> tuple[str, str] | None:
        """Say what the learner's code did that explains a missing answer, with a hint.

        Args:
            exercise: the one that is judged.

        Returns:
            What it did and a hint; None if nothing explains it.
        """
        return exercise.diagnosis(self.isolation)

    def start(self, learners: Any) -> None:
        """Run a coroutine of the learner's in the background until the trial ends.

        Args:
            learners: the coroutine.
        """
        task = asyncio.ensure_future(self.isolation.guard(learners))
        self._started.append(task)

    async def take(self, count: int, *args: Any) -> list[Any]:
        """Call the learner's generator function and take up to `count` items of what it yields.

        Args:
            count: how many.
            args: what the function is called with.

        Returns:
            The items.
        """
        items: list[Any] = []
        generator = await self.call(*args)
        try:
            with self.isolation.learners():
                for item in generator:
                    items.append(item)
                    if len(items) == count:
                        break
        except Exception as error:
            raise Mismatch(f"{count} items", Nothing(f"{len(items)} items"), "") from error
        finally:
            with contextlib.suppress(Exception):
                generator.close()
        return items

    # Clients and expectations

    async def connect(self, url: str, **options: Any) -> Client:
        """Connect a real client to `url`.

        Args:
            url: what `serve` has returned.
            options: whatever `websockets.connect` takes.

        Returns:
            The client.

        Raises:
            Mismatch: the handshake failed.
        """
        options.setdefault("compression", None)
        options.setdefault("close_timeout", 0.5)
        options.setdefault("logger", quiet)
        try:
            async with self.isolation.idle.limit(TIMEOUT):
                connection = await open_connection(url, proxy=None, open_timeout=None, **options)
        except InvalidStatus as error:
            got = Nothing(f"the handshake was answered with {error.response.status_code}")
            raise Mismatch("an open connection", got, "Let this client in.") from error
        except (OSError, InvalidHandshake, TimeoutError) as error:
            got = Nothing(f"no WebSocket ({type(error).__name__})")
            raise Mismatch("an open connection", got, "Does it still accept clients?") from error
        client = Client(connection, self.isolation.idle)
        self.clients.append(client)
        return client

    async def handshake(self, url: str, *, stay: bool = False, **options: Any) -> Any:
        """Try to connect, and return the status of the answer.

        Args:
            url: as for `connect`.
            stay: whether to keep a connection that worked.
            options: as for `connect`.

        Returns:
            The status, 101 if it worked; a `Nothing` where no answer came.
        """
        try:
            client = await self.connect(url, **options)
        except Mismatch as error:
            response = getattr(error.__cause__, "response", None)
            return response.status_code if response is not None else Nothing("no answer")
        if not stay:
            await client.close()
        return 101

    async def connect_slow(self, url: str) -> Client:
        """Connect a client whose kernel takes in a few KiB only, for readers that lag.

        Args:
            url: what `serve_small` has returned.

        Returns:
            The client.
        """
        self.isolation.idle.open = True
        host, _, port = url.removeprefix("ws://").partition(":")
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
        return await self.connect(url, sock=sock, max_queue=1)

    @staticmethod
    def quicken(client: Client) -> None:
        """Let a client of `connect_slow` read as fast as others from now on.

        Args:
            client: of `connect_slow`.
        """
        sock = client.connection.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)

    async def settle(self, *clients: Client) -> None:
        """Wait until the handlers have done all that they can with what `clients` have sent.

        Args:
            clients: whose messages are waited for.
        """
        for client in clients:
            await client.settled()
        await self.turns()

    async def turns(self) -> None:
        """Give the learner's tasks some turns of the loop that they live on."""
        for _ in range(10):
            await asyncio.sleep(0)

    async def enter(self, context: Any) -> Any:
        """Enter an async context that ends with the trial.

        Args:
            context: not entered yet.

        Returns:
            What entering it gives.
        """
        return await self._stack.enter_async_context(context)

    async def asks(self, client: Client, message: Any, expected: Any, hint: Hint) -> None:
        """Send `message`, and expect `expected` as the next message that comes.

        Args:
            client: who sends and receives.
            message: what is sent.
            expected: the next message.
            hint: as for `Mismatch`.
        """
        await client.send(message)
        await self.hears(client, expected, hint)

    async def asks_for(
        self, client: Client, message: Any, reader: Client, expected: Any, hint: Hint
    ) -> None:
        """Send `message` as `client`, and expect `expected` as what `reader` receives next.

        Args:
            client: who sends.
            message: what is sent.
            reader: who receives.
            expected: the next message.
            hint: as for `Mismatch`.
        """
        await client.send(message)
        await self.hears(reader, expected, hint)

    async def hears(self, client: Client, expected: Any, hint: Hint) -> None:
        """Expect `expected` as the next message that `client` receives.

        Args:
            client: who receives.
            expected: the next message.
            hint: as for `Mismatch`.
        """
        self.expect(await client.recv(), expected, hint)

    def expect(self, got: Any, expected: Any, hint: Hint) -> None:
        """Expect `got` to be `expected`.

        Args:
            got: what came.
            expected: what should have come.
            hint: as for `Mismatch`.

        Raises:
            Mismatch: it is not.
        """
        # 1 == True and 1 == 1.0, and here they are different answers.
        if got != expected or isinstance(got, bool) != isinstance(expected, bool):
            raise Mismatch(shown(expected) + self._called, got, hint)

    def require(self, holds: bool, expected: str, got: Any, hint: Hint) -> None:
        """Expect that something holds, described in words.

        Args:
            holds: whether it does.
            expected: what should hold, in words.
            got: what came.
            hint: as for `Mismatch`.

        Raises:
            Mismatch: it does not.
        """
        if not holds:
            raise Mismatch(expected + self._called, got, hint)


def _for_how_long(end: float, timeout: float) -> str:
    """Say why the waiting is over: the time is up, or nothing can happen any more."""
    if asyncio.get_running_loop().time() < end - CLOSE:
        return "so far, and nothing is on its way"
    return f"within {timeout:g} s"


def shown(value: Any) -> str:
    """Write a value in one line of bounded length, as Python would.

    Args:
        value: any.

    Returns:
        The line.
    """
    if isinstance(value, Nothing):
        return str(value)
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"
