"""How the room's events look on the wire: as lines of plain text, or as `chat.v1+json`."""

from __future__ import annotations

from typing import Any

from wslessons.chat.events import (
    Ack,
    Error,
    Joined,
    Message,
    Missed,
    RoomEvent,
    Roster,
    Welcome,
    encode,
)

__all__ = ["JSON", "TEXT", "JsonForm", "Record", "TextForm"]


class Record:
    """An event in a room's log, with what the wire does not show. See `fanout.Item`."""

    __slots__ = ("event", "frames", "key", "origin")

    def __init__(self, event: RoomEvent, origin: str = "", key: str = "") -> None:
        self.event = event
        self.origin = origin
        """Id of the connection that said it; empty for what is everybody's."""
        self.key = key
        """Session and id under which it is published only once; empty for no such promise."""
        self.frames: dict[Any, bytes] = {}


class TextForm:
    """The plain-text protocol, as the client that asks for no subprotocol sees it."""

    def encode(self, item: Record) -> bytes:
        """Return the line for everybody."""
        event = item.event
        if isinstance(event, Message):
            return f"[{event.sender}] {event.text}".encode()
        verb = "joined" if isinstance(event, Joined) else "left"
        return self.system(f">>> {event.name} {verb} the chat")

    def own(self, item: Record) -> bytes | None:
        """Whoever said it knows it."""
        return None

    def missed(self, count: int | None, offset: int) -> bytes:
        """Return the notice of a gap."""
        if count is None:
            return self.system("you missed messages")
        return self.system(f"you missed {count} message{'' if count == 1 else 's'}")

    def welcome(self, event: Welcome) -> bytes:
        """Return the answer to the name."""
        return f"Welcome, {event.name}!".encode()

    def roster(self, people: list[str], count: int) -> bytes:
        """Return the answer to ``/who``."""
        more = f" and {count - len(people)} more" if count > len(people) else ""
        return self.system(f"here now: {', '.join(people)}{more}")

    def error(self, code: str, text: str, id: str = "") -> bytes:
        """Return what was wrong."""
        return self.system(text)

    def system(self, text: str) -> bytes:
        """Return a notice: nobody can be called ``system``, so nobody can forge one."""
        return f"[system] {text}".encode()


class JsonForm:
    """The subprotocol `chat.v1+json`."""

    def encode(self, item: Record) -> bytes:
        """Return the event for everybody."""
        return encode(item.event)

    def own(self, item: Record) -> bytes | None:
        """Return the acknowledgement of what was said."""
        event = item.event
        if isinstance(event, Message):
            return encode(Ack(event.id, event.offset, event.time))
        return None

    def missed(self, count: int | None, offset: int) -> bytes:
        """Return the notice of a gap."""
        return encode(Missed(count, offset))

    def welcome(self, event: Welcome) -> bytes:
        """Return the answer to `Hello`."""
        return encode(event)

    def roster(self, people: list[str], count: int) -> bytes:
        """Return the answer to `Who`."""
        return encode(Roster(people, count))

    def error(self, code: str, text: str, id: str = "") -> bytes:
        """Return what was wrong."""
        return encode(Error(code, text, id))


TEXT = TextForm()
JSON = JsonForm()
