"""Streams of Redis or Valkey, a log (https://redis.io/docs/latest/develop/data-types/streams/).

Entries are added to the stream ``NAME``. Beside it, ``NAME:meta`` holds the epoch and the newest
number, ``NAME:node:ID`` the newest sequence number of a server, by which a repeat is told apart,
and signs of life go to the channel ``NAME:presence``. A script does it all in one step. An entry's
id is ``N-0`` with N the number of the last event in it.

A primary that fails can take with it what its replicas did not have yet. A server that had read
further than the new primary knows notices when it reconnects, and gives the log a new epoch, so
that nobody takes new events for old ones that have the same numbers.
"""

from __future__ import annotations

import secrets
from typing import Any

from wslessons.errors import UserError, need
from wslessons.scaling.bus.addresses import Address
from wslessons.scaling.bus.redis import Channels, say
from wslessons.scaling.bus.tasks import Unreachable, first_to_end
from wslessons.scaling.bus.transport import CHECK, LOST_AFTER, LogHost, LogTransport

need("redis", "redis")
from redis import exceptions as errors  # noqa: E402 -- only after the sentence above
from redis.asyncio import Redis  # noqa: E402

__all__ = ["Streams"]

OPEN = """
-- KEYS: stream, meta. ARGV: an epoch to begin with; the epoch, number and entry read last.
-- Returns epoch, newest number, and the number after which to read: what is kept of this epoch.
local epoch = redis.call('HGET', KEYS[2], 'epoch')
local number = tonumber(redis.call('HGET', KEYS[2], 'number') or '0')
local seen = tonumber(ARGV[3])
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
local before = number
if oldest then before = tonumber(string.match(oldest[1], '%d+')) - tonumber(oldest[2][2]) end
local same = true
if epoch == ARGV[2] and seen > 0 then
  local at = redis.call('XRANGE', KEYS[1], seen .. '-0', seen .. '-0')[1]
  if at then same = at[2][4] == ARGV[4] else same = number >= seen and before >= seen end
end
if not epoch or not same then
  epoch = ARGV[1]
  redis.call('HSET', KEYS[2], 'epoch', epoch, 'from', number)
end
local from = tonumber(redis.call('HGET', KEYS[2], 'from') or '0')
return {epoch, number, math.max(before, from)}
"""
APPEND = """
-- KEYS: stream, meta, the server's.
-- ARGV: count, entry, data, last sequence number, entries kept, epoch.
-- Returns whether the epoch is still this one; an entry that is there already is not added again.
if redis.call('HGET', KEYS[2], 'epoch') ~= ARGV[6] then return 0 end
local last = tonumber(redis.call('GET', KEYS[3]) or '0')
if last >= tonumber(ARGV[4]) then return 1 end
local number = redis.call('HINCRBY', KEYS[2], 'number', ARGV[1])
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[5], number .. '-0',
  'n', ARGV[1], 'i', ARGV[2], 'e', ARGV[6], 'd', ARGV[3])
redis.call('SET', KEYS[3], ARGV[4], 'EX', 86400)
return 1
"""
COUNT = 200
"""Entries in one read."""


class Streams(Channels, LogTransport):
    """A stream of Redis.

    In: `address`, with the options of `Channels` but `channel`, and `stream`; `max_len`, entries
    that are kept, about (100,000).
    """

    host: LogHost

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._stream = address.option("stream", "wslessons")
        self._keys = [self._stream, f"{self._stream}:meta"]
        self._max_len = address.number("max_len", 100_000)
        self.channel = f"{self._stream}:presence"
        self.tail: dict[int, int] = {}
        self._epoch = ""
        self._number = 0
        """The newest number read, and the id of its entry."""
        self._entry = ""

    async def append(self, group: str, data: bytes, id: str, count: int, last: int) -> None:
        """Add an entry, unless it is there already."""
        node = id.partition(":")[0]
        keys = [*self._keys, f"{self._stream}:node:{node}"]
        arguments = [count, id, data, last, self._max_len, self._epoch]
        if not await self._do(lambda client: self._append(keys, arguments, client=client)):
            self._broken.set()
            raise Unreachable("its log has begun anew")

    async def _prepare(self, client: Redis) -> None:
        await super()._prepare(client)
        self._append = client.register_script(APPEND)
        try:
            epoch, number, before = await client.register_script(OPEN)(
                self._keys, [secrets.token_hex(8), self._epoch, self._number, self._entry]
            )
        except errors.ResponseError as exc:
            raise UserError(f"{self.label} can't keep the stream {self._stream}: {exc}.") from None
        epoch = epoch.decode()
        if epoch != self._epoch:
            self._epoch, self._entry = epoch, ""
            self._number = max(before, await self._number_before(client, number))
            self.host.opened(epoch, {0: self._number})
            self.tail = self.tail or {0: number}
        elif before > self._number:
            self.host.trimmed(0, before, before - self._number)
            self._number, self._entry = before, ""

    async def _number_before(self, client: Redis, number: int) -> int:
        """Return the number after which to begin, to read the last `history` entries."""
        entries: Any = await client.xrevrange(self._stream, count=self.history)
        if not entries:
            return number
        id, fields = entries[-1]
        return int(id.partition(b"-")[0]) - int(fields[b"n"])

    async def _serve(self) -> None:
        reader = self._new_client(CHECK + LOST_AFTER)
        try:
            await first_to_end(super()._serve(), self._read(reader))
        except (errors.RedisError, OSError) as exc:
            raise Unreachable(say(exc)) from exc

    async def _read(self, client: Redis) -> None:
        while True:
            answer: Any = await client.xread(
                {self._stream: f"{self._number}-0"}, count=COUNT, block=int(CHECK * 1000)
            )
            for _, entries in answer or []:
                for id, fields in entries:
                    if fields[b"e"].decode() != self._epoch:
                        raise Unreachable("its log has begun anew")
                    self._number, self._entry = int(id.partition(b"-")[0]), fields[b"i"].decode()
                    first = self._number - int(fields[b"n"]) + 1
                    self.host.entry(0, first, 1, fields[b"d"])
