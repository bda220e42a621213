"""Lesson 7's exercises, and the wrong answers that people write to them."""

from __future__ import annotations

from author import closing_tests

WRONG = {
    "make_frame": [
        (
            "characters are bytes",
            """
def make_frame(text):
    return bytes([0x81, len(text)]) + text.encode()
""",
            "count after encoding",
        ),
        (
            "a client's frame",
            """
def make_frame(text):
    payload = text.encode()
    return bytes([0x81, 0x80 | len(payload)]) + bytes(4) + payload
""",
            "only clients set",
        ),
        (
            "FIN is forgotten",
            """
def make_frame(text):
    payload = text.encode()
    return bytes([0x01, len(payload)]) + payload
""",
            "TEXT without FIN",
        ),
        (
            "a length is one byte",
            """
def make_frame(text):
    payload = text.encode()
    return bytes([0x81, len(payload)]) + payload
""",
            "two bytes with the length",
        ),
        (
            "little end first",
            """
def make_frame(text):
    payload = text.encode()
    if len(payload) < 126:
        return bytes([0x81, len(payload)]) + payload
    return bytes([0x81, 126]) + len(payload).to_bytes(2, "little") + payload
""",
            "the big end first",
        ),
        (
            "text is fine",
            """
def make_frame(text):
    return f"\\x81{chr(len(text))}{text}"
""",
            "Return bytes",
        ),
    ],
    "frugal": [
        (
            "broadcast is fast",
            """
from websockets import broadcast

async def frugal(connections, lines):
    for line in lines:
        broadcast(connections, line)
""",
            "as before",
        ),
        (
            "one message for all lines",
            """
async def frugal(connections, lines):
    for connection in connections:
        await connection.send("\\n".join(lines))
""",
            "a frame of its own",
        ),
        (
            "in batches of ten",
            """
from wslessons.connection import text_frame

async def frugal(connections, lines):
    for first in range(0, len(lines), 10):
        data = b"".join(text_frame(line.encode()) for line in lines[first : first + 10])
        for connection in connections:
            connection.transport.write(data)
""",
            "Fewer than before",
        ),
        (
            "only what is new counts",
            """
from wslessons.connection import text_frame

async def frugal(connections, lines):
    for connection in connections:
        connection.transport.write(text_frame(lines[0].encode()))
""",
            "Only 1 of 50",
        ),
        (
            "the newest first",
            """
from wslessons.connection import text_frame

async def frugal(connections, lines):
    data = b"".join(text_frame(line.encode()) for line in reversed(lines))
    for connection in connections:
        connection.transport.write(data)
""",
            "order is that of the list",
        ),
        (
            "the last one is forgotten",
            """
from wslessons.connection import text_frame

async def frugal(connections, lines):
    data = b"".join(text_frame(line.encode()) for line in lines)
    for connection in connections[1:]:
        connection.transport.write(data)
""",
            "write to every connection",
        ),
    ],
}

test_exercises_are_whole, test_wrong_answers_get_their_hints = closing_tests(7, WRONG)
