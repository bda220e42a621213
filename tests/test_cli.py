"""The command line: what it prints, how it ends, and what it says when it can't."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import shell
from websockets import ConnectionClosed, connect

from wslessons import cli
from wslessons.testing.raw import handshake


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_echo_prints_its_url_serves_and_ends_cleanly(number: signal.Signals):
    """`wslessons echo` prints its real URL, echoes, and ends with 0, its clients told 1001."""
    async with asyncio.timeout(30), shell.serving("echo", "--port", "0") as server:
        assert re.fullmatch(r"ws://127\.0\.0\.1:[1-9]\d*", server.url)
        async with connect(server.url, proxy=None) as client:
            await client.send("hello")
            assert await client.recv() == "Echo: hello"
            code, errors = await server.end(number)
            assert code == 0
            assert "Traceback" not in errors
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1001


async def test_echo_ends_also_when_a_client_is_mute():
    """A client that never answers the close frame does not hold up the end."""
    async with asyncio.timeout(30), shell.serving("echo", "--port", "0") as server:
        host, port = server.url.removeprefix("ws://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(handshake())
        assert b"101 Switching Protocols" in await reader.readline()
        code, errors = await server.end(signal.SIGTERM)
        assert (code, "Traceback" in errors) == (0, False)
        writer.close()


async def test_raw_echo():
    """`--raw` echoes text without the prefix."""
    async with (
        asyncio.timeout(30),
        shell.serving("echo", "--raw", "--port", "0") as server,
        connect(server.url, proxy=None) as client,
    ):
        await client.send("hello")
        assert await client.recv() == "hello"


def loaded(pid: int | None, module: str) -> bool:
    """Tell whether a process has loaded a compiled module; True where that can't be seen."""
    maps = Path(f"/proc/{pid}/maps")
    return not maps.exists() or f"/{module}/" in maps.read_text()


@pytest.mark.parametrize("words", [["echo"], ["echo", "--fast"], ["chat"], ["cluster"]])
async def test_another_event_loop_serves_and_ends_alike(words: list[str]):
    """With `--loop uvloop` a server answers, and ends with 0, its clients told why."""
    pytest.importorskip("uvloop")
    if words == ["cluster"]:
        words = ["cluster", "--servers", "1", "--bus", "memory"]
    command = (*words, "--port", "0", "--loop", "uvloop")
    async with (
        asyncio.timeout(50),
        shell.serving(*command) as server,
        connect(server.url, proxy=None) as client,
    ):
        await client.send("ann")
        answer = "Echo: ann" if words[0] == "echo" else "Welcome, ann!"
        assert await client.recv() == answer
        if words[0] != "cluster":
            assert loaded(server.process.pid, "uvloop")
        code, errors = await server.end(signal.SIGTERM)
        assert code == 0
        assert "Traceback" not in errors
        await client.wait_closed()
        assert client.close_code == 1001


@pytest.mark.parametrize("words", [["echo"], ["echo", "--fast"], ["chat"], ["cluster"]])
def test_an_event_loop_that_is_not_installed_is_one_sentence(words: list[str]):
    """Who asks for uvloop and has none learns which extra brings it."""
    block = "import sys; sys.modules['uvloop'] = None; from wslessons.cli import main; "
    program = f"{block}sys.exit(main({[*words, '--port', '0', '--loop', 'uvloop']}))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50
    )
    says = "wslessons: uvloop is not installed: get it with pip install 'wslessons[fast]'.\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", says)


async def test_port_in_use_is_one_sentence():
    """A port that is taken ends with 1 and one sentence that says what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        async with asyncio.timeout(30):
            code, out, errors = await shell.run("echo", "--port", port)
    assert (code, out) == (1, "")
    says = f"port {port} on 127.0.0.1 is in use: choose another port, or 0 for a free one."
    assert errors == f"wslessons: {says}\n"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["echo", "--port", "70000"], 2, "'70000' is not a port: give a number from 0 to 65535"),
        (["echo", "--port", "http"], 2, "'http' is not a port"),
        (["echo", "--host", "192.0.2.1"], 1, "192.0.2.1 is not an address of this machine"),
        (["echo", "--host", "no such host"], 1, "the host 'no such host' is not known here"),
        (["chat", "--rate", "-1"], 2, "'-1' is not a number of 0 or more"),
        (["chat", "--capacity", "0"], 2, "'0' is not a number of 1 or more"),
        (["bench", "echo", "--rounds", "0"], 2, "--rounds: '0' is not a number of 1 or more"),
        (["chaos", "--minutes", "nan"], 2, "--minutes: 'nan' is not a number of 0.01 or more"),
        (["ecko"], 2, "invalid choice: 'ecko'"),
        (["lab", "no-such-lesson"], 2, "no-such-lesson"),
    ],
)
async def test_words_that_do_not_fit(words: list[str], code: int, says: str):
    """What can't be done is said in a sentence, with exit code 2 or 1 and no traceback."""
    async with asyncio.timeout(30):
        returned, _, errors = await shell.run(*words)
    assert returned == code
    assert says in errors
    assert "Traceback" not in errors


@pytest.mark.timeout(400)
@pytest.mark.skipif(sys.platform != "linux", reason="has no device that is full")
@pytest.mark.parametrize(
    "words",
    [
        *(["--help"], ["--version"], ["chat", "--help"], ["bench"], ["echo", "--port", "0"]),
        *(["echo", "--fast", "--port", "0"], ["web", "--port", "0"]),
        ["lab", "--no-browser", "--dir", "work"],
    ],
    ids=" ".join,
)
async def test_stdout_that_takes_nothing_is_a_sentence(words: list[str], tmp_path: Path):
    """A full disk, and no stdout at all, end a command that has something to say there."""
    for redirection, says in [
        (">/dev/full", "standard output can't be written to: no space left on device."),
        (">&-", "standard output is closed: give the command a terminal, a file or a pipe."),
    ]:
        async with asyncio.timeout(180):
            process = await asyncio.create_subprocess_exec(
                *("sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "wslessons"),
                *words,
                stderr=asyncio.subprocess.PIPE,
                cwd=tmp_path,
            )
            _, errors = await process.communicate()
        assert errors.decode().splitlines()[-1] == f"wslessons: {says}"
        assert process.returncode == 1
        assert b"Traceback" not in errors


async def test_the_benches_are_listed():
    """`wslessons bench` without a name lists them; one that there is not is named, with 2."""
    async with asyncio.timeout(40):
        code, out, errors = await shell.run("bench")
        assert (code, errors) == (0, "")
        assert all(f"\n  {name} " in out for name in cli.BENCHES)
        code, _, errors = await shell.run("bench", "fanin")
        assert (code, "there is no bench 'fanin': choose one of fanout, " in errors) == (2, True)


def test_help_keeps_names_as_they_are(capsys: pytest.CaptureFixture[str]):
    """The summary becomes a sentence, and JupyterLab stays JupyterLab."""
    with pytest.raises(SystemExit):
        cli.main(["lab", "--help"])
    assert "Open the lessons in JupyterLab" in capsys.readouterr().out


def test_a_command_imports_nothing_for_the_others():
    """Each start would be half as long again."""
    shown = "print(*(name for name in sys.modules if name.startswith('wslessons.')))"
    program = f"import sys; from wslessons import cli; cli.build_parser('chat'); {shown}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = {name.split(".")[1] for name in done.stdout.split()}
    assert "cli" in loaded
    assert not loaded & {"chat", "client", "exercises", "lab", "scaling", "web"}


def test_python_too_old(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """An old Python is told which one is needed, before anything else happens."""
    monkeypatch.setattr(sys, "version_info", (3, 9, 18, "final", 0))
    assert cli.main(["echo"]) == 1
    assert capsys.readouterr().err == "wslessons: this is Python 3.9; install 3.11 or newer.\n"


async def test_version():
    """`--version` names the package and its version."""
    async with asyncio.timeout(30):
        assert await shell.run("--version") == (0, "wslessons 0.1.0\n", "")
