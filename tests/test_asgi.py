"""Applications served inside a running loop: how they start, stop, fail, and are replaced."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncGenerator, AsyncIterator

import aiohttp
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from websockets import ConnectionClosed, connect

from wslessons import asgi, lab, push
from wslessons.errors import UserError
from wslessons.lab import background
from wslessons.processes import free_port
from wslessons.serving import start_task


async def hello(request: Request) -> Response:
    """Answer."""
    return PlainTextResponse("hello")


def application() -> Starlette:
    """An application with one page."""
    return Starlette(routes=[Route("/", hello)])


async def get(url: str) -> str:
    """Return the page at `url`."""
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return await answer.text()


@pytest.fixture(autouse=True)
async def nothing_runs_afterwards() -> AsyncIterator[None]:
    """Stop what a test has started in the lab."""
    yield
    for server in lab.servers():
        await server.stop()


async def test_serves_and_stops():
    """It answers on a free port of this machine, and refuses connections once stopped, twice."""
    async with asyncio.timeout(20):
        server = await asgi.start(application())
        assert server.url.startswith("http://127.0.0.1:")
        assert server.ws_url == server.url.replace("http", "ws")
        assert await get(server.url) == "hello"
        await server.stop()
        await server.stop()
        with pytest.raises(aiohttp.ClientConnectorError):
            await get(server.url)


async def test_a_server_that_fails_is_known_and_accepts_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Its connections end, its port is free, and whoever runs it, and the log, get the reason."""
    broken = asyncio.Event()

    async def tick(self: object, counter: int) -> bool:
        if broken.is_set():
            raise RuntimeError("no such clock")
        return False

    monkeypatch.setattr("uvicorn.Server.on_tick", tick)
    async with asyncio.timeout(30):
        server = await asgi.start(application())
        assert server.running
        broken.set()
        with pytest.raises(UserError, match=r"has stopped, since it failed: no such clock\.$"):
            await server.serve_until(asyncio.Event())
        assert not server.running
        with pytest.raises(aiohttp.ClientConnectorError):
            await get(server.url)
        assert "no such clock" in caplog.text
        await server.stop()


async def test_a_task_in_the_background_that_fails_is_heard_of(caplog: pytest.LogCaptureFixture):
    """Its owner is called and the log has the error; a task that is cancelled is none."""
    failed: list[Exception] = []

    async def fail() -> None:
        raise RuntimeError("no such buffer")

    async with asyncio.timeout(50):
        tasks = [start_task(fail(), "sending", failed.append), start_task(fail(), "receiving")]
        tasks.append(start_task(asyncio.sleep(60), "sleeping", failed.append))
        tasks[-1].cancel()
        await asyncio.wait(tasks)
        await asyncio.sleep(0)
    assert [str(each) for each in failed] == ["no such buffer"]
    assert {"sending failed", "receiving failed"} == {each.message for each in caplog.records}


async def test_signals_stay_their_owners():
    """Serving takes over neither SIGINT nor SIGTERM."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    async with asyncio.timeout(20), asgi.serve(application()):
        assert [signal.getsignal(number) for number in numbers] == before


async def test_small_writes_are_not_held_back():
    """Accepted sockets have TCP_NODELAY, else an answer in two writes waits for a delayed ACK."""
    async with (
        asyncio.timeout(20),
        asgi.serve(application()) as server,
        aiohttp.ClientSession() as session,
        session.get(server.url) as answer,
    ):
        await answer.read()
        (connection,) = server.connections
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_stuck_response_does_not_hold_up_the_stop():
    """A handler that never answers is cancelled after the grace."""
    asked = asyncio.Event()

    async def stuck(request: Request) -> Response:
        asked.set()
        await asyncio.Event().wait()
        return Response()

    async with asyncio.timeout(20), aiohttp.ClientSession() as session:
        server = await asgi.start(Starlette(routes=[Route("/", stuck)]))
        asking = asyncio.create_task(session.get(server.url).__aenter__())
        await asked.wait()
        await server.stop()
        await asyncio.wait([asking])
        # uvicorn answers 500 for a cancelled handler, or the connection just ends.
        assert isinstance(asking.exception(), aiohttp.ClientError) or asking.result().status == 500


async def test_port_in_use_and_unknown_host_are_one_sentence():
    """What can't be bound is a UserError, and nothing is left behind."""
    async with asyncio.timeout(20), asgi.serve(application()) as first:
        with pytest.raises(UserError, match="is in use: choose another port"):
            await asgi.start(application(), port=int(first.url.rpartition(":")[2]))
        with pytest.raises(UserError, match="is not an address of this machine"):
            await asgi.start(application(), host="192.0.2.1")


async def test_application_that_fails_to_start_is_one_sentence():
    """A lifespan that raises is a UserError and not the end of the process."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        raise RuntimeError("no database")
        yield

    async with asyncio.timeout(20):
        with pytest.raises(UserError, match="failed to start; its error is in the log"):
            await asgi.start(Starlette(lifespan=lifespan))


async def test_ipv6():
    """It serves on IPv6's loopback, and the URL has brackets."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with asyncio.timeout(20), asgi.serve(application(), host="::1") as server:
        assert server.url.startswith("http://[::1]:")
        assert await get(server.url) == "hello"


async def test_serving_again_under_a_name_replaces_the_application():
    """The old one's WebSockets close with 1012, and the new one answers on the same port."""
    async with asyncio.timeout(20):
        port = free_port()
        first = await lab.serve_app("fleet", push.application(push.Fleet()), port=port)
        async with connect(f"{first.ws_url}/ws", proxy=None) as websocket:
            await websocket.recv()
            second = await lab.serve_app("fleet", push.application(push.Fleet()), port=port)
            with pytest.raises(ConnectionClosed) as closed:
                await websocket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        assert (first.running, second.running) == (False, True)
        assert lab.servers() == [second] == [background.find("fleet")]
        assert repr(second) == "<server 'fleet', running>"
        async with push.WebSocketTab(second.url) as tab:
            assert len(second.connections) == 1
            assert tab.version == 0
        await second.wait_idle()


async def test_fleet_drifts_while_it_is_served():
    """With a rate, an application's fleet changes by itself, and no longer when it is stopped."""
    async with asyncio.timeout(20):
        fleet = push.Fleet()
        async with (
            asgi.serve(push.application(fleet, rate=500, seed=1)) as server,
            push.WebSocketTab(server.url) as tab,
        ):
            await tab.reached(5)
            assert tab.missed == 0
