"""The fan-out bench: that it counts what arrives, and ends what it starts."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets import ServerConnection, broadcast, serve
from websockets.frames import Frame, Opcode

from wslessons import cli
from wslessons.bench import fanout, tools
from wslessons.bench.fanout import CONTENDERS
from wslessons.bench.fanout_load import FRAME, TEXT_SIZE, Load, Receiver
from wslessons.connection import text_frame
from wslessons.errors import UserError


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver that counts by bytes, and keeps the pongs that it would send."""
    pongs: list[bytes] = []
    with socket.socket() as sock:
        yield Receiver(sock, bytearray(), pongs.append)


def line(n: int, sender: str = "s00") -> bytes:
    """Give a line as the chat would send it."""
    return text_frame(f"[{sender}] {n:08d}".encode().ljust(FRAME - 2, b"x"))


def feed(receiver: Receiver, data: bytes, step: int) -> None:
    """Feed `data` in pieces of `step` bytes."""
    for at in range(0, len(data), step):
        piece = data[at : at + step]
        receiver.feed(bytearray(piece + b"left over from before"), len(piece))


@pytest.mark.parametrize("step", [1, 7, FRAME, FRAME + 1, 1000])
@pytest.mark.parametrize("check", [True, False])
def test_lines_are_counted_however_they_are_cut(receiver: Receiver, step: int, check: bool) -> None:
    """The count does not depend on how the stream is cut into reads."""
    receiver.slow = receiver.check = check
    feed(receiver, b"".join(line(n) for n in range(50)), step)
    assert (receiver.count, receiver.missed, receiver.checked) == (50, 0, True)
    assert receiver.slow is check


@pytest.mark.parametrize("step", [1, 7, FRAME, FRAME + 1, 1000])
def test_notices_are_counted_as_missed(receiver: Receiver, step: int) -> None:
    """A receiver that meets a notice reads it frame by frame, and then counts bytes again."""
    notice = text_frame(b"[system] you missed 12 messages")
    feed(receiver, line(0) + line(1) + notice + line(14) + line(15), step)
    assert (receiver.count, receiver.missed, receiver.slow) == (4, 12, False)


@pytest.mark.parametrize("step", [1, 7, FRAME, FRAME + 1, 1000])
@pytest.mark.parametrize("text", [b"", b"beat 1"])
def test_pings_are_answered_among_the_lines(receiver: Receiver, step: int, text: bytes) -> None:
    """A run may be longer than a server waits for pongs, and a ping is no line."""
    pongs: list[bytes] = []
    receiver.send = pongs.append
    ping = Frame(Opcode.PING, text).serialize(mask=False)
    feed(receiver, line(0) + ping + line(1) + line(2) + ping + ping, step)
    assert (receiver.count, receiver.missed, receiver.slow) == (3, 0, False)
    assert pongs == [bytes([0x8A, 0x80 | len(text), 0, 0, 0, 0]) + text] * 3


async def test_load_outlives_the_keepalive_of_a_server() -> None:
    """Receivers and senders are still there after many times the server's patience."""

    async def handler(connection: ServerConnection) -> None:
        name = str(await connection.recv())
        everybody.add(connection)
        await connection.send(f"Welcome, {name}!")
        async for text in connection:
            broadcast(everybody - {connection}, f"[{name}] {text}")

    def talk(port: int) -> tuple[int, int]:
        with Load(port, 2, 1) as load:
            pinged = len(answered)
            while len(answered) < pinged + 30:
                load.saturate(0.05, 1)
            load.drain()
            return load.arrived, load.sent

    everybody: set[ServerConnection] = set()
    answered: list[float] = []

    class Counting(ServerConnection):
        def acknowledge_pings(self, data: bytes) -> None:
            super().acknowledge_pings(data)
            answered.append(self.latency)

    serving = serve(
        handler,
        "127.0.0.1",
        0,
        compression=None,
        create_connection=Counting,
        ping_interval=0.1,
        ping_timeout=10,
    )
    async with asyncio.timeout(40), serving as server:
        port = server.sockets[0].getsockname()[1]
        arrived, sent = await asyncio.to_thread(talk, port)
    assert arrived == 2 * sent > 0


async def test_a_server_that_leaves_receivers_deaf_is_named_and_the_others_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence in place of its measures says how many heard; those of the others stand."""
    everybody: list[ServerConnection] = []

    async def handler(connection: ServerConnection) -> None:
        name = str(await connection.recv())
        everybody.append(connection)
        await connection.send(f"Welcome, {name}!")
        async for text in connection:
            broadcast(everybody[:3], f"[{name}] {text}")

    monkeypatch.setattr("wslessons.bench.fanout_load.PATIENCE", 0.5)
    async with asyncio.timeout(40), serve(handler, "127.0.0.1", 0, compression=None) as server:
        port = server.sockets[0].getsockname()[1]

        def one(name: str) -> dict[str, Any]:
            if name == "hears":
                return {"rate": 1.0}
            with Load(port, 5, 1):
                raise AssertionError("two of the five have heard nothing")

        turns = await asyncio.to_thread(tools.turns, ["deaf", "hears"], 1, fanout._or_deaf(one))
    assert fanout._hearing(turns) == {"hears": [{"rate": 1.0}]}
    fanout._tell_deaf(turns)
    # On a busy machine fewer than three may have heard within the patience of this test.
    assert re.fullmatch(r"deaf: deaf after a lag: [0-3] of 5 heard\.\n", capsys.readouterr().out)


def test_disorder_is_noticed(receiver: Receiver) -> None:
    """A line out of its sender's order does not pass; two senders may be interleaved."""
    receiver.slow = receiver.check = True
    feed(receiver, line(0) + line(0, "s01") + line(1) + line(1, "s01"), 1000)
    assert receiver.checked
    feed(receiver, line(3), 1000)
    assert not receiver.checked


@pytest.mark.parametrize("contender", CONTENDERS)
def test_contender_delivers_everything(contender: str) -> None:
    """Each server passes every line on to every receiver, in order, and ends with the block."""
    with tools.Child("fanout", contender) as server:
        with Load(server.port, 5, 2) as load:
            load.saturate(0.1, 16)
            assert load.drain() == (0, False)
            assert load.arrived == load.sent * 5 > 0
            assert load.in_order
            latencies = load.pace(0.1, 100)
            assert len(latencies) == 10 * 5
            assert 0 < latencies[0] <= latencies[-1] < 5
        usage = server.ask()
        assert usage["cpu"] > 0
    assert server._process.returncode == 0


def test_ask_one_question(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command prints a table and writes what it measured as JSON."""
    monkeypatch.setattr(fanout, "QUICK_RATES", [(3, 1, 8)])
    file = tmp_path / "out.json"
    arguments = ["--quick", "--rounds", "1", "--seconds", "0.1", "--only", "rate"]
    assert cli.main(["bench", "fanout", *arguments, "--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert "3 receivers, 1 sender, window 8" in out
    results = json.loads(file.read_text())
    assert results["text_size"] == TEXT_SIZE
    assert set(results["rate"][0]["turns"]) == {"chat", "broadcast", "naive", "floor"}
    assert all(turn[0]["missing"] == 0 for turn in results["rate"][0]["turns"].values())


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    """What can't be written or started is a sentence."""
    with pytest.raises(UserError, match="can't write"):
        tools.save_json(argparse.Namespace(json=str(tmp_path / "no" / "file")), {})
    with pytest.raises(UserError, match="ended unexpectedly"):
        tools.Child(module="wslessons.bench.no_such_module")
