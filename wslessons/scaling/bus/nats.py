"""NATS: a message goes to a subject, and to whoever listens, at most once (https://docs.nats.io).

With a stream it is a log: see `wslessons.scaling.bus.jetstream`.
"""

from __future__ import annotations

import asyncio
import math

from wslessons.errors import UserError, need
from wslessons.scaling.bus.addresses import Address
from wslessons.scaling.bus.tasks import Unreachable, first_to_end, let_go
from wslessons.scaling.bus.transport import CHECK, LOST_AFTER, Transport

need("nats", "nats")
import nats.errors  # noqa: E402 -- only after the sentence above
import nats.js.errors  # noqa: E402
from nats.aio.client import Client  # noqa: E402
from nats.aio.msg import Msg  # noqa: E402

__all__ = ["Core", "say"]


class Core(Transport):
    """A subject of NATS.

    In: `address`, with the option `subject` (default: wslessons).
    """

    _no_echo = True
    """Whether the server is to spare us what we publish ourselves."""

    def __init__(self, address: Address) -> None:
        super().__init__(f"NATS at {address.hosts_text}")
        self._address = address
        self.subject = address.option("subject", "wslessons")
        self._client: Client | None = None
        self._closed = asyncio.Event()
        self._error: Exception | None = None

    async def tell(self, data: bytes) -> None:
        """Publish to the subject."""
        await self._publish(self.subject, data)

    async def flush(self) -> None:
        """Wait for the server's PONG, which comes after all that was published."""
        self._check_connected()
        assert self._client is not None
        try:
            await self._client.flush(math.ceil(LOST_AFTER))
        except (nats.errors.Error, OSError) as exc:
            raise Unreachable(say(exc)) from exc

    async def _connect(self) -> None:
        error: Exception = TimeoutError()
        # One server after another by ourselves, to learn what is wrong with each.
        for host in self._address.shuffled():
            client, self._closed, self._error = Client(), asyncio.Event(), None
            self._client = client
            try:
                await client.connect(
                    f"nats://{host}",
                    user=self._address.user or None,
                    password=self._address.password or None,
                    name="wslessons",
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=math.ceil(LOST_AFTER),
                    no_echo=self._no_echo,
                    error_cb=self._take_error,
                    closed_cb=self._take_closed,
                )
                self.limit = client.max_payload
                await self._subscribe(client)
                return
            except (nats.errors.Error, OSError, TimeoutError) as exc:
                error = self._error or exc
                if "authorization" in str(error).lower():
                    raise UserError(
                        f"{self.label} does not accept the user name and password in the URL."
                    ) from None
        raise Unreachable(say(error))

    async def _subscribe(self, client: Client) -> None:
        await client.subscribe(self.subject, cb=self._take_told)
        await client.flush(math.ceil(LOST_AFTER))

    async def _serve(self) -> None:
        await first_to_end(self._closed.wait(), self._watch())

    async def _watch(self) -> None:
        """Ask for a sign of life again and again."""
        while True:
            await asyncio.sleep(CHECK)
            await self.flush()

    async def _disconnect(self) -> None:
        if self._client is not None:
            # It would wait for a stalled socket to take what was not sent.
            await let_go(self._client.close)
        self._client = None

    async def _publish(self, subject: str, data: bytes) -> None:
        self._check_connected()
        if self._client is None or not self._client.is_connected:
            raise Unreachable("the connection is lost")
        try:
            await self._client.publish(subject, data)
        except (nats.errors.Error, OSError) as exc:
            raise Unreachable(say(exc)) from exc

    async def _take_told(self, msg: Msg) -> None:
        self.host.heard(msg.data)

    async def _take_error(self, exc: Exception) -> None:
        self._error = exc

    async def _take_closed(self) -> None:
        self._closed.set()


def say(exc: BaseException) -> str:
    """Say an error in words."""
    if isinstance(exc, TimeoutError | nats.errors.TimeoutError):
        return "it does not answer in time"
    if isinstance(exc, nats.js.errors.NoStreamResponseError | nats.errors.NoRespondersError):
        return "the stream has no leader now"
    if isinstance(exc, nats.js.errors.APIError):
        return exc.description or str(exc)
    if isinstance(exc, OSError):
        return exc.strerror or str(exc)
    return str(exc).removeprefix("nats: ") or type(exc).__name__
