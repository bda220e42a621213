"""Redis or Valkey: `Channels`, publish and subscribe, and `Streams`, a log.

What is published to a channel goes to whoever listens, at most once.

With a stream, entries are added to the stream ``{NAME}``. Beside it, ``{NAME}:meta`` holds the
epoch and the newest number, ``{NAME}:node:ID`` the newest sequence number of a server, by which a
repeat is recognized, and signs of life go to the channel ``{NAME}:presence``. A script does it all
in one step. The braces keep all this on one server of a Redis Cluster, which we find.
An entry's id is ``N-0`` with N the number of the last event in it.

**No number means two events.** A primary that fails can take with it what its replicas did not have
yet, and one that is restored from a copy has lost the newest entries; nobody may be left who has
read them. So whoever finds another process at work than the one that ``{NAME}:meta`` names puts a
mark into the stream, whose number is the time in microseconds: new ones are above all that were
given before, as long as those were fewer than a million a second. At the mark all readers are told
that events may be missing, and nobody knows how many; where a primary is restarted, too, which has
kept all but can't prove it. Where the broker does not say which process it is (a user needs the
permission to ask ``INFO``), a server that had read further notices, and gives the log a new epoch.

Sources: https://redis.io/docs/latest/develop/pubsub/ and
https://redis.io/docs/latest/develop/data-types/streams/
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from wslessons.errors import UserError, extra
from wslessons.scaling.bus.transport import (
    CHECK,
    LATE,
    LOST_AFTER,
    PLACES,
    LogTransport,
    Transport,
    Unreachable,
    close_quietly,
    in_time,
)
from wslessons.scaling.bus.url import Address
from wslessons.serving import first_to_end

with extra("redis"):
    from redis import exceptions as errors
    from redis.asyncio import Redis, Sentinel
    from redis.asyncio.client import PubSub
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

__all__ = ["Channels", "Streams"]

OPEN = """
-- KEYS: stream, meta. ARGV: an epoch to begin with; the epoch, number and entry read last.
-- Returns epoch, newest number, the number after which to read, as all later ones of this epoch are
-- kept, and that of the newest mark.
local epoch = redis.call('HGET', KEYS[2], 'epoch')
local number = tonumber(redis.call('HGET', KEYS[2], 'number') or '0')
local info = redis.pcall('INFO', 'server')
local run = type(info) == 'string' and string.match(info, 'run_id:(%x+)')
if run and run ~= redis.call('HGET', KEYS[2], 'run') then
  if epoch then
    local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
    local taken = newest and tonumber(string.match(newest[1], '%d+')) or 0
    local time = redis.call('TIME')
    number = math.max(number + 1, taken + 1, time[1] * 1000000 + time[2])
    local mark = string.format('%.0f', number)
    redis.call('XADD', KEYS[1], mark .. '-0', 'n', 1, 'i', 'doubt', 'e', epoch, 'd', '')
    redis.call('HSET', KEYS[2], 'number', mark, 'doubt', mark)
  end
  redis.call('HSET', KEYS[2], 'run', run)
end
local doubt = tonumber(redis.call('HGET', KEYS[2], 'doubt') or '0')
local seen = tonumber(ARGV[3])
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
local before = number
if oldest then
  before = tonumber(string.match(oldest[1], '%d+')) - (tonumber(oldest[2][2]) or 1)
end
local same = true
if epoch == ARGV[2] and seen > 0 then
  local at = redis.call('XRANGE', KEYS[1], ARGV[3] .. '-0', ARGV[3] .. '-0')[1]
  if at then same = at[2][4] == ARGV[4]
  else same = doubt > seen or (number >= seen and before >= seen) end
end
if not epoch or not same then
  epoch = ARGV[1]
  redis.call('HSET', KEYS[2], 'epoch', epoch, 'from', string.format('%.0f', number))
end
local from = tonumber(redis.call('HGET', KEYS[2], 'from') or '0')
return {epoch, number, math.max(before, from), doubt}
"""
APPEND = """
-- KEYS: stream, meta, the server's.
-- ARGV: count, entry, data, last sequence number, entries kept, epoch.
-- Returns whether the epoch is still this one; an entry that is there already is not added again.
if redis.call('HGET', KEYS[2], 'epoch') ~= ARGV[6] then return 0 end
local last = tonumber(redis.call('GET', KEYS[3]) or '0')
if last >= tonumber(ARGV[4]) then return 1 end
-- Somebody else may have added an entry, and with it taken the numbers up to its own.
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local taken = newest and tonumber(string.match(newest[1], '%d+')) or 0
local number = redis.call('HINCRBY', KEYS[2], 'number', ARGV[1])
if number - ARGV[1] < taken then
  number = taken + ARGV[1]
  redis.call('HSET', KEYS[2], 'number', string.format('%.0f', number))
end
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[5], string.format('%.0f-0', number),
  'n', ARGV[1], 'i', ARGV[2], 'e', ARGV[6], 'd', ARGV[3])
redis.call('SET', KEYS[3], ARGV[4], 'EX', 86400)
return 1
"""
HISTORY = """
-- KEYS: stream. ARGV: events that are wanted, the newest.
-- Returns the number before the entry that has the oldest of them.
local left, before, last = tonumber(ARGV[1]), false, '+'
while left > 0 do
  local entries = redis.call('XREVRANGE', KEYS[1], last, '-', 'COUNT', 16)
  if #entries == 0 then break end
  for _, entry in ipairs(entries) do
    if left <= 0 then break end
    local count = entry[2][1] == 'n' and tonumber(entry[2][2]) or 1
    if not (count >= 1 and count <= 1000) then count = 1 end
    left = left - count
    before = string.format('%.0f', tonumber(string.match(entry[1], '%d+')) - count)
    last = '(' .. entry[1]
  end
end
return before
"""
COUNT = 200
"""Entries in one read."""
DOUBT = "doubt"
"""The id of a mark."""
MOST_ADDRESSES = 32
"""Servers that are tried in one attempt to connect, those of a cluster that send us on included."""


class Channels(Transport):
    """A channel of Redis.

    Args:
        address: with the options `channel` (default: wslessons) and `sentinel`, the name of the
            service that the hosts, Sentinels, watch.
    """

    faults = (errors.RedisError, OSError)
    slow = (errors.TimeoutError, TimeoutError)

    def __init__(self, address: Address) -> None:
        super().__init__(f"Redis at {address.hosts_text}")
        self._address = address
        self.channel = address.option("channel", "wslessons")
        self._service = address.option("sentinel", "-") if address.has("sentinel") else ""
        address.ssl_context()  # for its error: the client takes the file
        self._tls: dict[str, Any] = {}
        if address.tls:
            self._tls = {"ssl": True, "ssl_ca_certs": address.ca}
        self._client: Redis | None = None
        self._pubsub: PubSub | None = None
        self._clients: list[Redis] = []
        self._primary = ("", 0)

    async def publish(self, data: bytes) -> None:
        """Publish to the channel."""
        await self._do(lambda client: client.publish(self.channel, data))

    async def flush(self) -> None:
        """Every command is answered, so nothing is under way."""

    async def _connect(self) -> None:
        error: Exception = TimeoutError()
        addresses = await self._primaries()
        for address in addresses:
            self._primary = address
            self._client = client = self._new_client()
            try:
                await self._prepare(client)
                return
            except errors.MovedError as exc:
                # A cluster, of which another server has our keys.
                if len(addresses) < MOST_ADDRESSES:
                    addresses.append((exc.host or address[0], exc.port))
                error = exc
            except (errors.AuthenticationError, errors.AuthorizationError) as exc:
                raise self._refused(exc) from None
            except self.faults as exc:
                error = exc
        raise error

    async def _primaries(self) -> list[tuple[str, int]]:
        pairs = [(host, int(port)) for host, port in map(_split, self._address.shuffled())]
        if not self._service:
            return pairs
        sentinel = Sentinel(
            pairs,
            socket_timeout=LOST_AFTER,
            socket_connect_timeout=LOST_AFTER,
            retry=_no_retry(),
            **self._tls,
        )
        try:
            return [await sentinel.discover_master(self._service)]
        finally:
            for each in sentinel.sentinels:
                await each.aclose()

    def _new_client(self) -> Redis:
        host, port = self._primary
        client = Redis(
            host=host,
            port=port,
            db=self._address.database,
            username=self._address.user or None,
            password=self._address.password or None,
            # Ours is `in_time`: theirs runs out when the loop was held up, whatever has arrived.
            socket_timeout=None,
            socket_connect_timeout=LOST_AFTER,
            retry=_no_retry(),
            **self._tls,
        )
        self._clients.append(client)
        return client

    async def _prepare(self, client: Redis) -> None:
        if (await self._role(client)) != b"master":
            raise errors.ConnectionError("it is a replica, not the primary")
        self._pubsub = self._new_client().pubsub()
        await in_time(self._pubsub.subscribe(self.channel))
        # The answer: from now on we get everything.
        await self._pubsub.get_message(timeout=LOST_AFTER)

    async def _role(self, client: Redis) -> Any:
        return (await in_time(client.execute_command("ROLE")))[0]

    async def _serve(self) -> None:
        await first_to_end(self._listen(), self._watch())

    async def _listen(self) -> None:
        pubsub, loop = self._pubsub, asyncio.get_running_loop()
        assert pubsub is not None
        asked, silent = loop.time(), 0
        while True:
            if await self._take_message(pubsub, CHECK):
                silent = 0
            elif silent * CHECK >= LOST_AFTER:
                # So many waits, and not the time: the loop may have been held up meanwhile.
                raise Unreachable(LATE)
            else:
                silent += 1
            if loop.time() - asked > CHECK:
                asked = loop.time()
                await pubsub.ping()

    async def _take_message(self, pubsub: PubSub, timeout: float) -> bool:
        """Take the next message, or the answer to a ping; return whether one came in time."""
        message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=timeout)
        if message is not None and message["type"] == "message":
            self.host.on_message(message["data"])
        return message is not None

    async def _watch(self) -> None:
        """Ask again and again whether the primary is there, and is still the primary."""
        assert self._client is not None
        while True:
            await asyncio.sleep(CHECK)
            if (await self._role(self._client)) != b"master":
                raise Unreachable("it is a replica now")
            try:
                primaries = await self._primaries() if self._service else [self._primary]
            except self.faults:
                continue  # Sentinels that are away are no reason to leave a primary.
            if self._primary not in primaries:
                raise Unreachable("another server is the primary now")

    async def _disconnect(self) -> None:
        self._client = None
        closing = [each.aclose for each in self._clients]
        if self._pubsub is not None:
            closing = [self._drain, self._pubsub.aclose, *closing]
        await close_quietly(*closing)
        self._pubsub, self._clients = None, []

    async def _drain(self) -> None:
        """Take what has arrived already: it need not be lost with the connection."""
        while self._pubsub is not None and await self._take_message(self._pubsub, 0.05):
            pass

    async def _do(self, command: Callable[[Redis], Awaitable[Any]]) -> Any:
        self._check_connected()
        assert self._client is not None
        try:
            return await in_time(command(self._client))
        except self.faults as exc:
            # An answer that says no, as of a server that is full, comes from one that is there.
            moved = isinstance(exc, errors.ReadOnlyError | errors.MovedError)
            if moved or not isinstance(exc, errors.ResponseError):
                self._broken.set()
            raise Unreachable(self._explain(exc)) from exc


class Streams(Channels, LogTransport):
    """A stream of Redis.

    Args:
        address: with the options of `Channels` but `channel`, and `stream`; `max_len`, entries
            that are kept, about (default: 100,000).
    """

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._name = address.option("stream", "wslessons")
        # In braces it is what decides, in a cluster, which server has the key.
        self._stream = f"{{{self._name}}}"
        self._keys = [self._stream, f"{self._stream}:meta"]
        self._max_len = address.number("max_len", 100_000)
        self.channel = f"{self._stream}:presence"
        self._number = 0
        """The newest number read, and the id of its entry."""
        self._entry = ""

    async def append(self, data: bytes, id: str, count: int, last: int) -> None:
        """Add an entry, unless it is there already."""
        node = id.rpartition(":")[0]
        keys = [*self._keys, f"{self._stream}:node:{node}"]
        arguments = [count, id, data, last, self._max_len, self._epoch]
        if not await self._do(lambda client: self._append(keys, arguments, client=client)):
            self._broken.set()
            raise Unreachable("its log has begun anew")

    async def _prepare(self, client: Redis) -> None:
        await super()._prepare(client)
        self._append = client.register_script(APPEND)
        try:
            known = [secrets.token_hex(8), self._epoch, self._number, self._entry]
            opened = await in_time(client.register_script(OPEN)(self._keys, known))
            epoch, number, before, doubt = opened
        except errors.MovedError:
            raise
        except errors.ResponseError as exc:
            raise UserError(f"{self.label} can't keep the stream {self._name}: {exc}.") from None
        epoch = epoch.decode()
        if epoch != self._epoch:
            self._epoch, self._entry = epoch, ""
            self._number = max(before, await self._number_before(client, number))
            self.host.on_opened(epoch, self._number)
            self.tail = self.tail or number
        elif before > self._number:
            # Numbers have no holes but those before marks.
            count = before - self._number if doubt <= self._number else None
            self.host.on_trimmed(before, count)
            self._number, self._entry = before, ""

    async def _number_before(self, client: Redis, number: int) -> int:
        """Return the number after which to begin, to read the last `history` events."""
        before = await in_time(client.register_script(HISTORY)(self._keys[:1], [self.history]))
        return number if before is None else int(before)

    async def _serve(self) -> None:
        await first_to_end(super()._serve(), self._read(self._new_client()))

    async def _read(self, client: Redis) -> None:
        while True:
            wanted: Any = {self._stream: f"{self._number}-0"}
            answer: Any = await in_time(client.xread(wanted, COUNT, int(CHECK * 1000)))
            for _, entries in answer or []:
                for each in entries:
                    number, count, id, epoch, data = _read_entry(*each)
                    if epoch != self._epoch:
                        meta = self._keys[1]
                        if await in_time(client.hget(meta, "epoch")) != self._epoch.encode():
                            raise Unreachable("its log has begun anew")
                        data = b"an entry of somebody else"
                    self._number, self._entry = number, id
                    if id == DOUBT:
                        self.host.on_doubt(number)
                    else:
                        self.host.on_entry(number - count + 1, data)


def _read_entry(id: bytes, fields: dict[bytes, bytes]) -> tuple[int, int, str, str, bytes]:
    """Return an entry's number, its count of events, its id, epoch and data."""
    number = int(id.partition(b"-")[0])
    count = fields.get(b"n", b"1")
    return (
        number,
        min(int(count), PLACES) if count.isdigit() and len(count) < 10 else 1,
        fields.get(b"i", b"").decode(errors="replace"),
        fields.get(b"e", b"").decode(errors="replace"),
        fields.get(b"d", b""),
    )


def _no_retry() -> Retry:
    return Retry(NoBackoff(), 0)


def _split(host: str) -> tuple[str, str]:
    name, _, port = host.rpartition(":")
    return name.strip("[]"), port
