"""Which names a server answers to, and whose pages may talk to it.

A browser adds two headers to a request that no page can change: ``Host``, the name in the address,
and ``Origin``, whose page asks (RFC 6454; RFC 6455, section 10.2). A foreign page is known by its
origin; but a page of evil.example whose name is made to point to this machine (DNS rebinding) sends
evil.example in both, as if it were ours. So both are checked: `HostCheck`, then `OriginCheck`.

Clients that are no browsers write into the two what they like. They are not who is kept out here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from wslessons.errors import UserError
from wslessons.guard.http import SAFE_HEADERS

__all__ = [
    "ANY_HOST",
    "HostCheck",
    "OriginCheck",
    "normal_host",
    "normal_origin",
    "read_address",
    "refuse",
]

ANY_HOST = "*"
"""Among the hosts: the server answers to any name."""

PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
SAFE_METHODS = {"GET", "HEAD", "OPTIONS", "TRACE"}
"""Methods that change nothing (RFC 9110, section 9.2.1)."""

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_CHANGED_BY_IDNA_2003 = re.compile("[\u00df\u03c2\u200c\u200d]")
"""Letters that browsers keep in a host name and Python's codec replaces or drops."""


def _seen(text: str) -> bool:
    return all(c.isprintable() and not c.isspace() for c in text)


def _normal(host: str) -> str:
    """Return a host as it stands in a URL; raise ValueError, with the reason, if it is none."""
    if _CHANGED_BY_IDNA_2003.search(host):
        raise ValueError(
            "has a letter that is written differently there (give the host as xn--...)"
        )
    try:
        if ":" in host:
            host = f"[{ipaddress.IPv6Address(host)}]"
            valid = "%" not in host
        else:
            host = host.encode("idna").decode().lower()
            valid = all(map(_LABEL.fullmatch, host.split(".")))
    except ValueError:
        valid = False
    if not valid:
        raise ValueError("has no valid host or port")
    return host


def normal_origin(text: str) -> str:
    """Return the origin `text` in the one form in which browsers send it.

    >>> normal_origin("HTTPS://B\u00fccher.example:443/")
    'https://xn--bcher-kva.example'

    Args:
        text: scheme and host, and a port where it isn't the scheme's own.

    Returns:
        Lower case, IDNA, without the default port and without a slash at the end.

    Raises:
        UserError: no browser ever sends such an origin; the exit code is 2.

    Source: RFC 6454, sections 4 and 6.
    """

    def wrong(why: str) -> UserError:
        sentence = f"the origin {text!r} {why}: give it as https://example.com or with a port."
        return UserError(sentence, exit_code=2)

    if not _seen(text):
        raise wrong("holds a blank or a character that can't be seen")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise wrong("is not a valid one") from None
    if parts.scheme not in ("http", "https"):
        raise wrong("does not begin with http:// or https://")
    if parts.path not in ("", "/") or any(mark in text for mark in "?#@"):
        raise wrong("has more than a scheme, a host and a port")
    if port == 0:
        raise wrong("has no valid host or port")
    try:
        host = _normal(host)
    except ValueError as exc:
        raise wrong(str(exc)) from None
    return f"{parts.scheme}://{host}" + ("" if port in (None, PORTS[parts.scheme]) else f":{port}")


def normal_host(text: str) -> str:
    """Return the host `text` in the one form in which browsers send it.

    >>> normal_host("Chat.B\u00fccher.example")
    'chat.xn--bcher-kva.example'

    Args:
        text: a name or an address, without a port; `ANY_HOST` stays as it is.

    Returns:
        The host in lower case, its letters as a browser's address bar sends them.

    Raises:
        UserError: it can't be a host's name; the exit code is 2.
    """
    if text == ANY_HOST:
        return text
    bare = text[1:-1] if text[:1] == "[" and text[-1:] == "]" else text
    try:
        if not _seen(text):
            raise ValueError("holds a blank or a character that can't be seen")
        return _normal(bare)
    except ValueError as exc:
        why = str(exc).replace("has no valid host or port", "is not the name of one")
    sentence = f"the host {text!r} {why}: give a name such as chat.example.com, without a port."
    raise UserError(sentence, exit_code=2)


async def refuse(scope: Scope, receive: Receive, send: Send, status: int, sentence: str) -> None:
    """Answer either kind of request with an HTTP status and a sentence.

    For a WebSocket that is ASGI's extension "websocket.http.response"; where a server lacks it,
    closing before accepting gives a bare 403.

    Args:
        scope: of the request (ASGI).
        receive: ASGI's.
        send: ASGI's.
        status: of the response.
        sentence: its body, without the line's end.
    """
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get(
        "extensions", {}
    ):
        await send({"type": "websocket.close"})
        return
    await PlainTextResponse(sentence + "\n", status, SAFE_HEADERS)(scope, receive, send)


class HostCheck:
    """Answer only to the server's own names. Acts on both.

    Those are the address that the client has reached, the names of this machine for itself
    (``localhost``, 127.0.0.1, ::1), and `hosts`. No page of another name can make a browser send
    one of these, whatever the DNS says. Any other name is refused with 421, and a request that has
    none or several with 400 (RFC 9110, section 7.2).

    Args:
        app: what stands behind it.
        hosts: further names, such as ``chat.example.com``; ``*`` for any, where something in front
            of the server has seen to it.

    Raises:
        UserError: a host can't be one.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str] = ()) -> None:
        self.app = app
        self.hosts = {normal_host(host) for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it (ASGI)."""
        if scope["type"] in ("http", "websocket"):
            given = Headers(scope=scope).getlist("host")
            if len(given) != 1 and not (not given and scope.get("http_version") == "1.0"):
                await refuse(scope, receive, send, 400, "A request names one host.")
                return
            if given and not self.allows(given[0], (scope.get("server") or ("",))[0]):
                sentence = (
                    "This server does not answer to that name: whoever runs it can allow it"
                    " (--hosts, or the argument hosts)."
                )
                await refuse(scope, receive, send, 421, sentence)
                return
        await self.app(scope, receive, send)

    def allows(self, host: str, reached: str = "") -> bool:
        """Return whether the server answers to `host`, a header's value.

        Args:
            host: a name or an address, maybe with a port.
            reached: the server's own address, which the client has connected to.

        Returns:
            Whether it does.
        """
        if ANY_HOST in self.hosts:
            return True
        try:
            parts = urlsplit(f"//{host}")
            name = (parts.hostname or "").removesuffix(".")
            plain = not parts.path and not any(mark in host for mark in "?#@\\")
            _ = parts.port  # raises ValueError where there is no number
        except ValueError:
            return False
        if not plain or not name:
            return False
        address = read_address(name)
        if address is not None:
            return address.is_loopback or address == read_address(reached) or name in self.hosts
        return name == "localhost" or name in self.hosts


def read_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Read an address; one of IPv4 that is written as one of IPv6 is the former.

    Args:
        text: any.

    Returns:
        The address, None if it is none.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


class OriginCheck:
    """Let in only pages of ours. Acts on WebSockets, and on HTTP methods that change something.

    A browser sends a page's origin along with every WebSocket it opens (RFC 6454; RFC 6455, section
    10.2) and the page can't change it. No CORS rule keeps a foreign page from opening a WebSocket
    with the cookies of the user who looks at it: the server has to. Refused with 403.

    Clients that send no Origin are no browsers, and are let in.

    Args:
        app: what stands behind it.
        origins: those let in beside our own (the one whose host and port the request was sent to,
            which is ours only behind a `HostCheck`), such as ``https://example.com``; see
            `normal_origin`.

    Raises:
        UserError: an origin can't be one.
    """

    def __init__(self, app: ASGIApp, origins: Iterable[str] = ()) -> None:
        self.app = app
        self.origins = {normal_origin(origin) for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it (ASGI)."""
        if scope["type"] == "websocket" or (
            scope["type"] == "http" and scope["method"] not in SAFE_METHODS
        ):
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            if origin is not None and not self.allows(origin, headers.get("host", "")):
                sentence = "This page may not talk to this server: its origin is not allowed."
                await refuse(scope, receive, send, 403, sentence)
                return
        await self.app(scope, receive, send)

    def allows(self, origin: str, host: str) -> bool:
        """Return whether a page of `origin` may send requests to `host`.

        Args:
            origin: the header's value, such as ``https://example.com``.
            host: the Host header's value.

        Returns:
            Whether it may: it is our own origin, or one that was named.
        """
        try:
            # In their one form: what no browser would write as an origin is none of ours.
            origin = normal_origin(origin)
            scheme, _, here = origin.partition("://")
            return origin in self.origins or here == _with_port(host, scheme)
        except (UserError, ValueError):
            return False


def _with_port(host: str, scheme: str) -> str:
    """Return a Host header's value as it stands in an origin of `scheme`.

    Of the host and not of its scheme, as a proxy in front of us may be the one that speaks TLS.
    """
    return normal_origin(f"{scheme}://{host}").partition("://")[2]
