"""Who a client is by its address: networks, and who stands behind a proxy.

A proxy in front of a server makes all clients look like one. It tells the real address in
``X-Forwarded-For``; but so can anybody who reaches the server without a proxy, so only what comes
from a proxy that the operator has named is believed.

Not handled here: the header ``Forwarded`` of RFC 7239, which few proxies write.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from wslessons.errors import UserError
from wslessons.guard.origins import read_address, refuse
from wslessons.limits import MAX_PER_ADDRESS, ConnectionLimit, Door

__all__ = ["LOOPBACK", "Forwarded", "Networks", "came_through_a_proxy"]

LOOPBACK = ("127.0.0.0/8", "::1")
"""This machine, as it sees itself."""

_WITH_PORT = re.compile(r"\[(?P<v6>[^\]]*)\](?::\d{1,5})?|(?P<v4>[\d.]+)(?::\d{1,5})?")


class Networks:
    """A set of addresses and networks; ``address in networks`` takes any text.

    >>> "192.168.7.7" in Networks(["192.168.0.0/16", "::1"])
    True

    Args:
        given: addresses such as ``10.0.0.5`` or networks such as ``10.0.0.0/8``.

    Raises:
        UserError: one of them is neither; the exit code is 2.
    """

    def __init__(self, given: Iterable[str]) -> None:
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for each in given:
            try:
                self._networks.append(ipaddress.ip_network(each))
            except ValueError:
                sentence = f"{each!r} is no address and no network: give 10.0.0.5 or 10.0.0.0/8."
                raise UserError(sentence, exit_code=2) from None

    def __contains__(self, text: object) -> bool:
        address = read_address(str(text))
        return address is not None and any(address in network for network in self._networks)


class Forwarded:
    """Take a client's address from the proxies that may tell it. Acts on both.

    Each proxy adds the address that it was called from to the end of ``X-Forwarded-For``: so it is
    read from the end, up to the first that is none of our proxies. What is no address ends the
    search; nothing of it gets any further, least of all into a log.

    Args:
        app: what stands behind it.
        proxies: addresses or networks of the proxies; by default nobody is believed.
        per_address: WebSockets at a time of one client behind them, 0 for any number; who wants
            more is refused with 429. (Without a proxy, the server counts, see `wslessons.limits`.)

    Raises:
        UserError: one of `proxies` is neither.
    """

    def __init__(
        self,
        app: ASGIApp,
        proxies: Networks | Iterable[str] = (),
        per_address: int = MAX_PER_ADDRESS,
    ) -> None:
        self.app = app
        self.proxies = proxies if isinstance(proxies, Networks) else Networks(proxies)
        self.limit = ConnectionLimit(sys.maxsize, per_address)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request with its client's address (ASGI)."""
        client = scope.get("client")
        if client and client[0] in self.proxies:
            told = Headers(scope=scope).getlist("x-forwarded-for")
            headers = [item for item in scope["headers"] if item[0] != b"x-forwarded-for"]
            client = self.behind(client, ",".join(told))
            scope = {**scope, "client": client, "headers": headers}
            if scope["type"] == "websocket":
                await self._count(client[0], scope, receive, send)
                return
        await self.app(scope, receive, send)

    async def _count(self, host: str, scope: Scope, receive: Receive, send: Send) -> None:
        if words := self.limit.enter(host):
            status, sentence = Door.answer(words)
            await refuse(scope, receive, send, status, sentence.strip())
            return
        try:
            await self.app(scope, receive, send)
        finally:
            self.limit.leave(host)

    def behind(self, client: tuple[str, int], told: str) -> tuple[str, int]:
        """Return the address that the header `told` has for a connection from `client`.

        >>> Forwarded(None, ["10.0.0.0/8"]).behind(("10.0.0.1", 1), "6.6.6.6, 7.7.7.7, 10.0.0.2")
        ('7.7.7.7', 0)

        Args:
            client: address and port of whoever has connected.
            told: the header's value: addresses with commas between them, the nearest one last.

        Returns:
            The last address that is none of our proxies, with port 0; `client` itself if there is
            none.
        """
        for each in reversed(told.split(",")):
            found = _WITH_PORT.fullmatch(each.strip())
            text = (found["v6"] or found["v4"] or "") if found else each.strip()
            if "%" in text:
                # A zone means something on its own machine only, and could hold any text.
                break
            try:
                client = str(ipaddress.ip_address(text)), 0
            except ValueError:
                break
            if client[0] not in self.proxies:
                break
        return client


def came_through_a_proxy(scope: Scope) -> bool:
    """Return whether a proxy that the operator has not named says that it sent the request.

    Args:
        scope: of the request (ASGI).

    Returns:
        Whether one does.
    """
    headers = Headers(scope=scope)
    return any(name in headers for name in ("x-forwarded-for", "forwarded", "x-real-ip", "via"))
