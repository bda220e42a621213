"""One writer for all members of a channel: encode once, join what is ready, write once each.

The plain way to serve a member is a task that takes items from its `Receiver` and sends them (see
`server.forward`). That is right, and slow: every message wakes every task and costs a system call
for every member. This module does the same job in one loop:

- all items that are ready go out together, in **one write per connection**;
- each item is encoded once for each `Codec` (plain text, JSON, ...), not once for each member;
- members that keep up, those **in sync**, share one cursor (a `Receiver`) and one joined buffer, a
  group of them at a time; between two groups the loop reads what has been said meanwhile, and the
  next group gets that too, in place of waiting for the end of the round; it goes on reading for a
  few turns as long as there is more, since writing is what costs;
- a member over its high-water mark is **blocked**: it gets a cursor of its own where it stopped,
  lags in the channel's ring and not in memory, and is told what it lost when it drains;
- whoever sent an item gets `Codec.to_sender` of it instead: nothing, or an acknowledgement.

`connection.FrameWriter` writes to a connection of `websockets` past the library's own `send`.

Not handled here: connections that cannot take a ready-made frame, such as ASGI's; those are served
by `forward`.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from wslessons.chat.channel import Channel, Lagged, Receiver
from wslessons.connection import text_frame

__all__ = ["Codec", "DirectWriter", "Fanout", "Item", "Writer"]

CHUNK = 2**18
"""Bytes that one write may add to a connection's buffer: with the high-water mark, the bound on
what a stalled member can hold in memory."""

GROUP = 64
"""Members who are written to in one turn of the event loop: less than half a millisecond's work."""

MANY = 16
"""Items that wait for the members. From so many on a turn goes to `TOGETHER` groups: writes are as
large as they need be, and what the loop does between two turns is all that is left to save."""

TOGETHER = 8
"""Groups that have a turn together when that much waits."""

LOOKS = 4
"""Times that the loop looks for more to read before a turn, as long as it finds some: a turn later
costs whoever waits little, and a write to everybody that says half of it costs a whole one."""

_send: Callable[[socket.socket, bytes], int] = socket.socket.send
"""What writes to a socket; lesson 7 puts one in its place whose calls can be counted."""


class Writer(Protocol):
    """What a fan-out needs of a connection."""

    def write(self, data: bytes) -> bool:
        """Take all of `data` now and return True, or take nothing and return False.

        Args:
            data: whole frames.

        Returns:
            Whether it was taken.
        """
        ...

    def when_writable(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, later, when `write` may succeed again; never if it cannot.

        Args:
            callback: called on the loop.
        """
        ...


class DirectWriter(Writer, Protocol):
    """A writer that need not be asked before each write."""

    def direct(self, until: Callable[[], object]) -> socket.socket | None:
        """Return the socket, or None where a write has to be asked for.

        It may be sent on, without asking, until `until` is called. What it did not take of a write
        has to go to `finish` at once.

        Args:
            until: called when nothing may be sent directly any more.

        Returns:
            The socket, or None.
        """
        ...

    def finish(self, rest: memoryview) -> None:
        """Take the rest of a write of which the socket has taken only the beginning.

        Args:
            rest: what the socket has not taken.
        """
        ...


class Item(Protocol):
    """What a fan-out sends."""

    origin: str
    """Id of the member it came from, or an empty string."""
    frames: dict[Any, bytes]
    """The ready frames of this item, by codec; filled by the fan-out, at first an empty dict."""
    size: int
    """Its bytes in memory, roughly, for the channel's `max_bytes`."""


I_contra = TypeVar("I_contra", bound=Item, contravariant=True)
I = TypeVar("I", bound=Item)  # noqa: E741


class Codec(Protocol[I_contra]):
    """How items look on the wire to one kind of client; payloads are UTF-8."""

    def encode(self, item: I_contra) -> bytes:
        """Return what everybody gets; no bytes are nothing at all.

        Args:
            item: of the channel.

        Returns:
            The payload of a text message.
        """
        ...

    def to_sender(self, item: I_contra) -> bytes | None:
        """Return what the member that sent it gets, or None for nothing.

        Args:
            item: of the channel, which this member has sent.

        Returns:
            The payload of a text message, or None.
        """
        ...

    def missed(self, count: int, offset: int) -> bytes:
        """Return the notice that `count` items, the last of them at `offset`, are gone.

        Args:
            count: how many items.
            offset: of the last of them.

        Returns:
            The payload of a text message.
        """
        ...


class _Member(Generic[I]):
    __slots__ = ("codec", "cursor", "id", "in_sync", "writer")

    def __init__(self, id: str, codec: Codec[I], writer: Writer, cursor: Receiver[I]) -> None:
        self.id = id
        self.codec = codec
        self.writer = writer
        self.cursor = cursor
        """Its place in the log: its own one, or that of its group."""
        self.in_sync: _InSync[I] | None = None
        """The group whose cursor it shares; None while it has its own."""


@dataclass(eq=False)
class _Group:
    """Connections that get the same bytes."""

    writers: dict[str, Writer] = field(default_factory=dict)
    direct: dict[str, socket.socket] = field(default_factory=dict)
    """Of those of `writers` who need not be asked, the sockets; see `DirectWriter`."""

    def add(self, id: str, writer: Writer) -> None:
        """Put a connection in."""
        self.writers[id] = writer

    def remove(self, id: str) -> None:
        """Take a connection out, if it is here."""
        self.direct.pop(id, None)
        self.writers.pop(id, None)


class _InSync(_Group, Generic[I]):
    """Members of one codec that keep up, at most `group` of them, and the cursor they share."""

    def __init__(self, codec: Codec[I], cursor: Receiver[I]) -> None:
        super().__init__()
        self.codec = codec
        self.cursor = cursor
        self.served = 0
        """Bytes that had been sent to the fan-out when this group was last written to."""

    def add(self, id: str, writer: Writer) -> None:
        """Put a member in, and have it sent to directly if that may be."""
        self.writers[id] = writer
        direct = getattr(writer, "direct", None)
        sock = direct and direct(partial(self.direct.pop, id, None))
        if sock is not None:
            self.direct[id] = sock


class _Batch(NamedTuple):
    """What a group of members got; the next group gets the same unless something has come since."""

    codec: object
    start: int
    """The offset that it follows."""
    count: int
    """Of items."""
    frames: list[bytes]
    """One for each item, empty where there is nothing to see."""
    joined: bytes | None
    """The frames, unless they are more than one write may have."""
    said: dict[str, list[int]]
    """Which of the items each origin has sent."""


class Fanout(Generic[I]):
    """Send what comes into `channel` to all members. All items must come in through `send`.

    Args:
        channel: the log whose items the members get.
        chunk: the most bytes handed to a connection in one write, unless one frame is larger.
        group: the most members who are written to in one turn of the event loop.
        many: for so many items a turn goes to `TOGETHER` times as many members.
    """

    def __init__(
        self,
        channel: Channel[I],
        *,
        chunk: int = CHUNK,
        group: int = GROUP,
        many: int = MANY,
    ) -> None:
        self.channel = channel
        self.chunk = chunk
        self.group = group
        self.many = many
        self._members: dict[str, _Member[I]] = {}
        self._groups: deque[_InSync[I]] = deque()
        """In the order in which they were written to: none is further behind than the first."""
        self._caught_up: dict[str, _Member[I]] = {}
        self._sent = 0
        """Bytes of all items ever sent."""
        self._tick: asyncio.Handle | None = None
        self._last = _Batch(None, 0, 0, [], b"", {})
        """What the last group got."""

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, id: object) -> bool:
        return id in self._members

    def cursors(self) -> dict[str, int]:
        """Return for each member's id the offset up to which it has been served."""
        return {member.id: member.cursor.offset for member in self._members.values()}

    def send(self, item: I) -> None:
        """Append `item` to the channel; members get it on the loop's next turns. Never waits.

        Args:
            item: what everyone gets.
        """
        channel = self.channel
        if self._groups:
            last, most = self._groups[0], channel.max_bytes
            unwritten = self._sent + item.size - last.served
            if channel.offset - last.cursor.offset >= channel.capacity or (
                most is not None and unwritten > most
            ):
                # One turn can bring more than the ring holds (500 leaving at once are 500 events),
                # and members who only wait for their turn must not be lapped by it.
                self.flush()
        self._sent += item.size
        channel.send(item, item.size)
        if self._tick is None:
            self._tick = asyncio.get_running_loop().call_soon(self._turn, LOOKS)

    def join(self, id: str, codec: Codec[I], writer: Writer, cursor: Receiver[I]) -> None:
        """Serve a new member from `cursor` on, which the fan-out now owns.

        Args:
            id: the connection's.
            codec: how its protocol writes items.
            writer: writes to it.
            cursor: a reader of the channel.
        """
        member = self._members[id] = _Member(id, codec, writer, cursor)
        self._resume(member)

    def leave(self, id: str) -> None:
        """Serve this member no longer. Does nothing when there is no such member.

        Args:
            id: the connection's.
        """
        member = self._members.pop(id, None)
        if member is None:
            return
        self._caught_up.pop(id, None)
        if member.in_sync is not None:
            member.in_sync.remove(id)
        else:
            member.cursor.close()

    def flush(self) -> None:
        """Write everything that is ready to everyone who can take it."""
        self._turn(most=len(self._members))

    def _turn(self, looks: int = 0, seen: int = 0, most: int | None = None) -> None:
        """Write to those who have waited longest; whoever still waits then has the next turn.

        Args:
            looks: how many times more the loop may look for something to read before.
            seen: the offset at the look before, 0 if there was none.
            most: how many members are written to; if None, as many as `group` and `many` say.
        """
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        loop, offset = asyncio.get_running_loop(), self.channel.offset
        if looks and seen < offset:
            self._tick = loop.call_soon(self._turn, looks - 1, offset)
            return
        if most is None:
            waiting = offset - self._groups[0].cursor.offset if self._groups else 0
            most = self.group * (TOGETHER if waiting >= self.many else 1)
        written = 0
        for _ in range(len(self._groups)):
            written += len(self._groups[0].writers)
            if written > most:
                break
            self._serve_next()
        caught_up, self._caught_up = self._caught_up, {}
        for member in caught_up.values():
            self._resume(member)
        if self._groups and self._groups[0].cursor.offset < offset:
            self._tick = loop.call_soon(self._turn, LOOKS)

    def _serve_next(self) -> None:
        """Write to the group that has waited longest; who cannot take what is ready is blocked."""
        in_sync = self._groups.popleft()
        if not in_sync.writers:
            in_sync.cursor.close()
            return
        self._groups.append(in_sync)
        in_sync.served = self._sent
        codec, start = in_sync.codec, in_sync.cursor.offset
        items = in_sync.cursor.take_ready()
        if not items:
            return
        batch = self._last
        if batch[:3] != (codec, start, len(items)):
            said: dict[str, list[int]] = {}
            for index, item in enumerate(items):
                said.setdefault(item.origin, []).append(index)
            frames = _frames(codec, items)
            joined = b"".join(frames) if sum(map(len, frames)) <= self.chunk else None
            batch = self._last = _Batch(codec, start, len(items), frames, joined, said)
        # Whoever sent something gets bytes of their own.
        own: dict[str, list[bytes]] = {}
        for id in batch.said.keys() & in_sync.writers.keys():
            own[id] = batch.frames.copy()
            for index in batch.said[id]:
                payload = codec.to_sender(items[index])
                own[id][index] = text_frame(payload) if payload else b""
        # Apart, so that the loop over all the others need not ask each of them.
        senders: dict[str, _Group] = {}
        for id in own:
            group = senders[id] = _Group({id: in_sync.writers.pop(id)})
            if id in in_sync.direct:
                group.direct[id] = in_sync.direct.pop(id)
        for id, group in senders.items():
            self._write(group, start, own[id])
        self._write(in_sync, start, batch.frames, batch.joined)
        for group in senders.values():
            in_sync.writers |= group.writers
            in_sync.direct |= group.direct

    def _write(
        self, group: _Group, start: int, frames: Sequence[bytes], joined: bytes | None = None
    ) -> None:
        """Write frames to all of `group`; who cannot take them leaves it, and is blocked.

        System calls are most of what a fan-out costs, and the rest is what stands around each one:
        so a member whose state is known is sent to without being asked for it.

        Args:
            group: who gets the frames.
            start: the offset that they follow.
            frames: one for each item, empty where there is nothing to see.
            joined: the frames, if they are joined already.
        """
        if joined is None and sum(map(len, frames)) <= self.chunk:
            joined = b"".join(frames)
        for before, data in self._chunks(start, frames) if joined is None else [(start, joined)]:
            size = len(data)
            # Not over `items`, and no call in a loop: whoever keeps up is never named, so that
            # little of Python's comes into the processor's caches between two system calls.
            sockets = [*group.direct.values()] if data else []
            left, taken = iter(sockets), list[int]()
            while len(taken) < len(sockets):
                try:
                    taken.extend(map(_send, left, repeat(data)))
                except OSError:
                    # Full or broken: the transport knows what to do about either.
                    taken.append(0)
            rest = {}
            if taken.count(size) < len(taken):
                rest = {id: n for id, n in zip(group.direct, taken, strict=True) if n != size}
            asked = list(rest)
            if data and len(group.direct) < len(group.writers):
                asked += group.writers.keys() - group.direct.keys()
            for id in asked:
                writer: Any = group.writers[id]
                group.remove(id)
                if sent := rest.get(id, 0):
                    writer.finish(memoryview(data)[sent:])
                elif not writer.write(data):
                    self._block(id, before)
                    continue
                group.add(id, writer)

    def _block(self, id: str, offset: int) -> None:
        """Give a member that could not take what follows `offset` a cursor of its own there."""
        member = self._members[id]
        member.in_sync = None
        member.cursor = self.channel.subscribe(since=offset)
        member.writer.when_writable(lambda: self._resume(member))

    def _resume(self, member: _Member[I]) -> None:
        """Bring a member with a cursor of its own up to date, and in sync if it gets there."""
        if self._members.get(member.id) is not member or member.in_sync is not None:
            return
        if not self._catch_up(member):
            member.writer.when_writable(lambda: self._resume(member))
            return
        offset = member.cursor.offset
        groups = [
            group
            for group in self._groups
            if group.codec == member.codec and len(group.writers) < self.group
        ]
        in_sync = next((group for group in groups if group.cursor.offset == offset), None)
        if in_sync is None and groups:
            # Such a group has its turn soon, and is level with this member then.
            self._caught_up[member.id] = member
            return
        if in_sync is None:
            in_sync = _InSync(member.codec, self.channel.subscribe(since=offset))
            in_sync.served = self._sent
            self._groups.append(in_sync)
        member.cursor.close()
        member.in_sync, member.cursor = in_sync, in_sync.cursor
        in_sync.add(member.id, member.writer)

    def _catch_up(self, member: _Member[I]) -> bool:
        """Write to one member what is ready for it; return whether it has taken all of it."""
        codec, cursor = member.codec, member.cursor
        start = cursor.offset
        try:
            items = cursor.take_ready()
        except Lagged as lag:
            notice = text_frame(codec.missed(lag.skipped, cursor.offset))
            if not member.writer.write(notice):
                # Not told yet: stay where it was, and the count will be right when it is.
                cursor.offset = start
                return False
            start = cursor.offset
            items = cursor.take_ready()
        frames = _frames(codec, items)
        for index, item in enumerate(items):
            if item.origin == member.id:
                payload = codec.to_sender(item)
                frames[index] = text_frame(payload) if payload else b""
        for before, data in self._chunks(start, frames):
            if data and not member.writer.write(data):
                cursor.offset = before
                return False
        return True

    def _chunks(self, start: int, frames: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
        """Join frames into writes of about `chunk` bytes, each with the offset it follows."""
        first = size = 0
        for i, frame in enumerate(frames):
            if size and size + len(frame) > self.chunk:
                yield start + first, b"".join(frames[first:i])
                first, size = i, 0
            size += len(frame)
        yield start + first, b"".join(frames[first:])


def _frames(codec: Codec[I], items: list[I]) -> list[bytes]:
    """Return the frames of `items` for everybody, b"" where there is nothing to see."""
    frames = []
    for item in items:
        frame = item.frames.get(codec)
        if frame is None:
            payload = codec.encode(item)
            frame = item.frames[codec] = payload and text_frame(payload)
        frames.append(frame)
    return frames
