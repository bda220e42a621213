"""Kafka alone: which one is found, how a real one is got, and what it may refuse."""

from __future__ import annotations

import asyncio
import os
import struct
from pathlib import Path

import pytest
from test_secure_brokers import before, works

from wslessons.errors import UserError
from wslessons.scaling import brokers
from wslessons.scaling.brokers import Broker, kafka
from wslessons.scaling.brokers.__main__ import main
from wslessons.scaling.bus import from_url
from wslessons.scaling.bus.kafka import Topic

# Kafka starts in three seconds, and on two busy cores in twenty.


def program(path: Path, text: str = "exit 0") -> Path:
    """Write a shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with Java alone; programs go to the folder ``bin``."""
    for name in ("KAFKA_HOME", "JAVA_HOME", "WSLESSONS_KAFKA_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    program(tmp_path / "bin" / "java")
    return tmp_path


def jars(folder: Path, version: str) -> Path:
    """Make what looks like Kafka's jars."""
    folder.mkdir(parents=True)
    for name in ("kafka-clients", "kafka_2.13", "kafka-server"):
        (folder / f"{name}-{version}.jar").touch()
    return folder


def test_the_nearest_kafka_is_found(nothing_here: Path, monkeypatch: pytest.MonkeyPatch):
    """Of what the cache, PATH and `KAFKA_HOME` have, the last comes first."""
    assert kafka.find() is None
    brought = jars(nothing_here / "cache" / "wslessons" / "kafka" / kafka.VERSION, kafka.VERSION)
    found = kafka.find()
    assert found is not None
    assert (found.libs, found.version) == (brought, kafka.VERSION)
    (brought / kafka.ARCHIVE).touch()
    shared = kafka.find()
    assert shared is not None
    assert {*shared.command("kafka.Kafka")} - {*found.command("kafka.Kafka")} == {
        f"-XX:SharedArchiveFile={brought / kafka.ARCHIVE}"
    }
    libs = jars(nothing_here / "opt" / "libexec" / "libs", "4.1.0")
    script = program(nothing_here / "opt" / "bin" / "kafka-server-start")
    (nothing_here / "bin" / "kafka-server-start").symlink_to(script)
    found = kafka.find()
    assert found is not None
    assert (found.libs, found.version) == (libs, "4.1.0")
    libs = jars(nothing_here / "home" / "libs", "4.0.1")
    monkeypatch.setenv("KAFKA_HOME", str(nothing_here / "home"))
    found = kafka.find()
    assert found is not None
    assert (found.libs, found.version) == (libs, "4.0.1")
    (nothing_here / "bin" / "java").unlink()
    assert kafka.find() is None


async def test_without_a_kafka_there_is_the_emulator(nothing_here: Path):
    """It is called one."""
    async with asyncio.timeout(40), brokers.run("kafka") as running:
        assert "emulator" in running.label


async def test_a_kafka_that_does_not_start_gives_its_last_words(
    nothing_here: Path, monkeypatch: pytest.MonkeyPatch
):
    """As with a Java that is too old for it: one sentence, and nothing is left."""
    jars(nothing_here / "libs", "4.4.0")
    monkeypatch.setenv("KAFKA_HOME", str(nothing_here))
    program(nothing_here / "bin" / "java", "echo 'Error: wants Java 17' >&2; exit 1")
    async with asyncio.timeout(40):
        with pytest.raises(
            UserError, match=r"^Apache Kafka 4\.4\.0 did not start: Error: wants Java 17\.$"
        ):
            await brokers.start("kafka")


def test_kafka_is_got_whole_or_not_at_all(nothing_here: Path, capsys: pytest.CaptureFixture[str]):
    """Without Maven, with one that fails and with one that works: each time one line."""
    assert main() == 1
    words = "wslessons: Maven is needed to get Kafka: there is no mvn on PATH.\n"
    assert capsys.readouterr() == ("", words)
    program(nothing_here / "bin" / "mvn", "echo '[ERROR] no such artifact'; exit 1")
    assert main() == 1
    assert capsys.readouterr() == ("", "wslessons: Maven could not get Kafka: no such artifact\n")
    target = nothing_here / "cache" / "wslessons" / "kafka" / kafka.VERSION
    assert not target.exists()
    # The folder is given as the last word, -DoutputDirectory=FOLDER.
    words = f"export PATH={os.defpath}; for last; do :; done; mkdir ${{last#*=}}"
    program(nothing_here / "bin" / "mvn", words)
    for _ in range(2):
        assert main() == 0
        words = f"Apache Kafka {kafka.VERSION} is in {target}\n"
        assert capsys.readouterr() == (words, "")
    assert [*target.parent.iterdir()] == [target]


@pytest.mark.skipif(not kafka.find(), reason="there is no real Kafka")
def test_java_does_without_classes_that_another_java_has_kept(tmp_path: Path):
    """It formats a disk as if there were none, and as we do from what was kept."""
    found = kafka.find()
    assert found is not None
    archive = tmp_path / kafka.ARCHIVE
    archive.write_bytes(b"not for you" * 1000)
    options = (f"-XX:SharedArchiveFile={archive}",)
    # It keeps no beginning of the metadata among its jars, so Kafka's own tool writes it.
    jars = tmp_path / "libs"
    jars.mkdir()
    for jar in found.libs.glob("*.jar"):
        (jars / jar.name).symlink_to(jar)
    whole = kafka.Installation(found.java, jars, found.version, options)
    by_tool, by_us = (kafka.make_cluster(whole, 1)[0] for _ in range(2))
    try:
        by_tool._format(str(by_tool._config))
        written = (by_tool.data / kafka.METADATA).read_bytes()
        (jars / kafka.FORMATTED).write_bytes(written)
        by_us._format(str(by_us._config))
        assert (by_us.data / kafka.METADATA).read_bytes() == written
        ours, theirs = (properties(each.data / "meta.properties") for each in (by_us, by_tool))
        assert {*map(len, ours.values())} == {1, 22}
        assert {name: len(value) for name, value in ours.items()} == {
            name: len(value) for name, value in theirs.items()
        }
    finally:
        by_tool.close()
        by_us.close()


def properties(path: Path) -> dict[str, str]:
    """Read a file of Java's properties."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


async def test_a_broker_that_knows_no_idempotent_producers_is_used_without(kafka_broker: Broker):
    """It does not name that call (22, InitProducerId) among its own; events pass all the same."""
    port = int(kafka_broker.url.partition("?")[0].rpartition(":")[2])
    async with asyncio.timeout(100):
        # As `ApiVersions` says it: the number of the call, and from which version on.
        hide = struct.pack(">hh", 22, 0), struct.pack(">hh", 9999, 0)
        async with before(port, tls=False, hide=hide) as outer:
            url = f"kafka://127.0.0.1:{outer}?topic=plain"
            await works(url)
            async with from_url(url) as bus:
                topic = bus._transport  # ty: ignore[missing-attribute]
                assert isinstance(topic, Topic)
                assert topic._producer is not None
                assert topic._producer._txn_manager is None
