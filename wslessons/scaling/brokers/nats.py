"""Real NATS servers for lessons and tests, one or a cluster, with JetStream."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import urllib.request
from pathlib import Path

from wslessons.errors import UserError
from wslessons.scaling.brokers.process import Process, Stopped

__all__ = ["USER", "NatsServer", "start"]

USER = "wslessons"
# Nobody listens there. A server that is to be in a cluster needs routes to start with, and the real
# ones are known only when all have chosen their ports.
NOWHERE = ["nats://127.0.0.1:1", "nats://127.0.0.1:2"]
MEETING = 5.0
"""Seconds for a server to meet the others of its cluster."""

# Whatever proxy the system may have has no business on loopback.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class NatsServer:
    """One NATS server. Its ports are its own choice, and it keeps them when it is restarted."""

    def __init__(self, binary: str, name: str, password: str) -> None:
        self._binary, self._name, self._password = binary, name, password
        self.process = Process(f"nats-{name}")
        self._client_port = self._route_port = self._monitor_port = -1
        self.routes: list[str] = []

    @property
    def address(self) -> str:
        """Where clients connect, ``HOST:PORT``."""
        return f"127.0.0.1:{self._client_port}"

    @property
    def route(self) -> str:
        """Where the other servers of its cluster connect."""
        return f"nats://127.0.0.1:{self._route_port}"

    def start(self) -> None:
        """Start the server, again on the same ports and data if it ran before."""
        home = self.process.home
        for file in home.glob("*.ports"):
            file.unlink()
        config = self._write()
        self.process.start(self._binary, "--config", str(config), "--log", str(self.process.log))
        try:
            ports = self.process.wait_for(self._ports)
        except Stopped as exc:
            raise UserError(f"nats-server did not start: {exc}.") from None
        self._client_port = _port(ports["nats"])
        if self.routes:
            self._route_port = _port(ports["cluster"])
            self._monitor_port = _port(ports["monitoring"])
            if self.routes != NOWHERE:
                self.wait_for_routes()

    def wait_for_routes(self) -> None:
        """Wait until it knows the others of its cluster; those that are down hold it up a little.

        Before that, a message published here does not reach those who listen there.
        """
        deadline = time.monotonic() + MEETING

        def met() -> bool | None:
            with contextlib.suppress(OSError, ValueError):
                url = f"http://127.0.0.1:{self._monitor_port}/routez"
                with _direct.open(url, timeout=1) as answer:
                    routes = json.load(answer)["routes"]
                if len({route["remote_id"] for route in routes}) == len(self.routes):
                    return True
            return True if time.monotonic() > deadline else None

        self.process.wait_for(met)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.kill()

    def reroute(self, routes: list[str]) -> None:
        """Tell a running server where the others of its cluster are."""
        self.routes = routes
        if sys.platform == "win32":
            # There the server can't be told to read its file again.
            self.kill()
            self.start()
            return
        self._write()
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGHUP)

    def _write(self) -> Path:
        home = self.process.home
        lines = [
            f"server_name: {self._name}",
            f'listen: "{self.address}"',
            f"ports_file_dir: {json.dumps(str(home))}",
            f"jetstream: {{ store_dir: {json.dumps(str(home / 'jetstream'))} }}",
        ]
        if self._password:
            lines.append(
                f"authorization: {{ user: {USER}, password: {json.dumps(self._password)} }}"
            )
        if self.routes:
            # The routes of a cluster on this machine alone need no secret.
            lines.append(
                # One route to each, not a pool, of which a part may not be there yet.
                "cluster: { name: wslessons, pool_size: -1, "
                f'listen: "127.0.0.1:{self._route_port}", '
                f"routes: {json.dumps(self.routes)} }}"
            )
            # Chosen anew each time, as a reload may not change it.
            lines.append('http: "127.0.0.1:-1"')
        config = home / "nats.conf"
        config.write_text("\n".join(lines) + "\n")
        return config

    def _ports(self) -> dict[str, list[str]] | None:
        for file in self.process.home.glob("*.ports"):
            try:
                return json.loads(file.read_text())
            except ValueError:  # half written
                return None
        return None


def start(binary: str, nodes: int, password: str) -> list[NatsServer]:
    """Start that many servers, more than one as a cluster, and return them."""
    servers = [NatsServer(binary, f"n{number + 1}", password) for number in range(nodes)]
    try:
        for server in servers:
            server.routes = NOWHERE[:] if nodes > 1 else []
            server.start()
        if nodes > 1:
            for server in servers:
                server.reroute([other.route for other in servers if other is not server])
            for server in servers:
                server.wait_for_routes()
    except BaseException:
        for server in servers:
            server.process.close()
        raise
    return servers


def _port(urls: list[str]) -> int:
    return int(urls[0].rpartition(":")[2])
