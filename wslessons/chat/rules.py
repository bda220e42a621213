"""What a chat asks of its members: a name that looks like no notice, and a bounded rate.

Not handled here: names that only look alike (a Cyrillic letter for a Latin one).
"""

from __future__ import annotations

import time
import unicodedata

__all__ = ["TokenBucket", "clean_name"]


def clean_name(text: str) -> str:
    """Return the name in `text`, trimmed.

    Brackets are out because a plain-text line is ``[NAME] text``: somebody called
    ``system] >>> bob left`` would write a notice.

    Raises:
        ValueError: it may not be a name; the sentence says why.

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
