"""What an application says to a chat, and what it is asked by it: the base of `ChatServer`.

    chat = ChatServer(authenticate=..., joined=..., said=..., left=...)
    chat.say("the shop is open", sender="news", room="/rooms/shop")
    chat.notify("we restart in a minute")
    chat.revoke("user-17")

What is asked is asynchronous, and holds up only the member whom it is about. What is said may be
said from any task or thread, and over a bus from any process: all servers of the chat hear it.

Not handled here: one order for what is said from several threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec

from wslessons.chat.codecs import JSON, TEXT, JsonCodec, TextCodec, clean_text
from wslessons.chat.connection import Connection, Gone
from wslessons.chat.events import (
    SUBPROTOCOL,
    Ack,
    Error,
    Expires,
    Renewed,
    Say,
    System,
)
from wslessons.chat.identity import (
    EXPIRED,
    REVOKED,
    Authenticate,
    Denied,
    Member,
    Opening,
)
from wslessons.chat.room import Room
from wslessons.chat.rules import clean_name
from wslessons.serving import start_task

__all__ = ["Application", "Order"]

logger = logging.getLogger("wslessons.chat.server")

RENEWAL = 60.0
"""Seconds before the end of an identity at which its owner is asked to renew it, at most."""
SHARE = 1 / 3
"""The same as a share of the time that is left, for short ones."""
MOST_NOTICES = 64
"""Notices that may wait for one connection."""
ON_THE_WAY = 600.0
"""Seconds for which a revoked subject is remembered, for those who are on the way in."""
ENDS = {
    False: (EXPIRED, "your login has ended: connect again with a new one"),
    True: (REVOKED, "your login was revoked"),
}


class Order(msgspec.Struct):
    """What an application says through any server to people on all of them."""

    text: str
    room: str | None = None
    name: str | None = None
    subject: str | None = None
    revoke: bool = False
    """Whether the connections end with that."""

    def concerns(self, member: Member) -> bool:
        """Return whether it is for somebody.

        Args:
            member: who is in a room here.

        Returns:
            Whether it is.
        """
        subject = member.identity.subject if member.identity else None
        return (
            self.room in (None, member.room)
            and self.name in (None, member.name)
            and self.subject in (None, subject)
        )


class Application:
    """The part of `ChatServer` that an application talks to; the arguments are described there.

    Args:
        authenticate: as for `ChatServer`.
        joined: as for `ChatServer`.
        said: as for `ChatServer`.
        left: as for `ChatServer`.
    """

    rooms: dict[str, Room]
    max_size: int
    name_timeout: float

    def __init__(
        self,
        authenticate: Authenticate | None,
        joined: Callable[[Member], Awaitable[object]] | None,
        said: Callable[[Member, str], Awaitable[str | None]] | None,
        left: Callable[[Member], Awaitable[object]] | None,
    ) -> None:
        self.authenticate, self.joined, self.said, self.left = authenticate, joined, said, left
        self._order: Callable[[Any], None] = self._obey
        self._loop: asyncio.AbstractEventLoop | None = None
        self._revoked: dict[str, float] = {}
        """Subjects whose identities from before that time (by `time.monotonic`) are void."""
        self._renewals: dict[str, asyncio.Task[None]] = {}
        """What asks for new proofs, by connection id."""
        self._notices: dict[str, int] = {}
        """How many notices wait, by connection id."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def refuse(self, connection: Connection, code: int, reason: str) -> None:
        """Close a connection for something that its client did: see `ChatServer`.

        Args:
            connection: the client's.
            code: the close code (RFC 6455, section 7.4.1).
            reason: at most 123 bytes of UTF-8.
        """
        raise NotImplementedError

    def _announce(self, text: str, sender: str, path: str) -> None:
        raise NotImplementedError

    def say(self, text: str, *, sender: str, room: str = "/") -> None:
        """Say something in a room, as somebody who need not be there.

        Args:
            text: what to say; it is put on one line.
            sender: under which name.
            room: the room's path; one that is not there is opened.

        Raises:
            ValueError: the text is blank or too large, the name may not be one, or there can't be
                such a room.
            UserError: there is no room for it now; from another thread it is only logged.
        """
        text, sender = self._fitting(text, "message"), clean_name(sender)
        self._soon(lambda: self._announce(text, sender, room))

    def notify(
        self,
        text: str,
        *,
        room: str | None = None,
        name: str | None = None,
        subject: str | None = None,
    ) -> None:
        """Send a notice to all who are connected now, on all servers; it is no event of a room.

        Args:
            text: the notice; it is put on one line.
            room: only to those in this room.
            name: only to those of this name.
            subject: only to those of this identity.

        Raises:
            ValueError: the text is blank or too large.
        """
        order = Order(self._fitting(text, "notice"), room, name, subject)
        self._soon(lambda: self._order(order))

    def revoke(self, subject: str, reason: str = "your login was revoked") -> None:
        """End all connections of an identity, on all servers, with the code `REVOKED`.

        Let `authenticate` know first, or it lets them in again.

        Args:
            subject: that of the identity.
            reason: what is said to them; at most 123 bytes of it.
        """
        order = Order(clean_text(reason), subject=subject, revoke=True)
        self._soon(lambda: self._order(order))

    # What the server asks.

    @staticmethod
    async def _tell(hook: Callable[[Member], Awaitable[object]] | None, member: Member) -> None:
        """Call `joined` or `left`; what it fails with, but `Denied`, is no fault of the member."""
        if hook is None:
            return
        try:
            await hook(member)
        except Denied:
            raise
        except Exception:
            logger.exception("the application failed with %s, who came or went", member.name)

    async def _judge(
        self,
        connection: Connection,
        codec: TextCodec | JsonCodec,
        room: Room,
        session: str,
        say: Say,
    ) -> str:
        """Ask the application about what a member says; answer the member if it is not said.

        Returns:
            What is to be said; empty for nothing.
        """
        assert self.said is not None
        if say.id and room.was_said(say.id, session):
            return say.text  # a repeat, which the room will answer
        answer: Ack | Error
        try:
            text = await self.said(self._member(connection, room), say.text)
        except Denied as denied:
            answer = Error("denied", denied.reason, say.id)
        except Exception:
            logger.exception("the application failed with what %s said", connection.peer)
            answer = Error("failed", "something went wrong here: this was not said", say.id)
        else:
            if text := clean_text(text or ""):
                return text
            # It has been taken, and has no place in the log.
            answer = Ack(say.id, 0, time.time())
            if say.id:
                room.take_note(say.id, session)
        if payload := codec.answer(answer):
            await connection.send(payload)
        return ""

    def _fitting(self, text: str, what: str) -> str:
        """Put a text on one line; raise ValueError if it is blank or too large."""
        text = clean_text(text)
        if not text or len(text.encode()) > self.max_size:
            raise ValueError(f"a {what} has 1 to {self.max_size} bytes")
        return text

    def _soon(self, do: Callable[[], None]) -> None:
        """Do something in the chat's loop: at once where that runs, else as soon as it can."""
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if self._loop is None:
            self._loop = running
        if self._loop is None:
            raise RuntimeError("the chat is not served yet, so there is nobody to talk to")
        if running is self._loop:
            do()
        else:
            self._loop.call_soon_threadsafe(do)

    def _member(self, connection: Connection, room: Room) -> Member:
        opening = connection.opening
        identity = opening.identity if isinstance(opening, Opening) else None
        return Member(connection.id, room.members[connection.id], room.path, identity)

    def _obey(self, data: Any) -> None:
        """Carry out an order on this server."""
        try:
            order = data if isinstance(data, Order) else msgspec.convert(data, Order)
        except msgspec.ValidationError as exc:
            logger.info("ignored an order that is none of the chat's: %s", exc)
            return
        if order.revoke and order.subject is not None:
            now = time.monotonic()
            recent = {who: when for who, when in self._revoked.items() if when > now - ON_THE_WAY}
            self._revoked = recent | {order.subject: now}
        for room in self.rooms.values():
            for connection in list(room.connections.values()):
                if not order.concerns(self._member(connection, room)):
                    continue
                if order.revoke:
                    self._start(self.refuse(connection, REVOKED, order.text))
                elif (waiting := self._notices.get(connection.id, 0)) < MOST_NOTICES:
                    self._notices[connection.id] = waiting + 1
                    self._start(self._notify(connection, order.text))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = start_task(work, "what a chat does beside its connections")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _notify(self, connection: Connection, text: str) -> None:
        """Send a notice to one, who may be slow to read it."""
        codec, waiting = JSON if connection.subprotocol == SUBPROTOCOL else TEXT, self._notices
        try:
            with contextlib.suppress(Gone):
                await connection.send(codec.answer(System(text)))
        finally:
            waiting[connection.id] -= 1
            if not waiting[connection.id]:
                del waiting[connection.id]

    async def _renew(self, connection: Connection, token: str) -> Renewed | Error:
        """Ask the application about a new proof; return what to answer."""
        opening = connection.opening
        if not isinstance(opening, Opening) or opening.identity is None:
            return Error("denied", "nobody asks who you are here")
        try:
            async with asyncio.timeout(self.name_timeout):
                new = await opening.identify(token)
        except Denied as denied:
            return Error("denied", denied.reason)
        except Exception:
            logger.exception("the application failed with a new proof of %s", connection.peer)
            return Error("failed", "something went wrong here: try again")
        assert new.identity is not None
        if new.identity.subject != opening.identity.subject:
            return Error("denied", "this is the login of somebody else")
        connection.opening = new
        until = new.identity.until
        return Renewed(None if until is None else max(0.0, until - time.time()))

    def _void(self, connection: Connection) -> tuple[int, str] | None:
        """Return how to refuse one whose identity ended or was revoked on the way in, or None."""
        opening = connection.opening
        if not isinstance(opening, Opening) or opening.identity is None:
            return None
        if self._revoked.get(opening.identity.subject, -1.0) > opening.since:
            return ENDS[True]
        until = opening.identity.until
        return ENDS[False] if until is not None and until <= time.time() else None

    def _watch(self, connection: Connection, codec: TextCodec | JsonCodec) -> None:
        """Have a connection end with its identity, if that has an end."""
        if (renewal := self._renewals.pop(connection.id, None)) is not None:
            renewal.cancel()
        opening = connection.opening
        identity = opening.identity if isinstance(opening, Opening) else None
        if identity is not None and identity.until is not None:

            def end(error: Exception) -> None:
                # Nobody stays longer than their login because a question failed.
                self._start(self.refuse(connection, *ENDS[False]))

            ending = self._expire(connection, codec, identity.until)
            self._renewals[connection.id] = start_task(ending, "asking for a new login", end)

    async def _expire(
        self, connection: Connection, codec: TextCodec | JsonCodec, until: float
    ) -> None:
        """Ask for a new proof in time; without one, end the connection."""
        left = until - time.time()
        await asyncio.sleep(left - min(RENEWAL, left * SHARE))
        with contextlib.suppress(Gone):
            await connection.send(codec.answer(Expires(max(0.0, until - time.time()))))
        await asyncio.sleep(max(0.0, until - time.time()))
        await self.refuse(connection, *ENDS[False])
