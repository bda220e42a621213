"""Static rules for the lessons; each rule is also shown a notebook that breaks it.

The bounds are those of teaching, not of taste: 20 to 45 minutes, one idea in a cell, and something
to do every ten minutes (The Carpentries' handbook; Koedinger et al. 2015, "Learning is not a
spectator sport"). Where one can't be kept, `EXCEPTIONS` says why.
"""

from __future__ import annotations

import ast
import io
import re
import shutil
import subprocess
import symtable
import sysconfig
import tokenize
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from wslessons.exercises import check
from wslessons.lab import outputs

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb")) + sorted(FOLDER.glob("deeper/*.ipynb"))
ALLOWED_TAGS = {"raises-exception", "nbval-ignore-output"}
MOST_CELLS = 30
MOST_WORDS = 1200
MOST_LINES = 130
MOST_LINES_IN_A_CELL = 12
MOST_CELLS_WITHOUT_PRACTICE = 8
LINES_IN_COMMON = 4
SKIPPED_TOKENS = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}

Notebook = Any


def code(notebook: Notebook) -> Iterator[tuple[str, Notebook]]:
    """Yield each code cell with its name in a complaint."""
    for number, _, cell in outputs.code_cells(notebook):
        yield f"cell {number}", cell


def texts(notebook: Notebook) -> Iterator[tuple[str, str]]:
    """Yield each text that a cell put out, of any kind."""
    for name, cell in code(notebook):
        for output in cell.outputs:
            values = [output.get("text"), output.get("evalue"), *output.get("data", {}).values()]
            for value in values:
                if value is not None:
                    yield name, str(value)


def plain(source: str) -> str:
    """A cell's source as plain Python, IPython's magics turned into calls."""
    return TransformerManager().transform_cell(source)


def kernel_is_python3(notebook: Notebook) -> Iterator[str]:
    """Any Python will do; the name of somebody's environment would not be found elsewhere."""
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "the kernelspec is not python3"


def cells_are_recorded_in_order(notebook: Notebook) -> Iterator[str]:
    """A stripped notebook is compared with nothing, one run out of order with the wrong thing."""
    for expected, (name, cell) in enumerate(code(notebook), 1):
        if cell.execution_count != expected:
            yield f"{name} has the count {cell.execution_count} and not {expected}"
        prints = (
            node.value.func
            for node in ast.parse(plain(cell.source)).body
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        )
        if not cell.outputs and any(ast.unparse(func) == "print" for func in prints):
            yield f"{name} prints, and has no output"


def filled_lines(source: str) -> int:
    """How many lines of `source` hold anything; the blank ones between functions are layout."""
    return sum(bool(line.strip()) for line in source.splitlines())


def words(source: str) -> int:
    """How many words of Markdown a reader reads: no diagrams, no addresses, no tags."""
    for unread in (r"```.*?```", r"(?<=\])\([^)]*\)", r"<[^>]*>"):
        source = re.sub(unread, " ", source, flags=re.DOTALL)
    return len(re.findall(r"\w[\w'./-]*", source))


def cells_are_short(notebook: Notebook) -> Iterator[str]:
    """A cell that fits a glance holds one idea."""
    for name, cell in code(notebook):
        if (lines := filled_lines(cell.source)) > MOST_LINES_IN_A_CELL:
            yield f"{name} has {lines} lines"


def lesson_is_short(notebook: Notebook) -> Iterator[str]:
    """More than this nobody reads and runs in 45 minutes; the rest goes to `deeper/`."""
    if (cells := len(notebook.cells)) > MOST_CELLS:
        yield f"{cells} cells, at most {MOST_CELLS}"
    sources = {"markdown": "", "code": ""}
    for cell in notebook.cells:
        sources[cell.cell_type] += f"{cell.source}\n"
    if (count := words(sources["markdown"])) > MOST_WORDS:
        yield f"{count} words, at most {MOST_WORDS}"
    if (lines := filled_lines(sources["code"])) > MOST_LINES:
        yield f"{lines} lines of code, at most {MOST_LINES}"


def something_is_done_often(notebook: Notebook) -> Iterator[str]:
    """Who only runs cells learns little: a prediction or an exercise is never far."""
    since = 0
    for index, cell in enumerate(notebook.cells):
        practice = cell.cell_type == "code" and re.search(
            r"\blab\.predict\(|\bcheck\.\w+\(", cell.source
        )
        since = 0 if practice else since + 1
        if since == MOST_CELLS_WITHOUT_PRACTICE + 1:
            yield f"nothing to do in the {since} cells up to {index}"


def exercises_are_as_the_package_has_them(notebook: Notebook) -> Iterator[str]:
    """What stands in the lesson is the very stub, which counts as not attempted."""
    sources = [cell.source for _, cell in code(notebook)]
    for name, cell in code(notebook):
        for asked in re.findall(r"\bawait check\.(\w+)\(", cell.source):
            if not any(getattr(check, asked).cell in source for source in sources):
                yield f"{name} checks {asked}, whose stub stands nowhere"
            if not any("not attempted yet" in str(output) for output in cell.outputs):
                yield f"{name} says more of {asked} than that it is not attempted yet"


class WithoutAwait(ast.NodeTransformer):
    """Makes of a cell one that binds and reads the same names, and awaits nothing.

    From Python 3.14 on `symtable` refuses an `await` outside of functions.
    """

    def visit_Await(self, node: ast.Await) -> Any:
        """Keep what is awaited."""
        return self.visit(node.value)

    def visit_AsyncFor(self, node: ast.AsyncFor) -> Any:
        """Make it a `for`."""
        return self.generic_visit(ast.For(node.target, node.iter, node.body, node.orelse))

    def visit_AsyncWith(self, node: ast.AsyncWith) -> Any:
        """Make it a `with`."""
        return self.generic_visit(ast.With(node.items, node.body))

    def visit_comprehension(self, node: ast.comprehension) -> Any:
        """Make it one that does not wait."""
        node.is_async = 0
        return self.generic_visit(node)


def symbols_of(source: str) -> symtable.SymbolTable:
    """The names of a cell and of its functions."""
    tree = ast.fix_missing_locations(WithoutAwait().visit(ast.parse(plain(source))))
    return symtable.symtable(ast.unparse(tree), "<cell>", "exec")


def bound(source: str) -> tuple[set[str], set[str]]:
    """The names that a cell's top level binds: those of its imports, and the others."""
    symbols = symbols_of(source).get_symbols()
    imports = {symbol.get_name() for symbol in symbols if symbol.is_imported()}
    return imports, {symbol.get_name() for symbol in symbols if symbol.is_assigned()} - imports


def read(source: str) -> set[str]:
    """The names that a cell and its functions look for outside themselves."""
    tables = [symbols_of(source)]
    found = set()
    for table in tables:
        tables += table.get_children()
        symbols = [symbol for symbol in table.get_symbols() if symbol.is_referenced()]
        top = table.get_type() == "module"
        found |= {symbol.get_name() for symbol in symbols if top or symbol.is_global()}
    return found


def exercises_may_be_replaced_whole(notebook: Notebook) -> Iterator[str]:
    """Who pastes an answer over a stub's cell loses its imports: what others need stands elsewhere.

    So a check cell imports `check` itself; and what the answer needs of all that the lesson
    imports stands in an earlier cell. An import that only the stub needs may stand with it.
    """
    cells = list(code(notebook))
    for place, (name, cell) in enumerate(cells):
        if "await check." in cell.source and "import check" not in cell.source:
            yield f"{name} checks, and does not import check itself"
        for exercise in check:
            if exercise.cell not in cell.source or f"check.{exercise.name}(" not in str(notebook):
                continue
            others = [bound(each.source) for _, each in cells]
            others[place] = (set(), set())
            before = set().union(*(imports | rest for imports, rest in others[:place]))
            answer = set().union(*bound(exercise.solution_source))
            anywhere = set().union(*(bound(each.source)[0] for _, each in cells))
            for lost in sorted(read(exercise.solution_source) & anywhere - before):
                yield f"{name} holds a stub whose answer needs {lost}: import it in an earlier cell"
            own = set().union(*bound(cell.source)) - answer
            own |= bound(cell.source)[0]
            for later in range(place + 1, len(cells)):
                known = before.union(*(a | b for a, b in others[place : later + 1]))
                for lost in sorted(own & read(cells[later][1].source) - known):
                    yield f"{name} holds a stub, and {lost} would be lost to {cells[later][0]}"


def names_are_public(notebook: Notebook) -> Iterator[str]:
    """What a learner copies must go on working in the next version."""
    for name, cell in code(notebook):
        for node in ast.walk(ast.parse(plain(cell.source))):
            if isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr):
                yield f"{name} uses {ast.unparse(node)}"
        if "noqa" in cell.source:
            yield f"{name} speaks to a linter"


def answers_say_what_was_asked_for(notebook: Notebook) -> Iterator[str]:
    """A bare True teaches nothing: "bob heard 61 of 400" does."""
    for name, text in texts(notebook):
        if found := re.search(r"^.*(?<![\w'\"=])(True|False)$", text.strip(), re.MULTILINE):
            yield f"{name} answers {found[0]!r}"


def other_lessons_are_links(notebook: Notebook) -> Iterator[str]:
    """A "lesson 2" is always a link, for those who want to look it up at once."""
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type != "markdown":
            continue
        for line in cell.source.splitlines():
            text = re.sub(r"\[[^\]]*\]\([^)]*\)", "", line)
            if not line.startswith("#") and (found := re.search(r"[Ll]esson \d", text)):
                yield f"cell {index} of all says {found[0]!r} without a link"


def tags_are_known(notebook: Notebook) -> Iterator[str]:
    """A mistyped tag does nothing, and nbval-skip would hide a cell from every check."""
    for cell in notebook.cells:
        for tag in cell.metadata.get("tags", []):
            if tag not in ALLOWED_TAGS:
                yield f"the tag {tag!r} is not known"


def metadata_is_of_no_machine(notebook: Notebook) -> Iterator[str]:
    """Else the same lesson would differ from one recording to the next."""
    if "version" in notebook.metadata.get("language_info", {}):
        yield "the Python version is in the metadata"
    if "widgets" in notebook.metadata:
        yield "widget state is in the metadata"
    for name, cell in code(notebook):
        if "execution" in cell.metadata:
            yield f"{name} keeps the times of its run"
        if any(outputs.WIDGET_VIEW in output.get("data", {}) for output in cell.outputs):
            yield f"{name} keeps the random id of a widget"


def outputs_name_no_address(notebook: Notebook) -> Iterator[str]:
    """Ports and places in memory are different each time."""
    for name, text in texts(notebook):
        if found := re.search(r"(127\.0\.0\.1|localhost|\[::1\]):\d+|\b0x[0-9a-f]{8,}", text):
            yield f"{name} puts out {found[0]}"


def outputs_are_no_markdown(notebook: Notebook) -> Iterator[str]:
    """A question, as all HTML, shows its backticks as they are."""
    for name, cell in code(notebook):
        for output in cell.outputs:
            if "`" in "".join(output.get("data", {}).get("text/html", "")):
                yield f"{name} shows a backtick"


def outputs_hold_no_traceback(notebook: Notebook) -> Iterator[str]:
    """Python 3.11 and 3.13 word tracebacks differently, and they name files of a machine."""
    for name, text in texts(notebook):
        if re.search(r'^\s*File ".*", line \d+|\x1b\[', text, re.MULTILINE):
            yield f"{name} puts out a raw traceback"
    for name, cell in code(notebook):
        if any(len(output.get("traceback", [])) > 1 for output in cell.outputs):
            yield f"{name} keeps a raw traceback"


def code_lines(source: str) -> list[str]:
    """The lines of Python source without comments, blank lines and layout."""
    lines: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in SKIPPED_TOKENS and token.string:
            lines[token.start[0]] = f"{lines.get(token.start[0], '')} {token.string}"
    return list(lines.values())


def runs(source: str) -> set[tuple[str, ...]]:
    """Each run of `LINES_IN_COMMON` lines of code that hold more than imports and brackets."""
    lines = code_lines(source)
    found = (tuple(lines[i : i + LINES_IN_COMMON]) for i in range(len(lines)))
    return {
        run
        for run in found
        if len(run) == LINES_IN_COMMON
        and not all(re.match(r" (from|import) |[ \])},]*$", line) for line in run)
    }


def bodies(source: str) -> dict[str, str]:
    """What each function and class of `source` does, as normalised code, with its name.

    The docstring doesn't count, nor does a body of a single line: that is no implementation.
    """
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            statements = node.body[1:] if ast.get_docstring(node) else node.body
            body = "\n".join(map(ast.unparse, statements))
            if "\n" in body:
                found[body] = node.name
    return found


RUFF = shutil.which("ruff", path=sysconfig.get_path("scripts")) or "ruff"


@cache
def package() -> tuple[set[tuple[str, ...]], dict[str, str]]:
    """The runs of lines and the bodies of all modules of the package."""
    lines: set[tuple[str, ...]] = set()
    known: dict[str, str] = {}
    for path in sorted((ROOT / "wslessons").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        lines |= runs(source)
        known |= {body: f"{path.stem}.{name}" for body, name in bodies(source).items()}
    return lines, known


@cache
def notebook_of(path: Path) -> Notebook:
    """Read a notebook, which no test changes: each is looked at by every rule."""
    return nbformat.read(path, as_version=4)


def package_is_not_repeated(notebook: Notebook) -> Iterator[str]:
    """A lesson shows code with `lab.show`: a second copy of it would drift away."""
    lines, known = package()
    for name, cell in code(notebook):
        source = plain(cell.source)
        if common := runs(source) & lines:
            yield f"{name} repeats lines of the package: {sorted(common)[0]}"
        for body in bodies(source).keys() & known.keys():
            yield f"{name} repeats {known[body]}"


def source_is_clean(notebook: Notebook) -> Iterator[str]:
    """What learners copy is written as the package is."""
    text = outputs.dumps(notebook)
    for words in (["check", "--quiet"], ["format", "--check", "--quiet"]):
        command = [RUFF, *words, "--stdin-filename", "notebooks/x.ipynb", "-"]
        done = subprocess.run(command, input=text, cwd=ROOT, text=True, capture_output=True)
        if done.returncode:
            yield f"ruff {words[0]}: {done.stdout}{done.stderr}"


def first_lines(count: int) -> str:
    """The first `count` lines of code of a module of the package."""
    source = (ROOT / "wslessons" / "errors.py").read_text(encoding="utf-8")
    body = source[: source.index("\n\ndef need")]
    return "\n".join(line.strip() for line in body.splitlines()[-count:] if line)


def example(source: str = "x = 1", **changes: Any) -> Notebook:
    """A notebook of one recorded cell that keeps all rules, but for the changes to it."""
    cell = new_code_cell(source, id="one", execution_count=1)
    cell.update(changes)
    return new_notebook(cells=[cell], metadata=nbformat.from_dict(outputs.NOTEBOOK_METADATA))


def shows(kind: str, text: str) -> dict[str, Any]:
    """An output of the MIME type `kind`."""
    return {"outputs": [new_output("display_data", data={kind: text})]}


def with_metadata(**changes: Any) -> Notebook:
    """An example with other metadata."""
    notebook = example()
    notebook.metadata.update(nbformat.from_dict(changes))
    return notebook


def of_cells(count: int, source: str = "x = 1", text: str = "") -> Notebook:
    """A notebook of so many code cells, with a cell of text if there is any."""
    notebook = example()
    notebook.cells = [new_code_cell(source, id=f"code{n}") for n in range(count)]
    if text:
        notebook.cells.append(new_markdown_cell(text, id="text"))
    return notebook


def of_sources(*sources: str) -> Notebook:
    """A notebook of these code cells."""
    notebook = example()
    notebook.cells = [new_code_cell(source, id=f"code{n}") for n, source in enumerate(sources)]
    return notebook


ECHO_TWICE = """
class Mine(Exception):
    def __init__(self, sentence: str, *, exit_code: int = 1) -> None:
        super().__init__(sentence)  # another comment

        self.exit_code = exit_code"""
RAISED = new_output("error", ename="E", evalue="", traceback=["Traceback", "E: "])
BAD: list[tuple[Callable[[Notebook], Iterator[str]], Notebook, str]] = [
    (kernel_is_python3, with_metadata(kernelspec={"name": "venv"}), "not python3"),
    (cells_are_recorded_in_order, example(execution_count=None), "count None and not 1"),
    (cells_are_recorded_in_order, example(execution_count=2), "count 2 and not 1"),
    (cells_are_recorded_in_order, example("await f()\nprint(1)"), "has no output"),
    (cells_are_short, example("x = 1\n\n" * 13), "13 lines"),
    (lesson_is_short, of_cells(31), "31 cells"),
    (lesson_is_short, of_cells(1, text="why? " * 1201), "1201 words"),
    (lesson_is_short, of_cells(13, source="x = 1\n" * 11), "143 lines"),
    (something_is_done_often, of_cells(9), "cells up to 8"),
    (exercises_are_as_the_package_has_them, example("await check.nap(f)"), "stands nowhere"),
    (exercises_are_as_the_package_has_them, example("await check.nap(f)"), "says more of nap"),
    (exercises_may_be_replaced_whole, example("await check.nap(nap)"), "does not import check"),
    (
        exercises_may_be_replaced_whole,
        of_sources(check.echo_test.stub, "check.echo_test(x)", "import asyncio\nasyncio.sleep(1)"),
        "answer needs asyncio: import it in an earlier cell",
    ),
    (
        exercises_may_be_replaced_whole,
        of_sources(check.nap.stub, "from x import check\nawait check.nap(nap)", "time.sleep(1)"),
        "time would be lost to cell 3",
    ),
    (
        exercises_may_be_replaced_whole,
        of_sources(f"x = 1\n{check.shout.stub}", "from x import check\nawait check.shout(x)"),
        "x would be lost to cell 2",
    ),
    (names_are_public, example("server._stop()"), "uses server._stop"),
    (names_are_public, example("x = 1  # noqa: E501"), "linter"),
    (answers_say_what_was_asked_for, example(**shows("text/plain", "heard: True")), "heard: True"),
    (other_lessons_are_links, of_cells(1, text="as in lesson 2"), "'lesson 2' without"),
    (tags_are_known, example(metadata={"tags": ["nbval-skip"]}), "'nbval-skip' is not known"),
    (metadata_is_of_no_machine, with_metadata(widgets={}), "widget state"),
    (metadata_is_of_no_machine, with_metadata(language_info={"version": "3"}), "Python version"),
    (metadata_is_of_no_machine, example(metadata={"execution": {}}), "times of its run"),
    (metadata_is_of_no_machine, example(**shows(outputs.WIDGET_VIEW, "")), "id of a widget"),
    (outputs_name_no_address, example(**shows("text/html", "ws://127.0.0.1:80/")), "1:80"),
    (outputs_name_no_address, example(**shows("text/plain", "<f at 0x7f54baf01cd0>")), "0x7f"),
    (outputs_are_no_markdown, example(**shows("text/html", "<b>`recv`?</b>")), "a backtick"),
    (outputs_hold_no_traceback, example(**shows("text/plain", '  File "a", line 1')), "raw"),
    (outputs_hold_no_traceback, example(outputs=[RAISED]), "keeps a raw traceback"),
    (package_is_not_repeated, example(first_lines(4)), "repeats lines"),
    (package_is_not_repeated, example(ECHO_TWICE), "repeats errors.__init__"),
    (source_is_clean, example("import os"), "F401"),
    (source_is_clean, example("x=1"), "ruff format"),
]
RULES = list(dict.fromkeys(rule for rule, _, _ in BAD))
EXCEPTIONS = {
    ("deeper/02_chat", cells_are_short): "the draft to repair, `Members`, is one class: 13 lines",
}


LESSONS = [
    "00_why_websockets",
    "asyncio",
    "01_echo",
    "02_chat",
    "03_client",
    "04_web",
    "05_heartbeats",
    "06_scaling",
    "07_fast_fanout",
    "08_production",
    "09_testing",
]
"""In the order in which they are read."""


def name_of(path: Path) -> str:
    """A notebook's name in a test: `01_echo`, `deeper/01_echo`."""
    return path.relative_to(FOLDER).with_suffix("").as_posix()


every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)


@pytest.mark.parametrize("rule", RULES)
@every_notebook
def test_lesson_keeps_the_rule(path: Path, rule: Callable[[Notebook], Iterator[str]]) -> None:
    """Every lesson keeps every rule, but for what is excepted with a reason."""
    complaints = list(rule(notebook_of(path)))
    if (name_of(path), rule) not in EXCEPTIONS:
        assert complaints == []


def links(text: str, folder: Path) -> list[tuple[Path, str]]:
    """Each link of some Markdown to a file of ours, with the heading that it points to."""
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    parts = [urlsplit(link) for link in found if not re.match(r"\w+:|#", link)]
    return [((folder / unquote(part.path)).resolve(), unquote(part.fragment)) for part in parts]


def headings(path: Path) -> set[str]:
    """The anchors of a notebook's headings, as JupyterLab names them: spaces become hyphens."""
    cells = notebook_of(path).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    lines = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    return {re.sub(r"[`*]", "", line).strip().replace(" ", "-") for line in lines}


def dead_links(text: str, folder: Path) -> list[str]:
    """Those that lead to no file, or to no heading of a notebook."""
    return [
        f"{path.name}#{anchor}"
        for path, anchor in links(text, folder)
        if not path.exists() or (anchor and anchor not in headings(path))
    ]


@every_notebook
def test_links_lead_to_a_page_and_its_heading(path: Path) -> None:
    """Whoever follows a link arrives."""
    cells = notebook_of(path).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert dead_links(text, path.parent) == []


@every_notebook
def test_diagrams_have_words_for_those_who_cannot_see(path: Path) -> None:
    """JupyterLab makes a Mermaid diagram's `accTitle` the alternative text of its picture."""
    notebook = notebook_of(path)
    for cell in notebook.cells:
        for diagram in re.findall(r"```mermaid\n(.*?)```", cell.source, re.DOTALL):
            assert re.search(r"^ +accTitle: \w", diagram, re.MULTILINE), diagram


def test_links_of_the_readme_lead_somewhere() -> None:
    """The table of symptoms is worth nothing if its cures can't be found."""
    assert dead_links((ROOT / "README.md").read_text(encoding="utf-8"), ROOT) == []


def test_the_readme_and_the_index_say_the_same() -> None:
    """The same symptoms with the same cures, and as many minutes for a lesson as it says itself."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("](notebooks/", "](")
    index = "\n".join(cell.source for cell in notebook_of(FOLDER / "index.ipynb").cells)
    table = r"(?m)^\|[^|\n]+\| (?:\[[^|]+\]\([^|]+#[^|]+\),? ?)+\|$"
    assert len(re.findall(table, index)) > 30
    assert re.findall(table, readme) == re.findall(table, index)
    for name in LESSONS:
        first = notebook_of(FOLDER / f"{name}.ipynb").cells[0].source
        (minutes,) = re.findall(r"\*\*(?:\d+ to )?(\d+) minutes\.\*\*", first)
        for page in (readme, index):
            assert re.search(rf"(?m)^\| \[[^|]*\({name}\.ipynb\)[^|]*\| {minutes} \|", page), name


def test_dead_link_is_found(tmp_path: Path) -> None:
    """A page that is missing, and a heading that was renamed; `code` in one counts as its text."""
    notebook = of_cells(1, text="## Why `time.sleep` hurts?")
    (tmp_path / "one.ipynb").write_text(outputs.dumps(notebook), encoding="utf-8")
    text = "[1](one.ipynb#Why-time.sleep-hurts%3F) [2](one.ipynb#Why) [3](two.ipynb) [4](https://x)"
    assert dead_links(text, tmp_path) == ["one.ipynb#Why", "two.ipynb#"]


@pytest.mark.parametrize("path", [FOLDER / f"{name}.ipynb" for name in LESSONS], ids=name_of)
def test_lesson_has_its_frame(path: Path) -> None:
    """First what it takes and gives and where one is, and at the end where one goes from here."""
    first, *_, last = notebook_of(path).cells
    place = LESSONS.index(path.stem)
    neighbours = [LESSONS[n] for n in (place - 1, place + 1) if 0 <= n < len(LESSONS)]
    for cell in (first, last):
        to = {target.stem for target, _ in links(cell.source, FOLDER)}
        assert to >= {"index", *neighbours}
    for words in (
        r"^# ",
        r"\*\*\d+ (to \d+ )?minutes\.\*\*",
        "You need: ",
        r"\*\*Afterwards you can\*\*",
    ):
        assert re.search(words, first.source), words
    assert "## What you know now" in last.source


def test_every_page_is_a_lesson_or_goes_deeper() -> None:
    """A page that nothing leads to would be found by nobody."""
    named = {*LESSONS, "index"}
    for path in NOTEBOOKS:
        assert path.stem in named or path.parent.name == "deeper"


@every_notebook
def test_lesson_is_as_it_was_recorded(path: Path) -> None:
    """Nobody has saved it since: recording it would leave every other byte as it is."""
    stored = path.read_text(encoding="utf-8")
    notebook = outputs.parse(path, stored)
    outputs.normalise(notebook, outputs.read_rules())
    assert outputs.dumps(notebook) == stored


@pytest.mark.parametrize(("rule", "notebook", "complaint"), BAD)
def test_rule_finds_what_breaks_it(
    rule: Callable[[Notebook], Iterator[str]], notebook: Notebook, complaint: str
) -> None:
    """A rule that can't fail would be no rule."""
    assert complaint in "\n".join(rule(notebook))


def test_rules_let_a_good_notebook_pass() -> None:
    """A rule that always fails would be none either."""
    magic = "%matplotlib inline\nimport asyncio\n\nawait asyncio.sleep(0)\nprint(1)"
    good = example(magic, outputs=[new_output("stream", name="stdout", text="1\n")])
    assert [complaint for rule in RULES for complaint in rule(good)] == []


def test_there_are_lessons_to_check() -> None:
    """All the above would pass on an empty folder."""
    assert "01_echo" in [path.stem for path in NOTEBOOKS]
