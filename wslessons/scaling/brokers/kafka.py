"""Real Apache Kafka for lessons and tests: one node or several, without ZooKeeper (KRaft).

Kafka is a Java program, and no Python package brings it. What is used, the first that there is:

1. the folder that ``KAFKA_HOME`` names, as its archive unpacks;
2. the installation whose ``kafka-server-start`` is on PATH;
3. what this module brought: ``python -m wslessons.scaling.brokers`` gets Kafka and all that it
   needs by their Maven coordinates, with ``mvn``, and keeps them beside other programs' caches
   (``$XDG_CACHE_HOME`` or ``~/.cache``, 43 MB). Beside them it keeps the classes that a start
   loads as Java wants them in memory (47 MB), which spares each start half of its work, and what
   Kafka's own tool writes into an empty disk, which spares each node's first start a third.

Java 17 or newer runs it. Where one of the two is missing, there is `kafka_emulator`.

Each node is broker and controller at once. Their settings are for a lesson: a small heap, a node
that is dead for the others after 3 seconds of silence, no pause before a consumer group meets. Of
several nodes each record has three copies, two of which must be written before it is acknowledged.

Source: https://kafka.apache.org/documentation/#configuration,
https://docs.oracle.com/en/java/javase/17/vm/class-data-sharing.html
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from wslessons.errors import UserError
from wslessons.processes import ServerProcess, Stopped, end, free_ports

__all__ = [
    "USER",
    "VERSION",
    "Installation",
    "KafkaServer",
    "bring",
    "find",
    "make_cluster",
]

USER = "wslessons"
"""Whose password it is, where there is one."""
VERSION = "4.4.0"
"""What `bring` gets."""
START_TIME = 60.0
"""Seconds for Kafka to be ready; it takes 3 on a machine that does nothing else."""
ARCHIVE = "classes.jsa"
"""The classes that a start loads, in the folder of the jars that they come from."""
FORMATTED = "formatted.checkpoint"
"""The beginning of a cluster's metadata, beside them: which features this Kafka has."""
METADATA = Path("__cluster_metadata-0", "00000000000000000000-0000000000.checkpoint")
"""Where it stands among a node's data."""
STILL_THE_LEADER = b"which is inconsistent with current leader"
"""What a node ends with that led, lost its disk, and is back before the others have elected."""
BRING_TIME = 600.0
"""Seconds for Maven to get everything."""

POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>wslessons</groupId>
  <artifactId>kafka</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>{VERSION}</version>
    </dependency>
    <dependency><!-- else it would say nothing of what went wrong -->
      <groupId>org.slf4j</groupId>
      <artifactId>slf4j-simple</artifactId>
      <version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
"""


class Installation(NamedTuple):
    """A Kafka that can be started.

    Attributes:
        java: the program that runs it.
        libs: the folder of its jars.
        version: Kafka's.
        options: what Java is told beside what each start tells it.
    """

    java: str
    libs: Path
    version: str
    options: tuple[str, ...] = ()

    def command(self, main: str, *arguments: str) -> list[str]:
        """Return the words that run one of its classes.

        Args:
            main: the class's name.
            arguments: what it is given.

        Returns:
            The words.
        """
        return [
            self.java, "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *self.options,
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-cp", str(self.libs / "*"), main, *arguments,
        ]  # fmt: skip


def find() -> Installation | None:
    """Find a Kafka on this machine, and a Java to run it.

    Returns:
        The first in the order that this module's docstring gives; None if there is none.
    """
    home = os.environ.get("JAVA_HOME")
    java = (home and shutil.which("java", path=str(Path(home, "bin")))) or shutil.which("java")
    if java is None:
        return None
    for libs in _candidates():
        # kafka_2.13-4.4.0.jar: Scala's version, then Kafka's.
        for jar in sorted(libs.glob("kafka_*-*[0-9].jar")):
            archive = libs / ARCHIVE
            # Another Java than the one that has written it does without.
            options = [f"-XX:SharedArchiveFile={archive}"] if archive.exists() else []
            return Installation(java, libs, jar.stem.rpartition("-")[2], tuple(options))
    return None


def _candidates() -> list[Path]:
    found: list[Path] = []
    if home := os.environ.get("KAFKA_HOME"):
        found.append(Path(home, "libs"))
    for name in ("kafka-server-start", "kafka-server-start.sh"):
        if program := shutil.which(name):
            root = Path(program).resolve().parent.parent
            found += [root / "libs", root / "libexec" / "libs"]
    return [*found, _cache()]


def _cache() -> Path:
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches, "wslessons", "kafka", VERSION)


def bring() -> Path:
    """Get Kafka and what it needs with Maven, unless they are there.

    Returns:
        The folder with the jars.

    Raises:
        UserError: there is no Maven or no Java, or it could not get them.
    """
    target = _cache()
    if not target.is_dir():
        _get(target)
    kept = [target / FORMATTED, target / ARCHIVE]
    if not all(path.exists() for path in kept) and (java := shutil.which("java")):
        # Without it a start only takes longer.
        with contextlib.suppress(UserError, OSError):
            _archive(Installation(java, target, VERSION))
    return target


def _get(target: Path) -> None:
    for program, what in (("mvn", "Maven"), ("java", "Java 17")):
        if shutil.which(program) is None:
            raise UserError(f"{what} is needed to get Kafka: there is no {program} on PATH.")
    target.parent.mkdir(parents=True, exist_ok=True)
    # It gets its name when it is whole: nobody finds a half.
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        pom, libs = Path(folder, "pom.xml"), Path(folder, "libs")
        pom.write_text(POM)
        command = [
            "mvn", "--batch-mode", "--quiet", "--file", str(pom), "dependency:copy-dependencies",
            "-DincludeScope=runtime", f"-DoutputDirectory={libs}",
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=BRING_TIME, check=False
            )
        except subprocess.TimeoutExpired:
            raise UserError(f"Maven did not get Kafka within {BRING_TIME:g} seconds.") from None
        if done.returncode:
            errors = [line for line in done.stdout.splitlines() if line.startswith("[ERROR]")]
            said = errors[0].removeprefix("[ERROR]").strip() if errors else "it does not say why"
            raise UserError(f"Maven could not get Kafka: {said[:300]}")
        # Whoever came first has brought the same.
        with contextlib.suppress(OSError):
            libs.rename(target)


def _archive(found: Installation) -> None:
    """Start a node; keep what its disk was given and, at its end, which classes it has loaded."""
    with tempfile.TemporaryDirectory(dir=found.libs) as folder:
        part, formatted = Path(folder, ARCHIVE), Path(folder, FORMATTED)
        options = (f"-XX:ArchiveClassesAtExit={part}",)
        (server,) = make_cluster(found._replace(options=options), 1)
        try:
            server.start()
            shutil.copyfile(server.data / METADATA, formatted)
            server.stop()
        finally:
            server.close()
        formatted.replace(found.libs / FORMATTED)
        part.replace(found.libs / ARCHIVE)


class KafkaServer(ServerProcess):
    """One node. It keeps its ports and data when it is restarted.

    Args:
        found: the Kafka to run.
        number: which of the nodes, counted from 1.
        ports: for each node the port for clients and the one for the other controllers.
        cluster: the cluster's id.
        password: what clients must give, beside the user name `USER`; empty for none. The port of
            the controllers, which no client uses, takes none.
    """

    def __init__(
        self,
        found: Installation,
        number: int,
        ports: Sequence[tuple[int, int]],
        cluster: str,
        password: str = "",
    ) -> None:
        super().__init__(f"kafka-{number}")
        self._found, self._number, self._ports, self._cluster = found, number, ports, cluster
        self._password = password
        self.port, self._controller = ports[number - 1]
        self.data = self.home / "data"
        self._config = self.home / "server.properties"
        self._write()

    def start(self) -> None:
        """Start the node, again on the same ports and data if it ran before.

        Blocks until the cluster counts it in: of several, so many must start at once that they can
        elect a leader.

        Raises:
            UserError: it does not start.
        """
        name = f"Apache Kafka {self._found.version}"
        config = str(self._config)
        try:
            if not self.data.exists():
                self._format(config)
            self._begin(config)
        except Stopped as exc:
            raise UserError(f"{name} did not start: {exc}.") from None
        except subprocess.TimeoutExpired:
            raise UserError(f"{name} was not ready within {START_TIME:g} seconds.") from None

    def stop(self) -> None:
        """End the node in good order, or after `START_TIME` by force."""
        if self._process is not None:
            end(self._process, START_TIME)

    def close(self) -> None:
        """End the node and remove its folder. Idempotent.

        At once, as its data go anyway: an orderly end would first move what it leads to the others.
        """
        self.kill()
        super().close()

    def _format(self, config: str) -> None:
        """Make an empty disk the node's.

        Kafka's tool for that is a Java of its own, and writes the same for every node, but for who
        it is: see ``kafka-storage format``, and `MetaProperties` in Kafka's source.
        """
        kept = self._found.libs / FORMATTED
        if kept.exists():
            metadata = self.data / METADATA
            metadata.parent.mkdir(parents=True)
            shutil.copyfile(kept, metadata)
            who = {
                "version": 1,
                "cluster.id": self._cluster,
                "node.id": self._number,
                "directory.id": _uuid(),
            }
            _write_properties(self.data / "meta.properties", who)
            return
        words = ["format", "--cluster-id", self._cluster, "--config", config]
        self._run(*self._found.command("kafka.tools.StorageTool", *words))
        assert self._process is not None
        if self._process.wait(START_TIME):
            raise Stopped(self._last_words())

    def _begin(self, config: str) -> None:
        """Run the node until the cluster counts it in, again if that still takes it for its leader.

        Raises:
            Stopped: it ended first.
            UserError: it took too long.
        """
        deadline = time.monotonic() + START_TIME
        while True:
            said = self.log.stat().st_size if self.log.exists() else 0
            self._run(*self._found.command("kafka.Kafka", config))
            try:
                self._wait_for(self._ready, START_TIME)
                return
            except Stopped:
                news = self.log.read_bytes()[said:]
                if STILL_THE_LEADER not in news or time.monotonic() > deadline:
                    raise

    def _write(self) -> None:
        nodes = len(self._ports)
        copies, written = min(nodes, 3), min(nodes, 2)
        way = "SASL_PLAINTEXT" if self._password else "PLAINTEXT"
        voters = [f"{n}@127.0.0.1:{port}" for n, (_, port) in enumerate(self._ports, 1)]
        settings: dict[str, object] = {
            "process.roles": "broker,controller",
            "node.id": self._number,
            "controller.quorum.voters": ",".join(voters),
            "controller.listener.names": "CONTROLLER",
            "listeners": f"{way}://{self.address},CONTROLLER://127.0.0.1:{self._controller}",
            "advertised.listeners": f"{way}://{self.address}",
            "log.dirs": self.data.as_posix(),
            "default.replication.factor": copies,
            "min.insync.replicas": written,
            "broker.session.timeout.ms": 3000,
            "broker.heartbeat.interval.ms": 500,
            "group.initial.rebalance.delay.ms": 0,
            # What Kafka keeps for itself: groups, transactions, shares.
            "offsets.topic.num.partitions": 1,
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.num.partitions": 1,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": written,
            "share.coordinator.state.topic.num.partitions": 1,
            "share.coordinator.state.topic.replication.factor": copies,
            "share.coordinator.state.topic.min.isr": written,
        }
        if self._password:
            secret = _quoted(self._password)
            settings |= {
                "listener.security.protocol.map": f"CONTROLLER:PLAINTEXT,{way}:{way}",
                "security.inter.broker.protocol": way,
                "sasl.enabled.mechanisms": "PLAIN",
                "sasl.mechanism.inter.broker.protocol": "PLAIN",
                "listener.name.sasl_plaintext.plain.sasl.jaas.config": (
                    "org.apache.kafka.common.security.plain.PlainLoginModule required"
                    f" username={USER} password={secret} user_{USER}={secret};"
                ),
            }
        _write_properties(self._config, settings)

    def _ready(self) -> bool | None:
        with contextlib.suppress(OSError, struct.error):
            return True if self._number in _members(self.port, self._password) else None
        return None


def _write_properties(path: Path, settings: Mapping[str, object]) -> None:
    path.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))


def _uuid() -> str:
    """Make an id in Kafka's form, which begins with no minus."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "_")


def _quoted(text: str) -> str:
    """Write a text as a string of JAAS, inside of a file of Java's properties."""
    jaas = "".join(
        f"\\{ord(letter):03o}" if letter < " " or letter in '"\\' else letter for letter in text
    )
    escaped = "".join(
        rf"\u{unit:04x}" for (unit,) in struct.iter_unpack(">H", jaas.encode("utf-16-be"))
    )
    return f'"{escaped}"'


def _members(port: int, password: str) -> set[int]:
    """Ask the node at `port` which nodes the cluster counts in (API 3, Metadata, version 1).

    With a password it is given first (APIs 17 and 36, SaslHandshake and SaslAuthenticate).

    Source: https://kafka.apache.org/protocol#The_Messages_Metadata

    Raises:
        OSError: it does not answer, or does not take the password.
    """
    with (
        socket.create_connection(("127.0.0.1", port), timeout=2) as sock,
        sock.makefile("rb") as reader,
    ):

        def ask(api: int, version: int, body: bytes) -> None:
            # Length, API, version, a number that comes back, no client id.
            head = struct.pack(">hhih", api, version, 1, -1)
            sock.sendall(struct.pack(">i", len(head + body)) + head + body)
            read(">i")  # the length
            read(">i")  # the number

        def read(form: str) -> int:
            return struct.unpack(form, reader.read(struct.calcsize(form)))[0]

        if password:
            ask(17, 1, struct.pack(">h5s", 5, b"PLAIN"))
            if read(">h"):
                raise OSError("it does not take passwords")
            for _ in range(read(">i")):
                reader.read(read(">h"))  # the ways that it knows
            secret = f"\0{USER}\0{password}".encode()
            ask(36, 0, struct.pack(">i", len(secret)) + secret)
            if read(">h"):
                raise OSError("it does not take the password")
            reader.read(max(0, read(">h")))  # what it says of that
            reader.read(max(0, read(">i")))  # what it sends back
        ask(3, 1, struct.pack(">i", 0))  # of no topic
        members = set()
        for _ in range(read(">i")):
            members.add(read(">i"))
            reader.read(read(">h"))  # its host
            read(">i")  # its port
            reader.read(max(0, read(">h")))  # its rack
        return members


def make_cluster(found: Installation, nodes: int, password: str = "") -> list[KafkaServer]:
    """Make the nodes of a cluster, with ports of their own; none is started.

    Args:
        found: the Kafka to run.
        nodes: how many.
        password: what clients must give, beside the user name `USER`; empty for none.

    Returns:
        The nodes.
    """
    drawn = free_ports(2 * nodes)
    ports = [*zip(drawn[:nodes], drawn[nodes:], strict=True)]
    cluster, numbers = _uuid(), range(1, nodes + 1)
    return [KafkaServer(found, number, ports, cluster, password) for number in numbers]
