"""Who is on which server, so that a server that was killed leaves no ghosts.

Each server lets the others know who comes and goes (`PresenceChange`), and every `beat` seconds all
its members again (`Beat`): what got lost is put right, and a server that has just started knows all
within one beat. A server of which nothing comes for three beats counts as gone, with its members
(`NodeDown`). It may only have been cut off: if something comes again its members are back
(`NodeUp`).

A server that is cut off from the broker itself counts nobody as gone: it could not know.

Not handled here: names beyond the first hundred of a server in a room; they only count.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from wslessons.chat.rules import clean_name
from wslessons.scaling.bus.bus import Recent
from wslessons.scaling.bus.items import Beat, Members, NodeDown, NodeUp, Occupancy, PresenceChange

__all__ = ["NAMES", "Peer", "Presence"]

NAMES = 100
"""Names of one server's members in one room that others get."""
PART = 200
"""Rooms in one part of a beat."""
BEATS = 3
"""Beats that may be missing before a server counts as gone."""
PEERS = 1000
"""Other servers that are remembered."""
PEER_ROOMS = 20_000
"""Rooms of another server that are remembered."""


class Peer:
    """What is known of another server."""

    def __init__(self) -> None:
        self.last_seen = time.monotonic()
        self.rooms: dict[str, Occupancy] = {}
        self.down = False
        self._beat = 0
        self._parts: dict[int, set[str]] = {}
        """The rooms in each part of its newest beat that has arrived."""

    def take(self, beat: Beat) -> bool:
        """Take in a part of a beat; return whether all parts of it have arrived now.

        Args:
            beat: the part.

        Returns:
            Whether they have.
        """
        if beat.number < self._beat:
            return False  # it was long under way
        if beat.number > self._beat:
            self._beat, self._parts = beat.number, {}
        self._parts[beat.part] = set(beat.rooms)
        for room, there in beat.rooms.items():
            there.members = {id: name for id, name in there.members.items() if _is_name(name)}
            self.rooms[room] = there
        while len(self.rooms) > PEER_ROOMS:
            del self.rooms[next(iter(self.rooms))]
        if len(self._parts) < beat.parts:
            return False
        # Only now: what is in a part that was lost is not gone.
        for room in self.rooms.keys() - set().union(*self._parts.values()):
            del self.rooms[room]
        return True

    def named(self) -> dict[str, Members]:
        """Return its members by room, those whose names we have."""
        return {room: dict(each.members) for room, each in self.rooms.items() if each.members}


class Presence:
    """The members of this server, and what is known of the others'.

    Args:
        node: this server.
        beat: seconds between two signs of life.
    """

    def __init__(self, node: str, beat: float) -> None:
        self.node, self.beat = node, beat
        self.mine: dict[str, Members] = {}
        """This server's members, by room."""
        self.peers: Recent[Peer] = Recent(PEERS)
        self._born = time.monotonic()
        self._number = 0

    @property
    def age(self) -> float:
        """Seconds since this server began to listen."""
        return time.monotonic() - self._born

    def enter(self, room: str, connection: str, name: str) -> PresenceChange:
        """Add somebody here; return what to announce.

        Args:
            room: the room's path.
            connection: the id.
            name: what the others call them.

        Returns:
            The part of a message.
        """
        self.mine.setdefault(room, {})[connection] = name
        return PresenceChange(self.node, room, connection, name)

    def leave(self, room: str, connection: str) -> PresenceChange:
        """Remove somebody here; return what to announce.

        Args:
            room: the room's path.
            connection: the id.

        Returns:
            The part of a message.
        """
        members = self.mine.get(room, {})
        members.pop(connection, None)
        if not members:
            self.mine.pop(room, None)
        return PresenceChange(self.node, room, connection)

    def members(self, room: str) -> tuple[Members, int]:
        """Return who is in `room` on other servers: some by connection id, and how many.

        Args:
            room: the room's path.

        Returns:
            Names by connection id, and the count.
        """
        members: Members = {}
        count = 0
        for peer in self.peers.values():
            if not peer.down and (there := peer.rooms.get(room)):
                members |= there.members
                count += there.count
        return members, count

    def beats(self, seq: int, *, ask: bool = False) -> Iterator[Beat]:
        """Build this server's sign of life, in parts.

        Args:
            seq: the sequence number of its newest event.
            ask: whether to ask the others for theirs.

        Yields:
            The parts, of which the last asks.
        """
        self._number += 1
        rooms = list(self.mine)
        parts = [rooms[i : i + PART] for i in range(0, len(rooms), PART)] or [[]]
        for part, names in enumerate(parts, 1):
            there = {room: self._occupancy(room) for room in names}
            asks = ask and part == len(parts)
            yield Beat(self.node, there, self._number, seq, part, len(parts), asks)

    def farewell(self, seq: int) -> Beat:
        """Return what to say on stopping; `seq` as for `beats`.

        Args:
            seq: the sequence number of its newest event.

        Returns:
            The beat.
        """
        return Beat(self.node, {}, self._number + 1, seq, gone=True)

    def take_sign(self, node: str) -> Peer:
        """Take note of a sign of life, of whatever kind.

        Args:
            node: whose sign it is.

        Returns:
            What is known of that server.
        """
        peer = self.peers[node] = self.peers.get(node) or Peer()
        peer.last_seen = time.monotonic()
        return peer

    def take_beat(self, beat: Beat) -> NodeDown | NodeUp | None:
        """Take another server's beat; return what it means for its members, if anything.

        Args:
            beat: the part that came.

        Returns:
            The item for readers, if any.
        """
        peer = self.take_sign(beat.node)
        if beat.gone:
            del self.peers[beat.node]
            return None if peer.down else NodeDown(beat.node, peer.named())
        if peer.take(beat) and peer.down:
            peer.down = False
            return NodeUp(beat.node, peer.named())
        return None

    def take_change(self, change: PresenceChange) -> None:
        """Take note that somebody came or went on another server.

        Args:
            change: which came.
        """
        rooms = self.take_sign(change.node).rooms
        if change.room not in rooms and len(rooms) >= PEER_ROOMS:
            return
        there = rooms.setdefault(change.room, Occupancy({}, 0))
        if not change.name:
            there.members.pop(change.connection, None)
            there.count = max(0, there.count - 1)
        elif change.connection not in there.members:
            there.count += 1
            if len(there.members) < NAMES and _is_name(change.name):
                there.members[change.connection] = change.name

    def expired(self) -> Iterator[NodeDown]:
        """Return the servers that have just been silent for too long."""
        limit = time.monotonic() - BEATS * self.beat
        for node, peer in list(self.peers.items()):
            if peer.last_seen < limit and not peer.down:
                peer.down = True
                yield NodeDown(node, peer.named())
                # It is remembered, since it may come back after any time; who was there is not.
                peer.rooms.clear()

    def postpone(self) -> None:
        """Give all that count as alive their full time again: theirs could not reach us."""
        now = time.monotonic()
        for peer in self.peers.values():
            if not peer.down:
                peer.last_seen = now

    def _occupancy(self, room: str) -> Occupancy:
        members = self.mine[room]
        first = dict(pair for pair, _ in zip(members.items(), range(NAMES), strict=False))
        return Occupancy(first, len(members))


def _is_name(text: str) -> bool:
    """Return whether somebody may be called so: no other name from elsewhere is shown."""
    try:
        return clean_name(text) == text
    except ValueError:
        return False
