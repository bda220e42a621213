"""The URL of a bus, and the bus that it names.

SCHEME://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...][/PATH][?OPTION=VALUE]
"""

from __future__ import annotations

import random
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from wslessons.errors import UserError
from wslessons.scaling.bus.bus import Bus, Memory
from wslessons.scaling.bus.log import Log
from wslessons.scaling.bus.pubsub import PubSub

__all__ = ["OPTIONS", "Address", "from_url"]

PORTS = {"nats": 4222, "redis": 6379, "kafka": 9092}
OPTIONS = {
    "nats": {"subject", "stream", "replicas", "max_age", "max_bytes"},
    "redis": {"channel", "stream", "sentinel", "max_len"},
    "kafka": {"topic", "fetch_wait"},
}


def from_url(url: str, **options: Any) -> Bus:
    """Return the bus that `url` names, not connected yet: ``async with from_url(...) as bus``.

    Args:
        url: see the table in `wslessons.scaling.bus`.
        options: the arguments of `Memory`, `PubSub` or `Log`; those of all three are `node` and
            `keep`.

    Returns:
        The bus.

    Raises:
        UserError: the URL can't be used, or needs an extra that is not installed.
    """
    if url in ("memory:", "memory://"):
        return Memory(**options)
    address = Address(url)
    # Each client is an extra, so it is imported only when a URL asks for it.
    if address.scheme == "nats":
        from wslessons.scaling.bus import nats

        if address.has("stream"):
            return Log(nats.JetStream(address), **options)
        return PubSub(nats.Core(address), **options)
    if address.scheme == "redis":
        from wslessons.scaling.bus import redis

        if address.has("stream"):
            return Log(redis.Streams(address), **options)
        return PubSub(redis.Channels(address), **options)
    from wslessons.scaling.bus import kafka

    return Log(kafka.Topic(address), **options)


class Address:
    """A bus's URL, taken apart.

    >>> address = Address("nats://ann:secret@a:4222,b/?stream=chat")
    >>> address.hosts, address.user, address.option("stream", "")
    (['a:4222', 'b:4222'], 'ann', 'chat')

    Args:
        url: the URL, with the scheme ``nats``, ``redis`` or ``kafka``.

    Raises:
        UserError: it is no such URL, or has an option that nobody knows.
    """

    def __init__(self, url: str) -> None:
        self.scheme, separator, rest = url.partition("://")
        if not separator or self.scheme not in PORTS:
            raise UserError(
                f"{url!r} is not a valid URL of a bus: give memory:, nats://HOST:PORT, "
                "redis://HOST:PORT or kafka://HOST:PORT."
            )
        # `urlsplit` takes one port only.
        parts = urlsplit(f"x://{rest}")
        credentials, _, hosts = parts.netloc.rpartition("@")
        user, _, password = credentials.partition(":")
        self.user, self.password = unquote(user), unquote(password)
        self.hosts = [self._host(text, url) for text in hosts.split(",")]
        self.path = parts.path.strip("/")
        self._options = dict(parse_qsl(parts.query, keep_blank_values=True))
        for name, value in self._options.items():
            if name not in OPTIONS[self.scheme] or not value:
                known = ", ".join(sorted(OPTIONS[self.scheme]))
                raise UserError(
                    f"{name}={value} in {self.shown} is not an option of {self.scheme}: "
                    f"the options are {known}."
                )

    @property
    def hosts_text(self) -> str:
        """The hosts as in the URL."""
        return ",".join(self.hosts)

    @property
    def shown(self) -> str:
        """The URL without its credentials, for sentences."""
        return f"{self.scheme}://{self.hosts_text}"

    def shuffled(self) -> list[str]:
        """Return the hosts in random order, so that not all servers prefer the first."""
        return random.sample(self.hosts, len(self.hosts))

    def has(self, name: str) -> bool:
        """Return whether the URL has this option."""
        return name in self._options

    def option(self, name: str, default: str) -> str:
        """Return the value of an option that names a subject or a topic.

        Args:
            name: the option.
            default: its value if the URL does not have it.

        Returns:
            The value.

        Raises:
            UserError: it can't be such a name.
        """
        value = self._options.get(name, default)
        if not value.replace("-", "").replace("_", "").isalnum() or not value.isascii():
            raise UserError(
                f"{name}={value} in {self.shown} can't be used: "
                "a name has letters, digits, hyphens and underscores."
            )
        return value

    def number(self, name: str, default: int) -> int:
        """Return the value of an option that is a number.

        Args:
            name: the option.
            default: its value if the URL does not have it.

        Returns:
            The value.

        Raises:
            UserError: it is not a whole number of 1 or more.
        """
        value = self._options.get(name, str(default))
        if not (value.isascii() and value.isdigit() and int(value)):
            raise UserError(f"{name}={value} in {self.shown} is not a number of 1 or more.")
        return int(value)

    def _host(self, text: str, url: str) -> str:
        host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
        if not colon:
            host, port = host or text, str(PORTS[self.scheme])
        if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            shown = f"{self.scheme}://{url.rpartition('@')[2].removeprefix(self.scheme + '://')}"
            raise UserError(f"{shown!r} lacks a host or has no proper port.")
        return f"{host}:{port}"
