"""`wslessons grade` over a folder of good, bad, broken, endless, cheating and hostile notebooks."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import html
import json
import re
import subprocess
import sys
from asyncio.subprocess import DEVNULL
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from xml.etree import ElementTree

import psutil
import pytest
from waits import is_alive, until

from wslessons.cli import main
from wslessons.exercises import check
from wslessons.exercises.grade import kernel
from wslessons.exercises.grade.grader import Limits, Result, find, grade
from wslessons.exercises.grade.handedin import read

IMPORT = "from wslessons.exercises import check"
CHECK = "await check.counter(counter)"
GOOD = """
async def counter(connection):
    number = 0
    async for _message in connection:
        number = number + 1
        await connection.send(f"{number}")
"""
BAD = GOOD.replace("number = 0", "number = 10")
OWN = "it is the package's own solution, letter by letter"
SLEEPER = "3141.5"
"""Seconds for which a process sleeps that must not outlive its notebook."""


@dataclass
class Case:
    """One notebook: its cells, and what `counter` gets."""

    cells: list[str]
    state: str
    said: str = ""
    """A part of the verdict, of a cell's error or of the trouble."""
    noticed: str = ""


def plain(*before: str, answer: str = GOOD, after: tuple[str, ...] = ()) -> list[str]:
    """The cells of a notebook with one exercise, and something before and after it."""
    return [*before, IMPORT, answer, CHECK, *after]


CASES = {
    # good
    "good": Case(plain(), "pass"),
    "in one cell": Case([IMPORT, GOOD + "\n\n" + CHECK], "pass"),
    "copied": Case(plain(answer=check.counter.solution_source), "pass", noticed="own solution"),
    "other cells fail": Case(
        plain("import nothing_like_this", "undefined + 1", after=("1 / 0",)), "pass", "NameError"
    ),
    "name reused": Case(plain(after=("counter = 5", "del counter")), "pass"),
    "own module": Case(
        plain("from beside import one", answer=GOOD.replace("+ 1", "+ one")), "pass"
    ),
    "magics and input": Case(
        plain("%pwd", "!true", "%%bash\necho hello", "name = input('your name? ')"),
        "pass",
        "StdinNotImplementedError",
    ),
    # bad
    "stub": Case(
        plain(answer=check.counter.stub), "not attempted yet", "Write it in the cell above"
    ),
    "wrong": Case(plain(answer=BAD), "fail", "expected: '1'"),
    "not defined": Case([IMPORT, CHECK], "not attempted yet", "counter is not defined"),
    "syntax": Case(
        plain(answer="async def counter(connection:\n  pass"), "not attempted yet", "Synt"
    ),
    "plain function": Case(
        plain(answer="def counter(connection):\n    return 1"), "fail", "async def"
    ),
    "raises": Case(plain(answer=GOOD.replace("0", "None")), "fail", "your code raised TypeError"),
    # cheating
    "check deleted": Case([IMPORT, GOOD], "pass", noticed="its check cell is missing"),
    "check twice": Case(plain(after=(CHECK,)), "pass", noticed="it is checked 2 times"),
    "check edited": Case(
        [IMPORT, BAD, "await check.counter(check.counter.made_of(check.counter.solution_source))"],
        "fail",
        noticed="its check was edited",
    ),
    "check redefined": Case(
        [
            IMPORT,
            "class Check:\n    async def counter(self, it): return 'passed'\ncheck = Check()",
            BAD,
            CHECK,
        ],
        "fail",
        noticed="it redefines `check` (cell 2)",
    ),
    "check replaced": Case(
        [IMPORT, "type(check.counter).judge = lambda self, answer: None", BAD, CHECK],
        "fail",
        noticed="it changes the checks",
    ),
    "verdict replaced": Case(
        plain(
            "import wslessons.exercises.verdict as v\nv.Verdict.passed = property(lambda s: True)",
            "from wslessons.exercises import trial\ntrial.Trial.expect = lambda *a: None",
            "from wslessons.exercises.grade import agent\nagent._Agent.on_do = None",
            answer=BAD,
        ),
        "fail",
        noticed="it looks into the checks",
    ),
    "library replaced": Case(
        plain("import websockets\nwebsockets.serve = websockets.connect = None"), "pass"
    ),
    "modules thrown out": Case(
        plain("import sys\nsys.modules['wslessons.exercises'] = None", answer=BAD),
        "fail",
        noticed="it changes the checks: sys.modules",
    ),
    # endless
    "endless": Case(plain("while True:\n    pass"), "pass", "no end within 8 s"),
    "endless output": Case(
        plain("while True:\n    print('x' * 1000)"), "pass", "no end within 8 s"
    ),
    "cannot be interrupted": Case(
        plain(
            "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nimport time\n"
            "while True:\n    time.sleep(1)",
        ),
        "pass",
        "can't be interrupted",
    ),
    # hostile
    "ends its kernel": Case(plain("import os\nos._exit(1)"), "pass", "the kernel has ended"),
    "hangs": Case(
        plain(answer="async def counter(c):\n    await c.wait_closed()"), "fail", "nothing"
    ),
    "blocks": Case(
        plain(answer="import time\nasync def counter(c):\n    time.sleep(1000)"),
        "fail",
        "held the event loop",
    ),
    "handler ends its kernel": Case(
        plain(answer="import os\nasync def counter(c):\n    os._exit(1)"), "fail", "does not answer"
    ),
    "ignores its end": Case(
        plain(
            answer="import asyncio\nasync def counter(c):\n    while True:\n        try:\n"
            "            await asyncio.sleep(9)\n        except BaseException:\n            pass"
        ),
        "fail",
        "ignores being cancelled",
    ),
    "deletes what it finds": Case(
        plain("import os, shutil", "for name in os.listdir('.'):\n    os.remove(name)"), "pass"
    ),
    "starts programs": Case(
        plain(
            f"import subprocess\nsubprocess.Popen(['sleep', '{SLEEPER}'], start_new_session=True)"
        ),
        "pass",
    ),
    "markup": Case(
        plain(answer=GOOD.replace('f"{number}"', "'\\x00</pre><script>' + chr(0xd83d)")), "fail"
    ),
}

FILES = {
    "no JSON": ("{", "it is no JSON"),
    "no notebook": ("[1, 2]", "it is JSON, and no notebook"),
    "empty": ("", "it is no JSON"),
    "bytes": ("\udcff", "it is no JSON"),
    "deep": ("[" * 100_000, "it is no JSON"),
    "no exercise": (json.dumps({"cells": []}), "there is no exercise in it"),
}


def notebook(cells: list[str]) -> str:
    """A notebook of code cells, and a bit of text."""
    code = [
        {
            "cell_type": "code",
            "source": cell,
            "metadata": {},
            "outputs": [],
            "execution_count": None,
        }
        for cell in cells
    ]
    text = {"cell_type": "markdown", "source": "# Mine", "metadata": {}}
    return json.dumps({"cells": [text, *code], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def contents(folder: Path) -> dict[str, str]:
    """Every file with a digest of what is in it."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    command = [sys.executable, "-m", "wslessons", "grade", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=550, check=False)


ANSWERS = {
    "crash": ("async def counter(c):\n    await c.send(1 / 0)\n", "ZeroDivisionError"),
    "await": (
        "async def counter(c):\n    async for _ in c:\n        c.send('1')\n",
        "never awaited",
    ),
    "shared": (
        "n = 0\nasync def counter(c):\n    global n\n    async for _ in c:\n        n += 1\n"
        "        await c.send(str(n))\n",
        "All connections share this number",
    ),
}
"""Wrong answers, and a part of the hint that each gets in a notebook as well."""


@dataclass
class Graded:
    """What one run of the command over all notebooks has left."""

    done: subprocess.CompletedProcess[str]
    total: int
    before: dict[str, str]
    after: dict[str, str]
    rows: list[dict[str, str]]
    suites: dict[str | None, ElementTree.Element]
    page: str

    def row(self, notebook: str, exercise: str) -> dict[str, str]:
        """Return an exercise's row of the CSV file."""
        (row,) = [
            row
            for row in self.rows
            if row["notebook"].lstrip("'") == notebook and row["exercise"] == exercise
        ]
        return row

    def told(self, notebook: str) -> str:
        """Return what the page and the XML file say of a notebook, in one line."""
        details = self.page.partition(f'">{notebook}</h2>')[2].partition("<h2")[0]
        cases = list(self.suites[notebook])
        xml = [*(c.get("message") or "" for c in cases), *("".join(c.itertext()) for c in cases)]
        return " ".join(html.unescape(" ".join([details, *xml])).split())


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> Graded:
    """All notebooks of this file, graded by one run of the command."""
    tmp_path = tmp_path_factory.mktemp("graded")
    folder = tmp_path / "handed in"
    for name, case in CASES.items():
        (folder / f"={name}").mkdir(parents=True)
        (folder / f"={name}" / "01_echo.ipynb").write_text(notebook(case.cells))
        (folder / f"={name}" / "beside.py").write_text("one = 1\n")
    for name, (text, _) in FILES.items():
        (folder / f"{name}.ipynb").write_bytes(text.encode("utf-8", "surrogateescape"))
    for name, (answer, _) in ANSWERS.items():
        (folder / f"{name}.ipynb").write_text(notebook(plain(answer=answer)))
    cells = [IMPORT]
    for exercise in check:
        call = f"await check.{exercise.name}({exercise.answer_name})"
        cells += [exercise.solution_source, call]
    (folder / "solved.ipynb").write_text(notebook(cells))
    checkpoint = folder / "=good" / ".ipynb_checkpoints"
    checkpoint.mkdir()
    (checkpoint / "old.ipynb").write_text(notebook([IMPORT]))
    before = contents(folder)
    csv_file, xml_file, html_file = (tmp_path / f"grades.{kind}" for kind in ("csv", "xml", "html"))
    done = run(
        *(folder, "--jobs", "4", "--cell-timeout", "8", "--timeout", "240", "--memory", "600"),
        *("--csv", csv_file, "--junit", xml_file, "--html", html_file),
    )
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(csv_file.open(encoding="utf-8", newline="")))
    suites = {suite.get("name"): suite for suite in ElementTree.parse(xml_file).getroot()}
    page = html_file.read_text(encoding="utf-8")
    total = len(CASES) + len(FILES) + len(ANSWERS) + 1
    return Graded(done, total, before, contents(folder), rows, suites, page)


pytestmark = pytest.mark.timeout(900)


def test_it_goes_through_all_and_changes_nothing(graded: Graded):
    """A line for each notebook, no traceback, no process left, and every file as it was."""
    done, total = graded.done, graded.total
    assert "Traceback" not in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == total
    assert f"{total} of {total}: " in done.stderr
    assert len(done.stdout.splitlines()) == 1 + total
    assert len(graded.suites) == total
    assert graded.after == graded.before
    assert "<script>" not in graded.page
    for process in psutil.process_iter(["cmdline"]):
        assert SLEEPER not in (process.info["cmdline"] or [])


@pytest.mark.parametrize("name", CASES)
def test_each_gets_what_it_deserves(graded: Graded, name: str):
    """Whatever the notebook does to itself and to its kernel."""
    case = CASES[name]
    file = f"={name}/01_echo.ipynb"
    row = graded.row(file, "counter")
    assert row["student"] == f"'={name}"
    assert row["verdict"] == case.state, graded.told(file)
    assert case.said in graded.told(file)
    assert case.noticed in row["noticed"]
    assert case.noticed or not row["noticed"]


def test_the_table_says_in_words_what_was_noticed(graded: Graded):
    """In the terminal and on the page: no bare number."""
    said = "counter: its check cell is missing"
    (line,) = [
        line for line in graded.done.stdout.splitlines() if line.startswith("=check deleted")
    ]
    assert said in line
    rows = graded.page.partition("</table>")[0].split("<tr>")
    (row,) = [row for row in rows if ">=check deleted/" in row]
    assert f"<td>{said}<br>short_only: " in row


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_notebook_is_said_to_be_none(graded: Graded, name: str):
    """In one clause, and as an error of the XML file."""
    trouble = FILES[name][1]
    assert graded.row(f"{name}.ipynb", "")["noticed"] == trouble
    error = graded.suites[f"{name}.ipynb"].find("testcase/error")
    assert error is not None
    assert error.get("message") == trouble


@pytest.mark.parametrize("name", [exercise.name for exercise in check])
def test_every_solution_passes(graded: Graded, name: str):
    """Whatever kind of answer it is, it can be judged from another process."""
    assert graded.row("solved.ipynb", name)["verdict"] == "pass", graded.told("solved.ipynb")


@pytest.mark.parametrize("name", ANSWERS)
def test_what_is_wrong_gets_the_same_hint_as_in_a_notebook(graded: Graded, name: str):
    """A crash, a forgotten await and a wrong value are explained from another process, too."""
    assert ANSWERS[name][1] in graded.told(f"{name}.ipynb")


async def graded_here(
    folder: Path, *notebooks: list[str], limits: Limits | None = None
) -> list[Result]:
    """Grade notebooks in this process, one after the other."""
    for number, cells in enumerate(notebooks):
        (folder / f"{number}.ipynb").write_text(notebook(cells))
    return await grade(folder, find(folder), limits or Limits(jobs=1))


async def test_a_kernel_that_takes_much_memory_is_started_again(tmp_path: Path):
    """However long it takes to take that much, and however much is mapped before it begins."""
    cells = plain("hoard = []\nwhile True:\n    hoard.append(bytearray(2**24))")
    limits = Limits(cell=300, memory=400 * 2**20, jobs=1)
    (result,) = await graded_here(tmp_path, cells, limits=limits)
    assert result.verdicts["counter"].passed
    assert [(number, "emory" in why) for number, why in result.errors] == [(1, True)], result.errors


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")
def test_what_is_mapped_at_the_start_does_not_count():
    """A kernel on a machine of many cores has gigabytes mapped, and may use all of its memory."""
    code = (
        "import mmap; threads = mmap.mmap(-1, 3 * 2**30); "
        "from wslessons.exercises.grade import agent; agent._limit(2**28); "
        "used = bytearray(2**28); "
        "print('enough')\n"
        "try:\n    mmap.mmap(-1, 2 * 2**30)\n"
        "except OSError:\n    print('no more')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stdout.split("\n")[:2] == ["enough", "no more"], done.stderr


async def test_whoever_ends_the_process_that_forks_ends_nobody_else(tmp_path: Path):
    """It is started again, for the one and for those who come later."""
    end = plain("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)")
    ending, good = await graded_here(tmp_path, end if sys.platform == "linux" else plain(), plain())
    assert ending.verdicts["counter"].passed
    assert good.verdicts["counter"].passed


async def test_its_kernels_end_with_a_grader_that_is_killed(tmp_path: Path):
    """Also one that is in the middle of a cell, and what that has started."""
    running = tmp_path / "pid"
    cell = (
        "import os, subprocess, time, pathlib\n"
        f"pids = [os.getpid(), subprocess.Popen(['sleep', '{SLEEPER}']).pid]\n"
        f"pathlib.Path({str(tmp_path)!r}, 'new').write_text(' '.join(map(str, pids)))\n"
        f"os.rename({str(tmp_path / 'new')!r}, {str(running)!r})\n"
        f"time.sleep({SLEEPER})"
    )
    (tmp_path / "0.ipynb").write_text(notebook(plain(cell)))
    words = [sys.executable, "-m", "wslessons", "grade", str(tmp_path), "--cell-timeout", "600"]
    async with asyncio.timeout(100):
        grader = await asyncio.create_subprocess_exec(*words, stdout=DEVNULL, stderr=DEVNULL)
        try:
            await until(running.exists)
            pids = [int(pid) for pid in running.read_text().split()]
            grader.kill()
            await until(lambda: not any(map(is_alive, pids)))
        finally:
            if grader.returncode is None:
                grader.kill()
            await grader.wait()


async def test_a_system_without_fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each kernel is started by itself there."""
    elsewhere = SimpleNamespace(platform="elsewhere", executable=sys.executable)
    monkeypatch.setattr(kernel, "sys", elsewhere)
    (result,) = await graded_here(tmp_path, plain("1 / 0"))
    assert result.verdicts["counter"].passed
    assert result.errors == [(1, "ZeroDivisionError: division by zero")]


def test_the_untouched_lesson_holds_its_exercises(tmp_path: Path):
    """A copy of a lesson is known by its name, and each of its exercises is expected once."""
    original = Path(__file__).parents[2] / "notebooks" / "01_echo.ipynb"
    copy = tmp_path / "anna_01_echo.ipynb"
    copy.write_bytes(original.read_bytes())
    handed_in = read(copy)
    text = original.read_text(encoding="utf-8")
    named = [each.name for each in check.of_lesson(1) if f"check.{each.name}({each.name})" in text]
    assert handed_in.exercises == named
    assert len(named) >= 2
    assert handed_in.notices == {}
    assert all(cell.only_checks for cell in handed_in.cells if cell.checks)


def test_a_line_that_two_people_write_alike_is_no_sign_of_copying(tmp_path: Path):
    """Only a solution that is longer is named; comments, blank lines and imports make none."""
    known = {exercise.name: exercise for exercise in check}
    alike = set()
    for name, exercise in known.items():
        path = tmp_path / f"{name}.ipynb"
        for cut in (r"^$x", r"(?m)^(import|from) .*\n"):
            answer = re.sub(cut, "", exercise.solution_source)
            path.write_text(notebook([f"# mine\n\n{answer}"]))
            alike |= {name} - {each for each, texts in read(path).notices.items() if OWN in texts}
    assert {"nap", "beat_settings", "who_hears", "poll_load", "guarded"} <= alike
    assert not {"counter", "relay", "delays", "resume", "make_frame", "echo_test"} & alike


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "there is no folder nowhere"),
        (["."], "there is no notebook in ."),
        ([".", "--csv", "no/such/folder/grades.csv"], "there is no folder for"),
        ([".", "--jobs", "0"], "'0' is not a number of 1 or more"),
        ([".", "--timeout", "nan"], "'nan' is not a number of 0.1 or more"),
    ],
)
def test_words_that_do_not_fit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
):
    """One sentence and exit code 2."""
    monkeypatch.chdir(tmp_path)
    try:
        code = main(["grade", *words])
    except SystemExit as error:  # argparse's own
        code = error.code
    assert code == 2
    assert said in capsys.readouterr().err


async def test_an_answer_that_comes_too_late_is_not_the_next_ones(tmp_path: Path):
    """A behaviour that is cut off leaves an answer behind, and the next request gets its own."""
    student = kernel.StudentKernel(kernel.Office(), tmp_path, 2**30)
    student.reader = asyncio.StreamReader()
    student.writer = cast("asyncio.StreamWriter", SimpleNamespace(write=len, drain=_nothing))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(student.ask("one"), 0.01)
    student.reader.feed_data(b"('value', 1)\n('value', 2)\n")
    assert await student.ask("two") == ("value", 2)


async def _nothing() -> None:
    """Write nothing."""
