"""What a chat asks of its people: a name that forges nothing, text on one line, a bounded pace.

Not handled here: names that only look alike (a Cyrillic letter for a Latin one).
"""

from __future__ import annotations

import re
import time
import unicodedata

__all__ = ["TokenBucket", "clean_name", "clean_text"]

# White space that would begin a new line or column, and what would steer a terminal or turn the
# direction of the text around it (Unicode's explicit embeddings, overrides and isolates).
_SPACES = re.compile("[\t-\r\x85\u2028\u2029]+")
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def clean_name(text: str) -> str:
    """Return the name in `text`, trimmed. Raises `ValueError` with a sentence for a bad one.

    Brackets are out because a plain-text line is ``[NAME] text``: somebody called
    ``system] >>> bob left`` would write a notice.

    >>> clean_name("  Zoë ")
    'Zoë'
    """
    name = text.strip()
    if not name:
        raise ValueError("the name is blank")
    if len(name) > 32:
        raise ValueError("the name is longer than 32 characters")
    if not name.isprintable() or "[" in name or "]" in name:
        raise ValueError("a name has printable characters only, and no brackets")
    if unicodedata.normalize("NFKC", name).casefold() == "system":
        raise ValueError("the name system is reserved")
    return name


def clean_text(text: str) -> str:
    r"""Return `text` trimmed and on one line, with control characters made visible as U+FFFD.

    >>> clean_text(" hi\n[system] bye \x1b[2J")
    'hi [system] bye �[2J'
    """
    text = text.strip()
    if text.isprintable():
        return text
    return _CONTROLS.sub("\ufffd", _SPACES.sub(" ", text)).strip()


class TokenBucket:
    """Allow `rate` messages a second, and `burst` at once after a rest (at least 1)."""

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
