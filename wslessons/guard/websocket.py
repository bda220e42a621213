"""uvicorn's WebSocket connection, with an end to every wait and a bound on every buffer.

What `WebSocketConnection` adds to uvicorn's:

- a handshake that is refused is answered and logged (uvicorn leaves some hanging without a word);
- a peer that has vanished is noticed by a `wslessons.heartbeat.Heartbeat`, which is fair to slow
  ones, and one that takes nothing of what it is sent is dropped after `WRITE_TIMEOUT` seconds;
- what has arrived is parsed piece by piece, as the application takes it: a thousand tiny messages
  that came at once wait as bytes and not as objects;
- pings are read as long as the pongs are; a message has at most `MAX_FRAGMENTS` fragments;
- a peer that breaks a rule costs no traceback, has the time to read why, and no more.

Relied on here, and guarded by `tests/guard/test_websocket.py`: the methods that it overrides.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import HeaderLineTooLong, RequestLineTooLong, TooManyHeaders
from websockets.frames import CloseCode, Frame
from websockets.http11 import Request

from wslessons.connection import host_port
from wslessons.guard.http import LINGER, MAX_VOID, WRITE_TIMEOUT, Stall, refusal
from wslessons.heartbeat import Heartbeat

__all__ = ["CLOSE_TIMEOUT", "MAX_FRAGMENTS", "WebSocketConnection"]

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT = LINGER
"""Seconds that a peer has to answer a close frame."""

MAX_FRAGMENTS = 1024
"""Fragments of one message. Empty ones would else never come to its largest size."""

SLICE = 4096
"""Bytes that are parsed at a time: some hundreds of messages at most."""

TURN = 256
"""Messages that an application may take before others have their turn."""


class WebSocketConnection(WebSocketsSansIOProtocol):
    """A connection of uvicorn, once it has become a WebSocket."""

    write_timeout = WRITE_TIMEOUT

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.close_timeout = CLOSE_TIMEOUT
        self._unread = bytearray()
        """What has arrived and is not parsed yet."""
        self._choked = False
        """Whether we read nothing because our pongs are not read."""
        self._void = 0
        self._taken = 0
        """Messages that the application took without having to wait."""
        self.received = 0
        """Bytes that have arrived: signs of life."""
        self.connection_lost_waiter = self.loop.create_future()
        self._heartbeat: Heartbeat | None = None
        self.on_lost: Callable[[], None] | None = None
        """Called when the connection is lost."""

    @property
    def peer(self) -> str:
        """The other end's address, for the log."""
        return host_port(self.client)

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over from the HTTP connection."""
        super().connection_made(transport)
        self._stall = Stall(cast("asyncio.Transport", transport), self.write_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the timers."""
        self._stall.end()
        self._unread.clear()
        super().connection_lost(exc)
        if not self.connection_lost_waiter.done():
            self.connection_lost_waiter.set_result(None)
        if self.on_lost is not None:
            self.on_lost()
            self.on_lost = None

    def data_received(self, data: bytes) -> None:
        """Parse frames, as far as they are wanted now."""
        self.received += len(data)
        if self.close_sent:
            self._void += len(data)
            if self._void > MAX_VOID:
                self.transport.pause_reading()
        self._unread += data
        self._parse()

    def pause_writing(self) -> None:
        """Give a peer that does not read a bounded time."""
        super().pause_writing()
        self._stall.begin()

    def resume_writing(self) -> None:
        """It reads."""
        super().resume_writing()
        self._stall.end()
        if self._choked:
            self._choked = False
            self._read_on()

    # Parsing.

    def _parse(self) -> None:
        while self._unread and not self._on_hold:
            piece = bytes(self._unread[:SLICE])
            del self._unread[:SLICE]
            self.conn.receive_data(piece)
            if self.conn.handshake_exc is not None and not self.handshake_initiated:
                self._refuse_handshake(self.conn.handshake_exc)
                return
            # What came before a broken rule still counts.
            self.handle_events()
            if self.conn.parser_exc is not None:
                self.handle_parser_exception()
        if self._unread:
            self.transport.pause_reading()

    @property
    def _on_hold(self) -> bool:
        """Whether something else comes before what the peer has sent."""
        accepting = self.handshake_initiated and not self.handshake_complete
        return self.read_paused or self._choked or accepting

    def _read_on(self) -> None:
        """Parse what waits, and read again if the application has taken all of it."""
        self._parse()
        if not self._on_hold:
            self.transport.resume_reading()

    async def send(self, message: Any) -> None:
        """Do what the application says; once it has accepted, what came early is read."""
        await super().send(message)
        if message["type"] == "websocket.accept":
            self._read_on()
        elif self.close_sent:
            # Refused over HTTP: that completes a handshake, too, and is no error to be logged.
            self.handshake_complete = True

    async def receive(self) -> Any:
        """Give the application the next event."""
        if self.queue.empty():
            self._taken = 0
        elif self._taken >= TURN:
            # An application that only reads would else let nobody run while a peer sends so fast.
            self._taken = 0
            await asyncio.sleep(0)
        message = await self.queue.get()
        self._taken += 1
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self._read_on()
        return message

    def handle_connect(self, event: Request) -> None:
        """Begin with the handshake; where the library refuses it, say so in the log, too."""
        super().handle_connect(event)
        if self.close_sent:
            status = self.response.status_code
            logger.info("%s refused with %d: %s", self.peer, status, self.conn.handshake_exc)
            self.loop.call_later(LINGER, self.transport.abort)

    def _refuse_handshake(self, exc: Exception) -> None:
        status, sentence = HTTPStatus.BAD_REQUEST, "This is no valid WebSocket handshake."
        if isinstance(exc, RequestLineTooLong):
            status, sentence = HTTPStatus.REQUEST_URI_TOO_LONG, "This address is too long."
        elif isinstance(exc, HeaderLineTooLong | TooManyHeaders):
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            sentence = "A handshake has at most 128 headers, each of at most 8190 bytes."
        logger.info("%s refused with %d: %s", self.peer, status, sentence)
        self.close_sent = self.handshake_complete = True
        self.transport.write(refusal(status, sentence))
        self.transport.close()
        self.loop.call_later(LINGER, self.transport.abort)

    def handle_cont(self, event: Frame) -> None:
        """Take a fragment, but not without end."""
        if len(self.frames) >= MAX_FRAGMENTS:
            reason = f"a message has at most {MAX_FRAGMENTS} fragments"
            self._fail(CloseCode.MESSAGE_TOO_BIG, reason)
        else:
            super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        """Give the application a message, if it is one."""
        if self.curr_msg_data_type == "text" and not self.close_sent:
            self.frames = [b"".join(self.frames)]
            try:
                self.frames[0].decode()
            except UnicodeDecodeError as exc:
                self.frames = []
                reason = f"{exc.reason} at position {exc.start}"
                self._fail(CloseCode.INVALID_DATA, reason)
                return
        super().send_receive_event_to_app()

    def handle_ping(self) -> None:
        """Send the pong; if pongs pile up, read no more pings until they are taken."""
        super().handle_ping()
        if not self.writable.is_set() and not self._choked:
            self._choked = True
            self.transport.pause_reading()

    # The heartbeat takes this object for a connection of `websockets`.

    @property
    def protocol(self) -> Any:
        """The Sans-I/O protocol."""
        return self.conn

    @property
    def paused(self) -> bool:
        """Whether more waits to be sent than the peer takes."""
        return not self.writable.is_set()

    def acknowledge_pings(self, payload: bytes) -> None:
        """Take a pong; the heartbeat puts its own method in place of this one.

        Args:
            payload: the pong's.
        """

    def send_data(self) -> None:
        """Write what the protocol wants to have written."""
        self.transport.write(b"".join(self.conn.data_to_send()))

    def start_keepalive(self) -> None:
        """Begin to send pings, ours in place of uvicorn's, every `ws_ping_interval` seconds."""
        if self.ping_interval:
            timeout = self.ping_timeout or float("inf")
            self._heartbeat = Heartbeat(
                cast("Any", self), self.ping_interval, timeout, on_drop=self._dropped
            )
            self._heartbeat.__enter__()

    def _dropped(self, heartbeat: Heartbeat) -> None:
        logger.info("%s does not answer pings: dropped", self.peer)

    def stop_keepalive(self) -> None:
        """Send no more pings."""
        if self._heartbeat is not None:
            self._heartbeat.stop()

    def handle_pong(self, event: Frame) -> None:
        """Tell the heartbeat."""
        self.acknowledge_pings(bytes(event.data))

    # How it ends.

    def _fail(self, code: int, reason: str) -> None:
        self.conn.fail(code, reason)
        self.handle_parser_exception()

    def _await_reply(self) -> None:
        """Leave the socket open until the peer has closed its side, for a bounded time."""
        self.close_sent = True
        self.stop_keepalive()
        if self.close_timer is None:
            self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)
        self.read_paused = self._choked = False
        self._read_on()

    def handle_parser_exception(self) -> None:
        """Tell a peer that broke the protocol, and read on, into the void, until it has read it."""
        if self.close_sent:
            return
        close = self.conn.close_sent
        code, reason = (close.code, close.reason) if close is not None else (1006, "")
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.send_data()
        self._await_reply()

    def shutdown(self) -> None:
        """Close with 1012 (service restart): uvicorn stops."""
        if self.close_sent or not self.handshake_complete or self.transport.is_closing():
            super().shutdown()
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": 1012, "reason": ""})
        self.conn.send_close(1012)
        self.send_data()
        self._await_reply()

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """Drop it for good some time after the application has ended."""
        super().on_task_complete(task)
        self.loop.call_later(self.close_timeout, self.transport.abort)
