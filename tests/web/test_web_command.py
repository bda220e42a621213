"""``wslessons web``: what it prints, TLS, and how it ends."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import shell
import trustme
import webs
from waits import closed
from websockets import InvalidStatus, connect
from websockets.typing import Origin

from wslessons import cli
from wslessons.client import ChatClient
from wslessons.testing.raw import dial, handshake

FRIEND = Origin("https://friend.example")


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path, ssl.SSLContext]:
    """A chain, its key, and a client's context that trusts the authority behind them."""
    return webs.certificate(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_serves_and_ends_cleanly(number: signal.Signals):
    """The URL comes first; on the signal clients get 1001, and the exit code is 0."""
    words = ("web", "--port", "0", "--drain", "0.2")
    async with asyncio.timeout(40), shell.serving(*words) as server:
        assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d*", server.url)
        async with aiohttp.ClientSession() as session, session.get(server.url) as page:
            assert "<title>wslessons chat</title>" in await page.text()
        url = server.url.replace("http", "ws") + "/ws"
        async with connect(url, proxy=None) as alice, connect(url, proxy=None) as bob:
            for client, name in ((alice, "alice"), (bob, "bob")):
                await client.send(name)
                assert await client.recv() == f"Welcome, {name}!"
            ending = asyncio.create_task(server.end(number))
            assert await closed(alice) == await closed(bob) == (1001, "the server is going away")
        code, errors = await ending
        assert code == 0
        assert "Traceback" not in errors
        assert "alice joined /" in errors


async def test_a_load_balancer_is_told_while_people_are_sent_away():
    """During the drain new connections are answered: 503 to a check, and to who wants to enter."""
    words = ("web", "--port", "0", "--drain", "30")
    async with asyncio.timeout(40), shell.serving(*words) as server:
        url = server.url.replace("http", "ws") + "/ws"
        people = [await connect(url, proxy=None) for _ in range(10)]
        async with (
            aiohttp.ClientSession() as session,
            session.get(server.url + "/healthz") as answer,
        ):
            assert answer.status == 200
        ending = asyncio.create_task(server.end(signal.SIGTERM))
        # A connection of its own for each request, as a balancer's checks have.
        while True:
            connector = aiohttp.TCPConnector(force_close=True)
            async with (
                aiohttp.ClientSession(connector=connector) as session,
                session.get(server.url + "/healthz") as answer,
            ):
                if answer.status == 503:
                    assert await answer.text() == "draining\n"
                    break
        assert not ending.done()
        with pytest.raises(InvalidStatus) as refusal:
            await connect(url, proxy=None)
        assert refusal.value.response.status_code == 503
        for client in people:
            await client.close()
        code, errors = await ending
        assert (code, "Traceback" in errors) == (0, False)


@pytest.mark.parametrize("origin", ["friend.example", "*", "https://friend.example/chat"])
async def test_an_origin_that_can_never_match_is_one_sentence(origin: str):
    """It is refused at the start, with exit code 2, and before anything is served."""
    async with asyncio.timeout(40):
        code, out, errors = await shell.run("web", "--port", "0", "--origins", origin)
    assert (code, out, errors.count("\n")) == (2, "", 1)
    assert repr(origin) in errors
    assert "https://example.com" in errors


async def test_it_ends_in_bounded_time_with_a_mute_client():
    """A client that answers nothing, and one in the middle of its handshake, hold up nobody."""
    words = ("web", "--port", "0", "--drain", "0")
    async with asyncio.timeout(40), shell.serving(*words) as server:
        host, port = server.url.removeprefix("http://").split(":")
        _, idle = await asyncio.open_connection(host, int(port))
        reader, mute = await asyncio.open_connection(host, int(port))
        mute.write(handshake("/ws"))
        assert b"101 Switching Protocols" in await reader.readline()
        code, errors = await server.end(signal.SIGTERM)
        assert (code, "Traceback" in errors) == (0, False)
        for writer in (idle, mute):
            writer.close()


async def test_it_serves_tls(certificate: tuple[Path, Path, ssl.SSLContext]):
    """With a certificate it is https:// and wss://, and who doesn't trust it stays outside."""
    certfile, keyfile, context = certificate
    files = ("--certfile", str(certfile), "--keyfile", str(keyfile))
    words = ("web", "--port", "0", "--drain", "0", *files)
    async with asyncio.timeout(40), shell.serving(*words) as server:
        assert server.url.startswith("https://127.0.0.1:")
        async with (
            aiohttp.ClientSession() as session,
            session.post(server.url + "/ticket", ssl=context) as answer,
        ):
            ticket = (await answer.json())["ticket"]
        url = server.url.replace("https", "wss") + "/ws"
        options: dict[str, Any] = {"proxy": None, "ssl": context, "origin": server.url}
        async with connect(f"{url}?ticket={ticket}", **options) as client:
            await client.send("alice")
            assert await client.recv() == "Welcome, alice!"
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect(url, proxy=None)
        assert (await server.end())[0] == 0


async def test_origins_are_let_in():
    """`--origins` names the pages that may connect beside its own."""
    words = ("web", "--port", "0", "--drain", "0", "--origins", FRIEND)
    async with asyncio.timeout(40), shell.serving(*words) as server:
        url = server.url.replace("http", "ws") + "/ws"
        async with connect(url, proxy=None, origin=FRIEND) as client:
            # Let in by its origin, and sent for a ticket.
            assert (await closed(client))[0] == 1008


async def test_the_terminals_client_talks_to_it():
    """`wslessons client` gets in without a ticket and is heard by another client."""
    async with asyncio.timeout(40), shell.serving("web", "--port", "0", "--drain", "0") as server:
        url = server.url.replace("http", "ws") + "/ws"
        async with ChatClient(url, "bob") as bob:
            code, _, errors = await shell.run("client", url, "--name", "tess", stdin="hi bob\n")
            assert (code, "Traceback" in errors) == (0, False)
            async for event in bob:
                if getattr(event, "text", "") == "hi bob":
                    break


async def test_port_in_use_is_one_sentence():
    """A port that is taken ends with 1 and one sentence that says what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        async with asyncio.timeout(40):
            code, out, errors = await shell.run("web", "--port", port)
    says = f"port {port} on 127.0.0.1 is in use: choose another port, or 0 for a free one."
    assert (code, out, errors) == (1, "", f"wslessons: {says}\n")


async def test_a_wrong_certificate_is_one_sentence(
    certificate: tuple[Path, Path, ssl.SSLContext], tmp_path: Path
):
    """A missing file, a file that is none, a foreign key: each is one sentence."""
    certfile, keyfile, _ = certificate
    nonsense, missing = tmp_path / "nonsense.pem", tmp_path / "missing.pem"
    nonsense.write_text("nothing")
    foreign = tmp_path / "foreign.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_pem.write_to_path(str(foreign))
    belong = "are no certificate with its key: give PEM files that belong together"
    cases: list[tuple[list[object], int, str]] = [
        (["--certfile", missing], 1, f"can't read {missing}: no such file or directory."),
        (["--certfile", nonsense, "--keyfile", keyfile], 1, belong),
        (["--certfile", certfile, "--keyfile", foreign], 1, belong),
        (["--certfile", certfile], 1, "and the key in it " + belong),
        (["--keyfile", keyfile], 2, "--keyfile needs the certificate too: add --certfile."),
    ]
    async with asyncio.timeout(50):
        for words, expected, sentence in cases:
            code, out, errors = await shell.run("web", "--port", "0", *map(str, words))
            assert (code, out) == (expected, "")
            assert sentence in errors
            assert errors.count("\n") == 1


async def test_a_missing_extra_is_one_sentence(tmp_path: Path):
    """Without the extra the sentence names it."""
    (tmp_path / "itsdangerous.py").write_text(
        "raise ModuleNotFoundError('absent', name='itsdangerous')\n"
    )
    async with asyncio.timeout(40):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(tmp_path))
            code, out, errors = await shell.run("web", "--port", "0")
    says = "itsdangerous is not installed: get it with pip install 'wslessons[web]'."
    assert (code, out, errors) == (1, "", f"wslessons: {says}\n")


async def test_its_bounds_are_options():
    """The words of `wslessons chat`: each bound is what the command line says."""
    words = ["--max-connections", "3", "--max-size", "100", "--max-rooms", "1", "--drain", "0"]
    words += ["--rate", "2", "--burst", "4", "--ping-interval", "0.3", "--ping-timeout", "0.3"]
    async with asyncio.timeout(40), shell.serving("web", "--port", "0", *words) as server:
        url = server.url.replace("http", "ws") + "/ws"
        async with connect(url, proxy=None) as alice, connect(url, proxy=None) as bob:
            for client, name in ((alice, "alice"), (bob, "bob")):
                await client.send(name)
                assert await client.recv() == f"Welcome, {name}!"
            async with dial(server.url) as mute:
                await mute.handshake()
                with pytest.raises(InvalidStatus) as refusal:
                    await connect(url, proxy=None)
                assert refusal.value.response.status_code == 503
                # It does not answer pings.
                assert await mute.closing() == (1011, "heartbeat timeout")
            await alice.send("x" * 101)
            assert (await closed(alice))[0] == 1009
            await asyncio.gather(*(bob.send(f"{number}") for number in range(6)))
            code, errors = await server.end(signal.SIGTERM)
        assert (code, "Traceback" in errors) == (0, False)
        assert "refused with 503: too many connections" in errors
        assert "does not answer pings: dropped" in errors


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--max-connections", "0"), "'0' is not a number of 1 or more"),
        (("--rate", "-1"), "'-1' is not a number of 0 or more"),
        (("--hosts", "https://a.example"), "the host 'https://a.example' "),
        (("--proxies", "proxy"), "'proxy' is no address and no network"),
        (("--observers", "10.0.0.1/8"), "'10.0.0.1/8' is no address and no network"),
    ],
)
def test_a_bound_that_is_none_is_one_sentence(
    words: tuple[str, str], says: str, capsys: pytest.CaptureFixture[str]
):
    """What can't be is refused at the start, with exit code 2."""
    try:
        code: object = cli.main(["web", "--port", "0", *words])
    except SystemExit as exc:
        code = exc.code
    out, errors = capsys.readouterr()
    assert (code, out) == (2, "")
    assert says in errors
