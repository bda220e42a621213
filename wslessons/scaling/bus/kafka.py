"""Kafka: a topic that every server reads in full (https://kafka.apache.org/documentation/).

A number is the record's offset plus one, times 1,000, plus the event's place in the record. Signs
of life go to the topic ``NAME.presence``, whose oldest record has the epoch.

Whoever comes back and does not find the record that it has read last, as a replica leads that
lacked it, begins a new epoch, whose name begins as the old one's does and goes on with the time.
Each sign of life has its server's epoch, and the latest one is everybody's. Not handled here: a
log that lost its end of which nobody is left who had read it. A server of Kafka says nothing by
which its clients could tell that it was started anew.

What a chat asks of Kafka's settings. Ours:

- **No consumer group**: a group shares a topic out among its members, and here each has to get all.
- **One partition, the first**: one order for all rooms. With a key for each room and many
  partitions there were an order within each room only, and every server still had to read all.
- ``acks=all``: what was acknowledged is on every replica in sync, and survives the leader.
- ``enable.idempotence``: the client repeats what was not answered, and the broker knows it again. A
  broker that refuses such producers is used without: we have one message under way at a time, and
  know a repeat by its number (see `wslessons.scaling.bus.log`).
- ``fetch.max.wait.ms`` is the option `fetch_wait`. A real Kafka answers a fetch as soon as there is
  a record, so a long one costs no latency; the emulator waits until its time is up.

The broker's, or the topic's:

- ``min.insync.replicas`` 2 of 3 copies: with 1, "all replicas in sync" may be the leader alone.
- ``unclean.leader.election.enable=false`` (the default): else a replica that lags may lead, and
  acknowledged lines are gone.
- ``auto.create.topics.enable=true`` (the default), or both topics are created by hand: one
  partition, three copies.
- ``retention.ms`` (a week by default): whoever comes back later is told of a gap. The topic of the
  signs of life may keep less.
- ``cleanup.policy=delete`` (the default): ``compact`` drops all but the newest record of each key.

Not handled here: transactions, and creating topics with settings of their own.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Coroutine
from itertools import chain
from typing import Any

from wslessons.errors import extra
from wslessons.scaling.bus.transport import (
    CHECK,
    CONNECT_TIME,
    LATE,
    LOST_AFTER,
    PLACES,
    LogTransport,
    Refused,
    Unreachable,
    close_quietly,
    in_time,
)
from wslessons.scaling.bus.url import Address
from wslessons.serving import first_to_end

with extra("kafka"):
    from aiokafka import (
        AIOKafkaConsumer,
        AIOKafkaProducer,
        ConsumerRecord,
        TopicPartition,
        errors,
    )
    from aiokafka.conn import create_conn

__all__ = ["Topic"]

REFUSALS = (
    errors.MessageSizeTooLargeError,
    errors.RecordListTooLargeError,
    errors.RecordTooLargeError,
)
"""What the broker says of a record that it will never take."""
LATEST = 64
"""Signs of life that are looked at for a later epoch."""
NOT_IDEMPOTENT = (errors.ClusterAuthorizationFailedError, errors.IncompatibleBrokerVersion)
"""What comes of asking for an idempotent producer where that is not allowed, or not known."""

# The client reports every failed attempt to connect; our status says it once.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


class Topic(LogTransport):
    """A topic of Kafka; the broker creates it if it is set up to.

    Args:
        address: with the options `topic` (default: wslessons) and `fetch_wait`, the milliseconds
            for which the broker holds a fetch when it has nothing to give (default: 500, which is
            Kafka's own).
    """

    faults = (errors.KafkaError, OSError)
    slow = (TimeoutError, errors.KafkaTimeoutError, errors.RequestTimedOutError)

    def __init__(self, address: Address) -> None:
        super().__init__(f"Kafka at {address.hosts_text}")
        self._address = address
        self._tls = address.ssl_context()
        topic = address.option("topic", "wslessons")
        self._wait = address.number("fetch_wait", 500)
        self._log, self._presence = TopicPartition(topic, 0), TopicPartition(f"{topic}.presence", 0)
        self._next = 0
        """Offset of the record to read next."""
        self._record = b""
        """What was in the one before that."""
        self._producer: AIOKafkaProducer | None = None
        self._consumer: AIOKafkaConsumer | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Disconnect, and wait for all former connections to have ended. Idempotent."""
        await super().close()
        await asyncio.gather(*self._closing)

    async def publish(self, data: bytes) -> None:
        """Send to the topic beside the log."""
        await self._send(self._presence, data, ("epoch", self._epoch.encode()))

    async def flush(self) -> None:
        """Every record is acknowledged, so nothing is under way."""

    async def append(self, data: bytes, id: str, count: int, last: int) -> None:
        """Send a record, and wait until the replicas in sync have it."""
        await self._send(self._log, data, ("n", str(count).encode()))

    async def _send(self, to: TopicPartition, data: bytes, *headers: tuple[str, bytes]) -> None:
        self._check_connected()
        assert self._producer is not None
        try:
            await in_time(
                self._producer.send_and_wait(
                    to.topic, data, partition=to.partition, headers=list(headers)
                ),
                2 * LOST_AFTER,
            )
        except REFUSALS as exc:
            raise Refused(self._explain(exc)) from exc
        except self.faults as exc:
            # A producer that failed once may not be used again (its sequence has a hole).
            self._broken.set()
            raise Unreachable(self._explain(exc)) from exc

    async def _connect(self) -> None:
        options: dict[str, Any] = {
            "bootstrap_servers": self._address.hosts,
            "client_id": "wslessons",
            "request_timeout_ms": int(LOST_AFTER * 1000),
            "retry_backoff_ms": 50,
        }
        if self._tls is not None:
            options |= {"security_protocol": "SSL", "ssl_context": self._tls}
        if self._address.user:
            options |= {
                "security_protocol": "SASL_PLAINTEXT" if self._tls is None else "SASL_SSL",
                "sasl_plain_username": self._address.user,
                "sasl_plain_password": self._address.password,
            }
        try:
            try:
                self._producer = await self._start_producer(options, idempotent=True)
            except NOT_IDEMPOTENT:
                self._producer = await self._start_producer(options, idempotent=False)
            self._consumer = AIOKafkaConsumer(
                **options,
                enable_auto_commit=False,
                auto_offset_reset="none",
                fetch_max_wait_ms=self._wait,
            )
            await self._consumer.start()
            await self._assign(self._producer, self._consumer)
        except self.faults as exc:
            await self._find_cause(exc, options)
            raise

    async def _find_cause(self, error: Exception, options: dict[str, Any]) -> None:
        """Find out why nothing could be begun with, which the client logs and does not raise.

        Raises:
            UserError: the broker does not take the user name and password.
            Unreachable: nobody listens there, or whoever does is too busy to answer.
        """
        begun = not isinstance(error, errors.KafkaConnectionError)
        if begun and not self._address.user:
            return
        words = ("ssl_context", "security_protocol", "sasl_plain_username", "sasl_plain_password")
        given = {word: options[word] for word in words if word in options}
        cause = ""
        for address in self._address.hosts:
            host, _, port = address.rpartition(":")
            connecting = create_conn(host.strip("[]"), int(port), sasl_mechanism="PLAIN", **given)
            try:
                connection = await in_time(connecting, LOST_AFTER)
            except (errors.SaslAuthenticationFailed, errors.UnsupportedSaslMechanismError) as exc:
                raise self._refused(self._explain(exc)) from None
            except self.faults as exc:
                cause = self._explain(exc)
            else:
                connection.close()
                cause = LATE
            if cause == LATE:
                break
        if not begun:
            raise Unreachable(cause) from error

    async def _start_producer(
        self, options: dict[str, Any], *, idempotent: bool
    ) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **options, acks="all", enable_idempotence=idempotent, max_request_size=self.limit
        )
        try:
            await producer.start()
        except BaseException:
            self._close_producer_later(producer)
            raise
        return producer

    async def _assign(self, producer: AIOKafkaProducer, consumer: AIOKafkaConsumer) -> None:
        """Find where to begin, and what has happened to the log meanwhile."""
        for topic, _ in (self._log, self._presence):
            await _until_created(producer, topic)
        consumer.assign([self._log, self._presence])
        oldest = await consumer.beginning_offsets([self._log, self._presence])
        newest = await consumer.end_offsets([self._log, self._presence])
        first, end = oldest[self._log], newest[self._log]
        epoch = await self._find_epoch(producer, consumer, oldest[self._presence], newest)
        same = _life_of(epoch) == _life_of(self._epoch)
        behind = same and (end < self._next or not await self._has_what_we_read(consumer, first))
        if behind:
            # Numbers come again.
            epoch = f"{_life_of(epoch)}+{int(time.time() * 1000):012x}{secrets.token_hex(4)}"
        if not same or epoch > self._epoch:
            # What is left of an old epoch of the same log has been read under that one.
            if not same:
                self._next = await self._place(consumer, first, end)
            elif behind:
                self._next = end
            self._epoch, self._record = epoch, b""
            self.host.on_opened(epoch, _before(self._next))
            self.tail = self.tail or end * PLACES
        elif first > self._next:
            self.host.on_trimmed(_before(first), None)
            self._next, self._record = first, b""
        consumer.seek(self._log, self._next)
        consumer.seek(self._presence, max(newest[self._presence], oldest[self._presence]))

    async def _has_what_we_read(self, consumer: AIOKafkaConsumer, first: int) -> bool:
        """Return whether the record read last is still there, or is not kept any more."""
        if not self._record or first >= self._next:
            return True
        consumer.pause(self._presence)
        consumer.seek(self._log, self._next - 1)
        record = await consumer.getone(self._log)
        consumer.resume(self._presence)
        # Where records are compacted, the next one comes in its place.
        return record.offset >= self._next or record.value == self._record

    async def _place(self, consumer: AIOKafkaConsumer, first: int, end: int) -> int:
        """Return the offset after which the newest `history` events are."""
        place, known, step = end, 0, 8
        consumer.pause(self._presence)
        while place > first and known < self.history:
            # Backwards, in ever larger steps: a record has one event, or hundreds.
            since, until, step = max(first, place - step), place, 2 * step
            consumer.seek(self._log, since)
            counts: dict[int, int] = {}
            while (await consumer.position(self._log)) < until:
                record = await consumer.getone(self._log)
                count = dict(record.headers).get("n", b"")
                counts[record.offset] = int(count) if count.isdigit() and len(count) < 5 else 1
            while place > since and known < self.history:
                place -= 1
                known += counts.get(place, 0)
        consumer.resume(self._presence)
        return place

    async def _find_epoch(
        self,
        producer: AIOKafkaProducer,
        consumer: AIOKafkaConsumer,
        oldest: int,
        newest: dict[TopicPartition, int],
    ) -> str:
        """Return the latest epoch of the log; whoever comes first gives it one."""
        end = newest[self._presence]
        if end == oldest:
            proposal = [("epoch", secrets.token_hex(8).encode())]
            topic, partition = self._presence
            await producer.send_and_wait(topic, b"[]", partition=partition, headers=proposal)
        consumer.pause(self._log)
        consumer.seek(self._presence, oldest)
        epoch = _life_of(_epoch_of(await consumer.getone(self._presence)))
        consumer.seek(self._presence, max(oldest, end - LATEST))
        while (await consumer.position(self._presence)) < end:
            later = _epoch_of(await consumer.getone(self._presence))
            if _life_of(later) == _life_of(epoch):
                epoch = max(epoch, later)
        consumer.resume(self._log)
        return epoch

    async def _serve(self) -> None:
        await first_to_end(self._read(), self._watch())

    async def _read(self) -> None:
        assert self._consumer is not None
        while True:
            ready = await self._consumer.getmany(timeout_ms=int(CHECK * 1000))
            for record in chain.from_iterable(ready.values()):
                if record.topic == self._presence.topic:
                    self.host.on_message(record.value or b"")
                    epoch = _epoch_of(record)
                    if epoch > self._epoch and _life_of(epoch) == _life_of(self._epoch):
                        raise Unreachable("the topic has another epoch")
                else:
                    self._next, self._record = record.offset + 1, record.value or b""
                    self.host.on_entry(self._next * PLACES, self._record)

    async def _watch(self) -> None:
        """Ask for the cluster's metadata again and again, as a sign of life."""
        assert self._producer is not None
        while True:
            await asyncio.sleep(CHECK)
            async with asyncio.timeout(LOST_AFTER):
                await self._producer.client.fetch_all_metadata()

    async def _disconnect(self) -> None:
        producer, consumer = self._producer, self._consumer
        self._producer = self._consumer = None
        if producer is not None:
            self._close_producer_later(producer)
        if consumer is not None:
            # Its `stop` ends early, with the cancellation of its own fetch, if one is under way.
            self._close_later(consumer.stop, consumer._client.close)

    def _close_producer_later(self, producer: AIOKafkaProducer) -> None:
        """Let it give up what it has not sent, which we repeat ourselves.

        Its own `stop` sends that first, and an idempotent producer tries for ever: cut short, it
        goes on in secret, and a broker that comes back hears it.
        """
        producer._closed = True
        self._close_later(producer._sender.close, producer.client.close)

    def _close_later(self, *closing: Callable[[], Coroutine[Any, Any, object]]) -> None:
        # In its own time: what is under way times out, then three nodes are asked who leads now.
        task = asyncio.create_task(close_quietly(*closing, seconds=5 * LOST_AFTER))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _until_created(producer: AIOKafkaProducer, topic: str) -> None:
    """Wait for a topic, which a busy broker creates later than its client is ready to wait."""
    loop = asyncio.get_running_loop()
    until = loop.time() + CONNECT_TIME / 2
    while True:
        try:
            await producer.partitions_for(topic)
        except errors.UnknownTopicOrPartitionError:
            if loop.time() > until:
                raise
        else:
            return


def _epoch_of(record: ConsumerRecord[Any, Any]) -> str:
    """Return the epoch of the server that sent a sign of life."""
    return (dict(record.headers).get("epoch") or b"").decode(errors="replace")


def _life_of(epoch: str) -> str:
    """Return the part of an epoch that is the same as long as the topic is."""
    return epoch.partition("+")[0]


def _before(offset: int) -> int:
    """Return the last number that an event before this record can have."""
    return (offset + 1) * PLACES - 1 if offset else 0
