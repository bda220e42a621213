"""The benches over command lines: echo, connect, memory, the floor in C, and any server."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from wslessons import cli
from wslessons.bench import connect, echo, tools
from wslessons.bench.fanout_load import Load
from wslessons.bench.peers import Peer, floor, parse
from wslessons.errors import UserError

RECIPE = (
    (Path(__file__).parents[2] / "CONTRIBUTING.md")
    .read_text(encoding="utf-8")
    .partition("## Adding a peer to a bench")[2]
    .partition("\n## ")[0]
)
compiled = pytest.mark.skipif(shutil.which("cc") is None, reason="the floor is in C")


def test_a_peer_is_a_name_and_a_command() -> None:
    """Words are split as a shell does; what has no port in it can't be measured."""
    assert parse("rust='a b' --port {port}") == Peer("rust", ("a b", "--port", "{port}"))
    for wrong in ("rust", "rust=./chat", "=./chat {port}", "rust='unbalanced {port}"):
        with pytest.raises(argparse.ArgumentTypeError, match="is not of the form"):
            parse(wrong)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ((sys.executable, "-c", "import sys; sys.exit('no luck, {port}')"), "no luck"),
        (("/no/such/program", "{port}"), "ended with"),
    ],
)
def test_a_peer_that_does_not_start_is_named(command: tuple[str, ...], sentence: str) -> None:
    """One sentence, with the last thing that it said."""
    with pytest.raises(UserError, match=sentence):
        Peer("mine", command).start()


@compiled
def test_the_floor_is_a_chat() -> None:
    """Every line arrives at everybody else, in order."""
    bottom = floor()
    assert bottom is not None
    with bottom.start() as server, Load(server.port, 5, 2) as load:
        load.saturate(0.1, 16)
        assert load.drain() == (0, False)
        assert load.arrived == load.sent * 5 > 0
        assert load.in_order


# The floor is compiled by the process that runs the tests, not by each that collects them.
FLOOR = ["floor"] if shutil.which("cc") else []
ECHOES = [
    *("library", "lesson 1", "fast"),
    *(name for name in ("aiohttp", "picows") if find_spec(name)),
    *FLOOR,
]
CHATS = ["library", "chat", *FLOOR]


def test_each_contender_is_tested() -> None:
    """None is left out here."""
    assert [peer.name for peer in echo.contenders()] == ECHOES
    assert [*connect.contenders()] == CHATS


@pytest.mark.parametrize("name", ECHOES)
def test_each_echo_answers(name: str) -> None:
    """Every contender can be measured, and its CPU is known."""
    (peer,) = (peer for peer in echo.contenders() if peer.name == name)
    measured = echo.round_trips(peer, 3, 0.3)
    assert measured["rate"] > 0
    assert measured["p50"] > 0
    assert measured["cpu"] > 0 or sys.platform != "linux"


@pytest.mark.parametrize("name", CHATS)
def test_each_chat_lets_a_crowd_in(name: str) -> None:
    """All come in, with their welcome where they say a name."""
    peer, joining = connect.contenders()[name]
    with peer.start() as server:
        assert connect.measure(server, 30, joining)["rate"] > 0


@pytest.mark.parametrize("bench", ["echo", "connect", "memory"])
def test_bench_writes_its_results(
    bench: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table on stdout, and each turn's numbers in the file; a server of one's own joins in.

    The echo's is made by CONTRIBUTING.md's recipe, word for word.
    """
    mine = f"mine={sys.executable} -m wslessons.bench.servers peer chat {{port}}"
    if bench == "echo":
        (program,) = re.findall(r"(?ms)^```python\n# mine\.py\n(.*?)^```$", RECIPE)
        (tmp_path / "mine.py").write_text(program, encoding="utf-8")
        (command,) = re.findall(r"(?m)^wslessons bench echo .*$", RECIPE)
        monkeypatch.chdir(tmp_path)
        mine = shlex.split(command)[-1].replace("python3", shlex.quote(sys.executable))
    options = ["--seconds", "0.1", "--connections", "5"] if bench == "echo" else ["--connections"]
    options += [] if bench == "echo" else ["20"]
    file = tmp_path / "results.json"
    words = ["bench", bench, "--rounds", "1", *options, "--peer", mine, "--json", str(file)]
    assert cli.main(words) == 0
    assert "mine" in capsys.readouterr().out
    assert json.loads(file.read_text())["turns"]["mine"]


def test_turns_alternate_and_ratios_are_within_a_round() -> None:
    """Who was first is last the next time; the ratio is the median of each round's own."""
    order: list[str] = []

    def one(name: str) -> dict[str, float]:
        order.append(name)
        return {"rate": {"a": 2.0, "b": 1.0}[name] * len(order)}

    results = tools.turns(["a", "b"], 3, one)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert [turn["rate"] for turn in results["a"]] == [2.0, 8.0, 10.0]
    assert tools.ratio(results, "a", "b", "rate") == "1.67 (1 to 2.67)"
    assert tools.ratio(results, "a", "a", "rate") == "1"
    assert tools.ratio(results, "a", "floor", "rate") == ""
