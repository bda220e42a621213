"""What becomes of events while a broker's disk, a small real one, is full, and after that."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from waits import until

from wslessons.scaling.brokers import find_program, nats, run
from wslessons.scaling.bus import Event, Subscription, from_url

STREAM = f"?stream=full&max_bytes={2**20}"


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of its own, on which brokers keep their data."""
    if sys.platform != "linux":
        pytest.skip("only Linux makes a small disk out of memory")
    command = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(tmp_path)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError) as exc:
        pytest.skip(f"no small disk can be mounted here: {exc}")
    try:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        yield tmp_path
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True, timeout=10)


def fill(disk: Path) -> Path:
    """Take all the room that a disk has left, and return the file that does."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    assert shutil.disk_usage(disk).free < 4096
    return ballast


async def events(reader: Subscription, count: int) -> list[str]:
    """Return the data of so many events."""
    found: list[str] = []
    while len(found) < count:
        item = await reader.recv()
        if isinstance(item, Event):
            found.append(item.data)
    return found


async def test_jetstream_goes_on_by_itself_once_its_disk_has_room(disk: Path):
    """It says that the disk is full, keeps what waits, and stores all of it after that, once."""
    texts = [f"{number} {'x' * 10_000}" for number in range(20)]
    async with (
        asyncio.timeout(60),
        run("nats", own=True) as broker,
        from_url(broker.url + STREAM) as bus,
    ):
        reader = bus.subscribe()
        bus.publish(Event("/", "early"))
        assert await events(reader, 1) == ["early"]
        ballast = fill(disk)
        before = {*broker.pids}
        for text in texts:
            bus.publish(Event("/", text))
        await until(lambda: "its disk is full: make room there" in bus.status.why)
        assert bus.backlog
        assert {*broker.pids} == before
        ballast.unlink()
        assert await events(reader, 20) == texts
        await bus.flush()
        assert bus.missed == 0
        assert sum(isinstance(item, Event) for _, item in bus.items()) == 21
        assert not before & {*broker.pids}


async def test_the_bus_goes_on_when_an_operator_has_made_room_and_restarted(
    disk: Path, monkeypatch: pytest.MonkeyPatch
):
    """A server that nobody looks after: the sentence says what to do, and that is enough."""
    monkeypatch.setattr(nats, "HEALTH", 3600)
    server = nats.NatsServer(find_program("nats"), "foreign")
    async with asyncio.timeout(60):
        try:
            await asyncio.to_thread(server.start)
            async with from_url(f"nats://{server.address}{STREAM}") as bus:
                reader = bus.subscribe()
                ballast = fill(disk)
                bus.publish(Event("/", "x" * 10_000))
                await until(lambda: "make room there, and restart nats-server" in bus.status.why)
                ballast.unlink()
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
                assert await events(reader, 1) == ["x" * 10_000]
                assert bus.missed == 0
        finally:
            await asyncio.to_thread(server.close)
