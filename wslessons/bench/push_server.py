"""The server of ``wslessons bench push``, in a process of its own.

python -m wslessons.bench.push_server [PING_INTERVAL]
"""

from __future__ import annotations

import asyncio
import sys

from wslessons import push
from wslessons.bench.tools import answer_parent, raise_descriptor_limit


async def main(ping_interval: float) -> None:
    """Serve one fleet until the parent closes the pipe."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    async with push.serve(push.Fleet(), ws_ping_interval=ping_interval) as server:
        port = int(server.url.rpartition(":")[2])

        def end() -> None:
            loop.call_soon_threadsafe(stop.set)

        answer_parent(port, end)
        await stop.wait()


if __name__ == "__main__":
    raise_descriptor_limit(4096)
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 20.0))
