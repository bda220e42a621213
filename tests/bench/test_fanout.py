"""The fan-out bench: that it counts what arrives, and ends what it starts."""

from __future__ import annotations

import argparse
import json
import socket
from pathlib import Path

import pytest

from wslessons.bench import fanout, tools
from wslessons.bench.fanout_load import FRAME, TEXT_SIZE, Load, Receiver
from wslessons.bench.fanout_server import CONTENDERS
from wslessons.connection import text_frame
from wslessons.errors import UserError


@pytest.fixture
def receiver() -> Receiver:
    """A receiver that counts by bytes."""
    return Receiver(socket.socket(), bytearray(), slow=False)


def line(n: int, sender: str = "s00") -> bytes:
    """Give a line as the chat would send it."""
    return text_frame(f"[{sender}] {n:08d}".encode().ljust(FRAME - 2, b"x"))


def feed(receiver: Receiver, data: bytes, step: int) -> None:
    """Feed `data` in pieces of `step` bytes."""
    for at in range(0, len(data), step):
        piece = data[at : at + step]
        receiver.feed(bytearray(piece + b"left over from before"), len(piece))


@pytest.mark.parametrize("step", [1, 7, FRAME, FRAME + 1, 1000])
@pytest.mark.parametrize("slow", [True, False])
def test_lines_are_counted_however_they_are_cut(receiver: Receiver, step: int, slow: bool) -> None:
    """The count does not depend on how the stream is cut into reads."""
    receiver.slow = slow
    feed(receiver, b"".join(line(n) for n in range(50)), step)
    assert (receiver.count, receiver.missed, receiver.slow, receiver.checked) == (50, 0, slow, True)
    receiver.sock.close()


@pytest.mark.parametrize("step", [1, 7, FRAME, FRAME + 1, 1000])
def test_notices_are_counted_as_missed(receiver: Receiver, step: int) -> None:
    """A receiver that meets a notice goes over to frame by frame, and keeps its count."""
    notice = text_frame(b"[system] you missed 12 messages")
    feed(receiver, line(0) + line(1) + notice + line(14) + line(15), step)
    assert (receiver.count, receiver.missed, receiver.slow) == (4, 12, True)
    receiver.sock.close()


def test_disorder_is_noticed(receiver: Receiver) -> None:
    """A line out of its sender's order does not pass; two senders may be interleaved."""
    receiver.slow = True
    feed(receiver, line(0) + line(0, "s01") + line(1) + line(1, "s01"), 1000)
    assert receiver.checked
    feed(receiver, line(3), 1000)
    assert not receiver.checked
    receiver.sock.close()


@pytest.mark.parametrize("contender", CONTENDERS)
def test_contender_delivers_everything(contender: str) -> None:
    """Each server passes every line on to every receiver, in order, and ends with the block."""
    with tools.Child("wslessons.bench.fanout_server", contender) as server:
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
    assert fanout.main([*arguments, "--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert "3 receivers, 1 sender, window 8" in out
    results = json.loads(file.read_text())
    assert results["text_size"] == TEXT_SIZE
    assert set(results["rate"][0]["turns"]) == {"chat", "broadcast", "naive", "floor"}
    assert all(turn[0]["missing"] == 0 for turn in results["rate"][0]["turns"].values())


def test_mistakes_are_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A wrong option or a file that can't be written is a sentence and an exit code."""
    assert fanout.main(["--rounds", "0"]) == 2
    assert capsys.readouterr().err == "wslessons: --rounds and --seconds must be positive.\n"
    with pytest.raises(UserError, match="can't write"):
        tools.save_json(argparse.Namespace(json=str(tmp_path / "no" / "file")), {})
    with pytest.raises(UserError, match="ended unexpectedly"):
        tools.Child("wslessons.bench.no_such_module")
