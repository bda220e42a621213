"""What a handed-in notebook holds: its cells, its checks, and signs that a check was tampered with.

This reads source and runs nothing.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import wslessons
from wslessons.exercises import check
from wslessons.exercises.exercise import Exercise

__all__ = ["Cell", "HandedIn", "Unreadable", "read"]

BIGGEST = 20 * 2**20
"""Bytes that a notebook may have."""
CHECKS = "wslessons.exercises"
ALLOWED = ("check", "progress")
"""What a notebook may import from `CHECKS`."""
SOURCES = ("solution_source", "made_of", "behaviours", "judge", "at_a_glance", "untouched")
"""Attributes of an exercise that have no place in an answer."""
SHORT = 2
"""Lines that two people may well write alike: an answer that adds no more to the stub says nothing
about where it comes from."""


class Unreadable(Exception):
    """The file is no notebook; the text says why."""


@dataclass
class Cell:
    """One code cell.

    Args:
        number: its number among the code cells, from 1.
        source: its text.
        checks: the exercises that it checks.
        only_checks: whether it does nothing else, so that it need not be run.
    """

    number: int
    source: str
    checks: list[str] = field(default_factory=list)
    only_checks: bool = False


@dataclass
class HandedIn:
    """One notebook.

    Args:
        path: the file.
        cells: its code cells, in order.
        exercises: what it should hold, by name, in the order of the lesson.
        notices: for each exercise, or "" for the whole notebook, what was noticed.
    """

    path: Path
    cells: list[Cell]
    exercises: list[str]
    notices: dict[str, list[str]]

    def notice(self, exercise: str, text: str) -> None:
        """Note something, once.

        Args:
            exercise: its name, "" for the whole notebook.
            text: what was noticed.
        """
        noted = self.notices.setdefault(exercise, [])
        if text not in noted:
            noted.append(text)


def read(path: Path) -> HandedIn:
    """Read a notebook and look at its checks.

    Args:
        path: the file.

    Returns:
        What it holds.

    Raises:
        Unreadable: it is none.
    """
    known = {exercise.name: exercise for exercise in check}
    cells = [Cell(number, source) for number, source in enumerate(_sources(path), 1)]
    handed_in = HandedIn(path, cells, [], {})
    defined: set[str] = set()
    for cell in cells:
        tree = _parse(cell.source)
        if tree is None:
            continue
        _look(handed_in, cell, tree, known)
        defined |= set(_bound(tree))
    answered = [each.name for each in known.values() if each.answer_name in defined]
    checked = [name for cell in cells for name in cell.checks]
    handed_in.exercises = _expected(path, {*checked, *answered}, known)
    for name in handed_in.exercises:
        if (times := checked.count(name)) != 1:
            said = "its check cell is missing" if times == 0 else f"it is checked {times} times"
            handed_in.notice(name, said)
        if _own_lines(known[name]) > SHORT and any(
            _same(cell.source, known[name].solution_source) for cell in cells
        ):
            handed_in.notice(name, "it is the package's own solution, letter by letter")
    return handed_in


def _sources(path: Path) -> list[str]:
    try:
        if path.stat().st_size > BIGGEST:
            raise Unreadable(f"it has more than {BIGGEST // 2**20} MiB")
        notebook = json.loads(path.read_text(encoding="utf-8"))
        sources = []
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                source = cell["source"]
                sources.append(source if isinstance(source, str) else "".join(source))
    except OSError as error:
        raise Unreadable(f"it can't be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise Unreadable("it is no JSON") from None
    except (KeyError, TypeError):
        raise Unreadable("it is JSON, and no notebook") from None
    return sources


def _parse(source: str) -> ast.Module | None:
    """Parse a cell, its magics left out; None if it is no Python, which its run will say."""
    plain = re.sub(r"(?m)^(\s*)[%!?].*$", r"\1pass", source)
    try:
        return ast.parse(plain)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _look(handed_in: HandedIn, cell: Cell, tree: ast.Module, known: dict[str, Exercise]) -> None:
    """Find a cell's checks, and what it does to the checks."""
    where = f"(cell {cell.number})"
    plain = 0
    for node in ast.walk(tree):
        name = _checked(node, known)
        if name is not None and isinstance(node, ast.Call):
            cell.checks.append(name)
            given = [ast.unparse(arg) for arg in [*node.args, *(k.value for k in node.keywords)]]
            if given != [known[name].answer_name]:
                handed_in.notice(
                    name, f"its check was edited: check.{name}({', '.join(given)})"[:80]
                )
        elif isinstance(node, ast.Attribute) and node.attr in SOURCES and "check" in _names(node):
            handed_in.notice("", f"it looks into the checks: {ast.unparse(node)[:60]} {where}")
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            _look_at_import(handed_in, node, where)
    for node in tree.body:
        statement = node.value if isinstance(node, ast.Expr) else None
        inner = statement.value if isinstance(statement, ast.Await) else None
        is_import = isinstance(node, ast.ImportFrom) and node.module == CHECKS
        plain += is_import or (inner is not None and _checked(inner, known) is not None)
    cell.only_checks = bool(cell.checks) and plain == len(tree.body)
    if "check" in set(_bound(tree)):
        handed_in.notice("", f"it redefines `check` {where}")
    for target in _written(tree):
        if {"check", "wslessons", "sys.modules"} & _names(target):
            handed_in.notice("", f"it changes the checks: {ast.unparse(target)[:60]} {where}")


def _look_at_import(handed_in: HandedIn, node: ast.Import | ast.ImportFrom, where: str) -> None:
    if isinstance(node, ast.ImportFrom):
        module = node.module or ""
        inside = module.startswith(f"{CHECKS}.") or (
            module == CHECKS and any(alias.name not in ALLOWED for alias in node.names)
        )
    else:
        inside = any(alias.name.startswith(CHECKS) for alias in node.names)
    if inside:
        handed_in.notice("", f"it looks into the checks: {ast.unparse(node)[:60]} {where}")


def _checked(node: ast.AST, known: dict[str, Exercise]) -> str | None:
    """Return the exercise that a call ``check.NAME(...)`` checks."""
    function = node.func if isinstance(node, ast.Call) else None
    if not (isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name)):
        return None
    return function.attr if function.value.id == "check" and function.attr in known else None


def _bound(tree: ast.Module) -> Iterator[str]:
    """Yield the names that a cell binds, but for the import of `check` itself."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.ClassDef(name=name):
                yield name
            case ast.ImportFrom(module=module, names=names):
                for alias in names:
                    if (module, alias.name, alias.asname) != (CHECKS, "check", None):
                        yield alias.asname or alias.name
            case ast.Import(names=names):
                for alias in names:
                    yield alias.asname or alias.name.partition(".")[0]


def _written(tree: ast.Module) -> Iterator[ast.expr]:
    """Yield what a cell writes to that is no plain name, and what it gives to `setattr`."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Attribute, ast.Subscript)) and not isinstance(node.ctx, ast.Load):
            yield node
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func).rpartition(".")[2]
            if called in ("setattr", "delattr", "reload"):
                yield node.args[0]


def _names(node: ast.AST) -> set[str]:
    """Return the names in an expression, and its dotted path."""
    found = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    return found | ({"sys.modules"} if "sys.modules" in ast.unparse(node) else set())


def _same(source: str, solution: str) -> bool:
    """Tell whether a cell is the solution but for imports, blank lines and comments."""
    trees = _parse(source), _parse(solution)
    imports = (ast.Import, ast.ImportFrom)
    mine, theirs = (
        [ast.dump(node) for node in (tree.body if tree else []) if not isinstance(node, imports)]
        for tree in trees
    )
    return bool(mine) and mine == theirs


@cache
def _own_lines(exercise: Exercise) -> int:
    """Count the lines that the solution adds to the stub, imports aside."""
    theirs, mine = (
        [line.strip() for line in ast.unparse(ast.parse(source)).splitlines() if line.strip()]
        for source in (exercise.stub, exercise.solution_source)
    )
    added = Counter(mine) - Counter(theirs)
    return sum(n for line, n in added.items() if not line.startswith(("import ", "from ")))


def _expected(path: Path, found: set[str], known: dict[str, Exercise]) -> list[str]:
    """Return which exercises the notebook should hold: those of the lesson that it is a copy of."""
    names = [name for name in known if name in found]
    best: frozenset[str] = frozenset()
    for original, exercises in _originals():
        alike = len(exercises & found)
        if path.stem.endswith(original) and alike:
            best = exercises
            break
        if alike > len(best & found):
            best = exercises
    return [name for name in known if name in best or name in names]


@cache
def _originals() -> list[tuple[str, frozenset[str]]]:
    """The lessons that came with the package, each with the exercises that it checks."""
    package = Path(wslessons.__file__).parent
    known = {exercise.name: exercise for exercise in check}
    for folder in (package / "notebooks", package.parent / "notebooks"):
        if files := [*sorted(folder.glob("[0-9]*.ipynb")), *sorted(folder.glob("deeper/*.ipynb"))]:
            break
    else:
        return []
    found = []
    for file in files:
        trees = [tree for source in _sources(file) if (tree := _parse(source)) is not None]
        names = frozenset(
            name
            for tree in trees
            for node in ast.walk(tree)
            if (name := _checked(node, known)) is not None
        )
        stem = file.stem if file.parent.name != "deeper" else f"deeper/{file.stem}"
        found.append((stem, names))
    return found
