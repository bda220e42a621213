"""Which names a server answers to: no page of another name gets in, whatever the DNS says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from webs import serving

from wslessons import asgi, guard, push, web
from wslessons.errors import UserError
from wslessons.guard.origins import normal_host
from wslessons.testing.raw import UPGRADE, dial

HERE = "127.0.0.1"


@pytest.mark.parametrize(
    ("host", "reached", "allowed"),
    [
        ("localhost", HERE, True),
        ("LOCALHOST:8000", HERE, True),
        ("localhost.", HERE, True),
        ("127.0.0.1:8000", HERE, True),
        ("127.9.9.9", HERE, True),
        ("[::1]:8000", HERE, True),
        ("[0:0:0:0:0:0:0:1]", HERE, True),
        ("localhost", "192.168.7.7", True),
        ("192.168.7.7:8000", "192.168.7.7", True),
        ("192.168.7.7", "::ffff:192.168.7.7", True),
        ("[fe80::7]", "fe80::7", True),
        ("chat.example:8000", HERE, True),
        ("CHAT.Example.", HERE, True),
        ("xn--bcher-kva.example", HERE, True),
        ("10.0.0.5", HERE, True),
        ("192.168.7.8", "192.168.7.7", False),
        ("evil.example:8000", HERE, False),
        ("localhost.evil.example", HERE, False),
        ("evil-localhost", HERE, False),
        ("chat.example.evil.example", HERE, False),
        ("x.chat.example", HERE, False),
        ("evil.example@localhost", HERE, False),
        ("localhost@evil.example", HERE, False),
        ("localhost/evil.example", HERE, False),
        ("localhost?evil", HERE, False),
        ("localhost#evil", HERE, False),
        ("localhost\\evil", HERE, False),
        ("localhost:x", HERE, False),
        ("localhost:99999", HERE, False),
        ("[::1", HERE, False),
        ("2130706433", HERE, False),
        ("127.1", HERE, False),
        ("", "", False),
        (":8000", "", False),
        ("*", "", False),
    ],
)
def test_which_names_are_ours(host: str, reached: str, allowed: bool) -> None:
    """The address reached, this machine's own names, and those the operator gave: no other."""
    hosts = ["Chat.Example", "b\u00fccher.example", "10.0.0.5"]
    assert guard.HostCheck(Starlette(), hosts).allows(host, reached) is allowed


@given(st.text(), st.text())
def test_no_host_makes_the_check_crash(host: str, reached: str) -> None:
    """Whatever a client writes, the answer is yes or no."""
    assert guard.HostCheck(Starlette()).allows(host, reached) in (True, False)


def test_any_host_is_an_operators_word() -> None:
    """A star lets every name in, where something in front has seen to it."""
    assert guard.HostCheck(Starlette(), ["*"]).allows("hub.example")


@pytest.mark.parametrize(
    "given", ["", "https://chat.example", "chat.example:80", "*.example", "a b", "a\n", "[::1"]
)
def test_a_host_that_can_not_be_one_is_refused(given: str) -> None:
    """What could never match is one sentence at the start, with exit code 2."""
    with pytest.raises(UserError) as refused:
        web.application(hosts=[given])
    assert refused.value.exit_code == 2
    assert repr(given) in str(refused.value)


def test_hosts_have_one_form() -> None:
    """However it was written, and IPv6 in brackets or without."""
    assert normal_host("CHAT.example") == "chat.example"
    assert normal_host("::1") == normal_host("[::1]") == "[::1]"


APPLICATIONS: dict[str, Callable[..., Any]] = {
    "web": web.application,
    "push": lambda **options: push.application(push.Fleet(), **options),
}


@pytest.mark.parametrize("kind", APPLICATIONS)
async def test_rebinding_is_refused(kind: str) -> None:
    """A page whose name points to this machine gets 421, for all it asks, and 101 by no trick."""
    async with (
        asyncio.timeout(20),
        asgi.serve(APPLICATIONS[kind](hosts=["chat.example"])) as server,
    ):
        port = server.url.rpartition(":")[2]
        evil = f"Host: evil.example:{port}\r\nOrigin: http://evil.example:{port}\r\n"
        cases = {
            evil: 421,
            f"{evil}Host: localhost\r\n": 400,
            f"Host: localhost\r\n{evil}": 400,
            "": 400,
        }
        for path, more in (("/", ""), ("/ws", UPGRADE)):
            for headers, status in cases.items():
                async with dial(server.url) as client:
                    client.send(f"GET {path} HTTP/1.1\r\n{headers}Connection: close\r\n{more}\r\n")
                    head, _, body = (await client.rest()).decode().partition("\r\n\r\n")
                assert head.startswith(f"HTTP/1.1 {status} "), (headers, head)
                assert "nosniff" in head
                assert body.count("\n") <= 1
                assert "evil" not in head + body
        async with dial(server.url) as client:
            client.send("GET / HTTP/1.1\r\nHost: chat.example\r\nConnection: close\r\n\r\n")
            assert b" 200 OK" in await client.rest()


@pytest.mark.parametrize("kind", APPLICATIONS)
async def test_a_foreign_page_can_not_watch(kind: str) -> None:
    """Every application of ours checks who opens a WebSocket, also the one with nothing secret."""
    async with asyncio.timeout(20), asgi.serve(APPLICATIONS[kind]()) as server:
        for origin, status in (("http://evil.example", 403), (server.url, 101)):
            async with dial(server.url) as client:
                head = await client.handshake("/ws", f"Origin: {origin}\r\n")
                assert f" {status} ".encode() in head.partition(b"\r\n")[0]


async def test_nothing_redirects_to_a_name_that_a_client_chose() -> None:
    """A path with one slash too many is 404, and no Location repeats the request's Host."""
    async with serving(hosts=["*"]) as served:
        for path in ("/rooms/", "//evil.example/rooms/", "/static"):
            options: dict[str, Any] = {"allow_redirects": False}
            headers = {"Host": "evil.example"}
            status, _, answer = await served.request(path, headers=headers, **options)
            assert (status, answer.headers.get("Location")) == (404, None)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "/ticket", {"Origin": "http://evil.example"}, 403),
        ("OPTIONS", "/ticket", {"Origin": "http://evil.example"}, 405),
        (
            "OPTIONS",
            "/ticket",
            {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"},
            400,
        ),
        (
            "OPTIONS",
            "/ticket",
            {"Origin": "https://friend.example", "Access-Control-Request-Method": "POST"},
            200,
        ),
        ("GET", "/nowhere", {}, 404),
        ("DELETE", "/", {}, 405),
        ("GET", "/", {"Host": "evil.example"}, 421),
        ("GET", "/ws", {}, 426),
        ("GET", "/ws/rooms/a", {}, 426),
    ],
)
async def test_refusals_have_the_security_headers(
    method: str, path: str, headers: dict[str, str], status: int
) -> None:
    """Whoever refuses, CORS included, the answer says that no page should make anything of it."""
    async with serving(origins=["https://friend.example"]) as served:
        found, _, answer = await served.request(path, method, headers=headers)
        assert found == status
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "Server" not in answer.headers


async def test_a_websocket_without_upgrade_is_told_what_is_missing() -> None:
    """426 with the headers that it lacks: a proxy that cuts them off is the usual reason."""
    async with serving() as served:
        status, text, answer = await served.request("/ws")
        assert (status, answer.headers["Upgrade"]) == (426, "websocket")
        assert "ask for the upgrade" in text


async def test_a_bug_of_ours_has_the_security_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    """500 tells nothing about itself."""

    def broken(*args: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(web.WebChat, "may_observe", broken)
    async with serving() as served:
        status, text, answer = await served.request("/rooms")
        assert (status, "secret" in text) == (500, False)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
