"""Lesson 6's exercises: who hears whom on several servers, holes in numbers, shards, and a bus."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from wslessons.exercises.exercise import Exercise, behaviour
from wslessons.exercises.trial import Client, Mismatch, Nothing, Salted, Trial

__all__ = ["EXERCISES", "Missed", "Shard", "TwoServers", "WhoHears"]


class WhoHears(Exercise):
    """Write a function that says how many people hear a line on servers that share no bus.

    `people` are dealt out to `servers` in turn: the first to server 1, the second to server 2, and
    so on, round and round. The first one says something. How many others hear it?
    """

    lesson = 6
    stub = """\
def who_hears(people, servers):
    pass  # your code here
"""
    solution_source = """\
def who_hears(people, servers):
    return (people - 1) // servers
"""
    hints = (
        "With 30 people on 3 servers, server 1 has 10; one of them is the one who speaks.",
        "People 1, 4, 7, ... are on server 1. Who is the last of them, when there are 31 or 32?",
    )

    @behaviour("30 people on 3 servers: 9 hear the first one")
    async def lesson_case(self, trial: Trial) -> None:
        """The crowd of the lesson."""

        def hint(got: Any) -> str:
            if got == 10:
                return "The one who speaks is among them, and is not counted."
            if got == 29:
                return "Without a bus only those on the same server hear it."
            if isinstance(got, float):
                return "People come in whole numbers: use //."
            return "How many are on the first one's server?"

        trial.expect(await trial.call(30, 3), 9, hint)

    @behaviour("it is a whole number when they can't be dealt out evenly")
    async def uneven(self, trial: Trial) -> None:
        """One more, two more, and fewer people than servers."""
        for people, servers in ((31, 3), (32, 3), (33, 3), (7, 4), (1, 3), (2, 3)):
            expected = len(range(0, people, servers)) - 1

            def hint(got: Any, expected: int = expected) -> str:
                if isinstance(got, (int, float)) and got < 0:
                    return "Fewer than nobody can't be: the first one is always on server 1."
                if isinstance(got, float):
                    return "People come in whole numbers: use //."
                return (
                    f"Server 1 gets the first of each round, so it has {expected + 1} here:"
                    " count the others on it, list(range(0, people, servers))."
                )

            trial.expect(await trial.call(people, servers), expected, hint)

    @behaviour("with one server, everybody hears")
    async def one(self, trial: Trial) -> None:
        """No second server."""
        trial.expect(await trial.call(12, 1), 11, "On one server all the others are there.")


class Missed(Exercise):
    """Write a function that counts what was lost on the way.

    A server numbers its events 1, 2, 3, ... The numbers that have arrived come as a list, in the
    order of their arrival. Return how many numbers between the smallest and the largest are
    missing. A broker may deliver one twice, or a late one after others.
    """

    lesson = 6
    stub = """\
def missed(numbers):
    pass  # your code here
"""
    solution_source = """\
def missed(numbers):
    arrived = set(numbers)
    return max(arrived) - min(arrived) + 1 - len(arrived) if arrived else 0
"""
    hints = (
        "From 40 to 45 there are 6 numbers, and not 5.",
        "A `set` holds each number once. How many there should be, less how many there are.",
    )

    @behaviour("nothing is missing in 1, 2, 3, 4")
    async def whole(self, trial: Trial) -> None:
        """No hole."""
        trial.expect(
            await trial.call([1, 2, 3, 4]),
            0,
            lambda got: (
                "From 1 to 4 there are four numbers: add 1 to the difference."
                if got == -1
                else "Nothing is missing here."
            ),
        )

    @behaviour("three numbers are missing in 1, 2, 5, 7")
    async def holes(self, trial: Trial) -> None:
        """Two holes, of two and of one."""

        def hint(got: Any) -> str:
            if got == 2:
                return "There are two holes, and three numbers in them: count the numbers."
            if isinstance(got, (list, set)):
                return "How many they are, not which: len(...)."
            return "What should be there, less what is there."

        trial.expect(await trial.call([1, 2, 5, 7]), 3, hint)

    @behaviour("who began to listen at 40 has missed nothing before")
    async def late_start(self, trial: Trial) -> None:
        """The first number that arrives is where it begins."""
        trial.expect(
            await trial.call([40, 41, 44]),
            2,
            "Somebody who begins to listen at 40 has not lost 1 to 39: begin with the smallest.",
        )

    @behaviour("a number that arrives twice is there once")
    async def twice(self, trial: Trial) -> None:
        """Two repeats, one hole of one."""
        trial.expect(
            await trial.call([1, 2, 2, 4, 4, 5]),
            1,
            "A broker may deliver an event twice: count each number once.",
        )

    @behaviour("a late one fills its hole")
    async def late(self, trial: Trial) -> None:
        """Out of order."""
        trial.expect(
            await trial.call([1, 4, 3, 2]),
            0,
            "A number that comes late is not lost: look at all of them, not at neighbours.",
        )

    @behaviour("nothing has arrived: nothing is missing")
    async def none(self, trial: Trial) -> None:
        """An empty list."""
        try:
            got = await trial.call([])
        except Mismatch:
            await trial.crashed(Exception)
            got = Nothing("an exception")
        trial.expect(got, 0, "An empty list has no smallest number: return 0 for it.")


class Shard(Exercise):
    """Write a function that says on which of `shards` shards a room is: 0, 1, ... shards - 1.

    Every server, in a process of its own, must give the same answer for the same room, today and
    tomorrow; and many rooms must spread evenly.
    """

    lesson = 6
    stub = """\
def shard(room, shards):
    pass  # your code here
"""
    solution_source = """\
from zlib import crc32


def shard(room, shards):
    return crc32(room.encode()) % shards
"""
    hints = (
        "A hash of the room's name, and what is left after a division by `shards`.",
        "Python's `hash()` of a text is another one in each process. `zlib.crc32` and `hashlib`"
        " give the same everywhere; they want bytes, so `room.encode()`.",
    )
    crash_hints = ((TypeError, "bytes-like", "A hash is made of bytes: room.encode() gives them."),)

    @behaviour("it is a whole number from 0 to shards - 1")
    async def bounds(self, trial: Trial) -> None:
        """A hundred rooms on four shards."""
        for number in range(100):
            got = await trial.call(f"/rooms/{number}", 4)
            whole = isinstance(got, int) and not isinstance(got, bool)

            def hint(got: Any, whole: bool = whole) -> str:
                if whole:
                    return "Four shards have the numbers 0 to 3: what is left of a division by 4."
                return "Return the shard's number, a whole one."

            trial.require(whole and 0 <= got < 4, "a number from 0 to 3", got, hint)

    @behaviour("the same room is on the same shard, every time and in every process")
    async def stable(self, trial: Trial) -> None:
        """As in three processes, each with another seed of hash()."""
        for number in range(20):
            room = f"/rooms/{number}"
            twice = [await trial.call(room, 16) for _ in range(3)]
            trial.require(
                len(set(twice)) == 1,
                "one shard",
                "another one each time",
                "A room that moves loses its people: nothing random, and nothing that counts.",
            )
            elsewhere = [await trial.call(Salted(room, salt), 16) for salt in (1, 2, 3)]
            trial.require(
                len(set(elsewhere)) == 1,
                "the same shard in every process",
                "another one in each process",
                "hash() of a text begins with a random seed in each process, so two servers would"
                " disagree. Use zlib.crc32 or hashlib.",
            )

    @behaviour("1,000 rooms spread over 8 shards")
    async def even(self, trial: Trial) -> None:
        """Names that begin alike, and names that end alike, of one length."""
        dice = random.Random(6455)
        letters = "abcdefghijklmnopqrstuvwxyz"
        words = ["".join(dice.choice(letters) for _ in range(6)) for _ in range(1000)]
        hint = (
            "Rooms whose names look alike land on the same shard. Let every letter of the name"
            " count, with a hash."
        )
        for pattern in ("/rooms/team-{}", "{}/lobby"):
            rooms = Counter([await trial.call(pattern.format(word), 8) for word in words])
            most = max(rooms.values())
            trial.require(
                len(rooms) == 8 and most < 190,
                "about 125 rooms on each shard",
                f"{most} rooms on one of them",
                hint,
            )


class TwoServers(Exercise):
    """Write a chat server that shares a bus with others: everybody hears each line once.

    `bus.publish(Event("/", text))` hands a text to the bus, and `async for item in bus.subscribe()`
    gives each `Event` that any server has published, with the text as `item.data`. Whatever a
    client says reaches all clients of all servers, the sender as well. `run` is started once per
    server, and ends with it.
    """

    lesson = 6
    kind = "class"
    answer_name = "TwoServers"
    stub = """\
from wslessons.scaling.bus import Event


class TwoServers:
    def __init__(self, bus):
        self.bus = bus
        self.clients = set()

    async def run(self):
        async for item in self.bus.subscribe():
            if isinstance(item, Event):
                pass  # your code here

    async def handler(self, connection):
        pass  # your code here
"""
    solution_source = """\
from websockets import ConnectionClosed, broadcast

from wslessons.scaling.bus import Event


class TwoServers:
    def __init__(self, bus):
        self.bus = bus
        self.clients = set()

    async def run(self):
        async for item in self.bus.subscribe():
            if isinstance(item, Event):
                broadcast(self.clients, item.data)

    async def handler(self, connection):
        self.clients.add(connection)
        try:
            async for text in connection:
                self.bus.publish(Event("/", text))
        except ConnectionClosed:
            pass
        finally:
            self.clients.discard(connection)
"""
    hints = (
        "The handler only publishes. What is said comes back from the bus, on every server in the"
        " same way, and `run` passes it on.",
        "`run` may not wait for one of the clients: `websockets.broadcast(self.clients, text)`"
        " waits for nobody, and skips those who have left.",
    )

    @behaviour("people of one server hear each other")
    async def together(self, trial: Trial) -> None:
        """Alice and bob on server 1."""
        one, _ = await trial.stage("pair")
        alice, bob = await self.people(trial, one, one)
        await trial.asks_for(
            alice,
            "hello",
            bob,
            "hello",
            "Publish what the client says, and send what comes from the bus to self.clients.",
        )

    @behaviour("people of another server hear it, too")
    async def across(self, trial: Trial) -> None:
        """Carol on server 2."""
        one, two = await trial.stage("pair")
        alice, carol = await self.people(trial, one, two)
        await trial.asks_for(
            alice,
            "hello",
            carol,
            "hello",
            "What is not published reaches this server's people only.",
        )

    @behaviour("everybody hears each line once")
    async def once(self, trial: Trial) -> None:
        """Three lines; nothing twice, nothing for ever."""
        one, two = await trial.stage("pair")
        people = await self.people(trial, one, one, two)
        for text in ("one", "two", "three"):
            await people[0].send(text)
        hint = (
            "A line comes twice. Send only what comes from the bus, and publish only what comes"
            " from a client."
        )
        for reader, who in zip(people, ("the sender", "its neighbour", "server 2"), strict=True):
            for text in ("one", "two", "three"):

                def why(got: Any, who: str = who) -> str:
                    if isinstance(got, Nothing) and who == "the sender":
                        return "The sender hears the line as well: leave out nobody."
                    return "Each line, in its order." if isinstance(got, Nothing) else hint

                await trial.hears(reader, text, why)
        # Whoever repeats, or publishes what it hears, has more to say.
        for reader in people:
            got = await reader.recv(0.3)
            trial.require(isinstance(got, Nothing), "no more messages", got, hint)

    @behaviour("it goes on when somebody has left without a word")
    async def left(self, trial: Trial) -> None:
        """One connection on each server breaks."""
        one, two = await trial.stage("pair")
        alice, bob, carol, dave = await self.people(trial, one, one, two, two)
        for client in (bob, carol):
            client.vanish()
            await client.closing()
        await trial.settle(alice, dave)
        hint = (
            "Sending to somebody who has left has ended `run`, and with it everybody's ears: take"
            " them out in a finally block, and use broadcast, which skips them."
        )
        for text in ("one", "two"):
            await alice.send(text)
            await trial.hears(dave, text, hint)

    async def people(self, trial: Trial, *urls: str) -> list[Client]:
        """Connect a client to each of `urls`.

        Args:
            trial: the world of one behaviour.
            urls: of servers.

        Returns:
            The clients, in that order.
        """
        clients = [await trial.connect(url) for url in urls]
        await trial.settle(*clients)
        return clients


EXERCISES = (WhoHears(), Missed(), Shard(), TwoServers())
