"""Lesson 7's exercises: frames made by hand, and a broadcast that is judged by what it sends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from websockets import ServerConnection
from websockets.frames import Frame, Opcode

from wslessons.exercises.exercise import Exercise, behaviour
from wslessons.exercises.trial import Client, Nothing, Trial, shown

__all__ = ["EXERCISES", "Frugal", "MakeFrame"]


class MakeFrame(Exercise):
    """Write a function that returns a text as one frame, the way a server sends it: unmasked.

    The first byte is 0x81 (FIN and TEXT). The second is the payload's length, if that is below
    126; for up to 65,535 bytes it is 126, and the length follows in two bytes, the big end first.
    """

    lesson = 7
    stub = """\
def make_frame(text):
    pass  # your code here
"""
    solution_source = """\
def make_frame(text):
    payload = text.encode()
    if len(payload) < 126:
        return bytes([0x81, len(payload)]) + payload
    return bytes([0x81, 126]) + len(payload).to_bytes(2, "big") + payload
"""
    hints = (
        "Encode first: the length in the header counts bytes, and a letter such as ü has two.",
        "`bytes([0x81, n])` makes two bytes of two numbers. `n.to_bytes(2, 'big')` makes two bytes"
        " of one number.",
    )

    async def _same(self, trial: Trial, text: str, hints: list[tuple[bytes, str]]) -> None:
        got = await trial.call(text)
        expected = Frame(Opcode.TEXT, text.encode()).serialize(mask=False)
        if got == expected:
            return
        if not isinstance(got, bytes):
            hint = "Return bytes: the header, and behind it the payload."
        else:
            hint = next(
                (hint for start, hint in hints if got.startswith(start)),
                "Look at each byte of the header: 0x81, the length, then the payload.",
            )
        begins = got[:8] if isinstance(got, bytes) else got
        trial.require(False, f"{shown(expected[:8])} and so on", begins, hint)

    @behaviour("'hi' becomes 81 02 and the two letters")
    async def short(self, trial: Trial) -> None:
        """Two bytes of header."""
        await self._same(
            trial,
            "hi",
            [
                (b"\x01", "0x01 is TEXT without FIN, a fragment: more would have to follow."),
                (b"\x81\x82", "That is the mask bit, which only clients set: the length alone."),
                (b"\x81\x7e", "126 announces two more bytes: below 126 the length itself stands."),
                (b"hi", "The header comes first."),
            ],
        )

    @behaviour("'zwölf' is 6 bytes long")
    async def encoded(self, trial: Trial) -> None:
        """Characters are not bytes."""
        await self._same(
            trial,
            "zwölf",
            [(b"\x81\x05", "Five characters, and six bytes in UTF-8: count after encoding.")],
        )

    @behaviour("125 and 126 bytes, and 40,000")
    async def long(self, trial: Trial) -> None:
        """The length in two bytes of its own."""
        late = "Up to 125 the length stands in the second byte; 126 there means: two bytes follow."
        await self._same(trial, "x" * 125, [(b"\x81\x7e", late)])
        hints = [
            (b"\x81\x7ex", "After 126 come two bytes with the length, and then the payload."),
            (b"\x81\x7e\x7e\x00", "Network order: the big end first."),
            (b"\x81\x7f", "127 announces eight bytes: for up to 65,535 use 126 and two."),
        ]
        await self._same(trial, "x" * 126, hints)
        await self._same(trial, "x" * 40_000, hints)

    def crash_hint(self, error: BaseException) -> str:
        """For what a header of two bytes does at 256 and above."""
        if isinstance(error, ValueError):
            return "A byte holds 0 to 255: a longer payload needs the length in two bytes."
        return super().crash_hint(error)


class Frugal(Exercise):
    """Repair `frugal`: it sends every line to every connection, one system call for each.

    The same lines, each a message of its own and in the same order, shall reach everybody, with at
    most two writes for each connection. Use `connection.transport.write`, which takes bytes, and
    `text_frame` from `wslessons.connection`, which makes a frame of a payload in bytes.
    """

    lesson = 7
    kind = "async function"
    stub = """\
async def frugal(connections, lines):
    for line in lines:
        for connection in connections:
            await connection.send(line)
"""
    solution_source = """\
from wslessons.connection import text_frame


async def frugal(connections, lines):
    data = b"".join(text_frame(line.encode()) for line in lines)
    for connection in connections:
        connection.transport.write(data)
"""
    hints = (
        "What is the same for everybody need not be made for each: make all frames before the loop"
        " over the connections.",
        "Frames may follow each other in one write: each says where it ends. `b''.join(...)` puts"
        " them together.",
    )
    # It is called with connections, and those can't be handed to another process.
    portable = False
    members = 20
    lines = (*(f"line {number}" for number in range(49)), "a long line, " * 20)

    @contextlib.asynccontextmanager
    async def _sent(self, trial: Trial) -> AsyncGenerator[tuple[list[Client], int]]:
        """Call the answer with real connections; give their clients and the count of writes."""
        connections: list[ServerConnection] = []
        arrived = asyncio.Semaphore(0)
        writes = 0

        async def handler(connection: ServerConnection) -> None:
            connections.append(connection)
            arrived.release()
            await connection.wait_closed()

        class Counted:
            """A transport that counts."""

            def __init__(self, transport: Any) -> None:
                self._transport = transport

            def __getattr__(self, name: str) -> Any:
                return getattr(self._transport, name)

            def write(self, data: Any) -> None:
                nonlocal writes
                writes += 1
                self._transport.write(data)

            def writelines(self, data: Any) -> None:
                self.write(b"".join(data))

        url = await trial.serve_this(handler, theirs=False)
        clients = []
        for _ in range(self.members):
            clients.append(await trial.connect(url, max_queue=None))
            await arrived.acquire()
        transports = [connection.transport for connection in connections]
        for connection, transport in zip(connections, transports, strict=True):
            counted: Any = Counted(transport)
            connection.transport = counted
        await trial.call(list(connections), list(self.lines))
        for connection, transport in zip(connections, transports, strict=True):
            connection.transport = transport
        yield clients, writes

    @behaviour("20 members hear all 50 lines, in order")
    async def everything(self, trial: Trial) -> None:
        """Nothing is lost, joined or turned round."""
        async with self._sent(trial) as (clients, _):
            for client in (clients[0], clients[-1]):
                for number, line in enumerate(self.lines):
                    got = await client.recv()

                    def hint(got: Any, number: int = number) -> str:
                        if isinstance(got, Nothing) and number == 0:
                            return "Somebody hears nothing at all: write to every connection."
                        if isinstance(got, Nothing):
                            return f"Only {number} of 50 lines came: each of them has to."
                        if isinstance(got, str) and len(got) > 500:
                            return "That is one message: each line is a frame of its own."
                        if got == self.lines[-1 - number]:
                            return "The order is that of the list."
                        return "Each line is one message, exactly as it is."

                    trial.expect(got, line, hint)

    @behaviour("at most 40 writes, where there were 1,000")
    async def writes(self, trial: Trial) -> None:
        """Count what goes to the sockets."""
        async with self._sent(trial) as (_, writes):
            if writes >= self.members * len(self.lines):
                hint = (
                    "A write for each line and each connection, as before: whatever makes the"
                    " frames, the system calls are what costs."
                )
            else:
                hint = "Fewer than before. All that is ready for one connection fits in one write."
            trial.require(
                writes <= 2 * self.members, f"at most {2 * self.members} writes", writes, hint
            )


EXERCISES = (MakeFrame(), Frugal())
