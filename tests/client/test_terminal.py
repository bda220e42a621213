"""The terminal's chat client in a real pseudo-terminal and in pipes, in both protocols."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import shell
from websockets import Server, ServerConnection
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from wslessons import serving
from wslessons.chat import ChatServer
from wslessons.chat.events import (
    SUBPROTOCOL,
    Error,
    Joined,
    Left,
    Message,
    Missed,
    Roster,
    Welcome,
    encode,
)
from wslessons.client import ChatClient, Connected, Disconnected, Notice, Retrying
from wslessons.client.stdin import LONGEST, Decoder
from wslessons.client.terminal import render, status, visible
from wslessons.link import Link

on_a_terminal = pytest.mark.skipif(sys.platform == "win32", reason="a pseudo-terminal needs Unix")
PROTOCOLS = pytest.mark.parametrize("words", [[], ["--json"]], ids=["text", "json"])


@asynccontextmanager
async def chat_server(**options: Any) -> AsyncGenerator[tuple[Server, str]]:
    """Run a chat; give its server and its URL."""
    async with ChatServer(**options).serve() as server:
        yield server, serving.urls(server)[0]


class Terminal:
    """`wslessons client` in a pseudo-terminal, with somebody who types and looks."""

    def __init__(self, *words: str) -> None:
        import pexpect

        self.eof = pexpect.EOF
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", "wslessons", "client", *words],
            # No real terminal answers here, so the program must not ask where its cursor is.
            env=os.environ | {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
            dimensions=(24, 120),
            encoding="utf-8",
            timeout=20,
        )
        self.seen = ""

    async def sees(self, text: str) -> None:
        """Wait until `text` is on the screen, after what was seen before."""
        await self._expect(re.escape(text))

    async def types(self, text: str) -> None:
        """Type `text`, and see it."""
        self.child.send(text)
        await self.sees(text.rstrip("\r"))

    async def is_ready(self) -> None:
        """Wait until a prompt follows what was seen: its keys would be the system's before."""
        await self.sees("\x1b[?2004h")

    async def end(self) -> int:
        """Wait for the end of the program; return its exit code."""
        await self._expect(self.eof)
        await asyncio.to_thread(self.child.wait)
        assert self.child.exitstatus is not None
        return self.child.exitstatus

    async def _expect(self, pattern: Any) -> None:
        # In a thread, as the server that talks to it runs on this loop.
        await asyncio.to_thread(self.child.expect, pattern)
        self.seen += f"{self.child.before}{self.child.after}"


@asynccontextmanager
async def terminal(*words: str) -> AsyncGenerator[Terminal]:
    """Start the program in a terminal; end it if it still runs."""
    screen = Terminal(*words)
    try:
        yield screen
    finally:
        await asyncio.to_thread(screen.child.close, force=True)


async def until(client: ChatClient, event: Any) -> None:
    """Iterate until this event; a message counts by its sender and text."""
    async for found in client:
        if isinstance(found, Message) and isinstance(event, Message):
            if (found.sender, found.text) == (event.sender, event.text):
                return
        elif type(found) is type(event) and getattr(found, "name", 0) == getattr(event, "name", 1):
            return
    raise AssertionError("the iteration ended")


# Somebody types.


@on_a_terminal
@PROTOCOLS
async def test_lines_arrive_while_you_type(words: list[str]):
    """A line that arrives goes above the prompt, and what is half typed stays and can be sent."""
    async with (
        asyncio.timeout(50),
        chat_server() as (_, url),
        ChatClient(url, "alice") as alice,
        terminal(url, "--name", "bob", *words) as bob,
    ):
        await bob.sees("* HTTP 101 Switching Protocols; ")
        await bob.sees("chat.v1+json" if words else "plain text")
        await bob.sees("Welcome, bob!")
        await bob.sees("[system] >>> bob joined the chat")
        await bob.is_ready()
        await bob.types("half a li")
        await alice.send("hello bob")
        await bob.sees("[alice] hello bob")
        await bob.sees("> half a li")
        bob.child.send("ne\r")
        await until(alice, Message("bob", "half a line"))
        bob.child.send("\r   \r/who\r")
        await bob.sees("[system] here now: alice, bob")
        await bob.types("/quit\r")
        await bob.sees("* closed: 1000 (OK)")
        assert await bob.end() == 0
        await until(alice, Left("bob"))


@on_a_terminal
@PROTOCOLS
@pytest.mark.parametrize("key", ["\x04", "\x03"], ids=["EOF", "Ctrl-C"])
async def test_keys_that_end_it(words: list[str], key: str):
    """Ctrl-D, and Ctrl-C in the middle of a line, complete the closing handshake and end with 0."""
    async with (
        asyncio.timeout(50),
        chat_server() as (_, url),
        ChatClient(url, "alice") as alice,
        terminal(url, "--name", "bob", *words) as bob,
    ):
        await bob.sees("bob joined the chat")
        await bob.is_ready()
        if key == "\x03":
            await bob.types("never sent")
        bob.child.send(key)
        await bob.sees("* closed: 1000 (OK)")
        assert await bob.end() == 0
        await until(alice, Left("bob"))


@on_a_terminal
@PROTOCOLS
async def test_server_that_closes_is_noticed_in_the_middle_of_typing(words: list[str]):
    """Code and reason are shown at once, the program ends with 1, and the terminal is itself."""
    import termios

    async with (
        asyncio.timeout(50),
        chat_server() as (server, url),
        terminal(url, "--name", "bob", *words) as bob,
    ):
        before = termios.tcgetattr(bob.child.child_fd)
        await bob.sees("bob joined the chat")
        await bob.is_ready()
        await bob.types("half a li")
        server.close(code=4321, reason="lunch")
        await bob.sees("* closed: 4321 (private use) lunch")
        await bob.sees("wslessons: the server closed the connection for good: 4321 (lunch).")
        assert await bob.end() == 1
        assert termios.tcgetattr(bob.child.child_fd) == before


@on_a_terminal
async def test_server_that_is_done_ends_it_cleanly():
    """A close with 1000 is no error."""
    async with (
        asyncio.timeout(50),
        chat_server() as (server, url),
        terminal(url, "--name", "bob") as bob,
    ):
        await bob.sees("bob joined the chat")
        await bob.is_ready()
        server.close(code=1000, reason="good night")
        await bob.sees("* closed: 1000 (OK) good night")
        assert await bob.end() == 0


@on_a_terminal
async def test_broken_connection_is_replaced():
    """With --json a break is told, and then what was said meanwhile is there."""
    async with (
        asyncio.timeout(50),
        chat_server() as (_, url),
        Link(url) as link,
        ChatClient(url, "alice") as alice,
        terminal(link.url, "--name", "bob", "--json") as bob,
    ):
        await bob.sees("bob joined the chat")
        await bob.is_ready()
        await until(alice, Joined("bob"))
        with link.cut():
            await until(alice, Left("bob"))
            await alice.send("while you were away")
        await bob.sees("* the connection broke: 1006, no close frame came")
        await bob.sees("* next attempt in ")
        await bob.sees("[alice] while you were away")
        await bob.types("back again\r")
        await until(alice, Message("bob", "back again"))


@on_a_terminal
async def test_closing_is_bounded():
    """A server that does not answer the close frame is not waited for without end, and named."""
    async with (
        asyncio.timeout(50),
        chat_server() as (_, url),
        Link(url) as link,
        terminal(link.url, "--name", "bob") as bob,
    ):
        await bob.sees("bob joined the chat")
        await bob.is_ready()
        with link.stall():
            await bob.types("/quit\r")
            await bob.sees("* the server did not answer the close frame")
            assert await bob.end() == 0


@on_a_terminal
async def test_line_that_may_not_have_arrived_is_not_success():
    """In plain text nothing acknowledges a line; a server that answers nothing may lack it."""
    async with (
        asyncio.timeout(50),
        chat_server() as (_, url),
        Link(url) as link,
        terminal(link.url, "--name", "bob") as bob,
    ):
        await bob.sees("bob joined the chat")
        await bob.is_ready()
        with link.stall():
            await bob.types("hello\r")
            await bob.is_ready()
            await bob.types("/quit\r")
            await bob.sees("wslessons: the server did not answer: the last lines may not have")
            assert await bob.end() == 1


async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one WebSocket that welcomes people, and drops the connection at a close frame."""
    protocol = ServerProtocol()
    while data := await reader.read(65536):
        protocol.receive_data(data)
        for event in protocol.events_received():
            if isinstance(event, Request):
                protocol.send_response(protocol.accept(event))
            elif isinstance(event, Frame) and event.opcode is Opcode.CLOSE:
                writer.close()
                return
            elif isinstance(event, Frame) and event.data == b"bob":
                protocol.send_text(b"Welcome, bob!")
        for output in protocol.data_to_send():
            writer.write(output)
    writer.close()


@pytest.mark.parametrize("stdin", ["/quit\n", "hello\n/quit\n", "hello\n"])
async def test_server_that_drops_the_connection_at_the_end(stdin: str):
    """Who wanted to go and has said everything ends with 0, and is told what happened."""
    async with asyncio.timeout(50), await asyncio.start_server(drop, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        url = f"ws://127.0.0.1:{port}"
        code, out, errors = await shell.run("client", url, "--name", "bob", stdin=stdin)
        assert (code, out) == (0, "Welcome, bob!\n")
        assert errors.splitlines()[-1] == "* the server did not answer the close frame"


HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\n[system] >>> forged\x9b31m\u202eevil"
SHOWN = r"\x1b[2J\x1b]0;owned\x07\r\n[system] >>> forged\x9b31m\u202eevil"


async def hostile(connection: ServerConnection) -> None:
    """Send what could steer a terminal, to whoever comes."""
    name = await connection.recv()
    await connection.send(f"Welcome, {name}!")
    await connection.send(HOSTILE)
    await connection.wait_closed()


@on_a_terminal
async def test_control_characters_are_shown_and_not_executed():
    """Nothing that arrives can clear the screen, set its title or begin a line of its own."""
    async with (
        asyncio.timeout(50),
        serving.serve(hostile) as server,
        terminal(serving.urls(server)[0], "--name", "bob") as bob,
    ):
        await bob.sees(SHOWN)
        await bob.is_ready()
        await bob.types("/quit\r")
        assert await bob.end() == 0
        assert "\x1b[2J" not in bob.seen
        assert "\x1b]0;owned" not in bob.seen
        assert "\x9b" not in bob.seen


# Pipes.


@PROTOCOLS
async def test_piped_lines(words: list[str]):
    """Each line is sent, blank ones are not; what arrives is on stdout, the rest on stderr."""
    async with asyncio.timeout(50), chat_server() as (_, url), ChatClient(url, "alice") as alice:
        code, out, errors = await shell.run(
            "client", url, "--name", "bot", *words, stdin="one\n\n  \ntwo\r\n/who\nlast"
        )
        assert code == 0
        assert out.splitlines() == [
            "Welcome, bot!",
            "[system] >>> bot joined the chat",
            "[system] here now: alice, bot",
        ]
        assert errors.splitlines()[0].startswith("* HTTP 101 Switching Protocols; ")
        assert errors.splitlines()[1:] == ["* closed: 1000 (OK)"]
        await until(alice, Joined("bot"))
        for text in ("one", "two", "last"):
            event = await anext(alice)
            assert isinstance(event, Message)
            assert event.text == text


async def test_pipe_shows_each_line_as_it_comes():
    """Output is not held back until the end, and hostile text is written out here, too."""
    async with (
        asyncio.timeout(50),
        serving.serve(hostile) as server,
        shell.serving("client", serving.urls(server)[0], "--name", "bot") as client,
    ):
        assert await client.line() == SHOWN
        server.close(code=1000)
        assert await client.process.wait() == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send")
async def test_interrupted_pipe_ends_cleanly():
    """Ctrl-C sends a close frame also where nobody types."""
    async with asyncio.timeout(50), chat_server() as (_, url), ChatClient(url, "alice") as alice:
        async with shell.serving("client", url, "--name", "bot") as client:
            await until(alice, Joined("bot"))
            code, errors = await client.end(signal.SIGINT)
            assert (code, errors.splitlines()[-1]) == (0, "* closed: 1000 (OK)")
        await until(alice, Left("bot"))


async def test_server_that_closes_a_pipe():
    """A close by the server ends a client whose input goes on, with 1 and one sentence."""
    async with (
        asyncio.timeout(50),
        chat_server() as (server, url),
        shell.serving("client", url, "--name", "bot") as client,
    ):
        assert await client.line() == "[system] >>> bot joined the chat"
        server.close(code=4000, reason="no bots")
        assert await client.wait() == 1
        last = client.errors.rest().splitlines()[-1]
        assert last == "wslessons: the server closed the connection for good: 4000 (no bots)."


@PROTOCOLS
async def test_bad_line_of_a_pipe_is_told_and_the_others_are_said(words: list[str]):
    """A line that the server would not take harms only itself; the exit code is 1."""
    async with asyncio.timeout(50), chat_server() as (_, url), ChatClient(url, "alice") as alice:
        stdin = "first\n" + "x" * 9000 + "\n" + "y" * 200_000 + "\nthird\n"
        code, _, errors = await shell.run("client", url, "--name", "bot", *words, stdin=stdin)
        assert code == 1
        assert errors.splitlines()[-1].startswith("wslessons: 2 lines were not said")
        assert "8,192 bytes" in errors
        assert len(errors) < 1000
        await until(alice, Joined("bot"))
        for text in ("first", "third"):
            event = await anext(alice)
            assert isinstance(event, Message)
            assert event.text == text


async def test_lines_that_were_too_fast_are_counted():
    """In plain text a line counts as said when it is written; what the server refuses does not."""
    async with asyncio.timeout(50), chat_server(rate=0.1, burst=3, debt=4) as (_, url):
        stdin = "".join(f"line {n}\n" for n in range(10))
        code, out, errors = await shell.run("client", url, "--name", "bot", stdin=stdin)
        assert code == 1
        assert "this was not said: line 7" in out
        assert errors.splitlines()[-1].startswith("wslessons: 3 lines were not said")


@PROTOCOLS
async def test_line_that_a_closing_server_did_not_take_is_not_success(words: list[str]):
    """A server that is done (1000) while a line waits for its answer leaves that line unsaid."""
    protocols = [Subprotocol(SUBPROTOCOL)] if words else None

    async def done(connection: ServerConnection) -> None:
        await connection.recv()
        if words:
            await connection.send(encode(Welcome("bot", "/", "e", 0, [], 0)), text=True)
            await connection.recv()
        else:
            await connection.send("Welcome, bot!")
        await connection.close(1000)

    async with asyncio.timeout(50), serving.serve(done, subprotocols=protocols) as server:
        lines = "".join(f"{number} {'x' * 4000}\n" for number in range(2000))
        url = serving.urls(server)[0]
        code, _, errors = await shell.run("client", url, "--name", "bot", *words, stdin=lines)
        assert code == 1
        assert errors.splitlines()[-1].startswith("wslessons: ")
        assert "not said" in errors.splitlines()[-1]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
async def test_byte_order_mark_is_no_part_of_the_first_line(encoding: str):
    """What Windows redirects is read as it was meant, a command in the first line too."""
    async with asyncio.timeout(50), chat_server() as (_, url):
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "wslessons", "client", url, "--name", "bot"],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate("/who\r\n".encode(encoding))
        assert process.returncode == 0
        assert "[system] here now: bot" in out.decode().splitlines()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a Unix shell")
async def test_closed_standard_input_is_an_empty_one():
    """Where a service manager gives no stdin, there is nothing to say; that is no error."""
    async with asyncio.timeout(50), chat_server() as (_, url):
        process = await asyncio.create_subprocess_exec(
            *["sh", "-c", '"$@" <&-', "sh", sys.executable, "-m", "wslessons", "client", url],
            *["--name", "cron"],
            stderr=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
        )
        _, errors = await process.communicate()
        assert process.returncode == 0
        assert b"Traceback" not in errors


@on_a_terminal
async def test_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch):
    """A terminal that knows no control sequences is sent none, and can type all the same."""
    import pexpect

    async with asyncio.timeout(50), chat_server() as (_, url), ChatClient(url, "alice") as alice:
        child = pexpect.spawn(
            sys.executable,
            ["-m", "wslessons", "client", url, "--name", "bob"],
            env=os.environ | {"TERM": "dumb"},
            encoding="utf-8",
            timeout=20,
        )
        try:
            await until(alice, Joined("bob"))
            child.sendline("hello")
            await until(alice, Message("bob", "hello"))
            child.sendline("/quit")
            await asyncio.to_thread(child.expect, pexpect.EOF)
            assert "\x1b" not in (child.before or "")
        finally:
            await asyncio.to_thread(child.close, True)


async def test_dead_proxy_is_named(monkeypatch: pytest.MonkeyPatch):
    """The proxy is the culprit, not the host behind it; this machine's addresses go past it."""
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://user:secret@127.0.0.1:1")
    async with asyncio.timeout(50), ChatServer().serve("0.0.0.0", 0) as server:
        url = f"ws://0.0.0.0:{server.sockets[0].getsockname()[1]}"
        code, _, _ = await shell.run("client", url, "--name", "bot", stdin="hi\n")
        assert code == 0
        code, _, errors = await shell.run("client", "ws://chat.example", stdin="hi\n")
        assert code == 1
        assert "the proxy 127.0.0.1:1 on the way to chat.example:80" in errors
        assert "secret" not in errors


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_decoder_takes_bytes_in_any_pieces(size: int, encoding: str):
    """Lines are the same however the bytes are cut; an endless one keeps a bounded part."""
    text = "\u00fc\r\n\n" + "\U0001f600" * 70_000 + "\nlast"
    data = text.encode(encoding)
    if encoding == "utf-16-be":
        data = b"\xfe\xff" + data
    decoder = Decoder()
    lines = []
    for start in range(0, len(data), size):
        lines += decoder.feed(data[start : start + size])
        assert len(decoder._rest) <= LONGEST
    lines += decoder.feed(b"", final=True)
    assert lines == ["\u00fc", "", "\U0001f600" * LONGEST, "last"]


async def test_errors_are_one_sentence_and_exit_code_1():
    """What can't be done is one line on stderr, without a traceback."""
    async with asyncio.timeout(50), chat_server() as (_, url):
        port = url.rpartition(":")[2]
        for words, says in [
            (["ws://127.0.0.1:1"], "nobody accepts connections at 127.0.0.1:1"),
            ([f"http://127.0.0.1:{port}"], "is not a valid WebSocket URL"),
            ([f"{url}/nowhere"], "answered HTTP 404 Not Found for /nowhere"),
            ([f"wss://127.0.0.1:{port}"], "does this server expect ws://?"),
            ([url, "--name", "system"], "did not let us in: 1008 (the name system is reserved)"),
        ]:
            code, out, errors = await shell.run("client", *words, stdin="hello\n")
            assert (code, out) == (1, "")
            assert errors.splitlines()[-1].startswith("wslessons: ")
            assert says in errors.splitlines()[-1]
            assert "Traceback" not in errors


@on_a_terminal
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a full device is Linux's own")
@pytest.mark.parametrize(
    ("redirected", "why"),
    [(">/dev/full", "no space left on device"), (">&-", "is closed"), ("| true", "broken pipe")],
)
async def test_output_that_nobody_can_read_is_a_sentence(redirected: str, why: str):
    """A full disk, a closed stdout or a reader that has gone ends it with 1, one line says why."""
    async with asyncio.timeout(50), chat_server() as (_, url), ChatClient(url, "alice") as alice:
        command = f"{sys.executable} -m wslessons client {url} --name bob {redirected}"
        process = await asyncio.create_subprocess_shell(
            f"set -o pipefail; {command}",
            executable="/bin/bash",
            stdin=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        if why != "is closed":  # which is seen before it connects
            await until(alice, Left("bob"))
        _, notes = await process.communicate()
        assert process.returncode == 1
        *told, last = notes.decode().splitlines()
        assert all(line.startswith("* ") for line in told)
        assert last.startswith("wslessons: standard output")
        assert why in last


READY = """
import sys
from wslessons.__main__ import main
print("ready", flush=True)
sys.argv[1:] = ["client", *sys.argv[1:]]
sys.exit(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for others")
@pytest.mark.parametrize("delay", [0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0])
async def test_ctrl_c_at_any_moment_is_one_sentence_at_most(delay: float):
    """While modules are imported, while it connects, talks, or waits to come back: no traceback."""
    async with asyncio.timeout(60), chat_server() as (_, url), Link(url) as link:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", READY, link.url, "--name", "bob", "--json"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        # The interpreter's own start is not ours to keep quiet.
        await process.stdout.readuntil(b"ready")
        cutting = asyncio.get_running_loop().call_later(0.9, link.cut)
        await asyncio.sleep(delay)
        with contextlib.suppress(ProcessLookupError):  # it may have given up by then
            process.send_signal(signal.SIGINT)
        _, notes = await process.communicate()
        cutting.cancel()
        said = [line for line in notes.decode().splitlines() if not line.startswith("* ")]
        assert "Traceback" not in notes.decode()
        assert len(said) <= 1
        assert process.returncode in (0, 1, 130, -signal.SIGINT)


async def test_terminal_without_prompt_toolkit_is_told_what_to_install():
    """The extra is needed for typing only; a pipe and a script do without."""
    import pexpect

    code = (
        "import sys; sys.modules['prompt_toolkit'] = None; from wslessons.cli import main;"
        "sys.exit(main(['client', 'ws://127.0.0.1:1']))"
    )
    async with asyncio.timeout(50):
        child = pexpect.spawn(sys.executable, ["-c", code], encoding="utf-8", timeout=20)
        await asyncio.to_thread(child.expect, pexpect.EOF)
        await asyncio.to_thread(child.wait)
    assert child.exitstatus == 1
    says = "is not installed: get it with pip install 'wslessons[client]'."
    assert str(child.before).strip() == f"wslessons: prompt_toolkit {says}"


# How things look.


def test_events_look_like_the_plain_text_protocol():
    """Both protocols are shown alike."""
    for event, line in [
        (Message("alice", "hi"), "[alice] hi"),
        (Joined("alice"), "[system] >>> alice joined the chat"),
        (Left("alice"), "[system] >>> alice left the chat"),
        (Missed(3, 9), "[system] you missed 3 messages"),
        (Missed(None, 0), "[system] you missed messages"),
        (Welcome("bob", "/", "e", 1, [], 0), "Welcome, bob!"),
        (Roster(["alice", "bob"], 5), "[system] here now: alice, bob and 3 more"),
        (Error("blank", "no"), "[system] no"),
        (Notice("x\x07"), r"x\x07"),
        (Connected(101, "", None), ""),
    ]:
        assert render(event) == line


def test_what_happens_to_the_connection_is_told():
    """Code, reason, and when the next attempt is."""
    for event, line in [
        (
            Connected(101, "Switching Protocols", "chat.v1+json"),
            "HTTP 101 Switching Protocols; chat",
        ),
        (Disconnected(1001, "bye\x1b"), r"closed: 1001 (going away) bye\x1b"),
        (Disconnected(1006), "the connection broke: 1006, no close frame came"),
        (Retrying(0.25), "next attempt in 0.2 s"),
        (Retrying(1.0, "nobody is there."), "nobody is there. next attempt in 1.0 s"),
        (Joined("x"), ""),
    ]:
        assert status(event).startswith(line)


def test_visible_leaves_letters_and_emoji_alone():
    """What people write stays as it is, in any script."""
    text = "żółć 日本語 👩\u200d🚀 a\\b"
    assert visible(text) == text
