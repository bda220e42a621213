"""One run: the people come, the schedule is played, all is mended, and the logs are judged."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection

import msgspec

from wslessons.chaos.checker import Finding, Heard, Log, Missed, check, check_usage
from wslessons.chaos.people import Person, read_nothing
from wslessons.chaos.schedule import COMMON, Step, draw
from wslessons.chaos.world import World

__all__ = ["Report", "run"]

ROOM = 12
"""People in a room."""
CALM = 60.0
"""Seconds within which all has to be well again, once nothing goes wrong any more."""


class Report(msgspec.Struct):
    """What came of a run."""

    findings: list[Finding]
    steps: list[Step]
    people: int
    connections: int
    said: int
    acknowledged: int
    unconfirmed: int
    heard: int
    missed: int
    """Events that notices counted as missing."""
    gaps: int
    """Notices of which nobody knows how many events they stand for."""
    memory: int
    """The most bytes that a server held."""
    logs: list[Log]


async def run(
    *,
    seconds: float,
    seed: object,
    bus: str = "nats?stream=chat",
    nodes: int = 1,
    servers: int = 3,
    people: int = 120,
    every: float = 2.0,
    kinds: Collection[str] = COMMON,
    tell: Callable[[str], None] = lambda line: None,
) -> Report:
    """Let chaos reign, and judge what was made of it.

    Args:
        seconds: how long things go wrong.
        seed: the same one gives the same schedule.
        bus: which broker, and how it is used.
        nodes: of the broker.
        servers: how many.
        people: how many; one of eight speaks plain text.
        every: seconds between two faults, on average.
        kinds: the faults that may happen, where they can; of `KINDS`.
        tell: called with a line for each thing that happens.

    Returns:
        The report; without findings if every promise was kept.

    Raises:
        UserError: the broker or the servers can't be started.
    """
    async with World(bus, nodes, servers) as world:
        chaos = _Chaos(world, seed, people, tell)
        possible = [kind for kind in world.kinds if kind in kinds]
        return await chaos.run(draw(seed, seconds, possible, every=every), seconds)


class _Chaos:
    """A run that is under way."""

    def __init__(
        self, world: World, seed: object, people: int, tell: Callable[[str], None]
    ) -> None:
        self._world, self._seed, self._tell = world, seed, tell
        self._findings: list[Finding] = []
        self._memory: dict[str, int] = {}
        """The most bytes that each server held."""
        self._passers_by = 0
        rooms = max(1, people // ROOM)
        # People of one room are on all links, and so on all servers.
        self._people = [
            self._person(
                number, f"person{number}", f"/rooms/room{number // len(world.links) % rooms}"
            )
            for number in range(people)
        ]
        self._gone: list[Person] = []

    def _person(self, number: int, name: str, room: str, pace: float = 3.0) -> Person:
        link = self._world.links[number % len(self._world.links)]
        rng = random.Random(f"{self._seed} {name}")
        return Person(name, room, lambda: _base(link.url), rng, pace=pace, text=number % 8 == 7)

    async def run(self, steps: list[Step], seconds: float) -> Report:
        """Play the schedule, mend all, and judge."""
        for person in self._people:
            person.start()
        watching = asyncio.create_task(self._watch())
        began = time.monotonic()
        try:
            async with asyncio.TaskGroup() as tasks:
                for step in steps:
                    await asyncio.sleep(max(0.0, began + step.at - time.monotonic()))
                    self._tell(f"{step}")
                    tasks.create_task(self._suffer(step))
                await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))
            self._world.heal()
            await self._calm_down()
            await self._say_last_words()
            await self._call_the_roll()
        finally:
            watching.cancel()
            await asyncio.wait([watching])
            await asyncio.gather(*(person.leave() for person in self._people))
        await self._look_for_leaks()
        return self._judge(steps)

    async def _suffer(self, step: Step) -> None:
        try:
            async with asyncio.timeout(step.seconds + 2 * CALM):
                await self._let_happen(step)
        except TimeoutError:
            sentence = f"what it suffered is not undone for {2 * CALM:g} s: {step}"
            self._findings.append(Finding("deaf", step.kind, sentence))

    async def _let_happen(self, step: Step) -> None:
        world = self._world
        if step.kind not in ("crowd", "slow reader", "flood"):
            await world.suffer(step)
            return
        somebody = self._people[int(step.strength * len(self._people))]
        if step.kind == "flood":
            # Some of those who hear it are slow, and what they say goes on.
            fault = world.link(step).stall("down")
            await somebody.flood(20 + int(step.strength * 80), step.seconds)
            fault.undo()
            return
        self._passers_by += 1
        link, room = int(step.which * len(world.links)), somebody.log.room
        if step.kind == "slow reader":
            url = _base(world.links[link].url) + room
            await read_nothing(url, f"sloth{self._passers_by}", step.seconds)
            return
        passers_by = [
            self._person(link, f"crowd{self._passers_by}-{each}", room, pace=0.5)
            for each in range(3 + int(step.strength * 20))
        ]
        self._gone += passers_by
        for person in passers_by:
            person.start()
        await asyncio.sleep(step.seconds)
        await asyncio.gather(*(person.leave() for person in passers_by))
        for person in passers_by:
            person.log.left = True

    async def _watch(self) -> None:
        while True:
            usage = await self._world.usage()
            for name, each in usage.items():
                self._memory[name] = max(self._memory.get(name, 0), each.memory)
            await asyncio.sleep(1)

    # When nothing goes wrong any more.

    async def _calm_down(self) -> None:
        for person in self._people:
            person.be_quiet()
        if not await _until(self._world.is_well, CALM):
            for number, stats in enumerate(await self._world.stats(), 1):
                if stats is None or stats.bus != "connected":
                    why = "does not answer" if stats is None else f"is {stats.bus}: {stats.why}"
                    finding = Finding("deaf", f"server {number}", f"it {why}, and all is well")
                    self._findings.append(finding)

        async def answered() -> bool:
            return not any(person.waits for person in self._people)

        await _until(answered, CALM)
        for person in self._people:
            person.wait_no_longer()
        self._tell("all is mended, and everybody is quiet")

    async def _say_last_words(self) -> None:
        """Let everybody say a word that all others have to hear.

        Several times if need be: a connection that was only about to end takes a word in plain text
        with it, and nobody repeats that.
        """
        for attempt in range(1, 4):
            words: dict[str, set[str]] = {}
            for person in self._people:
                word = f"{person.log.name} has last word {attempt}"
                person.say(word)
                words.setdefault(person.log.room, set()).add(word)

            async def all_heard(words: dict[str, set[str]] = words) -> bool:
                return all(
                    person.has_heard(words[person.log.room]) and not person.waits
                    for person in self._people
                )

            heard = await _until(all_heard, CALM / 2)
            for person in self._people:
                person.wait_no_longer()
                person.log.last_words = sorted(words[person.log.room])
            if heard:
                return

    async def _call_the_roll(self) -> None:
        present: dict[str, list[str]] = {}
        for person in self._people:
            present.setdefault(person.log.room, []).append(person.log.name)

        async def call() -> bool:
            right = True
            for person in self._people:
                # In plain text a roster is a line for people.
                if person.log.numbered:
                    person.log.present = sorted(present[person.log.room])
                    person.log.roster = sorted(await person.ask_who(5) or [])
                    right = right and person.log.roster == person.log.present
            return right

        await _until(call, CALM / 2)

    async def _look_for_leaks(self) -> None:
        after = await self._world.usage()
        findings: list[Finding] = []

        async def is_clean() -> bool:
            nonlocal after, findings
            after = await self._world.usage()
            for name, usage in after.items():
                # It has to be bounded at all times.
                usage.memory = max(usage.memory, self._memory.get(name, 0))
            findings = check_usage(self._world.before, after)
            return not findings

        await _until(is_clean, CALM / 2)
        self._findings += findings

    def _judge(self, steps: list[Step]) -> Report:
        everybody = self._people + self._gone
        logs = [person.log for person in everybody]
        findings = self._findings + check(logs, one_order=self._world.has_log)
        sayings = [saying for log in logs for saying in log.sayings]
        missed = [entry.count for log in logs for entry in log.entries if isinstance(entry, Missed)]
        return Report(
            findings,
            steps,
            people=len(everybody),
            connections=sum(person.connections for person in everybody),
            said=len(sayings),
            acknowledged=sum(saying.answer == "ack" for saying in sayings),
            unconfirmed=sum(saying.answer == "Unconfirmed" for saying in sayings),
            heard=sum(isinstance(entry, Heard) for log in logs for entry in log.entries),
            missed=sum(filter(None, missed)),
            gaps=missed.count(None),
            memory=max(self._memory.values(), default=0),
            logs=logs,
        )


def _base(url: str) -> str:
    """Return a URL without its path."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


async def _until(look: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    """Look again and again; return whether it was so within this time."""
    end = time.monotonic() + seconds
    while not await look():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.2)
    return True
