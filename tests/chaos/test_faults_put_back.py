"""Faults that were mended, put back one by one: five minutes of chaos have to find each of them.

Not among the normal tests, since they take long: ``pytest -m faults_put_back -n 0 tests/chaos``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

import wslessons
from wslessons.chaos.schedule import COMMON
from wslessons.processes import guarded

PACKAGE = Path(wslessons.__file__).parent
TIME = 300.0
"""Seconds in which it is to be found."""


class Fault(NamedTuple):
    """A change of the package that puts a fault back."""

    file: str
    now: str
    then: str
    bus: str
    kinds: str
    """What the checker may call it, as a regular expression."""
    only: str = ", ".join(COMMON)
    """What happens, where a new connection would hide the fault."""
    also: tuple[str, str, str] | None = None
    """A second change of the same kind, in another file, where one alone does no harm by now."""
    every: float = 1.0
    """Seconds between what happens, on average."""


FAULTS = {
    "a name used again swallows what its new owner says": Fault(
        "scaling/bus/bus.py",
        'f"{node}-{secrets.token_hex(4)}" if node else secrets.token_hex(4)',
        "node or secrets.token_hex(4)",
        "redis?stream=chat",
        "unanswered|lost",
    ),
    "an acknowledgement in a gap never comes": Fault(
        "client/outbox.py",
        "if out.tries and out.id not in waiting",
        "if False",
        "redis?stream=chat",
        "unanswered",
        "flood, delay link",
    ),
    "a new life of a room has the old one's events": Fault(
        "scaling/bus/bus.py",
        "if place > self._born:",
        "if True:",
        "redis?stream=chat",
        "number|order|lost|twice",
    ),
    "what sends dies, and the bus says that it is connected": Fault(
        "scaling/bus/redis.py",
        "            raise Unreachable(self._explain(exc)) from exc\n\n\nclass Streams",
        "            raise\n\n\nclass Streams",
        "redis",
        "lost|deaf|ghost",
        "cut bus, stall bus, kill broker, freeze broker",
        (
            "scaling/bus/transport.py",
            '        failed(f"{what} failed: {why}")\n',
            "        return\n",
        ),
    ),
    "who was cut off for long is not asked what got lost": Fault(
        "scaling/bus/remote.py",
        "                    self._put(down)\n",
        "                    self._put(down)\n"
        '                    getattr(self, "_heard", {}).pop(down.node, None)\n',
        "nats",
        "lost|count",
        "cut bus, stall bus, delay bus",
    ),
    "what another says while a server starts is taken for said before": Fault(
        "scaling/bus/pubsub.py",
        "            if moment.at <= then:\n",
        "            if True:\n",
        "redis",
        "lost",
    ),
    "whoever misses something is told that it misses all": Fault(
        "scaling/bus/pubsub.py",
        "self._report(heard.take(room, count), room, part.node)",
        "self._report(heard.take(room, count) and count, room, part.node)",
        "nats",
        "count",
    ),
    "a second cut-off tells nobody": Fault(
        "scaling/bus/presence.py",
        "            peer.down = False\n",
        "",
        "nats",
        "ghost",
    ),
    "a log that comes back older gives its numbers again": Fault(
        "scaling/bus/nats.py",
        "base = max(now - last - 1, newest + 1, self._base + max(1, self._next - last - 1))\n",
        "base = now * 0\n",
        "nats?stream=chat",
        "number|order",
        "restore broker, kill server",
    ),
    "who has heard the new log is told the dead one": Fault(
        "scaling/bus/rooms.py",
        "await self._bus.confirm()",
        "pass",
        "redis?stream=chat",
        "twice|order",
        "empty broker, stall bus, move link",
    ),
    "newcomers of a room that has ended are deaf": Fault(
        "scaling/bus/rooms.py",
        "        room.ended = True\n",
        "",
        "redis?stream=chat",
        # And they are told what is kept of the dead log.
        "deaf|unanswered|ghost|lost|twice|order",
        "empty broker, stall bus, move link",
        every=0.5,
    ),
}


@pytest.mark.faults_put_back
@pytest.mark.timeout(2 * TIME)
@pytest.mark.parametrize("name", FAULTS)
def test_five_minutes_of_chaos_find_a_fault_that_is_put_back(name: str, tmp_path: Path):
    """A copy of the package with an old fault breaks a promise, of the kind that was broken."""
    fault = FAULTS[name]
    shutil.copytree(PACKAGE, tmp_path / "wslessons", ignore=shutil.ignore_patterns("__pycache__"))
    for place, now, then in filter(None, [(fault.file, fault.now, fault.then), fault.also]):
        file = tmp_path / "wslessons" / place
        source = file.read_text()
        assert source.count(now) == 1, "the code has changed: put the fault back in another way"
        file.write_text(source.replace(now, then))
    began, said = time.monotonic(), ""
    for seed in range(100):
        words = [
            "--minutes",
            "0.5",
            "--seed",
            f"{seed}",
            "--every",
            f"{fault.every}",
            "--bus",
            fault.bus,
            "--only",
            fault.only,
        ]
        command = [sys.executable, "-m", "wslessons", "chaos", "--people", "48", *words]
        # From its folder, where it finds the copy first.
        done = subprocess.run(
            guarded(*command), cwd=tmp_path, stdout=subprocess.PIPE, text=True, timeout=TIME
        )
        said += done.stdout
        if re.search(f"BROKEN: .*({fault.kinds})", said):
            print(f"found after {time.monotonic() - began:.0f} s: {said}")
            return
        if time.monotonic() > began + TIME:
            break
    pytest.fail(f"it was not found: {said}")
