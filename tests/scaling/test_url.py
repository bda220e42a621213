"""The URL of a bus: what it may say, and that no sentence about it tells a secret."""

from __future__ import annotations

import string
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wslessons.errors import UserError
from wslessons.scaling.bus import from_url
from wslessons.scaling.bus.url import SCHEMES, Address, with_options

SECRET = "Pa55word"
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (f"mqtt://app:{SECRET}@h", "mqtt://h is not a valid URL of a bus"),
        (f"redis:/:{SECRET}@cache.example", "what is given is not a valid URL of a bus"),
        (f"app:{SECRET}@cache.example:6379", "what is given is not a valid URL of a bus"),
        (
            "natz",
            "'natz' is not a valid URL of a bus: give memory:, sqlite:PATH, nats://HOST:PORT, ",
        ),
        (f"redis://:{SECRET}#x@cache.example:6379", "has '#' where it can't be"),
        (f"redis://:x#{SECRET}@cache.example:6379", "write it as %23"),
        (f"redis://:x/{SECRET}@cache.example:6379", "write it as %2F"),
        (f"nats://ann:x?{SECRET}@nats.example", "write it as %3F"),
        (f"redis://:{SECRET}", "redis://... lacks a host or has no proper port"),
        (f"redis://{SECRET}@", "redis:// lacks a host"),
        (f"redis://ann:{SECRET}@cache.example:6379/chat", "redis://cache.example:6379/0"),
        ("redis://cache.example/\u00b2", "the database in the URL redis://cache.example:6379"),
        ("nats://nats.example/chat", "has a path, which nats has no use for"),
        (f"nats://h?password={SECRET}", "an option 'password' that nats does not know"),
        (f"nats://h?stream={SECRET}!", "the value of stream in the URL nats://h:4222 can't"),
        (f"nats://h?stream=a&replicas={SECRET}", "is not a number of 1 or more"),
        ("nats://h?stream=a&replicas=" + "9" * 5000, "is not a number of 1 or more"),
        (f"tls://ann:{SECRET}@h?ca=/no/such/{SECRET}", "has no certificates that can be read"),
        ("redis://h?ca=/some/file", "the option ca means nothing for redis://h:6379"),
        ("nats://", "lacks a host"),
        ("redis://h:99999", "no proper port"),
        ("nats://h:1,:2", "lacks a host"),
        (f"nats://u:{SECRET}@h?strem=x", "the options are ca, max_age"),
        ("nats://h?stream=a.b", "a name has letters, digits, hyphens and underscores"),
        ("nats://h_\u00e9", "lacks a host or has no proper port"),
        ("nats://[::1", "lacks a host or has no proper port"),
        ("redis://h:\u0663", "no proper port"),
    ],
)
def test_what_is_wrong_is_said_without_the_secret(url: str, says: str):
    """One sentence, with nothing from before the @ and no value of an option."""
    with pytest.raises(UserError) as info:
        from_url(url)
    assert says in str(info.value)
    assert SECRET not in str(info.value)
    assert "\n" not in str(info.value)


@given(user=TEXT, password=TEXT, scheme=st.sampled_from(sorted(SCHEMES)))
def test_any_user_and_password_can_be_written(user: str, password: str, scheme: str):
    """Percent-encoded, they are read as they were."""
    address = Address(f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@a,b:1")
    assert (address.user, address.password) == (user, password)
    assert (len(address.hosts), address.hosts[1]) == (2, "b:1")


@given(
    before=st.text(string.printable, max_size=12),
    between=st.text(string.printable, max_size=12),
    scheme=st.sampled_from([*SCHEMES, "REDIS", "http", ""]),
)
def test_no_sentence_shows_a_password_however_wrong_the_url(before: str, between: str, scheme: str):
    """Whatever stands around it, a password before an @ is not repeated."""
    try:
        said = Address(f"{scheme}://{before}{SECRET}{between}@host:99999/x?y=z").shown
    except UserError as exc:
        said = str(exc)
    assert SECRET not in said


@pytest.mark.parametrize(
    ("url", "kind", "tls", "hosts"),
    [
        ("nats://a", "nats", False, ["a:4222"]),
        ("TLS://a:1", "nats", True, ["a:1"]),
        ("Redis://[::1]", "redis", False, ["[::1]:6379"]),
        ("rediss://[::1]:7/3", "redis", True, ["[::1]:7"]),
        ("kafka+ssl://a,b:1/", "kafka", True, ["a:9092", "b:1"]),
    ],
)
def test_kind_and_hosts(url: str, kind: str, tls: bool, hosts: list[str]):
    """Schemes in capitals are as good, and each kind has a port of its own."""
    address = Address(url)
    assert (address.kind, address.tls, address.hosts) == (kind, tls, hosts)


def test_options_are_added():
    """After what is there already."""
    assert with_options("kafka://h", "topic=a") == "kafka://h?topic=a"
    assert with_options("kafka://h?fetch_wait=5", "topic=a") == "kafka://h?fetch_wait=5&topic=a"
    assert with_options("kafka://h", "") == "kafka://h"
