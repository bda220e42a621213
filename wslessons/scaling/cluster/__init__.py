"""Several chat servers as separate processes over one broker, to be used, watched and broken.

    async with Cluster(servers=3, bus="nats") as cluster:
        print(cluster.urls)
        await cluster.servers[0].kill()
        await cluster.servers[0].restart()

| `bus` | what carries the rooms |
|---|---|
| `memory` | nothing: each server keeps to itself, as without a bus |
| `nats`, `redis` | the broker that `wslessons.scaling.brokers` finds or starts |
| `kafka` | the same; where there is no Kafka it is **an emulator**, see `Cluster.broker` |
| `nats?stream=chat` | the same with options of the bus: here a JetStream stream |
| `nats://HOST:PORT` | a broker that runs already, see `wslessons.scaling.bus` |

The parts: `server` is one server as seen from here, `worker` what runs in its process, `command` is
``wslessons cluster``.

Neither broker nor servers outlive this process, however it ends.

Not handled here: servers on other machines, and sharing clients out among the servers.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from typing import Any, Self

from wslessons.errors import UserError, need
from wslessons.limits import HEARTBEAT
from wslessons.scaling import brokers
from wslessons.scaling.brokers import Broker
from wslessons.scaling.bus import from_url
from wslessons.scaling.bus.url import with_options
from wslessons.scaling.cluster.server import ClusterServer, Config, Stats
from wslessons.serving import explained_bind_errors

__all__ = ["Cluster", "ClusterServer", "Stats"]

LAST_PORT = 65535


class Cluster:
    """Chat servers in processes of their own, and their broker. An async context manager.

    Args:
        servers: how many.
        bus: see the module.
        nodes: servers of a broker that is started here; several of NATS are a cluster, of Redis a
            primary with replicas under Sentinels.
        own: start a broker even where the environment names one, since it is going to be killed.
        host: the address to bind.
        port: that of the first server, whose followers take the next ones; 0 for free ones.
        share_port: have all servers listen on one port, among which the kernel divides the
            connections: all cores behind one URL. (Linux, SO_REUSEPORT; others have it too, and
            give every connection to one server.)
        loop: the event loop of each server, "asyncio" or "uvloop".
        capacity: as for `wslessons.chat.ChatServer`.
        rate: the same.
        beat: seconds between the servers' signs of life; one that is killed counts as gone after
            three.
        max_connections: of each server, see `wslessons.limits`.
        max_per_address: the same.
        heartbeat: as for `wslessons.serving.serve`.
        secret: as for `wslessons.chat.ChatServer`; by default a new one, which all servers share.
        chat: other arguments of `wslessons.chat.ChatServer`.

    Raises:
        UserError: `port` is too high for so many, or a port can't be shared here.

    Attributes:
        servers: each a `ClusterServer`, with `url`, `pid`, `state`, `kill`, `stop`, `restart`.
        broker: the `wslessons.scaling.brokers.Broker`, whose nodes may be killed; None for
            `memory`, and where `bus` is a URL.
        bus_url: what the servers were given. A broker that is started here has a password, which is
            in it: other users of this machine can reach its port.
    """

    def __init__(
        self,
        servers: int = 3,
        bus: str = "nats",
        *,
        nodes: int = 1,
        own: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
        share_port: bool = False,
        loop: str = "asyncio",
        capacity: int = 256,
        rate: float = 0,
        beat: float = 2.0,
        max_connections: int | None = None,
        max_per_address: int = 0,
        heartbeat: tuple[float, float] = HEARTBEAT,
        secret: bytes | None = None,
        **chat: Any,
    ) -> None:
        if share_port and not hasattr(socket, "SO_REUSEPORT"):
            raise UserError(
                "this system can't share a port: leave share_port out, and put a proxy in front.",
                exit_code=2,
            )
        if loop == "uvloop":
            need("uvloop", "fast")
        if not share_port and port + servers - 1 > LAST_PORT:
            raise UserError(
                f"{servers} servers from port {port} on need more ports than there are: choose a"
                " lower port, or 0 for free ones.",
                exit_code=2,
            )
        self.bus = bus
        self.broker: Broker | None = None
        self.bus_url = ""
        self._nodes, self._own = nodes, own
        step = 0 if share_port else 1
        secret = secret or secrets.token_bytes(32)
        self._configs = [
            Config(
                bus="",
                host=host,
                port=port and port + each * step,
                beat=beat,
                secret=secret,
                chat={"capacity": capacity, "rate": rate, **chat},
                max_connections=max_connections,
                max_per_address=max_per_address,
                heartbeat=heartbeat,
                reuse_port=share_port,
            )
            for each in range(servers)
        ]
        self._shared: socket.socket | None = None
        """Keeps the shared port while no server has it; it is bound and does not listen."""
        self.servers = [
            ClusterServer(number, config, loop) for number, config in enumerate(self._configs, 1)
        ]

    @property
    def urls(self) -> list[str]:
        """Where the servers listen, ``ws://HOST:PORT`` each; one for all that share a port."""
        return list(dict.fromkeys(server.url for server in self.servers))

    async def stats(self, *, timeout: float = 5) -> list[Stats | None]:
        """Ask all servers for their numbers.

        Args:
            timeout: seconds for an answer.

        Returns:
            The numbers of each; None for one that is gone or does not answer.
        """

        async def ask(server: ClusterServer) -> Stats | None:
            try:
                return await server.stats(timeout=timeout)
            except UserError:
                return None

        return list(await asyncio.gather(*map(ask, self.servers)))

    async def start(self) -> None:
        """Start broker and servers; all servers accept when it returns.

        Raises:
            UserError: the bus can't be used, the broker can't be reached, a port is taken. Nothing
                is left running then.
        """
        try:
            self.bus_url = await self._find_bus()
            # Here, since all the servers would say the same.
            from_url(self.bus_url)
            for config in self._configs:
                config.bus = self.bus_url
            if self._configs and self._configs[0].reuse_port:
                self._share_port(self._configs[0].host, self._configs[0].port)
            starting = [asyncio.create_task(server.start()) for server in self.servers]
            try:
                await asyncio.gather(*starting)
            finally:
                for task in starting:
                    task.cancel()
                await asyncio.wait(starting)
        except BaseException:
            await self.stop()
            raise

    def _share_port(self, host: str, port: int) -> None:
        """Take the port for all servers: with 0 each would get one of its own."""
        with explained_bind_errors(host, port):
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self._shared = socket.socket(family)
            self._shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._shared.bind(address)
        for config in self._configs:
            config.port = self._shared.getsockname()[1]

    async def stop(self) -> None:
        """Stop the servers in good order, then the broker that was started here. Idempotent.

        Whoever is cancelled meanwhile leaves nothing behind either: what is still there is killed.
        """
        try:
            await asyncio.gather(*(server.stop() for server in self.servers))
        finally:
            if self._shared is not None:
                self._shared.close()
            if self.broker is not None:
                await self.broker.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    async def _find_bus(self) -> str:
        if self.bus in ("memory", "memory:", "memory://"):
            return "memory:"
        kind, _, options = self.bus.partition("?")
        if kind not in brokers.KINDS:
            return self.bus
        self.broker = await brokers.start(
            kind, self._nodes, own=self._own, password=secrets.token_urlsafe()
        )
        return with_options(self.broker.url, options)
