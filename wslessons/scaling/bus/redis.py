"""Redis or Valkey: a message goes to a channel, and to whoever listens, at most once.

With a stream it is a log: see `wslessons.scaling.bus.streams`. Source:
https://redis.io/docs/latest/develop/pubsub/
"""

from __future__ import annotations

import asyncio
from typing import Any

from wslessons.errors import UserError, need
from wslessons.scaling.bus.addresses import Address
from wslessons.scaling.bus.tasks import Unreachable, first_to_end, let_go
from wslessons.scaling.bus.transport import CHECK, LOST_AFTER, Transport

need("redis", "redis")
from redis import exceptions as errors  # noqa: E402 -- only after the sentence above
from redis.asyncio import Redis, Sentinel  # noqa: E402
from redis.asyncio.client import PubSub  # noqa: E402
from redis.asyncio.retry import Retry  # noqa: E402
from redis.backoff import NoBackoff  # noqa: E402

__all__ = ["Channels", "say"]


class Channels(Transport):
    """A channel of Redis.

    In: `address`, with the options `channel` (default: wslessons) and `sentinel`, the name of the
    service that the hosts, Sentinels, watch; its path is the database's number.
    """

    def __init__(self, address: Address) -> None:
        super().__init__(f"Redis at {address.hosts_text}")
        self._address = address
        self.channel = address.option("channel", "wslessons")
        self._service = address.option("sentinel", "-") if address.has("sentinel") else ""
        self._database = int(address.path) if address.path.isdigit() else 0
        self._client: Redis | None = None
        self._pubsub: PubSub | None = None
        self._clients: list[Redis] = []
        self._primary = ("", 0)
        self._broken = asyncio.Event()

    async def tell(self, data: bytes) -> None:
        """Publish to the channel."""
        await self._do(lambda client: client.publish(self.channel, data))

    async def flush(self) -> None:
        """Every command is answered, so nothing is under way."""

    async def _connect(self) -> None:
        error: Exception = TimeoutError()
        self._broken = asyncio.Event()
        for host, port in await self._primaries():
            self._primary = (host, port)
            self._client = client = self._new_client(LOST_AFTER)
            try:
                await self._prepare(client)
                return
            except (errors.AuthenticationError, errors.AuthorizationError) as exc:
                raise UserError(
                    f"{self.label} does not accept the user name and password in the URL: {exc}."
                ) from None
            except (errors.RedisError, OSError, TimeoutError) as exc:
                error = exc
        raise Unreachable(say(error))

    async def _primaries(self) -> list[tuple[str, int]]:
        pairs = [(host, int(port)) for host, port in map(_split, self._address.shuffled())]
        if not self._service:
            return pairs
        sentinel = Sentinel(
            pairs, socket_timeout=LOST_AFTER, socket_connect_timeout=LOST_AFTER, retry=_no_retry()
        )
        try:
            return [await sentinel.discover_master(self._service)]
        except (errors.RedisError, OSError) as exc:
            raise Unreachable(say(exc)) from exc
        finally:
            for each in sentinel.sentinels:
                await each.aclose()

    def _new_client(self, timeout: float) -> Redis:
        host, port = self._primary
        client = Redis(
            host=host,
            port=port,
            db=self._database,
            username=self._address.user or None,
            password=self._address.password or None,
            socket_timeout=timeout,
            socket_connect_timeout=LOST_AFTER,
            retry=_no_retry(),
        )
        self._clients.append(client)
        return client

    async def _prepare(self, client: Redis) -> None:
        if (await self._role(client)) != b"master":
            raise errors.ConnectionError("it is a replica, not the primary")
        self._pubsub = self._new_client(LOST_AFTER).pubsub()
        await self._pubsub.subscribe(self.channel)
        # The answer: from now on we hear everything.
        await self._pubsub.get_message(timeout=LOST_AFTER)

    async def _role(self, client: Redis) -> Any:
        return (await client.execute_command("ROLE"))[0]

    async def _serve(self) -> None:
        try:
            await first_to_end(self._listen(), self._watch(), self._broken.wait())
        except (errors.RedisError, OSError) as exc:
            raise Unreachable(say(exc)) from exc

    async def _listen(self) -> None:
        pubsub, loop = self._pubsub, asyncio.get_running_loop()
        assert pubsub is not None
        heard = asked = loop.time()
        while True:
            message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=CHECK)
            now = loop.time()
            if message is not None:
                heard = now
                if message["type"] == "message":
                    self.host.heard(message["data"])
            if now - heard > CHECK + LOST_AFTER:
                raise Unreachable("it does not answer in time")
            if now - asked > CHECK:
                asked = now
                await pubsub.ping()

    async def _watch(self) -> None:
        """Ask again and again whether the primary is there, and is still the primary."""
        assert self._client is not None
        while True:
            await asyncio.sleep(CHECK)
            if (await self._role(self._client)) != b"master":
                raise Unreachable("it is a replica now")
            if self._service and self._primary not in await self._primaries():
                raise Unreachable("another server is the primary now")

    async def _disconnect(self) -> None:
        self._client = None
        pubsub = [self._pubsub] if self._pubsub is not None else []
        await let_go(*(each.aclose for each in [*pubsub, *self._clients]))
        self._pubsub, self._clients = None, []

    async def _do(self, command: Any) -> Any:
        self._check_connected()
        if self._client is None:
            raise Unreachable("the connection is lost")
        try:
            return await command(self._client)
        except (errors.RedisError, OSError) as exc:
            self._broken.set()
            raise Unreachable(say(exc)) from exc


def _no_retry() -> Retry:
    return Retry(NoBackoff(), 0)


def _split(host: str) -> tuple[str, str]:
    name, _, port = host.rpartition(":")
    return name.strip("[]"), port


def say(exc: BaseException) -> str:
    """Say an error in words."""
    if isinstance(exc, errors.TimeoutError | TimeoutError):
        return "it does not answer in time"
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return str(exc).rstrip(".") or type(exc).__name__
