"""All that can be broken: a broker, servers in processes of their own, and links between them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Literal, Self
from urllib.parse import parse_qsl, urlsplit

from wslessons.chaos.checker import Usage
from wslessons.chaos.schedule import KINDS, Step
from wslessons.errors import UserError
from wslessons.link import Link
from wslessons.processes import memory
from wslessons.scaling import brokers
from wslessons.scaling.brokers import kafka
from wslessons.scaling.bus.url import with_options
from wslessons.scaling.cluster import ClusterServer
from wslessons.scaling.cluster.server import Config, Stats

__all__ = ["World"]

Order = Literal["empty", "fill", "free", "refuse", "accept"]
"""What a broker is told."""
BEAT = 0.5
"""Seconds between the servers' signs of life."""
HEARTBEAT = (2.0, 2.0)
"""Seconds between a server's pings, and of silence after one until a client is dropped."""
TRIES = 60
"""How often something is tried, each half a second after the one before, until it is mended."""
ATTEMPTS = 3
"""How often a node of the broker is started."""
LINKS = 2
"""Links of people to each server."""
DATA = ("jetstream", "appendonlydir")
"""Where NATS and Valkey have what they keep."""
RATE = 60
"""Messages per second from one connection."""
LONGEST = 1000
"""Bytes of an entry, its headers included, that a broker takes which refuses longer ones."""


class World:
    """A broker, servers and links. An async context manager.

    Args:
        bus: as for `wslessons.scaling.cluster.Cluster`: ``nats?stream=chat`` and the like.
        nodes: of the broker.
        servers: how many.

    Raises:
        UserError: `bus` is no broker that can be started here and broken.
    """

    def __init__(self, bus: str, nodes: int, servers: int) -> None:
        self.kind, _, self._options = bus.partition("?")
        if self.kind not in brokers.KINDS:
            raise UserError(
                f"chaos can't break {bus!r}: give nats or redis, with ?stream=NAME for a log; "
                "or kafka.",
                exit_code=2,
            )
        if nodes > 1 and self.kind == "redis":
            raise UserError("chaos has one node of redis: leave --nodes out.", exit_code=2)
        if self.kind == "kafka" and kafka.find() is None:
            raise UserError(
                "chaos needs a real Kafka, as the emulator forgets all when it is killed: "
                "`python -m wslessons.scaling.brokers` gets one.",
                exit_code=2,
            )
        self.has_log = self.kind == "kafka" or "stream=" in self._options
        self._stream = dict(parse_qsl(self._options)).get("stream", "")
        self.links: list[Link] = []
        """The links of people, `LINKS` for each server."""
        self.bus_links: list[Link] = []
        """One between each server and the broker, where that is one process."""
        self.servers: list[ClusterServer] = []
        self.before: dict[str, Usage] = {}
        """What each server had before anybody came."""
        self._nodes, self._count = nodes, servers
        self._down: Counter[int] = Counter()
        self._frozen: Counter[int] = Counter()
        self._starting = asyncio.Lock()
        self._ports: list[int] = []
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with self._stack:
            broker = await self._stack.enter_async_context(
                brokers.run(self.kind, self._nodes, own=True)
            )
            self.broker = broker
            secret = secrets.token_bytes(32)
            for number in range(1, self._count + 1):
                url = broker.url
                # Kafka's clients connect where it tells them, past any link.
                if self._nodes == 1 and self.kind != "kafka":
                    parts = urlsplit(url)
                    link = await self._stack.enter_async_context(_link(parts.netloc))
                    self.bus_links.append(link)
                    url = url.replace(parts.netloc, f"127.0.0.1:{link.port}")
                config = Config(
                    bus=with_options(url, self._options),
                    host="127.0.0.1",
                    port=0,
                    beat=BEAT,
                    # So little is kept that whoever reads slowly is told of gaps, and whoever
                    # floods is too fast: some of that waits, and some is refused.
                    chat={"rate": RATE, "debt": 2 * RATE, "capacity": 64},
                    secret=secret,
                    max_connections=None,
                    max_per_address=0,
                    heartbeat=HEARTBEAT,
                    send_buffer=2**14,
                    # Whoever starts again has the name of the one who died.
                    node=f"server-{number}",
                )
                self.servers.append(ClusterServer(number, config))
            self._stack.push_async_callback(self._stop_servers)
            await asyncio.gather(*(server.start() for server in self.servers))
            for server in self.servers:
                for _ in range(LINKS):
                    link = await self._stack.enter_async_context(_link(server.url))
                    self.links.append(link)
                    self._ports.append(link.target[1])
            self.before = await self.usage()
            self._stack = self._stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    async def _stop_servers(self) -> None:
        await asyncio.gather(*(server.stop() for server in self.servers))

    @property
    def kinds(self) -> list[str]:
        """The faults that can happen in this world."""
        left_out = set() if self.bus_links else {"bus link"}
        if not self.has_log or self.kind == "kafka":
            # Without a log there is nothing to empty. (Kafka's is not emptied or filled here.)
            left_out.add("broker")
        kinds = [kind for kind, about in KINDS.items() if about.target not in left_out]
        if self.kind != "nats":
            kinds = [kind for kind in kinds if kind != "refuse entries"]
        return kinds if self.has_log else [kind for kind in kinds if kind != "move link"]

    # How it is.

    async def stats(self) -> list[Stats | None]:
        """Return the servers' numbers; None for one that does not answer."""

        async def ask(server: ClusterServer) -> Stats | None:
            try:
                return await server.stats(timeout=3)
            except UserError:
                return None

        return list(await asyncio.gather(*map(ask, self.servers)))

    async def is_well(self) -> bool:
        """Whether all servers answer, and are connected to their broker."""
        return all(each is not None and each.bus == "connected" for each in await self.stats())

    async def usage(self) -> dict[str, Usage]:
        """Return what the servers hold now, those that answer."""
        return {
            f"server {server.number}": Usage(stats.tasks, _descriptors(pid), memory(pid))
            for server, stats in zip(self.servers, await self.stats(), strict=True)
            # One that has answered may be killed before all have. (No process would be ours.)
            if stats is not None and (pid := server.pid) is not None
        }

    # What goes wrong.

    async def suffer(self, step: Step) -> None:
        """Let a fault happen, and undo it when its time is over; for those that are no crowd's.

        Args:
            step: what happens, to which one and for how long.
        """
        if fault := self._faults().get(step.kind):
            happening = fault(step)
        else:
            happening = _fault(
                self._bus_link(step) if "bus" in step.kind else self.link(step), step
            )
        async with happening:
            await asyncio.sleep(step.seconds)

    def heal(self) -> None:
        """Undo all faults of links."""
        for link in self.links + self.bus_links:
            link.heal()

    def _faults(self) -> dict[str, Callable[[Step], contextlib.AbstractAsyncContextManager[None]]]:
        return {
            "kill server": lambda step: self._server_down(step, ClusterServer.kill),
            "stop server": lambda step: self._server_down(step, ClusterServer.stop),
            "freeze server": lambda step: self._freeze(self._server(step)),
            "block loop": self._hold_up,
            "kill broker": self._broker_down,
            "freeze broker": lambda step: self._freeze(self._node(step)),
            "empty broker": lambda step: self._told("empty"),
            "fill broker": lambda step: self._told("fill", "free"),
            "restore broker": self._restore,
            "refuse entries": lambda step: self._told("refuse", "accept"),
            "move link": self._move,
        }

    def link(self, step: Step) -> Link:
        """Return the link of people that a step is about.

        Args:
            step: drawn from the schedule.

        Returns:
            One of `links`.
        """
        return self.links[int(step.which * len(self.links))]

    def _bus_link(self, step: Step) -> Link:
        return self.bus_links[int(step.which * len(self.bus_links))]

    def _server(self, step: Step) -> ClusterServer:
        return self.servers[int(step.which * len(self.servers))]

    def _node(self, step: Step) -> brokers.Node:
        return self.broker.nodes[int(step.which * len(self.broker.nodes))]

    @contextlib.asynccontextmanager
    async def _server_down(
        self, step: Step, end: Callable[[ClusterServer], Awaitable[None]]
    ) -> AsyncGenerator[None]:
        server = self._server(step)
        self._down[server.number] += 1
        await end(server)
        yield
        self._down[server.number] -= 1
        if not self._down[server.number]:
            # Without its broker, or while something else is wrong, it can't start: try again.
            for _ in range(TRIES):
                with contextlib.suppress(UserError):
                    await server.start()
                    return
                await asyncio.sleep(0.5)

    @contextlib.asynccontextmanager
    async def _broker_down(self, step: Step) -> AsyncGenerator[None]:
        # What starts is not killed before it has: the one who starts it would call that an error.
        async with self._starting:
            await self._end([self._node(step)])
        yield
        async with self._starting:
            await self._start([self._node(step)])

    async def _end(self, nodes: list[brokers.Node]) -> None:
        for node in nodes:
            self._down[self._key(node)] += 1
            await node.kill()

    async def _start(self, nodes: list[brokers.Node]) -> None:
        """Start nodes that nothing else holds down; together, as those of a cluster wait."""
        for node in nodes:
            self._down[self._key(node)] -= 1
        ready = [node for node in nodes if not self._down[self._key(node)]]
        await asyncio.gather(*map(_restart, ready))

    def _key(self, node: brokers.Node) -> int:
        """Return where a node's count is, beside those of the servers."""
        return -1 - self.broker.nodes.index(node)

    @contextlib.asynccontextmanager
    async def _restore(self, step: Step) -> AsyncGenerator[None]:
        """Put a copy of all data back, so that the log lacks what has been written since."""
        nodes = self.broker.nodes
        async with self._starting:
            await self._end(nodes)
            for node in nodes:
                await asyncio.to_thread(_copy_data, node.home, node.home / "copy")
            await self._start(nodes)
        yield
        async with self._starting:
            await self._end(nodes)
            for node in nodes:
                await asyncio.to_thread(_copy_data, node.home / "copy", node.home)
            await self._start(nodes)

    @contextlib.asynccontextmanager
    async def _freeze(self, victim: ClusterServer | brokers.Node) -> AsyncGenerator[None]:
        pid = victim.pid
        if pid is None:
            yield
            return
        self._frozen[pid] += 1
        _send(pid, signal.SIGSTOP)
        yield
        self._frozen[pid] -= 1
        if not self._frozen[pid]:
            _send(pid, signal.SIGCONT)

    @contextlib.asynccontextmanager
    async def _hold_up(self, step: Step) -> AsyncGenerator[None]:
        self._server(step).hold_up(step.seconds)
        yield

    @contextlib.asynccontextmanager
    async def _told(self, first: Order, then: Order | None = None) -> AsyncGenerator[None]:
        """Tell the broker to do something, if it can be reached in time, and then to undo it."""
        await self._tell_broker(first)
        yield
        tries = TRIES
        # It may be away itself now.
        while then is not None and tries and not await self._tell_broker(then):
            await asyncio.sleep(0.5)
            tries -= 1

    async def _tell_broker(self, what: Order) -> bool:
        """Do something at the broker, past all links; return whether it was done in time."""
        urls = [node.url for node in self.broker.nodes]
        try:
            async with asyncio.timeout(5):
                if self.kind == "nats":
                    await _tell_nats(urls, self._stream, what)
                else:
                    await _tell_redis(urls[0], what)
        except Exception:
            # It is down, or frozen, or has been emptied.
            return False
        return True

    @contextlib.asynccontextmanager
    async def _move(self, step: Step) -> AsyncGenerator[None]:
        """Lead a link to another server, as a load balancer does."""
        link = self.link(step)
        link.target = (link.target[0], self._ports[int(step.strength * len(self._ports))])
        link.cut().undo()
        yield


async def _restart(node: brokers.Node) -> None:
    """Start a node again; on a machine that is busy not every attempt is in time."""
    for _ in range(ATTEMPTS - 1):
        with contextlib.suppress(UserError):
            return await node.restart()
        await node.kill()
    await node.restart()


def _copy_data(source: Path, target: Path) -> None:
    """Make what a node keeps in one folder what it keeps in another."""
    for name in DATA:
        shutil.rmtree(target / name, ignore_errors=True)
        if (source / name).exists():
            shutil.copytree(source / name, target / name)


def _link(target: str) -> Link:
    # Nobody looks into it.
    return Link(target, keep=1, keep_bytes=1, keep_connections=0)


@contextlib.asynccontextmanager
async def _fault(link: Link, step: Step) -> AsyncGenerator[None]:
    way = ("up", "down", "both")[int(step.strength * 3)]
    match step.kind.replace(" bus", "").replace(" link", ""):
        case "stall":
            fault = link.stall(way)
        case "cut":
            fault = link.cut()
        case "close half of":
            fault = link.close_half("up" if step.strength < 0.5 else "down")
        case "delay":
            fault = link.delay(0.02 + step.strength * 0.5, 0.01 + step.strength * 0.3, way)
        case "throttle":
            fault = link.throttle(2000 + step.strength * 30_000, way)
        case _:
            fault = link.drop_after(int(step.strength * 20_000), way)
    yield
    fault.undo()


async def _tell_nats(urls: list[str], stream: str, what: str) -> None:
    import nats
    from nats.js.api import DiscardPolicy
    from nats.js.errors import NotFoundError

    async def ignore(exc: Exception) -> None:
        """Log nothing: a broker that is away is what this is about."""

    client = await nats.connect(urls, allow_reconnect=False, error_cb=ignore)
    try:
        jetstream = client.jetstream()
        if what == "empty":
            await jetstream.delete_stream(stream)
            return
        try:
            info = await jetstream.stream_info(stream)
        except NotFoundError:
            return
        if what in ("refuse", "accept"):
            longest = LONGEST if what == "refuse" else -1
            await jetstream.update_stream(info.config.evolve(max_msg_size=longest))
            return
        size, policy = max(1, info.state.bytes), DiscardPolicy.NEW
        if what == "free":
            size, policy = 2**28, DiscardPolicy.OLD
        await jetstream.update_stream(info.config.evolve(max_bytes=size, discard=policy))
    finally:
        await client.close()


async def _tell_redis(url: str, what: str) -> None:
    from redis.asyncio import Redis

    async with Redis.from_url(url) as redis:
        if what == "empty":
            await redis.flushall()
        else:
            await redis.config_set("maxmemory", 1 if what == "fill" else 0)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _descriptors(pid: int) -> int:
    """Return how many descriptors a process has open; 0 where the system doesn't say."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0
