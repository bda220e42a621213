"""How the wire is put into words: payloads on one safe line, and what was wrong in one sentence."""

from __future__ import annotations

import struct

from websockets.frames import Close, Opcode

__all__ = ["hexadecimal", "payload_text", "printable", "problem_sentence"]

_TLS_HANDSHAKE = b"\x16"
"""The first byte of a TLS connection: the record type handshake (RFC 8446, section 5.1)."""

_RULES = {
    "incorrect masking": "a client masks every frame and a server none (RFC 6455, section 5.1)",
    "invalid opcode": "its opcode is a reserved one (RFC 6455, section 5.2)",
    "reserved bits must be 0": "no extension uses its reserved bits (RFC 6455, section 5.2)",
    "control frame too long": "a control frame holds at most 125 bytes (RFC 6455, section 5.5)",
    "fragmented control frame": "a control frame can't be fragmented (RFC 6455, section 5.5)",
    "decompression failed": "its payload can't be decompressed (RFC 7692, section 7.2.2)",
}


def printable(text: str, limit: int = 80) -> str:
    r"""Return `text` on one line of at most `limit` characters, unprintable ones as escapes.

    >>> print(printable("a\tb\x1b[31m"))
    a\tb\x1b[31m
    >>> printable("abcdef", limit=4)
    'abc…'

    A backslash stays as it is, for JSON's sake: look at the payload where the difference matters.

    Args:
        text: any text.
        limit: characters.

    Returns:
        The line, an ellipsis at its end where some is missing.
    """
    # One input character never becomes less than one, so the rest can't matter.
    head = text[: limit + 1]
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in head)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def hexadecimal(data: bytes, limit: int = 80) -> str:
    """Return `data` as pairs of hexadecimal digits, at most `limit` characters.

    >>> hexadecimal(bytes([1, 171]))
    '01 ab'

    Args:
        data: the bytes.
        limit: characters.

    Returns:
        The digits, an ellipsis behind them where some are missing.
    """
    return printable(data[:limit].hex(" "), limit)


def payload_text(opcode: Opcode, message: Opcode, payload: bytes) -> str:
    """Return the payload as one short line, by what kind of frame and of message it belongs to.

    Args:
        opcode: the frame's.
        message: of the message that it is a fragment of.
        payload: as it was sent, unmasked.

    Returns:
        The line.
    """
    if opcode is Opcode.CLOSE and len(payload) >= 2:
        (code,) = struct.unpack("!H", payload[:2])
        return printable(str(Close(code, payload[2:].decode(errors="replace"))))
    if opcode in (Opcode.PING, Opcode.PONG):
        is_text = payload.isascii() and payload.decode("ascii", "replace").isprintable()
    else:
        kind = message if opcode is Opcode.CONT else opcode
        is_text = kind is Opcode.TEXT
    # At most 80 characters are shown, and a character takes at most 4 bytes.
    return printable(payload[:324].decode(errors="replace")) if is_text else hexadecimal(payload)


def problem_sentence(direction: str, stage: str, exc: Exception, data: bytes, *, eof: bool) -> str:
    """Say in one sentence why a direction can't be decoded any further.

    Args:
        direction: "client->server" or "server->client".
        stage: what was being read: "HTTP request", "HTTP response" or "frame".
        exc: what the parser raised.
        data: the bytes in question.
        eof: whether the stream had ended.

    Returns:
        The sentence.
    """
    who = direction.partition("->")[0]
    article = "an" if stage.startswith("HTTP") else "a"
    if isinstance(exc, EOFError) and eof:
        return f"The {who}'s stream ends in the middle of {article} {stage}."
    rest = f"the rest of what the {who} sends isn't decoded"
    if stage == "frame":
        return f"This frame breaks the protocol: {_RULES.get(str(exc), exc)}; {rest}."
    if data.startswith(_TLS_HANDSHAKE):
        return f"This looks like TLS, which the decoder can't look into; {rest}."
    why = "a line does not end in CRLF" if isinstance(exc, EOFError) else str(exc)
    if why.startswith("read "):  # goes on with a count that depends on where the stream was cut
        why = "it is longer than `websockets` allows"
    return f"This is not {article} {stage}: {why}; {rest}."
