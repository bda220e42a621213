"""The linters and the type checker, so that one command checks everything."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "wslessons").rglob("*.py"))
DOCUMENTED = sorted(
    name
    for path in MODULES
    # The first draft of a chat is short, and its methods say all in a sentence.
    if (name := path.relative_to(ROOT / "wslessons").with_suffix("").as_posix()) != "chat/basic"
    and path.stem != "__main__"
)


@functools.cache
def parsed(module: Path) -> ast.Module:
    """Parse a module; no test changes what it gets."""
    return ast.parse(module.read_text())


def public_definitions(module: Path) -> list[str]:
    """Return the names of a module's own classes and functions, those of a program left out."""
    text = module.read_text()
    if module.name == "__main__.py" or 'if __name__ == "__main__"' in text:
        return []
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [node.name for node in parsed(module).body if isinstance(node, kinds)]
    return [name for name in found if not name.startswith("_")]


def test_every_module_says_what_is_public():
    """Modules with classes or functions, programs apart, have an `__all__` that holds true."""
    checked = 0
    for path in MODULES:
        if not public_definitions(path):
            continue
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        module = importlib.import_module(name)
        public = getattr(module, "__all__", None)
        assert public is not None, f"{name} lacks __all__"
        assert [each for each in public if not hasattr(module, each)] == [], name
        checked += 1
    assert checked > 50


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "--no-cache"],
        ["ruff", "format", "--check", "--no-cache"],
        ["ty", "check", "--error-on-warning"],
    ],
    ids=" ".join,
)
def test_code_is_clean(command: list[str]):
    """The whole project, notebooks included, passes the tool without a word."""
    tool = shutil.which(command[0], path=sysconfig.get_path("scripts"))
    assert tool is not None, f"{command[0]} is a development dependency: install the group 'dev'"
    result = subprocess.run(
        [tool, *command[1:]], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_docstrings_have_one_format():
    """What goes in and what is raised stands under Google's headings, and in no sentence."""
    old = re.compile(r"(?m)(?<!\w)In: `|^\s*Raises `|[.;] [Rr]aises `|^:(param|return|raises)")
    found, checked = [], 0
    for path in MODULES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                checked += 1
                if old.search(ast.get_docstring(node) or ""):
                    found.append(f"{path.relative_to(ROOT)}: {getattr(node, 'name', 'the module')}")
    assert checked > 1000
    assert found == []


def missing_sections(function: Callable[..., Any], docstring: str) -> str:
    """Say what the Google docstring of a function or class lacks, or has too much."""
    signature = inspect.signature(function)
    # What is handed on as it came is documented where it goes.
    handed_on = ("self", "cls", "args", "kwargs")
    takes = {name for name in signature.parameters if name not in handed_on}
    block = re.search(r"(?m)^Args:\n((?:    .*\n|\n)+)", docstring + "\n")
    listed = re.findall(r"(?m)^    (\w+):", block[1]) if block else []
    if {*listed} - {*handed_on} != takes:
        return f"takes {sorted(takes)}, and its docstring lists {listed}"
    returns = str(signature.return_annotation)
    if takes and returns not in ("None", "Self", "Generator[None]", str(inspect.Signature.empty)):
        return (
            "" if re.search("(?m)^(Returns|Yields):", docstring) else f"says not what {returns} is"
        )
    return ""


def documented(public: object) -> Iterator[tuple[str, Callable[..., Any], str]]:
    """Yield what of a public name has to be documented: its name, the function, the docstring.

    Inherited names are documented where they come from, and the fields of a dataclass where they
    stand.
    """
    if inspect.isfunction(public):
        yield public.__qualname__, public, inspect.getdoc(public) or ""
    elif inspect.isclass(public) and public.__module__.startswith("wslessons."):
        for name, member in vars(public).items():
            method = getattr(member, "__func__", member)
            if not inspect.isfunction(method) or method.__module__ != public.__module__:
                continue
            if name == "__init__" and not is_dataclass(public):
                yield public.__qualname__, method, (inspect.getdoc(public) or "") + "\nReturns:"
            elif not name.startswith("_") and not any(
                name in vars(base) for base in public.__mro__[1:]
            ):
                yield method.__qualname__, method, inspect.getdoc(method) or ""


@pytest.mark.parametrize("room", DOCUMENTED)
def test_docstrings_list_what_goes_in_and_what_comes_out(room: str):
    """What a module makes public lists under `Args:` its parameters, and says what it returns.

    The behaviours of an exercise all take a trial, and their sentence is their decorator's.
    """
    module = importlib.import_module(
        f"wslessons/{room}".replace("/", ".").removesuffix(".__init__")
    )
    found = {
        name: fault
        for public in getattr(module, "__all__", [])
        for name, function, docstring in documented(getattr(module, public))
        if not hasattr(function, "behaviour") and (fault := missing_sections(function, docstring))
    }
    assert found == {}


FLOORS = (
    {"asgi", "calls", "connection", "echo", "errors", "fast", "guard", "guardian", "heartbeat"},
    {"chat"},
    {"client", "push", "web"},
    {"scaling"},
    {"bench", "chaos", "exercises", "lab"},
    {"cli"},
    {"__main__"},
)
"""The rooms, lowest first; what is named nowhere stands on the ground floor too."""


def imports() -> dict[str, set[str]]:
    """Return which modules of the package each of them imports, anywhere but for its types."""
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in MODULES
    }
    found: dict[str, set[str]] = {}
    for module, path in files.items():
        names: set[str] = set()
        nodes: list[ast.AST] = [parsed(path)]
        while nodes:
            node = nodes.pop()
            if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
                continue
            nodes.extend(ast.iter_child_nodes(node))
            if isinstance(node, ast.Import):
                names |= {each.name for each in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module, *(f"{node.module}.{each.name}" for each in node.names)}
        found[module] = names & files.keys() - {module}
    return found


def test_arrows_point_down():
    """A room imports what stands on a floor below, or beside it, and never what imports it."""
    rooms: dict[str, set[str]] = {}
    for module, imported in imports().items():
        for each in imported:
            one, other = (f"{name}.".split(".")[1] for name in (module, each))
            if one and other and one != other:
                rooms.setdefault(one, set()).add(other)
    assert len(rooms) > 15

    def floor(room: str) -> int:
        return next((at for at, names in enumerate(FLOORS) if room in names), 0)

    up = {(a, b) for a, below in rooms.items() for b in below if floor(b) > floor(a)}
    assert up == set()
    # What imports nothing that is left goes; a circle stays.
    while done := {room for room in rooms if not rooms[room] & rooms.keys()}:
        rooms = {room: below for room, below in rooms.items() if room not in done}
    assert rooms == {}, "a circle"


def test_ci_runs_the_readmes_commands():
    """`.ci/run` calls the very test command that the README gives."""
    readme = (ROOT / "README.md").read_text()
    last = (ROOT / ".ci" / "run").read_text().strip().splitlines()[-1]
    assert last == "python3 -m pip install uv && python3 -m uv run pytest"
    assert last in readme
