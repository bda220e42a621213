"""What the tests of this room share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from wslessons.scaling import brokers
from wslessons.scaling.brokers import Broker


@pytest.fixture(scope="session")
def kafka_broker() -> Iterator[Broker]:
    """One Kafka, a real one where there is one, for all tests of a process that do it no harm."""
    # In a thread, where no loop of a test is.
    with ThreadPoolExecutor(1) as pool:
        broker = pool.submit(lambda: asyncio.run(brokers.start("kafka", own=True))).result()
        try:
            yield broker
        finally:
            pool.submit(lambda: asyncio.run(broker.stop())).result()
