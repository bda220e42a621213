"""`wslessons check`: files, and servers that are running, our own and faulty ones."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from wslessons import serving
from wslessons.chat import ChatServer
from wslessons.chat.basic import QueueChat, SetChat
from wslessons.cli import main
from wslessons.echo import echo, echo_raw
from wslessons.exercises import check
from wslessons.exercises.conformance import CONFORMANCE
from wslessons.exercises.verdict import State

COUNTER = check.counter.solution_source


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process; return exit code, output and errors."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def command(*words: str) -> tuple[int, str, str]:
        try:
            code = main(["check", *words])
        except SystemExit as error:  # argparse's own
            code = int(error.code or 0)
        return code, *capsys.readouterr()

    return command


def test_a_file_in_a_process_of_its_own(tmp_path: Path):
    """As a shell runs it: the verdict on standard output, and the exit code."""
    file = tmp_path / "mine.py"
    file.write_text(COUNTER)
    done = subprocess.run(
        [sys.executable, "-m", "wslessons", "check", f"{file}:counter", "--as", "counter"],
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "check.counter: passed")
    assert not done.stderr


def test_a_file_that_passes_and_one_that_fails(tmp_path: Path, run: Run):
    """0 and 1, with the verdict on standard output."""
    file = tmp_path / "mine.py"
    file.write_text(COUNTER)
    code, out, _ = run(f"{file}:counter", "--as", "counter")
    assert (code, out.splitlines()[0]) == (0, "check.counter: passed")
    file.write_text(COUNTER.replace("count = 0", "count = 7"))
    code, out, _ = run(str(file), "--as", "counter")
    assert code == 1
    assert "hint:" in out
    file.write_text(check.counter.stub)
    assert run(str(file), "--as", "counter")[:2] == (1, repr_of_stub())


def repr_of_stub() -> str:
    """What is said of an untouched stub."""
    head = "check.counter: not attempted yet\n"
    return head + "  Write it in the cell above, run that cell, then this one again.\n"


def test_a_handler_as_echo(tmp_path: Path, run: Run):
    """A file's handler is judged like a running server."""
    file = tmp_path / "mine.py"
    file.write_text("from wslessons.echo import echo as handler\n")
    code, out, _ = run(f"{file}:handler", "--as", "echo")
    assert code == 0, out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--as", "echo"], 2, "name either FILE.py:NAME or --url URL"),
        (["a.py", "--url", "ws://x", "--as", "echo"], 2, "name either"),
        (["nowhere.py:handler", "--as", "echo"], 2, "there is no Python file nowhere.py"),
        (["nowhere.txt", "--as", "echo"], 2, "there is no Python file nowhere.txt"),
        (["a.py:b", "--as", "ecco"], 2, "choose one of echo, chat, poll_load"),
        (["--url", "ws://127.0.0.1:1", "--as", "counter"], 2, "choose one of echo, chat."),
        (["--url", "http://127.0.0.1:1", "--as", "echo"], 2, "is no WebSocket URL"),
        (["--url", "ws://127.0.0.1:1", "--as", "echo"], 1, "nobody listens at ws://127.0.0.1:1"),
    ],
)
def test_words_that_do_not_fit(run: Run, words: list[str], code: int, said: str):
    """One sentence each."""
    got, _, errors = run(*words)
    assert got == code
    assert errors.startswith("wslessons: ")
    assert said in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nothing_of_that_name\n", "No module named 'nothing_of_that_name'"),
        ("1 / 0\n", "ZeroDivisionError: division by zero, in <module>, line 1: 1 / 0"),
        ("raise SystemExit(3)\n", "can't be run: SystemExit: 3"),
        ("def handler(:\n", "SyntaxError"),
        ("x = 1\n", "defines no handler"),
    ],
)
def test_files_that_cannot_be_judged(tmp_path: Path, run: Run, text: str, said: str):
    """What is wrong with the file, in one sentence."""
    file = tmp_path / "mine.py"
    file.write_text(text)
    code, _, errors = run(f"{file}:handler", "--as", "echo")
    assert code == 1
    assert said in errors
    assert "Traceback" not in errors


async def against(handler, word: str):
    """Judge a server of `handler` that runs on its own, and return the verdict."""
    async with asyncio.timeout(55), serving.serve(handler, max_size=2**20) as server:
        return await CONFORMANCE[word].against(serving.urls(server)[0])


async def echo_in_capitals(connection):
    """An echo that is none."""
    async for message in connection:
        await connection.send(message.upper())


async def echo_once(connection):
    """An echo that has enough after one message."""
    await connection.send(await connection.recv())
    await connection.wait_closed()


@pytest.mark.parametrize("handler", [echo, echo_raw])
async def test_our_echo_conforms(handler):
    """With a prefix, and without."""
    verdict = await against(handler, "echo")
    assert verdict.passed, verdict
    assert len(verdict.lines) == 7


@pytest.mark.parametrize("handler", [echo_in_capitals, echo_once])
async def test_other_echoes_do_not(handler):
    """And it is said what is wrong."""
    verdict = await CONFORMANCE["echo"].judge(handler)
    assert verdict.state is State.FAIL
    assert verdict.lines[0].hint


async def test_our_chat_conforms():
    """Every line of the protocol, and every reader."""
    async with asyncio.timeout(55), ChatServer().serve() as server:
        verdict = await CONFORMANCE["chat"].against(serving.urls(server)[0])
    assert verdict.passed, verdict
    assert len(verdict.lines) == 9


async def failures(chat) -> set[str]:
    """Return which behaviours fail, by their words."""
    async with asyncio.timeout(55):
        verdict = await CONFORMANCE["chat"].judge(chat.handler)
    return {line.behaviour for line in verdict.lines if line.state is not State.PASS}


async def test_the_first_drafts_do_not_all():
    """The set with a loop is held up by one reader; the queue is not."""
    slow = "one who does not read holds up nobody"
    named = "nobody is called system, and no name is blank"
    broken = "a line break begins no line in somebody else's name"
    found = await failures(SetChat())
    assert {slow, named, broken} <= found
    found = await failures(QueueChat())
    assert {named, broken} <= found
    assert slow not in found


class Article:
    """The chat server of the article that the course follows, fault by fault."""

    def __init__(self):
        from wslessons.chat.channel import Channel

        self.channel = Channel(capacity=100)

    async def handler(self, connection):
        """Subscribe too early, leave out by name, and stop at the first lag."""
        from wslessons.chat.channel import Lagged

        receiver = self.channel.subscribe()
        name = await connection.recv()
        await connection.send(f"Welcome, {name}!")
        self.channel.send((None, f"[system] >>> {name} joined the chat"))

        async def forward():
            while True:
                try:
                    sender, line = await receiver.recv()
                except Lagged:
                    return
                if sender != name:
                    await connection.send(line)

        task = asyncio.create_task(forward())
        try:
            async for text in connection:
                self.channel.send((name, f"[{name}] {text}"))
        finally:
            task.cancel()
            self.channel.send((None, f"[system] >>> {name} left the chat"))


async def test_the_articles_faults_are_found():
    """Deaf after a lag, two of one name, a forged system, binary data."""
    found = await failures(Article())
    assert {
        "two people of one name hear each other",
        "nobody is called system, and no name is blank",
        "a line break begins no line in somebody else's name",
        "who has lagged hears again what is said",
    } <= found
