"""Tickets: a signed, short-lived leave to open a WebSocket.

A page can't set headers on a WebSocket, so it can't send a token as it would with `fetch`. It asks
for a ticket over HTTP, where it can, and shows it in the handshake, in one of the two places that a
page may write to: the URL's query, or the list of subprotocols. Both end up in logs, the query in
most; so a ticket is good for seconds only, and `Redacted` keeps it out of ours.

A ticket may be used again while it lasts: to forbid that, servers would have to share a memory.

Source: https://devcenter.heroku.com/articles/websocket-security#authentication-authorization and
https://cheatsheetseries.owasp.org/cheatsheets/WebSocket_Security_Cheat_Sheet.html
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import time
from collections.abc import Callable

from itsdangerous import BadData, TimestampSigner, URLSafeTimedSerializer

__all__ = ["PREFIX", "BadTicket", "Redacted", "Tickets", "redact"]

PREFIX = "ticket."
"""How a subprotocol begins that is none, but a ticket."""

SKEW = 10
"""Seconds by which the clock of the server that issued a ticket may be ahead of ours."""

# `ticket=` in a query; `ticket.` before the three parts of a signed value, in a header.
_TICKET = re.compile(r"(?<![A-Za-z0-9_-])(ticket=|ticket\.)[A-Za-z0-9_.%+/=~-]+", re.IGNORECASE)


class BadTicket(Exception):
    """A ticket that opens nothing; the text says why, in a word or two."""


class Tickets:
    """The office that issues tickets and checks them.

    Args:
        secret: what all servers share that honour each other's tickets; by default a random one.
        lifetime: whole seconds for which a ticket is valid.
        clock: gives the Unix time in seconds.
    """

    def __init__(
        self,
        secret: str | bytes | None = None,
        lifetime: int = 30,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.lifetime = lifetime
        self._clock = clock

        class Signer(TimestampSigner):
            def get_timestamp(self) -> int:
                return int(clock())

        self._serializer = URLSafeTimedSerializer(
            secret or secrets.token_bytes(32),
            # So that nothing else signed with this secret passes for a ticket.
            salt="wslessons.web.ticket",
            signer=Signer,
            signer_kwargs={"digest_method": hashlib.sha256},
        )

    def issue(self, subject: str = "") -> str:
        """Return a ticket for `subject`; it may be a subprotocol (RFC 9110, section 5.6.2).

        Args:
            subject: whom it is for, in any words.

        Returns:
            The ticket.
        """
        ticket = self._serializer.dumps(subject)
        return ticket if isinstance(ticket, str) else ticket.decode()

    def check(self, ticket: str) -> str:
        """Return the subject of a valid ticket.

        Args:
            ticket: what a client has shown.

        Returns:
            What `issue` was given.

        Raises:
            BadTicket: it has expired, or was not issued with this secret.
        """
        try:
            subject, issued = self._serializer.loads(ticket, return_timestamp=True)
        except BadData:
            raise BadTicket("not one of ours") from None
        # The library's own check would call a ticket from a clock that is ahead an expired one.
        age = int(self._clock()) - int(issued.timestamp())
        if not -SKEW <= age <= self.lifetime:
            raise BadTicket("expired")
        return str(subject)


def redact(text: str) -> str:
    """Return `text` without the tickets in it.

    >>> redact("GET /ws?ticket=IiI.aSQ.x1_-y HTTP/1.1")
    'GET /ws?ticket=... HTTP/1.1'

    Args:
        text: a line of a log, or a URL.

    Returns:
        The text with ``...`` in their place.
    """
    return _TICKET.sub(r"\1...", text)


class Redacted(logging.Filter):
    """Keep tickets out of what a logger says."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace tickets in the message and in its arguments, which formatters may want apart."""
        record.msg = redact(record.msg) if isinstance(record.msg, str) else record.msg
        if isinstance(record.args, tuple):
            record.args = tuple(redact(x) if isinstance(x, str) else x for x in record.args)
        return True

    @classmethod
    def install(cls) -> None:
        """Make uvicorn's two loggers careful; harmless to call again.

        A filter belongs to a logger and is not inherited: hence each by its name. "uvicorn.error"
        is the one that says ``"WebSocket /ws?ticket=..." [accepted]``, errors or not, whatever
        `access_log` is.
        """
        for name in ("uvicorn.access", "uvicorn.error", "uvicorn.asgi"):
            logger = logging.getLogger(name)
            if not any(isinstance(each, cls) for each in logger.filters):
                logger.addFilter(cls())
