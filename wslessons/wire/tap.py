"""What the wire decoder reads through: raw bytes remembered, and bounded decompression.

Both stand between `wslessons.wire` and the sans-I/O parsers of `websockets`, which throw away what
a lesson wants to show: the header's bytes, the masking key, RSV1, the length on the wire.
"""

from __future__ import annotations

import struct
from collections.abc import Generator

from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import CTRL_OPCODES, Frame, Opcode
from websockets.streams import StreamReader
from websockets.typing import ExtensionName

from wslessons.wire.records import CLIENT_TO_SERVER, Direction, FrameRecord
from wslessons.wire.wording import hexadecimal, payload_text

__all__ = ["Inflate", "Side", "Tap"]

LARGEST_BUFFER = 2**20
"""The largest frame `websockets` takes by default; of a larger one only so many bytes are held."""

# Deflate makes at most 1,032 bytes of one, so this much input stays below 5 MiB of output.
_PIECE = 4096
RATE = 2**25
"""Bytes of one direction that are decompressed in a second, after a rest at once: that takes some
50 ms."""


class Tap:
    """The read side of one direction, for the parsers' `read_*` arguments.

    `taken` holds what the parser has read since `start`, one item a read, and `wanted` how many
    bytes its last `read_exact` asked for, which is more than it got where a frame is over
    `LARGEST_BUFFER`.
    """

    def __init__(self) -> None:
        self.reader = StreamReader()
        self.taken: list[bytes] = []
        self.wanted = 0

    def start(self) -> None:
        """Forget what was taken: something new begins."""
        self.taken.clear()

    def read_line(
        self, m: int, too_long: type[Exception] = RuntimeError
    ) -> Generator[None, None, bytes]:
        """Read a line of at most `m` bytes, as `StreamReader.read_line` does.

        Args:
            m: bytes, the line's end included.
            too_long: what is raised beyond that.

        Returns:
            The line.
        """
        line = bytes((yield from self.reader.read_line(m, too_long)))
        self.taken.append(line)
        return line

    def read_to_eof(
        self, m: int, too_long: type[Exception] = RuntimeError
    ) -> Generator[None, None, bytes]:
        """Read at most `m` bytes to the end, as `StreamReader.read_to_eof` does.

        Args:
            m: bytes.
            too_long: what is raised beyond that.

        Returns:
            What came.
        """
        data = bytes((yield from self.reader.read_to_eof(m, too_long)))
        self.taken.append(data)
        return data

    def read_exact(self, n: int) -> Generator[None, None, bytes]:
        """Read `n` bytes and return them, or only the first `LARGEST_BUFFER` of them.

        Args:
            n: bytes.

        Returns:
            The bytes that are kept.
        """
        self.wanted = n
        data = bytes((yield from self.reader.read_exact(min(n, LARGEST_BUFFER))))
        left = n - len(data)
        while left:
            if not self.reader.buffer:
                if self.reader.eof:
                    raise EOFError(f"stream ends {left} bytes before the frame does")
                yield
            skipped = min(left, len(self.reader.buffer))
            del self.reader.buffer[:skipped]
            left -= skipped
        self.taken.append(data)
        return data


class Inflate(Extension):
    """permessage-deflate for a bystander: decompress one direction in bounded memory (RFC 7692).

    The library's extension does the work, a piece of 4 KiB at a time, as though the sender had
    fragmented its message; `limit` bytes of the result are kept and `length` counts all of them.
    Time is bounded, too, by `RATE`: a megabyte of zeros travels as a kilobyte, and takes as long as
    any megabyte.

    Once part of a compressed frame was skipped the sender's window is unknown: `lost` says why, and
    payloads stay compressed from there on.

    Args:
        tap: the connection's.
        no_context_takeover: whether the sender begins each message with an empty window.
        limit: bytes of a message that are kept.
    """

    name = ExtensionName("permessage-deflate")

    def __init__(self, tap: Tap, *, no_context_takeover: bool, limit: int) -> None:
        # A window of 15 bits decompresses what a smaller one made, so the negotiated size is moot.
        # The local side never encodes; without context takeover it costs no memory either.
        self._inner = PerMessageDeflate(no_context_takeover, True, 15, 15)
        self._tap = tap
        self._limit = limit
        self.now = 0.0
        """Seconds, from whatever clock the bytes are stamped with."""
        self._budget, self._filled = float(RATE), 0.0
        self.compressed = False
        self.length = 0
        self.lost = ""

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        """Return `frame` with its payload decompressed; `limit` stands in for `max_size`."""
        is_continuation = frame.opcode is Opcode.CONT
        self.compressed = frame.opcode not in CTRL_OPCODES and (
            self._inner.decode_cont_data if is_continuation else frame.rsv1
        )
        self.length = self._tap.wanted
        if not self.compressed:
            return frame
        if self._tap.wanted > len(frame.data):
            self.lost = self.lost or "is over 1 MiB"
        data = None if self.lost else self._inflate(frame)
        if data is None:
            self._inner.decode_cont_data = not frame.fin
            self.length, data = self._tap.wanted, frame.data
        return Frame(frame.opcode, data, frame.fin, False, frame.rsv2, frame.rsv3)

    def _inflate(self, frame: Frame) -> bytes | None:
        """Return the beginning of the payload, or None once it takes too long."""
        rested = max(0.0, self.now - self._filled)
        self._budget, self._filled = min(RATE, self._budget + rested * RATE), self.now
        kept = bytearray()
        self.length = 0
        for start in range(0, len(frame.data) or 1, _PIECE):
            first, last = start == 0, start + _PIECE >= len(frame.data)
            piece = Frame(
                frame.opcode if first else Opcode.CONT,
                frame.data[start : start + _PIECE],
                frame.fin and last,
                frame.rsv1 and first,
            )
            data = self._inner.decode(piece).data
            self.length += len(data)
            kept += data[: self._limit - len(kept)]
            self._budget -= len(data)
            if self._budget < 0:
                self.lost = f"makes over {RATE >> 20} MiB a second"
                return None
        return bytes(kept)

    def encode(self, frame: Frame) -> Frame:
        """Refuse: a bystander sends nothing."""
        raise NotImplementedError("this side of the extension only decodes")


class Side(Tap):
    """One direction of a connection: its bytes, and how far the parser has come with them.

    Args:
        direction: which one.
    """

    def __init__(self, direction: Direction) -> None:
        super().__init__()
        self.direction: Direction = direction
        self.stage = "HTTP request" if direction == CLIENT_TO_SERVER else "HTTP response"
        self.inflate: Inflate | None = None
        self._message = Opcode.BINARY

    def frame_record(self, frame: Frame, time: float, max_payload: int) -> FrameRecord:
        """Return the record of the frame just read, complete at `time`.

        Args:
            frame: as the library has read it.
            time: seconds, by the clock of the other records.
            max_payload: bytes of its payload that are kept.

        Returns:
            The record.
        """
        # The parser reads the header in parts and the payload, empty or not, last.
        header = b"".join(self.taken[:-1])
        masked = bool(header[1] & 0x80)
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
            self._message = frame.opcode
        payload = bytes(frame.data[:max_payload])
        compressed = self.inflate is not None and self.inflate.compressed
        opaque = compressed and self.inflate is not None and self.inflate.lost != ""
        is_close = frame.opcode is Opcode.CLOSE and len(payload) >= 2
        return FrameRecord(
            direction=self.direction,
            time=time,
            opcode=frame.opcode.name,
            fin=frame.fin,
            rsv1=bool(header[0] & 0x40),
            rsv2=frame.rsv2,
            rsv3=frame.rsv3,
            masked=masked,
            masking_key=header[-4:] if masked else None,
            header=header,
            payload_length=self.wanted,
            payload=payload,
            data_length=self.inflate.length if self.inflate else self.wanted,
            compressed=compressed,
            text=hexadecimal(payload)
            if opaque
            else payload_text(frame.opcode, self._message, payload),
            close_code=struct.unpack("!H", payload[:2])[0] if is_close else None,
            close_reason=payload[2:].decode(errors="replace") if is_close else None,
        )
