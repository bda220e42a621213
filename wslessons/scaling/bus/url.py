"""The URL of a bus, and the bus that it names.

SCHEME://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...][/DATABASE][?OPTION=VALUE[&OPTION=VALUE...]]

| scheme | broker |
|---|---|
| `nats`, `tls` | NATS, the second over TLS; a user without a password is a token |
| `redis`, `rediss` | Redis, the second over TLS; only here is there a DATABASE, a number |
| `kafka`, `kafka+ssl` | Kafka, the second over TLS |

``sqlite:PATH[?max_events=N]`` is a file, for one server: ``sqlite:chat.db``.

What would be a separator in a user name or password is percent-encoded, as ``%23`` for ``#``. With
TLS the broker's certificate is checked, against the authorities that the system trusts or those in
the file that the option `ca` names. No sentence here shows what stands before the ``@``, or the
value of an option.
"""

from __future__ import annotations

import random
import re
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from wslessons.errors import UserError
from wslessons.scaling.bus.bus import Bus, Memory
from wslessons.scaling.bus.log import Log
from wslessons.scaling.bus.pubsub import PubSub
from wslessons.scaling.bus.transport import LogTransport

__all__ = ["OPTIONS", "Address", "from_url", "with_options"]

SCHEMES = {
    "nats": ("nats", False),
    "tls": ("nats", True),
    "redis": ("redis", False),
    "rediss": ("redis", True),
    "kafka": ("kafka", False),
    "kafka+ssl": ("kafka", True),
}
"""The kind of broker, and whether TLS is spoken."""
PORTS = {"nats": 4222, "redis": 6379, "kafka": 9092}
OPTIONS = {
    "nats": {"subject", "stream", "replicas", "max_age", "max_bytes", "ca"},
    "redis": {"channel", "stream", "sentinel", "max_len", "ca"},
    "kafka": {"topic", "fetch_wait", "ca"},
}
HOST = r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])"


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
    if url.startswith("sqlite:"):
        return Log(_file(url), **options)
    address = Address(url)
    # Each client is an extra, so it is imported only when a URL asks for it.
    if address.kind == "nats":
        from wslessons.scaling.bus import nats

        if address.has("stream"):
            return Log(nats.JetStream(address), **options)
        return PubSub(nats.Core(address), **options)
    if address.kind == "redis":
        from wslessons.scaling.bus import redis

        if address.has("stream"):
            return Log(redis.Streams(address), **options)
        return PubSub(redis.Channels(address), **options)
    from wslessons.scaling.bus import kafka

    return Log(kafka.Topic(address), **options)


def _file(url: str) -> LogTransport:
    """Return the log in the file that ``sqlite:PATH[?max_events=N]`` names."""
    from wslessons.scaling.bus.sqlite import File

    path, _, query = url.removeprefix("sqlite:").partition("?")
    match = re.fullmatch(r"(?:max_events=([1-9][0-9]{0,17}))?", query)
    # What looks like another scheme's host would become a folder nobody expects.
    if not path or path.startswith("//") or match is None:
        raise UserError(
            "this is not a valid URL of a file: give sqlite:PATH, such as sqlite:chat.db, with"
            " ?max_events=N if it is to keep another number of events than 100,000."
        )
    return File(Path(path), int(match[1] or 100_000))


def with_options(url: str, options: str) -> str:
    """Return `url` with further options, as ``stream=chat``; with none if that is empty.

    Args:
        url: a bus's.
        options: joined by ``&``.

    Returns:
        The URL.
    """
    return f"{url}{'&' if '?' in url else '?'}{options}" if options else url


class Address:
    """A bus's URL, taken apart.

    >>> address = Address("nats://ann:secret@a:4222,b/?stream=chat")
    >>> address.hosts, address.user, address.option("stream", "")
    (['a:4222', 'b:4222'], 'ann', 'chat')

    Args:
        url: the URL.

    Raises:
        UserError: it is no such URL, or has an option that nobody knows.

    Attributes:
        kind: the kind of broker: "nats", "redis" or "kafka".
        tls: whether TLS is spoken.
        user: the user name, empty if there is none.
        password: the password, empty if there is none.
        hosts: the hosts, each with its port.
        database: its number, 0 if it is not given.
        shown: the URL without credentials and options, for sentences.
    """

    def __init__(self, url: str) -> None:
        scheme, separator, rest = url.partition("://")
        scheme = scheme.lower()
        self.shown = _shown(url)
        if not separator or scheme not in SCHEMES:
            raise UserError(
                f"{self.shown} is not a valid URL of a bus: give memory:, sqlite:PATH, "
                "nats://HOST:PORT, redis://HOST:PORT or kafka://HOST:PORT; or, with TLS, tls://, "
                "rediss:// or kafka+ssl://."
            )
        self.kind, self.tls = SCHEMES[scheme]
        authority, path, query, mark = _split(rest)
        if mark:
            raise UserError(
                f"the URL {self.shown} has {mark!r} where it can't be: in a user name or password,"
                f" write it as %{ord(mark):02X}, and an @ in an option as %40."
            )
        credentials, _, hosts = authority.rpartition("@")
        user, _, password = credentials.partition(":")
        self.user, self.password = unquote(user), unquote(password)
        self.hosts = [self._host(text) for text in hosts.split(",")]
        self.shown = f"{scheme}://{self.hosts_text}"
        self.database = self._database(path.strip("/"))
        self._options = dict(parse_qsl(query, keep_blank_values=True))
        for name, value in self._options.items():
            if name not in OPTIONS[self.kind] or not value:
                known = ", ".join(sorted(OPTIONS[self.kind]))
                raise UserError(
                    f"the URL {self.shown} has an option {name!r} that {self.kind} does not know, "
                    f"or without a value: the options are {known}."
                )
        if self.has("ca") and not self.tls:
            raise UserError(f"the option ca means nothing for {self.shown}, which is without TLS.")

    @property
    def hosts_text(self) -> str:
        """The hosts as in the URL."""
        return ",".join(self.hosts)

    @property
    def ca(self) -> str | None:
        """The file with the authorities that certify the broker; None for those of the system."""
        return self._options.get("ca")

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return what checks the broker's certificate, None without TLS.

        Raises:
            UserError: the file with the authorities can't be used.
        """
        if not self.tls:
            return None
        try:
            return ssl.create_default_context(cafile=self.ca)
        except OSError as exc:  # also ssl.SSLError
            raise UserError(
                f"the file that ca names in the URL {self.shown} has no certificates that can be "
                f"read: {exc.strerror or exc}."
            ) from None

    def shuffled(self) -> list[str]:
        """Return the hosts in random order, so that not all servers prefer the first."""
        return random.sample(self.hosts, len(self.hosts))

    def has(self, name: str) -> bool:
        """Return whether the URL has this option.

        Args:
            name: the option.

        Returns:
            Whether it has.
        """
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
                f"the value of {name} in the URL {self.shown} can't be used: "
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
        if not (value.isascii() and value.isdigit() and len(value) < 19 and int(value)):
            raise UserError(
                f"the value of {name} in the URL {self.shown} is not a number of 1 or more."
            )
        return int(value)

    def _host(self, text: str) -> str:
        host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
        if not colon:
            host, port = host or text, str(PORTS[self.kind])
        fits = re.fullmatch(HOST, host) and re.fullmatch("[0-9]{1,5}", port)
        if not fits or not 0 < int(port) < 65536:
            raise UserError(f"the URL {self.shown} lacks a host or has no proper port.")
        return f"{host}:{port}"

    def _database(self, text: str) -> int:
        if not text:
            return 0
        if self.kind != "redis":
            raise UserError(f"the URL {self.shown} has a path, which {self.kind} has no use for.")
        if not re.fullmatch("[0-9]{1,6}", text):
            raise UserError(
                f"the database in the URL {self.shown} is not a number: give it as {self.shown}/0."
            )
        return int(text)


def _split(rest: str) -> tuple[str, str, str, str]:
    """Return authority, path and query, and a character that keeps them from being told apart."""
    place = re.search("[/?#]", rest)
    authority, tail = (rest[: place.start()], rest[place.start() :]) if place else (rest, "")
    path, _, query = tail.partition("?")
    return authority, path, query, tail[0] if "@" in tail else "#" if "#" in tail else ""


def _shown(url: str) -> str:
    """Return as much of a URL as can't be a secret, whatever is wrong with it."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return repr(url) if re.fullmatch("[A-Za-z0-9_-]{1,32}", url) else "what is given"
    hosts = re.split("[/?#]", rest.rpartition("@")[2])[0]
    shown = scheme if re.fullmatch("[A-Za-z][A-Za-z0-9+.-]{0,15}", scheme) else "..."
    return f"{shown}://{hosts if _is_hosts(hosts) else '...'}"


def _is_hosts(text: str) -> bool:
    one = f"(?:{HOST})?(?::[0-9]{{0,5}})?"
    return re.fullmatch(f"{one}(?:,{one})*", text) is not None
