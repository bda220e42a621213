"""Lesson 2's exercises: what one says reaches the others, also when one of them is slow."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from wslessons.exercises.exercise import Exercise, HandlerExercise, behaviour
from wslessons.exercises.trial import Client, Nothing, Trial

__all__ = ["EXERCISES", "Members", "NotDeaf", "Relay"]

FINALLY = (
    "Somebody who has left is still in the set, and sending to them fails. Take them out in a"
    " finally block: a connection that breaks ends the loop with an exception."
)

OWN = "Leave out the connection that said it."


class Relay(HandlerExercise):
    """Write a handler that sends each message to everybody else, and not to its sender.

    Keep the connections in the set `clients`. People come and go, also in the very moment in which
    something is being sent, and not everybody says goodbye.
    """

    lesson = 2
    stub = """\
clients = set()


async def relay(connection):
    pass  # your code here
"""
    solution_source = """\
from contextlib import suppress

from websockets import ConnectionClosed

clients = set()


async def relay(connection):
    clients.add(connection)
    try:
        async for message in connection:
            for client in list(clients):
                if client is not connection:
                    with suppress(ConnectionClosed):
                        await client.send(message)
    finally:
        clients.discard(connection)
"""
    hints = (
        "Add the connection to the set, loop over its messages, and send each to every client that"
        " `is not connection`.",
        "Take it out again in a `finally` block, since a connection that breaks raises"
        " `ConnectionClosed` out of the loop.",
        "Each `await` lets others in and out: loop over `list(clients)`, and if sending to one of"
        " them raises `ConnectionClosed`, go on with the next.",
    )

    @behaviour("what alice says reaches bob and carol")
    async def reaches(self, trial: Trial) -> None:
        """One line, two readers."""
        alice, bob, carol = await three(trial)

        def hint(got: Any) -> str:
            if isinstance(got, Nothing):
                return "Send to every connection in the set, one after the other, awaiting each."
            return "Pass the message on as it came."

        await alice.send("hello")
        for reader in (bob, carol):
            await trial.hears(reader, "hello", hint)

    @behaviour("it goes on when somebody has left without a word")
    async def leaves(self, trial: Trial) -> None:
        """One connection breaks."""
        alice, bob, carol = await three(trial)
        carol.vanish()
        await carol.closing()
        await trial.settle(alice)
        for text in ("one", "two"):
            await alice.send(text)
            await trial.hears(bob, text, FINALLY)

    @behaviour("alice does not hear her own line")
    async def own(self, trial: Trial) -> None:
        """The next thing that alice hears is bob's."""
        alice, bob, _ = await three(trial)
        await alice.send("mine")
        await bob.recv()
        await bob.send("yours")
        await trial.hears(
            alice,
            "yours",
            lambda got: (
                "Leave out the sender: `if client is not connection`." if got == "mine" else FINALLY
            ),
        )

    @behaviour("somebody may come while a line is being sent")
    async def comes(self, trial: Trial) -> None:
        """A slow reader makes the sending wait, and a newcomer arrives meanwhile."""
        url = await trial.serve_small()
        alice, slow = await trial.connect(url), await trial.connect_slow(url)
        lines = ["x" * 30_000 for _ in range(3)]
        for line in lines:
            await alice.send(line)
        await asyncio.sleep(0.3)  # the handler waits now for room in the slow one's socket
        newcomer = await trial.connect(url)
        trial.quicken(slow)
        for line in lines:
            await trial.hears(slow, line, "Each line reaches everybody else, also one who is slow.")
        await alice.send("after")
        heard = [await newcomer.recv()]
        while isinstance(heard[-1], str) and heard[-1] != "after":
            heard.append(await newcomer.recv())
        trial.expect(
            heard[-1],
            "after",
            "Others come and go while you await: loop over a copy, such as list(clients).",
        )


async def three(trial: Trial) -> tuple[Client, Client, Client]:
    """Connect three clients, each of which is inside when the next one comes."""
    url = await trial.serve()
    clients = [await trial.connect(url) for _ in range(3)]
    await trial.settle(*clients)
    return clients[0], clients[1], clients[2]


class Members(Exercise):
    """Repair this chat: the first message is a name, and each later one goes to all the others.

    It has three faults of a first draft. Two people of one name must hear each other. Nobody may
    be called `system`: such a connection is closed with 1008 and a reason. And what somebody says
    stays on one line, so that a line break can't begin a line in somebody else's name.
    """

    lesson = 2
    kind = "class"
    answer_name = "Members"
    stub = """\
class Members:
    def __init__(self):
        self.members = {}

    async def handler(self, connection):
        name = (await connection.recv()).strip()
        self.members[name] = connection
        try:
            async for text in connection:
                for other, member in list(self.members.items()):
                    if other != name:
                        await member.send(f"[{name}] {text}")
        finally:
            del self.members[name]
"""
    solution_source = """\
class Members:
    def __init__(self):
        self.members = set()

    async def handler(self, connection):
        name = (await connection.recv()).strip()
        if name == "system":
            return await connection.close(1008, "the name system is reserved")
        self.members.add(connection)
        try:
            async for text in connection:
                for member in list(self.members):
                    if member is not connection:
                        await member.send(f"[{name}] {' '.join(text.split())}")
        finally:
            self.members.discard(connection)
"""
    hints = (
        "A name does not tell two people apart, and a connection does: what should the collection"
        " be of?",
        "Look at the name after `strip()` and before anybody is let in.",
        "`text.splitlines()` knows every character that ends a line, and `' '.join(...)` puts the"
        " pieces together again.",
    )

    @behaviour("what alice says reaches bob as '[alice] hello'")
    async def says(self, trial: Trial) -> None:
        """A line, with its sender."""
        alice, bob = await self.join(trial, "alice", "bob")
        await trial.asks_for(
            alice, "hello", bob, "[alice] hello", "It is '[NAME] TEXT', sent to all the others."
        )

    @behaviour("two people of one name hear each other")
    async def same_name(self, trial: Trial) -> None:
        """Two anns, both ways."""
        one, two = await self.join(trial, "ann", "ann")
        hint = (
            "Two people may have one name. Leave out the sender by connection, not by name, and"
            " keep both of them: a dict has room for one value per key."
        )
        await trial.asks_for(one, "is there another ann?", two, "[ann] is there another ann?", hint)

        def hint_back(got: Any) -> str:
            return OWN if got == "[ann] is there another ann?" else hint

        await trial.asks_for(two, "there is", one, "[ann] there is", hint_back)

    @behaviour("the sender does not hear the own line")
    async def own(self, trial: Trial) -> None:
        """What ann hears next is not hers."""
        one, two = await self.join(trial, "ann", "bob")
        await one.send("mine")
        await two.recv()
        await trial.asks_for(two, "yours", one, "[bob] yours", OWN)

    @behaviour("when one of two anns leaves, the other one stays")
    async def one_leaves(self, trial: Trial) -> None:
        """Taking out one must not take out both."""
        one, two, bob = await self.join(trial, "ann", "ann", "bob")
        await one.close()
        await trial.settle(bob)
        await trial.asks_for(
            bob,
            "who is left?",
            two,
            "[bob] who is left?",
            "Who leaves takes only the own connection out of the collection, not the name.",
        )

    @behaviour("nobody is called 'system'")
    async def reserved(self, trial: Trial) -> None:
        """The name alone, and with blanks around it."""
        url = await trial.serve()
        for name in ("system", "  system "):
            client = await trial.connect(url)
            await client.send(name)
            _, end = await client.closing()

            def hint(got: Any, name: str = name) -> str:
                if got.code == 1000:
                    return "A return closes with 1000, all is well. Say 1008, and why."
                if name != "system":
                    return "Blanks around it make no other name: look at it after strip()."
                return "A member of that name can announce whatever it likes: close with 1008."

            trial.require(end.code == 1008, f"1008 for the name {name!r}", end, hint)
            trial.require(
                bool(end.reason), "1008 with a reason", end, "close() takes a reason, too."
            )

    @behaviour("a line break begins no line of its own")
    async def one_line(self, trial: Trial) -> None:
        """Every kind of line break that a terminal may obey."""
        alice, bob = await self.join(trial, "alice", "bob")
        for mark in ("\n", "\r", "\r\n"):
            await alice.send(f"hi{mark}[system] >>> bob left the chat")
            got = await bob.recv()
            hint = (
                "Whatever follows a line break looks like a line of somebody else's: put the"
                " text on one line."
                if mark == "\n"
                else "A carriage return, \\r, starts a line anew, too: splitlines() knows all ends."
            )
            if isinstance(got, Nothing):
                hint = "Clean the text up and pass it on: it is no reason to stop."
            one_line = isinstance(got, str) and not re.search(r"[\r\n]", got)
            trial.require(one_line, "one line, such as '[alice] hi [system] ...'", got, hint)
            trial.require(
                str(got).startswith("[alice] hi") and "bob left the chat" in str(got),
                "all of the text, on one line",
                got,
                "Replace the line break by a blank, and keep the rest of the text.",
            )

    async def join(self, trial: Trial, *names: str) -> list[Client]:
        """Connect one client for each name, in turn.

        Args:
            trial: the world of one behaviour.
            names: what each says first.

        Returns:
            The clients, in that order.
        """
        url = await trial.serve()
        clients = [await trial.connect(url) for _ in names]
        for client, name in zip(clients, names, strict=True):
            await client.send(name)
        await trial.settle(*clients)
        return clients


class NotDeaf(HandlerExercise):
    """Repair this chat on a channel of 8 lines. Everybody hears everything, one's own lines, too.

    But a reader who lags is deaf from then on, and who leaves leaves a task behind. A reader who
    has missed 5 lines shall be sent the text `missed 5`, and then hear what comes.
    """

    lesson = 2
    stub = """\
import asyncio

from wslessons.chat.channel import Channel, Lagged

channel = Channel(capacity=8)


async def forward(receiver, connection):
    while True:
        try:
            await connection.send(await receiver.recv())
        except Lagged:
            break


async def not_deaf(connection):
    asyncio.create_task(forward(channel.subscribe(), connection))
    async for text in connection:
        channel.send(text)
"""
    solution_source = """\
import asyncio

from wslessons.chat.channel import Channel, Lagged

channel = Channel(capacity=8)


async def forward(receiver, connection):
    while True:
        try:
            await connection.send(await receiver.recv())
        except Lagged as lag:
            await connection.send(f"missed {lag.skipped}")


async def not_deaf(connection):
    writing = asyncio.create_task(forward(channel.subscribe(), connection))
    try:
        async for text in connection:
            channel.send(text)
    finally:
        writing.cancel()
"""
    hints = (
        "`Lagged` is no end: after it the receiver goes on from the oldest line that is kept.",
        "`except Lagged as lag` gives you `lag.skipped`. Send the notice, and stay in the loop.",
        "Keep the task that `create_task` returns, and cancel it in a `finally` block around the"
        " reading loop.",
    )

    @behaviour("who keeps up hears every line")
    async def keeps_up(self, trial: Trial) -> None:
        """Twenty lines, more than the channel keeps."""
        url = await trial.serve()
        alice, bob = await trial.connect(url), await trial.connect(url)
        await trial.settle(alice, bob)
        for number in range(20):
            await trial.asks_for(
                alice,
                f"line {number}",
                bob,
                f"line {number}",
                "Each line goes into the channel as it came, and to everybody from there.",
            )

    @behaviour("who lagged is told how many lines are gone, and hears what comes")
    async def told(self, trial: Trial) -> None:
        """A reader who sleeps through most of 100 lines of 4,000 characters."""
        url = await trial.serve_small()
        alice, sleepy = await trial.connect(url), await trial.connect_slow(url)
        await trial.settle(alice, sleepy)
        lines = 100
        for number in range(lines):
            text = f"{number} ".ljust(4000, "x")
            await alice.send(text)
            # One by one, so that alice herself never lags.
            if await alice.recv() != text:
                break
        heard, told, after = 0, 0, 0
        await alice.send("are you there?")
        while (got := await sleepy.recv()) != "are you there?":
            if isinstance(got, Nothing):
                trial.require(False, "'are you there?' in the end", got, self.silence(told, got))
            if number := re.fullmatch(r"missed (\d+)", str(got)):
                told, after = told + int(number[1]), 0
            elif re.match(r"\d+ x", str(got)):
                heard, after = heard + 1, after + 1
            else:
                hint = "The notice is 'missed', a blank, and the number: nothing else."
                trial.require(False, "lines, and 'missed NUMBER'", got, hint)
        trial.require(
            told > 0,
            "a notice 'missed NUMBER'",
            f"{heard} of {lines} lines and no notice",
            "Lines are gone, and the reader can't know. Send the notice before you go on.",
        )
        trial.require(
            heard + told == lines,
            f"lines heard and lines missed that make {lines}",
            f"{heard} heard, {told} said to be missed",
            "Lagged knows the exact number: lag.skipped.",
        )

    @staticmethod
    def silence(told: int, got: Nothing) -> str:
        """The hint for a reader who hears nothing more.

        Args:
            told: of how many lines the client was told that they are gone.
            got: why nothing comes any more.

        Returns:
            The hint.
        """
        if got.code is not None:
            return "A reader who lagged is slow, and no enemy: keep the connection open."
        if told:
            return "After the notice it is deaf: stay in the loop, and receive the next line."
        return "Lagging has ended the loop, and from then on the reader is deaf: do not break."


EXERCISES = (Relay(), Members(), NotDeaf())
