"""The bench of the buses measures what arrives, for the bus and for the bare client alike."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from wslessons.bench import backplane
from wslessons.bench.backplane_ends import KINDS
from wslessons.errors import UserError


def arguments(*words: str) -> argparse.Namespace:
    """Parse the bench's own words."""
    parser = argparse.ArgumentParser()
    backplane.add_arguments(parser)
    return parser.parse_args(words)


def test_it_prints_a_table_and_writes_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Every kind of bus is measured against its bare client, and the emulator is called one."""
    measure = backplane.measure
    monkeypatch.setattr(
        backplane, "measure", lambda kinds, rounds, pace, *_: measure(kinds, rounds, pace, 0.1, 300)
    )
    file = tmp_path / "results.json"
    assert backplane.run(arguments("--quick", "--rounds", "1", "--json", str(file))) == 0
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
    assert "emulator" in output.err


def test_wrong_numbers_are_refused():
    """One sentence, and the exit code of a wrong command line."""
    with pytest.raises(UserError, match="must be positive") as info:
        backplane.run(arguments("--rounds", "0"))
    assert info.value.exit_code == 2
