"""Lesson 9's exercises: tests, judged by what they notice.

Each answer is a test. It is run against an implementation that is right, which it has to accept,
and against several that are wrong in one thing each, which it has to notice: mutation testing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from websockets import ConnectionClosed, ServerConnection, broadcast, connect

from wslessons.exercises.exercise import Exercise, behaviour
from wslessons.exercises.trial import Mismatch, Nothing, Trial
from wslessons.heartbeat import Heartbeat
from wslessons.link import Link
from wslessons.testing.virtual import run

__all__ = ["EXERCISES", "EchoTest", "HeartbeatTest", "OutageTest", "Room", "SteadyTest"]

WITHIN = 6.0
"""Seconds that a test may take; the tasks say 5, and a busy machine adds some."""
HOURS = 4
"""Hours of virtual time that a test may take: some milliseconds."""

FOREVER = (
    "When the answer does not come, your test waits for ever, and a test runner with it. Put a"
    " time limit around all of it: async with asyncio.timeout(2)."
)


class TestOfTests(Exercise):
    """An exercise whose answer is a test: what it accepts, and what it notices."""

    # pytest looks into what is called Test.
    __test__ = False
    kind = "async function"

    async def tried(self, trial: Trial, *args: Any) -> None:
        """Run the answer, a test.

        Raises:
            Mismatch: it fails, or does not end.
        """
        await trial.call(*args, timeout=WITHIN, hint=FOREVER)

    async def accepts(self, trial: Trial, hint: str, *args: Any) -> None:
        """Expect the test to pass; a machine that stood still in between gets a second chance."""
        for chance in (1, 2):
            try:
                return await self.tried(trial, *args)
            except Mismatch as error:
                if chance == 1 and await trial.crashed(TimeoutError):
                    continue
                if error.expected == "an end":
                    raise
                raise Mismatch("a test that passes", Nothing("it fails"), hint) from error

    async def notices(self, trial: Trial, hint: str, *args: Any) -> None:
        """Expect the test to fail, with whatever exception."""
        try:
            await self.tried(trial, *args)
        except Mismatch:
            if await trial.crashed(Exception):
                return
            raise
        raise Mismatch("a test that fails", Nothing("it passes"), hint)


def _answering(answers: Callable[[Any], list[Any]]) -> Callable[..., Awaitable[None]]:
    """Make a handler that sends for each message what `answers` returns."""

    async def handler(connection: ServerConnection) -> None:
        async for message in connection:
            for answer in answers(message):
                await connection.send(answer)

    return handler


def _as_text(message: str | bytes) -> str:
    return message if isinstance(message, str) else message.decode("utf-8", "replace")


async def _hangs_up(connection: ServerConnection) -> None:
    await connection.send(await connection.recv())


class EchoTest(TestOfTests):
    """Write a test for an echo server that listens at `url`: it sends back each message unchanged.

    Your test is run against one that is right, and against five that are not. It shall pass with
    the first, and fail with each of the others, within 5 seconds.
    """

    lesson = 9
    stub = """\
async def echo_test(url):
    pass  # your code here
"""
    solution_source = """\
import asyncio

from websockets import connect


async def echo_test(url):
    async with asyncio.timeout(2), connect(url, proxy=None) as client:
        for message in ("hello", "", b"\\x00\\xff", "goodbye"):
            await client.send(message)
            assert await client.recv() == message
"""
    hints = (
        "A test is a client that asserts: connect, send, `assert await client.recv() == ...`. A"
        " loop over several messages asks several questions.",
        "What could a careless programmer get wrong? An empty text is false in Python. Bytes are no"
        " text. And a second message may be treated unlike the first.",
        'Loop over ("hello", "", b"\\x00\\xff", "goodbye"), inside async with asyncio.timeout(2).',
    )

    @behaviour("it accepts a server that is right")
    async def right(self, trial: Trial) -> None:
        """Any test that is not too strict."""
        hint = (
            "This server is right. It sends back each message as it came, once, and then waits for"
            " the next one: expect no more and no less."
        )
        await self.accepts(trial, hint, _answering(lambda message: [message]))

    @behaviour("it notices one that says the first letter twice")
    async def stutters(self, trial: Trial) -> None:
        """Any test that compares."""
        hint = "Compare what came with what was sent: assert await client.recv() == message."
        await self.notices(trial, hint, _answering(lambda message: [message[:1] + message]))

    @behaviour("it notices one that hangs up after the first answer")
    async def hangs_up(self, trial: Trial) -> None:
        """Any test with a second message."""
        hint = "A second message over the same connection is never answered: send one."
        await self.notices(trial, hint, _hangs_up)

    @behaviour("it notices one that answers everything twice")
    async def twice(self, trial: Trial) -> None:
        """A second answer is found where the next one should be."""
        hint = (
            "Each answer comes twice. Over one connection the second copy stands where the answer"
            " to your next, different message should be."
        )
        await self.notices(trial, hint, _answering(lambda message: [message, message]))

    @behaviour("it notices one that turns bytes into text")
    async def text(self, trial: Trial) -> None:
        """A binary message."""
        hint = "Send bytes as well, such as b'\\x00\\xff': they have to come back as bytes."
        await self.notices(trial, hint, _answering(lambda message: [_as_text(message)]))

    @behaviour("it notices one that drops empty messages")
    async def empty(self, trial: Trial) -> None:
        """An empty text, and a time limit."""
        hint = 'An empty message is a message: send "" and expect "".'
        await self.notices(trial, hint, _answering(lambda message: [message] if message else []))

    async def tried(self, trial: Trial, *args: Any) -> None:
        """Run the test against a server of its own, given by its handler."""
        (handler,) = args
        await super().tried(trial, await trial.serve_this(handler, theirs=False))


class SteadyTest(TestOfTests):
    """Repair this test, which fails on a busy machine. The server at `url` is a chat's room.

    A client is in the room when the server has said "welcome" to it. From then on it hears each
    line of the others. The test shall pass however long the server takes (here up to 0.4 seconds),
    fail within 5 seconds when a line is lost or changed, and not sleep.
    """

    lesson = 9
    stub = """\
import asyncio

from websockets import connect


async def steady_test(url):
    async with connect(url, proxy=None) as ann, connect(url, proxy=None) as bob:
        await asyncio.sleep(0.1)  # by now both are in the room
        await ann.send("hi")
        async with asyncio.timeout(0.2):
            assert await bob.recv() == "welcome"
            assert await bob.recv() == "hi"
"""
    solution_source = """\
import asyncio

from websockets import connect


async def steady_test(url):
    async with asyncio.timeout(2):
        async with connect(url, proxy=None) as ann, connect(url, proxy=None) as bob:
            assert await bob.recv() == "welcome"
            await ann.send("hi")
            assert await bob.recv() == "hi"
"""
    hints = (
        "A sleep is a guess about somebody else's machine. Which message tells that bob is in the"
        " room?",
        'Wait for bob\'s "welcome" before ann speaks. A time limit is no guess if it is far above'
        " what can be needed: it only has to end a test that would hang.",
    )

    @behaviour("it accepts a server that is quick")
    async def quick(self, trial: Trial) -> None:
        """As on the author's machine."""
        hint = 'Bob hears "welcome", and then each line that ann says.'
        await self.accepts(trial, hint, Room)

    @behaviour("it accepts one where it takes 0.4 s to get into the room")
    async def slow_to_join(self, trial: Trial) -> None:
        """As with a database behind it."""
        hint = (
            "Ann spoke before bob was in the room. Wait for the message that says he is, however"
            " long it takes, and not for a time."
        )
        await self.accepts(trial, hint, partial(Room, joining=0.4))

    @behaviour("it accepts one where a line takes 0.4 s")
    async def slow_to_tell(self, trial: Trial) -> None:
        """As on a busy machine."""
        hint = "The line comes, only later: a time limit far above what is needed costs nothing."
        await self.accepts(trial, hint, partial(Room, telling=0.4))

    @behaviour("it notices a lost line")
    async def lost(self, trial: Trial) -> None:
        """A time limit."""
        hint = "Bob never hears the line: wait for it, with a time limit."
        await self.notices(trial, hint, partial(Room, change=lambda line: None))

    @behaviour("it notices a line that was changed")
    async def changed(self, trial: Trial) -> None:
        """A comparison."""
        hint = "Bob hears another line than ann has said: compare."
        await self.notices(trial, hint, partial(Room, change=lambda line: f"{line}!"))

    @behaviour("it does not sleep")
    async def awake(self, trial: Trial) -> None:
        """The quickest of three runs shows it, however busy the machine is."""
        waited = []
        for _ in range(3):
            moments: list[float] = []
            await self.tried(trial, partial(Room, moments=moments))
            waited.append(moments[-1] - moments[-2])
        hint = "Bob is in the room, and the test still sleeps before ann speaks: leave that out."
        got = f"{min(waited):.1f} s between the welcome and the line" if min(waited) > 0.08 else ""
        trial.require(not got, "a line as soon as bob is in", got, hint)

    async def tried(self, trial: Trial, *args: Any) -> None:
        """Run the test in a room of its own: in another one a late line could still come."""
        (room,) = args
        await super().tried(trial, await trial.serve_this(room().handler, theirs=False))


@dataclass
class Room:
    """A chat's room that can be slow, as on a busy machine; `handler` serves it.

    Args:
        joining: seconds until the second one is in the room; or until a line is told, if that is
            sooner, so that it comes too late for whoever only sleeps a little.
        telling: seconds until a line is told.
        change: what becomes of a line; None if it is lost.
        moments: gets the times of each welcome and each line.
    """

    joining: float = 0.0
    telling: float = 0.0
    change: Callable[[str], str | None] = str
    moments: list[float] = field(default_factory=list)
    _members: set[ServerConnection] = field(default_factory=set)
    _arrived: int = 0
    _told: asyncio.Event = field(default_factory=asyncio.Event)

    async def handler(self, connection: ServerConnection) -> None:
        """Let one in, and tell the others each line of theirs.

        Args:
            connection: the server's end.
        """
        self._arrived += 1
        if self._arrived > 1:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), self.joining)
        self._members.add(connection)
        await connection.send("welcome")
        self.moments.append(time.monotonic())
        try:
            async for line in connection:
                self.moments.append(time.monotonic())
                await asyncio.sleep(self.telling)
                if (told := self.change(str(line))) is not None:
                    broadcast(self._members - {connection}, told)
                self._told.set()
        finally:
            self._members.discard(connection)


class OutageTest(TestOfTests):
    """Write a test for a client that follows a server's news. Between the two stands a `link`.

    `say("one")` makes the server say something. `await heard()` gives the next line that the client
    has brought home, each once and in order, also those that were said while the link was broken.
    `with link.cut():` breaks it. One client is right and four are not: find their bugs, within 5
    seconds each.
    """

    lesson = 9
    # It is called with a link and functions, and those can't be handed to another process.
    portable = False
    stub = """\
async def outage_test(link, say, heard):
    pass  # your code here
"""
    solution_source = """\
import asyncio


async def outage_test(link, say, heard):
    async with asyncio.timeout(2):
        say("one")
        assert await heard() == "one"
        for text in ("two", "three"):
            with link.cut():
                say(text)
            assert await heard() == text
"""
    hints = (
        "On a sound link all five clients are right: say a line, and hear it. Then break the link,"
        " and see whether the next line is still heard.",
        "What is said inside `with link.cut():` is said while the client is away. After the block"
        " it can come back, and `assert await heard() == ...` waits for what it brings.",
        "Break it twice: what works once need not work again. And put asyncio.timeout(2) around it"
        " all, since a lost line never comes.",
    )

    @behaviour("it accepts a client that is right")
    async def right(self, trial: Trial) -> None:
        """It comes back, and asks for what it has missed."""
        hint = (
            "This client is right: it brings each line once, as soon as it can be back. A cut lasts"
            " until it is undone, as at the end of with link.cut()."
        )
        await self.accepts(trial, hint, await _world(trial, last=_last))

    @behaviour("it notices one that does not come back")
    async def gone(self, trial: Trial) -> None:
        """Any test that breaks the link."""
        hint = (
            "Nothing was broken, or nothing said after that: the bug shows on a broken link only."
        )
        await self.accepts(trial, hint, await _world(trial, last=_last))
        await self.notices(trial, hint, await _world(trial, last=_last, returns=0))

    @behaviour("it notices one that loses what was said while it was away")
    async def forgets(self, trial: Trial) -> None:
        """Something has to be said meanwhile."""
        hint = "It comes back and hears all that is said from then on. Say a line while it is away."
        await self.notices(trial, hint, await _world(trial, last=lambda heard: -1))

    @behaviour("it notices one that brings its last line twice")
    async def again(self, trial: Trial) -> None:
        """Each line counts."""
        hint = "A line comes twice: compare each line that is heard, and skip none."
        again = await _world(trial, last=lambda heard: max(len(heard) - 1, 0))
        await self.notices(trial, hint, again)

    @behaviour("it notices one that comes back only once")
    async def once(self, trial: Trial) -> None:
        """A second break."""
        hint = "It survives one break, and not the next: break the link a second time."
        await self.notices(trial, hint, await _world(trial, last=_last, returns=1))

    async def tried(self, trial: Trial, *args: Any) -> None:
        """Run the test in a world of its own, and end the client with it."""
        (world,) = args
        async with contextlib.AsyncExitStack() as stack:
            await super().tried(trial, *await world(stack))


World = Callable[[contextlib.AsyncExitStack], Awaitable[tuple[Any, ...]]]


def _last(heard: list[str]) -> int:
    return len(heard)


async def _world(trial: Trial, last: Callable[[list[str]], int], returns: int = 1000) -> World:
    """Serve news, and prepare to have them followed by a client, over a link.

    Args:
        trial: the trial.
        last: what the client says that it has heard when it comes back: how many lines, or -1.
        returns: how often it comes back.
    """
    lines: list[str] = []
    followers: set[ServerConnection] = set()

    async def handler(connection: ServerConnection) -> None:
        since = int(await connection.recv())
        for line in lines[since:] if since >= 0 else []:
            broadcast([connection], line)
        followers.add(connection)
        await connection.wait_closed()
        followers.discard(connection)

    def say(line: str) -> None:
        lines.append(line)
        broadcast(followers, line)

    async def follow(url: str, heard: list[str], news: asyncio.Queue[str | None]) -> None:
        times = 0
        while times <= returns:
            with contextlib.suppress(OSError, EOFError, ConnectionClosed):
                async with connect(url, proxy=None, close_timeout=0.1) as connection:
                    await connection.send(str(last(heard) if times else 0))
                    times += 1
                    async for line in connection:
                        heard.append(str(line))
                        news.put_nowait(str(line))
            await asyncio.sleep(0.01)
        news.put_nowait(None)

    url = await trial.serve_this(handler, theirs=False)

    async def enter(stack: contextlib.AsyncExitStack) -> tuple[Any, ...]:
        lines.clear()
        link = await stack.enter_async_context(Link(url))
        news: asyncio.Queue[str | None] = asyncio.Queue()
        following = asyncio.create_task(follow(link.url, [], news))
        stack.push_async_callback(_ended, following)

        async def heard() -> str:
            line = await news.get()
            if line is None:
                news.put_nowait(None)
                raise ConnectionError("the client has ended")
            return line

        return link, say, heard

    return enter


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


class _Deaf(Heartbeat):
    """Takes nothing for a sign of life."""

    def _received(self) -> int:
        return 0


def _waiting(times: float) -> type[Heartbeat]:
    """Make a heartbeat that waits so many times its timeout."""

    class Waiting(Heartbeat):
        def __init__(self, connection: Any, interval: float = 15, timeout: float = 45) -> None:
            super().__init__(connection, interval, times * timeout)

    return Waiting


class HeartbeatTest(TestOfTests):
    """Repair this test of a heartbeat, which runs in virtual time. It notices too little.

    `Heartbeat(connection, interval, timeout)` pings at least every `interval` seconds, and drops
    the connection when nothing has come for `timeout` seconds after a ping. So with 15 and 45,
    whoever answers within 40 seconds stays for ever, and whoever vanishes is dropped within 60.
    """

    lesson = 9
    # It is called with a class.
    portable = False
    stub = """\
import asyncio

from wslessons.testing import connections, wire


async def heartbeat_test(Heartbeat):
    server, client = connections()
    with Heartbeat(server, interval=15, timeout=45) as heartbeat:
        wire(client).stalled = True  # nothing of the client's arrives any more
        await asyncio.sleep(300)
        assert heartbeat.dropped
"""
    solution_source = """\
import asyncio

from wslessons.testing import connections, wire


async def heartbeat_test(Heartbeat):
    server, client = connections(up=lambda: 40)
    with Heartbeat(server, interval=15, timeout=45) as heartbeat:
        await asyncio.sleep(600)
        assert not heartbeat.dropped
        wire(client).stalled = True  # nothing of the client's arrives any more
        await asyncio.sleep(60)
        assert heartbeat.dropped
"""
    hints = (
        "A heartbeat can be wrong in two ways: it drops who is alive, or it keeps who is gone. The"
        " test looks for one of them only.",
        "Before the client vanishes, let ten minutes pass, and assert that it was not dropped."
        " `connections(up=lambda: 40)` makes a client whose answers take 40 seconds.",
        "Then let exactly the 60 seconds pass that it may take, and not 300.",
    )

    @behaviour("it accepts a heartbeat that is right")
    async def right(self, trial: Trial) -> None:
        """Whenever its first ping goes out."""
        hint = (
            "This one is right. A client that answers within 40 s is never dropped, and one that"
            " vanishes is dropped within interval + timeout, 60 s, and perhaps not sooner."
        )
        for _ in range(5):
            await self.accepts(trial, hint, Heartbeat)

    @behaviour("it notices one that never drops anybody")
    async def never(self, trial: Trial) -> None:
        """A dead peer."""
        hint = "Stall the client, let time pass, and assert that it was dropped."
        await self.notices(trial, hint, _waiting(1e9))

    @behaviour("it notices one that drops those who answer")
    async def deaf(self, trial: Trial) -> None:
        """A living peer."""
        hint = (
            "It drops everybody after a while, also who answers each ping. Let time pass before"
            " the client vanishes, and assert that it is not dropped."
        )
        await self.notices(trial, hint, _Deaf)

    @behaviour("it notices one that has no patience")
    async def impatient(self, trial: Trial) -> None:
        """A slow peer."""
        hint = (
            "It drops who answers after 15 s. Whose answers take 40 s must stay: up=lambda: 40"
            " is such a client."
        )
        await self.notices(trial, hint, _waiting(1 / 3))

    @behaviour("it notices one that needs three times as long")
    async def late(self, trial: Trial) -> None:
        """A deadline."""
        hint = "It drops too late, and your test waits even longer. Look after 60 s."
        await self.notices(trial, hint, _waiting(3))

    async def tried(self, trial: Trial, *args: Any) -> None:
        """Run the test on a virtual clock, and so on a loop of its own in a thread."""
        answer, ended = trial.answer, True

        async def bounded() -> None:
            nonlocal ended
            async with asyncio.timeout(HOURS * 3600) as hours:
                ended = False
                try:
                    await answer(*args)
                finally:
                    ended = not hours.expired()

        async def aside() -> None:
            await trial.isolation.elsewhere(partial(run, bounded()))

        try:
            await Trial(aside, trial.isolation).call(timeout=WITHIN)
        except Mismatch as error:
            if ended:
                raise
            trial.isolation.crashes.clear()
            raise Mismatch(
                "an end",
                Nothing(f"no end in {HOURS} hours of virtual time"),
                "What it waits for never comes. In virtual time a generous asyncio.timeout(3600)"
                " costs nothing.",
            ) from error


EXERCISES = (SteadyTest(), OutageTest(), HeartbeatTest(), EchoTest())
