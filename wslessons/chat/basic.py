"""The chat's first two drafts, readable alone: a set and a loop, then a queue per member.

    async with serve(SetChat().handler, "127.0.0.1", 8765) as server:
        await server.serve_forever()

They promise what `ChatServer` promises to members who behave: the lines of its plain text, each to
everyone, in one order. What goes wrong with a member who does not read is what lesson 2 is about:

- `SetChat` waits for each member in turn, so one who does not read stops the whole chat;
- `QueueChat` waits for nobody, and keeps everything that one who does not read has not read.

Not handled here, and handled by `ChatServer`: that member; names and lines that look like notices;
binary messages; limits; coming back to what was missed.
"""

from __future__ import annotations

import asyncio
import contextlib

from websockets import ConnectionClosed, ServerConnection

__all__ = ["QueueChat", "SetChat"]


class SetChat:
    """A set of members, and a loop that sends each line to one after the other."""

    def __init__(self) -> None:
        self.members: set[ServerConnection] = set()

    async def handler(self, connection: ServerConnection) -> None:
        """Serve one connection: its first message is a name, the others are lines for everyone."""
        with contextlib.suppress(ConnectionClosed):
            name = str(await connection.recv()).strip()
            await connection.send(f"Welcome, {name}!")
            self.members.add(connection)
            try:
                await self.tell(f"[system] >>> {name} joined the chat")
                async for text in connection:
                    await self.tell(f"[{name}] {text}", sender=connection)
            finally:
                self.members.discard(connection)
                await self.tell(f"[system] >>> {name} left the chat")

    async def tell(self, line: str, sender: ServerConnection | None = None) -> None:
        """Send a line to everyone but its sender."""
        # A copy, as members come and go while this waits.
        for member in list(self.members):
            if member is not sender:
                # One connection that has just ended must not keep the others from the line.
                with contextlib.suppress(ConnectionClosed):
                    await member.send(line)


class QueueChat(SetChat):
    """The same with a queue per member, which a task of its own empties: nobody is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.queues: dict[ServerConnection, asyncio.Queue[str]] = {}
        """What each connection has not been sent yet; nothing bounds it."""

    async def handler(self, connection: ServerConnection) -> None:
        """Serve one connection by two tasks, which end together."""
        queue = self.queues[connection] = asyncio.Queue()
        writing = asyncio.create_task(self._write(connection, queue))
        try:
            await super().handler(connection)
        finally:
            del self.queues[connection]
            writing.cancel()
            await asyncio.wait([writing])

    async def tell(self, line: str, sender: ServerConnection | None = None) -> None:
        """Put a line into the queue of everyone but its sender; this never waits."""
        for member in self.members:
            if member is not sender:
                self.queues[member].put_nowait(line)

    async def _write(self, connection: ServerConnection, queue: asyncio.Queue[str]) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await connection.send(await queue.get())
