"""What goes deeper into lesson 8: descriptors that run out, the price of TLS, events through nginx.

The servers whose limits or memory matter are processes of their own, so that both are theirs alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
import tempfile
import time
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from websockets import connect

from wslessons import asgi
from wslessons.errors import extra
from wslessons.guard import nginx
from wslessons.lab import commands
from wslessons.processes import memory
from wslessons.testing.raw import Raw, dial, handshake

with extra("lab"):
    import psutil
    import trustme
    from starlette.responses import StreamingResponse

__all__ = [
    "Crowd",
    "Price",
    "certificate",
    "crowd",
    "first_event",
    "price",
    "stalled",
    "stream_lasts",
]

TIMEOUT = 40.0
"""Seconds that an experiment may take."""
DESCRIPTORS = 128
"""Files that a server may have open in `crowd`."""
ANSWER = 2.0
"""Seconds that a client waits for an answer that will not come."""
QUIET = 4.0
"""Seconds after which what has not come through nginx is held back."""
LOTS = 64_000_000
"""Bytes of an event stream, more than all the sockets on its way hold."""

LIMIT = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[1])))
"""
BARE = """
import asyncio, sys
from websockets import serve

async def main():
    async with serve(lambda connection: connection.wait_closed(), "127.0.0.1", 0) as server:
        print("ws://127.0.0.1:%d" % server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main())
"""
COMMAND = """
from wslessons.cli import main
sys.exit(main(["echo", "--port", "0"]))
"""
IDLE = """
import asyncio, ssl, sys
from wslessons import serving

async def main():
    options = {}
    if len(sys.argv) > 1:
        options["ssl"] = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        options["ssl"].load_cert_chain(sys.argv[1])
    async with serving.serve(lambda connection: connection.wait_closed(), **options) as server:
        print("ws://127.0.0.1:%d" % server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main())
"""


@dataclass(frozen=True)
class Crowd:
    """What became of more clients than a server may have files open.

    Attributes:
        served: those who got in.
        refused: those who were told so, by the HTTP status 503 or by an end at once.
        silent: those who were told nothing in time.
        lines: lines in the server's log meanwhile.
    """

    served: int
    refused: int
    silent: int
    lines: int

    def __str__(self) -> str:
        return (
            f"~{self.served} got in, ~{self.refused} were refused, ~{self.silent} heard nothing;"
            f" ~{self.lines} lines of log"
        )


async def crowd(*, guard: bool, clients: int = 160) -> Crowd:
    """Connect more clients to a server than it may have files open, which is 128.

    Args:
        guard: the command `wslessons echo`, which has bounds; else the library's server alone.
        clients: how many.

    Returns:
        What became of them.
    """
    source = LIMIT + (COMMAND if guard else BARE)
    async with (
        asyncio.timeout(TIMEOUT),
        commands.python("-c", source, str(DESCRIPTORS)) as server,
    ):
        async with contextlib.AsyncExitStack() as stack:

            async def answer() -> str:
                client = await stack.enter_async_context(dial(server.url))
                return await _status(client, TIMEOUT if guard else ANSWER)

            answers = await asyncio.gather(*(answer() for _ in range(clients)))
        # It goes on, once they have gone.
        while await _newcomer(server.url) != "101":
            pass
        lines = server.errors.rest().count("\n")
    counted = [answers.count(status) for status in ("101", "503", "")]
    return Crowd(*counted, lines)


async def _status(client: Raw, timeout: float) -> str:
    """Ask for a WebSocket; return the HTTP status, or nothing where no answer came in time."""
    client.send(handshake())
    line = b""
    try:
        async with asyncio.timeout(timeout):
            line = await client.reader.readline()
    except TimeoutError:
        return ""
    except OSError:
        pass  # cut off, as by an end without an answer
    return line.decode("latin-1").split()[1] if line else "503"


async def _newcomer(url: str) -> str:
    async with dial(url) as client:
        return await _status(client, ANSWER)


@dataclass(frozen=True)
class Price:
    """What connections cost a server.

    Attributes:
        memory: KiB of its memory for each that is open.
        cpu: milliseconds of its processor for each that opens.
    """

    memory: float
    cpu: float


@contextlib.contextmanager
def certificate() -> Generator[tuple[Path, ssl.SSLContext]]:
    """Make a certificate for 127.0.0.1, by an authority to throw away.

    Yields:
        A file in PEM, with the key and the chain, which is gone after the block; and a client's
        context that trusts the authority.
    """
    authority, trusting = trustme.CA(), ssl.create_default_context()
    authority.configure_trust(trusting)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "chain.pem")
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(file))
        yield file, trusting


async def price(*, tls: bool, count: int = 120) -> Price:
    """Open connections, which stay idle, to a server of ours, and look at its process.

    Args:
        tls: over TLS, with a certificate that is made for it.
        count: how many.

    Returns:
        The price of one.
    """
    options: dict[str, Any] = {"proxy": None, "compression": None, "ping_interval": None}
    words: list[str] = []
    async with asyncio.timeout(TIMEOUT), contextlib.AsyncExitStack() as stack:
        if tls:
            file, options["ssl"] = stack.enter_context(certificate())
            words.append(str(file))
        idle = await stack.enter_async_context(commands.python("-c", IDLE, *words))
        url = idle.url.replace("ws:", "wss:") if tls else idle.url
        # The first ones pay for what all share.
        for _ in range(10):
            await stack.enter_async_context(connect(url, **options))
        server = psutil.Process(idle.process.pid)
        before, began = memory(server.pid), sum(server.cpu_times()[:2])
        for _ in range(count):
            await stack.enter_async_context(connect(url, **options))
        cost = Price(
            (memory(server.pid) - before) / 1024 / count,
            (sum(server.cpu_times()[:2]) - began) * 1000 / count,
        )
    gc.collect()
    return cost


@contextlib.asynccontextmanager
async def _streamed(events: AsyncGenerator[bytes], settings: nginx.Settings) -> AsyncGenerator[Raw]:
    """Send events to a reader, through nginx; give the reader, as a browser asks."""
    app = StreamingResponse(events, media_type="text/event-stream")
    async with (
        asyncio.timeout(TIMEOUT),
        asgi.serve(app, lifespan="off") as server,
        nginx.serve([server.url], settings=settings) as proxy,
        dial(proxy.url) as client,
    ):
        client.send(f"GET / HTTP/1.1\r\nHost: {proxy.address}\r\nAccept-Encoding: gzip\r\n\r\n")
        yield client


async def first_event(buffering: str = "on", *, gzip: bool = False) -> str:
    """Send a single event through nginx, nothing more for now, and tell when it arrives.

    Args:
        buffering: nginx's `proxy_buffering`, on or off.
        gzip: whether nginx compresses events, too.

    Returns:
        When: "at once", or "when the stream ends".
    """
    end = asyncio.Event()

    async def events() -> AsyncGenerator[bytes]:
        yield b"data: 1\n\n"
        await end.wait()

    if gzip:
        buffering += "; gzip on; gzip_types text/event-stream"
    async with _streamed(events(), {"proxy_buffering": buffering}) as client:

        async def arrives() -> None:
            await client.reader.readuntil(b"\r\n\r\n")
            await client.reader.readexactly(1)

        arriving = asyncio.create_task(arrives())
        in_time, _ = await asyncio.wait([arriving], timeout=QUIET)
        end.set()
        await arriving
        return "at once" if in_time else "when the stream ends"


async def stalled(buffering: str) -> str:
    """Send 64 MB of events through nginx to a reader that takes none of them.

    Args:
        buffering: nginx's `proxy_buffering`, on or off.

    Returns:
        How much of it the server got rid of.
    """
    sent = 0

    async def events() -> AsyncGenerator[bytes]:
        nonlocal sent
        while sent < LOTS:
            yield b": " + b"x" * 63_996 + b"\n\n"
            sent += 64_000

    async with _streamed(events(), {"proxy_buffering": buffering}) as client:
        client.stop_reading()
        before, since = 0, time.monotonic()
        while sent < LOTS and time.monotonic() - since < QUIET:
            await asyncio.sleep(0.05)
            if before < sent:
                before, since = sent, time.monotonic()
        return f"{'all 64' if sent >= LOTS else f'~{sent / 1e6:.0f} of 64'} MB were taken"


async def stream_lasts(comment: float = TIMEOUT, count: int = 30) -> str:
    """Keep a stream without events open, through an nginx that waits for two seconds.

    Args:
        comment: seconds between lines that say nothing.
        count: of these lines, after which to look no longer.

    Returns:
        When it was cut off, or that it was not.
    """

    async def events() -> AsyncGenerator[bytes]:
        yield b": here it begins\n\n"
        while True:
            await asyncio.sleep(comment)
            yield b":\n\n"

    async with _streamed(events(), {"proxy_read_timeout": "2s"}) as client:
        began = time.monotonic()
        try:
            for _ in range(count):
                await client.reader.readuntil(b"\n:\n\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return f"cut off after ~{time.monotonic() - began:.1f} s"
        return f"still there after {count} comments"
