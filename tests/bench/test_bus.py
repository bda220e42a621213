"""The bench of the buses measures what arrives, for the bus and for the bare client alike."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path

import pytest
import shell

from wslessons.bench import bus
from wslessons.bench.bus_ends import KINDS
from wslessons.scaling.brokers import kafka


def arguments(*words: str) -> argparse.Namespace:
    """Parse the bench's own words."""
    parser = argparse.ArgumentParser()
    bus.add_arguments(parser)
    return parser.parse_args(words)


# Kafka starts in three seconds, and on two busy cores in twenty.
@pytest.mark.timeout(150)
def test_it_prints_a_table_and_writes_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Every kind of bus is measured against its bare client, and an emulator is called one."""
    measure = bus.measure
    monkeypatch.setattr(
        bus, "measure", lambda kinds, rounds, pace, *_: measure(kinds, rounds, pace, 0.1, 300)
    )
    file = tmp_path / "results.json"
    assert bus.run(arguments("--quick", "--rounds", "1", "--json", str(file))) == 0
    output = capsys.readouterr()
    kinds = json.loads(file.read_text())["kinds"]
    assert list(kinds) == list(KINDS)
    for kind, found in kinds.items():
        assert f"\n{kind} " in output.out
        for contender in ("bus", "bare"):
            assert 0 < found[contender]["p50"] <= found[contender]["p99"]
            assert found[contender]["received_rate"] > 0
        assert found["added_p50"] == found["bus"]["p50"] - found["bare"]["p50"]
        assert found["rate_ratio"] == found["bus"]["rate"] / found["bare"]["rate"]
    emulated = kafka.find() is None
    assert ("emulator" in output.err) == emulated
    assert ("Apache Kafka " in output.err) != emulated
    assert ("\nkafka (emulator) " in output.out) == emulated


async def test_ctrl_c_is_one_line_and_leaves_nobody():
    """Interrupted in the middle, it ends what it started; no client and no broker says a word."""
    words = ("bench", "bus", "--quick", "--kinds", "nats")
    program = (sys.executable, "-m", "wslessons", *words)
    async with asyncio.timeout(60):
        process = await asyncio.create_subprocess_exec(
            *program, stderr=asyncio.subprocess.PIPE, start_new_session=True
        )
        assert process.stderr is not None
        # Now there is a broker, and the other end is being started.
        assert await process.stderr.readline() == b"nats: nats-server\n"
        os.killpg(process.pid, signal.SIGINT)
        # Whoever was started has this pipe, too: its end is theirs.
        errors = await process.stderr.read()
    assert errors == b"wslessons: interrupted, nothing was measured.\n"
    assert await process.wait() == 130


async def test_a_kafka_that_can_not_be_reached_is_one_sentence(monkeypatch: pytest.MonkeyPatch):
    """The environment's Kafka is what is measured; where it is not there, nothing else is."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"kafka://127.0.0.1:{closed.getsockname()[1]}"
        async with asyncio.timeout(60):
            monkeypatch.setenv("WSLESSONS_KAFKA_URL", url)
            code, out, errors = await shell.run("bench", "bus", "--quick", "--kinds", "kafka")
    assert (code, out) == (1, "")
    lines = errors.splitlines()
    assert lines[0] == "kafka: the broker that WSLESSONS_KAFKA_URL names"
    assert lines[1].startswith("wslessons: can't reach Kafka at 127.0.0.1:")
    assert len(lines) == 2
