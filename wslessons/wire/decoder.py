"""Decode what one TCP connection carries: the HTTP upgrade, then every WebSocket frame.

The parsers are those of `websockets` itself (sans-I/O), so you see here what the library sees.
Feed it bytes in any pieces; the records don't depend on where the stream was cut.

Not handled here: TLS, HTTP requests with a body, extensions other than permessage-deflate, and
rules that span frames (UTF-8 across fragments, a continuation without a beginning, the accept key).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator

from websockets.exceptions import ProtocolError
from websockets.frames import Close, Frame, Opcode
from websockets.headers import parse_extension
from websockets.http11 import Request, Response

from wslessons.wire.records import (
    CLIENT_TO_SERVER,
    SERVER_TO_CLIENT,
    Direction,
    HandshakeRequest,
    HandshakeResponse,
    Problem,
    Record,
    TransportEvent,
    TransportKind,
    held_bytes,
)
from wslessons.wire.tap import Inflate, Side
from wslessons.wire.wording import printable, problem_sentence

__all__ = ["Decoder"]

# What a client may send before the handshake's response, which it should wait for, in bytes.
_EARLY_LIMIT = 65_536


class Decoder:
    r"""The records of one TCP connection, made from its bytes in both directions.

    >>> decoder = Decoder()
    >>> request = b"GET /chat HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"
    >>> decoder.feed("client->server", request[:9], time=0.0)
    []
    >>> [record.text for record in decoder.feed("client->server", request[9:], time=0.1)]
    ['GET /chat']

    Up to 1 MiB is held in each direction for a frame that hasn't ended. Of a longer frame the
    beginning is shown. Nothing fed to it raises: what can't be decoded becomes a `Problem`, and the
    rest of that direction is skipped, since after one wrong byte nobody can tell where the next
    frame begins.

    Args:
        keep: how many records are kept, the newest.
        max_payload: bytes of payload that each record holds at most.
    """

    def __init__(self, *, keep: int = 1000, max_payload: int = 65_536) -> None:
        self.records: deque[Record] = deque()
        self.total = 0
        """Records made so far, those no longer kept included."""
        self.held = 0
        """Bytes of headers and payloads in the records that are kept."""
        self._keep = keep
        self._new: list[Record] = []
        self._max_payload = max_payload
        self._time = 0.0
        self._upgrade_asked = self._response_due = self._switched = self._client_turn = False
        up, down = Side(CLIENT_TO_SERVER), Side(SERVER_TO_CLIENT)
        self._sides = {CLIENT_TO_SERVER: up, SERVER_TO_CLIENT: down}
        # The response decides what the client's next bytes are, so the server's side runs first.
        self._parsers = {
            SERVER_TO_CLIENT: self._responses(down),
            CLIENT_TO_SERVER: self._requests(up),
        }

    def feed(self, direction: Direction, data: bytes, time: float) -> list[Record]:
        """Take the next bytes of a direction.

        Args:
            direction: who sent them.
            data: any piece of the stream.
            time: when they were seen, in seconds.

        Returns:
            The new records.
        """
        reader = self._sides[direction].reader
        if direction in self._parsers and not reader.eof:
            reader.feed_data(data)
        self._run(time)
        return self._take_new()

    def feed_eof(self, direction: Direction, time: float) -> list[Record]:
        """Take a FIN.

        Args:
            direction: the one that carries nothing any more.
            time: when it was seen, in seconds.

        Returns:
            The new records.
        """
        if not self._sides[direction].reader.eof:
            self._sides[direction].reader.feed_eof()
        self._run(time)
        who = direction.partition("->")[0]
        return self.add_event(direction, time, "FIN", f"The {who} closed its sending side.")

    def add_event(
        self, direction: Direction, time: float, event: TransportKind, text: str
    ) -> list[Record]:
        """Add a record of what happened to the connection itself.

        Args:
            direction: whose.
            time: when it happened, in seconds.
            event: which.
            text: a sentence about it.

        Returns:
            The new records.
        """
        self._add(TransportEvent(direction, time, event, text))
        return self._take_new()

    def forget_oldest(self) -> None:
        """Keep the oldest record no longer."""
        self.held -= held_bytes(self.records.popleft())

    def _add(self, record: Record) -> None:
        self.records.append(record)
        self.held += held_bytes(record)
        self.total += 1
        if len(self.records) > self._keep:
            self.forget_oldest()
        self._new.append(record)

    def _take_new(self) -> list[Record]:
        new, self._new = self._new, []
        return new

    def _run(self, time: float) -> None:
        self._time = time
        for side in self._sides.values():
            if side.inflate:
                side.inflate.now = time
        self._client_turn = True
        while self._client_turn:
            self._client_turn = False
            for direction in list(self._parsers):
                self._advance(direction)

    def _advance(self, direction: Direction) -> None:
        side = self._sides[direction]
        try:
            next(self._parsers[direction])
            return
        except StopIteration:
            pass
        except Exception as exc:  # whatever a peer sends, the link must go on
            data = b"".join(side.taken) or bytes(side.reader.buffer[:64])
            eof = side.reader.eof
            self._problem(side, problem_sentence(direction, side.stage, exc, data, eof=eof), data)
        del self._parsers[direction]
        side.reader.discard()

    def _problem(self, side: Side, text: str, data: bytes = b"") -> None:
        self._add(Problem(side.direction, self._time, printable(text, 400), data[:64]))

    def _requests(self, side: Side) -> Generator[None, None, None]:
        while not self._switched:
            side.start()
            if (yield from side.reader.at_eof()):
                return
            request = yield from Request.parse(side.read_line)
            headers, raw = tuple(request.headers.raw_items()), b"".join(side.taken)
            self._add(
                HandshakeRequest(
                    side.direction, self._time, request.method, request.path, headers, raw
                )
            )
            upgrades = request.headers.get_all("Upgrade")
            self._upgrade_asked = any("websocket" in value.lower() for value in upgrades)
            if not self._upgrade_asked:
                plain = "This request asks for no upgrade to WebSocket: it is plain HTTP."
                self._problem(side, plain, raw)
            self._response_due = True
            side.start()
            while self._response_due and not self._switched:
                if len(side.reader.buffer) > _EARLY_LIMIT:
                    raise ProtocolError("the client did not wait for the server's response")
                yield
        yield from self._frames(side)

    def _responses(self, side: Side) -> Generator[None, None, None]:
        while not self._switched:
            side.start()
            if (yield from side.reader.at_eof()):
                return
            parser = Response.parse(side.read_line, side.read_exact, side.read_to_eof)
            response = yield from parser
            raw = b"".join(side.taken[: side.taken.index(b"\r\n") + 1])
            status, reason = response.status_code, response.reason_phrase
            self._add(
                HandshakeResponse(
                    side.direction,
                    self._time,
                    status,
                    reason,
                    tuple(response.headers.raw_items()),
                    bytes(response.body[: self._max_payload]),
                    len(response.body),
                    raw,
                )
            )
            if status == 101:
                self._switched = True
                self._negotiate(response.headers.get_all("Sec-WebSocket-Extensions"))
            elif status >= 200:
                self._response_due = False
                if self._upgrade_asked:
                    refusal = (
                        f"The server answered {status} {reason} and not 101: no WebSocket opens."
                    )
                    self._problem(side, refusal, raw)
            # Else the order of records would depend on whether more bytes came with the response.
            self._client_turn = True
            yield
        yield from self._frames(side)

    def _negotiate(self, extensions: list[str]) -> None:
        for name, parameters in (item for value in extensions for item in parse_extension(value)):
            if name == Inflate.name:
                for side in self._sides.values():
                    who = side.direction.partition("->")[0]
                    reset = (f"{who}_no_context_takeover", None) in parameters
                    side.inflate = Inflate(side, no_context_takeover=reset, limit=self._max_payload)

    def _frames(self, side: Side) -> Generator[None, None, None]:
        side.stage = "frame"
        extensions = [side.inflate] if side.inflate else []
        while True:
            side.start()
            if (yield from side.reader.at_eof()):
                return
            was_lost = side.inflate.lost if side.inflate else ""
            frame = yield from Frame.parse(
                side.read_exact, mask=side.direction == CLIENT_TO_SERVER, extensions=extensions
            )
            self._add(side.frame_record(frame, self._time, self._max_payload))
            if side.inflate and side.inflate.lost and not was_lost:
                lost = f"This compressed frame {side.inflate.lost}"
                self._problem(side, f"{lost}: payloads stay compressed from here on.")
            if frame.opcode is Opcode.CLOSE:
                try:
                    Close.parse(bytes(frame.data))
                except (ProtocolError, UnicodeDecodeError) as exc:
                    wrong = f"This close frame's payload is wrong: {exc} (RFC 6455, section 7.4)."
                    self._problem(side, wrong, bytes(frame.data))
