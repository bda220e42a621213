"""Brokers behind TLS, with a certificate authority that lives as long as the test; and a token.

NATS speaks TLS itself. The packaged Valkey and our Kafka do not, so a real TLS server
stands in front of them, as stunnel would.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import trustme

from wslessons.errors import UserError
from wslessons.scaling import brokers
from wslessons.scaling.brokers import Broker
from wslessons.scaling.brokers.nats import NatsServer, quoted
from wslessons.scaling.bus import Event, from_url

CA = trustme.CA()
CERTIFICATE = CA.issue_cert("127.0.0.1", "localhost")


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    """The authority's certificate, as a file."""
    file = tmp_path / "ca.pem"
    CA.cert_pem.write_to_path(str(file))
    return file


@contextlib.asynccontextmanager
async def before(
    port: int, *, tls: bool, hide: tuple[bytes, bytes] = (b"", b"")
) -> AsyncGenerator[int]:
    """Stand in front of a broker's port, and say so in what the broker says of itself.

    With TLS, or with the second of `hide` for its first, in the first answer on each connection.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if tls else None
    if context is not None:
        CERTIFICATE.configure_cert(context)
    tasks: set[asyncio.Task[None]] = set()

    async def pump(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, old: bytes, new: bytes
    ) -> None:
        hidden, instead = hide
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                data = data.replace(old, new).replace(hidden, instead)
                writer.write(data)
                await writer.drain()
                hidden = instead = b""
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        # Kafka tells its clients where to connect.
        here, there = (b"127.0.0.1" + struct.pack(">i", each) for each in (port, outer))
        for pair in ((reader, inner_writer, b"\0", b"\0"), (inner_reader, writer, here, there)):
            tasks.add(asyncio.create_task(pump(*pair)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    outer = server.sockets[0].getsockname()[1]
    try:
        yield outer
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def works(url: str) -> None:
    """Publish from one server to another."""
    async with from_url(url) as one, from_url(url) as two:
        reader = two.subscribe()
        one.publish(Event("/", "hello"))
        async for item in reader:
            if isinstance(item, Event):
                assert item.data == "hello"
                break
        await one.flush()


async def is_not_trusted(url: str, ca: Path) -> None:
    """Without the authority's certificate there is no connection, and a sentence says why."""
    with pytest.raises(UserError, match=r"(?i)can't reach .* certificate|verif"):
        await from_url(url.replace(f"ca={ca}", "").rstrip("?&")).start_up()


@contextlib.asynccontextmanager
async def nats_server(*settings: str) -> AsyncGenerator[str]:
    """Run a NATS server with such a configuration; give its address."""
    server = NatsServer(brokers.find_program("nats"), "own", settings=settings)
    try:
        await asyncio.to_thread(server.start)
        yield server.address
    finally:
        await asyncio.to_thread(server.close)


@pytest.mark.parametrize("options", ["", "&stream=chat"])
async def test_nats_over_tls_with_a_token(options: str, ca: Path, tmp_path: Path):
    """The server speaks TLS itself, and a user without a password is a token."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    CERTIFICATE.private_key_pem.write_to_path(str(key))
    CERTIFICATE.cert_chain_pems[0].write_to_path(str(certificate))
    files = f"cert_file: {quoted(str(certificate))}, key_file: {quoted(str(key))}"
    token = "t0ken/with:all@kinds#of?things%"
    settings = (f"tls: {{ {files} }}", f"authorization: {{ token: {quoted(token)} }}")
    async with asyncio.timeout(40), nats_server(*settings) as address:
        escaped = "t0ken%2Fwith%3Aall%40kinds%23of%3Fthings%25"
        url = f"tls://{escaped}@{address}?ca={ca}{options}"
        await works(url)
        await is_not_trusted(url, ca)
        with pytest.raises(UserError, match="does not accept") as info:
            await from_url(url.replace("t0ken", "wr0ng")).start_up()
        assert "wr0ng" not in str(info.value)


@pytest.mark.parametrize("options", ["", "&stream=chat"])
async def test_redis_over_tls(options: str, ca: Path):
    """Certificate and password are both checked."""
    async with asyncio.timeout(40), brokers.run("redis", own=True, password="a b/c") as own:
        port = int(own.url.rpartition(":")[2])
        async with before(port, tls=True) as outer:
            url = f"rediss://:a%20b%2Fc@127.0.0.1:{outer}/0?ca={ca}{options}"
            await works(url)
            await is_not_trusted(url, ca)
            with pytest.raises(UserError, match="does not accept"):
                await from_url(url.replace("a%20b", "wr0ng")).start_up()


async def test_kafka_over_tls(ca: Path, kafka_broker: Broker):
    """It is behind TLS; producer and consumer both come through that."""
    async with asyncio.timeout(50):
        port = int(kafka_broker.url.partition("?")[0].rpartition(":")[2])
        async with before(port, tls=True) as outer:
            url = f"kafka+ssl://127.0.0.1:{outer}?topic=tls"
            await works(f"{url}&ca={ca}")
            with pytest.raises(UserError, match="can't reach Kafka"):
                await from_url(url).start_up()
