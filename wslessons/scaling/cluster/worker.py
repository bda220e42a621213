"""One chat server in a process of its own, run by a `wslessons.scaling.cluster.Cluster`.

It is told what to do on stdin and answers on stdout, see `messages`. When its stdin ends, it closes
its clients with 1001 and ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import statistics
import sys
import time
from collections import deque

import msgspec
from websockets import Server, ServerConnection

from wslessons import serving
from wslessons.chat.connection import LibraryConnection
from wslessons.chat.server import ChatServer
from wslessons.client.stdin import piped_lines
from wslessons.errors import UserError
from wslessons.limits import ConnectionLimit, raise_descriptors
from wslessons.logs import fold_accept_errors, log_to
from wslessons.processes import free_port
from wslessons.scaling.bus import Bus, Event, from_url
from wslessons.scaling.cluster.server import Answer, Config, Failed, Ready, Stats
from wslessons.serving import cancel_and_wait, first_to_end

GOODBYE = 3.0
"""Seconds to close all clients and leave the bus when the cluster is gone."""


class _Counted(LibraryConnection):
    """A connection that counts the messages it brings."""

    def __init__(self, connection: ServerConnection, meter: Meter) -> None:
        super().__init__(connection)
        self._meter = meter
        self._named = False

    async def recv(self) -> str | bytes:
        """Return the next message.

        Raises:
            wslessons.chat.connection.Gone: the connection has ended.
        """
        data = await super().recv()
        self._meter.said += self._named
        self._named = True
        return data


class Meter:
    """Count what one server does."""

    def __init__(self, chat: ChatServer, bus: Bus) -> None:
        self.said = 0
        self._heard = 0
        self._lags: deque[float] = deque(maxlen=100)
        self._chat, self._bus = chat, bus

    async def handler(self, connection: ServerConnection) -> None:
        """Serve one connection, counted."""
        await self._chat.handle(_Counted(connection, self))

    async def listen(self) -> None:
        """Count what the bus brings from elsewhere, until it stops."""
        async for item in self._bus.subscribe():
            if isinstance(item, Event) and item.node != self._bus.node:
                self._heard += 1
                sent = item.data.get("time") if isinstance(item.data, dict) else None
                if isinstance(sent, int | float):
                    self._lags.append(max(0.0, (time.time() - sent) * 1000))

    def stats(self, server: Server) -> Stats:
        """Return the numbers as they are now."""
        bus, rooms = self._bus, self._chat.rooms
        return Stats(
            connections=len(server.connections),
            tasks=len(asyncio.all_tasks()),
            people=sum(len(room.members) + bus.members(path)[1] for path, room in rooms.items()),
            said=self.said,
            heard=self._heard,
            lag=round(statistics.median(self._lags), 2) if self._lags else None,
            waiting=bus.backlog,
            missed=bus.missed,
            unsent=bus.unsent,
            bus=bus.status.state,
            why=bus.status.why,
        )


def answer(message: Answer) -> None:
    """Write one line to the cluster; one that is gone reads none."""
    with contextlib.suppress(OSError):
        os.write(sys.stdout.fileno(), msgspec.json.encode(message) + b"\n")


async def serve(config: Config, asked: asyncio.Queue[None], stop: asyncio.Event) -> None:
    """Serve, and tell numbers when asked.

    Args:
        config: how to serve.
        asked: gets an item for each question.
        stop: ends it, when set.

    Raises:
        UserError: it can't be done.
    """
    # Without a broker there is nobody to give a sign of life to.
    options = {} if config.bus == "memory:" else {"beat": config.beat}
    async with from_url(config.bus, node=config.node, **options) as bus:
        chat = ChatServer(bus=bus, secret=config.secret, **config.chat)
        meter = Meter(chat, bus)
        # Whoever lost this server looks for it where it was: no connection may take its port.
        port = config.port or free_port()
        with serving.explained_bind_errors(config.host, port):
            server = await serving.serve(
                meter.handler,
                config.host,
                port,
                heartbeat=config.heartbeat,
                limit=ConnectionLimit(config.max_connections, config.max_per_address),
                reuse_port=config.reuse_port or None,
                **chat.options,
            )
        for listening in server.sockets:
            if config.send_buffer:
                # Accepted sockets inherit it.
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, config.send_buffer)
        answer(Ready(serving.urls(server)[0]))

        async def tell() -> None:
            while True:
                await asked.get()
                answer(meter.stats(server))

        async def stopped() -> None:
            await stop.wait()

        try:
            await first_to_end(stopped(), tell(), meter.listen())
        finally:
            await serving.shut(server)


async def main() -> None:
    """Take the configuration, and serve while there is somebody to serve for."""
    lines = piped_lines()
    asked: asyncio.Queue[None] = asyncio.Queue()
    config = msgspec.json.decode(await anext(lines), type=Config)

    async def take_questions() -> None:
        async for line in lines:
            if line:
                # As by a handler that computes, and forgets that others wait.
                time.sleep(float(line))  # noqa: ASYNC251
            else:
                asked.put_nowait(None)

    with serving.stop_event() as stop, fold_accept_errors():
        work = asyncio.create_task(serve(config, asked, stop))
        owned = asyncio.create_task(take_questions())
        try:
            await asyncio.wait([work, owned], return_when=asyncio.FIRST_COMPLETED)
            stop.set()
            # A server says goodbye; one that is still looking for its broker has nobody to tell.
            await asyncio.wait([work], timeout=GOODBYE)
            if work.done():
                work.result()
        except UserError as exc:
            answer(Failed(str(exc)))
        finally:
            await cancel_and_wait(work, owned)


if __name__ == "__main__":
    log_to(sys.stderr, logging.WARNING)
    raise_descriptors()
    serving.run_on(sys.argv[1], main())
