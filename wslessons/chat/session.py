"""One member's stay in a room: what it may say, what is answered, and when it must go."""

from __future__ import annotations

import asyncio
import time

import msgspec

from wslessons.chat.channel import Closed, Lagged, Receiver
from wslessons.chat.codecs import JSON, TEXT, JsonForm, Record, TextForm
from wslessons.chat.connection import Connection, Gone, Refused
from wslessons.chat.events import (
    SUBPROTOCOL,
    Ack,
    Hello,
    Ping,
    Pong,
    Say,
    Who,
    decode_client,
    encode,
)
from wslessons.chat.room import Room
from wslessons.chat.rules import TokenBucket, clean_name, clean_text

__all__ = ["Session", "forward", "hear_name"]

GRACE = 5.0
"""Seconds for which what a rate-limited client sent before it left is still let through. (While
more than the library's `max_queue` waits, its Close has not been read; then keepalive ends it.)"""


async def forward(
    cursor: Receiver[Record], connection: Connection, form: TextForm | JsonForm
) -> None:
    """Send one member everything from `cursor` on, item by item: what `Fanout` does for many.

    Ends when the log is closed. Raises `Gone`.
    """
    while True:
        try:
            item = await cursor.recv()
        except Lagged as lag:
            await connection.send(form.missed(lag.skipped, cursor.offset))
            continue
        except Closed:
            return
        payload = form.own(item) if item.origin == connection.id else form.encode(item)
        if payload:
            await connection.send(payload)


async def hear_name(connection: Connection, patience: float) -> Hello:
    """Wait up to `patience` seconds for the first message, and return it with a name to use.

    Raises `Refused` with a sentence that says what was wrong, and `Gone`.
    """
    try:
        async with asyncio.timeout(patience):
            data = await connection.recv()
    except TimeoutError:
        raise Refused(1008, f"no name within {patience:g} seconds") from None
    if isinstance(data, bytes):
        raise Refused(1008, "the first message must be text: your name")
    hello = Hello(data)
    if connection.subprotocol == SUBPROTOCOL:
        try:
            event = decode_client(data)
        except (msgspec.DecodeError, RecursionError) as exc:
            raise Refused(1008, f"the first message must be a hello: {exc}") from None
        if not isinstance(event, Hello):
            raise Refused(1008, "the first message must be a hello")
        hello = event
    try:
        hello.name = clean_name(hello.name)
    except ValueError as exc:
        raise Refused(1008, str(exc)) from None
    return hello


class Session:
    """A member of `room`, from its welcome to its end.

    In: `session`, under which its messages' ids are remembered; `bucket`, what it may say a second,
    None for any; `max_size`, bytes in one message.
    """

    def __init__(
        self,
        connection: Connection,
        form: TextForm | JsonForm,
        room: Room,
        session: str,
        *,
        bucket: TokenBucket | None,
        max_size: int,
    ) -> None:
        self.connection = connection
        self.form = form
        self.room = room
        self.session = session
        self.bucket = bucket
        self.max_size = max_size

    async def stay(self, cursor: Receiver[Record]) -> None:
        """Send what comes from `cursor` on, and hear the member, until the connection ends.

        Raises `Refused` when the member has to go.
        """
        if self.connection.writer is not None:
            # The reader is the only task: a connection that the fan-out cannot write to any more
            # is a closed one, and ends its reader.
            self.room.fanout.join(self.connection.id, self.form, self.connection.writer, cursor)
            refusal = await self._listen()
        else:
            refusal = await self._listen_and_forward(cursor)
        if refusal is not None:
            raise refusal

    async def _listen_and_forward(self, cursor: Receiver[Record]) -> Refused | None:
        """Run both directions as two tasks that end together."""
        refusal: Refused | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                writing = tasks.create_task(forward(cursor, self.connection, self.form))
                refusal = await self._listen()
                writing.cancel()
        except* Gone:
            pass
        return refusal

    async def _listen(self) -> Refused | None:
        """Take what the client sends until it goes (None) or must go (the refusal)."""
        connection, is_json = self.connection, isinstance(self.form, JsonForm)
        bucket, grace = self.bucket, GRACE
        try:
            while True:
                data = await connection.recv()
                if bucket is not None and (delay := bucket.take()):
                    if not connection.is_open:
                        grace -= delay
                        if grace < 0:
                            return None
                    await asyncio.sleep(delay)
                if isinstance(data, bytes):
                    return Refused(1003, "this chat takes text messages, not binary ones")
                if len(data) > self.max_size:
                    return Refused(1009, f"a message has at most {self.max_size} bytes")
                if is_json:
                    await self._heard_json(data)
                else:
                    text = clean_text(data)
                    if text == "/who":
                        await connection.send(TEXT.roster(*self.room.roster()))
                    elif text:
                        self.room.say(connection.id, text)
        except Gone:
            return None

    async def _heard_json(self, data: str) -> None:
        connection, room = self.connection, self.room
        try:
            event = decode_client(data)
        except (msgspec.DecodeError, RecursionError) as exc:
            await connection.send(JSON.error("invalid", str(exc)))
            return
        if isinstance(event, Say):
            text = clean_text(event.text)
            if not text:
                await connection.send(JSON.error("blank", "a blank message is not sent", event.id))
                return
            key = f"{self.session}/{event.id}" if event.id else ""
            if offset := room.say(connection.id, text, event.id, key):
                await connection.send(encode(Ack(event.id, offset, time.time())))
        elif isinstance(event, Who):
            await connection.send(JSON.roster(*room.roster()))
        elif isinstance(event, Ping):
            await connection.send(encode(Pong(event.id)))
        else:
            await connection.send(JSON.error("joined", "you have said hello already"))
