"""One writer for all members of a channel: encode once, join what is ready, write once each.

The plain way to serve a member is a task that takes items from its `Receiver` and sends them (see
`session.forward`). That is right, and slow: every message wakes every task and costs a
system call for every member. This module does the same job in one loop:

- all items sent in one turn of the event loop go out together, in **one write a connection**;
- each item is encoded once for each `Form` (plain text, JSON, ...), not once for each member;
- members that keep up share **one cursor** (a `Receiver`) and one joined buffer, their *step*;
- a member over its high-water mark is left alone: it gets a cursor of its own where it stopped,
  lags in the channel's ring and not in memory, and is told what it lost when it drains;
- who sent an item gets `Form.own` of it instead: nothing, or an acknowledgement.

`wslessons.chat.frames` writes to a connection of `websockets` past the library's own `send`.

Not handled here: connections that cannot take a ready-made frame, such as ASGI's; those are served
by `forward`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from wslessons.chat.channel import Channel, Lagged, Receiver
from wslessons.chat.frames import Writer, text_frame

__all__ = ["Fanout", "Form", "Item"]

CHUNK = 2**18
"""Bytes that one write may add to a connection's buffer: with the high-water mark, the bound on
what a stalled member can hold in memory."""


class Item(Protocol):
    """What a fan-out sends."""

    origin: str
    """Id of the member it came from, or an empty string."""
    frames: dict[Any, bytes]
    """The ready frames of this item, by form; filled by the fan-out, at first an empty dict."""


I_contra = TypeVar("I_contra", bound=Item, contravariant=True)
I = TypeVar("I", bound=Item)  # noqa: E741


class Form(Protocol[I_contra]):
    """How items look on the wire to one kind of client; payloads are UTF-8."""

    def encode(self, item: I_contra) -> bytes:
        """Return what everybody gets; no bytes are nothing at all."""
        ...

    def own(self, item: I_contra) -> bytes | None:
        """Return what the member that sent it gets, or None for nothing."""
        ...

    def missed(self, count: int, offset: int) -> bytes:
        """Return the notice that `count` items, the last of them at `offset`, are gone."""
        ...


class _Member(Generic[I]):
    __slots__ = ("cursor", "form", "id", "writer")

    def __init__(self, id: str, form: Form[I], writer: Writer, cursor: Receiver[I]) -> None:
        self.id = id
        self.form = form
        self.writer = writer
        self.cursor: Receiver[I] | None = cursor
        """Its own place in the log; None while it is in step."""


class _Step(Generic[I]):
    """The members of one form that keep up, and the cursor they share."""

    def __init__(self, cursor: Receiver[I]) -> None:
        self.cursor = cursor
        self.writers: dict[str, Writer] = {}


class Fanout(Generic[I]):
    """Send what comes into `channel` to all members. All items must come in through `send`.

    In: the channel, and `chunk`, the most bytes handed to a connection in one write.
    """

    def __init__(self, channel: Channel[I], *, chunk: int = CHUNK) -> None:
        self.channel = channel
        self.chunk = chunk
        self._members: dict[str, _Member[I]] = {}
        self._steps: dict[Form[I], _Step[I]] = {}
        self._caught_up: dict[str, _Member[I]] = {}
        self._flushed = channel.offset
        self._tick: asyncio.Handle | None = None

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, id: object) -> bool:
        return id in self._members

    def cursors(self) -> dict[str, int]:
        """Return for each member's id the offset up to which it has been served."""
        return {
            member.id: (member.cursor or self._steps[member.form].cursor).offset
            for member in self._members.values()
        }

    def send(self, item: I) -> None:
        """Append `item` to the channel; members get it on the loop's next turn. Never waits."""
        channel = self.channel
        if channel.offset - self._flushed >= channel.capacity:
            # One turn can bring more than the ring holds (500 leaving at once are 500 events), and
            # members who only wait for the tick must not be lapped by it.
            self.flush()
        channel.send(item)
        if self._tick is None:
            self._tick = asyncio.get_running_loop().call_soon(self.flush)

    def join(self, id: str, form: Form[I], writer: Writer, cursor: Receiver[I]) -> None:
        """Serve a new member from `cursor` on, which the fan-out now owns."""
        member = self._members[id] = _Member(id, form, writer, cursor)
        if form not in self._steps:
            self._steps[form] = _Step(self.channel.subscribe())
        self._resume(member)

    def leave(self, id: str) -> None:
        """Serve this member no longer. Does nothing when there is no such member."""
        member = self._members.pop(id, None)
        if member is None:
            return
        self._caught_up.pop(id, None)
        self._steps[member.form].writers.pop(id, None)
        if member.cursor is not None:
            member.cursor.close()

    def flush(self) -> None:
        """Write everything that is ready to everyone who can take it."""
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        for form, step in self._steps.items():
            self._serve(form, step)
        self._flushed = self.channel.offset
        caught_up, self._caught_up = self._caught_up, {}
        for member in caught_up.values():
            self._resume(member)

    def _serve(self, form: Form[I], step: _Step[I]) -> None:
        start = step.cursor.offset
        items = step.cursor.take_ready()
        if not items or not step.writers:
            return
        frames = [_frame(form, item) for item in items]
        # Who sent something gets a buffer of its own. They come first and apart, so that the loop
        # over all the others need not ask each of them.
        senders = {i: step.writers.pop(i) for i in {x.origin for x in items} if i in step.writers}
        for id, writer in list(senders.items()):
            for before, data in self._chunks(start, _frames_for(self._members[id], items)):
                if data and not writer.write(data):
                    self._fall_behind(id, before)
                    break
            else:
                continue
            del senders[id]
        for before, data in self._chunks(start, frames):
            fallen = [id for id, writer in step.writers.items() if not writer.write(data)]
            # Not inside the loop above: the dict must not change while we walk it.
            for id in fallen:
                del step.writers[id]
                self._fall_behind(id, before)
        step.writers.update(senders)

    def _fall_behind(self, id: str, offset: int) -> None:
        """Give a member that could not take what follows `offset` a cursor of its own there."""
        member = self._members[id]
        member.cursor = self.channel.subscribe(since=offset)
        self._park(member)

    def _resume(self, member: _Member[I]) -> None:
        """Bring a member with a cursor of its own up to date, and into step if it gets there."""
        if self._members.get(member.id) is not member or member.cursor is None:
            return
        if not self._catch_up(member, member.cursor):
            self._park(member)
            return
        step = self._steps[member.form]
        if not step.writers:
            step.cursor.offset = member.cursor.offset
        if step.cursor.offset == member.cursor.offset:
            member.cursor.close()
            member.cursor = None
            step.writers[member.id] = member.writer
        else:
            self._caught_up[member.id] = member

    def _catch_up(self, member: _Member[I], cursor: Receiver[I]) -> bool:
        start = cursor.offset
        try:
            items = cursor.take_ready()
        except Lagged as lag:
            notice = text_frame(member.form.missed(lag.skipped, cursor.offset))
            if not member.writer.write(notice):
                # Not told yet: stay where it was, and the count will be right when it is.
                cursor.offset = start
                return False
            start = cursor.offset
            items = cursor.take_ready()
        for before, data in self._chunks(start, _frames_for(member, items)):
            if data and not member.writer.write(data):
                cursor.offset = before
                return False
        return True

    def _park(self, member: _Member[I]) -> None:
        member.writer.when_writable(lambda: self._resume(member))

    def _chunks(self, start: int, frames: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
        """Join frames into writes of about `chunk` bytes, each with the offset it follows."""
        if sum(map(len, frames)) <= self.chunk:
            yield start, b"".join(frames)
            return
        first = size = 0
        for i, frame in enumerate(frames):
            if size and size + len(frame) > self.chunk:
                yield start + first, b"".join(frames[first:i])
                first, size = i, 0
            size += len(frame)
        yield start + first, b"".join(frames[first:])


def _frame(form: Form[I], item: I) -> bytes:
    frame = item.frames.get(form)
    if frame is None:
        payload = form.encode(item)
        frame = item.frames[form] = payload and text_frame(payload)
    return frame


def _own_frame(form: Form[I], item: I) -> bytes:
    own = form.own(item)
    return b"" if own is None else text_frame(own)


def _frames_for(member: _Member[I], items: list[I]) -> list[bytes]:
    """Return the frames of `items` as this member is to see them, b"" where it sees nothing."""
    form, id = member.form, member.id
    return [_own_frame(form, i) if i.origin == id else _frame(form, i) for i in items]
