"""A thousand idle people, or ten thousand: they take the memory that is promised, and are alive."""

from __future__ import annotations

import asyncio
import resource
import sys
from collections.abc import Callable

import pytest
import shell
from websockets import connect

from wslessons.limits import MAX_CONNECTIONS
from wslessons.processes import guarded, memory

PROMISED = 200 * 2**20
"""Bytes that `wslessons.limits` says of `MAX_CONNECTIONS`."""
SPARE = 100
"""Files that a server or its clients have open beside the connections."""

CLIENTS = """
import selectors, socket, sys
from wslessons.limits import raise_descriptors
from wslessons.testing.raw import frame, handshake

raise_descriptors()
address, count = ("127.0.0.1", int(sys.argv[1])), int(sys.argv[2])
found, inside, asked = selectors.DefaultSelector(), set(), set()

def listen():
    for key, _ in found.select(0.1):
        data, rest = key.fileobj.recv(65536), key.data
        if not data:
            sys.exit(f"client {rest['number']} was dropped")
        rest["data"] += data
        if b"Welcome, " in rest["data"]:
            inside.add(rest["number"])
        # What the heartbeat sends is a frame of its own, and the last one if it is waited for.
        at = rest["data"].find(b"\\x89", 129)
        if rest["number"] in inside and at >= 0 and len(rest["data"]) >= at + 2:
            size = rest["data"][at + 1]
            payload = rest["data"][at + 2 : at + 2 + size]
            if len(payload) == size:
                key.fileobj.sendall(frame(10, payload))
                asked.add(rest["number"])
                rest["data"] = b"." * 129

for number in range(count):
    client = socket.create_connection(address)
    path = f"/rooms/r{number // 20}"
    client.sendall(handshake(path) + frame(1, f"n{number}".encode()))
    found.register(client, selectors.EVENT_READ, {"number": number, "data": b""})
    if number % 50 == 49:
        listen()
while len(inside) < count:
    listen()
print("inside", flush=True)
while len(asked) < count:
    listen()
print("asked", flush=True)
while True:
    listen()
"""


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "count", [1000, pytest.param(MAX_CONNECTIONS - 1, marks=pytest.mark.ten_thousand)]
)
async def test_idle_people_cost_what_is_promised(
    count: int, record_property: Callable[[str, object], None]
) -> None:
    """They all join, take so much memory, answer pings, and somebody else is served meanwhile."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count + SPARE:
        pytest.skip(f"a process may open {hard} files here, and {count + SPARE} are needed")
    beats = ("--ping-interval", "3", "--ping-timeout", "100")
    async with asyncio.timeout(200), shell.serving("chat", "--port", "0", *beats) as server:
        pid, port = server.process.pid, server.url.rpartition(":")[2]
        async with connect(server.url, proxy=None) as ann:
            await ann.send("ann")
            assert await ann.recv() == "Welcome, ann!"
            assert await ann.recv() == "[system] >>> ann joined the chat"
            before = memory(pid)
            words = guarded(sys.executable, "-c", CLIENTS, port, str(count))
            clients = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
            try:
                assert clients.stdout is not None
                assert await clients.stdout.readline() == b"inside\n"
                grown = memory(pid) - before
                assert await clients.stdout.readline() == b"asked\n"
                later = memory(pid) - before
                await ann.send("/who")
                assert await ann.recv() == "[system] here now: ann"
            finally:
                clients.kill()
                await clients.wait()
    each = f"{grown / count / 1024:.1f} KiB each, {later / count / 1024:.1f} after a heartbeat"
    record_property("idle connections", f"{count}: {each}")
    print(count, each)
    assert max(grown, later) / count < PROMISED / MAX_CONNECTIONS, each
