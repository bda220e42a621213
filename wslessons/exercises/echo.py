"""Lesson 1's exercises: handlers for one connection at a time."""

from __future__ import annotations

import math
import time
from typing import Any

from wslessons.exercises.exercise import HandlerExercise, behaviour
from wslessons.exercises.trial import Client, Nothing, Trial

__all__ = ["EXERCISES", "Counter", "Nap", "ShortOnly", "Shout"]


SHARED = (
    "All connections share this number, as it is kept outside of the handler. A name that is set"
    " inside belongs to one connection."
)
BEGIN = "Each connection begins with 1: set the number to 0 before the loop, and add 1 to it in it."


class Shout(HandlerExercise):
    """Write a handler that answers every text in capital letters, and everything binary unchanged.

    It goes on answering for as long as the client stays.
    """

    lesson = 1
    stub = """\
async def shout(connection):
    pass  # your code here
"""
    solution_source = """\
async def shout(connection):
    async for message in connection:
        await connection.send(message.upper() if isinstance(message, str) else message)
"""
    hints = (
        "A handler gets one connection. `async for message in connection` gives each message in"
        " turn, and ends when the client leaves.",
        "A text arrives as `str`, everything binary as `bytes`: `isinstance(message, str)` tells"
        " them apart. `str` has a method `upper()`.",
        "Inside the loop: `await connection.send(...)`. Without `await` nothing is sent.",
    )

    @behaviour("the text 'hello' is answered with 'HELLO'")
    async def capitals(self, trial: Trial) -> None:
        """One text."""

        def hint(got: Any) -> str:
            if isinstance(got, Nothing):
                if got.code == 1000:
                    return "The handler returned without answering: what it returns goes nowhere."
                return "Nothing was sent: use await connection.send(...)."
            if got == "hello":
                return "That is the message as it came: str has a method upper()."
            return "Send the text in capitals, and nothing around it."

        client = await trial.connect(await trial.serve())
        await trial.asks(client, "hello", "HELLO", hint)

    @behaviour("the second and the third text are answered, too")
    async def again(self, trial: Trial) -> None:
        """Three texts over one connection."""
        client = await trial.connect(await trial.serve())
        await client.send("one")
        await client.recv()
        for text in ("two", "three"):
            await trial.asks(
                client,
                text,
                text.upper(),
                "The connection lives as long as the handler runs: receive in a loop, such as"
                " async for message in connection.",
            )

    @behaviour("binary data comes back unchanged")
    async def binary(self, trial: Trial) -> None:
        """Bytes that upper() would change."""

        def hint(got: Any) -> str:
            if got == b"ABC\x00\xff":
                return "bytes have an upper(), too. Change a message only if it is a str."
            if isinstance(got, str):
                return "Binary data goes back as bytes, without being made into text."
            return "A message can be bytes: send those back as they are."

        client = await trial.connect(await trial.serve())
        await trial.asks(client, b"abc\x00\xff", b"abc\x00\xff", hint)


class Counter(HandlerExercise):
    """Write a handler that answers each message with how many this connection has sent so far.

    The first message is answered with the text "1", the second with "2". Each connection counts
    for itself.
    """

    lesson = 1
    stub = """\
async def counter(connection):
    pass  # your code here
"""
    solution_source = """\
async def counter(connection):
    count = 0
    async for _ in connection:
        count += 1
        await connection.send(str(count))
"""
    hints = (
        "A handler is called once for each connection, so what is set inside it belongs to that"
        " connection alone.",
        "Set a number to 0 before the loop, add 1 in it, and send it as text: `str(count)`.",
    )

    @behaviour("the first message is answered with '1'")
    async def first(self, trial: Trial) -> None:
        """One message."""

        def hint(got: Any) -> str:
            if got == "0":
                return "The message that is being answered counts, too: add 1 before you send."
            if isinstance(got, Nothing):
                return "Nothing was sent: use await connection.send(...)."
            if isinstance(got, bytes):
                return "Send text: str(count)."
            if got.isdecimal():
                return BEGIN
            return "Send the number alone, as text."

        client = await trial.connect(await trial.serve())
        await trial.asks(client, "a", "1", hint)

    @behaviour("three messages are answered with '1', '2', '3'")
    async def on(self, trial: Trial) -> None:
        """Three messages, one of them binary."""
        url = await trial.serve()
        client, other = await trial.connect(url), await trial.connect(url)
        alike = await self.begins(client) == await self.begins(other)

        def hint(got: Any) -> str:
            if isinstance(got, str) and got.isdecimal() and int(got) > 2:
                return BEGIN if alike else SHARED
            if got == "1":
                return "The number begins anew with each message: set it once, before the loop."
            if isinstance(got, Nothing):
                return "Only the first message was answered: receive in a loop."
            return "Each message adds one, whatever is in it, binary ones as well."

        await trial.asks(client, b"\x00", "2", hint)
        await trial.asks(client, "c", "3", hint)

    @behaviour("two clients count apart")
    async def apart(self, trial: Trial) -> None:
        """Two connections at once, and a third one after them."""
        url = await trial.serve()
        alice, bob = await trial.connect(url), await trial.connect(url)
        begun = [await self.begins(alice), await self.begins(bob)]
        for got in begun:
            trial.expect(got, "1", BEGIN if begun[0] == begun[1] else SHARED)
        await trial.asks(alice, "c", "2", SHARED)
        await alice.close()
        carol = await trial.connect(url)
        await trial.asks(carol, "d", "1", SHARED)

    @staticmethod
    async def begins(client: Client) -> Any:
        """Send a first message, and return its answer.

        Args:
            client: one that has sent nothing yet.

        Returns:
            The answer, or a `Nothing`.
        """
        await client.send("a")
        return await client.recv()


class ShortOnly(HandlerExercise):
    """Write a handler that echoes short messages and refuses long ones.

    A message of at most 20 characters is sent back unchanged. At a longer one the handler closes
    the connection with code 1008 and a reason of your own.
    """

    lesson = 1
    stub = """\
async def short_only(connection):
    pass  # your code here
"""
    solution_source = """\
async def short_only(connection):
    async for message in connection:
        if len(message) > 20:
            await connection.close(1008, "a message has at most 20 characters")
        else:
            await connection.send(message)
"""
    hints = (
        '`connection.close` takes a code and a reason: `await connection.close(1001, "bye")`.',
        "Look at `len(message)` before you send anything: above 20 close, otherwise send.",
    )

    @behaviour("short messages come back")
    async def short(self, trial: Trial) -> None:
        """Two short messages."""
        client = await trial.connect(await trial.serve())
        for text in ("hello", "is there anybody?"):
            await trial.asks(
                client,
                text,
                text,
                lambda got: (
                    "Each short message is echoed, one after the other: use a loop."
                    if isinstance(got, Nothing)
                    else "Send the message back as it came."
                ),
            )

    @behaviour("20 characters are still allowed, in any alphabet")
    async def border(self, trial: Trial) -> None:
        """Exactly 20 characters; and 20 that take 40 bytes."""
        client = await trial.connect(await trial.serve())
        await trial.asks(client, "x" * 20, "x" * 20, "At most 20 are allowed: 20 are not too many.")
        await trial.asks(
            client,
            "é" * 20,
            "é" * 20,
            "These are 20 characters, though UTF-8 takes 40 bytes for them: len() of the text"
            " counts characters.",
        )

    @behaviour("21 characters end the connection with 1008, and are not echoed")
    async def long(self, trial: Trial) -> None:
        """One too long."""
        client = await trial.connect(await trial.serve())
        await client.send("x" * 21)
        before, end = await client.closing()

        def hint(got: Any) -> str:
            if got.code == 1000:
                return "1000 means that all is well. The code is the first argument of close()."
            if got.code == 1011:
                return "An exception in a handler becomes 1011: close with a code of your choice."
            return "await connection.close(1008, ...) ends it, and then the handler is done."

        trial.require(
            not before,
            "no message before the close",
            f"a message, {shorter(before)}",
            "Look at the length first, and echo only what is short enough.",
        )
        trial.require(end.code == 1008, "close code 1008", end, hint)
        trial.require(
            bool(end.reason.strip()),
            "1008 with a reason",
            "1008 without a reason",
            "A reason saves the other side an hour: it is the second argument of close().",
        )


class Nap(HandlerExercise):
    """Repair this handler. Each answer comes after a nap of 0.3 seconds, as it should.

    But while one client's answer naps, nobody else is served. Let four clients nap at once.
    """

    lesson = 1
    stub = """\
import time


async def nap(connection):
    async for message in connection:
        time.sleep(0.3)
        await connection.send(message)
"""
    solution_source = """\
import asyncio


async def nap(connection):
    async for message in connection:
        await asyncio.sleep(0.3)
        await connection.send(message)
"""
    hints = (
        "All connections share one thread. `time.sleep` keeps it; what lets go of it?",
        "An `await` lets go. `asyncio.sleep` takes the same argument, and must be awaited.",
    )

    @behaviour("each answer comes after a nap of 0.3 s")
    async def naps(self, trial: Trial) -> None:
        """One client, one answer, not too early."""
        client = await trial.connect(await trial.serve())
        began = time.monotonic()
        await trial.asks(client, "a", "a", "Send the message back after the nap.")
        took = time.monotonic() - began
        trial.require(
            took > 0.28,
            "an answer after 0.3 s",
            "an answer at once",
            "The nap stands for work that has to be done: is asyncio.sleep(0.3) awaited?",
        )

    @behaviour("one client's messages are answered in their order, one nap each")
    async def in_order(self, trial: Trial) -> None:
        """Two messages of one client."""
        client = await trial.connect(await trial.serve())
        began = time.monotonic()
        await client.send("first")
        await client.send("second")
        for text in ("first", "second"):
            await trial.hears(
                client, text, "One client's messages are answered one after the other, in order."
            )
        trial.require(
            time.monotonic() - began > 0.56,
            "two naps for two messages of one client",
            "both answers after one nap",
            "Nap inside the handler, and start no task for each message.",
        )

    @behaviour("while one naps, another one's message is received")
    async def at_once(self, trial: Trial) -> None:
        """Four naps overlap: one after the other they could not be over within 1.2 s."""
        url = await trial.serve()
        clients = [await trial.connect(url) for _ in range(4)]
        # A busy machine may spoil one attempt; a mistake spoils all three.
        stood_still = math.inf
        for _ in range(3):
            began = time.monotonic()
            for client in clients:
                await client.send("?")
            # A pong comes at once from a loop that is free, whoever naps.
            await clients[0].settled()
            stood_still = min(stood_still, time.monotonic() - began)
            answers = [await client.recv() for client in clients]
            took = time.monotonic() - began
            trial.expect(answers, ["?"] * 4, "Each of the four gets its answer.")
            if took < 1.15:
                return
        trial.require(
            stood_still < 0.25,
            "a loop that is free during a nap",
            "a loop that stood still for a nap",
            "time.sleep keeps the thread that all connections share, also inside a function that"
            " you call. Await asyncio.sleep, or asyncio.to_thread.",
        )
        trial.require(
            False,
            "four naps at the same time",
            "four naps one after the other",
            "A lock, or a queue, lets one in at a time. Each connection has a task of its own"
            " already: let each nap for itself.",
        )


def shorter(messages: list[Any]) -> str:
    """Name the first of `messages`, or nothing."""
    return repr(messages[0])[:30] if messages else ""


EXERCISES = (Shout(), Counter(), ShortOnly(), Nap())
