"""Lesson 5's exercises: how often to ask, who is gone, and how a page asks."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import Any

from websockets import ServerConnection

from wslessons.exercises.exercise import Exercise, HandlerExercise, behaviour
from wslessons.exercises.trial import Client, Nothing, Trial
from wslessons.link import Link

__all__ = ["EXERCISES", "BeatSettings", "Players", "WatchServer"]


class BeatSettings(Exercise):
    """Choose the interval and the timeout of a `Heartbeat`, in seconds, for a product.

    A peer that has vanished must be noticed within 20 seconds, whenever it vanishes. A peer on a
    bad line, whose answers may take 4 seconds, must never be dropped. And a proxy on the way, which
    forgets a connection after 10 silent seconds, must be kept awake.
    """

    lesson = 5
    kind = "value"
    stub = """\
beat_settings = (..., ...)  # interval and timeout, in seconds
"""
    solution_source = """\
beat_settings = (8, 8)  # interval and timeout, in seconds
"""
    hints = (
        "The worst moment to vanish is right after an answer: until the next question an interval"
        " passes, and then the timeout.",
        "The timeout has to be above 4, the interval below 10, and their sum at most 20.",
    )

    @behaviour("two numbers above 0")
    async def numbers(self, trial: Trial) -> None:
        """A pair."""
        await settings(trial)

    @behaviour("who vanishes is noticed within 20 s")
    async def noticed(self, trial: Trial) -> None:
        """Interval and timeout together."""
        interval, timeout = await settings(trial)

        def hint(got: Any) -> str:
            if interval <= 20 and timeout <= 20:
                return "Up to an interval passes before the question, and then the timeout."
            return "Look at the longest time to notice: it is interval + timeout."

        worst = f"noticed after {interval + timeout:g} s at worst"
        trial.require(interval + timeout <= 20, "interval + timeout of at most 20", worst, hint)

    @behaviour("who answers after 4 s is never dropped")
    async def slow(self, trial: Trial) -> None:
        """The timeout alone."""
        _, timeout = await settings(trial)
        hint = (
            "The answer to a ping may take 4 s, and more in a bad moment: a timeout has to be"
            " above that."
        )
        trial.require(timeout > 4, "a timeout above 4", f"{timeout:g}", hint)

    @behaviour("a proxy that forgets after 10 s is kept awake")
    async def awake(self, trial: Trial) -> None:
        """The interval alone."""
        interval, _ = await settings(trial)
        hint = "Something has to be sent at least every 10 s: the interval has to be below that."
        trial.require(interval < 10, "an interval below 10", f"{interval:g}", hint)


async def settings(trial: Trial) -> tuple[float, float]:
    """The learner's two numbers, or a mismatch."""
    got = await trial.value()
    is_pair = isinstance(got, (tuple, list)) and len(got) == 2
    good = is_pair and all(isinstance(n, (int, float)) and n > 0 for n in got)
    hint = "Write two numbers above 0, with a comma between them: first the interval."
    trial.require(good, "two numbers above 0", got, hint)
    return got[0], got[1]


class Players(HandlerExercise):
    """Repair this handler for a game.

    A player's first message is a name; any later one is answered with the names of all who are
    there. Who is gone must be off the list within 2 seconds, also when the plug was pulled. Who
    answers late, by up to half a second, stays. And two players may have one name.
    """

    lesson = 5
    stub = """\
from wslessons.heartbeat import Heartbeat

names = []


async def players(connection):
    with Heartbeat(connection, interval=15, timeout=45):
        name = await connection.recv()
        names.append(name)
        async for _ in connection:
            await connection.send(", ".join(names))
        names.remove(name)
"""
    solution_source = """\
from wslessons.heartbeat import Heartbeat

names = []


async def players(connection):
    with Heartbeat(connection, interval=0.5, timeout=1):
        name = await connection.recv()
        names.append(name)
        try:
            async for _ in connection:
                await connection.send(", ".join(names))
        finally:
            names.remove(name)
"""
    hints = (
        "`interval` and `timeout` together are the longest time to notice; the timeout alone is"
        " what a late answer is allowed.",
        "When a heartbeat drops a connection, the loop over its messages ends with"
        " `ConnectionClosed`: what must happen all the same belongs in a `finally` block.",
    )

    @behaviour("a message is answered with the names of all who are there")
    async def answers(self, trial: Trial) -> None:
        """Two players."""
        url = await trial.serve(ping_interval=None)
        ann, _ = await join(trial, url, "ann"), await join(trial, url, "bob")

        def hint(got: Any) -> str:
            if got == "ann":
                return "Each player has a list of their own: keep one for all, outside."
            if isinstance(got, Nothing):
                return "Each message after the name is answered."
            return "The names in the order in which they came, with ', ' between them."

        await trial.asks(ann, "who?", "ann, bob", hint)

    @behaviour("who leaves is off the list")
    async def leaves(self, trial: Trial) -> None:
        """One says goodbye, one breaks off."""
        url = await trial.serve(ping_interval=None)
        ann = await join(trial, url, "ann")
        bob, carol = await join(trial, url, "bob"), await join(trial, url, "carol")
        await bob.close()
        hint = "Whoever has left is taken off the list by the handler."
        await self.alone(trial, ann, "ann, carol", hint, within=1)
        carol.vanish()
        hint = "A connection that breaks ends the loop with an exception: use a finally block."
        await self.alone(trial, ann, "ann", hint, within=1)

    @behaviour("who vanishes is off the list within 2 s")
    async def vanishes(self, trial: Trial) -> None:
        """The plug is pulled, and nothing more comes from that player."""
        url = await trial.serve(ping_interval=None)
        ann = await join(trial, url, "ann")
        link = await trial.enter(Link(url))
        await join(trial, link.url, "bob")
        link.stall()
        await self.alone(
            trial,
            ann,
            "ann",
            "Nothing comes from a pulled plug, not even an end: interval + timeout is how long it"
            " takes to notice.",
        )

    @behaviour("who answers late stays")
    async def late(self, trial: Trial) -> None:
        """A line that takes 0.2 s each way."""
        url = await trial.serve(ping_interval=None)
        ann = await join(trial, url, "ann")
        link = await trial.enter(Link(url))
        link.delay(0.2)
        bob = await join(trial, link.url, "bob")
        # For two seconds nobody is to be dropped; where nobody can be, that is known at once.
        with contextlib.suppress(TimeoutError):
            async with trial.isolation.idle.timeout(2):
                await bob.connection.wait_closed()
        hint = "A late answer is an answer: a timeout has to be above the time that it may take."
        await trial.asks(ann, "who?", "ann, bob", hint)
        await trial.asks(bob, "who?", "ann, bob", hint)

    @behaviour("of two players of one name, only one leaves")
    async def same(self, trial: Trial) -> None:
        """Two anns and a bob."""
        url = await trial.serve(ping_interval=None)
        bob = await join(trial, url, "bob")
        one, _ = await join(trial, url, "ann"), await join(trial, url, "ann")
        hint = "Two players may have one name: with the first one who leaves, one ann is left."
        await trial.asks(bob, "who?", "bob, ann, ann", hint)
        await one.close()
        await self.alone(trial, bob, "bob, ann", hint, within=1)

    @staticmethod
    async def alone(
        trial: Trial, player: Client, expected: str, hint: str, within: float = 3.5
    ) -> None:
        """Ask who is there until the answer is right, for 2 s and what a busy machine adds.

        Args:
            trial: the trial.
            player: who asks.
            expected: the right answer.
            hint: what to say if it does not come.
            within: seconds; those who have closed are known to have left long before.
        """
        loop = asyncio.get_running_loop()
        asked, end, last = 0, loop.time() + within, False
        while True:
            await player.send("who?")
            got = await player.recv()
            if got == expected or isinstance(got, Nothing) or last:
                break
            # Only what happens can change the answer. When nothing can any more, it is the last.
            asked, left = asked + 1, end - loop.time()
            last = (left <= 0 and asked > 5) or not await trial.isolation.idle.stirs(max(left, 1))
        trial.expect(got, expected, hint)


async def join(trial: Trial, url: str, name: str) -> Client:
    """Connect a player, and wait until it has said its name and the handler has had its turn."""
    client = await trial.connect(url, ping_interval=None)
    await client.send(name)
    await trial.settle(client)
    return client


class WatchServer(Exercise):
    """Write the heartbeat of a page, which can't send pings: a client that asks in messages.

    Connect to `url`, and send the text "ping" every 0.2 seconds or so. Whatever comes back is a
    sign of life. Return "gone" when nothing has come for 1 second, and "closed" when the
    connection was closed.
    """

    lesson = 5
    kind = "async function"
    stub = """\
async def watch_server(url):
    pass  # your code here
"""
    solution_source = """\
import asyncio

from websockets import ConnectionClosed, connect


async def watch_server(url):
    async with connect(url, proxy=None) as connection:
        try:
            while True:
                await connection.send("ping")
                async with asyncio.timeout(1):
                    await connection.recv()
                await asyncio.sleep(0.2)
        except TimeoutError:
            return "gone"
        except ConnectionClosed:
            return "closed"
"""
    hints = (
        "Send, receive with a limit, sleep, and again.",
        "`async with asyncio.timeout(1):` around `await connection.recv()` raises `TimeoutError`"
        " after a silent second.",
        "`TimeoutError` means gone, `ConnectionClosed` means closed.",
    )

    @behaviour("a server that is silent is gone")
    async def silent(self, trial: Trial) -> None:
        """A server that reads and never answers."""
        asked: list[Any] = []

        async def listen(connection: ServerConnection) -> None:
            async for message in connection:
                asked.append(message)

        got = await trial.call(
            await trial.serve_this(listen, theirs=False),
            timeout=5,
            hint="A server that says nothing is waited for without end: set a limit of 1 s.",
        )
        trial.expect(asked[:1], ["ping"], 'Ask first: send the text "ping".')
        trial.expect(got, "gone", 'Return "gone" when a second has passed in silence.')

    @behaviour("a server that answers is not gone, until it closes")
    async def answers(self, trial: Trial) -> None:
        """Six answers, each a little late, in more than a second; and the end."""
        times: list[float] = []

        async def answer(connection: ServerConnection) -> None:
            loop = asyncio.get_running_loop()
            for _ in range(6):
                await connection.recv()
                times.append(loop.time())
                await asyncio.sleep(0.05)
                await connection.send("pong")
            await connection.close(1001)

        got = await trial.call(
            await trial.serve_this(answer, theirs=False),
            timeout=10,
            hint="It goes on asking, again and again, for as long as answers come.",
        )

        def hint(got: Any) -> str:
            if got == "gone" and len(times) < 2:
                return "It asks once. Ask again every 0.2 s: a server may vanish at any time."
            if got == "gone":
                return "An answer came each time: the second begins anew with each sign of life."
            return 'Return "closed" when ConnectionClosed says that it has ended.'

        trial.expect(got, "closed", hint)
        pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
        trial.require(
            min(pauses, default=0) > 0.1,
            "a pause between two questions",
            "one question right after the other",
            "Await asyncio.sleep(0.2) between two questions, or each page asks without a pause.",
        )

    @behaviour("any message is a sign of life")
    async def others(self, trial: Trial) -> None:
        """A server that never says pong, and talks of other things."""

        async def talk(connection: ServerConnection) -> None:
            for number in range(6):
                await asyncio.sleep(0.25)
                await connection.send(f"news {number}")
            await connection.close()

        got = await trial.call(
            await trial.serve_this(talk, theirs=False),
            timeout=8,
            hint="It waits for a pong that never comes: whatever arrives is a sign of life.",
        )
        trial.expect(
            got, "closed", "News came all the time: a server that talks is there, pong or not."
        )


EXERCISES = (BeatSettings(), Players(), WatchServer())
