"""What a TCP connection carried, one frozen record a thing: handshake, frames, ends, problems.

`wslessons.wire.Decoder` makes these from bytes. Every record has `direction`, `time` (seconds, from
whatever clock the bytes were stamped with; the moment of the record's last byte) and `text`, one
short line that is safe to print: control characters and bidirectional overrides are shown as
escapes, not executed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wslessons.wire.wording import printable

__all__ = [
    "CLIENT_TO_SERVER",
    "SERVER_TO_CLIENT",
    "Direction",
    "FrameRecord",
    "HandshakeRequest",
    "HandshakeResponse",
    "Problem",
    "Record",
    "TransportEvent",
    "TransportKind",
    "held_bytes",
]

Direction = Literal["client->server", "server->client"]
CLIENT_TO_SERVER: Direction = "client->server"
SERVER_TO_CLIENT: Direction = "server->client"

TransportKind = Literal["FIN", "RST", "REFUSED", "CUT", "FAULT"]


class _Head:
    """The head of an HTTP message."""

    __slots__ = ()
    headers: tuple[tuple[str, str], ...]

    def header(self, name: str) -> str | None:
        """Look up the first header of a name.

        Args:
            name: in any case.

        Returns:
            Its value; None where there is none.
        """
        values = (value for key, value in self.headers if key.lower() == name.lower())
        return next(values, None)


@dataclass(frozen=True, slots=True)
class HandshakeRequest(_Head):
    """The client's HTTP request, normally the opening handshake (RFC 6455, section 4.1)."""

    direction: Direction
    time: float
    method: str
    path: str
    """The request target: path and query, as sent."""
    headers: tuple[tuple[str, str], ...]
    """(name, value) in the order sent; a name may come more than once."""
    raw: bytes
    """The request exactly as it was on the wire, empty line included."""

    @property
    def text(self) -> str:
        """The request line without the HTTP version."""
        return printable(f"{self.method} {self.path}")


@dataclass(frozen=True, slots=True)
class HandshakeResponse(_Head):
    """The server's HTTP response: 101 opens the WebSocket (section 4.2.2), all others refuse it."""

    direction: Direction
    time: float
    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    """(name, value) in the order sent; a name may come more than once."""
    body: bytes
    """Empty for 101; the page or sentence of a refusal, cut at the decoder's `max_payload`."""
    body_length: int
    """The body's whole length in bytes, also where `body` is cut."""
    raw: bytes
    """Status line and headers exactly as they were on the wire, empty line included."""

    @property
    def text(self) -> str:
        """The status, and how a refusal's body begins."""
        body = f": {self.body[:80].decode(errors='replace')}" if self.body else ""
        return printable(f"{self.status} {self.reason}{body}")


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """One WebSocket frame (RFC 6455, section 5.2)."""

    direction: Direction
    time: float
    opcode: str
    """CONT, TEXT, BINARY, CLOSE, PING or PONG."""
    fin: bool
    """Whether this frame is its message's last (section 5.4)."""
    rsv1: bool
    """With permessage-deflate: this frame starts a compressed message (RFC 7692, section 6)."""
    rsv2: bool
    rsv3: bool
    masked: bool
    masking_key: bytes | None
    """Four bytes from a client, None from a server (section 5.3)."""
    header: bytes
    """The frame's first bytes exactly as they were on the wire, masking key included."""
    payload_length: int
    """Bytes of payload on the wire, that is, before any decompression."""
    payload: bytes
    """Unmasked and decompressed, cut at the decoder's `max_payload`."""
    data_length: int
    """Bytes of payload after decompression, also where `payload` is cut."""
    compressed: bool
    """Whether the payload belongs to a compressed message; continuations don't carry RSV1."""
    text: str
    """The payload in one short line: escaped text, hexadecimal, or a close's code and reason."""
    close_code: int | None = None
    """The status code of a CLOSE frame, None where it has none (section 7.1.5 calls that 1005)."""
    close_reason: str | None = None

    @property
    def header_length(self) -> int:
        """Bytes before the payload: 2, 4 or 10, and 4 more for the masking key."""
        return len(self.header)

    @property
    def wire_length(self) -> int:
        """Bytes of the whole frame on the wire."""
        return len(self.header) + self.payload_length


@dataclass(frozen=True, slots=True)
class Problem:
    """Bytes that don't follow the protocol, in one sentence; they were passed on all the same."""

    direction: Direction
    time: float
    text: str
    data: bytes = b""
    """The first of the bytes in question, at most 64, where there are any."""


@dataclass(frozen=True, slots=True)
class TransportEvent:
    """Something that TCP or the link did in `direction`, outside WebSocket's view (section 7.1.1).

    FIN: this direction's sender is done. RST: it broke off. REFUSED: the target can't be reached.
    CUT: the link broke the connection. FAULT: the link began or ceased to disturb this direction.
    """

    direction: Direction
    time: float
    event: TransportKind
    text: str


Record = HandshakeRequest | HandshakeResponse | FrameRecord | Problem | TransportEvent


def held_bytes(record: Record) -> int:
    """Return how many bytes of what was on the wire `record` holds, headers and payload.

    Args:
        record: of either kind.

    Returns:
        The bytes.
    """
    match record:
        case HandshakeRequest():
            return len(record.raw)
        case HandshakeResponse():
            return len(record.raw) + len(record.body)
        case FrameRecord():
            return len(record.header) + len(record.payload)
        case Problem():
            return len(record.data)
        case TransportEvent():
            return 0
