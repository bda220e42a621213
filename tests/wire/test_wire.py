"""The wire decoder: any bytes in any pieces, and the records that must come of them."""

from __future__ import annotations

import itertools
import struct
import zlib
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from wslessons.wire import (
    CLIENT_TO_SERVER,
    SERVER_TO_CLIENT,
    Decoder,
    Direction,
    FrameRecord,
    HandshakeRequest,
    HandshakeResponse,
    Problem,
    Record,
    TransportEvent,
)
from wslessons.wire.tap import Inflate, Tap

REQUEST = (
    b"GET /chat?room=1 HTTP/1.1\r\nHost: example.org\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n\r\n"
)
RESPONSE = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate"
Chunk = tuple[Direction, bytes]


def response(extension: bytes = b"") -> bytes:
    """Return a 101 response, with one more header line if given."""
    return RESPONSE[:-2] + extension + b"\r\n\r\n" if extension else RESPONSE


def wire_frame(
    opcode: int, payload: bytes, *, key: bytes | None = None, fin: bool = True, rsv: int = 0
) -> bytes:
    """Serialize a frame after RFC 6455, section 5.2, independently of the code under test."""
    length = len(payload)
    mask_bit = 0x80 if key else 0
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if length < 126:
        head += bytes([mask_bit | length])
    elif length < 65536:
        head += struct.pack("!BH", mask_bit | 126, length)
    else:
        head += struct.pack("!BQ", mask_bit | 127, length)
    if key is None:
        return head + payload
    return head + key + bytes(b ^ k for b, k in zip(payload, itertools.cycle(key), strict=False))


def decode(chunks: list[Chunk], **options: int) -> list[Record]:
    """Return the records of `chunks`, all seen at the same time."""
    decoder = Decoder(**options)
    return [record for way, data in chunks for record in decoder.feed(way, data, 1.0)]


def after_handshake(*chunks: Chunk, extension: bytes = b"", **options: int) -> list[Record]:
    """Return the records of `chunks` after an opening handshake."""
    opening = [(CLIENT_TO_SERVER, REQUEST), (SERVER_TO_CLIENT, response(extension))]
    return decode([*opening, *chunks], **options)[2:]


def compressed_frame(sender: PerMessageDeflate, opcode: Opcode, data: bytes) -> bytes:
    """Return a server's frame with `data` compressed by the library."""
    return wire_frame(opcode, bytes(sender.encode(Frame(opcode, data)).data), rsv=4)


def one_frame(*chunks: Chunk) -> FrameRecord:
    """Return the only record of `chunks`, which must be a frame."""
    (record,) = after_handshake(*chunks)
    assert isinstance(record, FrameRecord)
    return record


def test_handshake_is_read_with_method_path_status_and_headers():
    """The upgrade becomes a request and a response with all that was on the wire."""
    request, answer = decode([(CLIENT_TO_SERVER, REQUEST), (SERVER_TO_CLIENT, RESPONSE)])
    assert isinstance(request, HandshakeRequest)
    assert (request.method, request.path, request.time) == ("GET", "/chat?room=1", 1.0)
    assert request.headers[0] == ("Host", "example.org")
    assert request.header("sec-websocket-version") == "13"
    assert request.header("Origin") is None
    assert request.raw == REQUEST
    assert request.text == "GET /chat?room=1"
    assert isinstance(answer, HandshakeResponse)
    assert (answer.status, answer.reason, answer.body) == (101, "Switching Protocols", b"")
    assert answer.raw == RESPONSE
    assert answer.text == "101 Switching Protocols"


def test_client_frame_shows_key_header_and_unmasked_payload():
    """RFC 6455's own example, a masked "Hello", is shown field by field (section 5.7)."""
    data = bytes.fromhex("818537fa213d7f9f4d5158")
    frame = one_frame((CLIENT_TO_SERVER, data))
    assert frame == FrameRecord(
        direction=CLIENT_TO_SERVER,
        time=1.0,
        opcode="TEXT",
        fin=True,
        rsv1=False,
        rsv2=False,
        rsv3=False,
        masked=True,
        masking_key=bytes.fromhex("37fa213d"),
        header=data[:6],
        payload_length=5,
        payload=b"Hello",
        data_length=5,
        compressed=False,
        text="Hello",
    )
    assert (frame.header_length, frame.wire_length) == (6, 11)


@pytest.mark.parametrize(
    ("size", "header_length"), [(0, 2), (125, 2), (126, 4), (65535, 4), (65536, 10)]
)
def test_header_length_follows_the_payload_length(size: int, header_length: int):
    """Lengths of 7, 16 and 64 bits take headers of 2, 4 and 10 bytes."""
    frame = one_frame((SERVER_TO_CLIENT, wire_frame(2, bytes(size))))
    assert (frame.header_length, frame.payload_length) == (header_length, size)
    assert frame.payload == bytes(size)


def test_close_frame_shows_code_and_reason():
    """A CLOSE's payload is taken apart; an empty one has neither code nor reason."""
    payload = struct.pack("!H", 1001) + "tschüß".encode()
    full, empty = after_handshake(
        (SERVER_TO_CLIENT, wire_frame(8, payload)),
        (CLIENT_TO_SERVER, wire_frame(8, b"", key=b"abcd")),
    )
    assert isinstance(full, FrameRecord)
    assert isinstance(empty, FrameRecord)
    assert (full.close_code, full.close_reason) == (1001, "tschüß")
    assert full.text == "1001 (going away) tschüß"
    assert (empty.close_code, empty.close_reason, empty.text) == (None, None, "")


@pytest.mark.parametrize("payload", [b"\x03", struct.pack("!H", 1006), b"\x03\xe8\xff"])
def test_wrong_close_payload_is_a_frame_and_a_problem(payload: bytes):
    """A close code that must not be sent, half a code and a broken reason are each named."""
    frame, problem, after = after_handshake(
        (SERVER_TO_CLIENT, wire_frame(8, payload) + wire_frame(9, b"still decoded"))
    )
    assert isinstance(frame, FrameRecord)
    assert isinstance(problem, Problem)
    assert "close frame's payload is wrong" in problem.text
    assert after.text == "still decoded"


@pytest.mark.parametrize(
    ("opcode", "payload", "text"),
    [
        (1, b"a\x1b[31m\r\nb", r"a\x1b[31m\r\nb"),
        (1, "\u202egnp.exe\u2066".encode(), r"\u202egnp.exe\u2066"),
        (1, b"<b>&amp;", "<b>&amp;"),
        (1, b"\xff\xfe", "\ufffd\ufffd"),
        (2, b"\x00\xffA", "00 ff 41"),
        (9, b"beat 7", "beat 7"),
        (10, b"\x01\x02", "01 02"),
        (1, b"x" * 500, "x" * 79 + "…"),
        (2, b"\0" * 500, "00 " * 26 + "0…"),
    ],
)
def test_text_is_one_short_line_that_is_safe_to_print(opcode: int, payload: bytes, text: str):
    """Control characters and overrides come as escapes, binary as hexadecimal, all cut at 80."""
    frame = one_frame((SERVER_TO_CLIENT, wire_frame(opcode, payload)))
    assert frame.text == text
    assert len(frame.text) <= 80


def test_continuation_is_shown_like_its_message():
    """A CONT of a text is shown as text, and one of a binary message as hexadecimal."""
    records = after_handshake(
        (SERVER_TO_CLIENT, wire_frame(1, b"ab", fin=False) + wire_frame(0, b"cd")),
        (SERVER_TO_CLIENT, wire_frame(2, b"ab", fin=False) + wire_frame(0, b"cd")),
    )
    assert [record.text for record in records] == ["ab", "cd", "61 62", "63 64"]


def test_frames_right_behind_the_response_are_decoded():
    """A server may send its first frame in the same segment as the 101."""
    records = decode(
        [(CLIENT_TO_SERVER, REQUEST), (SERVER_TO_CLIENT, RESPONSE + wire_frame(1, b"hello"))]
    )
    assert records[-1].text == "hello"


def test_client_that_sends_before_the_response_is_decoded_after_it():
    """Early frames wait for the response, which says how they are to be read."""
    early = wire_frame(1, b"early", key=b"abcd")
    decoder = Decoder()
    assert len(decoder.feed(CLIENT_TO_SERVER, REQUEST + early, 0.0)) == 1
    answer, frame = decoder.feed(SERVER_TO_CLIENT, RESPONSE, 2.0)
    assert isinstance(answer, HandshakeResponse)
    assert (frame.text, frame.time) == ("early", 2.0)


def test_compressed_message_shows_rsv1_wire_length_and_plain_payload():
    """permessage-deflate is undone, across messages too, while RSV1 and the wire's length stay."""
    sender = PerMessageDeflate(False, False, 15, 15)
    data = b""
    for text in (b"the same text " * 20, b"the same text " * 20):
        data += compressed_frame(sender, Opcode.TEXT, text)
    first, second = after_handshake((SERVER_TO_CLIENT, data), extension=DEFLATE)
    assert isinstance(first, FrameRecord)
    assert isinstance(second, FrameRecord)
    assert first.payload == second.payload == b"the same text " * 20
    assert first.rsv1
    assert first.compressed
    assert first.data_length == 280
    assert second.payload_length < first.payload_length < 280


def test_inflated_payload_is_cut_and_later_messages_are_not_lost():
    """A bomb costs `max_payload` bytes of memory, and the next message still decompresses."""
    sender = PerMessageDeflate(False, False, 15, 15)
    bomb = compressed_frame(sender, Opcode.BINARY, bytes(20_000_000))
    after = compressed_frame(sender, Opcode.TEXT, b"fine")
    first, second = after_handshake(
        (SERVER_TO_CLIENT, bomb + after), extension=DEFLATE, max_payload=1000
    )
    assert isinstance(first, FrameRecord)
    assert (first.payload, first.data_length) == (bytes(1000), 20_000_000)
    assert second.text == "fine"


def test_inflating_holds_no_more_than_its_limit():
    """What is over the limit is counted and thrown away while it is decompressed."""
    sender = PerMessageDeflate(False, False, 15, 15)
    squeezed = bytes(sender.encode(Frame(Opcode.BINARY, bytes(20_000_000))).data)
    tap = Tap()
    tap.wanted = len(squeezed)
    inflate = Inflate(tap, no_context_takeover=False, limit=10)
    frame = inflate.decode(Frame(Opcode.BINARY, squeezed, rsv1=True))
    assert (len(frame.data), inflate.length) == (10, 20_000_000)


def inflating() -> tuple[Decoder, PerMessageDeflate]:
    """Return a decoder after a handshake with compression, and what compresses for it."""
    decoder = Decoder()
    decoder.feed(CLIENT_TO_SERVER, REQUEST, 0.0)
    decoder.feed(SERVER_TO_CLIENT, response(DEFLATE), 0.0)
    return decoder, PerMessageDeflate(False, False, 15, 15)


def test_decompressing_costs_bounded_time():
    """Of one direction 32 MiB are decompressed in a second; what makes more stays compressed."""
    decoder, sender = inflating()
    bombs = [compressed_frame(sender, Opcode.BINARY, bytes(2**20)) for _ in range(40)]
    frames = decoder.feed(SERVER_TO_CLIENT, b"".join(bombs) + wire_frame(1, b"plain"), 1.0)
    (problem,) = [record for record in frames if isinstance(record, Problem)]
    assert problem.text == (
        "This compressed frame makes over 32 MiB a second: payloads stay compressed from here on."
    )
    *binary, last = [record for record in frames if isinstance(record, FrameRecord)]
    assert all(record.compressed for record in binary)
    inflated = [record for record in binary if record.data_length == 2**20]
    assert (len(binary), len(inflated)) == (40, 32)
    assert last.text == "plain"


def test_what_comes_at_its_pace_is_decompressed_without_end():
    """However well it compresses and however long it goes on."""
    decoder, sender = inflating()
    for second in range(1, 6):
        for part in range(20):
            data = compressed_frame(sender, Opcode.BINARY, bytes(2**20))
            (record,) = decoder.feed(SERVER_TO_CLIENT, data, second + part / 20)
            assert isinstance(record, FrameRecord)
            assert record.data_length == 2**20


def test_compressed_frame_over_the_limit_is_named_once_and_framing_goes_on():
    """Past 1 MiB of compressed frame, payloads stay compressed: one problem says so."""
    huge = wire_frame(2, bytes(2**20 + 1), rsv=4)
    after = wire_frame(1, b"\x01\x02", rsv=4)
    first, problem, second, third = after_handshake(
        (SERVER_TO_CLIENT, huge + after + wire_frame(1, b"plain")), extension=DEFLATE
    )
    assert isinstance(first, FrameRecord)
    assert first.payload_length == 2**20 + 1
    assert isinstance(problem, Problem)
    assert "over 1 MiB" in problem.text
    assert isinstance(second, FrameRecord)
    assert second.compressed
    assert second.text == "01 02"
    assert third.text == "plain"


@pytest.mark.parametrize(
    ("direction", "data", "says"),
    [
        (CLIENT_TO_SERVER, wire_frame(1, b"no mask"), "a client masks every frame"),
        (SERVER_TO_CLIENT, wire_frame(1, b"mask", key=b"abcd"), "a server none"),
        (SERVER_TO_CLIENT, wire_frame(3, b""), "opcode is a reserved one"),
        (SERVER_TO_CLIENT, wire_frame(1, b"", rsv=4), "reserved bits"),
        (SERVER_TO_CLIENT, wire_frame(9, bytes(126)), "at most 125 bytes"),
        (SERVER_TO_CLIENT, wire_frame(9, b"", fin=False), "can't be fragmented"),
    ],
)
def test_protocol_error_is_one_sentence_and_the_other_direction_goes_on(
    direction: Direction, data: bytes, says: str
):
    """Each broken rule of section 5 is named; what follows in that direction is skipped."""
    ping = {
        CLIENT_TO_SERVER: wire_frame(9, b"up", key=b"abcd"),
        SERVER_TO_CLIENT: wire_frame(9, b"down"),
    }
    other = SERVER_TO_CLIENT if direction == CLIENT_TO_SERVER else CLIENT_TO_SERVER
    problem, frame = after_handshake(
        (direction, data), (direction, ping[direction]), (other, ping[other])
    )
    assert isinstance(problem, Problem)
    assert problem.direction == direction
    assert says in problem.text
    assert problem.data
    assert data.startswith(problem.data)
    assert isinstance(frame, FrameRecord)
    assert frame.direction == other


def test_bad_deflate_data_is_a_problem():
    """A payload that can't be decompressed is named."""
    (problem,) = after_handshake(
        (SERVER_TO_CLIENT, wire_frame(1, b"\xff" * 30, rsv=4)), extension=DEFLATE
    )
    assert isinstance(problem, Problem)
    assert "can't be decompressed" in problem.text


def test_rejection_is_response_body_and_problem():
    """A 4xx to a handshake is decoded with its body, and said to open no WebSocket."""
    refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 8\r\n\r\nGo home\n"
    _, answer, problem = decode([(CLIENT_TO_SERVER, REQUEST), (SERVER_TO_CLIENT, refusal)])
    assert isinstance(answer, HandshakeResponse)
    assert (answer.status, answer.body, answer.body_length) == (403, b"Go home\n", 8)
    assert answer.text == r"403 Forbidden: Go home\n"
    assert answer.raw == refusal[:-8]
    assert isinstance(problem, Problem)
    assert "403 Forbidden and not 101" in problem.text


def test_handshake_after_a_rejection_on_the_same_connection_is_decoded():
    """A client may ask again after a 401 without a new connection."""
    refusal = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"
    records = decode(
        [
            (CLIENT_TO_SERVER, REQUEST),
            (SERVER_TO_CLIENT, refusal),
            (CLIENT_TO_SERVER, REQUEST),
            (SERVER_TO_CLIENT, RESPONSE + wire_frame(1, b"in")),
        ]
    )
    assert records[-1].text == "in"


def test_body_without_length_ends_with_the_stream():
    """A response that neither has a length nor is chunked is complete at the FIN."""
    decoder = Decoder()
    decoder.feed(CLIENT_TO_SERVER, REQUEST, 0.0)
    assert decoder.feed(SERVER_TO_CLIENT, b"HTTP/1.1 500 Oops\r\n\r\nsorry", 0.0) == []
    answer, _, fin = decoder.feed_eof(SERVER_TO_CLIENT, 1.0)
    assert isinstance(answer, HandshakeResponse)
    assert answer.body == b"sorry"
    assert fin == TransportEvent(
        SERVER_TO_CLIENT, 1.0, "FIN", "The server closed its sending side."
    )


def test_plain_http_is_decoded_and_named():
    """A page fetched through the link shows as request, sentence and response."""
    page = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    request, problem, answer = decode(
        [(CLIENT_TO_SERVER, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"), (SERVER_TO_CLIENT, page)]
    )
    assert request.text == "GET /"
    assert isinstance(problem, Problem)
    assert "plain HTTP" in problem.text
    assert isinstance(answer, HandshakeResponse)
    assert answer.body == b"abc"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"SSH-2.0-OpenSSH\r\n", "This is not an HTTP request"),
        (b"hello\n", "does not end in CRLF"),
        (b"\x16\x03\x01\x02\x00\n", "looks like TLS"),
        (b"x" * 9000, "This is not an HTTP request"),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "unsupported request body"),
        (b"GET / HTTP/1.1\r\nx: \x1b[31m\r\n\r\n", r"\x1b[31m"),
    ],
)
def test_garbage_is_one_problem_however_much_follows(data: bytes, says: str):
    """What isn't HTTP is named once, in a sentence that is safe to print."""
    (problem,) = decode([(CLIENT_TO_SERVER, data), (CLIENT_TO_SERVER, data)])
    assert isinstance(problem, Problem)
    assert says in problem.text
    assert problem.text.isprintable()


@pytest.mark.parametrize(
    ("chunks", "says"),
    [
        ([(CLIENT_TO_SERVER, REQUEST[:50])], "in the middle of an HTTP request"),
        ([(CLIENT_TO_SERVER, REQUEST), (SERVER_TO_CLIENT, RESPONSE[:50])], "an HTTP response"),
        (
            [(CLIENT_TO_SERVER, REQUEST), (SERVER_TO_CLIENT, RESPONSE + b"\x81\x05Hel")],
            "in the middle of a frame",
        ),
    ],
)
def test_stream_that_ends_too_early_is_named(chunks: list[Chunk], says: str):
    """A FIN in the middle of something says of what."""
    decoder = Decoder()
    for direction, data in chunks:
        decoder.feed(direction, data, 0.0)
    problem, fin = decoder.feed_eof(chunks[-1][0], 1.0)
    assert isinstance(problem, Problem)
    assert says in problem.text
    assert isinstance(fin, TransportEvent)
    assert decoder.feed(chunks[-1][0], b"after the end", 2.0) == []


def test_client_that_floods_before_the_response_is_not_held_in_memory():
    """Bytes before the response are held up to a bound, then named and skipped."""
    decoder = Decoder()
    decoder.feed(CLIENT_TO_SERVER, REQUEST, 0.0)
    records = [r for _ in range(100) for r in decoder.feed(CLIENT_TO_SERVER, bytes(10_000), 0.0)]
    (problem,) = records
    assert isinstance(problem, Problem)
    assert "did not wait" in problem.text
    assert not decoder._sides[CLIENT_TO_SERVER].reader.buffer


def test_only_the_last_records_are_kept():
    """`keep` bounds the records, and `total` counts those that are gone as well."""
    decoder = Decoder(keep=3)
    decoder.feed(CLIENT_TO_SERVER, REQUEST, 0.0)
    decoder.feed(SERVER_TO_CLIENT, RESPONSE, 0.0)
    for number in range(10):
        decoder.feed(SERVER_TO_CLIENT, wire_frame(1, b"%d" % number), 0.0)
    assert [record.text for record in decoder.records] == ["7", "8", "9"]
    assert decoder.total == 12


def test_endless_frame_is_held_up_to_a_bound_and_its_beginning_shown():
    """A frame far over 1 MiB never takes more than that, and the next one is still found."""
    decoder = Decoder(max_payload=10)
    decoder.feed(CLIENT_TO_SERVER, REQUEST, 0.0)
    decoder.feed(SERVER_TO_CLIENT, RESPONSE, 0.0)
    size = 4 * 2**20
    decoder.feed(SERVER_TO_CLIENT, wire_frame(2, b"a" * size)[:10], 0.0)
    records: list[Record] = []
    for _ in range(size // 65536):
        records += decoder.feed(SERVER_TO_CLIENT, b"a" * 65536, 0.0)
        assert len(decoder._sides[SERVER_TO_CLIENT].reader.buffer) <= 2**20 + 65536
    records += decoder.feed(SERVER_TO_CLIENT, wire_frame(1, b"next"), 0.0)
    huge, after = records
    assert isinstance(huge, FrameRecord)
    assert (huge.payload, huge.payload_length, huge.data_length) == (b"a" * 10, size, size)
    assert after.text == "next"


@dataclass
class Sent:
    """One frame as generated: what must be found again."""

    direction: Direction
    opcode: Opcode
    fin: bool
    key: bytes | None
    payload: bytes
    rsv1: bool
    compressed: bool
    on_wire: bytes


def control_frames() -> st.SearchStrategy[list[tuple[Opcode, bytes]]]:
    """Return up to two pings and pongs."""
    opcodes = st.sampled_from([Opcode.PING, Opcode.PONG])
    return st.lists(st.tuples(opcodes, st.binary(max_size=125)), max_size=2)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, list[Sent]]:
    """Return an extension header, or none, and frames of both sides that are valid with it."""
    deflate = draw(st.booleans())
    takeover = {way: draw(st.booleans()) for way in (CLIENT_TO_SERVER, SERVER_TO_CLIENT)}
    extension = b""
    if deflate:
        extension = DEFLATE
        for way, name in ((CLIENT_TO_SERVER, b"client"), (SERVER_TO_CLIENT, b"server")):
            if not takeover[way]:
                extension += b"; %s_no_context_takeover" % name
    encoders = {way: zlib.compressobj(wbits=-15) for way in takeover}
    sent: list[Sent] = []

    def send(way: Direction, opcode: Opcode, data: bytes, *, fin: bool, squeeze: bool) -> None:
        key = draw(st.binary(min_size=4, max_size=4)) if way == CLIENT_TO_SERVER else None
        payload = data
        if squeeze:
            encoder = encoders[way]
            payload = encoder.compress(data) + encoder.flush(zlib.Z_SYNC_FLUSH)
            payload = payload[:-4] if fin else payload
        rsv1 = squeeze and opcode is not Opcode.CONT
        frame = wire_frame(opcode, payload, key=key, fin=fin, rsv=4 if rsv1 else 0)
        sent.append(Sent(way, opcode, fin, key, data, rsv1, squeeze, frame))

    for _ in range(draw(st.integers(0, 5))):
        way = draw(st.sampled_from([CLIENT_TO_SERVER, SERVER_TO_CLIENT]))
        squeeze = deflate and draw(st.booleans())
        if not takeover[way]:
            encoders[way] = zlib.compressobj(wbits=-15)
        opcode = draw(st.sampled_from([Opcode.TEXT, Opcode.BINARY]))
        sizes = st.binary(max_size=300) | st.binary(min_size=1, max_size=4).map(
            lambda b: b * 20_000
        )
        pieces = draw(st.lists(sizes, min_size=1, max_size=3))
        for number, piece in enumerate(pieces):
            fin = number == len(pieces) - 1
            send(way, opcode if number == 0 else Opcode.CONT, piece, fin=fin, squeeze=squeeze)
            for control, data in draw(control_frames()):
                send(way, control, data, fin=True, squeeze=False)
    return extension, sent


@st.composite
def splits(draw: st.DrawFn, chunks: list[Chunk]) -> list[Chunk]:
    """Return `chunks` joined where neighbours share a direction, and cut again anywhere."""
    result: list[Chunk] = []
    for direction, group in itertools.groupby(chunks, key=lambda chunk: chunk[0]):
        data = b"".join(piece for _, piece in group)
        cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
        bounds = zip([0, *cuts], [*cuts, len(data)], strict=True)
        result += [(direction, data[start:end]) for start, end in bounds]
    return result


@settings(deadline=None)
@given(st.data())
def test_any_split_of_any_conversation_gives_the_frames_that_were_sent(data: st.DataObject):
    """However the stream is cut, the records are those of the whole, and what was generated."""
    extension, sent = data.draw(conversations())
    opening: list[Chunk] = [(CLIENT_TO_SERVER, REQUEST), (SERVER_TO_CLIENT, response(extension))]
    chunks = opening + [(frame.direction, frame.on_wire) for frame in sent]
    whole = decode(chunks, max_payload=100_000)
    assert decode(data.draw(splits(chunks)), max_payload=100_000) == whole
    request, answer, *frames = whole
    assert isinstance(request, HandshakeRequest)
    assert isinstance(answer, HandshakeResponse)
    assert len(frames) == len(sent)
    for record, frame in zip(frames, sent, strict=True):
        assert isinstance(record, FrameRecord)
        assert record.direction == frame.direction
        assert record.opcode == frame.opcode.name
        assert (record.fin, record.rsv1, record.rsv2, record.rsv3) == (
            (frame.fin, frame.rsv1, False, False)
        )
        assert (record.masked, record.masking_key) == (frame.key is not None, frame.key)
        assert record.payload == frame.payload
        assert record.compressed == frame.compressed
        assert record.data_length == len(frame.payload)
        assert record.wire_length == len(frame.on_wire)
        assert frame.on_wire.startswith(record.header)


def test_stream_cut_at_every_single_byte_gives_the_same_records():
    """One byte a read is as good as all at once, close frames and refusal included."""
    close = wire_frame(8, struct.pack("!H", 1000) + b"bye", key=b"wxyz")
    chunks = [
        (CLIENT_TO_SERVER, REQUEST),
        (SERVER_TO_CLIENT, b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nwait"),
        (CLIENT_TO_SERVER, REQUEST),
        (SERVER_TO_CLIENT, RESPONSE + wire_frame(1, "é€".encode()) + wire_frame(2, bytes(300))),
        (CLIENT_TO_SERVER, wire_frame(1, b"", key=b"\0\0\0\0") + close),
        (SERVER_TO_CLIENT, b"\xff\xff\xff"),
    ]
    single = [(way, data[i : i + 1]) for way, data in chunks for i in range(len(data))]
    assert decode(single) == decode(chunks)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([CLIENT_TO_SERVER, SERVER_TO_CLIENT]), st.binary())))
def test_no_bytes_whatever_raise(chunks: list[Chunk]):
    """Garbage, before the handshake and after it, ends in the same records however it is cut."""
    opening = [(CLIENT_TO_SERVER, REQUEST), (SERVER_TO_CLIENT, response(DEFLATE))]
    for start in ([], opening[:1], opening):
        single = [(way, bytes([byte])) for way, data in chunks for byte in data]
        results = []
        for pieces in (chunks, single):
            decoder = Decoder()
            for direction, data in [*start, *pieces]:
                decoder.feed(direction, data, 0.0)
            for direction in (CLIENT_TO_SERVER, SERVER_TO_CLIENT):
                assert isinstance(decoder.feed_eof(direction, 1.0)[-1], TransportEvent)
            assert all(record.text.isprintable() for record in decoder.records)
            results.append(list(decoder.records))
        assert results[0] == results[1]


def test_early_frames_come_in_the_same_order_however_the_response_is_cut():
    """Client bytes that waited for the response are decoded right behind it."""
    early = REQUEST + wire_frame(1, b"early", key=b"abcd")
    down = RESPONSE + wire_frame(1, b"welcome")
    whole = decode([(CLIENT_TO_SERVER, early), (SERVER_TO_CLIENT, down)])
    cut = [(SERVER_TO_CLIENT, down[i : i + 1]) for i in range(len(down))]
    assert decode([(CLIENT_TO_SERVER, early), *cut]) == whole
    assert [record.text for record in whole[2:]] == ["early", "welcome"]
