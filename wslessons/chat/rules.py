"""What a chat asks of its members: a name that looks like no notice, a bounded rate, and a proof.

Not handled here: two members whose names are the same, or only look alike.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import hmac
import re
import secrets
import time
import unicodedata
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from wslessons.chat.codecs import RATE
from wslessons.chat.events import ClientEvent, Error, Ping, Say

__all__ = ["Pace", "Proofs", "TokenBucket", "clean_name"]


LONGEST_NAME = 32
"""Characters in a name."""
RESERVED = "system"
"""The name under which the server speaks in plain text."""

_NOTICE = re.compile(r">>>|\b(joined|left) the chat\b|\bhere now\b|\byou missed\b|\band \d+ more$")


def clean_name(text: str) -> str:
    """Return the name in `text`, trimmed, with single spaces, and in Unicode's form NFC.

    A name is made of letters, marks, numbers, punctuation and symbols of any script, and of emoji.
    What is invisible is out, but for the joiners and selectors that a script or an emoji needs
    (RFC 5892, appendix A; UTS 51). Square brackets, commas and the words of notices are out since
    a plain-text line is ``[NAME] text``, a list ``NAME, NAME``, and a notice ``[system] ...``.

    Args:
        text: what a client wants to be called.

    Returns:
        The name.

    Raises:
        ValueError: it may not be a name; the sentence says why.

    >>> clean_name("  Zoë ")
    'Zoë'
    """
    # Of an endless text only the beginning is looked at.
    name = " ".join(unicodedata.normalize("NFC", text[: 8 * LONGEST_NAME]).split())
    if not name:
        raise ValueError("the name is blank")
    if len(name) > LONGEST_NAME or len(text) > 8 * LONGEST_NAME:
        raise ValueError(f"the name is longer than {LONGEST_NAME} characters")
    visible = name.isprintable() if name.isascii() else _unicode_name().fullmatch(name)
    if not visible or any(" BLANK" in unicodedata.name(c, "") for c in name):
        raise ValueError("a name has visible characters only, joined as its script joins them")
    for c in name:
        what = unicodedata.name(c, "")
        if "SQUARE BRACKET" in what:
            raise ValueError("a name has no square brackets")
        if "COMMA" in what and unicodedata.category(c)[0] == "P":
            raise ValueError("a name has no commas")
    plain = unicodedata.normalize("NFKC", name).casefold()
    if "[" in plain or "]" in plain or "," in plain:
        raise ValueError("a name has no square brackets and no commas")
    if _NOTICE.search(plain):
        raise ValueError("the name reads like a notice of the server")
    if _reads_as(name, RESERVED):
        raise ValueError(f"the name {RESERVED} is reserved")
    return name


@functools.cache
def _unicode_name() -> Any:
    """Return the pattern of names in any script; compiled with the first that needs it."""
    import regex  # has Unicode's properties, which `re` has not

    emoji = r"\p{Extended_Pictographic}(?:[\uFE0E\uFE0F]|\p{Emoji_Modifier})?"
    parts = (
        rf"{emoji}(?:\u200D{emoji})*",
        # A flag of a region, and a key: U+20E3 encloses it.
        r"\U0001F3F4[\U000E0030-\U000E007A]+\U000E007F",
        r"[0-9#*]\uFE0F?\u20E3",
        r"[[\p{L}\p{M}\p{N}\p{P}\p{S}]--[\p{Default_Ignorable_Code_Point}]]",
        # RFC 5892, appendices A.1 and A.2: after a virama either joiner; else the one that parts
        # letters, between two that would join.
        r"(?<=\p{Canonical_Combining_Class=Virama})[\u200C\u200D]",
        r"(?<=[\p{jt=L}\p{jt=D}]\p{jt=T}*)\u200C(?=\p{jt=T}*[\p{jt=R}\p{jt=D}])",
        # Selectors that choose among the forms of one character, in two scripts that have them.
        r"(?<=\p{Ideographic})[\U000E0100-\U000E01EF]",
        r"(?<=\p{Mongolian})[\u180B-\u180D\u180F]",
        " ",
    )
    # A mark at the beginning would be drawn on the bracket before it.
    return regex.compile(rf"(?!\p{{M}})(?:{'|'.join(parts)})+", regex.V1)


def _reads_as(name: str, word: str) -> bool:
    """Whether people could read `name` as `word`, which is of small Latin letters.

    Source: UTS 39, section 4; its table is that of the package `confusable_homoglyphs`.
    """
    decomposed = unicodedata.normalize("NFKD", name)
    letters = [c for c in decomposed if unicodedata.category(c)[0] in "LN"]
    if name.isascii():
        text = "".join(letters).casefold()
        return text == word or text.replace("rn", "m") == word
    if len(letters) != len(word):
        return False
    from confusable_homoglyphs.confusables import confusables_data  # 10 MB: only where it matters

    for letter, wanted in zip(letters, word, strict=True):
        alike = {letter, *(other["c"] for other in confusables_data.get(letter, ()))}
        small = re.fullmatch(r"LATIN LETTER SMALL CAPITAL (\w)", unicodedata.name(letter, ""))
        looks = {c.casefold() for c in alike} | ({small[1].casefold()} if small else set())
        if wanted not in looks and not (wanted == "m" and "rn" in looks):
            return False
    return True


class Proofs:
    """What shows that somebody was in a room, and since when.

    It is part of the `epoch` that a member is given in its welcome, and that it says when it comes
    back: the life of the room, a number of its log, and a signature of both (HMAC, RFC 2104). What
    was said after that number the member may have, and nothing from before.

    >>> proofs = Proofs(b"secret")
    >>> epoch = proofs.issue("/", "1f6b", 7)
    >>> proofs.check("/", epoch)
    ('1f6b', 7)
    >>> proofs.check("/rooms/other", epoch)
    ('1f6b', None)

    Args:
        secret: the key, shared by all servers on which a member may come back; by default one of
            this process.
    """

    _of_this_process = secrets.token_bytes(32)

    def __init__(self, secret: bytes | None = None) -> None:
        self._secret = secret or self._of_this_process

    def issue(self, path: str, life: str, number: int) -> str:
        """Return the epoch for a member of the room at `path` that has all up to `number`.

        Args:
            path: the room's.
            life: of the room's log.
            number: of the newest event.

        Returns:
            The epoch.
        """
        return f"{life}.{number}.{self._sign(path, life, str(number))}"

    def check(self, path: str, epoch: str) -> tuple[str, int | None]:
        """Return the life of the room that `epoch` names, and the number that it proves, if any.

        Args:
            path: the room's.
            epoch: what a client has shown.

        Returns:
            The life, and the number or None.
        """
        life, _, rest = epoch.partition(".")
        number, _, signature = rest.partition(".")
        good = hmac.compare_digest(signature.encode(), self._sign(path, life, number).encode())
        return life, int(number) if good else None

    def _sign(self, path: str, life: str, number: str) -> str:
        text = f"{path} {life} {number}".encode()
        digest = hmac.digest(self._secret, text, "sha256")[:16]
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


class TokenBucket:
    """Allow so many messages per second, and so many at once after a rest.

    Args:
        rate: messages per second.
        burst: messages at once, at least 1; by default as many as in one second.
    """

    def __init__(self, rate: float, burst: float | None = None) -> None:
        self.rate = rate
        self.burst = max(1.0, rate if burst is None else burst)
        self._tokens = self.burst
        self._filled = time.monotonic()

    def take(self) -> float:
        """Take a token, on credit if need be; return the seconds to wait until it is earned."""
        now = time.monotonic()
        self._tokens = min(self.burst, self._tokens + (now - self._filled) * self.rate) - 1
        self._filled = now
        return max(0.0, -self._tokens / self.rate)

    def put_back(self) -> None:
        """Put back a token that was taken and is not used."""
        self._tokens += 1


class Pace:
    """Let one sender's messages through at a bounded rate, in their order.

    What comes too fast waits for its turn. The sender is read all the while, since its pongs and
    its Close come behind its messages, so what waits has a bound: more than that is refused.

    Args:
        rate: messages per second.
        burst: messages at once after a rest; by default as many as in one second.
        debt: messages that may wait; by default as many as in ten seconds, and at least 64.
        debt_bytes: bytes that the messages which wait may have together.
    """

    def __init__(
        self,
        rate: float,
        burst: float | None = None,
        debt: int | None = None,
        debt_bytes: int = 2**16,
    ) -> None:
        self.bucket = TokenBucket(rate, burst)
        self.debt = max(64, round(10 * rate)) if debt is None else debt
        self.debt_bytes = debt_bytes
        self.waiting: deque[tuple[float, int, Say]] = deque()
        """When it is each message's turn, by `time.monotonic`, its size, and the message."""
        self.refused = 0
        """Messages refused since nothing waited."""
        self._bytes = 0

    async def recv(self, recv: Callable[[], Awaitable[str | bytes]]) -> str | bytes | Say:
        """Return what comes next: a new message, or one that waited and whose turn it is.

        Args:
            recv: receives a message; cancelling it must lose none.

        Returns:
            It.
        """
        while self.waiting:
            delay = self.waiting[0][0] - time.monotonic()
            if delay <= 0:
                _, size, say = self.waiting.popleft()
                self._bytes -= size
                if not self.waiting:
                    self.refused = 0
                return say
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    return await recv()
        return await recv()

    def rest(self) -> Iterator[Say]:
        """Yield all that still waits, whether its turn has come or not."""
        while self.waiting:
            yield self.waiting.popleft()[2]

    def admit(self, event: ClientEvent | Error | None, size: int) -> ClientEvent | Error | None:
        """Return `event` if it may pass now, None if it waits, or the error that refuses it.

        Only what is said to the room waits. What is answered is answered at once, on credit.

        Args:
            event: what the sender sent; None for a message to which nothing is done.
            size: its bytes on the wire.

        Returns:
            One of the three.
        """
        delay = self.bucket.take()
        if not delay and not self.waiting:
            return event
        if isinstance(event, Say):
            if len(self.waiting) < self.debt and self._bytes + size <= self.debt_bytes:
                self.waiting.append((time.monotonic() + delay, size, event))
                self._bytes += size
                return None
        elif delay * self.bucket.rate <= self.debt:
            return event
        self.bucket.put_back()
        self.refused += 1
        limit = f"at most {self.bucket.rate:g} messages a second"
        if isinstance(event, Say):
            shown = event.text if len(event.text) <= 40 else f"{event.text[:40]}..."
            return Error(RATE, f"too fast ({limit}), this was not said: {shown}", event.id)
        id = event.id if isinstance(event, Ping | Error) else ""
        return Error(RATE, f"too fast ({limit}), this was not answered", id)
