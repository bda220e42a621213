"""Whose address a server believes, and who may see what it knows about others."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from webs import serving
from websockets import InvalidStatus

from wslessons import guard, web
from wslessons.errors import UserError
from wslessons.testing.raw import dial

ME = ("127.0.0.1", 1234)


@pytest.mark.parametrize(
    ("told", "client"),
    [
        ("6.6.6.6", ("6.6.6.6", 0)),
        ("1.1.1.1, 6.6.6.6", ("6.6.6.6", 0)),
        ("6.6.6.6, 10.0.0.2", ("6.6.6.6", 0)),
        ("10.0.0.2", ("10.0.0.2", 0)),
        ("6.6.6.6:9999", ("6.6.6.6", 0)),
        ("2001:db8::7", ("2001:db8::7", 0)),
        ("[2001:db8::7]:9999", ("2001:db8::7", 0)),
        ("forged words", ME),
        ("6.6.6.6 GET /admin 200", ME),
        ("forged, 10.0.0.2", ("10.0.0.2", 0)),
        ("6.6.6.6,", ME),
        (", ,", ME),
        ("", ME),
        ("\x9b31mred", ME),
        ("A" * 3000, ME),
        ("1.2.3.4.5", ME),
        ("unknown", ME),
        ("fe80::1%12:00 root logged in", ME),
        ("[fe80::1%\x1b[2J]:80", ME),
    ],
)
def test_who_stands_behind_a_proxy(told: str, client: tuple[str, int]) -> None:
    """Read from the end, up to the first that is no proxy of ours; what is no address ends it."""
    check = guard.Forwarded(Starlette(), ["127.0.0.1", "10.0.0.0/8"])
    assert check.behind(ME, told) == client


@given(st.text())
def test_no_header_makes_it_crash(told: str) -> None:
    """Whatever was told, an address comes out."""
    host, _ = guard.Forwarded(Starlette(), ["127.0.0.1"]).behind(ME, told)
    assert host in guard.Networks(["0.0.0.0/0", "::/0"])


@pytest.mark.parametrize("given", ["", "proxy.example", "10.0.0.1/8", "10.0.0.0/33", "*"])
def test_what_is_no_network_is_refused(given: str) -> None:
    """One sentence, with exit code 2, wherever addresses are given."""
    for make in (
        lambda: web.application(proxies=[given]),
        lambda: web.application(observers=[given]),
        lambda: guard.Forwarded(Starlette(), [given]),
    ):
        with pytest.raises(UserError) as refused:
            make()
        assert refused.value.exit_code == 2
        assert repr(given) in str(refused.value)


async def test_by_default_nobody_is_believed(caplog: pytest.LogCaptureFixture) -> None:
    """A client can't choose the address that the log has of it, nor write into the log."""
    caplog.set_level(logging.INFO, "wslessons")
    forged = {"X-Forwarded-For": "9.9.9.9:1 GET /admin 200 in 1.0 ms FORGED"}
    async with serving() as served:
        await served.request("/healthz", headers=forged)
        async with served.join("ann", additional_headers=forged):
            pass
    text = caplog.text
    assert "9.9.9.9" not in text
    assert "FORGED" not in text
    assert "127.0.0.1:" in text


async def test_a_named_proxy_is_believed(caplog: pytest.LogCaptureFixture) -> None:
    """The log has the real client's address, of a request and of a member."""
    caplog.set_level(logging.INFO, "wslessons")
    told = {"X-Forwarded-For": "1.1.1.1, 6.6.6.6"}
    async with serving(proxies=["127.0.0.1"]) as served:
        await served.request("/healthz", headers=told)
        async with served.join("ann", additional_headers=told):
            pass
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("6.6.6.6") and "GET /healthz" in line for line in lines)
    assert any("ann joined / from 6.6.6.6" in line for line in lines)
    assert "1.1.1.1" not in caplog.text


async def test_behind_a_proxy_each_client_is_counted_by_its_own_address() -> None:
    """Whoever has too many WebSockets is told so with 429; others come in, and so do proxies."""
    async with serving(proxies=["127.0.0.1"], max_per_address=2) as served:

        def behind(told: str) -> Any:
            return served.connect(additional_headers={"X-Forwarded-For": told})

        async with behind("6.6.6.6"), behind("6.6.6.6"), behind("7.7.7.7"):
            with pytest.raises(InvalidStatus) as refused:
                await behind("6.6.6.6")
            assert refused.value.response.status_code == 429
            assert refused.value.response.body == (
                b"Too many connections from 6.6.6.6: try again later.\n"
            )
        async with behind("6.6.6.6"):
            pass


@pytest.mark.parametrize("path", ["/rooms", "/metrics"])
async def test_only_observers_see_who_is_there(path: str) -> None:
    """This machine may, and whom the operator names; what came through some proxy may not."""
    async with serving(proxies=["127.0.0.1"], observers=["10.0.0.0/8"]) as served:
        for told, status in (("", 200), ("6.6.6.6", 403), ("10.7.7.7", 200)):
            headers = {"X-Forwarded-For": told} if told else {}
            assert (await served.request(path, headers=headers))[0] == status
    async with serving() as served:
        for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"):
            assert (await served.request(path, headers={name: "127.0.0.1"}))[0] == 403
        # A balancer's question is everybody's.
        assert (await served.request("/healthz", headers={"Via": "x"}))[0] == 200


async def test_a_client_can_not_choose_labels() -> None:
    """A thousand close codes are few time series."""
    async with serving() as served:
        for code in (1000, 3000, 3333, 4000, 4001, 4999):
            async with dial(served.url) as client:
                await client.handshake()
                client.send(b"\x88\x82\0\0\0\0" + code.to_bytes(2, "big"))
                await client.rest()
        metrics = await served.metrics()
        closed = {name: n for name, n in metrics.items() if "closed_total" in name}
        assert closed == {
            'chat_connections_closed_total{code="1000"}': 1,
            'chat_connections_closed_total{code="3xxx"}': 2,
            'chat_connections_closed_total{code="4xxx"}': 3,
        }
