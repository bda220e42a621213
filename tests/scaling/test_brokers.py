"""Brokers for lessons and tests: they start, they can be killed, and they never outlive us."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis.asyncio
from waits import is_alive, until

from wslessons import processes
from wslessons.errors import UserError
from wslessons.scaling import brokers
from wslessons.scaling.brokers import Broker, kafka, valkey
from wslessons.scaling.bus import Event, Gap, from_url

KINDS = ["nats", "redis", "kafka"]
ALL = [("nats", 1), ("nats", 3), ("redis", 1), ("redis", 3), ("kafka", 1)]
REAL_KAFKA = kafka.find()
# Kafka starts in three seconds, and on two busy cores in twenty.
pytestmark = pytest.mark.timeout(150)


@pytest.fixture(autouse=True)
def no_broker_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start our own, whatever the machine has."""
    for kind in KINDS:
        monkeypatch.delenv(f"WSLESSONS_{kind.upper()}_URL", raising=False)


@pytest.fixture(autouse=True)
def nothing_left_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test after which a broker's folder is still there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    yield
    assert folders() == []


def folders() -> list[Path]:
    """Return the brokers' folders there are."""
    return [*Path(tempfile.gettempdir()).glob("wslessons-*")]


def accepts(address: str) -> bool:
    """Whether somebody listens at ``HOST:PORT``."""
    host, _, port = address.rpartition(":")
    with socket.socket() as sock:
        return sock.connect_ex((host, int(port))) == 0


def addresses(one: Broker) -> list[str]:
    """Return where a broker listens."""
    return one.url.partition("://")[2].partition("?")[0].split(",")


@pytest.mark.parametrize(("kind", "nodes"), ALL)
async def test_a_broker_starts_and_ends_with_its_block(kind: str, nodes: int, kafka_broker: Broker):
    """It listens on 127.0.0.1 only, on ports of its own, and then nothing of it is left."""
    async with asyncio.timeout(120):
        async with brokers.run(kind, nodes) as running:
            pids, found = running.pids, addresses(running)
            assert all(is_alive(pid) for pid in pids)
            assert all(accepts(address) for address in found)
            assert {address.rpartition(":")[0] for address in found} == {"127.0.0.1"}
            assert folders()
            if kind == "kafka":
                meet_nowhere(running, kafka_broker)
            async with from_url(running.url) as bus:
                bus.publish(Event("/", "hello"))
        await until(lambda: not any(is_alive(pid) for pid in pids))
        assert not any(accepts(address) for address in found)
        await running.stop()


def meet_nowhere(one: Broker, two: Broker) -> None:
    """Fail if two brokers have a port or a process in common."""
    assert set(addresses(one)).isdisjoint(addresses(two))
    assert set(one.pids).isdisjoint(two.pids)


# A second Kafka is met above, where it runs anyway.
@pytest.mark.parametrize("kind", ["nats", "redis"])
async def test_two_of_a_kind_do_not_meet(kind: str):
    """Each has ports and data of its own."""
    async with asyncio.timeout(120), brokers.run(kind) as one, brokers.run(kind) as two:
        meet_nowhere(one, two)


@pytest.mark.parametrize("kind", ["nats", "redis", *(["kafka"] if REAL_KAFKA else [])])
async def test_a_killed_node_comes_back_where_it_was_with_its_data(kind: str):
    """SIGKILL, then the same port and the same log."""
    async with asyncio.timeout(120), brokers.run(kind) as running:
        url = f"{running.url}?{'topic' if kind == 'kafka' else 'stream'}=kept"
        (node,) = running.nodes
        before = node.pid
        assert before is not None
        async with from_url(url) as bus:
            bus.publish(Event("/", "kept"))
            await bus.flush()
        await node.kill()
        assert node.pid is None
        assert not is_alive(before)
        assert not accepts(addresses(running)[0])
        # Else a connection could take it meanwhile.
        assert int(addresses(running)[0].rpartition(":")[2]) in processes.PORTS
        await node.restart()
        assert node.pid not in (None, before)
        assert running.url in url
        async with from_url(url) as bus:
            items = bus.subscribe(since=0).take_ready()
            assert [item.data for item in items if isinstance(item, Event)] == ["kept"]
            # A single server of NATS or Redis can't prove that this is all.
            doubts = [item.count for item in items if isinstance(item, Gap)]
            assert doubts == ([] if kind == "kafka" else [None])


AWKWARD = ["p/w d@:?#%", "ключ \\\"'$"]


@pytest.mark.parametrize(
    ("kind", "nodes", "password"),
    [
        *((kind, 3, password) for kind in ("nats", "redis") for password in AWKWARD),
        # Both in one, since a Kafka takes its time to start.
        *([("kafka", 2, "".join(AWKWARD))] if REAL_KAFKA else []),
    ],
)
async def test_a_password_may_have_any_character(kind: str, nodes: int, password: str):
    """It goes into the configuration and into the URL, and both are read back as it was."""
    async with (
        asyncio.timeout(120),
        brokers.run(kind, nodes, own=True, password=password) as running,
        from_url(running.url) as bus,
    ):
        bus.publish(Event("/", "hello"))
        await bus.flush()
        with pytest.raises(UserError, match="does not accept"):
            async with from_url(running.url.replace("@", "0@")):
                pass
        # Kafka just hangs up on whoever shows no password.
        with pytest.raises(
            UserError, match="can't reach" if kind == "kafka" else "does not accept"
        ):
            async with from_url(running.nodes[0].url):
                pass


async def test_the_emulator_comes_back_empty_and_says_what_it_is():
    """Its label calls it an emulator; its data were in the memory of the process."""
    async with asyncio.timeout(30), brokers.run("kafka", 2, emulator=True) as running:
        assert "emulator" in running.label
        assert "not Kafka" in running.label
        assert len(addresses(running)) == 2
        assert len(running.nodes) == 1
        async with from_url(running.url) as bus:
            epoch = bus.epoch
        await running.nodes[0].kill()
        await running.nodes[0].restart()
        async with from_url(running.url) as bus:
            assert bus.epoch != epoch


async def test_a_cluster_survives_one_of_three():
    """A stream on three servers goes on when one is killed, and takes it back."""
    async with (
        asyncio.timeout(120),
        brokers.run("nats", 3) as running,
        from_url(f"{running.url}?stream=s") as bus,
    ):
        reader = bus.subscribe()
        node = running.nodes[0]
        bus.publish(Event("/", "before"))
        await node.kill()
        bus.publish(Event("/", "without it"))
        await bus.flush()
        await node.restart()
        bus.publish(Event("/", "with it"))
        heard = []
        while len(heard) < 3:
            if isinstance(item := await reader.recv(), Event):
                heard.append(item.data)
        assert heard == ["before", "without it", "with it"]


OWNER = """
import asyncio, signal, sys
from wslessons.scaling import brokers

# A shell starts what runs in its background with SIGINT ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

async def main():
    running = await brokers.start(sys.argv[1], int(sys.argv[2]))
    print(*running.pids, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


ENDINGS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize(
    ("kind", "nodes", "ending"),
    # Kafka takes its time to start, and its guardian is the others'.
    [(*one, ending) for one in ALL for ending in ENDINGS[: 1 if one[0] == "kafka" else None]],
)
async def test_brokers_end_when_their_owner_is_killed(kind: str, nodes: int, ending: int):
    """However the owner ends, its brokers, their guardians and their folders go, too."""
    async with asyncio.timeout(120):
        owner = await asyncio.create_subprocess_exec(
            sys.executable, "-c", OWNER, kind, str(nodes),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        assert owner.stdout is not None
        pids = [int(pid) for pid in (await owner.stdout.readline()).split()]
        assert len(pids) >= nodes
        pids += [each.pid for each in psutil.Process(owner.pid).children(recursive=True)]
        owner.send_signal(ending)
        await owner.wait()
        await until(lambda: not any(is_alive(pid) for pid in pids))
        await until(lambda: not folders())


FORKER = """
import asyncio, os, sys, time
from wslessons.scaling import brokers

async def main():
    running = await brokers.start("nats")
    if os.fork() == 0:
        time.sleep(60)  # holds every pipe of its parent open
        os._exit(0)
    print(*running.pids, flush=True)
    time.sleep(60)

asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
async def test_a_forked_child_does_not_keep_a_broker_alive():
    """The child has the pipe open still; the guardian sees that it has another parent now."""
    async with asyncio.timeout(30):
        owner = await asyncio.create_subprocess_exec(
            sys.executable, "-c", FORKER, stdout=asyncio.subprocess.PIPE, start_new_session=True
        )
        try:
            assert owner.stdout is not None
            pids = [int(pid) for pid in (await owner.stdout.readline()).split()]
            owner.kill()
            await until(lambda: not any(is_alive(pid) for pid in pids))
        finally:
            os.killpg(owner.pid, signal.SIGKILL)
            await owner.communicate()
        await until(lambda: not folders())


async def test_ctrl_c_in_a_terminal_does_not_reach_the_broker():
    """The stop button of a notebook interrupts the whole process group; the broker has its own."""
    async with asyncio.timeout(20), brokers.run("nats") as running:
        group = os.getpgid(running.pids[0])
        assert group != os.getpgid(0)


@pytest.mark.parametrize("times", [1, 2])
async def test_a_start_that_is_cancelled_leaves_nothing(times: int):
    """The thread that starts it finishes its work, and then it is ended; once more or not."""
    async with asyncio.timeout(40):
        starting = asyncio.create_task(brokers.start("redis", 3))
        await until(folders)
        for _ in range(times):
            starting.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await starting
        await until(lambda: not folders())
        await until(lambda: len(asyncio.all_tasks()) == 1)


# What is used.


@pytest.mark.parametrize("kind", KINDS)
async def test_a_url_in_the_environment_comes_first(kind: str, monkeypatch: pytest.MonkeyPatch):
    """Nothing is started or stopped then, unless it is going to be killed."""
    monkeypatch.setenv(f"WSLESSONS_{kind.upper()}_URL", f"{kind}://example:1")
    async with asyncio.timeout(20):
        async with brokers.run(kind) as given:
            assert (given.url, given.nodes, given.pids) == (f"{kind}://example:1", [], [])
            assert f"WSLESSONS_{kind.upper()}_URL" in given.label
        # The emulator starts sooner than Kafka, and what is asked here is the same.
        async with brokers.run(kind, own=True, emulator=kind == "kafka") as own:
            assert own.url != given.url
            assert len(own.nodes) == 1


@pytest.mark.parametrize(
    ("kind", "names"),
    [("nats", ["nats-server"]), ("redis", ["redis-server"]), ("redis", ["valkey-server"])],
)
async def test_a_program_on_path_comes_before_the_packaged_one(
    kind: str, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It is the one that runs."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    packaged = brokers.find_program(kind)
    (tmp_path / "bin").mkdir()
    for name in names:
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\necho used >> "{tmp_path}/used"\nexec "{packaged}" "$@"\n')
        program.chmod(0o755)
        assert brokers.find_program(kind) == str(program)
    async with asyncio.timeout(20), brokers.run(kind) as running:
        assert running.label == names[0]
        assert all(accepts(address) for address in addresses(running))
    assert (tmp_path / "used").read_text() == "used\n"


async def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch):
    """One sentence with the extra that brings it, and the other way."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(brokers.metadata, "files", lambda package: [])
    with pytest.raises(UserError, match=r"pip install 'wslessons\[nats\]'.*WSLESSONS_NATS_URL"):
        await brokers.start("nats")
    with pytest.raises(UserError, match="choose one of nats, redis, kafka"):
        await brokers.start("rabbitmq")


async def test_a_program_that_fails_gives_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A server that refuses to start is quoted in one sentence."""
    program = tmp_path / "nats-server"
    program.write_text("#!/bin/sh\necho 'out of luck today'\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    async with asyncio.timeout(20):
        with pytest.raises(UserError, match=r"did not start: out of luck today\.$"):
            await brokers.start("nats")
        program.chmod(0o644)
        program.write_bytes(b"\x7fELF no program")
        program.chmod(0o755)
        with pytest.raises(UserError, match="can't be run"):
            await brokers.start("nats")


async def test_a_port_that_was_taken_meanwhile_is_drawn_again(monkeypatch: pytest.MonkeyPatch):
    """Valkey can't choose its own, so between drawing and binding somebody may come first."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = iter([taken.getsockname()[1], processes.free_port()])
        monkeypatch.setattr(processes, "free_port", lambda: next(ports))
        async with asyncio.timeout(20), brokers.run("redis") as running:
            assert addresses(running)[0] != f"127.0.0.1:{taken.getsockname()[1]}"


async def test_a_log_lives_on_one_server_of_a_redis_cluster():
    """Whichever server a bus asks, it is sent to the one that has the stream, and goes there."""
    program = brokers.find_program("redis")
    nodes: list[valkey.ValkeyServer] = []
    try:
        async with asyncio.timeout(120):
            for number in range(2):
                # Else the port for the cluster is 10,000 higher, which may be no port.
                settings = ["cluster-enabled yes", f"cluster-port {processes.free_port()}"]
                nodes.append(valkey.ValkeyServer(program, f"c{number}", settings=settings))
                await asyncio.to_thread(nodes[-1].start)
            clients = [redis.asyncio.Redis(port=node.port) for node in nodes]
            for client, slots in zip(clients, [(0, 8191), (8192, 16383)], strict=True):
                await client.execute_command("CLUSTER", "ADDSLOTSRANGE", *slots)
            bus_port = nodes[1].settings[-1].split()[1]
            await clients[0].execute_command(
                "CLUSTER", "MEET", "127.0.0.1", nodes[1].port, bus_port
            )
            for client in clients:
                while (await client.cluster("INFO"))["cluster_state"] != "ok":  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            async with contextlib.AsyncExitStack() as stack:
                for name in ("tea", "coffee", "water"):
                    one, two = [
                        await stack.enter_async_context(
                            from_url(f"redis://{node.address}?stream={name}")
                        )
                        for node in nodes
                    ]
                    reader = two.subscribe()
                    one.publish(Event("/", name))
                    async for item in reader:
                        if isinstance(item, Event):
                            assert item.data == name
                            break
            sizes = [await client.dbsize() for client in clients]
            assert all(sizes), sizes
            for client in clients:
                await client.aclose()
    finally:
        for node in nodes:
            await asyncio.to_thread(node.close)
