"""When to try again after a connection was lost, and one sentence for each way not to get one."""

from __future__ import annotations

import email.utils
import random
import socket
import ssl
import time
from collections.abc import Callable, Generator
from http import HTTPStatus
from ipaddress import ip_address

from websockets.client import process_exception
from websockets.exceptions import (
    InvalidHandshake,
    InvalidMessage,
    InvalidProxy,
    InvalidStatus,
    InvalidURI,
    NegotiationError,
    ProxyError,
    SecurityError,
)
from websockets.uri import WebSocketURI, parse_uri

from wslessons.errors import UserError
from wslessons.wire.wording import printable

__all__ = [
    "CLEAN",
    "TRANSIENT",
    "check_url",
    "explain",
    "full_jitter",
    "is_loopback",
    "retry_after",
    "transient",
]

UNKNOWN_AUTHORITY = (18, 19, 20, 21)
"""OpenSSL's codes for a certificate that leads to none we trust (openssl-verification-options)."""

CLEAN = frozenset({1000, 1005})
"""Close codes after which there is nothing to come back for (RFC 6455, section 7.4.1)."""
TRANSIENT = frozenset({1001, 1006, 1011, 1012, 1013, 1014})
"""Close codes after which another attempt may succeed. The rest say that we are in the wrong."""
LATER = frozenset({408, 425, 429})
"""HTTP answers that ask for the same request later (RFC 9110, 8470 and 6585), as 503 does."""
LONGEST = 3600.0
"""Seconds of a `Retry-After` that are waited at most: a mistaken date must not mean for ever."""


def full_jitter(
    base: float = 2.0, cap: float = 20.0, uniform: Callable[[float, float], float] = random.uniform
) -> Generator[float]:
    """Yield delays in seconds before attempt 1, 2, 3, ...: anything from 0 to a doubling bound.

    The bound is `base`, twice that, and so on, at most `cap`. A random delay spreads the clients
    that lost one server over the whole interval, where a fixed one brings them back as one wave.
    With these defaults 1,000 of them knock fewer than 100 times in a tenth of a second, and wait a
    second for their first attempt on average (lesson 3 simulates it).

    Pass it to ``connect(reconnect_delays=...)``. Source: "full jitter" of
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/; RFC 6455, section
    7.2.3, asks for a random first delay too.

    Args:
        base: bound of the first delay, in seconds.
        cap: bound of any delay, in seconds.
        uniform: draws a number between two; for tests.

    Yields:
        The next delay in seconds, without end.
    """
    bound = base
    while True:
        yield uniform(0.0, min(bound, cap))
        # Doubled no further than needed: a float overflows after a thousand attempts.
        bound = min(bound * 2, cap)


def is_loopback(host: str) -> bool:
    """Whether `host` names this machine itself, where a proxy has no business.

    A server that listens everywhere prints 0.0.0.0 or :: as its host, which is this machine, too.

    Args:
        host: a URL's host: a name or an address.

    Returns:
        Whether it does.
    """
    try:
        address = ip_address(host)
        return address.is_loopback or address.is_unspecified
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def check_url(url: str) -> WebSocketURI:
    """Return the parts of a WebSocket URL.

    Args:
        url: such as ``ws://127.0.0.1:8765/rooms/tea``.

    Returns:
        Its parts, as `websockets` has them.

    Raises:
        UserError: it is none.
    """
    try:
        uri = parse_uri(url)
        uri.host.encode("idna")
    except (InvalidURI, ValueError):
        raise UserError(
            f"{printable(url)!r} is not a valid WebSocket URL: give it as ws://HOST:PORT/PATH,"
            " or with wss:// for TLS."
        ) from None
    return uri


def transient(exc: Exception) -> bool:
    """Whether another attempt may succeed where this one failed with `exc`.

    Args:
        exc: what `connect` raised.

    Returns:
        Whether it may.
    """
    if isinstance(exc, InvalidStatus) and exc.response.status_code in LATER:
        return True
    # `ssl.SSLError` is an `OSError` and passes for a network error, which it often is; but a
    # certificate that is not trusted will not be trusted in a second either.
    return not isinstance(exc, ssl.SSLCertVerificationError) and process_exception(exc) is None


def retry_after(exc: Exception) -> float:
    """Read how long the server asks us to wait before the next attempt.

    Args:
        exc: why an attempt failed.

    Returns:
        Seconds, from 0 to `LONGEST`; 0 where the server did not say, or said nothing sensible.

    Source: RFC 9110, section 10.2.3.
    """
    if not isinstance(exc, InvalidStatus):
        return 0.0
    values = exc.response.headers.get_all("Retry-After")
    value = values[0].strip() if values else ""
    if value.isascii() and value.isdigit():
        # More digits than these are beyond the limit anyway, and slow to convert.
        return LONGEST if len(value) > 9 else min(float(value), LONGEST)
    try:
        seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), LONGEST)


def explain(exc: Exception, uri: WebSocketURI, proxy: str | None = None) -> UserError:
    """Say in one sentence why there is no connection, and what to look at.

    Args:
        exc: why an attempt failed.
        uri: where it was to lead.
        proxy: the URL of the proxy on the way, if there is one.

    Returns:
        The error to raise.
    """
    where = f"{uri.host}:{uri.port}"
    if proxy and isinstance(exc, OSError) and not isinstance(exc, ssl.SSLError):
        # Only the proxy itself is connected to; it alone can be away.
        shown = printable(proxy.rpartition("@")[2].rpartition("://")[2])
        return UserError(
            f"the proxy {shown} on the way to {where} can't be reached: check http_proxy and its"
            f" kin in the environment, or add {uri.host} to no_proxy."
        )
    return UserError(f"{_sentence(exc, where, uri)}.")


def _sentence(exc: Exception, where: str, uri: WebSocketURI) -> str:
    match exc:
        case UserError():
            return str(exc).removesuffix(".")
        case ssl.SSLCertVerificationError():
            cure = ""
            if exc.verify_code in UNKNOWN_AUTHORITY:
                cure = " (if you trust who signed it, name a file with theirs in SSL_CERT_FILE)"
            return f"the TLS certificate of {where} is not trusted: {exc.verify_message}{cure}"
        case ssl.SSLError():
            reason = (getattr(exc, "reason", None) or str(exc)).replace("_", " ").lower()
            return f"TLS with {where} failed ({reason}): does this server expect ws://?"
        case ConnectionResetError() if uri.secure:
            return f"{where} broke off during the TLS handshake: does this server expect ws://?"
        case socket.gaierror():
            return f"the host {uri.host!r} is not known: check the URL"
        case TimeoutError():
            return f"{where} did not answer in time: check host and port"
        case InvalidStatus():
            code = exc.response.status_code
            phrase = next((each.phrase for each in HTTPStatus if each == code), "")
            said = printable(exc.response.body.decode(errors="replace").strip().split("\n")[0])
            says = f" ({said.rstrip('.')})" if said and "<" not in said else ""
            what = f"{code} {phrase}".strip()
            return f"{where} answered HTTP {what} for {printable(uri.resource_name)}{says}"
        case ProxyError() | InvalidProxy():
            return f"the proxy on the way to {where} failed: {printable(str(exc))}"
        case SecurityError():
            return f"{where} sent us elsewhere, and we don't follow: {printable(str(exc))}"
        case NegotiationError():
            return f"{where} chose what we did not offer: {printable(str(exc))}"
        case InvalidMessage():
            hint = "" if uri.secure else "; if it expects TLS, use wss://"
            return f"{where} does not speak WebSocket{hint}"
        case InvalidHandshake():
            return f"{where} did not accept the opening handshake: {printable(str(exc))}"
        case ConnectionRefusedError():
            return f"nobody accepts connections at {where}: start the server, or check the port"
        case OSError() if "Connect call failed" in str(exc):
            # asyncio folds the errors of several addresses into one text.
            return f"nobody accepts connections at {where}: start the server, or check the port"
        case _:
            return f"no connection to {where}: {printable(str(exc) or type(exc).__name__)}"
