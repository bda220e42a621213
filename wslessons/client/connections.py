"""One connection after another: which ends are final, and how long to wait after the others."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any, cast

from websockets import ClientConnection, ConnectionClosed, Headers, connect
from websockets.client import ClientProtocol
from websockets.datastructures import HeadersLike
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.protocol import State
from websockets.proxy import get_proxy

from wslessons.chat.identity import EXPIRED
from wslessons.client import retry
from wslessons.client.inbox import Connected, Disconnected, Event, Retrying
from wslessons.errors import UserError
from wslessons.wire.wording import printable

__all__ = ["Connections", "Delays", "Token"]

Delays = Callable[[], Generator[float]]
Token = Callable[[], Awaitable[str]]
"""Returns what shows who we are, each time it is needed."""

DEFAULTS = {"compression": None, "max_size": 2**16, "open_timeout": 10, "close_timeout": 2}
"""Options of `connect` that are different here: short lines gain nothing from compression, and no
message of a chat is larger."""
BROKEN = {
    CloseCode.PROTOCOL_ERROR: "broke the protocol",
    CloseCode.INVALID_DATA: "sent what is no text",
    CloseCode.MESSAGE_TOO_BIG: "sent a message that is too big",
}
"""What a server has done when we are the first to close with such a code; it would do it again."""


class BoundedConnection(ClientConnection):
    """A client connection on which a flood of pings takes no memory.

    The library answers each ping, also to a server that reads none of the answers. Here, while
    what was sent waits to be read, only the newest ping is kept, and answered when that is over, as
    RFC 6455, section 5.5.3, allows.

    It relies on `Protocol.send_frame` being what answers a ping; `tests/client/test_hostile.py`
    holds that.
    """

    def __init__(
        self, protocol: ClientProtocol, *, token: Token | None = None, **options: Any
    ) -> None:
        super().__init__(protocol, **options)
        self._token = token
        self._newest_pong: Frame | None = None
        send_frame = protocol.send_frame

        def send_or_keep(frame: Frame) -> None:
            if frame.opcode is Opcode.PONG and self.paused:
                self._newest_pong = frame
            else:
                send_frame(frame)

        protocol.send_frame = send_or_keep

    async def handshake(
        self, additional_headers: HeadersLike | None = None, *args: Any, **kwargs: Any
    ) -> None:
        """Show a token, a new one at each attempt (a step of `websockets.connect`)."""
        if self._token is not None:
            headers = Headers(additional_headers or {})
            headers["Authorization"] = f"Bearer {await self._token()}"
            additional_headers = headers
        await super().handshake(additional_headers, *args, **kwargs)

    def resume_writing(self) -> None:
        """Answer the newest ping (asyncio's callback)."""
        super().resume_writing()
        pong, self._newest_pong = self._newest_pong, None
        if pong is not None and self.protocol.state is State.OPEN:
            self.protocol.send_frame(pong)
            self.send_data()


class Connections:
    """An asynchronous iterable of connections to `url`; the next follows when one has ended.

    Args:
        url: where to connect to.
        reconnect_delays: a function that returns a generator of seconds, as `connect` takes it.
        attempts: how many may fail in a row (None: any number); one fails, too, when its
            connection ends before the other side has let us in.
        stable: seconds a connection must last for the delays to begin anew.
        report: called with what happens.
        token: returns what to show in each opening handshake, as ``Authorization: Bearer``.
        options: those of `connect`.

    Raises:
        UserError: `url` is not a valid WebSocket URL; from the iteration: the end is final.
    """

    def __init__(
        self,
        url: str,
        *,
        reconnect_delays: Delays,
        attempts: int | None,
        stable: float,
        report: Callable[[Event], None],
        options: dict[str, Any],
        token: Token | None = None,
    ) -> None:
        self._uri = retry.check_url(url)
        self.url = url
        # A proxy that the system may have has no business on loopback.
        proxy = {"proxy": None} if retry.is_loopback(self._uri.host) else {}
        create = functools.partial(BoundedConnection, token=token)
        self.options: dict[str, Any] = DEFAULTS | {"create_connection": create} | proxy | options
        # Whoever has a new login may come back when the old one has ended.
        self._transient = retry.TRANSIENT | ({EXPIRED} if token is not None else set())
        self.stopped = False
        """Set it for the connection there is to be the last."""
        self.was_in = asyncio.Event()
        """Set once the other side has let us in; failures before that are final."""
        self._proxy: str | None = self.options.get("proxy", True)
        if self._proxy is True:
            self._proxy = get_proxy(self._uri)
        self._reconnect_delays, self._attempts, self._stable = reconnect_delays, attempts, stable
        self._report = report
        self._delays = reconnect_delays()
        self._failures = 0
        self._why = ""
        self._retry_after = 0.0
        self._let_in = False
        self._gave_up = ""
        self._failed = False

    def let_in(self) -> None:
        """Take note that the newest connection serves its purpose."""
        self._failures = 0
        self._let_in = True
        self.was_in.set()

    def give_up(self, why: str) -> None:
        """Take note that we close the newest connection ourselves, as it serves no purpose.

        Args:
            why: what the server failed to do, in the past tense, for the error's sentence.
        """
        self._gave_up = why

    def ended(self, exc: ConnectionClosed) -> None:
        """Take note of how the newest connection has ended.

        Args:
            exc: what `recv` raised.
        """
        sent = exc.sent
        if sent is not None and sent.code in BROKEN and not exc.rcvd_then_sent:
            if not self._gave_up:
                self._gave_up = f"{BROKEN[CloseCode(sent.code)]}: {printable(sent.reason)}"
                self._failed = True
            self._end = sent
        else:
            self._end = exc.rcvd or Close(1006, "")

    async def __aiter__(self) -> AsyncGenerator[ClientConnection]:
        loop = asyncio.get_running_loop()
        connections = aiter(
            connect(
                self.url,
                reconnect_delays=self._next_delays,
                process_exception=self._judge,
                **self.options,
            )
        )
        async with contextlib.aclosing(cast(AsyncGenerator[ClientConnection], connections)):
            async for connection in connections:
                response, began = connection.response, loop.time()
                assert response is not None
                self._let_in, self._gave_up, self._failed = False, "", False
                self._end = Close(1006, "")
                self._report(
                    Connected(response.status_code, response.reason_phrase, connection.subprotocol)
                )
                yield connection
                if self._is_over(self._end.code, self._end.reason):
                    return
                if loop.time() - began > self._stable:
                    self._delays = self._reconnect_delays()
                # connect() would reconnect at once, as it waits after failures only; then all who
                # lost one server would come back in the same moment.
                delay = next(self._delays)
                self._report(Retrying(delay))
                await asyncio.sleep(delay)

    def _is_over(self, code: int, reason: str) -> bool:
        """Tell of the end of a connection.

        Args:
            code: the close code; 1006 where no close frame came.
            reason: what came with it.

        Returns:
            Whether this connection was the last.

        Raises:
            UserError: it was, and not because everything was said.
        """
        self._report(Disconnected(code, reason))
        if self.stopped:
            return True
        if self._gave_up:
            # The code is our own; it is not what the server thinks of us.
            error = UserError(f"the server {self._gave_up}.")
            if self._failed:
                raise error
            self._count_failure(error)
            return False
        says = f"{code} ({printable(reason)})" if reason else str(code)
        if not self.was_in.is_set():
            why = (
                "did not let us in" if code == 1008 else "ended the connection before it let us in"
            )
            raise UserError(f"the server {why}: {says}.")
        if code in retry.CLEAN:
            return True
        if code not in self._transient:
            raise UserError(f"the server closed the connection for good: {says}.")
        if not self._let_in:
            self._count_failure(
                UserError(f"the server ended the connection before it let us in: {says}.")
            )
        return False

    def _count_failure(self, error: UserError) -> None:
        """Count an attempt that led nowhere; raise `error` if it was one too many."""
        self._failures += 1
        enough = self._attempts is not None and self._failures >= self._attempts
        if enough or not self.was_in.is_set():
            raise error

    def _judge(self, exc: Exception) -> Exception | None:
        """Return None to try again after a failed attempt, else the error to end with."""
        error = retry.explain(exc, self._uri, self._proxy)
        if not retry.transient(exc):
            return error
        try:
            self._count_failure(error)
        except UserError as final:
            return final
        self._why, self._retry_after = str(error), retry.retry_after(exc)
        return None

    def _next_delays(self) -> Generator[float]:
        """Go on with the delays where they were: one success is not a stable connection."""
        while True:
            # Added to what the server asks for: all whom it refused were told the same.
            delay = next(self._delays) + self._retry_after
            self._retry_after = 0.0
            self._report(Retrying(delay, self._why))
            yield delay


async def shut(connection: ClientConnection, code: int, reason: str, bound: float | None) -> None:
    """Complete the closing handshake, or abort the connection after `bound` seconds."""
    # The library's own close_timeout begins when the close frame has left the write buffer; with a
    # peer that has stopped reading, it never does.
    try:
        async with asyncio.timeout(bound):
            await connection.close(code, reason)
    except TimeoutError:
        connection.transport.abort()
