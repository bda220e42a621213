"""The measuring of lesson 0: what it counts, how it computes, and the command."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import shell
from websockets import connect
from websockets.frames import Frame, Opcode

from wslessons.bench import push_load
from wslessons.bench.push_load import PushBench, Run
from wslessons.heartbeat.heartbeat import PAYLOAD
from wslessons.push import UnitCosts
from wslessons.push.costs import PING_BYTES, PING_INTERVAL, PONG_BYTES

RUN = Run(
    kind="polling",
    tabs=2,
    changes=1,
    seconds=4.0,
    requests=10,
    unchanged=9,
    updates=2,
    missed=0,
    breaks=0,
    up=300,
    down=100,
    opening=0,
    cpu=0.1,
    memory=0,
    delays=(0.1, 0.2, 0.3, 0.4),
)
COSTS = UnitCosts(
    poll_cpu=100e-6,
    poll_bytes=300,
    poll_idle=5000,
    push_cpu=20e-6,
    push_bytes=90,
    push_idle=20000,
    ping_cpu=60e-6,
)


def test_run_computes_rates_shares_and_delays():
    """Requests and bytes a second, the share of "nothing changed", and quantiles of the delay."""
    assert (RUN.rate, RUN.share_unchanged, RUN.traffic) == (2.5, 0.9, 100.0)
    assert (RUN.delay(0.5), RUN.delay(0.99)) == (0.3, 0.4)
    assert replace(RUN, requests=0, unchanged=0).share_unchanged == 0


def test_polling_costs_tabs_by_interval_and_pushing_tabs_by_changes():
    """The two laws of the lesson, with the pings that pushing needs."""
    poll = COSTS.polling(500, 2)
    assert (poll.events, poll.traffic, poll.memory) == (250, 75_000, 2_500_000)
    assert poll.cores == pytest.approx(0.025)
    push = COSTS.pushing(500, 200)
    assert push.events == pytest.approx(2.5 + 500 / PING_INTERVAL)
    assert push.traffic == pytest.approx(2.5 * 90 + 25 * PING_BYTES)
    assert push.cores == pytest.approx(2.5 * 20e-6 + 25 * 60e-6)
    assert push.memory == 10_000_000


def test_bytes_of_a_ping_are_those_that_our_heartbeat_sends():
    """Pongs are counted by their bytes, so their size must be that of the real ones."""
    ping = Frame(Opcode.PING, PAYLOAD + b"1")
    up = ping.serialize(mask=True)
    assert (len(up), len(up) + len(ping.serialize(mask=False))) == (PONG_BYTES, PING_BYTES)


def test_poller_that_is_gone_for_long_holds_no_memory():
    """A connection is kept for 75 s: who polls every 750 s has one for a tenth of the time."""
    assert COSTS.polling(1, 750).memory == pytest.approx(500)


@pytest.mark.parametrize("change_every", [0.1, 1, 200, 86_400])
def test_break_even_is_where_both_cost_the_same(change_every: float):
    """At that interval the CPU is equal, below it polling takes more, above it less."""
    at = COSTS.break_even(change_every)
    push = COSTS.pushing(7, change_every).cores
    assert COSTS.polling(7, at).cores == pytest.approx(push)
    assert COSTS.polling(7, at / 2).cores > push > COSTS.polling(7, at * 2).cores


def test_free_pushing_never_loses():
    """Without any cost of pushing there is no such interval."""
    assert replace(COSTS, push_cpu=0, ping_cpu=0).break_even(1) == math.inf


async def test_every_told_tab_learns_of_every_change_and_bytes_are_exact():
    """WebSocket tabs send nothing, and receive exactly one frame for each change."""
    # A ping may come at any moment of its first 20 s: without them, every byte is a change's.
    async with asyncio.timeout(40), PushBench(ping_interval=0) as bench:
        socket = f"ws://127.0.0.1:{bench.child.port}/ws"
        async with connect(socket, proxy=None, compression=None) as watcher:
            await watcher.recv()
            run = await bench.measure("WebSocket", tabs=5, interval=1, changes=4, seconds=0.3)
            changes = [await watcher.recv() for _ in range(4)]
    assert (run.updates, run.missed, run.breaks, run.requests) == (20, 0, 0, 0)
    assert len(run.delays) == 20
    assert run.up == 0
    assert all(len(change) < 126 for change in changes)
    assert run.down == 5 * sum(2 + len(change) for change in changes)
    assert run.cpu > 0
    assert run.seconds >= 0.3


async def test_polling_tabs_mostly_hear_that_nothing_changed():
    """Each answer is 304 or one of the changes; the bytes are those of whole requests."""
    async with asyncio.timeout(40), PushBench() as bench:
        run = await bench.measure("polling", tabs=4, interval=0.02, changes=1, seconds=1)
    assert run.updates == 4
    # At the moment of counting, each tab may have one request on its way.
    assert 0 <= run.requests - run.unchanged - run.updates <= run.tabs
    assert run.up > 100 * (run.requests - run.tabs)
    assert run.opening > 0


async def test_other_kinds_learn_of_every_change():
    """A long poll takes a request for each change, a stream none."""
    async with asyncio.timeout(50), PushBench() as bench:
        scale: dict[str, Any] = {"tabs": 3, "interval": 1, "changes": 2, "seconds": 0.4}
        polls = await bench.measure("long polling", **scale)
        stream = await bench.measure("server-sent events", **scale)
    for run in (polls, stream):
        assert run.updates + run.missed == 6
        assert run.breaks == 0
    assert (stream.requests, stream.up) == (0, 0)
    assert polls.requests >= polls.updates
    assert polls.share_unchanged == 0


async def test_story_scales_interval_and_changes_alike(monkeypatch: pytest.MonkeyPatch):
    """A hundred times as fast: a poll every 20 ms, a change every 2 s."""
    asked = {}

    async def measure(self: PushBench, kind: str, **options: float) -> Run:
        asked[kind] = options
        return RUN

    monkeypatch.setattr(push_load.PushBench, "measure", measure)
    await PushBench().story("polling", tabs=20, speed=100, changes=2)
    assert asked == {"polling": {"tabs": 20, "interval": 0.02, "changes": 2, "seconds": 4.0}}


@pytest.mark.timeout(150)
async def test_command_prints_a_table_and_writes_json(tmp_path: Path):
    """`wslessons bench push --quick --json` names its scale, and has each kind and the costs."""
    file = tmp_path / "push.json"
    async with asyncio.timeout(120):
        code, out, errors = await shell.run("bench", "push", "--quick", "--json", str(file))
    assert (code, errors) == (0, "")
    assert "10 tabs for the story's 500, 1 s for its 200 s: a poll every 10 ms" in out
    results = json.loads(file.read_text())
    kinds = ["polling", "long polling", "server-sent events", "WebSocket"]
    assert [run["kind"] for run in results["runs"]] == kinds
    assert all(f"\n{kind} " in out for kind in kinds)
    assert results["scale"] == {"tabs": 10, "speed": 200.0, "changes": 1}
    # A push costs less than a poll, with the headers that keep a page safe; a ping costs something.
    costs = results["unit_costs"]
    assert all(0 < costs[name] < 1 for name in ("push_cpu", "ping_cpu", "poll_cpu"))
    assert 80 < costs["push_bytes"] < 120
    assert costs["push_bytes"] < costs["poll_bytes"] < 800


def test_missing_extra_is_one_sentence():
    """Without the extra, the command and the module name it, and there is no traceback."""
    block = "import sys\nsys.modules['aiohttp'] = None\n"
    command = "from wslessons.cli import main; sys.exit(main(['bench', 'push', '--quick']))"
    done = subprocess.run(
        [sys.executable, "-c", block + command], capture_output=True, text=True, timeout=50
    )
    says = "wslessons: aiohttp is not installed: get it with pip install 'wslessons[push]'.\n"
    assert (done.returncode, done.stderr) == (1, says)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--tabs", "0"], "--tabs goes from 1 to 2000."),
        (["--speed", "1000"], "--speed goes from 1 to 200."),
        (["--changes", "0"], "--changes goes from 1 to 1000."),
        (["--tabs", "many"], "invalid int value: 'many'"),
    ],
)
async def test_words_that_do_not_fit(words: list[str], says: str):
    """What can't be measured is said in a sentence, with exit code 2."""
    async with asyncio.timeout(30):
        code, _, errors = await shell.run("bench", "push", *words)
    assert code == 2
    assert says in errors
    assert "Traceback" not in errors
