"""The people of a chaos: clients who talk, keep a log of all they hear, and bear what comes."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any

from msgspec import UnsetType
from websockets import WebSocketException, connect

from wslessons.chaos.checker import Entered, Heard, Log, Missed, Saying
from wslessons.chat import events
from wslessons.client import ChatClient, full_jitter
from wslessons.client.inbox import Event
from wslessons.errors import UserError

__all__ = ["Person", "read_nothing"]

OPTIONS: dict[str, Any] = dict(open_timeout=4, close_timeout=1, ping_interval=2, ping_timeout=3)
"""Of each connection: a line that is dead is noticed within five seconds."""


class Person:
    """Somebody in a room, who talks now and then, comes back, and sometimes begins anew.

    Args:
        name: different for each.
        room: the path of the room.
        url: returns where the server is now, without a path.
        rng: draws what this person does.
        pace: seconds between two messages, on average.
        text: whether to speak plain text.
    """

    def __init__(
        self,
        name: str,
        room: str,
        url: Callable[[], str],
        rng: random.Random,
        *,
        pace: float = 3.0,
        text: bool = False,
    ) -> None:
        self.log = Log(name, room, numbered=not text)
        self.connections = 0
        self._url, self._rng = url, rng
        self._pace, self._text = pace, text
        self._chat: ChatClient | None = None
        self._here = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._sayings: set[asyncio.Task[None]] = set()
        """Sayings that wait for what becomes of them."""
        self._leaving = self._quiet = False
        self._rosters: asyncio.Queue[list[str]] = asyncio.Queue()

    def start(self) -> None:
        """Come, as soon as it can be done."""
        self._task = asyncio.create_task(self._stay(), name=self.log.name)

    def be_quiet(self) -> None:
        """Say nothing more by oneself."""
        self._quiet = True

    @property
    def waits(self) -> bool:
        """Whether something that was said waits for what becomes of it."""
        return bool(self._sayings)

    def wait_no_longer(self) -> None:
        """Leave unanswered what is."""
        for task in self._sayings:
            task.cancel()

    def has_heard(self, words: set[str]) -> bool:
        """Whether all these words were heard, or said by oneself.

        Args:
            words: of messages.

        Returns:
            Whether all were.
        """
        known = {each.what for each in self.log.entries if isinstance(each, Heard)}
        return words <= known | {each.what for each in self.log.sayings}

    async def leave(self) -> None:
        """Go, in good order if there is a connection."""
        self._leaving = True
        self._here.set()
        if self._chat is not None:
            await self._chat.close()
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task, *self._sayings])

    def say(self, words: str) -> None:
        """Say something; what becomes of it is put down when it is known.

        Args:
            words: the message.
        """
        saying = Saying(words, self._now())
        self.log.sayings.append(saying)
        task = asyncio.create_task(self._say(saying))
        self._sayings.add(task)
        task.add_done_callback(self._sayings.discard)

    async def flood(self, burst: int, seconds: float) -> None:
        """Say far more than anybody wants to hear.

        Args:
            burst: messages at a time, five times a second.
            seconds: how long.
        """
        end = self._now() + seconds
        while self._now() < end:
            for _ in range(burst):
                self.say(self._words(3000))
            await asyncio.sleep(0.2)

    async def ask_who(self, seconds: float) -> list[str] | None:
        """Ask who is here.

        Args:
            seconds: how long to wait for an answer.

        Returns:
            The names; None if no answer came.
        """
        if self._chat is None:
            return None
        while not self._rosters.empty():
            self._rosters.get_nowait()
        await self._chat.who()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await self._rosters.get()
        return None

    def _words(self, size: int) -> str:
        count = len(self.log.sayings) + 1
        return f"{self.log.name}#{count} {'x' * self._rng.randrange(size)}".strip()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _stay(self) -> None:
        since, epoch = None, ""
        while not self._leaving:
            chat = ChatClient(
                self._url() + self.log.room,
                self.log.name,
                text=self._text,
                since=since,
                epoch=epoch,
                reconnect_delays=lambda: full_jitter(0.2, 2.0, self._rng.uniform),
                tries=1000,
                timeout=4,
                **OPTIONS,
            )
            try:
                async with chat:
                    self._chat = chat
                    self._here.set()
                    talking = asyncio.create_task(self._talk(chat))
                    try:
                        async for event in chat:
                            self._take(event)
                    finally:
                        talking.cancel()
                        await asyncio.wait([talking])
                        since, epoch = chat.offset, chat.epoch
            except UserError as exc:
                if self._chat is not None:
                    self.log.ended = str(exc)
            self._chat = None
            self._here.clear()
            await asyncio.sleep(self._rng.uniform(0.1, 0.6))

    async def _talk(self, chat: ChatClient) -> None:
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / self._pace))
            if self._quiet:
                return
            if self._rng.random() < 0.01:
                # Begin anew where this client ends, as a program does that is started again.
                await chat.close()
                return
            self.say(self._words(100))

    async def _say(self, saying: Saying) -> None:
        await self._here.wait()
        if (chat := self._chat) is None:
            saying.answer = "left"
            return
        try:
            ack = await chat.send(saying.what)
            saying.answer = "ack"
            if ack is not None:
                saying.offset, saying.epoch = ack.offset, _life(chat.epoch)
        except UserError as exc:
            # Who leaves waits for nothing.
            saying.answer = "left" if self._leaving else type(exc).__name__
        saying.answered = self._now()

    def _take(self, event: Event) -> None:
        now, entries = self._now(), self.log.entries
        match event:
            case events.Welcome(epoch=epoch, offset=offset):
                self.connections += 1
                entries.append(Entered(now, _life(epoch), offset))
            case events.Message(sender=sender, text=text):
                entries.append(Heard(now, text, event.offset, _prev(event), sender))
            case events.Joined(name=name):
                entries.append(Heard(now, f"{name} joined", event.offset, _prev(event)))
            case events.Left(name=name):
                entries.append(Heard(now, f"{name} left", event.offset, _prev(event)))
            case events.Missed(count=count, offset=offset):
                entries.append(Missed(now, count, offset))
            case events.Roster(people=people):
                self._rosters.put_nowait(people)


def _life(epoch: str) -> str:
    """Return which life of the room that is, without the proof, which each has of their own."""
    return epoch.partition(".")[0]


def _prev(event: events.RoomEvent) -> int | None:
    return None if isinstance(event.prev, UnsetType) else event.prev


async def read_nothing(url: str, name: str, seconds: float) -> None:
    """Join a room and read nothing of what is said there, as a phone in a pocket does.

    Args:
        url: where the room is.
        name: under which to join.
        seconds: how long to stay.
    """
    with contextlib.suppress(OSError, TimeoutError, WebSocketException):
        async with asyncio.timeout(5):
            connection = await connect(url, proxy=None, ping_interval=None)
            await connection.send(name)
        connection.transport.pause_reading()
        await asyncio.sleep(seconds)
        connection.transport.abort()
