"""The README's page for instructors: its workflow, and every command that it names."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from wslessons.cli import build_parser

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = README.partition("## For instructors")[2].partition("\n## ")[0]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", PAGE)
"""The language and the text of each block of code."""
OF_THE_RUNNER = {"sudo", "apt-get"}
"""Commands that a runner of GitHub Actions brings."""


def workflow() -> dict[Any, Any]:
    """The workflow that the page shows."""
    (text,) = [text for language, text in BLOCKS if language == "yaml"]
    return yaml.safe_load(text)


def steps() -> list[dict[str, Any]]:
    """All steps of the workflow."""
    return [step for job in workflow()["jobs"].values() for step in job["steps"]]


def commands() -> list[str]:
    """Each command of the workflow and of the page's text."""
    in_text = re.findall(r"`((?:wslessons|python3) [^`\n]*(?:\n[^`\n]+)?)`", PAGE)
    lines = [line for language, text in BLOCKS if language != "yaml" for line in text.splitlines()]
    runs = [step["run"] for step in steps() if "run" in step]
    found = [part.strip() for line in [*runs, *lines, *in_text] for part in line.split("&&")]
    return list(dict.fromkeys(" ".join(each.split()) for each in found))


def test_the_workflow_is_one():
    """Jobs with steps, each of which uses an action or runs something; a bound on the time."""
    made = workflow()
    # YAML 1.1 takes the word `on` for a truth value.
    assert set(made) == {"name", True, "permissions", "jobs"}
    assert list(made["jobs"]) == ["notebooks", "everything"]
    for job in made["jobs"].values():
        assert job["runs-on"] == "ubuntu-latest"
        assert 0 < job["timeout-minutes"] <= 90
        assert any(step.get("uses", "").startswith("actions/cache@") for step in job["steps"])
    for step in steps():
        assert ("uses" in step) != ("run" in step)
    for step in steps():
        for name in re.findall(r"hashFiles\('([^']+)'\)", str(step.get("with", ""))):
            assert (ROOT / name).is_file()


def test_the_notebooks_have_a_job_of_their_own():
    """Before everything else, since they take less time."""
    jobs = workflow()["jobs"]
    assert jobs["notebooks"]["steps"][-1]["run"].endswith("pytest notebooks")
    assert jobs["everything"]["steps"][-1]["run"].endswith("pytest")
    assert jobs["everything"]["needs"] == "notebooks"


@pytest.mark.parametrize("command", commands())
def test_its_commands_exist(command: str):
    """Ours are read by our own parser; others are installed, or the runner's."""
    words = shlex.split(command)
    if words[:3] == ["python3", "-m", "uv"] and words[3] == "run":
        words = words[4:]
    if words[0] == "python3":
        assert words[1:4] == ["-m", "pip", "install"], command
    elif words[0] == "pytest":
        assert shutil.which("pytest", path=str(Path(sys.executable).parent))
        paths = [word for word in words[1:] if not word.startswith("-")]
        assert all((ROOT / path).exists() for path in paths)
    elif words[0] == "wslessons":
        args = build_parser().parse_args(words[1:])
        assert callable(args.run) or args.command
    else:
        assert words[0] in OF_THE_RUNNER, command


def test_every_option_of_grading_is_one():
    """What the text names exists, and all bounds of the command are named."""
    options = set(re.findall(r"`(--[a-z-]+)`", PAGE)) | {"--csv", "--junit", "--html"}
    known = {"--csv", "--junit", "--html", "--jobs", "--cell-timeout", "--timeout", "--memory"}
    assert known <= options
    build_parser().parse_args(
        ["grade", "x", *(word for name in sorted(known) for word in (name, "1"))]
    )


def test_the_page_says_how_to_add_a_lesson_and_an_exercise():
    """Both recipes, and what their files are called."""
    assert "## Adding an exercise" in CONTRIBUTING
    assert "## Adding a lesson" in CONTRIBUTING
    for path in re.findall(r"`((?:tests|wslessons|notebooks)/[\w/.]+)`", CONTRIBUTING):
        if "10_word" not in path and "word.py" not in path and "LESSON" not in path:
            assert (ROOT / path).exists(), path
    assert "jupyter-server-proxy" in PAGE
