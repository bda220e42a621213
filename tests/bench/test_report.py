"""The report: one table and one picture of several benches."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from wslessons import cli
from wslessons.bench import report

RESULTS = {
    "bench": "echo",
    "connections": 50,
    "turns": {
        "fast": [{"cpu": 1e-5}, {"cpu": 2e-5}, {"cpu": 1e-5}],
        "library": [{"cpu": 2e-5}, {"cpu": 2e-5}, {"cpu": 4e-5}],
    },
}


def test_rows_begin_with_the_baseline() -> None:
    """The library first, then the others with the median of the ratios of each round."""
    first, second = report.rows(RESULTS)
    assert (first.contender, first.value, first.share) == ("library", "20 us", None)
    assert (second.contender, second.value, second.share) == ("fast", "10 us", 0.5)
    assert second.compared == "0.5 (0.25 to 1)"


def test_table_and_picture_show_every_row() -> None:
    """The picture is well-formed, and its bars are as long as the ratios."""
    found = report.rows(RESULTS)
    text = report.markdown(found)
    assert "| fast | 10 us | 0.5 (0.25 to 1) |" in text
    svg = ElementTree.fromstring(report.picture(found))
    bars = [each for each in svg if each.tag.endswith("rect") and each.get("x")]
    assert [float(bar.get("width", "0")) for bar in bars] == [300.0, 150.0]


def test_report_runs_the_benches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both files are there, made of what was measured."""
    monkeypatch.setattr(report, "BENCHES", {"connect": ["--connections", "10", "--rounds", "1"]})
    assert cli.main(["bench", "report", "--folder", str(tmp_path), "--only", "connect"]) == 0
    assert "connections let in per second, 10" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "report.svg").read_text().startswith("<svg")


def test_a_folder_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is measured."""
    assert cli.main(["bench", "report", "--folder", "/no/such/folder"]) == 2
    assert "is no folder" in capsys.readouterr().err
