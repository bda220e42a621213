"""Several chat servers as processes over real brokers: they talk, they die, they leave nothing."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator

import psutil
import pytest
import shell
from waits import is_alive, started_since, until
from websockets import connect
from websockets.asyncio.client import ClientConnection

from wslessons.errors import UserError
from wslessons.lab.commands import Command
from wslessons.processes import PORTS
from wslessons.scaling import brokers
from wslessons.scaling.cluster import Cluster, Stats
from wslessons.scaling.cluster.command import Display


@contextlib.asynccontextmanager
async def chatting(url: str, name: str) -> AsyncGenerator[ClientConnection]:
    """Join the chat at `url`, and read up to one's own join."""
    async with connect(url, proxy=None, close_timeout=2) as client:
        await client.send(name)
        await hears(client, f"[system] >>> {name} joined the chat")
        yield client


async def hears(client: ClientConnection, text: str) -> None:
    """Receive until `text` comes."""
    while await client.recv() != text:
        pass


async def roster(client: ClientConnection) -> str:
    """Ask who is in the room."""
    await client.send("/who")
    while not (answer := str(await client.recv())).startswith("[system] here now: "):
        pass
    return answer


def family(pid: int) -> list[psutil.Process]:
    """List the processes that a process has started, and those that they have."""
    return psutil.Process(pid).children(recursive=True)


async def all_end(processes: list[psutil.Process]) -> None:
    """Wait until all of them have ended, and fail if one does not."""
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, 20)
    assert alive == []


@contextlib.asynccontextmanager
async def no_process_left() -> AsyncGenerator[None]:
    """Fail a block after which a process that was started in it still runs."""
    before = family(os.getpid())
    yield
    await all_end(started_since(before))


@contextlib.asynccontextmanager
async def command(
    *words: str, servers: int = 2
) -> AsyncGenerator[tuple[Command, list[str], list[psutil.Process]]]:
    """Run ``wslessons cluster``: the command, the URLs that it prints, its processes."""
    count = ["--servers", str(servers)]
    async with asyncio.timeout(50), shell.serving("cluster", *count, *words) as running:
        urls = [running.url, *[await running.line() for _ in range(servers - 1)]]
        processes = family(running.process.pid)
        assert len(processes) >= servers
        yield running, urls, processes


async def says(running: Command, text: str) -> None:
    """Read what a command says on stderr until a line holds `text`."""
    while text not in (line := await running.errors.next()):
        assert line, f"it ended without a word of {text!r}"


@pytest.mark.parametrize("bus", ["nats", "redis", "nats?stream=chat"])
async def test_a_killed_server_leaves_the_others_and_no_ghost(bus: str):
    """After a kill -9 the others go on and are told who left; it comes back where it was."""
    async with (
        asyncio.timeout(50),
        no_process_left(),
        Cluster(3, bus, own=True, beat=0.5) as cluster,
    ):
        one, two, three = cluster.servers
        assert cluster.broker is not None
        async with (
            chatting(one.url, "alice") as alice,
            chatting(two.url, "bob") as bob,
        ):
            async with chatting(three.url, "carol") as carol:
                await hears(bob, "[system] >>> carol joined the chat")
                await alice.send("hello")
                await hears(bob, "[alice] hello")
                await hears(carol, "[alice] hello")
                await three.kill()
            assert (three.state, three.pid) == ("gone", None)
            await alice.send("still here?")
            await hears(bob, "[alice] still here?")
            await hears(bob, "[system] >>> carol left the chat")
            # In a log whoever notices first tells all; the others' rosters follow in a beat.
            while "carol" in await roster(bob):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            numbers = await cluster.stats()
            assert numbers[2] is None
            assert numbers[0] is not None
            assert (numbers[0].connections, numbers[0].said) == (1, 2)
            second = await two.stats()
            assert second.heard >= 3
            assert second.lag is not None
            with pytest.raises(UserError, match=r"^server 3 is gone\.$"):
                await three.stats()
            url = three.url
            # Else a connection could take it meanwhile.
            assert int(url.rpartition(":")[2]) in PORTS
            await three.restart()
            assert three.url == url
            async with chatting(url, "dave") as dave:
                await hears(bob, "[system] >>> dave joined the chat")
                await alice.send("welcome")
                await hears(dave, "[alice] welcome")


async def test_servers_without_a_bus_keep_to_themselves():
    """With `memory` there is no broker, and what is said on one server is not heard on another."""
    async with asyncio.timeout(30), no_process_left(), Cluster(2, "memory") as cluster:
        assert cluster.broker is None
        async with (
            chatting(cluster.urls[0], "alice") as alice,
            chatting(cluster.urls[1], "bob") as bob,
        ):
            await alice.send("hello?")
            await alice.send("/who")
            await hears(alice, "[system] here now: alice")
            await bob.send("/who")
            assert await bob.recv() == "[system] here now: bob"
            assert [each and each.heard for each in await cluster.stats()] == [0, 0]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere one server gets all connections")
async def test_servers_share_a_port() -> None:
    """One URL for all; each server gets some of those who come, and one that dies is not missed."""
    async with asyncio.timeout(50), no_process_left(), contextlib.AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(Cluster(2, "nats", share_port=True))
        (url,) = cluster.urls
        clients = [await stack.enter_async_context(chatting(url, "client 0"))]
        while not all(each and each.connections for each in await cluster.stats()):
            name = f"client {len(clients)}"
            clients.append(await stack.enter_async_context(chatting(url, name)))
            assert len(clients) < 50
        await clients[0].send("hello")
        for client in clients[1:]:
            await hears(client, "[client 0] hello")
        await cluster.servers[0].kill()
        await stack.enter_async_context(chatting(url, "late"))
        await cluster.servers[0].restart()
        assert cluster.urls == [url]


async def test_a_shared_port_that_is_taken_is_one_sentence() -> None:
    """Nothing is left running then."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with asyncio.timeout(30), no_process_left():
            with pytest.raises(UserError, match="is in use"):
                await Cluster(2, "memory", port=port, share_port=True).start()


async def test_a_stopped_server_says_goodbye():
    """`stop` closes its clients with 1001, and the others hear at once who has left."""
    async with (
        asyncio.timeout(30),
        no_process_left(),
        Cluster(2, "nats", own=True) as cluster,
        chatting(cluster.urls[0], "alice") as alice,
        chatting(cluster.urls[1], "bob") as bob,
    ):
        await hears(alice, "[system] >>> bob joined the chat")
        await cluster.servers[1].stop()
        await bob.wait_closed()
        assert (bob.close_code, cluster.servers[1].state) == (1001, "stopped")
        await hears(alice, "[system] >>> bob left the chat")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGSTOP")
async def test_a_server_that_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch):
    """It does not answer, the other does, and both are gone at the end."""
    monkeypatch.setattr("wslessons.scaling.cluster.server.STOP_TIME", 0.5)
    async with asyncio.timeout(40), no_process_left(), Cluster(2, "memory") as cluster:
        pid = cluster.servers[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        hung = await cluster.stats(timeout=0.1)
        assert hung[0] is None
        assert (await cluster.servers[1].stats()).bus == "connected"
        with pytest.raises(UserError, match=r"^server 1 does not answer\.$"):
            await cluster.servers[0].stats(timeout=0.1)
        os.kill(pid, signal.SIGCONT)
        assert (await cluster.servers[0].stats()).bus == "connected"
        os.kill(pid, signal.SIGSTOP)


async def test_a_start_that_fails_leaves_nothing():
    """When one server's port is taken, the error says so and no process is left."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with asyncio.timeout(30), no_process_left():
            # Or the one before it, should somebody else have that.
            with pytest.raises(UserError, match=r"^port \d+ on 127.0.0.1 is in use"):
                await Cluster(2, "nats", own=True, port=port - 1).start()


async def test_a_start_that_is_cancelled_leaves_nothing():
    """The stop button during a start ends broker and servers."""
    async with asyncio.timeout(30), no_process_left():
        cluster = Cluster(3, "nats", own=True)
        starting = asyncio.create_task(cluster.start())
        await until(lambda: any(server.pid for server in cluster.servers))
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting


@pytest.mark.parametrize("bus", ["nats", "redis"])
async def test_the_command_ends_cleanly(bus: str):
    """It prints each server's URL, carries messages across, and Ctrl-C ends all of it with 0."""
    async with command("--bus", bus) as (running, urls, processes):
        async with chatting(urls[0], "alice") as alice, chatting(urls[1], "bob") as bob:
            await alice.send("hello")
            await hears(bob, "[alice] hello")
            await says(running, "2 of 2 servers, ")
            code, errors = await running.end(signal.SIGINT)
            assert (code, "Traceback" in errors) == (0, False)
            await bob.wait_closed()
            assert bob.close_code == 1001
        await all_end(processes)


async def test_the_command_shows_a_server_that_dies():
    """A killed server is told as gone while the other serves on; with none left, it ends with 1."""
    async with command("--bus", "memory") as (running, urls, processes):
        await says(running, "2 of 2 servers, 0 connections")
        # Each has a guardian beside it, and this one in front of its words.
        one, two = [each for each in processes if each.cmdline()[1:2] == ["-m"]]
        two.kill()
        await says(running, "; no broker; server ")
        psutil.wait_procs([two], 10)
        async with contextlib.AsyncExitStack() as stack:
            joined = 0
            for url in urls:
                with contextlib.suppress(OSError):
                    await stack.enter_async_context(chatting(url, "alice"))
                    joined += 1
            assert joined == 1
        one.kill()
        assert await running.wait() == 1
        assert running.errors.rest().splitlines()[-1] == "wslessons: all servers have ended."


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
async def test_nothing_outlives_a_command_that_is_killed():
    """After a kill -9 of the command its servers and its broker end by themselves."""
    async with command("--bus", "nats") as (running, _, processes):
        running.process.kill()
        await all_end(processes)


async def test_chat_servers_share_rooms_over_a_bus():
    """Two `wslessons chat --bus URL` are one chat, and each ends with 0."""
    async with asyncio.timeout(40), brokers.run("nats", own=True) as nats:
        words = ("chat", "--port", "0", "--bus", nats.url)
        async with shell.serving(*words) as one, shell.serving(*words) as two:
            async with chatting(one.url, "alice") as alice, chatting(two.url, "bob") as bob:
                await alice.send("hello")
                await hears(bob, "[alice] hello")
            for server in (one, two):
                code, errors = await server.end(signal.SIGINT)
                assert (code, "Traceback" in errors) == (0, False)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["cluster", "--bus", "natz"], 2, "'natz' is not a bus: give memory, nats, redis, kafka"),
        (["cluster", "--servers", "0"], 2, "'0' is not a number of 1 or more"),
        (["cluster", "--port", "65534"], 2, "need more ports than there are"),
        (["cluster", "--bus", "amqp://h"], 1, "amqp://h is not a valid URL of a bus"),
        (
            ["cluster", "--servers", "1", "--bus", "nats://127.0.0.1:{dead}"],
            1,
            "can't reach NATS at 127.0.0.1:",
        ),
        (["cluster", "--bus", "redis://127.0.0.1:{dead}"], 1, "can't reach Redis at 127.0.0.1:"),
        (["chat", "--bus", "natz"], 1, "'natz' is not a valid URL of a bus"),
        (["chat", "--bus", "nats://127.0.0.1:{dead}"], 1, "can't reach NATS at 127.0.0.1:"),
    ],
)
async def test_a_bus_that_can_not_be_used_is_one_sentence(words: list[str], code: int, says: str):
    """A wrong word ends with 2, a wrong URL or a broker that is down with 1; no traceback."""
    with socket.socket() as closed:
        # Bound and not listening: nobody else gets it, and whoever connects is refused.
        closed.bind(("127.0.0.1", 0))
        words = [word.format(dead=closed.getsockname()[1]) for word in words]
        async with asyncio.timeout(40):
            returned, out, errors = await shell.run(*words)
    assert (returned, out) == (code, "")
    assert says in errors
    assert "Traceback" not in errors
    if code == 1:
        assert errors.startswith("wslessons: ")
        assert errors.count("\n") == 1


async def test_wrong_credentials_are_one_sentence():
    """A broker that does not let us in is said to, without the password."""
    async with asyncio.timeout(40), brokers.run("nats", own=True, password="right") as nats:
        url = nats.url.replace("right", "wrong-one")
        for words in (["chat", "--port", "0"], ["cluster", "--servers", "1"]):
            code, _, errors = await shell.run(*words, "--bus", url)
            assert (code, errors.count("\n"), "wrong-one" in errors) == (1, 1, False)


async def test_a_start_waits_for_the_end_of_the_one_before():
    """One that still says goodbye is not taken for the new one, whose port nobody else gets."""
    async with asyncio.timeout(50), no_process_left(), Cluster(1, "memory") as cluster:
        (server,) = cluster.servers
        before = server.pid
        assert before is not None
        async with connect(server.url, proxy=None, close_timeout=0) as deaf:
            # So it does not answer the close frame.
            deaf.transport.pause_reading()
            stopping = asyncio.create_task(server.stop())
            await until(lambda: server.state == "stopped")
            await server.start()
            assert not is_alive(before)
            await stopping
        assert server.state == "running"
        async with chatting(server.url, "alice"):
            pass


async def test_two_starts_at_once_make_one_process():
    """Another would be nobody's, and keep the port when the server is stopped."""
    async with asyncio.timeout(50), Cluster(1, "memory") as cluster:
        server = cluster.servers[0]
        await server.kill()
        await asyncio.gather(server.start(), server.start())
        await server.restart()
        assert server.state == "running"


async def test_the_environment_may_name_the_bus(monkeypatch: pytest.MonkeyPatch):
    """So the password is not in the list of processes, and not in a sentence either."""
    monkeypatch.setenv("WSLESSONS_BUS", "nats://ann:s3cret@127.0.0.1:1")
    async with asyncio.timeout(40):
        for words in (["chat", "--port", "0"], ["cluster", "--servers", "1"]):
            code, _, errors = await shell.run(*words)
            assert (code, "s3cret" in errors) == (1, False)
            assert "can't reach NATS at 127.0.0.1:1" in errors


@pytest.mark.parametrize("words", [["chat", "--port", "0"], ["cluster"]])
async def test_a_missing_extra_is_named(words: list[str]):
    """Without the client of a broker, the sentence says what to install."""
    code = "import sys; sys.modules['nats'] = None; from wslessons import cli; sys.exit(cli.main())"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *words, "--bus", "nats://127.0.0.1:4222",
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(30):
        _, errors = await process.communicate()
    assert process.returncode == 1
    assert b"pip install 'wslessons[nats]'" in errors
    assert errors.count(b"\n") == 1


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Claim to be one."""
        return True


def numbers(**more: object) -> Stats:
    """Return a server's numbers, all quiet but for `more`."""
    quiet: dict[str, object] = {"lag": None, "bus": "connected", "why": ""}
    names = ("connections", "tasks", "people", "said", "heard", "waiting", "missed", "unsent")
    return Stats(**(dict.fromkeys(names, 0) | quiet | more))  # ty: ignore[invalid-argument-type]


def test_the_table_renews_itself_in_place():
    """On a terminal each look overwrites the one before, in lines of 80 columns."""
    cluster = Cluster(2, "nats")
    cluster.bus_url = "nats://ann:secret@127.0.0.1:4222"
    terminal = Terminal()
    display = Display(terminal)
    display.show(cluster, [numbers(connections=3, lag=1.25), None])
    first = terminal.getvalue()
    assert "secret" not in first
    assert "nats://127.0.0.1:4222" in first
    display.show(cluster, [numbers(bus="reconnecting", waiting=7, why="gone " * 99), None])
    second = terminal.getvalue().removeprefix(first)
    assert second.startswith("\r\x1b[4A")
    assert "reconnecting, 7 waiting: gone" in second
    lines = second.removeprefix("\r\x1b[4A").split("\x1b[K\n")
    assert max(map(len, lines)) < 80


def test_a_pipe_gets_a_line_when_something_changes():
    """The second look says nothing new and is not written; a lost broker is."""
    cluster = Cluster(1, "nats")
    cluster.bus_url = "nats://127.0.0.1:4222"
    pipe = io.StringIO()
    display = Display(pipe)
    for state in ("connected", "connected", "reconnecting"):
        display.show(cluster, [numbers(bus=state)])
    lines = pipe.getvalue().splitlines()
    assert [line.partition("; broker ")[2].partition(";")[0] for line in lines] == [
        "connected",
        "reconnecting",
    ]
