"""Does a server do what lessons 1 and 2 say? For any server that is running, in any language.

    wslessons check --url ws://127.0.0.1:9001 --as chat

The same behaviours as for an exercise, with no stub and no solution. They are written for a server
that others may be using: lines of people who are not of this check are passed over.

Not handled here: the protocol itself, frame by frame; the Autobahn cases do that.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

from wslessons.exercises.exercise import Exercise, behaviour
from wslessons.exercises.isolation import Isolation, NoFence
from wslessons.exercises.trial import TIMEOUT, Client, Mismatch, Nothing, Trial
from wslessons.exercises.verdict import Verdict

__all__ = ["CONFORMANCE", "ChatConformance", "Conformance", "EchoConformance", "Remote"]

LONG = 1500
"""Lines of 4,000 characters that a reader does not read: more than any kernel keeps."""


class Remote(Trial):
    """The world of one behaviour whose server runs elsewhere.

    Args:
        url: where it listens.
        isolation: a fence, around nothing here.
    """

    def __init__(self, url: str, isolation: Isolation) -> None:
        super().__init__(None, isolation)
        self.url = url

    async def serve(self, **options: Any) -> str:
        """Return the URL: the server runs already, with options of its own."""
        return self.url

    async def turns(self) -> None:
        """Give the server a moment; nothing tells when it has done what it can."""
        await asyncio.sleep(0.1)


class Conformance(Exercise):
    """What a server has to do, whoever has written it."""

    lesson = 0
    kind = "handler"
    stub = ""
    solution_source = ""
    hints = ()
    limit = 60.0

    def untouched(self, answer: Any) -> bool:
        """Tell that it is never a stub: there is none."""
        return False

    async def against(self, url: str) -> Verdict:
        """Judge the server that listens at `url`.

        Args:
            url: that of a server that runs.

        Returns:
            The verdict.
        """
        verdict = await self.run(lambda fence: Remote(url, fence), NoFence)
        # The last line is about tasks of this process, and the server has none here.
        return Verdict(self.name, verdict.lines[:-1])


class EchoConformance(Conformance):
    """Send every text back, bare or behind a prefix such as "Echo: ", and binary data unchanged."""

    @behaviour("a text comes back, bare or behind a prefix")
    async def text(self, trial: Trial) -> None:
        """Three texts, one prefix."""
        client, prefix = await self.prefix(trial)
        for text in ("two words", "", "日本語 🦊"):
            await trial.asks(client, text, prefix + text, "Every text comes back in the same way.")

    @behaviour("binary data comes back unchanged")
    async def binary(self, trial: Trial) -> None:
        """Bytes that are no UTF-8."""
        client, _ = await self.prefix(trial)
        for data in (b"\x00\x01\xfe\xff", b""):
            await trial.asks(client, data, data, "Binary goes back as binary, as it came.")

    @behaviour("long texts and fragmented ones come back whole")
    async def long(self, trial: Trial) -> None:
        """70,000 characters, and three fragments."""
        client, prefix = await self.prefix(trial)
        text = "x" * 70_000
        await trial.asks(client, text, prefix + text, "A message may be larger than one read.")
        hint = "Fragments are one message: put them together (RFC 6455, section 5.4)."
        await trial.asks(client, ["one ", "two ", "three"], prefix + "one two three", hint)

    @behaviour("a ping is answered by its pong")
    async def ping(self, trial: Trial) -> None:
        """The payload comes back."""
        client, _ = await self.prefix(trial)
        try:
            async with client.idle.limit(TIMEOUT):
                await (await client.connection.ping("are you there?"))
        except Exception as error:
            hint = "Every endpoint answers a ping with the same payload (RFC 6455, section 5.5.3)."
            raise Mismatch("a pong", Nothing(f"none ({type(error).__name__})"), hint) from None

    @behaviour("a close is answered with a close")
    async def close(self, trial: Trial) -> None:
        """The closing handshake."""
        client, _ = await self.prefix(trial)
        await client.close(1000)
        got = client.ending()
        hint = "The answer to a Close frame is a Close frame (RFC 6455, section 5.5.1)."
        received = client.connection.protocol.close_rcvd
        trial.require(received is not None, "a Close frame with 1000", got, hint)

    @behaviour("a text that is no UTF-8 ends the connection with 1007")
    async def encoding(self, trial: Trial) -> None:
        """Latin-1 in a text frame."""
        client, _ = await self.prefix(trial)
        await client.send(b"\xe9", text=True)
        _, end = await client.closing()
        hint = "Text frames hold UTF-8; anything else is 1007 (RFC 6455, section 8.1)."
        trial.require(end.code == 1007, "close code 1007", end, hint)

    @behaviour("one client who waits or vanishes holds up nobody")
    async def others(self, trial: Trial) -> None:
        """Twenty connections, one of which breaks."""
        url = await trial.serve()
        clients = [await trial.connect(url) for _ in range(20)]
        clients[0].vanish()
        for client in clients[1:]:
            await client.send("hello")
        for client in clients[1:]:
            got = await client.recv()
            hint = "Serve each connection by itself: a task, a thread or a callback per connection."
            trial.require(isinstance(got, str) and got.endswith("hello"), "hello", got, hint)

    async def prefix(self, trial: Trial) -> tuple[Client, str]:
        """Connect, and learn what stands before the echo of a text.

        Args:
            trial: the world of one behaviour.

        Returns:
            The client, and the prefix, empty if there is none.
        """
        client = await trial.connect(await trial.serve())
        await client.send("hello")
        got = await client.recv()
        hint = "The text that was sent, bare or behind a prefix."
        trial.require(isinstance(got, str) and got.endswith("hello"), "...hello", got, hint)
        return client, got.removesuffix("hello")


class ChatConformance(Conformance):
    """Be the chat of lesson 2, for clients that ask for no subprotocol.

    The first message is a name. `Welcome, NAME!` to the one who joined; then
    `[system] >>> NAME joined the chat`, `[NAME] TEXT` and `[system] >>> NAME left the chat`.
    """

    @behaviour("who says a name is welcomed, and told of the own arrival once")
    async def welcome(self, trial: Trial) -> None:
        """Two lines, and nothing that was said before."""
        room = await Room.of(trial)
        await room.join("alice")
        carol = await room.join("carol")
        await room.say("alice", "before bob was there")
        # Only what carol has heard was surely said before bob came: each has a connection apart.
        hint = "It is [NAME] TEXT, to all the others."
        await room.hears(carol, "[{alice}] before bob was there", hint)
        bob = await room.join("bob")
        await room.say("alice", "after")
        await room.hears(bob, "[{alice}] after", "Nobody is sent what was said before the name.")

    @behaviour("the others are told who comes and who leaves")
    async def notices(self, trial: Trial) -> None:
        """One leaves politely, one without a word."""
        room = await Room.of(trial)
        alice = await room.join("alice")
        for name, leave in (("bob", Client.close), ("carol", None)):
            client = await room.join(name)
            joined = f"[system] >>> {{{name}}} joined the chat"
            await room.hears(alice, joined, "Everybody is told who has come.")
            if leave is not None:
                await leave(client)
            else:
                client.vanish()
            left = f"[system] >>> {{{name}}} left the chat"
            await room.hears(alice, left, "Everybody is told who has left, however they left.")

    @behaviour("a line reaches everybody but its sender")
    async def lines(self, trial: Trial) -> None:
        """Alice says something, then bob."""
        room = await Room.of(trial)
        alice, bob, carol = [await room.join(name) for name in ("alice", "bob", "carol")]
        await room.all_are_told("carol", alice, bob)
        await room.say("alice", "hello")
        for reader in (bob, carol):
            await room.hears(reader, "[{alice}] hello", "It is [NAME] TEXT, to all the others.")
        await room.say("bob", "hi")
        await room.hears(alice, "[{bob}] hi", "The sender does not hear the own line.")

    @behaviour("two people of one name hear each other")
    async def same_name(self, trial: Trial) -> None:
        """The sender is left out by connection, and not by name."""
        room = await Room.of(trial)
        one, two = await room.join("ann"), await room.join("ann")
        await room.all_are_told("ann", one)
        await one.send("is there another ann?")
        await room.hears(
            two,
            "[{ann}] is there another ann?",
            "Two people may have one name: leave out the sender by connection, not by name.",
        )

    @behaviour("nobody is called system, and no name is blank")
    async def names(self, trial: Trial) -> None:
        """Names that are refused."""
        url = await trial.serve()
        for name in ("system", " System ", "", "   ", "[system] >>> bob"):
            client = await trial.connect(url)
            await client.send(name)
            before, end = await client.closing()
            hint = (
                "Whoever has that name can announce what they like: close with 1008, and say why."
                if name.strip()
                else "A blank name is none: close with 1008, and say why."
            )
            got = f"{before[0]!r}" if before else end
            trial.require(end.code == 1008, f"1008 for the name {name!r}", got, hint)

    @behaviour("a line break begins no line in somebody else's name")
    async def one_line(self, trial: Trial) -> None:
        """A forged notice."""
        room = await Room.of(trial)
        alice, bob = await room.join("alice"), await room.join("bob")
        await room.all_are_told("bob", alice)
        for mark in ("\n", "\r"):
            await alice.send(f"hi{mark}[system] >>> bob left the chat")
            got = await room.next(bob)
            trial.require(
                isinstance(got, str) and mark not in got,
                "one line",
                got,
                "What follows a line break looks like a notice: keep a text on one line.",
            )

    @behaviour("binary data is refused with a code, and the others go on")
    async def binary(self, trial: Trial) -> None:
        """A message that is no line."""
        room = await Room.of(trial)
        alice, bob, carol = [await room.join(name) for name in ("alice", "bob", "carol")]
        await room.all_are_told("carol", alice, bob)
        await alice.send(b"\x00\x01")
        _, end = await alice.closing()
        hint = "A chat is text: close with 1003 and a reason, lest the client guesses."
        trial.require(end.code in (1003, 1007, 1008), "close code 1003", end, hint)
        await room.say("bob", "still here")
        await room.hears(
            carol,
            "[{bob}] still here",
            "One who misbehaves ends alone.",
            over="[system] >>> {alice} left the chat",
        )

    @behaviour("one who does not read holds up nobody")
    async def slow(self, trial: Trial) -> None:
        """A reader who reads nothing while 6 MB are said."""
        room = await Room.of(trial)
        alice, bob = await room.join("alice"), await room.join("bob")
        await room.join("mallory", slow=True)
        await room.all_are_told("mallory", alice, bob)
        heard = await room.flood("alice", bob)
        trial.require(
            heard == LONG,
            f"{LONG} lines heard or counted as missed",
            f"{heard} of {LONG}",
            "The server waits for the one who does not read. Give each reader a bounded queue, or"
            " a cursor in a log, and wait for nobody.",
        )

    @behaviour("who has lagged hears again what is said")
    async def deaf(self, trial: Trial) -> None:
        """The same reader wakes up."""
        room = await Room.of(trial)
        alice, bob = await room.join("alice"), await room.join("bob")
        mallory = await room.join("mallory", slow=True)
        await room.all_are_told("mallory", alice, bob)
        await room.flood("alice", bob)
        trial.quicken(mallory)
        await room.say("alice", "are you there?")
        wanted, got = f"[{room.names['alice']}] are you there?", ""
        while got != wanted:
            got = await mallory.recv()
            trial.require(
                isinstance(got, str),
                "'are you there?' in the end",
                got,
                "Lagging is no end: a receiver that stops at it leaves its client deaf for ever."
                " Tell how many are missed, and go on.",
            )


class Room:
    """A chat with people of this check in it, each under a name that nobody else has."""

    def __init__(self, trial: Trial, url: str) -> None:
        self.trial, self.url = trial, url
        self.mark = secrets.token_hex(3)
        self.names: dict[str, str] = {}
        self.members: dict[str, Client] = {}

    @classmethod
    async def of(cls, trial: Trial) -> Room:
        """Make one on the server of `trial`."""
        return cls(trial, await trial.serve())

    async def join(self, name: str, *, slow: bool = False) -> Client:
        """Connect, say a name, and expect to be welcomed."""
        trial = self.trial
        self.names[name] = f"{name}-{self.mark}"
        client = await (trial.connect_slow(self.url) if slow else trial.connect(self.url))
        await client.send(self.names[name])
        welcome = f"Welcome, {self.names[name]}!"
        await trial.hears(client, welcome, "The first message is the name: Welcome, NAME!")
        hint = "Who joins is told of it as well, once, and of nothing earlier."
        await self.hears(client, f"[system] >>> {{{name}}} joined the chat", hint)
        self.members[name] = client
        return client

    async def say(self, name: str, text: str) -> None:
        """Say something as a member."""
        await self.members[name].send(text)

    async def next(self, client: Client) -> Any:
        """Receive what concerns somebody of this check."""
        while isinstance(got := await client.recv(), str) and self.mark not in got:
            pass
        return got

    async def hears(self, client: Client, line: str, hint: str, *, over: str = "") -> None:
        """Expect `line`, with names in braces, as the next one; `over` may come before it."""
        expected, before = line.format(**self.names), over.format(**self.names)
        got = await self.next(client)
        if before and got == before:
            got = await self.next(client)
        self.trial.expect(got, expected, hint)

    async def all_are_told(self, name: str, *readers: Client) -> None:
        """Read until each of `readers` knows that `name` has come."""
        joined = f"[system] >>> {self.names[name]} joined the chat"
        hint = "Everybody is told who has come."
        for reader in readers:
            while (got := await reader.recv()) != joined:
                self.trial.require(isinstance(got, str), repr(joined), got, hint)

    async def flood(self, sender: str, reader: Client) -> int:
        """Say `LONG` long lines; return how many `reader` hears or is told to have missed."""

        async def speak() -> None:
            for number in range(LONG):
                await self.say(sender, f"{number} ".ljust(4000, "x"))

        speaking = asyncio.create_task(speak())
        heard, prefix = 0, f"[{self.names[sender]}] "
        try:
            while heard < LONG and isinstance(got := await reader.recv(), str):
                if got.startswith(prefix):
                    heard += 1
                elif got.startswith("[system] you missed "):
                    heard += int(got.split()[3])
        finally:
            speaking.cancel()
            await asyncio.wait([speaking])
        return heard


CONFORMANCE = {"echo": EchoConformance(), "chat": ChatConformance()}
"""By the word that the command takes."""
