"""How many may connect: in all, from one address, and never more than there are descriptors."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wslessons import limits
from wslessons.limits import ConnectionLimit


def test_in_all_and_for_each_address() -> None:
    """Either limit refuses with words that say which; who leaves makes room."""
    limit = ConnectionLimit(most=4, per_address=2)
    assert [limit.enter("192.0.2.1"), limit.enter("192.0.2.1"), limit.enter("192.0.2.2")] == [
        ""
    ] * 3
    assert limit.enter("192.0.2.1") == "too many connections from 192.0.2.1"
    assert not limit.full
    assert limit.enter("127.0.0.1") == ""
    assert limit.full
    assert limit.enter("127.0.0.1") == "too many connections"
    limit.leave("192.0.2.1")
    assert (limit.open, limit.enter("192.0.2.1")) == (3, "")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "", None])
def test_this_machine_is_not_counted_by_address(host: str | None) -> None:
    """A proxy here, or a lesson, has as many as there are; so has who has no address."""
    limit = ConnectionLimit(most=100, per_address=1)
    assert [limit.enter(host) for _ in range(100)] == [""] * 100
    assert limit.enter(host)


def test_an_ipv6_network_counts_as_one_client() -> None:
    """Who has 2**64 addresses is still one; another network is another."""
    limit = ConnectionLimit(per_address=2)
    assert limit.enter("2001:db8:0:7::1") == limit.enter("2001:db8:0:7:ffff::2%eth0") == ""
    assert limit.enter("2001:db8:0:7:1::3") == "too many connections from 2001:db8:0:7::/64"
    assert limit.enter("2001:db8:0:8::1") == ""
    assert limit.enter("::ffff:192.0.2.1") == limit.enter("192.0.2.1") == ""
    assert limit.enter("192.0.2.1")


def test_zero_is_any_number_from_one_address() -> None:
    """The limit in all stays."""
    limit = ConnectionLimit(most=50, per_address=0)
    assert [limit.enter("192.0.2.1") for _ in range(50)] == [""] * 50
    assert limit.enter("192.0.2.1") == "too many connections"


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3))))
def test_it_counts_truly(steps: list[tuple[bool, int]]) -> None:
    """Whatever the order, nobody who left is remembered, and no count is below nothing."""
    limit, inside = ConnectionLimit(most=5, per_address=2), []
    for coming, number in steps:
        host = f"192.0.2.{number}"
        if coming:
            expected = len(inside) < 5 and inside.count(host) < 2
            assert (limit.enter(host) == "") is expected
            inside += [host] * expected
        elif host in inside:
            inside.remove(host)
            limit.leave(host)
        assert limit.open == len(inside)
    for host in inside:
        limit.leave(host)
    assert (limit.open, dict(limit._by_address)) == (0, {})


@pytest.mark.skipif(sys.platform == "win32", reason="there sockets are no files")
def test_the_default_leaves_descriptors_for_other_things(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a process may open few files, there is room for fewer connections than that."""
    monkeypatch.setattr(limits, "descriptors", lambda: 256)
    assert ConnectionLimit().most == 192
    monkeypatch.setattr(limits, "descriptors", lambda: 10)
    assert ConnectionLimit().most == 1
    monkeypatch.setattr(limits, "descriptors", lambda: 10**6)
    assert ConnectionLimit().most == limits.MAX_CONNECTIONS


@pytest.mark.skipif(sys.platform == "win32", reason="there sockets are no files")
def test_a_process_may_open_what_it_is_allowed_to() -> None:
    """The soft limit is raised to the hard one, up to a bound, and never lowered."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
        assert limits.descriptors() == 200
        limits.raise_descriptors()
        assert limits.descriptors() == min(before[1], 65_536)
        limits.raise_descriptors()
        assert limits.descriptors() == min(before[1], 65_536)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
