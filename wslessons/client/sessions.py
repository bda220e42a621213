"""The two protocols of the chat from the client's side, without I/O: text in, events out."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import msgspec
from msgspec import UnsetType

from wslessons.chat.codecs import JSON, TEXT
from wslessons.chat.events import (
    Ack,
    Error,
    Hello,
    Joined,
    Left,
    Message,
    Missed,
    RoomEvent,
    System,
    Welcome,
)
from wslessons.client.inbox import Event, Notice
from wslessons.client.outbox import Outbox, Refused

__all__ = ["JsonSession", "TextSession"]

KEPT = 1024
"""Numbers of early acknowledgements that are remembered at most."""


class JsonSession:
    """`chat.v1+json`: knows its place in the room's log, so it can resume there.

    It outlives connections. `offset` is the newest event received and `epoch` the life of the room
    in which that number means something; they are None and "" before the first welcome.

    Args:
        name: under which to join.
        outbox: the messages that wait for their acknowledgement.
        since: the newest event that is known from an earlier life of the client; None for none.
        epoch: the life of the room in which that number means something.
    """

    codec = JSON

    def __init__(self, name: str, outbox: Outbox, since: int | None, epoch: str) -> None:
        self.offset = since
        self.epoch = epoch
        self._name = name
        self._outbox = outbox
        self._session = secrets.token_hex(16)
        self._acknowledged_early: set[int] = set()

    def hello(self) -> Hello:
        """Return the first event of a connection: join, or resume."""
        return Hello(self._name, self.offset, self.epoch, self._session)

    def receive(self, data: str | bytes) -> Iterator[Event]:
        """Yield what is new in a message of the server; never raises.

        Args:
            data: as the connection received it.

        Yields:
            The events in it; none where it only settles a message.
        """
        try:
            event = JSON.decode_server(data)
        except (msgspec.DecodeError, RecursionError) as exc:
            # A newer server may send more than we know; an event that we can't read leaves a gap
            # in the offsets, which the next one shows.
            yield Notice(f"not understood: {exc}")
            return
        match event:
            case Ack():
                self._take_ack(event)
            case Message() | Joined() | Left():
                yield from self._in_order(event)
            case Error(id=id) if id in self._outbox:
                self._outbox.fail(id, Refused(event.code, event.text))
            case Welcome():
                if self.epoch and event.epoch != self.epoch:
                    # The new life knows none of the old one's ids.
                    self._outbox.doubt("the server was restarted")
                    self._acknowledged_early.clear()
                self.epoch, self.offset = event.epoch, event.offset
                self._name = event.name  # which a server with a login may decide
                yield event
            case System(text=text):
                yield Notice(f"[system] {text}")
            case Missed():
                self.offset = max(self.offset or 0, event.offset)
                early = self._acknowledged_early
                early -= {offset for offset in early if offset <= self.offset}
                self._outbox.ask_again()
                yield event
            case _:
                yield event

    def _take_ack(self, ack: Ack) -> None:
        ours = ack.id in self._outbox
        self._outbox.confirm(ack.id, ack)
        offset = self.offset or 0
        if _before(ack) <= offset < ack.offset:
            self.offset = ack.offset
        elif ours and ack.offset > offset and len(self._acknowledged_early) < KEPT:
            # The answer to a repeat does not come through the log and may overtake it; then the
            # message itself follows, and is still ours. (The server decides how many it sends:
            # of an id that is none of ours nothing is remembered.)
            self._acknowledged_early.add(ack.offset)

    def _in_order(self, event: RoomEvent) -> Iterator[Event]:
        offset = self.offset or 0
        if event.offset <= offset:
            return
        before = _before(event)
        if before > offset:
            # Where numbers have holes, nobody can tell how many events are between two.
            self.offset = before
            self._outbox.ask_again()
            yield Missed(before - offset if isinstance(event.prev, UnsetType) else None, before)
        self.offset = event.offset
        if event.offset in self._acknowledged_early:
            self._acknowledged_early.discard(event.offset)
        elif isinstance(event, Message) and event.id in self._outbox and event.sender == self._name:
            # What a broken connection had sent: the replay is the acknowledgement.
            self._outbox.confirm(event.id, Ack(event.id, event.offset, event.time))
        else:
            yield event


def _before(event: RoomEvent | Ack) -> int:
    """Return the number after which no event of the room comes before this one."""
    return event.offset - 1 if isinstance(event.prev, UnsetType) else event.prev


class TextSession:
    """Plain text: lines, and no way to tell what came before a connection.

    Args:
        name: under which to join.
    """

    codec = TEXT

    def __init__(self, name: str) -> None:
        self._name = name

    def hello(self) -> Hello:
        """Return the first event of a connection: the name."""
        return Hello(self._name)

    def receive(self, data: str | bytes) -> Iterator[Event]:
        """Yield the event that a line stands for, or a `Notice`; never raises.

        >>> list(TextSession("bob").receive("[alice] hi"))
        [Message(sender='alice', text='hi', id='', offset=0, time=0.0, prev=UNSET)]

        Args:
            data: as the connection received it.

        Yields:
            The event.
        """
        if isinstance(data, bytes):
            yield Notice(f"a binary message of {len(data)} bytes")
            return
        event = TEXT.decode_server(data)
        if event is None or (isinstance(event, Welcome) and event.name != self._name):
            event = Notice(data)
        yield event
