"""`wslessons record`: what it keeps of a run, and what `--check` finds."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyter_client.manager import KernelManager
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from nbval.kernel import start_new_kernel

from wslessons import cli
from wslessons.lab import lessons, outputs, record

pytestmark = pytest.mark.timeout(180)

RAISES = {"tags": ["raises-exception"]}
GOOD = (
    """
import sys
for i in range(3):
    print(i, flush=True)
    print("e", i, file=sys.stderr, flush=True)""",
    """
import random
print(f"ws://127.0.0.1:{random.randrange(65536)}")
6 * 7""",
    """
import ipywidgets
from IPython.display import HTML, display
display(HTML("<b>x</b>"))
ipywidgets.Text("x")""",
    """
from pathlib import Path
sorted(path.name for path in Path().glob("*.txt"))""",
)

Write = Callable[..., Path]


def save(path: Path, *sources: str, **metadata: Any) -> Path:
    """Write a notebook of code cells after a heading, the last one with the metadata given."""
    cells = [new_code_cell(source) for source in sources]
    cells[-1].metadata.update(metadata)
    nbformat.write(new_notebook(cells=[new_markdown_cell("# Title"), *cells]), path)
    return path


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a notebook into this test's folder."""

    def write(*sources: str, name: str = "n.ipynb", **metadata: Any) -> Path:
        return save(tmp_path / name, *sources, **metadata)

    return write


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A recorded notebook with each kind of output, from a folder with a text file."""
    folder = tmp_path_factory.mktemp("recording")
    (folder / "beside.txt").touch()
    path = save(folder / "n.ipynb", *GOOD, "1 / 0", collapsed=True, **RAISES)
    assert cli.main(["record", str(path)]) == 0
    return path.read_bytes()


@pytest.fixture
def good(recording: bytes, tmp_path: Path) -> Path:
    """A copy of that recording, in such a folder."""
    (tmp_path / "beside.txt").touch()
    path = tmp_path / "n.ipynb"
    path.write_bytes(recording)
    return path


def code(path: Path) -> list[Any]:
    """The code cells of a notebook."""
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


def test_recording_keeps_outputs_and_leaves_out_what_one_run_has(good: Path) -> None:
    """Counts and outputs stay; streams are whole; ports, widget ids and times are gone."""
    streams, port, widget, folder, error = code(good)
    assert [cell.execution_count for cell in code(good)] == [1, 2, 3, 4, 5]
    assert [(o.name, o.text) for o in streams.outputs] == [
        ("stdout", "0\n1\n2\n"),
        ("stderr", "e 0\ne 1\ne 2\n"),
    ]
    assert port.outputs[0].text == "ws://127.0.0.1:PORT\n"
    assert port.outputs[1].data == {"text/plain": "42"}
    assert [set(o.data) for o in widget.outputs] == [{"text/plain", "text/html"}, {"text/plain"}]
    assert folder.outputs[0].data["text/plain"] == "['beside.txt']"
    # A traceback is worded differently by each Python; its last line is not.
    assert error.outputs[0].traceback == ["ZeroDivisionError: division by zero"]
    assert [cell.metadata for cell in code(good)] == [{}, {}, {}, {}, RAISES]
    assert nbformat.read(good, as_version=4).metadata == outputs.NOTEBOOK_METADATA
    nbformat.validate(nbformat.read(good, as_version=4))


def test_recording_again_gives_the_identical_file(
    good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unchanged notebook has no diff, whatever the ports and ids of the second run."""
    before = good.read_bytes()
    assert cli.main(["record", str(good)]) == 0
    assert good.read_bytes() == before
    assert "recorded, unchanged" in capsys.readouterr().out


def test_check_accepts_a_recording(good: Path) -> None:
    """Nothing has changed since, and the file stays as it is."""
    before = good.read_bytes()
    assert cli.main(["record", "--check", str(good)]) == 0
    assert good.read_bytes() == before


def test_check_finds_a_changed_output(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The sentence names notebook and cell, nbval's own words the change, the file stays."""
    good.write_text(good.read_text().replace('"42"', '"43"'))
    before = good.read_bytes()
    capsys.readouterr()
    assert cli.main(["record", "--check", str(good)]) == 1
    first, *more = capsys.readouterr().err.splitlines()
    assert first == f"wslessons: {good}, cell 2 differs from its recording:"
    assert more[0] == " mismatch 'text/plain'"
    assert more[-2:] == ["  - 42", "  + 43"]
    assert good.read_bytes() == before


@pytest.mark.parametrize(
    ("source", "metadata", "sentence"),
    [
        ("x = 1\nint('a\\nb')", {}, "cell 1 raises ValueError: invalid literal for int()"),
        ("1", RAISES, "cell 1 is tagged raises-exception and raises nothing."),
        ("import os; os._exit(1)", {}, "cell 1 ends the kernel."),
        ("import time; time.sleep(600)", {}, "cell 1 takes more than 2 s."),
    ],
)
def test_failing_cell_is_one_sentence_and_writes_nothing(
    source: str,
    metadata: dict[str, Any],
    sentence: str,
    write: Write,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Notebook, cell and the error's last line, exit code 1, and the file as it was."""
    path = write(source, **metadata)
    before = path.read_bytes()
    # Only a cell that never ends meets the limit, on a machine of any speed.
    limit = ["--timeout", "2"] if "sleep" in source else []
    assert cli.main(["record", *limit, str(path)]) == 1
    out, error = capsys.readouterr()
    assert error.startswith(f"wslessons: {path}, {sentence}")
    assert (out, error.count("\n")) == ("", 1)
    assert path.read_bytes() == before


def test_one_bad_notebook_does_not_hide_the_others(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    """All notebooks are run, each failure is told, and the exit code is 1."""
    paths = [write("1 / 0", name="a.ipynb"), write("1", name="b.ipynb")]
    paths[0].with_name("c.ipynb").write_text("{}")
    assert cli.main(["record", *map(str, paths), str(paths[0].with_name("c.ipynb"))]) == 1
    out, error = capsys.readouterr()
    assert out == f"{paths[1]}: recorded\n"
    assert "a.ipynb, cell 1 raises ZeroDivisionError" in error
    assert "c.ipynb is not a notebook of format 4" in error


def test_check_refuses_what_was_never_recorded(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stripped notebook would be compared with nothing."""
    assert cli.main(["record", "--check", str(write("x = 1"))]) == 1
    assert "cell 1 was never run: wslessons record" in capsys.readouterr().err


def test_check_judges_outputs_and_not_who_saved_the_file(good: Path) -> None:
    """What JupyterLab or another editor writes beside the outputs is no difference."""
    content = json.loads(good.read_text())
    content["metadata"]["language_info"]["version"] = "3.11.7"
    for cell in content["cells"]:
        cell["metadata"]["trusted"] = True
        if cell["cell_type"] == "code":
            cell["execution_count"] += 7
    good.write_text(json.dumps(content, indent=4))
    assert cli.main(["record", "--check", str(good)]) == 0


def test_recording_keeps_what_an_author_noted(good: Path) -> None:
    """Metadata of slides or of a title is no trace of a run; the times of one are."""
    content = json.loads(good.read_text())
    content["metadata"] |= {"title": "Mine", "widgets": {}}
    noted = {"slideshow": {"slide_type": "slide"}, "jupyter": {"source_hidden": True}}
    for cell in content["cells"]:
        cell["metadata"] |= {**noted, "execution": {"shell.execute_reply": "now"}}
    good.write_text(json.dumps(content))
    assert cli.main(["record", str(good)]) == 0
    notebook = nbformat.read(good, as_version=4)
    assert notebook.metadata == {**outputs.NOTEBOOK_METADATA, "title": "Mine"}
    assert {key for cell in notebook.cells for key in cell.metadata} == {*noted, "tags"}


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("int('a')", "cell 1 fails: Cell execution caused an exception: ValueError: invalid lite"),
        ("import time; time.sleep(600)", "cell 1 fails: Timeout of 2 seconds exceeded"),
    ],
)
def test_check_tells_a_cell_that_fails_from_one_that_differs(
    source: str, sentence: str, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    """What nbval says of it, in one line."""
    path = write("x = 1")
    assert cli.main(["record", str(path)]) == 0
    path.write_text(path.read_text().replace('"x = 1"', json.dumps(source)))
    limit = ["--timeout", "2"] if "sleep" in source else []
    capsys.readouterr()
    assert cli.main(["record", "--check", *limit, str(path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"wslessons: {path}, {sentence}")
    assert error.count("\n") == 1


def test_output_that_is_ignored_may_change(write: Write) -> None:
    """`nbval-ignore-output` is for a measurement, in `--check` as in nbval."""
    path = write("import time\ntime.perf_counter_ns()", tags=["nbval-ignore-output"])
    assert cli.main(["record", str(path)]) == 0
    assert cli.main(["record", "--check", str(path)]) == 0


def test_measurements_stay_recorded_while_the_words_around_them_do(write: Write) -> None:
    """A new recording has a new number only where there is something else new beside it."""
    ignored = {"tags": ["nbval-ignore-output"]}
    path = write("import time\nprint(f'{time.perf_counter_ns()} ns')", **ignored)
    assert cli.main(["record", str(path)]) == 0
    before = path.read_bytes()
    assert cli.main(["record", str(path)]) == 0
    assert path.read_bytes() == before
    path.write_text(path.read_text().replace(" ns'", " nanoseconds'"))
    assert cli.main(["record", str(path)]) == 0
    (cell,) = code(path)
    assert cell.outputs[0].text.endswith(" nanoseconds\n")


def test_path_of_the_rules(capsys: pytest.CaptureFixture[str]) -> None:
    """One line, to be put into nbval's own command."""
    assert cli.main(["nbval-rules"]) == 0
    assert Path(capsys.readouterr().out.removesuffix("\n")) == outputs.RULES


def test_notebook_without_cell_ids_gets_lasting_ones(tmp_path: Path) -> None:
    """Format 4.4 has no ids; made-up random ones would differ in each recording."""
    cells = [{"cell_type": "markdown", "metadata": {}, "source": ["a\n", "b"]}] * 2
    text = json.dumps({"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": cells})
    first, second = (outputs.parse(tmp_path, text) for _ in range(2))
    assert outputs.dumps(first) == outputs.dumps(second)
    assert first.cells[0].source == "a\nb"
    assert first.cells[0].id != first.cells[1].id


@pytest.mark.parametrize("words", [["no.ipynb"], ["--sanitize-with", "no.cfg", "n.ipynb"]])
def test_missing_file_is_one_sentence_and_exit_code_2(
    words: list[str],
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A slip in a file's name runs nothing."""
    monkeypatch.chdir(write("1").parent)
    assert cli.main(["record", *words]) == 2
    error = capsys.readouterr().err
    assert "no." in error
    assert error.count("\n") == 1


def test_all_lessons_are_recorded_when_none_is_named(
    tmp_path: Path,
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Copies in this folder, else a clone's lessons; those of an install can only be checked."""
    monkeypatch.setattr(lessons, "PACKAGE", tmp_path / "wslessons")
    monkeypatch.chdir(tmp_path)
    inside = tmp_path / "wslessons" / "notebooks"
    inside.mkdir(parents=True)
    write("0", name="wslessons/notebooks/01_one.ipynb")
    assert cli.main(["record"]) == 2
    assert cli.main(["record", "--check"]) == 1
    assert "cell 1 was never run" in capsys.readouterr().err
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    write("1", name="notebooks/01_one.ipynb")
    (tmp_path / "notebooks" / "deeper").mkdir()
    write("2", name="notebooks/deeper/01_one.ipynb")
    monkeypatch.setattr(sys, "argv", ["wslessons", "record"])
    assert cli.main() == 0
    recorded = [Path("notebooks/01_one.ipynb"), Path("notebooks/deeper/01_one.ipynb")]
    assert capsys.readouterr().out == "".join(f"{path}: recorded\n" for path in recorded)
    (tmp_path / "copies" / "deeper").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "copies")
    write("2", name="copies/deeper/01_one.ipynb")
    write("3", name="copies/mine.ipynb")
    assert cli.main() == 0
    assert capsys.readouterr().out == f"{Path('deeper/01_one.ipynb')}: recorded\n"


@given(st.data())
def test_our_rules_are_read_and_lasting(data: st.DataObject) -> None:
    """No rule is ignored for its form, and none changes what it has already changed."""
    rules = outputs.read_rules()
    assert len(rules) == outputs.RULES.read_text().count("\nregex:")
    pattern, _ = data.draw(st.sampled_from(rules))
    once = outputs.sanitize(rules, data.draw(st.from_regex(pattern)))
    assert outputs.sanitize(rules, once) == once


def test_ports_are_replaced_wherever_they_stand() -> None:
    """A URL and a peer in the log; but no word of the prose around them."""
    rules = outputs.read_rules()
    once = outputs.sanitize(rules, "ws://127.0.0.1:80 localhost:8765 ('127.0.0.1', 80) 12:30")
    assert once == "ws://127.0.0.1:PORT localhost:PORT ('127.0.0.1', 80) 12:30"


def test_what_reads_notebooks_comes_after_what_it_can_do_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Imported first, each of them compiles grammars for a second, which no notebook needs."""
    order: list[str] = []
    monkeypatch.setattr(record, "need", lambda module, extra: order.append(module))
    monkeypatch.setattr(record, "import_jsonschema", lambda: order.append("jsonschema"))
    assert cli.main(["record", str(tmp_path / "none.ipynb")]) == 2
    assert sorted(order) == ["ipykernel", "jsonschema", "nbclient", "nbval"]
    assert order.index("jsonschema") < min(order.index("nbclient"), order.index("nbval"))


def test_notebooks_are_read_without_what_compiles_grammars() -> None:
    """Importing that takes seconds, of JupyterLab's start and of every process of these tests."""
    import jsonschema

    assert jsonschema.FormatChecker().checkers
    assert not {"rfc3987_syntax", "isoduration"} & sys.modules.keys()


@pytest.mark.skipif(sys.platform == "win32", reason="there it has TCP ports")
def test_nbval_meets_its_kernels_where_nobody_takes_a_port(monkeypatch: pytest.MonkeyPatch):
    """A port that is drawn for a kernel may be some connection's when the kernel wants it."""
    met: list[tuple[str, str]] = []

    def start(manager: KernelManager, **_: object) -> None:
        met.append((manager.transport, manager.ip))
        raise InterruptedError

    monkeypatch.setattr(KernelManager, "start_kernel", start)
    for _ in range(2):
        with pytest.raises(InterruptedError):
            start_new_kernel(kernel_name="python3")
    assert [transport for transport, _ in met] == ["ipc", "ipc"]
    assert len({ip for _, ip in met}) == 2
