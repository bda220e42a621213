"""What can go wrong on a TCP link, as switches: each is set for a direction and undone at will.

The ideas are Toxiproxy's toxics, and each method says which; the arguments carry the toxic's names
for them. Where they differ: times are seconds and rates bytes a second (Toxiproxy: milliseconds and
kilobytes), a stalled link keeps its bytes, and there is one fault of a kind in force a direction,
the one that was set last.

Not handled here: lost or reordered packets, which TCP hides from its users, and slow accepts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Self

from wslessons.wire import CLIENT_TO_SERVER, SERVER_TO_CLIENT, Direction

__all__ = ["Fault", "Faults", "Kind", "Way"]

Way = Literal["up", "down", "both"]
Kind = Literal["stall", "cut", "close_half", "delay", "throttle", "drop_after"]

_DIRECTIONS: dict[Way, tuple[Direction, ...]] = {
    "up": (CLIENT_TO_SERVER,),
    "down": (SERVER_TO_CLIENT,),
    "both": (CLIENT_TO_SERVER, SERVER_TO_CLIENT),
}


@dataclass(eq=False, slots=True)
class Fault:
    """A fault in force; `undo()` ends it, and so does leaving a `with` block around it.

    >>> link = Faults()
    >>> with link.stall("down"):
    ...     print(link.active)
    [<stall down>]
    >>> link.active
    []
    """

    kind: Kind
    way: Way
    latency: float = 0.0
    jitter: float = 0.0
    rate: float = 0.0
    limit: int = 0
    _owner: Faults | None = field(default=None, repr=False)

    @property
    def active(self) -> bool:
        """Whether it is in force in at least one direction."""
        return self._owner is not None and self in self._owner.active

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The directions it was set for, in the wire's terms."""
        return _DIRECTIONS[self.way]

    def undo(self) -> None:
        """End the fault at once; undoing it again, or one that was replaced, does nothing."""
        if self._owner is not None:
            self._owner._undo(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.undo()

    def __repr__(self) -> str:
        names = ("latency", "jitter", "rate", "limit")
        values = [f"{name}={getattr(self, name):g}" for name in names if getattr(self, name)]
        return f"<{' '.join([self.kind, self.way, *values])}>"


class Faults:
    """The faults in force, a set of switches; `wslessons.link.Link` obeys them.

    A direction is "up" (client to server), "down" (server to client) or "both". A fault holds for
    the connections there are and for new ones. Every method returns the `Fault`, to undo it by;
    call them on the thread of the link's event loop. A value that can't be raises
    `ValueError`.
    """

    def __init__(self) -> None:
        self._in_force: dict[Direction, dict[Kind, Fault]] = {
            CLIENT_TO_SERVER: {},
            SERVER_TO_CLIENT: {},
        }

    @property
    def active(self) -> list[Fault]:
        """The faults in force, each once, upward ones first."""
        found = [fault for table in self._in_force.values() for fault in table.values()]
        return list(dict.fromkeys(found))

    def fault(self, direction: Direction, kind: Kind) -> Fault | None:
        """Return the fault of this kind that is in force in `direction`, or None.

        Args:
            direction: up or down.
            kind: which one.

        Returns:
            The fault, or None.
        """
        return self._in_force[direction].get(kind)

    def heal(self) -> None:
        """Undo every fault."""
        for fault in self.active:
            fault.undo()

    def stall(self, direction: Way = "both") -> Fault:
        """Accept bytes and pass none on, nor a FIN or RST: the peer that vanished.

        Once the link's buffer is full it stops reading, so the sender feels backpressure. What was
        held goes on its way when the fault is undone. Toxiproxy's `timeout` with a timeout of 0.

        Args:
            direction: "up", "down" or "both".

        Returns:
            The fault, to undo it by.
        """
        return self._set(Fault("stall", direction))

    def cut(self) -> Fault:
        """Reset every connection: RST to both sides, and what is on its way is lost.

        A new connection is reset as well until the fault is undone. To break what is open and let
        the peers come back at once: ``link.cut().undo()``. Toxiproxy's `reset_peer`.
        """
        return self._set(Fault("cut", "both"))

    def close_half(self, direction: Way) -> Fault:
        """Send a FIN in `direction`, as though its sender were done; the other one stays open.

        What the link still holds for that direction, and all that comes later, is thrown away. A
        FIN can't be taken back: undoing spares new connections only. No toxic does this.

        Args:
            direction: "up", "down" or "both".

        Returns:
            The fault, to undo it by.
        """
        return self._set(Fault("close_half", direction))

    def delay(self, latency: float, jitter: float = 0.0, direction: Way = "both") -> Fault:
        """Hold what arrives for `latency` seconds, plus or minus up to `jitter`, in order.

        Each read of the link draws its own jitter from the link's random generator. A later read
        never overtakes an earlier one. Toxiproxy's `latency`.

        Args:
            latency: seconds.
            jitter: seconds; at most the latency.
            direction: "up", "down" or "both".

        Returns:
            The fault, to undo it by.
        """
        if not 0 <= jitter <= latency:
            raise ValueError("a delay needs 0 <= jitter <= latency, in seconds")
        return self._set(Fault("delay", direction, latency=latency, jitter=jitter))

    def throttle(self, rate: float, direction: Way = "both") -> Fault:
        """Pass on at most `rate` bytes a second on each connection. Toxiproxy's `bandwidth`.

        Args:
            rate: bytes a second.
            direction: "up", "down" or "both".

        Returns:
            The fault, to undo it by.
        """
        if not rate > 0:
            raise ValueError("a throttle needs a rate above 0 bytes a second; stall stops all")
        return self._set(Fault("throttle", direction, rate=rate))

    def drop_after(self, limit: int, direction: Way = "both") -> Fault:
        """Pass on `limit` more bytes on each connection, then cut it: RST to both sides.

        Counted in each direction by itself, from now on an open connection and from the start on a
        new one; exactly `limit` bytes leave the link, and byte `limit` + 1 never does. An RST may
        overtake what its receiver has not yet taken in, so at most `limit` bytes arrive, and all of
        them at a receiver that keeps up. Toxiproxy's `limit_data`, which ends with a FIN.

        Args:
            limit: bytes.
            direction: "up", "down" or "both".

        Returns:
            The fault, to undo it by.
        """
        if limit < 0:
            raise ValueError("drop_after needs a number of bytes, 0 or more")
        return self._set(Fault("drop_after", direction, limit=limit))

    def _set(self, fault: Fault) -> Fault:
        if fault.way not in _DIRECTIONS:
            raise ValueError(f'the direction is "up", "down" or "both", not {fault.way!r}')
        fault._owner = self
        for direction in fault.directions:
            self._in_force[direction][fault.kind] = fault
        self._changed(fault, began=True)
        return fault

    def _undo(self, fault: Fault) -> None:
        tables = [table for table in self._in_force.values() if table.get(fault.kind) is fault]
        for table in tables:
            del table[fault.kind]
        if tables:
            self._changed(fault, began=False)

    def _changed(self, fault: Fault, *, began: bool) -> None:
        """Take note, after the fact, that `fault` began or ended."""
