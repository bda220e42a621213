"""The ways to install agree, and what a script imports needs no Jupyter."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
# What a notebook needs and a script doesn't; the names of the packages that bring it.
NOTEBOOK_ONLY = (
    *("IPython", "ipywidgets", "matplotlib"),
    *("ipykernel", "jupyter_client", "jupyter_core", "jupyter_server", "jupyterlab"),
    *("nbclient", "nbformat", "tornado", "traitlets", "zmq"),
)


def requirements(*lists: list[str]) -> dict[str, Requirement]:
    """Parse lists of requirements, by name, leaving out the project itself."""
    parsed = (Requirement(text) for texts in lists for text in texts)
    found: dict[str, Requirement] = {canonicalize_name(each.name): each for each in parsed}
    found.pop("wslessons", None)
    return found


def test_extra_all_is_the_sum_of_the_others() -> None:
    """`pip install 'wslessons[all]'` leaves nothing out."""
    (everything,) = EXTRAS["all"]
    assert Requirement(everything).name == "wslessons"
    assert Requirement(everything).extras == set(EXTRAS) - {"all"}


def test_conda_installs_the_same() -> None:
    """environment.yml has the project with all extras, the test tools, and the same bounds."""
    assert ENVIRONMENT["channels"] == ["conda-forge"]
    python, pip, from_pip = ENVIRONMENT["dependencies"]
    name, _, version = python.partition("=")
    assert name == "python"
    assert version in SpecifierSet(PYPROJECT["project"]["requires-python"])
    assert pip == "pip"
    project, proxy, *tools = from_pip["pip"]
    assert project == "-e .[all]"
    assert Requirement(proxy).name == "jupyter-server-proxy"
    assert requirements(tools) == requirements(PYPROJECT["dependency-groups"]["dev"])


def test_binder_finds_what_it_looks_for() -> None:
    """By repo2docker's own rules: an exact Python, scripts to be run, nothing in their way.

    https://repo2docker.readthedocs.io/en/latest/configuration/
    """
    python = ENVIRONMENT["dependencies"][0]
    assert re.fullmatch(r"python\s*=+\s*[\d.]+", python), python
    # With a folder `binder` it would look for all of these in there, and `Dockerfile` beats them.
    for name in ("binder", ".binder", "Dockerfile", "runtime.txt"):
        assert not (ROOT / name).exists()
    for name in ("postBuild", "start"):
        assert (ROOT / name).read_text(encoding="utf-8").startswith("#!/bin/bash\n")
        assert os.access(ROOT / name, os.X_OK)
    assert (ROOT / "start").read_text(encoding="utf-8").rstrip().endswith('exec "$@"')


@pytest.mark.skipif(os.name == "nt", reason="Binder's images are Linux")
def test_binders_scripts_bring_the_lessons_and_our_settings(tmp_path: Path) -> None:
    """Copies without outputs where the link leads, and JupyterLab with what the panels need."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    run = partial(subprocess.run, cwd=tmp_path, env={**os.environ, "PATH": path}, check=True)
    run([ROOT / "postBuild"], timeout=50)
    assert (tmp_path / "wslessons-lessons" / "index.ipynb").is_file()
    command = [ROOT / "start", "printenv", "JUPYTER_CONFIG_PATH"]
    settings = run(command, text=True, capture_output=True, timeout=50).stdout.strip()
    assert (Path(settings) / "labconfig").is_dir()


Lock = dict[str, list[Requirement]]


def read_lock(text: str) -> Lock:
    """Parse a lock: for each package its pins, one an environment.

    Raises ValueError for a line that is no pin, and for a pin without hashes.
    """
    pins: Lock = {}
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        text, *hashes = re.split(r"\s+--hash=sha256:", line.strip())
        pin = Requirement(text)
        if not re.fullmatch(r"==[^*,]+", str(pin.specifier)):
            raise ValueError(f"{text} is not pinned")
        if not hashes or not all(re.fullmatch("[0-9a-f]{64}", each) for each in hashes):
            raise ValueError(f"{text} has no hashes")
        pins.setdefault(canonicalize_name(pin.name), []).append(pin)
    return pins


def breaches(lock: Lock, wanted: dict[str, Requirement]) -> Iterator[str]:
    """Yield each requirement that a lock leaves out or pins outside its bounds."""
    for name, requirement in wanted.items():
        if name not in lock:
            yield f"{requirement} is not in the lock"
        for pin in lock.get(name, []):
            (version,) = pin.specifier
            if not requirement.specifier.contains(version.version, prereleases=True):
                yield f"{requirement} is locked at {version.version}"


def test_lock_holds_everything_within_its_bounds() -> None:
    """Each direct requirement is pinned, inside the bounds that pyproject.toml gives."""
    lock = read_lock((ROOT / "requirements.lock").read_text(encoding="utf-8"))
    project = PYPROJECT["project"]["dependencies"]
    tools = PYPROJECT["dependency-groups"]["dev"]
    assert list(breaches(lock, requirements(project, *EXTRAS.values(), tools))) == []


def test_uv_run_takes_the_locked_versions() -> None:
    """The constraints for uv are the pins of the lock: both were tested together."""
    constraints = PYPROJECT["tool"]["uv"]["constraint-dependencies"]
    lock = read_lock((ROOT / "requirements.lock").read_text(encoding="utf-8"))
    pins = {str(pin) for each in lock.values() for pin in each}
    stale = {str(Requirement(each)) for each in constraints} - pins
    assert not stale, "run python3 .ci/lock.py --keep"


def test_lock_names_no_machine_and_no_index() -> None:
    """The lock works with whatever index its reader uses, and from any folder."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert re.findall(r"://|--(?:extra-)?index-url|--find-links|(?:^| )[./]\S*/", text) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a>=1 --hash=sha256:" + 64 * "0", "not pinned"),
        ("a==1.* --hash=sha256:" + 64 * "0", "not pinned"),
        ("a==1", "no hashes"),
        ("a==1 \\\n    --hash=sha256:abc", "no hashes"),
    ],
)
def test_loose_lock_is_refused(text: str, complaint: str) -> None:
    """A lock that fixes less than version and content is found out."""
    with pytest.raises(ValueError, match=complaint):
        read_lock(text)


def test_outdated_lock_is_found() -> None:
    """A bound raised after locking, and a package added after it, are both named."""
    pin = f" --hash=sha256:{64 * '0'}\n"
    lock = read_lock(f"A_b==1.9 ; python_version < '3.12'{pin}a-b==2.1{pin}")
    wanted = requirements(["a.b>=2", "c"])
    assert list(breaches(lock, wanted)) == ["a.b>=2 is locked at 1.9", "c is not in the lock"]


def outside_lab() -> list[Path]:
    """All modules of the package outside `lab`, but for the one that runs when imported.

    Grading runs notebooks, so it talks to kernels; `wslessons grade` alone imports it.
    """
    package = ROOT / "wslessons"
    paths = (path.relative_to(ROOT) for path in sorted(package.rglob("*.py")))
    return [
        path
        for path in paths
        if path.parts[1] != "lab" and "grade" not in path.parts and path.name != "__main__.py"
    ]


def imported(source: str) -> set[str]:
    """The top-level packages that `source` imports, anywhere, also by name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom(module=str(module), level=0):
                names.add(module)
            case ast.Call(args=[ast.Constant(value=str(text)), *_]):
                if ast.unparse(node.func).rpartition(".")[2] in {"need", "import_module"}:
                    names.add(text)
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize(
    "path", outside_lab(), ids=lambda path: ".".join(path.with_suffix("").parts)
)
def test_nothing_outside_lab_imports_jupyter(path: Path) -> None:
    """Not at the top, and not inside a function either."""
    assert imported((ROOT / path).read_text(encoding="utf-8")).isdisjoint(NOTEBOOK_ONLY)


@pytest.mark.parametrize(
    "source",
    [
        "import matplotlib.pyplot as plt",
        "def f():\n    from IPython.display import display",
        "pyplot = need('matplotlib.pyplot', 'lab')",
        "importlib.import_module('ipywidgets')",
    ],
)
def test_every_way_to_import_is_seen(source: str) -> None:
    """A hidden import is found out."""
    assert not imported(source).isdisjoint(NOTEBOOK_ONLY)


WITHOUT_JUPYTER = f"""
import importlib, importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {NOTEBOOK_ONLY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def without_jupyter(code: str) -> subprocess.CompletedProcess[Any]:
    """Run `code` in a Python where nothing of Jupyter can be imported."""
    command = [sys.executable, "-c", WITHOUT_JUPYTER + code]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=50)


def test_scripts_need_no_jupyter() -> None:
    """Every module outside `lab` can be imported where Jupyter is absent."""
    names = [
        ".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in outside_lab()
    ]
    done = without_jupyter(f"for name in {names!r}: importlib.import_module(name)")
    assert (done.returncode, done.stderr) == (0, "")


def test_commands_need_no_jupyter_but_those_on_notebooks() -> None:
    """Help and the other commands work; these three say in one line what to install."""
    run = "from wslessons.cli import main; sys.exit(main({!r}))"
    assert without_jupyter(run.format(["--help"])).returncode == 0
    lesson = str(ROOT / "notebooks" / "01_echo.ipynb")
    for words in (["lab"], ["record", lesson], ["grade", str(ROOT / "notebooks")]):
        done = without_jupyter(run.format(words))
        assert done.returncode == 1
        assert re.fullmatch(r"wslessons: .*pip install 'wslessons\[lab\]'.*\n", done.stderr)


def test_the_absence_is_real() -> None:
    """The two tests above would pass anywhere if nothing were blocked."""
    done = without_jupyter("import matplotlib.pyplot")
    assert "No module named 'matplotlib'" in done.stderr
