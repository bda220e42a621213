"""NATS JetStream, a log (https://docs.nats.io/nats-concepts/jetstream).

Entries are appended to the subject ``NAME`` of the stream ``NAME`` and kept on as many servers as
it has replicas; signs of life go beside it to ``NAME.presence``. The number of an event is its
entry's sequence number in the stream times 1,000, plus its place in the entry. The epoch is made of
the time at which the stream was created. Reading is an ordered consumer: ephemeral, without
acknowledgements, recreated after the last entry read as soon as one is missing.
"""

from __future__ import annotations

import asyncio
from hashlib import blake2s
from typing import Any

from wslessons.errors import UserError, need
from wslessons.scaling.bus.addresses import Address
from wslessons.scaling.bus.nats import Core, say
from wslessons.scaling.bus.tasks import Unreachable, first_to_end
from wslessons.scaling.bus.transport import LOST_AFTER, LogHost, LogTransport

need("nats", "nats")
import nats.errors  # noqa: E402 -- only after the sentence above
import nats.js.errors  # noqa: E402
from nats.aio.client import Client  # noqa: E402
from nats.aio.msg import Msg  # noqa: E402
from nats.js import api  # noqa: E402

__all__ = ["PLACES", "JetStream"]

PLACES = 1000
"""Numbers that each entry of the stream has for its events."""
ALIVE = 1.0
"""Seconds between two signs of life of a consumer that has nothing to deliver."""

NO_PEERS = 10005
"""Error code of a cluster whose servers have not all found each other yet."""


class JetStream(Core, LogTransport):
    """A stream of NATS JetStream; it is created if there is none.

    In: `address`, with the options `stream`; `replicas` (default: 3 if the address names three
    servers or more, else 1); `max_age`, seconds that entries are kept (a day); `max_bytes`, the
    most they may take (256 MiB).
    """

    host: LogHost
    _no_echo = False

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._stream = address.option("stream", "wslessons")
        self._replicas = address.number("replicas", 3 if len(address.hosts) >= 3 else 1)
        self._max_age = address.number("max_age", 86_400)
        self._max_bytes = address.number("max_bytes", 2**28)
        self.subject = f"{self._stream}.presence"
        self.tail: dict[int, int] = {}
        self._epoch = ""
        self._next = 0
        """Sequence number of the entry to read next."""
        self._due = 0
        """Number that the next delivery of our consumer has."""
        self._alive = 0.0
        self._broken = asyncio.Event()

    async def append(self, group: str, data: bytes, id: str, count: int, last: int) -> None:
        """Publish to the stream, and wait until it is stored on most of its replicas."""
        self._check_connected()
        assert self._client is not None
        headers = {"Nats-Msg-Id": id, "Nats-Expected-Stream": self._stream}
        try:
            await self._client.jetstream().publish(
                self._stream, data, timeout=LOST_AFTER, headers=headers
            )
        except (nats.errors.Error, OSError) as exc:
            raise Unreachable(say(exc)) from exc

    async def _subscribe(self, client: Client) -> None:
        await super()._subscribe(client)
        info = await self._open_stream(client)
        epoch = blake2s(f"{self._stream} {info.created}".encode(), digest_size=8).hexdigest()
        if epoch != self._epoch or info.state.last_seq < self._next - 1:
            self._epoch = epoch
            # Entries, not events; an entry has one event or more.
            self._next = max(info.state.first_seq, info.state.last_seq - self.history + 1, 1)
            self.host.opened(epoch, {0: _before(self._next)})
            self.tail = self.tail or {0: info.state.last_seq * PLACES}
        elif info.state.first_seq > self._next:
            self.host.trimmed(0, _before(info.state.first_seq), None)
            self._next = info.state.first_seq
        await self._consume(client)

    async def _open_stream(self, client: Client) -> api.StreamInfo:
        """Return the stream, made if need be; a cluster that has no leader yet is given time."""
        jetstream = client.jetstream(timeout=LOST_AFTER)
        config = api.StreamConfig(
            name=self._stream,
            subjects=[self._stream],
            num_replicas=self._replicas,
            max_age=self._max_age,
            max_bytes=self._max_bytes,
        )
        begun = asyncio.get_running_loop().time()
        while True:
            try:
                return await jetstream.stream_info(self._stream)
            except nats.js.errors.NotFoundError:
                try:
                    return await jetstream.add_stream(config)
                except nats.js.errors.BadRequestError as exc:
                    why = exc
                    if exc.err_code != NO_PEERS:
                        raise UserError(
                            f"{self.label} can't keep the stream {self._stream}: {say(exc)}."
                        ) from None
                except (nats.errors.Error, nats.js.errors.Error) as exc:
                    why = exc
            except (nats.errors.Error, nats.js.errors.Error) as exc:
                why = exc
            # A server without JetStream has nobody who responds; one of a new cluster may be mute.
            mute = isinstance(
                why, nats.errors.NoRespondersError | nats.js.errors.ServiceUnavailableError
            )
            if asyncio.get_running_loop().time() - begun > (2 if mute else 8):
                raise UserError(
                    f"{self.label} has no JetStream that answers ({say(why)}): start the server "
                    "with --jetstream, or leave ?stream= out of the URL."
                ) from None
            await asyncio.sleep(0.1)

    async def _consume(self, client: Client) -> None:
        inbox = client.new_inbox()
        self._broken, self._due = asyncio.Event(), 1
        self._alive = asyncio.get_running_loop().time()
        await client.subscribe(inbox, cb=self._take_entry)
        await client.jetstream(timeout=LOST_AFTER).add_consumer(
            self._stream,
            api.ConsumerConfig(
                deliver_subject=inbox,
                deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=self._next,
                ack_policy=api.AckPolicy.NONE,
                max_deliver=1,
                idle_heartbeat=ALIVE,
                flow_control=True,
                inactive_threshold=10,
                num_replicas=1,
                mem_storage=True,
            ),
        )

    async def _take_entry(self, msg: Msg) -> None:
        self._alive = asyncio.get_running_loop().time()
        if not msg.reply.startswith("$JS.ACK."):
            headers: dict[str, Any] = msg.headers or {}
            if msg.reply:  # flow control: the server goes on when we answer
                await msg.respond(b"")
            elif (last := headers.get("Nats-Last-Consumer")) and int(last) >= self._due:
                self._broken.set()
            return
        # $JS.ACK.[DOMAIN.ACCOUNT.]STREAM.CONSUMER.DELIVERED.SEQUENCE.CONSUMER_SEQUENCE.TIME.PENDING
        fields = msg.reply.split(".")
        sequence, delivery = (int(field) for field in fields[-4:-2])
        if delivery != self._due or self._broken.is_set():
            self._broken.set()
            return
        self._due += 1
        self._next = sequence + 1
        self.host.entry(0, sequence * PLACES, 1, msg.data)

    async def _watch(self) -> None:
        await first_to_end(super()._watch(), self._watch_consumer(), self._broken.wait())

    async def _watch_consumer(self) -> None:
        while True:
            await asyncio.sleep(ALIVE)
            if asyncio.get_running_loop().time() - self._alive > 3 * ALIVE:
                raise Unreachable("the stream's consumer is silent")


def _before(sequence: int) -> int:
    """Return the last number that an event before this entry can have."""
    return sequence * PLACES - 1 if sequence > 1 else 0
