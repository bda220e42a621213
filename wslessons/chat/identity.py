"""Who may come in, and until when: what an application with a login tells the chat.

    async def authenticate(opening: Opening) -> Identity:
        user = await users.by_token(opening.token)
        if user is None:
            raise Denied("log in first", status=401)
        return Identity(user.id, name=user.name, until=user.token_ends)

    chat = ChatServer(authenticate=authenticate)

It is asked before the handshake is answered, and once more for each new token by which a member
renews an identity that has an end. (Behind a page, `wslessons.web` asks a `login` over HTTP.)
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

__all__ = [
    "EXPIRED",
    "REVOKED",
    "Authenticate",
    "Denied",
    "Identity",
    "Member",
    "Opening",
    "bearer",
]

EXPIRED = 4401
"""Close code for one whose identity has ended (4000 to 4999 are an application's own: RFC 6455,
section 7.4.2; the rest is HTTP's 401)."""
REVOKED = 4403
"""Close code for one whose identity was revoked."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who somebody is, for the application.

    Attributes:
        subject: by which you know them, and revoke them.
        name: what they are called in the room; None lets them choose.
        until: when it ends, in seconds since 1970; None for never.
    """

    subject: str
    name: str | None = None
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Opening:
    """What is known of somebody who wants to come in, or stay.

    Attributes:
        path: the room's, such as ``/rooms/tea``: who may enter which room is up to you.
        headers: those of the opening handshake; names in any case find them.
        peer: the other end's address.
        ask: who says who it is.
        token: what is shown as proof: that of ``Authorization: Bearer TOKEN`` (RFC 6750), a ticket
            of the web's, or what came with `renew`; empty for none.
        identity: who it has been so far, when it renews; else None.
        since: when that was found out, by `time.monotonic`.
    """

    path: str
    headers: Mapping[str, str]
    peer: str
    ask: Authenticate
    token: str = ""
    identity: Identity | None = None
    since: float = field(default_factory=time.monotonic)

    async def identify(self, token: str) -> Opening:
        """Ask who somebody is that shows a token.

        Args:
            token: the proof; empty for none.

        Returns:
            A copy that holds the identity, and no token.

        Raises:
            Denied: there is none.
        """
        identity = await self.ask(replace(self, token=token))
        return replace(self, token="", identity=identity, since=time.monotonic())


@dataclass(frozen=True, slots=True)
class Member:
    """Somebody who is in a room.

    Attributes:
        id: that of the connection; different for each.
        name: what the others call them.
        room: the room's path.
        identity: what `authenticate` returned; None without it.
    """

    id: str
    name: str
    room: str
    identity: Identity | None = None


class Denied(Exception):
    """The application says no: raise it where you are asked whether somebody may do something.

    Args:
        reason: a sentence for the one who is refused, at most 123 bytes of it in a close frame.
        status: the HTTP status with which a handshake is refused; None to complete it and then
            close with `code`, since a page is told no status of a handshake that failed.
        code: the close code (RFC 6455, section 7.4) where there is a connection already.
    """

    def __init__(self, reason: str, *, status: int | None = 403, code: int = 1008) -> None:
        super().__init__(reason)
        self.reason, self.status, self.code = reason, status, code


Authenticate = Callable[[Opening], Awaitable[Identity]]
"""Says who somebody is, or raises `Denied`."""


def bearer(headers: Mapping[str, str]) -> str:
    """Read the token of ``Authorization: Bearer TOKEN``.

    >>> bearer({"Authorization": "Bearer abc"})
    'abc'

    Args:
        headers: those of a request; names in any case find them.

    Returns:
        The token, empty if there is none.
    """
    try:
        scheme, _, token = headers.get("Authorization", "").partition(" ")
    except LookupError:  # websockets' headers, where there are several
        return ""
    return token.strip() if scheme.lower() == "bearer" else ""
