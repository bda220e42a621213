"""Every command and every option that a page names exists: the parsers themselves read them."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from wslessons import cli

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "notebooks").rglob("*.ipynb")),
]
OF_OTHERS = {"--ulimit"}
"""Options of Docker."""


def texts(page: Path) -> Iterator[str]:
    """Yield what a page says, with its cells of code as blocks of code."""
    source = page.read_text(encoding="utf-8")
    if page.suffix == ".md":
        yield source
        return
    for cell in json.loads(source)["cells"]:
        text = "".join(cell["source"])
        yield f"```\n{text}\n```" if cell["cell_type"] == "code" else text


def spans(page: Path) -> Iterator[str]:
    """Yield each line of code of a page, and each piece of code in its sentences."""
    for text in texts(page):
        for block in re.findall(r"(?ms)^ *```\w*\n(.*?)^ *```", text):
            yield from block.splitlines()
        prose = re.sub(r"(?ms)^ *```.*?^ *```", "", text)
        for span in re.findall(r"`([^`]+)`", prose):
            yield " ".join(span.split())


def commands(page: Path) -> list[str]:
    """Return the words after `wslessons` of each command that a page names."""
    found = []
    for span in spans(page):
        for part in re.split(r" && | \| |\$\(|\)", span):
            line = part.strip().removeprefix("!").removeprefix("python3 -m uv run ")
            if match := re.fullmatch(r"wslessons( .*)?", line):
                found.append((match[1] or "").strip())
    return list(dict.fromkeys(found))


def bench_parser(name: str) -> argparse.ArgumentParser:
    """Return the parser of a bench's own options."""
    parser = argparse.ArgumentParser(prog=f"wslessons bench {name}")
    importlib.import_module(f"wslessons.bench.{name}").add_arguments(parser)
    return parser


def all_options() -> set[str]:
    """Return the options of all commands and benches."""
    (action,) = (
        each for each in cli.build_parser()._actions if isinstance(each, argparse._SubParsersAction)
    )
    parsers = [*action.choices.values(), *map(bench_parser, cli.BENCHES)]
    return {name for parser in parsers for one in parser._actions for name in one.option_strings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_is_one(page: Path) -> None:
    """None has a word that its parser refuses."""
    for command in commands(page):
        words = shlex.split(command, comments=True)
        if len(words) == 1 and not words[0].isdecimal():
            assert words[0] in cli.COMMANDS
            continue
        if not words or words[0].isdecimal():
            words = ["lab", *words]
        # In a recipe, `word` stands for what is new.
        words = ["nats" if word == "word" else word for word in words]
        try:
            args = cli.build_parser().parse_args(words)
            if words[0] == "bench" and args.name is not None:
                bench_parser(args.name).parse_args(args.options)
        except SystemExit as exc:
            if exc.code:
                pytest.fail(f"there is no such command: wslessons {command}")


def test_every_option_is_one() -> None:
    """What stands alone, such as `--history`, is an option of one of our commands."""
    named = {
        match[0]
        for page in PAGES
        for span in spans(page)
        if (match := re.match(r"--[a-z][a-z-]+", span))
    }
    assert named - all_options() - OF_OTHERS == set()
    assert len(named) > 20


def test_every_name_of_the_package_is_one() -> None:
    """What is written as `wslessons.WORD`, and what `python -m` is to run."""
    named = {
        match[1]
        for page in PAGES
        for span in spans(page)
        if (match := re.search(r"(?:^|python3? -m )(wslessons(?:\.\w+)+)(?:\(|$| )", span))
    }
    assert len(named) > 20
    for name in sorted(named):
        pkgutil.resolve_name(name)


def test_commands_are_found() -> None:
    """The three ways in which a page names one."""
    found = commands(ROOT / "README.md")
    assert {"", "2", "nbval-rules", "bench fanout --quick"} <= {
        command.partition("#")[0].strip() for command in found
    }
    assert any(command.startswith("grade handed_in --csv") for command in found)
    assert any(commands(page) for page in PAGES if page.suffix == ".ipynb")
