"""NATS: `Core`, a subject, and `JetStream`, a log.

What is published to a subject goes to whoever listens, at most once.

With JetStream, entries are appended to the subject ``NAME`` of the stream ``NAME`` and kept on as
many servers as it has replicas; signs of life go beside it to ``NAME.presence``. The number of an
event is its entry's sequence number in the stream, plus the base of the term in which it was
stored, times 1,000, plus its place in the entry.

**No number means two events.** A server that crashed, or was restored from a copy, may have lost
the newest entries, and gives their sequence numbers again; nobody may be left who has read them. So
there is a term for each life of the servers' memory. Its base is in a stream of its own, which is
in memory only and on as many servers: no copy has it, and where a cluster's servers are restarted
one after the other it stays. Who finds none begins a term, the first to write it for all. Its base
is the time in milliseconds, so that its numbers are above all that were given before, as long as
those were fewer than a thousand entries a second, and each entry's header has it. Between two terms
something may be lost, and all readers are told that nobody knows how much (`Gap`): where a single
server is restarted, too, which has kept all but can't prove it. (That is how Kafka finds a log's
lost end by the epoch of its leader: KIP-320.)

The epoch is made of the time at which the stream was created. If entries change while the servers'
memory lives on, whoever comes back and finds another entry where it has read one writes a new epoch
into the stream's metadata, which begins as the old one does, and begins after what is left. The
others see that when they come back, or by an entry's header.

A server of a cluster that was away while a stream was deleted and made anew has the old one's
entries still, and a consumer that is made there delivers them. So of an entry that says it is of
another stream the leader is asked; where it knows another one, or none, we try another consumer.

Reading is an ordered consumer: ephemeral, without acknowledgements, made again after the last entry
read as soon as one is missing. We make it ourselves. That of nats-py 2.16 is as fast (20,000
entries of 1,500 bytes in 2.2 s, ours 2.7 s) and as soon back when the server has lost it (3.7 s,
ours 4.0 s), but it comes back by itself and tells nobody: after the stream was deleted and made
anew it heard none of 92 entries in 20 s, without an error, and its client counted as connected.
Ours ends the connection, and whoever comes back looks which life of the log this is. Theirs reads
the headers of the history, where that does not matter.

With its disk full, a server answers about the stream, and says nothing to who publishes; so it does
until it is restarted (2.15.1), and then all is sent that has waited. `wslessons.scaling.brokers`
restarts its own as soon as there is room.

Sources: https://docs.nats.io and https://docs.nats.io/nats-concepts/jetstream
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import secrets
import time
from collections.abc import Callable, Coroutine
from hashlib import blake2s
from typing import Any

from wslessons.errors import UserError, extra, imported_late
from wslessons.scaling.bus.items import count_events
from wslessons.scaling.bus.transport import (
    CHECK,
    LOST_AFTER,
    PLACES,
    LogTransport,
    Refused,
    Transport,
    Unreachable,
    close_quietly,
    in_time,
)
from wslessons.scaling.bus.url import Address
from wslessons.serving import cancel_and_wait, first_to_end

# aiohttp is for NATS over WebSocket alone, and most of the time in which nats-py is imported.
with extra("nats"), imported_late("aiohttp"):
    import nats.errors
    import nats.js.errors
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js import api

__all__ = ["Core", "JetStream"]

LEADERLESS = 8.0
"""Seconds for which a cluster that has no leader yet is given time."""
ALIVE = 1.0
"""Seconds between two signs of life of a consumer that has nothing to deliver."""
EPOCH = "wslessons-epoch"
"""A key of the stream's metadata, and of the headers of entries."""
BEFORE = "wslessons-before"
"""A key of the stream's metadata: the sequence number of the last entry before that epoch."""
BASE = "wslessons-base"
"""A key of the headers of entries: what their term adds to sequence numbers."""
IDS = re.compile(r":([0-9]{1,16})-([0-9]{1,16})$", re.ASCII)
"""The first and the last sequence number in the id of an entry."""
TERM = re.compile(rb"([0-9]{1,15}) ([0-9]{1,15})")
"""The base of a term, and the sequence number of the first entry that may be of it."""
TOO_LARGE = 10054
"""Error code of a stream whose messages may not be so large."""
NO_PEERS = 10005
"""Error code of a cluster whose servers have not all found each other yet."""
NO_ROOM = {10002, 10023, 10028, 10047}
"""Error codes of a server or an account that has no room left, or not as much as we ask for."""


class Core(Transport):
    """A subject of NATS.

    Args:
        address: with the option `subject` (default: wslessons).
    """

    faults = (nats.errors.Error, OSError)
    slow = (TimeoutError, nats.errors.TimeoutError)
    _no_echo = True
    """Whether the server is to spare us what we publish ourselves."""

    def __init__(self, address: Address) -> None:
        super().__init__(f"NATS at {address.hosts_text}")
        self._address = address
        self._tls = address.ssl_context()
        self._credentials: dict[str, Any] = {}
        if address.password:
            self._credentials = {"user": address.user, "password": address.password}
        elif address.user:
            self._credentials = {"token": address.user}
        self.subject = address.option("subject", "wslessons")
        self._client: Client | None = None
        self._error: Exception | None = None

    async def publish(self, data: bytes) -> None:
        """Publish to the subject."""
        await self._publish(self.subject, data)

    async def flush(self) -> None:
        """Wait for the server's PONG, which comes after all that was published."""
        self._check_connected()
        assert self._client is not None
        try:
            await _flush(self._client)
        except self.faults as exc:
            raise Unreachable(self._explain(exc)) from exc

    async def _connect(self) -> None:
        error: Exception = TimeoutError()
        # One server after another by ourselves, to learn what is wrong with each.
        for host in self._address.shuffled():
            self._client = client = Client()
            self._broken, self._error = asyncio.Event(), None
            try:
                await client.connect(
                    f"{'tls' if self._tls else 'nats'}://{host}",
                    tls=self._tls,
                    **self._credentials,
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
            except self.faults as exc:
                error = self._error or exc
                if "authorization" in str(error).lower():
                    raise self._refused() from None
        raise Unreachable(self._explain(error))

    async def _subscribe(self, client: Client) -> None:
        await client.subscribe(self.subject, cb=self._take_message)
        await _flush(client)

    async def _serve(self) -> None:
        """Ask for a sign of life again and again."""
        while True:
            await asyncio.sleep(CHECK)
            await self.flush()

    async def _disconnect(self) -> None:
        if self._client is not None:
            # It would wait for a stalled socket to take what was not sent.
            await close_quietly(self._client.close)
            await _let_go(self._client)
        self._client = None

    async def _publish(self, subject: str, data: bytes) -> None:
        self._check_connected()
        assert self._client is not None
        if not self._client.is_connected:
            raise Unreachable("the connection is lost")
        try:
            await in_time(self._client.publish(subject, data))
        except self.faults as exc:
            raise Unreachable(self._explain(exc)) from exc

    def _explain(self, exc: BaseException) -> str:
        if isinstance(exc, nats.js.errors.NoStreamResponseError | nats.errors.NoRespondersError):
            return "the stream has no leader now"
        if isinstance(exc, nats.js.errors.APIError):
            return exc.description or str(exc)
        return super()._explain(exc).removeprefix("nats: ")

    async def _take_message(self, msg: Msg) -> None:
        self.host.on_message(msg.data)

    async def _take_error(self, exc: Exception) -> None:
        self._error = exc

    async def _take_closed(self) -> None:
        self._broken.set()


class JetStream(Core, LogTransport):
    """A stream of NATS JetStream; it is created if there is none.

    Args:
        address: with the options `stream`; `replicas` (default: 3 if the address names three
            servers or more, else 1); `max_age`, seconds that entries are kept (default: a day);
            `max_bytes`, the most they may take (default: 256 MiB).
    """

    _no_echo = False

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._stream = address.option("stream", "wslessons")
        self._replicas = address.number("replicas", 3 if len(address.hosts) >= 3 else 1)
        self._max_age = address.number("max_age", 86_400)
        self._max_bytes = address.number("max_bytes", 2**28)
        self.subject = f"{self._stream}.presence"
        self._next = 0
        """Sequence number of the entry to read next."""
        self._entry = b""
        """The entry before that."""
        self._base = 0
        """What is added to sequence numbers, where we read."""
        self._term = 0
        """The same for new entries."""
        self._epochs: set[str] = set()
        """The epochs that we have had."""
        self._behind: set[str | int] = set()
        """Those of entries, and bases, of which the broker did not know, or not any more."""
        self._found: set[str] = set()
        """Streams that entries name which the leader has in this one, as after it was restored."""
        self._due = 0
        """Number that the next delivery of our consumer has."""
        self._kept = 0
        """Sequence number of the newest entry when we connected."""
        self._alive = 0.0

    async def append(self, data: bytes, id: str, count: int, last: int) -> None:
        """Publish to the stream, and wait until it is stored on most of its replicas."""
        self._check_connected()
        assert self._client is not None
        headers = {"Nats-Msg-Id": id, "Nats-Expected-Stream": self._stream}
        headers |= {EPOCH: self._epoch, BASE: f"{self._term}"}
        try:
            publish = self._client.jetstream().publish
            await in_time(publish(self._stream, data, timeout=5 * LOST_AFTER, headers=headers))
        except (nats.errors.TimeoutError, TimeoutError) as exc:
            raise Unreachable(await self._explain_silence(self._client)) from exc
        except nats.errors.MaxPayloadError as exc:
            raise Refused(self._explain(exc)) from exc
        except nats.js.errors.APIError as exc:
            kind = Refused if exc.err_code == TOO_LARGE else Unreachable
            raise kind(self._explain(exc)) from exc
        except self.faults as exc:
            raise Unreachable(self._explain(exc)) from exc

    async def _explain_silence(self, client: Client) -> str:
        """Say why the stream has not acknowledged an entry in time."""
        try:
            await in_time(client.jetstream(timeout=LOST_AFTER).stream_info(self._stream))
        except (nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError):
            return "the stream does not answer in time: it may have no leader"
        return (
            "the stream is there and stores nothing, as when its disk is full: make room there, "
            "and restart nats-server if that is not enough"
        )

    async def _subscribe(self, client: Client) -> None:
        await super()._subscribe(client)
        info = await self._open_stream(client)
        await self._patiently(client, lambda: self._find_place(client, info))
        await self._patiently(client, lambda: self._consume(client))

    async def _patiently(
        self, client: Client, work: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        """Do something about the stream; a cluster whose nodes come and go is given time."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while True:
            try:
                return await work()
            except (nats.errors.Error, nats.js.errors.Error):
                # It answers about the stream before it makes a consumer of it.
                if loop.time() - begun > LEADERLESS or not client.is_connected:
                    raise
                await asyncio.sleep(0.1)

    async def _find_place(self, client: Client, info: api.StreamInfo) -> None:
        """Find where to read on, and what has happened to the stream meanwhile."""
        self._term, begins = await self._agree_on_term(client, info)
        lost = bool(self._epoch) and not await self._has_what_we_read(client, info)
        # In a new term what is in the places of lost entries has other numbers.
        renumbered = lost and self._term > self._base
        epoch = await self._agree_on_epoch(client, info, lost=lost and not renumbered)
        # What was there before a new epoch has been read under the old one.
        old = (info.config.metadata or {}).get(BEFORE, "0")
        first = max(info.state.first_seq, int(old if old.isdecimal() else 0) + 1)
        last = max(info.state.last_seq, first - 1)
        if epoch != self._epoch:
            self._next, self._base = await self._place(client, first, last, begins)
            self._epoch, self._entry = epoch, b""
            self._epochs.add(epoch)
            self.host.on_opened(epoch, self._before(self._next))
            self.tail = self.tail or (self._term + last) * PLACES
        elif renumbered:
            self._next, self._entry = min(begins, last + 1), b""
            self._reach(self._term)
        elif first > self._next:
            self.host.on_trimmed(self._before(first), None)
            self._next, self._entry = first, b""
        self._kept = last
        if self._next > last:
            self._reach(self._term)

    def _before(self, sequence: int) -> int:
        """Return the last number that an event before this entry can have."""
        place = self._base + sequence
        return place * PLACES - 1 if place > 1 else 0

    def _reach(self, base: int) -> None:
        """Take note that what is read next is of the term with this base."""
        if base > self._base:
            self._base = base
            self.host.on_doubt(self._before(self._next))

    async def _agree_on_term(self, client: Client, info: api.StreamInfo) -> tuple[int, int]:
        """Return the base of the servers' term and where it begins, a new one if they had none."""
        newest, last = 0, info.state.last_seq
        if last:
            with contextlib.suppress(nats.js.errors.NotFoundError):  # somebody has deleted it
                entry = await client.jetstream(timeout=LOST_AFTER).get_msg(self._stream, last)
                newest = _base_of(entry.headers) or 0
        now = int(time.time() * 1000)
        # (The clock may have been set back.)
        base = max(now - last - 1, newest + 1, self._base + max(1, self._next - last - 1))
        return await self._term_or(client, base, last + 1)

    async def _term_or(self, client: Client, base: int, begins: int) -> tuple[int, int]:
        """Return the base of the servers' term and where it begins; if they have none, these."""
        jetstream = client.jetstream(timeout=LOST_AFTER)
        name, subject = f"{self._stream}-term", f"{self._stream}.term"
        while True:
            try:
                data = (await jetstream.get_last_msg(name, subject)).data or b""
                if (term := TERM.fullmatch(data)) is None:
                    raise Unreachable(f"the stream {name} has something else in it")
                return int(term[1]), int(term[2])
            except nats.js.errors.NotFoundError:
                config = api.StreamConfig(
                    name=name,
                    subjects=[subject],
                    num_replicas=self._replicas,
                    storage=api.StorageType.MEMORY,
                    max_msgs=1,
                )
                await jetstream.add_stream(config)
                with contextlib.suppress(nats.js.errors.BadRequestError):  # another one was first
                    headers = {"Nats-Expected-Last-Subject-Sequence": "0"}
                    data = f"{base} {begins}".encode()
                    await jetstream.publish(subject, data, headers=headers)

    async def _agree_on_epoch(self, client: Client, info: api.StreamInfo, *, lost: bool) -> str:
        """Return the epoch of the stream, a new one if it has given numbers twice."""
        metadata = info.config.metadata or {}
        made = blake2s(f"{self._stream} {info.created}".encode(), digest_size=8).hexdigest()
        epoch = metadata.get(EPOCH, made)
        known = epoch in self._epochs
        if not known or (epoch == self._epoch and not lost):
            return epoch
        epoch = _stream_of(epoch) + secrets.token_hex(4)
        info.config.metadata = {**metadata, EPOCH: epoch, BEFORE: f"{info.state.last_seq}"}
        await client.jetstream(timeout=LOST_AFTER).update_stream(info.config)
        return epoch

    async def _has_what_we_read(self, client: Client, info: api.StreamInfo) -> bool:
        if info.state.last_seq < self._next - 1:
            return False
        if info.state.first_seq >= self._next or not self._entry:
            return True
        try:
            message = await client.jetstream().get_msg(self._stream, self._next - 1)
        except nats.js.errors.NotFoundError:  # somebody has deleted it
            return True
        return message.data == self._entry

    async def _place(self, client: Client, first: int, last: int, begins: int) -> tuple[int, int]:
        """Return from which sequence number on the newest `history` events are, and its base."""
        place, known, step, base = last + 1, 0, 32, None
        while place > first and known < self.history:
            # Backwards, in ever larger steps: an entry has one event, or hundreds.
            since, until, step = max(first, place - step), place - 1, 2 * step
            counts = await self._counts(client, since, until)
            while place > since and known < self.history:
                place -= 1
                count, base = counts.get(place, (0, None))
                known += count
        if base is None:
            base = self._term if place > last or place >= begins else 0
        return place, min(base, self._term)

    async def _counts(
        self, client: Client, since: int, until: int
    ) -> dict[int, tuple[int, int | None]]:
        """Return how many events there are in entries, and their bases, by sequence numbers."""
        config = api.ConsumerConfig(
            deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=since,
            headers_only=True,
        )
        entries = await client.jetstream(timeout=LOST_AFTER).subscribe(
            self._stream, stream=self._stream, ordered_consumer=True, config=config
        )
        counts: dict[int, tuple[int, int | None]] = {}
        try:
            while until not in counts:
                entry = await entries.next_msg(LOST_AFTER)
                sequence = entry.metadata.sequence.stream
                if id := IDS.search((entry.headers or {}).get("Nats-Msg-Id", "")):
                    count = int(id[2]) - int(id[1]) + 1
                else:
                    # Somebody else's, and what is in it does not stand above it.
                    whole = await client.jetstream().get_msg(self._stream, sequence)
                    count = count_events(whole.data or b"")
                counts[min(sequence, until)] = count, _base_of(entry.headers)
        finally:
            await entries.unsubscribe()
        return counts

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
                    # First, so that whoever finds a stream without a term knows that it is older.
                    await self._term_or(client, 0, 1)
                    return await jetstream.add_stream(config)
                except nats.js.errors.BadRequestError as exc:
                    why = exc
                    if exc.err_code != NO_PEERS:
                        raise UserError(
                            f"{self.label} can't keep the stream {self._stream}:"
                            f" {self._explain(exc)}."
                        ) from None
                except (nats.errors.Error, nats.js.errors.Error) as exc:
                    why = exc
            except (nats.errors.Error, nats.js.errors.Error) as exc:
                why = exc
            if isinstance(why, nats.js.errors.APIError) and why.err_code in NO_ROOM:
                raise UserError(
                    f"{self.label} has no room for the stream {self._stream}"
                    f" ({self._explain(why)}): make some, or ask for less by the option max_bytes"
                    " of the URL."
                ) from None
            # A server without JetStream has nobody who responds; one of a new cluster may be mute.
            mute = isinstance(
                why, nats.errors.NoRespondersError | nats.js.errors.ServiceUnavailableError
            )
            if asyncio.get_running_loop().time() - begun > (2 if mute else LEADERLESS):
                raise UserError(
                    f"{self.label} has no JetStream that answers ({self._explain(why)}): "
                    "start the server with --jetstream, or leave ?stream= out of the URL."
                ) from None
            await asyncio.sleep(0.1)

    async def _consume(self, client: Client) -> None:
        inbox = client.new_inbox()
        self._due = 1
        self._found.clear()
        self._alive = asyncio.get_running_loop().time()
        subscription = await client.subscribe(inbox, cb=self._take_entry)
        config = api.ConsumerConfig(
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
        )
        try:
            await client.jetstream(timeout=LOST_AFTER).add_consumer(self._stream, config)
        except BaseException:
            # It may have been made after all, and would deliver beside the next one.
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()
            raise

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
        epoch = (msg.headers or {}).get(EPOCH, self._epoch)
        stream = _stream_of(epoch)
        if stream != _stream_of(self._epoch) and stream not in self._found:
            if not await self._leader_has(sequence, msg.data):
                self.drop("the stream's consumer is on a server that has an old copy of it")
                return
            self._found.add(stream)
        if epoch != self._epoch and epoch not in self._behind and sequence > self._kept:
            # Either they are behind, or we: then the metadata has it.
            self._behind.add(epoch)
            self.drop("the stream has another epoch")
            return
        base = _base_of(msg.headers) or 0
        if base > self._term and base not in self._behind:
            self._behind.add(base)
            self.drop("the stream has another term")
            return
        self._due += 1
        self._next = sequence
        self._reach(min(base, self._term))
        self._next, self._entry = sequence + 1, msg.data
        self.host.on_entry((self._base + sequence) * PLACES, msg.data)
        if sequence >= self._kept:
            self._reach(self._term)

    async def _leader_has(self, sequence: int, data: bytes) -> bool:
        """Return whether an entry is in the stream for good, and not in one server's copy only."""
        assert self._client is not None
        try:
            return (await self._client.jetstream().get_msg(self._stream, sequence)).data == data
        except (nats.errors.Error, nats.js.errors.Error, OSError):
            return False

    async def _serve(self) -> None:
        await first_to_end(super()._serve(), self._watch_consumer())

    async def _watch_consumer(self) -> None:
        while True:
            await asyncio.sleep(ALIVE)
            if asyncio.get_running_loop().time() - self._alive > 3 * ALIVE:
                raise Unreachable("the stream's consumer is silent")


async def _let_go(client: Client) -> None:
    """End what a closed client has left: its tasks, and its socket."""
    # It counts as closed before it is. If its socket is stalled, or lost with something still to
    # send (from Python 3.12 on that is an error), it ends there, and does the rest never.
    tasks = [client._reading_task, client._flusher_task, client._ping_interval_task]
    tasks += [each._wait_for_msgs_task for each in client._subs.values()]
    await cancel_and_wait(*filter(None, tasks))
    client._subs.clear()
    writer = getattr(client._transport, "_io_writer", None)
    if writer is not None:
        writer.transport.abort()


async def _flush(client: Client) -> None:
    """Wait until the server has had all that the client was told to send."""
    # Twice, as the client writes its PING past what still waits in its own buffer: the first PONG
    # can come before the server has seen our SUB, and then it has not got what we are to hear.
    for _ in range(2):
        # Ours is `in_time`: theirs runs out when the loop was held up, whatever has arrived.
        await in_time(client.flush(math.ceil(5 * LOST_AFTER)))


def _stream_of(epoch: str) -> str:
    """Return the part of an epoch that is the same as long as the stream is."""
    return epoch[:16]


def _base_of(headers: dict[str, str] | None) -> int | None:
    """Return the base of an entry's term, where its headers have one."""
    base = (headers or {}).get(BASE, "")
    return int(base) if base.isdecimal() and base.isascii() and len(base) < 16 else None
