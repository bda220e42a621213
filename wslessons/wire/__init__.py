"""What a TCP connection carries, put into records: the HTTP upgrade, frames, ends and problems.

`Decoder` takes the bytes of one connection and gives the records of `wslessons.wire.records`.
"""

from wslessons.wire.decoder import Decoder
from wslessons.wire.records import (
    CLIENT_TO_SERVER,
    SERVER_TO_CLIENT,
    Direction,
    FrameRecord,
    HandshakeRequest,
    HandshakeResponse,
    Problem,
    Record,
    TransportEvent,
    TransportKind,
)

__all__ = [
    "CLIENT_TO_SERVER",
    "SERVER_TO_CLIENT",
    "Decoder",
    "Direction",
    "FrameRecord",
    "HandshakeRequest",
    "HandshakeResponse",
    "Problem",
    "Record",
    "TransportEvent",
    "TransportKind",
]
