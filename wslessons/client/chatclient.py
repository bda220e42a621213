"""The client itself: a task that keeps a connection, and two that use it, one each way."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Self

from websockets import ClientConnection, ConnectionClosed
from websockets.typing import Subprotocol

from wslessons.chat.codecs import JSON, TEXT
from wslessons.chat.events import (
    SUBPROTOCOL,
    Ack,
    Expires,
    Joined,
    Left,
    Message,
    Missed,
    Renew,
    Say,
    Welcome,
    Who,
)
from wslessons.client.connections import Connections, Delays, Token, shut
from wslessons.client.inbox import Event, Inbox, Notice, Position
from wslessons.client.outbox import Outbox, Outgoing
from wslessons.client.retry import full_jitter
from wslessons.client.sessions import JsonSession, TextSession
from wslessons.serving import check_close

__all__ = ["ChatClient"]


class ChatClient:
    """Somebody in a chat room, for as long as the ``async with`` block lasts.

    Entering it connects and says the name. From then on a lost connection is replaced by another.
    It ends for good, and so does the iteration, when the server closes with 1000; or with a code
    that says that we are in the wrong, or for breaking the protocol: then iterating raises a
    `UserError`.

    Not handled here: a server that has forgotten a message's id (see `chat.room.IDS`) by the
    time it is repeated says it twice; more than one task that iterates (they share the events).

    Args:
        url: where the room is, ``ws://`` or ``wss://``.
        name: who we are, in the room.
        token: returns what shows who we are, for a server that asks: called for each connection,
            and when the server says that our login ends.
        text: True to ask for plain text even where the server knows ``chat.v1+json``.
        since: the offset at which an earlier client stopped, to resume there.
        epoch: the epoch of `since`.
        reconnect_delays: a function that returns a generator of seconds between attempts, as
            `websockets.connect` takes it.
        attempts: failures in a row before it gives up; None for any number.
        pending: messages that may be unacknowledged before `send` waits.
        tries: connections that a message is written to before `send` raises `Unconfirmed`.
        keep: events that wait for the iteration before the oldest go.
        max_say: bytes that a message may have on the wire; by default our server's own limit.
        timeout: seconds to wait for the welcome.
        stable: seconds that a connection must last for the delays to begin anew.
        options: those of `websockets.connect`.

    Raises:
        UserError: `url` is none; on entering: there is no connection, or the name is refused.
        ValueError: the name has half a surrogate pair, which UTF-8 can't carry.
    """

    def __init__(
        self,
        url: str,
        name: str,
        *,
        token: Token | None = None,
        text: bool = False,
        since: int | None = None,
        epoch: str = "",
        reconnect_delays: Delays = full_jitter,
        attempts: int | None = None,
        pending: int = 64,
        tries: int = 10,
        keep: int = 1024,
        max_say: int = 8192,
        timeout: float = 5.0,
        stable: float = 5.0,
        **options: Any,
    ) -> None:
        _check_encodable(name)
        self.url, self.name = url, name.strip()
        self.subprotocol: str | None = None
        """What the last handshake agreed on; None is plain text."""
        self._inbox = Inbox(keep)
        self._outbox = Outbox(pending, tries)
        self._json = JsonSession(self.name, self._outbox, since, epoch)
        self._session: JsonSession | TextSession = self._json
        self._token = token
        self._timeout = timeout
        # A server may speak chat.v1+json again after a break, so its longer form counts.
        self._form = TEXT if text else JSON
        self._max_say = max_say
        self._connections = Connections(
            url,
            reconnect_delays=reconnect_delays,
            attempts=attempts,
            stable=stable,
            report=self._inbox.put,
            token=token,
            options={"subprotocols": None if text else [Subprotocol(SUBPROTOCOL)]} | options,
        )
        self._close_timeout: float | None = self._connections.options["close_timeout"]
        self._connection: ClientConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._unproven = False
        """Whether lines were written to this connection that nobody acknowledges."""

    def _check_entered(self) -> None:
        if self._task is None:
            raise RuntimeError("the client is not connected: enter it first, with `async with`")

    @property
    def offset(self) -> int | None:
        """The newest event that the iteration has handed out, for `since`; None in plain text.

        What has arrived and still waits for the iteration is after it, so that a later client is
        given it again. What this client said itself counts as handed out with its place.
        """
        return self._position[0]

    @property
    def epoch(self) -> str:
        """The life of the room in which `offset` means something."""
        return self._position[1]

    @property
    def _position(self) -> Position:
        return self._inbox.position or (self._json.offset, self._json.epoch)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name=f"chat client {self.name}")
        entered = asyncio.ensure_future(self._connections.was_in.wait())
        try:
            await asyncio.wait([self._task, entered], return_when=asyncio.FIRST_COMPLETED)
            if not entered.done():
                await self._task
        except BaseException:
            await self.close()
            raise
        finally:
            entered.cancel()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        self._check_entered()
        return await self._inbox.get()

    async def send(self, text: str) -> Ack | None:
        """Say something; return when the server has it (in plain text: when it is written).

        It is repeated on new connections until it is acknowledged, and published once. Cancelling
        takes it back if it was not written yet. Those that are sent at once arrive in their order;
        but of more than a server takes, one whose refusal was lost with the connection is repeated
        behind those that it took.

        Args:
            text: what to say; the server trims it and puts it on one line.

        Returns:
            The server's acknowledgement, with the message's number and time; None in plain text,
            which has none.

        Raises:
            ValueError: the text is blank, is longer than `max_say`, or has half a surrogate pair,
                which UTF-8 can't carry.
            Refused: the server does not want it.
            Unconfirmed: the connection broke too often before an answer came.
            ChatClosed: the client is closed.
            RuntimeError: the client was never entered.
        """
        self._check_entered()
        if not text.strip():
            raise ValueError("a blank message is not sent")
        _check_encodable(text)
        out = Outgoing(text)
        size = len(self._form.encode_client(Say(text, out.id)))
        if size > self._max_say:
            # The server would end the connection (1009), and doubt would fall on all the others.
            raise ValueError(
                f"a message has at most {self._max_say:,} bytes; this one has {size:,}: split it"
            )
        await self._outbox.add(out)
        try:
            return await out.acknowledged
        except asyncio.CancelledError:
            self._outbox.withdraw(out)
            raise

    async def who(self) -> None:
        """Ask who is here; the answer is a `Roster`, in plain text a `Notice`. May be lost."""
        self._check_entered()
        if self._connection is not None:
            with contextlib.suppress(ConnectionClosed):
                await self._connection.send(self._session.codec.encode_client(Who()), text=True)

    async def close(self, code: int = 1000, reason: str = "") -> bool:
        """Send a close frame and wait for the reply, in bounded time. Idempotent.

        Args:
            code: the close code (RFC 6455, section 7.4).
            reason: at most 123 bytes of UTF-8.

        Returns:
            False if nobody can know whether the server has all that was written in plain text.

        Raises:
            UserError: a close frame can't carry that code or reason; nothing is closed.
        """
        check_close(code, reason)
        self._connections.stopped = True
        if self._task is None:
            return True
        arrived = True
        if (connection := self._connection) is not None:
            bound = self._close_timeout
            began = asyncio.get_running_loop().time()
            if self._unproven:
                arrived = await self._answers(connection, bound)
            if bound is not None:
                bound = max(0.0, began + bound - asyncio.get_running_loop().time())
            await shut(connection, code, reason, bound)
            # What came before the reply is still to be received.
            await asyncio.wait([self._task], timeout=self._close_timeout)
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            # Whoever iterates gets the error; here it counts as seen.
            self._task.exception()
        return arrived

    async def _answers(self, connection: ClientConnection, bound: float | None) -> bool:
        """Wait until the other side has what was written, where nothing acknowledges it.

        Args:
            connection: one in plain text.
            bound: seconds to wait.

        Returns:
            Whether it answered in time.

        A server that reads the close frame together with the last lines answers it first, and what
        it would have said to those lines is lost.
        """
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            async with asyncio.timeout(bound):
                await (await connection.ping())
                return True
        return False

    async def _run(self) -> None:
        """Use one connection after another."""
        error: Exception | None = None
        try:
            async with contextlib.aclosing(aiter(self._connections)) as connections:
                async for connection in connections:
                    await self._attend(connection)
        except Exception as exc:
            error = exc
            raise
        finally:
            self._outbox.close("the connection was closed before the acknowledgement")
            self._inbox.end(error)

    async def _attend(self, connection: ClientConnection) -> None:
        """Use one connection until it ends: one task reads, one writes."""
        self.subprotocol = connection.subprotocol
        if self.subprotocol == SUBPROTOCOL:
            self._session = self._json
        else:
            self._session = TextSession(self.name)
            self._outbox.doubt("the server knows only plain text now")
            if self._connections.was_in.is_set():
                self._inbox.put(Missed(None, 0))
        self._outbox.rewind()
        welcomed = asyncio.Event()
        self._connection, self._unproven = connection, False
        try:
            async with asyncio.TaskGroup() as tasks:
                writing = tasks.create_task(self._write(connection, welcomed))
                await self._read(connection, welcomed, tasks)
                writing.cancel()
        finally:
            self._connection = None
            if self._session is not self._json:
                self._outbox.doubt("the connection broke")

    async def _read(
        self, connection: ClientConnection, welcomed: asyncio.Event, tasks: asyncio.TaskGroup
    ) -> None:
        """Receive until the connection has ended, whatever the writer is doing."""
        while True:
            try:
                data = await connection.recv()
            except ConnectionClosed as exc:
                self._connections.ended(exc)
                return
            before = (self._json.offset, self._json.epoch)
            for event in self._session.receive(data):
                self._inbox.put(event, before if self._is_numbered(event, before) else None)
                before = (self._json.offset, self._json.epoch)
                if isinstance(event, Welcome):
                    self._connections.let_in()
                    welcomed.set()
                elif isinstance(event, Expires) and self._token is not None:
                    tasks.create_task(self._renew(connection, self._token))

    async def _renew(self, connection: ClientConnection, token: Token) -> None:
        """Show a new token in band; without one, the connection ends and the next shows one."""
        try:
            renewal = self._session.codec.encode_client(Renew(await token()))
            await connection.send(renewal, text=True)
        except ConnectionClosed:
            pass
        except Exception as exc:
            self._inbox.put(Notice(f"there is no new login: {exc}"))

    def _is_numbered(self, event: Event, before: Position) -> bool:
        """Whether somebody who resumes at `before` is given this event again."""
        if self._session is not self._json:
            return False
        if isinstance(event, Welcome):
            # Who stops before it has to hear that the room began anew.
            return before[1] not in ("", event.epoch)
        return isinstance(event, Message | Joined | Left | Missed)

    async def _write(self, connection: ClientConnection, welcomed: asyncio.Event) -> None:
        """Say hello, and then all that is not acknowledged yet, in order."""
        session = self._session
        try:
            encode = session.codec.encode_client
            await connection.send(encode(session.hello()), text=True)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timeout):
                    await welcomed.wait()
            if not welcomed.is_set():
                if session is self._json:
                    self._connections.give_up(f"did not welcome us within {self._timeout:g} s")
                    await shut(connection, 1002, "no welcome", self._close_timeout)
                    return
                # Not every server of plain text welcomes people.
                self._connections.let_in()
            while True:
                out = await self._outbox.next()
                await connection.send(encode(Say(out.text, out.id)), text=True)
                if session is not self._json:
                    self._unproven = True
                    self._outbox.confirm(out.id, None)
        except ConnectionClosed:
            pass  # The reader notices as well, and first takes what had arrived.


def _check_encodable(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise ValueError(
            f"a message has to be text that UTF-8 can carry: the character at {exc.start} is half"
            " a surrogate pair"
        ) from None
