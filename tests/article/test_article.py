"""The article's own programs: their client in our chat, our clients in theirs, and its faults.

They are of our own writing, in Rust, and do what the article's do; see each file in ``src/bin``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from pathlib import Path
from typing import TypeVar

import pytest
import rust
import shell
from websockets import ConnectionClosed, connect

from wslessons import cli, processes, serving
from wslessons.chat import ChatServer
from wslessons.chat.events import Joined, Left, Message, Welcome
from wslessons.client import ChatClient, Connected

# Building them may take a minute and a half.
pytestmark = pytest.mark.timeout(400)

E = TypeVar("E")


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    """Have them built before a test counts its time."""
    rust.program("chat")


async def first(client: ChatClient, kind: type[E]) -> E:
    """Return the next event of a kind."""
    async for event in client:
        if isinstance(event, kind):
            return event
    raise AssertionError("the client has ended")


async def test_their_client_talks_in_our_chat():
    """It is welcomed, it hears and is heard, and its `/quit` closes the connection."""
    async with (
        asyncio.timeout(50),
        ChatServer().serve() as server,
        ChatClient(serving.urls(server)[0], "bob") as bob,
    ):
        await first(bob, Welcome)
        client = await asyncio.create_subprocess_exec(
            *processes.guarded(rust.program("client"), serving.urls(server)[0], "rita"),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert client.stdin is not None
        assert client.stdout is not None
        try:
            while (await first(bob, Joined)).name != "rita":
                pass
            await bob.send("hello, rita")
            lines = [(await client.stdout.readline()).decode().rstrip() for _ in range(3)]
            assert lines == [
                "Welcome, rita!",
                "[system] >>> rita joined the chat",
                "[bob] hello, rita",
            ]
            client.stdin.write("grüße, bob\n/quit\n".encode())
            heard = await first(bob, Message)
            assert (heard.sender, heard.text) == ("rita", "grüße, bob")
            assert (await first(bob, Left)).name == "rita"
            assert await client.wait() == 0
        finally:
            if client.returncode is None:
                client.kill()
            await client.communicate()


async def test_our_clients_talk_in_their_chat():
    """They see that there is no subprotocol, and go on in plain text."""
    async with (
        asyncio.timeout(50),
        rust.serving("chat") as url,
        ChatClient(url, "ann") as ann,
        ChatClient(url, "bob") as bob,
    ):
        assert (await first(ann, Connected)).subprotocol is None
        await first(bob, Welcome)
        while (await first(ann, Joined)).name != "bob":
            pass
        await ann.send("hello, bob")
        heard = await first(bob, Message)
        assert (heard.sender, heard.text) == ("ann", "hello, bob")
        await bob.send("hello, ann")
        heard = await first(ann, Message)
        assert (heard.sender, heard.text) == ("bob", "hello, ann")


async def test_their_quit_ends_without_a_close_frame():
    """What their client calls leaving, a browser calls 1006."""
    async with asyncio.timeout(50), rust.serving("chat") as url:
        async with connect(url, proxy=None) as carol:
            await carol.send("carol")
            await carol.send("/quit")
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await carol.recv()
        assert carol.close_code == 1006


async def test_the_check_finds_the_faults_of_their_chat():
    """The deaf receiver after a lag, two of one name, the forged `system`."""
    async with asyncio.timeout(200), rust.serving("chat") as url:
        code, out, errors = await shell.run("check", "--url", url, "--as", "chat")
    assert (code, errors) == (1, "")
    found = {words: state for state, words in re.findall(r"^  (pass|fail) +(.+)$", out, re.M)}
    assert {
        "who says a name is welcomed, and told of the own arrival once": "pass",
        "a line reaches everybody but its sender": "pass",
        "two people of one name hear each other": "fail",
        "nobody is called system, and no name is blank": "fail",
        "who has lagged hears again what is said": "fail",
    }.items() <= found.items()


async def test_their_echo_is_one():
    """Texts, binary data and fragments; and one client who vanishes holds up nobody."""
    async with asyncio.timeout(100), rust.serving("echo") as url:
        _, out, _ = await shell.run("check", "--url", url, "--as", "echo")
    # It answers bad UTF-8 with no Close frame.
    assert "6 of 7 behaviours pass" in out
    assert "fail       a text that is no UTF-8" in out


async def test_their_web_server_has_our_protocol_and_plain_text():
    """By axum: one who speaks `chat.v1+json` and one who does not, in one room."""
    page = Path(serving.__file__).parent / "web" / "page"
    async with (
        asyncio.timeout(50),
        rust.serving("web", str(page)) as base,
        ChatClient(f"{base}/ws", "ann") as ann,
        ChatClient(f"{base}/ws", "bob", text=True) as bob,
    ):
        assert (await first(ann, Connected)).subprotocol == "chat.v1+json"
        await first(bob, Welcome)
        assert await ann.send("hello, bob") is not None
        heard = await first(bob, Message)
        assert (heard.sender, heard.text) == ("ann", "hello, bob")
        await bob.send("hello, ann")
        heard = await first(ann, Message)
        assert (heard.sender, heard.text) == ("bob", "hello, ann")


@pytest.mark.parametrize(
    ("bench", "name", "options"),
    [
        ("echo", "echo", ["--seconds", "0.1", "--connections", "5"]),
        ("connect", "chat", ["--connections", "20"]),
    ],
)
def test_they_join_a_bench(
    bench: str, name: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """As any server that is a command with a port."""
    peer = f"rust={rust.program(name)} {{port}}"
    file = tmp_path / "results.json"
    words = ["bench", bench, "--rounds", "1", *options, "--peer", peer, "--json", str(file)]
    assert cli.main(words) == 0
    assert "rust" in capsys.readouterr().out
    assert "rust" in json.dumps(json.loads(file.read_text()))


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        (None, "there is no cargo on PATH"),
        ("echo 'cargo 1.63.0'", r"cargo 1\.85 or newer is needed, and this is 'cargo 1\.63\.0'"),
        (
            "[ $1 = --version ] && echo cargo 2.0 && exit; echo 'failed to fetch x' >&2; exit 101",
            "failed to fetch x",
        ),
    ],
)
def test_what_is_lacking_is_said(
    script: str | None, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Without Cargo, with one that is too old, or without its registry, the tests are skipped."""
    if script is not None:
        cargo = tmp_path / "cargo"
        cargo.write_text(f"#!/bin/sh\n{script}\n")
        cargo.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(rust, "_built", rust._built.__wrapped__)
    with pytest.raises(pytest.skip.Exception, match=sentence):
        rust.program("chat")
