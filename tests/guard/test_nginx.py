"""A real nginx in front of our servers, with the settings that travel with the package."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import ssl
import subprocess
import sys
import sysconfig
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import webs
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from waits import until
from websockets import ConnectionClosedError, InvalidStatus, ServerConnection, connect

from wslessons import asgi, cli, processes, serving, web
from wslessons.errors import UserError
from wslessons.guard import files, nginx
from wslessons.testing.raw import dial

NAMED: dict[str, Any] = {"hosts": ["127.0.0.1"], "proxies": ["127.0.0.1"]}
"""How a server behind the proxy is started."""

pytestmark = pytest.mark.skipif(
    not shutil.which("nginx", path=nginx.search_path()) and not os.environ.get("CI"),
    reason="nginx is not installed here",
)


@pytest.fixture(autouse=True)
async def in_time() -> AsyncGenerator[None]:
    """Nothing here lasts longer."""
    async with asyncio.timeout(50):
        yield


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, ssl.SSLContext]:
    """A chain, its key, and a client's context that trusts the authority behind them."""
    return webs.certificate(tmp_path_factory.mktemp("tls"))


def join(proxy: nginx.Nginx, **options: Any) -> Any:
    """Connect to the chat's WebSocket through nginx."""
    return connect(f"{proxy.ws_url}/ws", proxy=None, close_timeout=2, **options)


async def say_name(client: Any, name: str) -> None:
    """Join, and read up to one's own join."""
    await client.send(name)
    await webs.read_until(client, f"[system] >>> {name} joined the chat")


async def test_people_talk_through_it() -> None:
    """With the settings as they are, the chat is there, with its page."""
    async with web.serve(**NAMED) as server, nginx.serve([server.url]) as proxy:
        async with join(proxy) as ann, join(proxy) as bob:
            await say_name(ann, "ann")
            await say_name(bob, "bob")
            await ann.send("hello")
            assert await bob.recv() == "[ann] hello"
        async with aiohttp.ClientSession() as session, session.get(proxy.url) as page:
            assert "<title>" in await page.text()
            assert page.headers["Server"] == "nginx"


EXPLAINED = "Here is a WebSocket: ask for the upgrade."


@pytest.mark.parametrize(
    ("line", "value", "status", "said"),
    [
        ("proxy_set_header Upgrade", None, 426, "missing Upgrade header"),
        # What nginx 1.22 does without these lines; 1.30 needs neither of them.
        ("proxy_set_header Connection", "close", 426, "invalid Connection header: close"),
        ("proxy_http_version", "1.0", 505, "unsupported HTTP version: HTTP/1.0"),
    ],
)
async def test_without_one_of_three_lines_there_is_no_websocket(
    line: str, value: str | None, status: int, said: str
) -> None:
    """The handshake is answered with a sentence, by both kinds of server."""

    async def never(connection: ServerConnection) -> None:
        raise AssertionError

    async with web.serve(**NAMED) as first, serving.serve(never) as second:
        (bare,) = serving.urls(second, "http")
        for url in (first.url, bare):
            async with nginx.serve([url], settings={line: value}) as proxy:
                with pytest.raises(InvalidStatus) as refused:
                    async with join(proxy):
                        pass
                response = refused.value.response
                words = (response.body or b"").decode().partition("\n")[0]
                # The library by itself says which header it has got, and which version of HTTP.
                library = f"Failed to open a WebSocket connection: {said}."
                expected = (status, library) if url == bare else (426, EXPLAINED)
                assert (response.status_code, words) == expected


async def test_the_name_that_was_asked_for_is_passed_on() -> None:
    """Else the server is asked for nginx's own name, and can't tell its own page from another."""
    async with web.serve(**NAMED) as server:
        for value, own, other in (
            ("$http_host", 101, 403),
            ("$host", 403, 403),  # without the port
            (None, 421, 421),  # nginx's name for the servers
        ):
            settings = {"proxy_set_header Host": value}
            async with nginx.serve([server.url], settings=settings) as proxy:
                for origin, expected in ((proxy.url, own), ("https://evil.example", other)):
                    try:
                        async with join(proxy, origin=origin):
                            status = 101
                    except InvalidStatus as error:
                        status = error.response.status_code
                    assert (value, origin, status) == (value, origin, expected)


async def test_the_log_has_the_clients_address(caplog: pytest.LogCaptureFixture) -> None:
    """And not the proxy's, nor what a client makes up; each address has so many connections."""
    caplog.set_level(logging.INFO, "wslessons")
    forged = {"X-Forwarded-For": "6.6.6.6"}
    here: dict[str, Any] = {"local_addr": ("127.0.0.2", 0), "additional_headers": forged}
    async with (
        web.serve(**NAMED, max_per_address=0) as server,
        nginx.serve([server.url]) as proxy,
        join(proxy, **here) as ann,
    ):
        await say_name(ann, "ann")
    assert any("ann joined / from 127.0.0.2" in each.getMessage() for each in caplog.records)
    assert "6.6.6.6" not in caplog.text


async def test_each_client_has_its_share_of_connections() -> None:
    """One address has two; the next is told 429, and another address comes in."""
    given: dict[str, Any] = {"proxies": ["127.0.0.1", "127.0.0.3"]}
    async with web.serve(**NAMED | given, max_per_address=2) as server:
        # Loopback is not counted, so nginx tells of addresses that are not.
        who = {"proxy_set_header X-Forwarded-For": "$http_x_from"}
        async with nginx.serve([server.url], settings=who) as proxy:

            def behind(address: str) -> Any:
                return join(proxy, additional_headers={"X-From": address})

            async with behind("192.0.2.1"), behind("192.0.2.1"), behind("192.0.2.2"):
                with pytest.raises(InvalidStatus) as refused:
                    async with behind("192.0.2.1"):
                        pass
                assert refused.value.response.status_code == 429


async def test_a_silent_connection_is_cut_off() -> None:
    """After proxy_read_timeout, without a close frame, for both sides."""
    settings = {"proxy_read_timeout": "1s"}
    async with (
        web.serve(**NAMED, heartbeat=(50, 50)) as server,
        nginx.serve([server.url], settings=settings) as proxy,
        join(proxy, ping_interval=None) as ann,
    ):
        await say_name(ann, "ann")
        with pytest.raises(ConnectionClosedError) as closed:
            await ann.recv()
        assert closed.value.rcvd is None


async def test_a_heartbeat_keeps_it() -> None:
    """The server's pings are something that it says."""
    settings = {"proxy_read_timeout": "2s"}
    async with (
        web.serve(**NAMED, heartbeat=(0.2, 40)) as server,
        nginx.serve([server.url], settings=settings) as proxy,
        join(proxy, ping_interval=None) as ann,
    ):
        await say_name(ann, "ann")
        await asyncio.sleep(2.5)
        await ann.send("/who")
        assert await ann.recv() == "[system] here now: ann"


class Endless:
    """A stream of server-sent events that says how much of it has been taken."""

    def __init__(self) -> None:
        self.sent = 0
        self.app = Starlette(routes=[Route("/", self.events)])

    async def events(self, request: Request) -> Response:
        """Send one event, and then as many as the other side takes."""

        async def stream() -> AsyncGenerator[bytes]:
            yield b"data: 1\n\n"
            while self.sent < LOTS:
                self.sent += 65_536
                yield b": " + b"x" * 65_532 + b"\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")


LOTS = 64_000_000


async def test_a_reader_that_takes_nothing_is_the_servers_to_see() -> None:
    """nginx passes on what comes, and holds no more of it than sockets do."""
    endless = Endless()
    async with (
        asgi.serve(endless.app) as server,
        nginx.serve([server.url]) as proxy,
        dial(proxy.url) as client,
    ):
        client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        await client.reader.readuntil(b"data: 1\n\n")
        client.stop_reading()
        before = -1
        while before < endless.sent:
            before = endless.sent
            await asyncio.sleep(0.5)
        assert before < LOTS


async def test_with_buffering_it_would_look_as_if_all_was_taken() -> None:
    """That is nginx's default."""
    endless = Endless()
    async with (
        asgi.serve(endless.app) as server,
        nginx.serve([server.url], settings={"proxy_buffering": "on"}) as proxy,
        dial(proxy.url) as client,
    ):
        client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        client.stop_reading()
        await until(lambda: endless.sent >= LOTS)


async def test_tls_ends_at_the_proxy(
    tls: tuple[Path, Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    """wss:// with the authority's certificate; without it no connection, whoever answers."""
    chain, key, context = tls
    async with web.serve(**NAMED) as server, nginx.serve([server.url], (chain, key)) as proxy:
        assert proxy.ws_url.startswith("wss://")
        async with join(proxy, ssl=context) as ann:
            await say_name(ann, "ann")
        with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
            async with join(proxy):
                pass
        # A file with the authority's certificate, for programs that have no option for it.
        monkeypatch.setenv("SSL_CERT_FILE", str(chain.parent / "authority.pem"))
        async with join(proxy):
            pass


async def test_a_reload_cuts_nobody_off() -> None:
    """Who is there stays with the old server; who comes goes to the new one."""
    async with (
        web.serve(**NAMED) as first,
        web.serve(**NAMED) as second,
        nginx.serve([first.url]) as proxy,
        join(proxy) as ann,
    ):
        await say_name(ann, "ann")
        await asyncio.to_thread(proxy.reload, [second.url])
        async with join(proxy) as bob:
            await say_name(bob, "bob")
            await bob.send("/who")
            assert await bob.recv() == "[system] here now: bob"
        await ann.send("/who")
        assert await ann.recv() == "[system] here now: ann"


async def test_what_it_can_not_use_changes_nothing() -> None:
    """The reload says so in a sentence, and the old settings stay."""
    async with web.serve(**NAMED) as server, nginx.serve([server.url]) as proxy:
        with pytest.raises(UserError, match=r"nginx keeps its settings: .*invalid value"):
            await asyncio.to_thread(proxy.reload, None, {"proxy_read_timeout": "soon"})
        await asyncio.to_thread(proxy.reload)
        async with join(proxy) as ann:
            await say_name(ann, "ann")


@contextlib.asynccontextmanager
async def two() -> AsyncGenerator[tuple[asgi.AppServer, asgi.AppServer, nginx.Nginx]]:
    """Two servers behind one name."""
    async with (
        web.serve(**NAMED) as one,
        web.serve(**NAMED) as other,
        nginx.serve([one.url, other.url]) as proxy,
    ):
        yield one, other, proxy


async def test_two_servers_share_what_comes() -> None:
    """Each new connection goes to where the fewest are."""
    async with two() as (one, other, proxy), contextlib.AsyncExitStack() as stack:
        for _ in range(6):
            await stack.enter_async_context(join(proxy))
        await until(lambda: len(one.connections) == len(other.connections) == 3)


async def test_a_server_that_is_down_is_passed_over() -> None:
    """Nobody who comes notices."""
    async with two() as (one, other, proxy), contextlib.AsyncExitStack() as stack:
        await one.stop()
        for _ in range(6):
            await stack.enter_async_context(join(proxy))
        assert len(other.connections) == 6


async def test_it_starts_again_on_its_port() -> None:
    """After SIGKILL, too, which leaves no worker behind that would go on serving."""
    async with web.serve(**NAMED) as server, nginx.serve([server.url]) as proxy:
        port = proxy.port
        await asyncio.to_thread(proxy.kill)
        with pytest.raises(ConnectionRefusedError):
            async with join(proxy):
                pass
        await asyncio.to_thread(proxy.start)
        assert proxy.port == port
        async with join(proxy):
            pass


async def test_a_port_that_somebody_took_is_left_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """It tries another."""
    async with web.serve(**NAMED) as server:
        ports = iter([int(server.url.rpartition(":")[2]), processes.free_port()])
        monkeypatch.setattr(processes, "free_port", lambda: next(ports))
        async with nginx.serve([server.url]) as proxy, join(proxy):
            pass


def test_where_it_is_not_installed_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to do."""
    monkeypatch.setattr(nginx, "search_path", lambda: os.devnull)
    with pytest.raises(UserError, match="nginx is not installed here: install it"):
        nginx.Nginx([])


def test_a_line_that_is_not_there_can_not_be_changed() -> None:
    """A misspelt one would change nothing, silently."""
    with pytest.raises(UserError, match="no line that begins with 'proxy_red_timeout'"):
        nginx.changed(files.read("nginx.conf"), {"proxy_red_timeout": "1s"})


def test_the_file_is_a_valid_one(tmp_path: Path, tls: tuple[Path, Path, ssl.SSLContext]) -> None:
    """As it travels, but for paths of another machine."""
    chain, key, _ = tls
    text = nginx.changed(
        files.read("nginx.conf"),
        {
            "pid": str(tmp_path / "pid"),
            "user": None,
            "error_log": "stderr",
            "access_log": f"{tmp_path / 'access.log'} plain",
            "ssl_certificate": str(chain),
            "ssl_certificate_key": str(key),
        },
    )
    (tmp_path / "nginx.conf").write_text(text)
    command = [nginx.find_program(), "-t", "-c", str(tmp_path / "nginx.conf")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert "syntax is ok" in done.stderr
    assert "warn" not in done.stderr


def unit() -> str:
    """The unit for systemd."""
    return files.read("wslessons.service")


def test_the_unit_starts_a_command_that_is_there() -> None:
    """With options that it has."""
    (line,) = [each for each in unit().splitlines() if each.startswith("ExecStart=")]
    program, *words = line.partition("=")[2].split()
    assert Path(program).name == "wslessons"
    args = cli.build_parser().parse_args(words)
    assert args.hosts == ["chat.example.com"]
    assert args.proxies == ["127.0.0.1"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed here")
def test_the_unit_is_a_valid_one(tmp_path: Path) -> None:
    """systemd has nothing to say about it."""
    installed = str(Path(sysconfig.get_path("scripts"), "wslessons"))
    path = tmp_path / "wslessons.service"
    path.write_text(unit().replace("/opt/wslessons/bin/wslessons", installed))
    command = ["systemd-analyze", "verify", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_shell_prints_them() -> None:
    """A list, or the file itself, byte for byte; of what there is not, a sentence."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "wslessons", "files", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=30)

    assert [line.split()[0] for line in run().stdout.splitlines()] == [*files.FILES]
    for name in files.FILES:
        assert run(name).stdout == files.read(name)
    wrong = run("apache.conf")
    assert wrong.returncode == 2
    assert wrong.stderr == (
        "wslessons: there is no file 'apache.conf': choose nginx.conf or wslessons.service.\n"
    )
