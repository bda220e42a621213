"""What the two protocols look like on the wire, in both directions, for servers and for clients.

A codec turns bytes into typed events (see `events`) and back. `TEXT` is the protocol of a client
that asks for no subprotocol, `JSON` is the subprotocol ``chat.v1+json``. Codecs do no I/O.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from wslessons.chat.events import (
    Ack,
    ClientEvent,
    Error,
    Expires,
    Hello,
    Joined,
    Left,
    Message,
    Missed,
    Pong,
    Renewed,
    RoomEvent,
    Roster,
    Say,
    ServerEvent,
    ShortText,
    System,
    Welcome,
    Who,
    encode,
)

__all__ = ["JSON", "RATE", "TEXT", "Answer", "JsonCodec", "Record", "TextCodec", "clean_text"]

Answer = Welcome | Missed | Ack | Roster | Pong | System | Expires | Renewed | Error
"""What is sent to one member only."""

RATE = "rate"
"""The code of the error that refuses what came too fast."""

# White space that would begin a new line or column, and what would steer a terminal or turn the
# direction of the text around it (Unicode's explicit embeddings, overrides and isolates).
_SPACES = re.compile("[\t-\r\x85\u2028\u2029]+")
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

# The lines of plain text as a client reads them; `TextCodec` writes them.
_WELCOME = re.compile(r"Welcome, (.+)!")
_MOVE = re.compile(r"\[system\] >>> (.+) (joined|left) the chat")
_MISSED = re.compile(r"\[system\] you missed (?:(\d{1,18}) )?messages?")
_TOO_FAST = re.compile(r"\[system\] (too fast \(.+?\), this was not said: .*)", re.DOTALL)
_LINE = re.compile(r"\[([^\[\]]+)\] (.*)", re.DOTALL)

_client_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(ClientEvent)


class _Identified(msgspec.Struct):
    """What of a message that is wrong tells its sender which one it was."""

    id: ShortText = ""


_id_decoder = msgspec.json.Decoder(_Identified)
_server_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(ServerEvent)


def clean_text(text: str) -> str:
    r"""Return `text` trimmed and on one line, with control characters made visible as U+FFFD.

    >>> clean_text(" hi\n[system] bye \x1b[2J")
    'hi [system] bye �[2J'

    Args:
        text: what a client said.

    Returns:
        The text, of which no line break and no control character is left.
    """
    text = text.strip()
    if text.isprintable():
        return text
    return _CONTROLS.sub("\ufffd", _SPACES.sub(" ", text)).strip()


class Record(msgspec.Struct, eq=False):
    """An event in a room's log, with what the wire does not show. See `fanout.Item`."""

    event: RoomEvent | Missed
    """What happened, or, in a log that comes from elsewhere, what got lost on the way."""
    origin: str = ""
    """Id of the connection that said it; empty for what is everybody's."""
    key: str = ""
    """Session and id under which it is published only once; empty for no such promise."""
    frames: dict[Any, bytes] = {}
    """Each record's own."""
    size: int = 0
    """See `fanout.Item`; the room sets it."""


def _id_of(data: str) -> str:
    """Return the id of a client's event that is wrong in some other way, if it has one."""
    try:
        return _id_decoder.decode(data).id
    except (msgspec.DecodeError, RecursionError):
        return ""


class TextCodec:
    """The plain-text protocol, as the client that asks for no subprotocol sees it."""

    # The server's side.

    def decode_hello(self, data: str) -> Hello:
        """Return the first message of a client, which is its name.

        Args:
            data: the text of a message.

        Returns:
            What the client asks for: to be called so.
        """
        return Hello(data)

    def decode_client(self, data: str) -> ClientEvent | Error | None:
        """Return the event that a client's line stands for; None for a blank line.

        >>> TEXT.decode_client(" hi "), TEXT.decode_client("/who")
        (Say(text='hi', id=''), Who())

        Args:
            data: the text of a message.

        Returns:
            The event, or None.
        """
        text = data.strip()
        if not text.isprintable():
            text = clean_text(text)
        if text == "/who":
            return Who()
        return Say(text) if text else None

    def encode(self, item: Record) -> bytes:
        """Return the line for everybody.

        Args:
            item: an event of the log, as the fan-out hands it over.

        Returns:
            The line, as UTF-8.
        """
        event = item.event
        if isinstance(event, Message):
            return f"[{event.sender}] {event.text}".encode()
        if isinstance(event, Missed):
            return self.missed(event.count, event.offset)
        verb = "joined" if isinstance(event, Joined) else "left"
        return self.system(f">>> {event.name} {verb} the chat")

    def to_sender(self, item: Record) -> bytes | None:
        """Return what the sender gets in place of the line: nothing.

        Args:
            item: an event of the log, as the fan-out hands it over.

        Returns:
            None.
        """
        return None

    def missed(self, count: int | None, offset: int) -> bytes:
        """Return the notice of a gap.

        Args:
            count: how many events are gone; None where nobody can know.
            offset: of the last of them; a line does not tell it.

        Returns:
            The line, as UTF-8.
        """
        if count is None:
            return self.system("you missed messages")
        return self.system(f"you missed {count} message{'' if count == 1 else 's'}")

    def answer(self, event: Answer) -> bytes:
        """Return the line for an event that one member gets; no bytes where there is none.

        Args:
            event: for one member.

        Returns:
            The line, as UTF-8.
        """
        match event:
            case Welcome(name=name):
                return f"Welcome, {name}!".encode()
            case Missed(count=count, offset=offset):
                return self.missed(count, offset)
            case Roster(people=people, count=count):
                more = f" and {count - len(people)} more" if count > len(people) else ""
                return self.system(f"here now: {', '.join(people)}{more}")
            case Error(text=text) | System(text=text):
                return self.system(text)
            case Expires(seconds=seconds):
                return self.system(
                    f"your login ends in {seconds:.0f} s: connect again with a new one"
                )
            case _:
                return b""

    def system(self, text: str) -> bytes:
        """Return a notice of the server; nobody can be called ``system``.

        Args:
            text: what the server says.

        Returns:
            The line, as UTF-8.
        """
        return f"[system] {text}".encode()

    # The client's side.

    def encode_client(self, event: ClientEvent) -> bytes:
        """Return the line that a client sends.

        >>> TEXT.encode_client(Hello("alice")), TEXT.encode_client(Say("hi"))
        (b'alice', b'hi')

        Args:
            event: what the client wants.

        Returns:
            The line, as UTF-8.

        Raises:
            ValueError: plain text has no word for it.
        """
        match event:
            case Hello(name=name):
                return name.encode()
            case Say(text=text):
                return text.encode()
            case Who():
                return b"/who"
            case _:
                raise ValueError("in plain text a client can only give its name, talk, and ask who")

    def decode_server(self, data: str) -> RoomEvent | Welcome | Missed | Error | None:
        """Return the event that a server's line stands for; None for a notice that people read.

        >>> TEXT.decode_server("[alice] hi")
        Message(sender='alice', text='hi', id='', offset=0, time=0.0, prev=UNSET)
        >>> TEXT.decode_server("[system] >>> bob left the chat")
        Left(name='bob', offset=0, time=0.0, prev=UNSET)

        Args:
            data: the text of a message.

        Returns:
            The event, or None.
        """
        if match := _WELCOME.fullmatch(data):
            return Welcome(match[1], "", "", 0, [], 0)
        if match := _MOVE.fullmatch(data):
            return (Joined if match[2] == "joined" else Left)(match[1])
        if match := _MISSED.fullmatch(data):
            return Missed(int(match[1]) if match[1] else None, 0)
        if match := _TOO_FAST.fullmatch(data):
            return Error(RATE, match[1])
        if data.startswith("[system] ") or not (match := _LINE.fullmatch(data)):
            return None
        return Message(match[1], match[2])


class JsonCodec:
    """The subprotocol ``chat.v1+json``."""

    # The server's side.

    def decode_hello(self, data: str) -> Hello:
        """Return the first message of a client.

        Args:
            data: the text of a message.

        Returns:
            What the client asks for.

        Raises:
            ValueError: it is no `hello`; the sentence says what is wrong.
        """
        try:
            event = _client_decoder.decode(data)
        except (msgspec.DecodeError, RecursionError) as exc:
            raise ValueError(f"the first message must be a hello: {exc}") from None
        if not isinstance(event, Hello):
            raise ValueError("the first message must be a hello")
        return event

    def decode_client(self, data: str) -> ClientEvent | Error | None:
        """Return a client's event, or the error with which to answer what is none.

        >>> JSON.decode_client('{"type": "say", "text": "hi"}')
        Say(text='hi', id='')

        Args:
            data: the text of a message.

        Returns:
            The event, or the error.
        """
        try:
            event = _client_decoder.decode(data)
        except (msgspec.DecodeError, RecursionError) as exc:
            return Error("invalid", str(exc), _id_of(data))
        if isinstance(event, Say):
            event.text = event.text.strip()
            if not event.text.isprintable():
                event.text = clean_text(event.text)
            if not event.text:
                return Error("blank", "a blank message is not sent", event.id)
        return event

    def encode(self, item: Record) -> bytes:
        """Return the event for everybody.

        Args:
            item: an event of the log, as the fan-out hands it over.

        Returns:
            The JSON, as UTF-8.
        """
        return encode(item.event)

    def to_sender(self, item: Record) -> bytes | None:
        """Return what the sender gets in place of the event: the acknowledgement.

        Args:
            item: an event of the log, as the fan-out hands it over.

        Returns:
            The JSON, as UTF-8; None for what is no message.
        """
        event = item.event
        if isinstance(event, Message):
            return encode(Ack(event.id, event.offset, event.time, event.prev))
        return None

    def missed(self, count: int | None, offset: int) -> bytes:
        """Return the notice of a gap.

        Args:
            count: how many events are gone; None where nobody can know.
            offset: of the last of them.

        Returns:
            The JSON, as UTF-8.
        """
        return encode(Missed(count, offset))

    def answer(self, event: Answer) -> bytes:
        """Return an event that one member gets.

        Args:
            event: for one member.

        Returns:
            The JSON, as UTF-8.
        """
        return encode(event)

    # The client's side.

    def encode_client(self, event: ClientEvent) -> bytes:
        """Return the message that a client sends.

        Args:
            event: what the client wants.

        Returns:
            The JSON, as UTF-8.
        """
        return encode(event)

    def decode_server(self, data: str | bytes) -> ServerEvent:
        """Return a server's event.

        Args:
            data: a message, as text or as UTF-8.

        Returns:
            The event.

        Raises:
            msgspec.DecodeError: it is none that we know; the sentence says why.
        """
        return _server_decoder.decode(data)


TEXT = TextCodec()
JSON = JsonCodec()
