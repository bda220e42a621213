"""Lesson 3's exercises: clients that read and write at once, come back after a wait, and resume."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from typing import Any

from websockets import ConnectionClosed, ServerConnection

from wslessons.exercises.exercise import Exercise, behaviour
from wslessons.exercises.trial import Mismatch, Nothing, Trial

__all__ = ["EXERCISES", "ComeBack", "Delays", "Resume", "Talk"]


class Talk(Exercise):
    """Write a client that connects to `url`, sends all `lines`, and returns the list of answers.

    There is one answer for each line, in their order; but nobody says when they come: perhaps
    after each line, perhaps not before the last one. The server keeps the connection open.
    """

    lesson = 3
    kind = "async function"
    stub = """\
async def talk(url, lines):
    pass  # your code here
"""
    solution_source = """\
import asyncio

from websockets import connect


async def talk(url, lines):
    async with connect(url, proxy=None) as connection:

        async def listen():
            return [await connection.recv() for _ in lines]

        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(listen())
            for line in lines:
                await connection.send(line)
    return listening.result()
"""
    hints = (
        "Two things go on at once: one coroutine sends the lines, another one receives as many"
        " answers as there are lines.",
        "An `asyncio.TaskGroup` runs the one that listens, while the body of its `async with`"
        " sends. The group waits for both.",
        "`task = tasks.create_task(listen())`, and after the group `task.result()` is what"
        " `listen` has returned.",
    )

    @behaviour("three lines, three answers")
    async def three(self, trial: Trial) -> None:
        """A server that answers at once and stays."""

        async def answer(connection: ServerConnection) -> None:
            async for line in connection:
                await connection.send(str(line).upper())

        url = await trial.serve_this(answer, theirs=False)
        got = await trial.call(
            url,
            ["one", "two", "three"],
            hint="The server does not hang up after the last answer. You know how many come:"
            " receive that many.",
        )

        def hint(got: Any) -> str:
            if got is None:
                return "Return the answers as a list."
            if isinstance(got, list) and len(got) < 3:
                return "Some answers were not waited for: await the one who listens, to the end."
            return "The list holds what the server answered, in the order in which it came."

        trial.expect(got, ["ONE", "TWO", "THREE"], hint)

    @behaviour("a server that answers after the last line")
    async def late(self, trial: Trial) -> None:
        """Nobody answers before all have been said."""

        async def answer(connection: ServerConnection) -> None:
            lines = [await connection.recv() for _ in range(3)]
            for line in lines:
                await connection.send(f"{line}!")
            await connection.wait_closed()

        got = await trial.call(
            await trial.serve_this(answer, theirs=False),
            ["one", "two", "three"],
            hint="While it waits for the first answer it sends nothing, and the server waits for"
            " the other lines. Sending must not wait for answers.",
        )
        trial.expect(got, ["one!", "two!", "three!"], "One answer for each line, in their order.")

    @behaviour("400 lines of 64 KiB, answered one by one")
    async def large(self, trial: Trial) -> None:
        """More than all the buffers on the way can hold."""

        async def answer(connection: ServerConnection) -> None:
            async for line in connection:
                await connection.send(line)

        lines = [str(number).ljust(65_536) for number in range(400)]
        got = await trial.call(
            await trial.serve_this(answer, theirs=False),
            lines,
            timeout=8,
            hint="Nobody reads the answers while it sends, so they fill every buffer, and then the"
            " server reads no more. Read and write at once.",
        )
        trial.require(
            got == lines, "400 answers in order", f"{len(got or [])} answers", "In their order."
        )


class Delays(Exercise):
    """Write a generator of delays with full jitter, for ever.

    Each delay is drawn with equal chances from 0 to a bound. The bound begins with `base` seconds,
    doubles with each delay, and never exceeds `cap`.
    """

    lesson = 3
    kind = "generator"
    stub = """\
def delays(base, cap):
    pass  # your code here
"""
    solution_source = """\
import random


def delays(base, cap):
    bound = base
    while True:
        yield random.uniform(0, bound)
        bound = min(2 * bound, cap)
"""
    hints = (
        "A generator is a function with `yield` in it; `while True` makes it go on for ever.",
        "`random.uniform(0, bound)` draws one. Then double the bound, but not beyond the cap:"
        " `min(2 * bound, cap)`.",
    )

    @behaviour("each delay is between 0 and its bound")
    async def bounds(self, trial: Trial) -> None:
        """Bounds of 1, 2, 4, 8, 10, 10 seconds."""
        for _ in range(50):
            got = await trial.take(6, 1.0, 10.0)
            trial.require(
                len(got) == 6,
                "delays without end",
                f"{len(got)} delays and the end",
                "Clients may have to try for hours: yield in a loop that never ends.",
            )
            for delay, bound in zip(got, (1, 2, 4, 8, 10, 10), strict=True):
                hint = (
                    "However often somebody has tried, no delay exceeds the cap."
                    if bound == 10
                    else "The bound of the first delay is base, that of the second twice as much."
                )
                trial.require(0 <= delay <= bound, f"from 0 to {bound}", "a larger delay", hint)

    @behaviour("the first delay is drawn from its whole range")
    async def jitter(self, trial: Trial) -> None:
        """Of 200 clients some return early, some late."""
        firsts = [(await trial.take(1, 1.0, 10.0))[0] for _ in range(200)]
        trial.require(
            len(set(firsts)) > 1,
            "another delay for each client",
            "the same delay for 200 clients",
            "Without dice, all clients of a restarted server return in the same moment.",
        )
        trial.require(
            min(firsts) < 0.25,
            "some delays near 0",
            "none below a quarter of the bound",
            "Full jitter draws from 0 on: random.uniform(0, bound). A lower end above 0 keeps"
            " the wave together.",
        )
        trial.require(
            max(firsts) > 0.75,
            "some delays near the bound",
            "none above three quarters of the bound",
            "Draw up to the bound: random.uniform(0, bound).",
        )

    @behaviour("the bound doubles")
    async def doubles(self, trial: Trial) -> None:
        """The fourth delay has a bound of 8 times the base."""
        fourths = [(await trial.take(4, 1.0, 100.0))[3] for _ in range(200)]
        trial.require(
            max(fourths) > 4,
            "a fourth delay of up to 8 times the base",
            "none above 4 times the base",
            "The bound is twice as large with each delay: 1, 2, 4, 8 times the base.",
        )

    @behaviour("it is still right after 2,000 delays")
    async def long(self, trial: Trial) -> None:
        """A power of two of that size fits into no float."""
        try:
            got = await trial.take(2000, 0.5, 20.0)
        except Mismatch as error:
            if await trial.crashed(OverflowError):
                hint = "2 ** 1024 is too large for a float. Double the bound, and cap it each time."
                raise Mismatch("2,000 delays", Nothing("OverflowError"), hint) from error
            raise
        trial.require(
            len(got) == 2000 and max(got) <= 20,
            "2,000 delays of at most 20 s",
            f"{len(got)} delays",
            "Yield in a loop that never ends.",
        )


class ComeBack(Exercise):
    """Write a client that returns all messages of the server at `url`, over many connections.

    When a connection ends with 1000, or with 1008, it is over: return the messages. When it ends
    in any other way, connect again, but wait at least 0.05 seconds before.
    """

    lesson = 3
    kind = "async function"
    stub = """\
async def come_back(url):
    pass  # your code here
"""
    solution_source = """\
import asyncio

from websockets import ConnectionClosed, connect


async def come_back(url):
    heard = []
    while True:
        async with connect(url, proxy=None) as connection:
            try:
                while True:
                    heard.append(await connection.recv())
            except ConnectionClosed:
                if connection.close_code in (1000, 1008):
                    return heard
        await asyncio.sleep(0.1)
"""
    hints = (
        "Two loops: the outer one connects, the inner one receives until `recv` raises"
        " `ConnectionClosed`.",
        "After that, `connection.close_code` tells how it ended. For 1000 and 1008 return, for"
        " all others sleep and go round again.",
        "The list of messages is made once, before the outer loop.",
    )

    async def over(
        self, trial: Trial, script: list[tuple[list[str], int]], hint: str
    ) -> tuple[Any, list[float]]:
        """Run the client against a server that plays one part of `script` per connection.

        Args:
            trial: the world of one behaviour.
            script: for each connection the messages and the close code, 1006 for an end without a
                close frame.
            hint: what to say if the client does not return.

        Returns:
            What the client returned, and when each of its connections began, in seconds.
        """
        began: list[float] = []
        endless = asyncio.Event()

        async def play(connection: ServerConnection) -> None:
            began.append(time.monotonic())
            if len(began) > len(script) + 2:
                endless.set()
            # Who comes once more than it should is told that it is over.
            part = script[len(began) - 1] if len(began) <= len(script) else ([], 1000)
            for text in part[0]:
                await connection.send(text)
            if part[1] == 1006:
                # Only after the text has gone out.
                with contextlib.suppress(ConnectionClosed):
                    await (await connection.ping())
                connection.transport.abort()
            else:
                await connection.close(part[1])

        url = await trial.serve_this(play, theirs=False)
        return await trial.call(url, hint=hint, endless=endless), began

    @behaviour("all messages of one connection, until 1000")
    async def one(self, trial: Trial) -> None:
        """One connection that ends well."""
        again = "1000 means that it is over: return what was received."
        got, began = await self.over(trial, [(["one", "two"], 1000)], again)

        def hint(got: Any) -> str:
            if got is None:
                return "Return the list of messages when it is over."
            return "Receive until the connection ends, and keep every message."

        trial.expect(got, ["one", "two"], hint)
        trial.require(len(began) == 1, "one connection", f"{len(began)} connections", again)

    @behaviour("after 1012, and after an end without a word, it comes back")
    async def many(self, trial: Trial) -> None:
        """Three ends that are none."""
        script = [(["one", "two"], 1012), (["three"], 1006), ([], 1001), (["four"], 1000)]
        got, began = await self.over(trial, script, "It waits for something that does not come.")

        def hint(got: Any) -> str:
            if len(began) == 1:
                return "1012 says: I restart, come back. Connect again, in a loop."
            if len(began) < 4:
                return "1006 and 1001 are no end either: only 1000 and 1008 are."
            if isinstance(got, list) and len(got) < 4:
                return "What earlier connections have brought is lost: make the list only once."
            return "Each message once, in the order in which they came."

        trial.expect(got, ["one", "two", "three", "four"], hint)

    @behaviour("after 1008 it does not come back")
    async def refused(self, trial: Trial) -> None:
        """A refusal would only come again."""
        got, began = await self.over(
            trial, [(["one"], 1008)], "1008 would only come again: return what was received."
        )
        hint = "1008 is a refusal, and would only come again: return, and do not come back."
        trial.require(len(began) == 1, "one connection", f"{len(began)} connections", hint)
        trial.expect(got, ["one"], "Return what was received before the refusal.")

    @behaviour("it waits at least 0.05 s before it comes back")
    async def waits(self, trial: Trial) -> None:
        """A server that restarts again and again."""
        script = [([str(number)], 1012) for number in range(5)]
        _, began = await self.over(trial, script, "It waits for something that does not come.")
        pauses = [later - earlier for earlier, later in itertools.pairwise(began)]
        trial.require(
            len(pauses) > 0 and min(pauses) > 0.045,
            "at least 0.05 s between two connections",
            "two connections without a pause",
            "Without a pause all clients hammer on a server that is just starting. Await"
            " asyncio.sleep before each new attempt.",
        )


class Resume(Exercise):
    """Write a client that gets each line once, over as many connections as it takes.

    Say first the number of the last line you have, as text; "0" if you have none. Then the server
    sends what comes after it, such as "105 good morning", until the connection ends: with 1000
    that was all, and you return the list of texts ("good morning"). Else come back at once.
    """

    lesson = 3
    kind = "async function"
    stub = """\
async def resume(url):
    pass  # your code here
"""
    solution_source = """\
from websockets import ConnectionClosed, connect


async def resume(url):
    last, texts = "0", []
    while True:
        async with connect(url, proxy=None) as connection:
            try:
                await connection.send(last)
                while True:
                    last, text = (await connection.recv()).split(" ", 1)
                    texts.append(text)
            except ConnectionClosed:
                if connection.close_code == 1000:
                    return texts
"""
    hints = (
        "Remember one number: that of the newest line. It is the first thing that you send over"
        " each connection.",
        '`number, text = line.split(" ", 1)` takes a line apart.',
        "Number and list are made once, before the loop that connects.",
    )
    lines = tuple(f"{101 + n} line {'abcdefg'[n]} of it" for n in range(7))

    @behaviour("on the first connection it says '0'")
    async def first(self, trial: Trial) -> None:
        """Nothing has been seen yet."""
        said, _ = await self.over(trial)
        trial.expect(said[:1], ["0"], 'First of all send "0", as text: you have no line yet.')

    @behaviour("coming back, it says the number of its last line")
    async def again(self, trial: Trial) -> None:
        """Three lines per connection."""
        said, _ = await self.over(trial)

        def hint(got: Any) -> str:
            if got == ["0"]:
                return "Only 1000 is the end: connect again after any other."
            if got[1] == "0":
                return 'It says "0" again and gets everything again: remember the last number.'
            if got[1] == "3":
                return "That is how many lines you have. The line's own number is wanted."
            if got[1] == "104":
                return "That is the number of the next line, and the server begins after it."
            return "The text before the first blank of the newest line is its number."

        trial.expect(said[:3], ["0", "103", "106"], hint)

    @behaviour("it returns each text once, in order")
    async def whole(self, trial: Trial) -> None:
        """Seven lines."""
        _, got = await self.over(trial)
        expected = [line.split(" ", 1)[1] for line in self.lines]

        def hint(got: Any) -> str:
            if got == list(self.lines):
                return "The numbers are for you: return the texts after the blank."
            if got is None:
                return "Return the list of texts."
            if isinstance(got, list) and len(got) > len(expected):
                return "Some lines are there twice."
            if isinstance(got, list) and len(got) == len(expected):
                return 'A text may have blanks of its own: split(" ", 1) splits only once.'
            return "Lines of earlier connections are missing: make the list only once."

        trial.expect(got, expected, hint)

    async def over(self, trial: Trial) -> tuple[list[str], Any]:
        """Run the client against a server that sends three lines and breaks off.

        Args:
            trial: the world of one behaviour.

        Returns:
            What the client said first on each connection, and what it returned.
        """
        said: list[str] = []

        async def play(connection: ServerConnection) -> None:
            said.append(str(await connection.recv()))
            since = int(said[-1]) if said[-1].isdecimal() else 0
            rest = [line for line in self.lines if int(line.split()[0]) > since]
            for line in rest[:3]:
                await connection.send(line)
            # Who never gets on would come for ever.
            done = len(rest) <= 3 or len(said) > 5
            await asyncio.sleep(0)
            await connection.close(1000 if done else 1012)

        got = await trial.call(
            await trial.serve_this(play, theirs=False),
            hint="Say a number first: before that, the server says nothing.",
        )
        return said, got


EXERCISES = (Talk(), Delays(), ComeBack(), Resume())
