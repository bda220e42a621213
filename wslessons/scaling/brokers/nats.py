"""Real NATS servers for lessons and tests, one or a cluster, with JetStream.

A stream of nats-server that could not be written once, as on a full disk, takes nothing more until
the server is started again, whatever room there is by then (2.15.1). So a thread asks each server
every other second for its health, and starts it again as soon as its disk has room. Its log can't
tell, as it is on the same disk. A limit of the store (max_file_store) does not help: the server
sets one by itself, three quarters of what is free when it starts, and others fill the disk.

Source: https://docs.nats.io/running-a-nats-service/nats_admin/monitoring#health
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from wslessons.errors import UserError
from wslessons.processes import ServerProcess, Stopped, free_ports

__all__ = ["USER", "NatsServer", "make_cluster", "quoted"]

logger = logging.getLogger(__name__)

USER = "wslessons"
MEETING = 5.0
"""Seconds for a server to meet the others of its cluster."""
ROOM = 2**23
"""Bytes that a disk must have free before a server which found it full is started again."""
HEALTH = 2.0
"""Seconds between two questions whether a server can write; longer after starts that were in
vain."""
LONGEST_HEALTH = 60.0
"""The most seconds between them."""

# Whatever proxy the system may have has no business on loopback.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class NatsServer(ServerProcess):
    """One NATS server. It keeps its port and data when it is restarted.

    Args:
        program: the path of nats-server.
        name: the server's name.
        password: what clients must give, beside the user name `USER`; empty for none.
        routes: the ports where the servers of its cluster meet, its own first; none if it is alone.
        settings: further lines of its configuration.
    """

    def __init__(
        self,
        program: str,
        name: str,
        password: str = "",
        routes: Sequence[int] = (),
        settings: Sequence[str] = (),
    ) -> None:
        super().__init__(f"nats-{name}")
        self._program, self._node, self._password = program, name, password
        self._routes, self._settings = routes, settings
        self._monitor_port = 0
        self._lock = threading.RLock()
        """Held by who starts or ends the process: its owner, or the thread that looks after it."""
        self._closed = threading.Event()
        self._nurse: threading.Thread | None = None

    def start(self) -> None:
        """Start the server, again on the same port and data if it ran before.

        Raises:
            UserError: it does not start.
        """
        with self._lock:
            try:
                self._start_on_a_port(self._begin, self._ready)
                if self._routes:
                    self._meet()
            except Stopped as exc:
                raise UserError(f"nats-server did not start: {exc}.") from None
            if self._nurse is None:
                self._nurse = threading.Thread(target=self._look_after, daemon=True)
                self._nurse.start()

    def kill(self) -> None:
        """End the server with SIGKILL; its data stay for another start."""
        with self._lock:
            super().kill()

    def close(self) -> None:
        """End the server and remove its folder. Idempotent."""
        self._closed.set()
        with self._lock:
            super().close()
        if self._nurse is not None:
            self._nurse.join()

    def _begin(self) -> None:
        for file in self.home.glob("*.ports"):
            file.unlink()
        self._run(self._program, "--config", str(self._write()), "--log", str(self.log))

    def _write(self) -> Path:
        home = self.home
        lines = [
            f"server_name: {self._node}",
            f'listen: "{self.address}"',
            f"ports_file_dir: {json.dumps(str(home))}",
            f"jetstream: {{ store_dir: {json.dumps(str(home / 'jetstream'))} }}",
            # Its own choice, as nobody else uses it.
            'http: "127.0.0.1:-1"',
            *self._settings,
        ]
        secret = login = ""
        if self._password:
            secret = f"authorization: {{ user: {USER}, password: {quoted(self._password)} }}\n"
            login = f"{USER}:{quote(self._password, safe='')}@"
            lines.append(secret)
        if self._routes:
            own, *others = self._routes
            routes = [f"nats://{login}127.0.0.1:{port}" for port in others]
            lines.append(
                # One route to each, not a pool, of which a part may not be there yet.
                "cluster: { name: wslessons, pool_size: -1, "
                f'listen: "127.0.0.1:{own}"\n'
                f"{secret}routes: {json.dumps(routes)} }}"
            )
        config = home / "nats.conf"
        config.write_text("\n".join(lines) + "\n")
        return config

    def _ready(self) -> bool | None:
        """Read which port it has chosen, which it writes when it accepts."""
        for file in self.home.glob("*.ports"):
            with contextlib.suppress(ValueError):  # half written
                (url,) = json.loads(file.read_text())["monitoring"]
                self._monitor_port = int(url.rpartition(":")[2])
                return True
        return None

    def _meet(self) -> None:
        """Wait until it knows the others of its cluster; those that are down hold it up a little.

        Before that, a message published here does not reach those who listen there.

        Raises:
            Stopped: it has ended.
        """
        deadline = time.monotonic() + MEETING

        def met() -> bool | None:
            with contextlib.suppress(OSError, ValueError):
                url = f"http://127.0.0.1:{self._monitor_port}/routez"
                with _direct.open(url, timeout=1) as answer:
                    routes = json.load(answer)["routes"]
                if len({route["remote_id"] for route in routes}) == len(self._routes) - 1:
                    return True
            return True if time.monotonic() > deadline else None

        self._wait_for(met)

    def _look_after(self) -> None:
        """Start the server again when it could not write, and its disk has room again."""
        pause, failed = HEALTH, False
        while not self._closed.wait(pause):
            failed = failed and self.pid is None
            if not failed and self._can_write():
                pause = HEALTH
                continue
            try:
                if shutil.disk_usage(self.home).free < ROOM:
                    continue
                with self._lock:
                    # Its owner may have ended it meanwhile, and not want it to run.
                    if self._closed.is_set() or (self.pid is None and not failed):
                        continue
                    logger.warning("%s is started again, now that its disk has room", self.name)
                    self.kill()
                    failed = True
                    self.start()
            except (OSError, UserError) as exc:
                logger.warning("%s: %s", self.name, exc)
            else:
                failed = False
            pause = min(2 * pause, LONGEST_HEALTH)

    def _can_write(self) -> bool:
        """Return False if the server says that it could not write a stream."""
        try:
            _direct.open(f"http://127.0.0.1:{self._monitor_port}/healthz", timeout=1).close()
        except urllib.error.HTTPError as exc:
            with exc:
                return b"write error" not in exc.read()
        except OSError:  # it is down, or frozen
            pass
        return True


def quoted(text: str) -> str:
    """Write a text as one word of a configuration file, whatever is in it.

    Servers of NATS and of Valkey read it alike.

    Args:
        text: any.

    Returns:
        The word, in quotation marks.
    """
    return '"' + "".join(f"\\x{byte:02x}" for byte in text.encode()) + '"'


def make_cluster(program: str, nodes: int, password: str = "") -> list[NatsServer]:
    """Make the servers of a cluster, with ports of their own; none is started.

    Args:
        program: the path of nats-server.
        nodes: how many.
        password: what clients must give, beside the user name `USER`; empty for none.

    Returns:
        The servers.
    """
    routes = free_ports(nodes) if nodes > 1 else []
    return [
        NatsServer(program, f"n{number}", password, routes[number - 1 :] + routes[: number - 1])
        for number in range(1, nodes + 1)
    ]
