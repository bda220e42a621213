"""Heartbeats: notice in bounded time that the other side is gone, and how far away it is.

TCP tells nobody when a cable is pulled or a laptop sleeps: a server that only listens keeps such a
connection for ever. So ask, with the Ping frame that every endpoint must answer (RFC 6455, sections
5.5.2 and 5.5.3)::

    async def handler(connection):
        with Heartbeat(connection, interval=15, timeout=45):
            async for message in connection:
                ...

    async with serve(handler, "127.0.0.1", 8765, ping_interval=None):
        ...

The rule: whatever arrives is a sign of life. A connection that stays silent for `timeout` seconds
after a ping is dropped. As a ping goes out at least every `interval`, a peer that vanishes is
noticed within `interval` + `timeout`, and one that answers within `timeout` is never dropped.

Our own slowness is not held against the peer: neither a loop of ours that was blocked, nor a
handler that does not read what has arrived (`max_queue` is full and pongs wait behind messages).

`websockets` does much of this by itself (``ping_interval``, ``ping_timeout``; hence the None
above), and that is enough for most servers. What this adds: the round-trip time of every beat as an
event, any data as a sign of life, a drop that waits for nothing, fairness towards slow peers of a
busy server, first beats spread out, and one timer for all connections in place of a task for each.

Not handled here: a browser's page, which answers pings but can send none (see `ping` in
`wslessons.chat.events`), and a peer that reads so slowly that pings wait behind data all that time.
"""

from wslessons.heartbeat.heartbeat import Beat, Heartbeat
from wslessons.heartbeat.pacer import Pacer

__all__ = ["Beat", "Heartbeat", "Pacer"]
