"""A crowd of strangers against each server: all of them end, little is held, others are served.

The tests of each room say what is right in detail. Here everything comes at once, against the
commands as they are started from a shell, and what counts is the server as a whole: its memory, its
descriptors, its log, and whether somebody who means well is served meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import struct
import sys
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import psutil
import pytest
import shell
from waits import until
from websockets import connect

from wslessons import processes
from wslessons.lab.commands import Command
from wslessons.testing.raw import KEY, UPGRADE, Raw, dial, frame

pytestmark = [
    pytest.mark.timeout(170),
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc"),
]

PATHS = {"echo": "/", "chat": "/", "web": "/ws", "push": "/ws"}
PUSH = """
import asyncio, sys
from wslessons import push
async def main():
    async with push.serve(push.Fleet()) as server:
        print(server.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


def upgrade(path: str, *, without: str = "", more: str = "", **changes: str) -> bytes:
    """Return a handshake that is right but for what is said."""
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", *UPGRADE.strip().split("\r\n")]
    lines = [changes.get(line.partition(":")[0].replace("-", "_"), line) for line in lines]
    kept = [line for line in lines if not (without and line.startswith(without))]
    return ("\r\n".join(kept) + "\r\n" + more + "\r\n").encode("latin-1")


def wrong_handshakes(path: str) -> dict[str, bytes]:
    """Return requests that open no WebSocket, each wrong in one way."""
    right = upgrade(path)
    return {
        "no host": upgrade(path, without="Host"),
        "no key": upgrade(path, without="Sec-WebSocket-Key"),
        "short key": upgrade(path, Sec_WebSocket_Key="Sec-WebSocket-Key: abc"),
        "no base64": upgrade(path, Sec_WebSocket_Key="Sec-WebSocket-Key: !!!!"),
        "two keys": upgrade(path, more=f"Sec-WebSocket-Key: {KEY}\r\n"),
        "no version": upgrade(path, without="Sec-WebSocket-Version"),
        "version 8": upgrade(path, Sec_WebSocket_Version="Sec-WebSocket-Version: 8"),
        "no upgrade": upgrade(path, without="Upgrade"),
        "no connection": upgrade(path, without="Connection"),
        "POST": right.replace(b"GET", b"POST", 1),
        "a body": upgrade(path, more="Content-Length: 5\r\n") + b"hello",
        "chunks": upgrade(path, more="Transfer-Encoding: chunked\r\n") + b"0\r\n\r\n",
        "a long header": upgrade(path, more=f"X: {'a' * 9000}\r\n"),
        "200 headers": upgrade(path, more="".join(f"X{n}: a\r\n" for n in range(200))),
        "a long path": upgrade(f"{path}?{'a' * 9000}"),
        "a path with bytes": upgrade("/\xff\xfe"),
        "a path with NUL": upgrade("/\0"),
        "a path with escapes": upgrade("/\x1b[31m"),
        "a path that breaks lines": upgrade("/nowhere/%0aforged"),
        "a folded header": upgrade(path, more="X: a\r\n  b\r\n"),
        "a blank before the colon": upgrade(path, more="X : a\r\n"),
        "a subprotocol that is none": upgrade(path, more="Sec-WebSocket-Protocol: a b;c\r\n"),
        "TLS": bytes.fromhex("16030100f6010000f20303") + os.urandom(200),
        "noise": os.urandom(4000),
        "no line end": b"A" * 100_000,
    }


TOLERATED = {"echo": {"a path that breaks lines"}}
"""What is let in: a path means nothing to the echo, and in this one the break is an escape."""


def close(code: int, reason: bytes = b"") -> bytes:
    """Return a close frame."""
    return frame(8, struct.pack("!H", code) + reason)


WRONG_FRAMES: dict[str, tuple[bytes, int]] = {
    "reserved bits": (b"\xf1\x80\0\0\0\0", 1002),
    "opcode 3": (frame(3, b"x"), 1002),
    "opcode 11": (frame(11), 1002),
    "unmasked": (b"\x81\x01x", 1002),
    "a ping of 126 bytes": (frame(9, b"a" * 126), 1002),
    "half a ping": (frame(9, b"a", fin=False), 1002),
    "half a close": (frame(8, b"\x03\xe8", fin=False), 1002),
    "a continuation of nothing": (frame(0, b"x"), 1002),
    "a message inside a message": (frame(1, b"a", fin=False) + frame(1, b"b"), 1002),
    "2**63 bytes": (b"\x82\xff" + struct.pack("!Q", 2**63) + bytes(4), 1009),
    "2**40 bytes": (b"\x81\xff" + struct.pack("!Q", 2**40) + bytes(4), 1009),
    "no UTF-8": (frame(1, b"\xff"), 1007),
    "a surrogate": (frame(1, b"\xed\xa0\x80"), 1007),
    "an overlong form": (frame(1, b"\xc0\xaf"), 1007),
    "half a letter": (frame(1, b"\xe2", fin=False) + frame(0, b"\x82"), 1007),
    "a close of one byte": (frame(8, b"\x03"), 1002),
    "close 999": (close(999), 1002),
    "close 1005": (close(1005), 1002),
    "close 1006": (close(1006), 1002),
    "close 1015": (close(1015), 1002),
    "close 5000": (close(5000), 1002),
    "close 65535": (close(65535), 1002),
    "a reason that is no UTF-8": (close(1000, b"\xff"), 1007),
    "a reason that forges a line": (close(4000, b"bye\n12:00 root \x1b[31m"), 4000),
}

FLOODS: dict[str, bytes] = {
    "pings": frame(9, b"p" * 125) * 1000,
    "pongs": frame(10, b"p" * 125) * 1000,
    "fragments": frame(1, b"x", fin=False) + frame(0, fin=False) * 20_000,
    "tiny messages": frame(1, b"a") * 20_000,
    "large messages": frame(1, b"a" * 8000) * 20,
    "headers": b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: aaaaaaaaaa\r\n" * 20_000,
    "one header": b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000,
    "requests": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 5000,
}
HTTP_FLOODS = ("headers", "one header", "requests")


@contextlib.asynccontextmanager
async def start(kind: str) -> AsyncGenerator[Command]:
    """Start a server as a process of its own."""
    if kind != "push":
        rate = () if kind == "echo" else ("--rate", "0")
        async with shell.serving(kind, "--port", "0", *rate) as server:
            yield server
        return
    words = processes.guarded(sys.executable, "-c", PUSH)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe, stderr=pipe)
    command = Command(process)
    try:
        command.url = await command.line()
        yield command
    finally:
        if process.returncode is None:
            process.kill()
        await command.wait()


class Target:
    """A server under attack."""

    def __init__(self, kind: str, command: Command) -> None:
        self.kind, self.command = kind, command
        self.url, self.path = command.url, PATHS[kind]
        self.pid = command.process.pid

    def descriptors(self) -> int:
        """How many files it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def memory(self, word: str = "VmRSS") -> float:
        """Its resident memory in MB, or the most that it ever was."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        (line,) = [line for line in status.splitlines() if line.startswith(word)]
        return int(line.split()[1]) / 1024

    async def serve_somebody(self) -> float:
        """Be a client that means well; return the seconds that it took to be served."""
        began = time.perf_counter()
        url = "ws" + self.url.partition("://")[0].removeprefix("http").removeprefix("ws")
        url += f"://{self.url.partition('://')[2]}{self.path}"
        async with connect(url, proxy=None) as client:
            if self.kind == "echo":
                await client.send("hello")
                assert await client.recv() == "Echo: hello"
            elif self.kind == "push":
                assert "snapshot" in str(await client.recv())
            else:
                await client.send("ann")
                assert await client.recv() == "Welcome, ann!"
        return time.perf_counter() - began

    async def enter(self, client: Raw) -> None:
        """Open a WebSocket, and say a name where one is asked for."""
        assert b" 101 " in await client.handshake(self.path)
        if self.kind in ("chat", "web"):
            client.send(frame(1, b"stranger"))
            while b"joined" not in (await client.frame())[1]:
                pass


async def handshake(target: Target, name: str, data: bytes) -> str:
    """Send a wrong handshake; return what it was answered, or that it was ended."""
    async with dial(target.url) as client:
        client.send(data)
        if name in ("no upgrade", "no connection") and target.kind in ("web", "push"):
            # An ordinary request, whose connection may be kept.
            head = await client.reader.readuntil(b"\r\n\r\n")
        else:
            head = await client.rest()
    line = head.partition(b"\r\n")[0].decode("latin-1")
    return line.removeprefix("HTTP/1.1 ")[:3] or "ended"


async def wrong_frame(target: Target, name: str, data: bytes, code: int) -> str:
    """Send a wrong frame; return what was wrong about the answer, or nothing."""
    async with dial(target.url) as client:
        await target.enter(client)
        client.send(data)
        found, _ = await client.closing()
        await client.rest()
    return "" if found == code else f"{name}: {found} in place of {code}"


async def waits(target: Target, data: bytes) -> float:
    """Send what is no whole request, and wait; return the seconds until the server ended it."""
    began = time.perf_counter()
    async with dial(target.url) as client:
        client.send(data)
        await client.rest()
    return time.perf_counter() - began


async def flood(target: Target, name: str, seconds: float) -> None:
    """Send as much as is taken for some seconds, and read nothing."""
    async with dial(target.url) as client:
        if name not in HTTP_FLOODS:
            await target.enter(client)
        client.stop_reading()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await client.flood(FLOODS[name])


async def attack(target: Target) -> list[float]:
    """Set all of them on one server; return the seconds in which others were served meanwhile."""
    # Whoever never finishes: these wait while all the rest goes on.
    half = f"GET {target.path} HTTP/1.1\r\nHost: localhost\r\n".encode()
    mute = [asyncio.create_task(waits(target, data)) for data in [b"", half, b"G"] * 20]

    handshakes = wrong_handshakes(target.path)
    answers = await asyncio.gather(*(handshake(target, *item) for item in handshakes.items()))
    let_in = {name for name, answer in zip(handshakes, answers, strict=True) if answer == "101"}
    assert let_in <= TOLERATED.get(target.kind, set())
    assert {answer[0] for answer in answers if answer != "101"} <= {"4", "e"}

    frames = WRONG_FRAMES.items()
    wrong = await asyncio.gather(*(wrong_frame(target, n, *item) for n, item in frames))
    assert [each for each in wrong if each] == []

    flooding = [asyncio.create_task(flood(target, name, 2.0)) for name in FLOODS]
    served = [await target.serve_somebody()]
    while not all(each.done() for each in flooding):
        # Not without a pause: that would be one more flood.
        await asyncio.sleep(0.05)
        served.append(await target.serve_somebody())
    await asyncio.gather(*flooding)

    assert max(await asyncio.gather(*mute)) < 60
    return served


async def crowd(kind: str, record_property: Callable[[str, object], None]) -> None:
    """Set all of them on a server of this kind, and see how it fares."""
    async with start(kind) as command:
        target = Target(kind, command)
        await target.serve_somebody()
        memory, descriptors = target.memory(), target.descriptors()

        served = await attack(target)
        await target.serve_somebody()
        await until(lambda: target.descriptors() <= descriptors + 2)
        grown, most = target.memory() - memory, target.memory("VmHWM") - memory
        code, errors = await command.end(signal.SIGTERM if kind != "push" else signal.SIGKILL)
    record_property(f"{kind}: memory", f"{memory:.0f} MB, {grown:+.0f} after, {most:+.0f} at most")
    record_property(f"{kind}: served meanwhile", f"{len(served)}, in {max(served):.1f} s at most")
    assert most < 60, f"{most:.0f} MB more at most"
    assert code in (0, -signal.SIGKILL)
    assert "Traceback" not in errors
    assert "ERROR" not in errors
    assert "\x1b" not in errors
    assert not [line for line in errors.splitlines() if line.startswith("12:00 root")]


def listening(pid: int) -> dict[int, str]:
    """The TCP ports on which a process and its descendants listen, and the addresses."""
    root = psutil.Process(pid)
    return {
        each.laddr.port: each.laddr.ip
        for process in [root, *root.children(recursive=True)]
        for each in process.net_connections("tcp")
        if each.status == psutil.CONN_LISTEN
    }


GREETINGS = (
    b"",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    bytes(range(256)) * 256,
    b'CONNECT {"verbose":false}\r\nSUB > 1\r\nPUB wslessons 2\r\nhi\r\nPING\r\n',
    b'CONNECT {"user":"x","pass":"y"}\r\nSUB > 1\r\nPING\r\n',
    b"SUB > 1\r\n" * 1000,
    b"INFO " + b"{" * 100_000 + b"\r\n",
)
"""What a stranger may say to a broker that wants a password."""


async def greet(port: int, data: bytes, attacked: asyncio.Event) -> bytes:
    """Say something to a broker; return what it answers until one of the two ends the connection.

    The port where it tells its health speaks HTTP, and never hangs up on whoever is silent.
    """
    async with dial(f"http://127.0.0.1:{port}") as client:
        client.send(data)
        answer = asyncio.create_task(client.rest())
        end = asyncio.create_task(attacked.wait())
        await asyncio.wait([answer, end], return_when=asyncio.FIRST_COMPLETED)
        end.cancel()
        client.writer.transport.abort()
        return await answer


async def cluster(record_property: Callable[[str, object], None]) -> None:
    """Set all of them on every port of a cluster: its servers, and what its broker listens on."""
    words = ("cluster", "--servers", "2", "--bus", "nats")
    async with shell.serving(*words) as command:
        first, second = (Target("chat", command) for _ in range(2))
        second.url = await command.line()
        ports = listening(command.process.pid)
        assert set(ports.values()) == {"127.0.0.1"}
        own = {int(each.url.rpartition(":")[2]) for each in (first, second)}
        assert own < set(ports)
        attacked = asyncio.Event()
        greetings = [
            asyncio.create_task(greet(port, data, attacked))
            for port in set(ports) - own
            for data in GREETINGS * 3
        ]
        one, other = await asyncio.gather(attack(first), attack(second))
        served = [*one, *other]
        attacked.set()
        answers = await asyncio.gather(*greetings)
        assert not [answer for answer in answers if b"MSG " in answer or b"+OK" in answer]
        async with (
            connect(first.url, proxy=None) as ann,
            connect(second.url, proxy=None) as bob,
        ):
            await ann.send("ann")
            await bob.send("bob")

            async def hears() -> None:
                while "[bob] still here?" not in str(await ann.recv()):
                    pass

            # At most once: what the floods have left on its way may still be in front of it.
            hearing = asyncio.create_task(hears())
            while not hearing.done():
                await bob.send("still here?")
                await asyncio.wait([hearing], timeout=0.5)
            await hearing
        code, errors = await command.end()
    record_property("cluster: served meanwhile", f"{len(served)}, in {max(served):.1f} s at most")
    assert code == 0
    assert "Traceback" not in errors
    assert "\x1b" not in errors


async def test_a_crowd_of_strangers(record_property: Callable[[str, object], None]):
    """All is answered or ended, memory and descriptors come back, and others are served."""
    # All servers at once, since each waits for the same ten seconds.
    async with asyncio.timeout(160), asyncio.TaskGroup() as tasks:
        for kind in PATHS:
            tasks.create_task(crowd(kind, record_property), name=kind)
        tasks.create_task(cluster(record_property), name="cluster")
