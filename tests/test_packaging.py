"""What is built here: a wheel that works alone, and sources that hold all that tests need."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.timeout(240)

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SCRIPT = """
import importlib, pkgutil, sys, wslessons
refused = {}
for module in pkgutil.walk_packages(wslessons.__path__, "wslessons."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ImportError as exc:
            refused[module.name] = str(exc)
for name, sentence in refused.items():
    print(name, sentence, sep="\\t")
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sources, built as `python -m build` does, with no network."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=200,
    )
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel and what it requires, and no extra."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder)
    packages = next(folder.glob("[Ll]ib/**/site-packages"))
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(packages)
    # What is here already: no test depends on a network, or on a cache.
    for text in PROJECT["dependencies"]:
        package = importlib.metadata.distribution(Requirement(text).name)
        for name in {path.parts[0] for path in package.files or []} - {"..", "__pycache__"}:
            (packages / name).symlink_to(str(package.locate_file(name)))
    return folder


def run(environment: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the Python of an environment outside of this clone."""
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    return subprocess.run(
        [python, "-I", *words], cwd=environment, capture_output=True, text=True, timeout=200
    )


def test_sources_hold_all_that_git_keeps(built: Path) -> None:
    """What tests read is in the source distribution, and nothing of this machine is."""
    if not shutil.which("git"):
        pytest.skip("no git: nothing to compare with")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("no clone of git: nothing to compare with")
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as sources:
        names = {name.partition("/")[2] for name in sources.getnames()}
    kept = {name for name in done.stdout.split("\0") if (ROOT / name).is_file()}
    assert names == kept | {"PKG-INFO"}


def test_wheel_holds_the_package_and_the_notebooks(built: Path) -> None:
    """The lessons, their pictures, nbval's rules and JupyterLab's settings travel with it."""
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    for folder, prefix in (("wslessons", ""), ("notebooks", "wslessons/")):
        wanted = {
            prefix + path.relative_to(ROOT).as_posix()
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and not {"__pycache__", ".ipynb_checkpoints"} & set(path.parts)
        }
        assert wanted <= names
    assert {name.partition("/")[0] for name in names} == {"wslessons"}


def test_wheel_works_alone(installed: Path) -> None:
    """The commands answer, from the wheel's own files; no other environment helps."""
    assert "lab" in run(installed, "-m", "wslessons", "--help").stdout
    rules = Path(run(installed, "-m", "wslessons", "nbval-rules").stdout.strip())
    assert installed in rules.parents
    assert rules.read_bytes() == (ROOT / "wslessons" / "lab" / "nbval.cfg").read_bytes()
    lost = run(installed, "-m", "wslessons", "lab", "99")
    assert lost.returncode == 2
    assert "there is no lesson '99': choose one of 00 why" in lost.stderr


def test_missing_extra_is_an_import_error_that_names_it(installed: Path) -> None:
    """Each module that needs more than a script does says in a sentence what to install."""
    done = run(installed, "-c", SCRIPT)
    assert (done.returncode, done.stderr) == (0, "")
    refused = dict(line.split("\t") for line in done.stdout.splitlines())
    extras = "|".join(PROJECT["optional-dependencies"])
    unnamed = {
        name: said
        for name, said in refused.items()
        if not any(f"pip install 'wslessons[{extra}]'" in said for extra in extras.split("|"))
    }
    assert unnamed == {}
    assert {"wslessons.web", "wslessons.push", "wslessons.scaling.bus.redis"} <= refused.keys()


def test_help_of_lab_needs_no_other_extra() -> None:
    """`help(wslessons.lab)` goes through all its names; `[lab]` alone has to do for that."""
    absent = ("aiohttp", "httptools", "nats", "redis", "starlette", "uvicorn")
    code = f"""
import sys
sys.modules |= dict.fromkeys({absent!r})
from wslessons import lab
for name in lab.__all__:
    getattr(lab, name)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, b"")
