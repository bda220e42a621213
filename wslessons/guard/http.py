"""uvicorn's HTTP connection, with an end to every wait and a bound on every buffer.

uvicorn waits for a request for ever, keeps headers of any size, and parses all requests that have
arrived before it answers the first. That is right behind a proxy that does otherwise. A server that
strangers reach needs more, and `HttpConnection` adds it:

- a request that is not complete after `REQUEST_TIMEOUT` seconds is answered with 408, and one with
  more than `MAX_HEAD` bytes of headers with 431;
- one request at a time: what a client sends before it has its answer waits as bytes;
- whoever comes when there are too many is told so with 503, or with 429 when it is too many from
  one address (see `wslessons.limits`);
- an answer that nobody takes ends with the connection, after `WRITE_TIMEOUT` seconds;
- whoever sends no HTTP gets one line in the log, which names them.

Give the class to uvicorn, ``uvicorn.Config(app, http=HttpConnection)``, or let `wslessons.asgi` do
it. Relied on here, and guarded by `tests/guard/test_http.py`: the methods that it overrides.
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from wslessons.connection import host_port
from wslessons.limits import ConnectionLimit, Door
from wslessons.logs import Folded

__all__ = [
    "LINGER",
    "MAX_HEAD",
    "REQUEST_TIMEOUT",
    "SAFE_HEADERS",
    "WRITE_TIMEOUT",
    "HttpConnection",
    "Stall",
    "refusal",
]

logger = logging.getLogger(__name__)
_full, _silent = Folded(logger), Folded(logger, most=10)

REQUEST_TIMEOUT = 10.0
"""Seconds for the head of a request, and as many again for its body."""

MAX_HEAD = 16_384
"""Bytes that a request's line and headers may have, as in Node.js. Cookies of a host count, too."""

MAX_UNREAD_BODY = 65_536
"""Bytes of a body that are still taken once the answer is out, so that the connection lives on."""

WRITE_TIMEOUT = 40.0
"""Seconds in which a peer has to take some of what waits for it."""

LINGER = 1.0
"""Seconds that a refused peer has to read why. Closed at once, TCP would throw the answer away."""

MAX_LINGERING = 16
"""Peers that have so long at a time: more of them would use up what descriptors there are."""

MAX_VOID = 2**24
"""Bytes that such a peer may send meanwhile: they are read, to see the end, and thrown away."""

SLICE = 2048
"""Bytes of heads that are parsed at a time: what follows a request waits unparsed."""

SAFE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""What goes with an answer that no page should make anything of."""


def refusal(status: HTTPStatus, sentence: str) -> bytes:
    r"""Return a whole HTTP response that says why there is no other, and that the end follows.

    >>> refusal(HTTPStatus.BAD_REQUEST, "This is no HTTP.").partition(b"\r\n")[0]
    b'HTTP/1.1 400 Bad Request'

    Args:
        status: of the response.
        sentence: its body, without the line's end.

    Returns:
        The bytes to write.
    """
    body = f"{sentence}\n".encode()
    headers = {
        "Content-Type": "text/plain; charset=utf-8",
        "Content-Length": str(len(body)),
        "Connection": "close",
        **SAFE_HEADERS,
    }
    lines = [f"HTTP/1.1 {status.value} {status.phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Stall:
    """Abort a transport whose peer has taken nothing for a while, though something waits for it.

    Args:
        transport: what to watch, and to abort.
        timeout: seconds.
    """

    def __init__(self, transport: asyncio.Transport, timeout: float = WRITE_TIMEOUT) -> None:
        self.transport, self.timeout = transport, timeout
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Watch from now on, because the buffer is full or has to be empty before the end."""
        if self._timer is None:
            self._waiting = self.transport.get_write_buffer_size()
            self._timer = asyncio.get_running_loop().call_later(self.timeout, self._look)

    def end(self) -> None:
        """Watch no longer. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        waiting = self.transport.get_write_buffer_size()
        if waiting < self._waiting:
            self.begin()
        else:
            peer = host_port(self.transport.get_extra_info("peername"))
            logger.info("%s takes nothing of what it is sent: dropped", peer)
            self.transport.abort()


class HttpConnection(HttpToolsProtocol):
    """A connection of uvicorn, before it may become a WebSocket."""

    request_timeout: float | None = REQUEST_TIMEOUT
    """None waits for ever, for an application that takes uploads of any length."""
    max_head = MAX_HEAD
    write_timeout = WRITE_TIMEOUT
    lingering: ClassVar[int] = 0
    """Connections that were refused within the last second."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unread = bytearray()
        """What has arrived and is not parsed yet."""
        self._head = 0
        """Bytes of headers, or of trailers, since a request began or a piece of its body came."""
        self._in_head = self._in_body = self._refused = False
        self._unread_body = self._void = 0
        self._due: asyncio.TimerHandle | None = None
        self._last: asyncio.TimerHandle | None = None

    @property
    def peer(self) -> str:
        """The other end's address, for the log."""
        return host_port(self.client)

    # What asyncio calls.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request, not for ever."""
        super().connection_made(transport)
        self._stall = Stall(transport, self.write_timeout)
        self._limit: ConnectionLimit | None = getattr(self.config, "limit", None)
        host = self.client[0] if self.client else None
        if self._limit is not None and (words := self._limit.enter(host)):
            self._limit = None
            status, sentence = Door.answer(words)
            _full.log(f"{self.peer} refused with {status.value}: {words}")
            self._answer(status, sentence.strip())
            return
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the timers, and of the place among all connections."""
        self._expect_nothing()
        self._stall.end()
        self._unread.clear()
        self._leave()
        if self._last is not None:
            self._last.cancel()
            HttpConnection.lingering -= 1
        super().connection_lost(exc)

    def _leave(self) -> None:
        limit, self._limit = self._limit, None
        if limit is not None:
            limit.leave(self.client[0] if self.client else None)

    def data_received(self, data: bytes) -> None:
        """Parse requests, as far as they are wanted now."""
        if self._refused:
            self._void += len(data)
            if self._void > MAX_VOID:
                self.transport.pause_reading()
            return
        self._unset_keepalive_if_required()
        if self._due is None and self._idle:
            self._expect()
        self._unread += data
        self._parse()

    def pause_writing(self) -> None:
        """Give a peer that does not read a bounded time."""
        super().pause_writing()
        self._stall.begin()

    def resume_writing(self) -> None:
        """It reads."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._stall.end()

    # Parsing.

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _parse(self) -> None:
        """Feed the parser until a request has to be answered first."""
        while self.parser and self._unread and not self._refused and (self._idle or self._in_body):
            if self._head >= self.max_head:
                self._too_large()
                return
            piece = bytes(self._unread[:SLICE])
            del self._unread[:SLICE]
            self._head += len(piece)
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as exc:
                self._unread[:0] = piece[exc.args[0] :]
                if self._should_upgrade():
                    self._upgrade()
                    return
                # To something that we don't speak: the request is answered as any other.
            except httptools.HttpParserError:
                self._refuse(HTTPStatus.BAD_REQUEST, "This is no HTTP request.")
                return
        if self._unread and not self.transport.is_closing():
            # The flow control of uvicorn: `on_response_complete` lets it go on.
            self.flow.pause_reading()

    def on_message_begin(self) -> None:
        """A request begins (the parser's callback)."""
        super().on_message_begin()
        self._in_head, self._in_body, self._head, self._unread_body = True, False, 0, 0

    def on_headers_complete(self) -> None:
        """Start to answer (the parser's callback); the body has a time of its own."""
        self._in_head, self._in_body = False, True
        self._expect()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body (the parser's callback)."""
        self._head = 0
        if self.cycle is not None and self.cycle.response_complete:
            self._unread_body += len(body)
            if self._unread_body > MAX_UNREAD_BODY:
                self._end()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is here (the parser's callback)."""
        self._in_body = False
        self._expect_nothing()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with what has arrived meanwhile."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._expect_nothing()
            self._stall.begin()
        elif self._unread:
            self._unset_keepalive_if_required()
            # Soon, lest a thousand requests that came at once be a thousand calls deep.
            self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if self.transport is not None and not self.transport.is_closing() and self.parser:
            if self._due is None and self._idle:
                self._expect()
            self._parse()
            if not self._unread:
                self.flow.resume_reading()

    # WebSockets.

    def _should_upgrade(self) -> bool:
        """Whether it asks for a WebSocket: HTTP/1.0 has none (RFC 6455, section 4.2.1)."""
        parser = self.parser
        old = parser is None or parser.get_http_version() == "1.0"
        return not old and super()._should_upgrade()

    def _upgrade(self) -> None:
        if not self._idle:
            self._refuse(HTTPStatus.BAD_REQUEST, "A handshake has to wait for the last answer.")
            return
        self._expect_nothing()
        self._stall.end()
        rest = bytes(self._unread)
        self._unread.clear()
        self.flow.resume_reading()
        self.handle_websocket_upgrade()
        protocol: Any = self.transport.get_protocol()
        if hasattr(protocol, "on_lost"):
            # It keeps the place until it ends; a class of somebody else's would not give it back.
            protocol.on_lost = self._leave
        else:
            self._leave()
        if rest and not self.transport.is_closing():
            # Sent too early, before our answer; uvicorn would lose it in silence.
            protocol.data_received(rest)

    # How it ends.

    def _expect(self) -> None:
        self._expect_nothing()
        if self.request_timeout is not None:
            self._due = self.loop.call_later(self.request_timeout, self._late)

    def _expect_nothing(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _late(self) -> None:
        self._due = None
        if self.flow.read_paused:
            # The application does not read the body: that is not the client's fault.
            self._expect()
        elif self._in_head or self._in_body:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "The request did not come in time.")
        else:
            _silent.log(f"{self.peer} sent no request")
            self._end()

    def _too_large(self) -> None:
        sentence = f"A request's address and headers have at most {self.max_head} bytes together."
        self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, sentence)

    def _refuse(self, status: HTTPStatus, sentence: str) -> None:
        """Answer with `status` where no answer has begun, and end the connection."""
        logger.info("%s refused with %d: %s", self.peer, status, sentence)
        self._answer(status, sentence)

    def _answer(self, status: HTTPStatus, sentence: str) -> None:
        if self._idle or not self.cycle.response_started:
            self.transport.write(refusal(status, sentence))
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._end()

    def _end(self) -> None:
        """Close our half, read on into the void for a moment, and drop the connection."""
        if self._refused:
            return
        self._refused = True
        self._unread.clear()
        self._expect_nothing()
        self._unset_keepalive_if_required()
        if self.lingering >= MAX_LINGERING:
            # The answer is on its way; whether it arrives before the end does is luck.
            self.transport.close()
            self._stall.begin()
            return
        self.flow.resume_reading()
        try:
            if self.transport.can_write_eof():
                self.transport.write_eof()
        except OSError:  # It has gone already, and asyncio does not know yet.
            self.transport.abort()
            return
        HttpConnection.lingering += 1
        self._last = self.loop.call_later(LINGER, self.transport.abort)

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that nobody uses, and that may not have taken its last answer."""
        super().timeout_keep_alive_handler()
        self._stall.begin()

    def shutdown(self) -> None:
        """Close: uvicorn stops."""
        super().shutdown()
        self._expect_nothing()
        if self.transport.is_closing():
            self.loop.call_later(LINGER, self.transport.abort)
