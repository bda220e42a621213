"""What the tests of this room share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from wslessons.scaling.brokers import Broker, start


@contextlib.contextmanager
def running(kind: str, *, emulator: bool = False) -> Generator[Broker]:
    """Run a broker in a thread, where no loop of a test is."""
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(lambda: asyncio.run(start(kind, own=True, emulator=emulator)))
        broker = work.result()
        try:
            yield broker
        finally:
            pool.submit(lambda: asyncio.run(broker.stop())).result()


@pytest.fixture(scope="session")
def kafka_broker() -> Iterator[Broker]:
    """One Kafka, a real one where there is one, for all tests of a process that do it no harm."""
    with running("kafka") as broker:
        yield broker


@pytest.fixture(scope="session")
def brokers(kafka_broker: Broker) -> Iterator[dict[str, Broker]]:
    """One broker of each kind for all tests of a process that do it no harm."""
    with (
        running("nats") as nats,
        running("redis") as redis,
        running("kafka", emulator=True) as emulator,
    ):
        yield {"nats": nats, "redis": redis, "kafka": kafka_broker, "emulator": emulator}
