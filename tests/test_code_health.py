"""The linters and the type checker, so that one command checks everything."""

from __future__ import annotations

import ast
import importlib
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "wslessons").rglob("*.py"))


def public_definitions(module: Path) -> list[str]:
    """Return the names of a module's own classes and functions, those of a program left out."""
    text = module.read_text()
    if module.name == "__main__.py" or 'if __name__ == "__main__"' in text:
        return []
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [node.name for node in ast.parse(text).body if isinstance(node, kinds)]
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


@pytest.mark.parametrize("room", ["link", "wire", "heartbeat", "push", "web", "asgi.py"])
def test_docstrings_have_one_format(room: str):
    """What goes in and what is raised stands under Google's headings, and in no sentence."""
    old = re.compile(r"(?m)(?<!\w)In: `|^\s*Raises `|[.;] [Rr]aises `")
    found, checked = [], 0
    for path in MODULES:
        if path.relative_to(ROOT / "wslessons").parts[0] != room:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                checked += 1
                if old.search(ast.get_docstring(node) or ""):
                    found.append(f"{path.name}: {getattr(node, 'name', 'the module')}")
    assert checked > 5
    assert found == []


def test_ci_runs_the_readmes_commands():
    """`.ci/run` calls the very test command that the README gives."""
    readme = (ROOT / "README.md").read_text()
    last = (ROOT / ".ci" / "run").read_text().strip().splitlines()[-1]
    assert last == "python3 -m pip install uv && python3 -m uv run pytest"
    assert last in readme
