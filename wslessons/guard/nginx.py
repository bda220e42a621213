"""A real nginx in front of servers, for lessons and tests.

    async with nginx.serve([server.url]) as proxy:
        async with connect(proxy.ws_url) as connection: ...

It runs as this user, without root, on a free port of loopback, with the settings of `nginx.conf`
that travels with the package (`wslessons.guard.files`): what is tested here is what an operator
gets. `settings` changes single lines of it, to see what each of them is for.

Not handled here: an nginx that is to stay, or to be reached from another machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from wslessons.errors import UserError
from wslessons.guard import files
from wslessons.processes import POLL, START_TIME, ServerProcess, Stopped

__all__ = ["Nginx", "Settings", "changed", "find_program", "search_path", "serve"]

Settings = Mapping[str, str | Iterable[str] | None]
"""Lines of `nginx.conf`: how one begins, and what stands there instead, without the semicolon. None
leaves the line out, and several texts make several lines of it."""


def search_path() -> str:
    """Return where nginx is looked for: on PATH, and where Debian keeps it, on few users' PATH."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])


def find_program() -> str:
    """Return the path of nginx.

    Returns:
        The one that is found first; see `search_path`.

    Raises:
        UserError: it is not installed.
    """
    if (found := shutil.which("nginx", path=search_path())) is None:
        raise UserError(
            "nginx is not installed here: install it (Debian and Ubuntu: sudo apt install"
            " nginx-light, macOS: brew install nginx), and run this again."
        )
    return found


def changed(text: str, settings: Settings) -> str:
    """Return the text of a configuration with other lines in the place of some.

    >>> changed("listen 80;", {"listen": ["80", "81"]}).splitlines()
    ['listen 80;', 'listen 81;']

    Args:
        text: that of a file.
        settings: how lines begin, such as ``listen`` or ``proxy_set_header Host``, and what is to
            follow there.

    Returns:
        The changed text.

    Raises:
        UserError: no line begins so.
    """
    for name, value in settings.items():
        line = re.compile(rf"^([ ]*){re.escape(name)} [^;{{}}]*;\n?", re.MULTILINE)
        if not line.search(text):
            raise UserError(f"nginx.conf has no line that begins with {name!r}.")
        values = [] if value is None else [value] if isinstance(value, str) else list(value)
        lines = "".join(rf"\g<1>{name} {each};\n" for each in values)
        text = line.sub(lines, text)
    return text


class Nginx(ServerProcess):
    """One nginx. All methods block for a bounded time; see `serve` for coroutines.

    Args:
        upstreams: URLs of the servers behind it, such as ``http://127.0.0.1:8080``.
        tls: files with the certificate's chain and with its key, in PEM; None for no TLS.
        settings: lines of `nginx.conf` to change.

    Attributes:
        port: where it listens.

    Raises:
        UserError: nginx is not installed here.
    """

    def __init__(
        self,
        upstreams: Iterable[str],
        tls: tuple[Path, Path] | None = None,
        settings: Settings | None = None,
    ) -> None:
        self._program = find_program()
        super().__init__("nginx")
        self._upstreams, self._tls, self._settings = list(upstreams), tls, dict(settings or {})

    @property
    def url(self) -> str:
        """The same as a URL, ``http://`` or with TLS ``https://``."""
        return f"http{'s' if self._tls else ''}://{self.address}"

    @property
    def ws_url(self) -> str:
        """The same for WebSockets, ``ws://`` or with TLS ``wss://``."""
        return f"ws{'s' if self._tls else ''}://{self.address}"

    def start(self) -> None:
        """Start it, again on the same port if it ran before.

        Raises:
            UserError: it does not start.
        """
        try:
            # Its file is written once it listens.
            self._start_on_a_port(self._begin, lambda: self._pidfile.exists() or None)
        except Stopped as exc:
            raise UserError(f"nginx did not start: {exc}.") from None

    def _begin(self) -> None:
        config = self._write()
        self._pidfile.unlink(missing_ok=True)
        self._run(self._program, "-p", str(self.home), "-c", str(config))

    def reload(
        self, upstreams: Iterable[str] | None = None, settings: Settings | None = None
    ) -> None:
        """Take other servers or settings, as ``nginx -s reload`` does: nobody is cut off.

        Workers with the new settings serve whoever comes from now on; the old ones serve the
        connections that they have, and end with the last one.

        Args:
            upstreams: URLs of the servers from now on; None for the same.
            settings: lines of `nginx.conf` to change beside those that were; None for no others.

        Raises:
            UserError: it can't use them, and goes on as before.
        """
        before = self._upstreams, self._settings
        self._upstreams = before[0] if upstreams is None else list(upstreams)
        self._settings = before[1] | dict(settings or {})
        self._write()
        assert self.pid is not None
        with self.log.open("rb") as log:
            log.seek(0, os.SEEK_END)
            os.kill(self.pid, signal.SIGHUP)
            seen = b""

            def done() -> bool | None:
                nonlocal seen
                seen += log.read()
                if found := re.search(rb"\[emerg\] \d+#\d+: ([^\n]*)\n", seen):
                    self._upstreams, self._settings = before
                    raise UserError(f"nginx keeps its settings: {found[1].decode()}.")
                # The old workers accept nobody any more.
                return b"gracefully shutting down" in seen or None

            self._wait_for(done)

    def kill(self) -> None:
        """End it with SIGKILL, and its workers, which would go on serving without it."""
        if (pid := self.pid) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        super().kill()
        # Only the first of them is ours to wait for: the others are gone when nobody listens.
        deadline = time.monotonic() + START_TIME
        while self.port and time.monotonic() < deadline:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", self.port)):
                    return
            time.sleep(POLL)

    @property
    def _pidfile(self) -> Path:
        return self.home / "nginx.pid"

    def _write(self) -> Path:
        """Write the configuration, and return where."""
        chain, key = self._tls or (None, None)
        settings: dict[str, str | Iterable[str] | None] = {
            "pid": str(self._pidfile),
            "error_log": "stderr notice",
            "user": None,
            "worker_processes": "1",
            "worker_rlimit_nofile": None,
            "worker_connections": "512",
            "access_log": "off",
            "server": [urlsplit(url).netloc for url in self._upstreams],
            "listen": f"{self.address}{' ssl' if self._tls else ''}",
            "server_name": "_",
            "ssl_certificate": str(chain) if chain else None,
            "ssl_certificate_key": str(key) if key else None,
        }
        text = changed(files.read("nginx.conf"), settings | self._settings)
        # It would put what it can't hold in memory where only root may write.
        folders = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = [f"    {each}_temp_path {self.home / each};\n" for each in folders]
        text = text.replace("http {\n", "http {\n" + "".join(paths), 1)
        ours = ["daemon off;\n"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            import grp
            import pwd

            # Its workers would become another user's, who may not read our folder.
            ours.append(f"user {pwd.getpwuid(0).pw_name} {grp.getgrgid(0).gr_name};\n")
        config = self.home / "nginx.conf"
        config.write_text("".join(ours) + text)
        return config


@contextlib.asynccontextmanager
async def serve(
    upstreams: Iterable[str],
    tls: tuple[Path, Path] | None = None,
    settings: Settings | None = None,
) -> AsyncGenerator[Nginx]:
    """Run nginx in front of servers while the block runs.

    Args:
        upstreams: URLs of the servers behind it, such as ``http://127.0.0.1:8080``.
        tls: files with the certificate's chain and with its key, in PEM; None for no TLS.
        settings: lines of `nginx.conf` to change.

    Yields:
        It, accepting connections; call what blocks in a thread: ``to_thread(proxy.reload, ...)``.

    Raises:
        UserError: it is not installed here, or does not start.
    """
    proxy = Nginx(upstreams, tls, settings)
    try:
        await asyncio.to_thread(proxy.start)
        yield proxy
    finally:
        await asyncio.to_thread(proxy.close)
