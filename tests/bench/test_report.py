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
    text = report.markdown(found, "python 3.99, cores 2", "wslessons bench report --quick")
    assert "| library | 20 us | 1 |\n|  | fast | 10 us | 0.5 (0.25 to 1) |\n" in text
    assert "Measured on: python 3.99, cores 2." in text
    assert "`wslessons bench report --quick`" in text
    svg = ElementTree.fromstring(report.picture(found, "python 3.99, cores 2"))
    assert any("python 3.99" in (each.text or "") for each in svg)
    bars = [each for each in svg if each.tag.endswith("rect") and each.get("x")]
    assert [float(bar.get("width", "0")) for bar in bars] == [300.0, 150.0]


def test_report_runs_the_benches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both files are there, made of what was measured."""
    monkeypatch.setattr(report, "BENCHES", {"connect": ["--connections", "10", "--rounds", "1"]})
    page, begin, end = tmp_path / "page.md", *report.MARKS
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    words = ["bench", "report", "--folder", str(tmp_path), "--only", "connect"]
    assert cli.main([*words, "--into", str(page)]) == 0
    for file in (page, tmp_path / "report.md"):
        text = file.read_text()
        assert "connections let in per second, 10" in text
        assert all(word in text for word in ("Measured on: python ", "websockets ", "processor "))
        assert "`wslessons bench report`" in text
    lines = page.read_text().splitlines()
    assert (lines[:2], lines[-2:]) == (["before", begin], [end, "after"])
    assert "old" not in lines
    assert (tmp_path / "report.svg").read_text().startswith("<svg")


def test_a_folder_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is measured; and so is a file that has no place for the table."""
    assert cli.main(["bench", "report", "--folder", "/no/such/folder"]) == 2
    assert "is no folder" in capsys.readouterr().err
    assert cli.main(["bench", "report", "--into", __file__]) == 2
    assert "to write between" in capsys.readouterr().err
    assert cli.main(["bench", "report", "--into", "/no/such/file"]) == 1
    assert "no such file" in capsys.readouterr().err
