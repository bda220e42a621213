"""What publish and subscribe lose: exactly that is reported, in its room, however long it took."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from waits import until

from wslessons.scaling.bus import Event, Gap, Subscription, pubsub
from wslessons.scaling.bus.items import Beat, Counts, CountsWanted, decode, encode, join
from wslessons.scaling.bus.pubsub import PubSub
from wslessons.scaling.bus.transport import Transport

Part = Any
BEAT = 0.05


class Wire(Transport):
    """A broker without a network. What `lose` says of a part decides whether the others get it."""

    def __init__(self, others: list[Wire]) -> None:
        super().__init__("a wire")
        self.others = others
        self.cut = True
        """Whether nothing goes out or comes in, as before it is opened."""
        self.lose: Callable[[Part], bool] = lambda part: False
        others.append(self)

    async def publish(self, data: bytes) -> None:
        """Give the others what is not lost."""
        for other in self.others:
            parts = [encode(part) for part in decode(data) if not self.lose(part)]
            if other is not self and not self.cut and not other.cut:
                other.host.on_message(join(parts))

    async def flush(self) -> None:
        """Nothing is under way."""

    async def _connect(self) -> None:
        self.cut = False

    async def _serve(self) -> None:
        await asyncio.Event().wait()

    async def _disconnect(self) -> None:
        pass


class Heard:
    """What a reader has got: events and losses by room."""

    def __init__(self, reader: Subscription) -> None:
        self._reader = reader
        self.items: list[Any] = []

    def look(self) -> Heard:
        """Take what is ready."""
        self.items += self._reader.take_ready()
        return self

    @property
    def events(self) -> Counter[str]:
        """How many events came in each room."""
        return Counter(item.room for item in self.items if isinstance(item, Event))

    @property
    def lost(self) -> Counter[str | None]:
        """How many were told to be lost in each room."""
        lost: Counter[str | None] = Counter()
        for item in self.items:
            if isinstance(item, Gap):
                lost[item.room] += item.count or 1
        return lost


def pair(wires: list[Wire]) -> tuple[PubSub, PubSub]:
    """Return two servers on a wire each."""
    one, two = Wire(wires), Wire(wires)
    return PubSub(one, node="one", beat=BEAT), PubSub(two, node="two", beat=BEAT)


def say(bus: PubSub, room: str, count: int = 1) -> None:
    """Publish events."""
    for number in range(count):
        bus.publish(Event(room, number))


async def beats(bus: PubSub, count: int) -> None:
    """Wait for some beats of a server."""
    wanted = bus._presence._number + count
    await until(lambda: bus._presence._number >= wanted)


async def test_a_lost_part_of_a_beat_loses_nobody_and_invents_nothing():
    """A server in 250 rooms says its beat in two parts; one is lost, and nothing else."""
    wires: list[Wire] = []
    one, two = pair(wires)
    async with asyncio.timeout(30), two, one:
        reader = Heard(two.subscribe())
        rooms = [f"/r{number}" for number in range(250)]
        for room in rooms:
            one.enter(room, f"c{room}", "ann")
            say(one, room, 10)

        def people() -> int:
            return sum(two.members(room)[1] for room in rooms)

        await until(lambda: people() == 250)
        await beats(one, 2)
        lost: list[Beat] = []

        def lose(part: Part) -> bool:
            if isinstance(part, Beat) and part.part == 1 and not lost:
                lost.append(part)
                return True
            return False

        wires[0].lose = lose
        await until(lambda: lost)
        await beats(one, 1)
        assert people() == 250
        for room in rooms:
            say(one, room)
        await until(lambda: reader.look().events.total() == 250 * 11)
        await beats(one, 3)
        assert (reader.look().lost, two.missed, people()) == ({}, 0, 250)
        # Whoever goes while parts get lost is gone with the next whole beat.
        wires[0].lose = lambda part: isinstance(part, Beat) and part.part == 2
        one.leave("/r7", "c/r7")
        wires[0].lose = lambda part: False
        await until(lambda: people() == 249)


@pytest.mark.parametrize("long", [1, 8, 110])
@pytest.mark.parametrize("who", ["listener", "speaker"])
async def test_losses_are_exact_however_long_a_cut_lasts(long: int, who: str):
    """A few beats or many, with members or without, room by room."""
    wires: list[Wire] = []
    one, two = pair(wires)
    async with asyncio.timeout(50), two, one:
        reader = Heard(two.subscribe())
        two_rooms = {"/quiet": 3, "/busy": 5}
        for room, count in two_rooms.items():
            say(one, room, count)
        await until(lambda: reader.look().events == two_rooms)
        await beats(one, 6)
        wires[who == "listener"].cut = True
        say(one, "/busy", 7)
        say(one, "/new", 2)
        await beats(one, long)
        say(one, "/late", 4)
        await beats(one, 5)
        wires[who == "listener"].cut = False
        lost = {"/busy": 7, "/new": 2, "/late": 4}
        await until(lambda: reader.look().lost == lost)
        say(one, "/quiet")
        say(one, "/late")
        await until(lambda: reader.look().events == {"/quiet": 4, "/busy": 5, "/late": 1})
        await beats(one, 3)
        assert (reader.look().lost, two.missed) == (lost, 13)


async def test_a_loss_is_told_before_what_follows_in_its_room():
    """The next event of a room shows at once how many are missing before it."""
    wires: list[Wire] = []
    one, two = pair(wires)
    async with asyncio.timeout(20), two, one:
        await beats(one, 2)
        reader = Heard(two.subscribe())
        wires[0].lose = lambda part: isinstance(part, Event) and part.data == "lost"
        for text in ("first", "lost", "lost", "last"):
            one.publish(Event("/", text))
        await until(lambda: reader.look().events["/"] == 2)
        shown = [item.count if isinstance(item, Gap) else item.data for item in reader.items]
        assert shown == ["first", 2, "last"]


@pytest.mark.parametrize("seed", range(5))
async def test_random_losses_add_up(seed: int):
    """Whatever is lost of events, beats and counts: heard and told to be missed are all that was
    said, in each room, and nobody misses what came before them.
    """
    wires: list[Wire] = []
    one, two = pair(wires)
    dice = random.Random(seed)
    said: Counter[str] = Counter()
    async with asyncio.timeout(50), two, one:
        reader = Heard(two.subscribe())
        await beats(one, 2)
        for wire in wires:
            wire.lose = lambda part: dice.random() < 0.3
        for _ in range(60):
            room = f"/{dice.randrange(8)}"
            count = dice.randrange(6)
            said[room] += count
            say(one, room, count)
            if dice.random() < 0.3:
                await beats(one, 1)
            await asyncio.sleep(0)
        for wire in wires:
            wire.lose = lambda part: False
        await until(lambda: (reader.look().events + reader.lost).total() >= said.total())
        await beats(one, 5)
        reader.look()
        assert {room: reader.events[room] + reader.lost[room] for room in said} == said
        assert two.missed == reader.lost.total()


async def test_a_newcomer_misses_nothing_and_an_older_one_everything():
    """What was said before a server came is no loss; what a younger one said before it could be
    heard is.
    """
    wires: list[Wire] = []
    one, two = pair(wires)
    async with asyncio.timeout(30), one:
        say(one, "/", 9)
        async with two:
            reader = Heard(two.subscribe())
            say(one, "/")
            await until(lambda: reader.look().events["/"] == 1)
            await beats(one, 3)
            assert (reader.look().lost, two.missed) == ({}, 0)
            third = PubSub(Wire(wires), node="three", beat=BEAT)
            wires[2].lose = lambda part: True
            async with third:
                say(third, "/", 4)
                await third.flush()
                wires[2].lose = lambda part: False
                say(third, "/")
                say(third, "/other")
                await until(lambda: reader.look().lost == {"/": 4})
                await until(lambda: reader.look().events["/other"] == 1)
                await beats(third, 3)
                assert reader.look().lost == {"/": 4}


@pytest.mark.parametrize("first", ["a beat", "an event"])
async def test_what_is_said_meanwhile_elsewhere_is_missed_by_one_that_starts(
    first: str, monkeypatch: pytest.MonkeyPatch
):
    """While a server starts another is cut off: what that one says from then on is a loss, and what
    it had said before is none.
    """
    monkeypatch.setattr(pubsub, "PROMPT", 0.3)
    wires: list[Wire] = []
    one, two = pair(wires)
    async with asyncio.timeout(30), one:
        say(one, "/", 9)
        say(one, "/old", 2)
        await one.flush()
        wires[0].cut = True
        say(one, "/", 2)
        await beats(one, 1)
        async with two:
            reader = Heard(two.subscribe())
            await until(lambda: two._presence.age > pubsub.PROMPT)
            say(one, "/", 3)
            say(one, "/new", 1)
            await beats(one, 5)
            wires[0].cut = False
            if first == "an event":
                say(one, "/")
                await until(lambda: reader.look().events["/"] == 1)
            await until(lambda: reader.look().lost == {"/": 3, "/new": 1})
            say(one, "/old")
            await until(lambda: reader.look().events["/old"] == 1)
            await beats(one, 3)
            assert (reader.look().lost, two.missed) == ({"/": 3, "/new": 1}, 4)


async def test_who_comes_is_counted_right_though_what_it_asks_arrives_late(
    monkeypatch: pytest.MonkeyPatch,
):
    """What a newcomer asks may wait in a line that stalls, while losses go on: it asks again."""
    monkeypatch.setattr(pubsub, "PROMPT", 0.3)
    wires: list[Wire] = []
    one, two = pair(wires)
    late: list[Part] = []

    def keep(part: Part) -> bool:
        late.extend([part] if isinstance(part, CountsWanted) else [])
        return isinstance(part, CountsWanted)

    wires[1].lose = keep
    async with asyncio.timeout(30), one:
        say(one, "/before")
        await one.flush()
        wires[0].cut = True
        async with two:
            reader = Heard(two.subscribe())
            await until(lambda: two._presence.age > pubsub.PROMPT)
            say(one, "/", 3)
            await until(lambda: two._presence.age > 3 * pubsub.PROMPT)
            wires[0].cut = False
            wires[0].host.on_message(encode(late[:1]))
            await beats(two, 2)
            wires[1].lose = lambda part: False
            await until(lambda: reader.look().lost == {"/": 3})
            await beats(one, 3)
            assert (reader.look().lost, two.missed) == ({"/": 3}, 3)


async def test_a_beat_that_arrives_late_invents_no_loss():
    """A server that seems younger than it is, since its beat was long under way, is not taken for
    one that came later.
    """
    wires: list[Wire] = []
    one, two = pair(wires)
    late: list[Part] = []

    def keep(part: Part) -> bool:
        late.extend([part] if isinstance(part, Beat) else [])
        return isinstance(part, Beat)

    async with asyncio.timeout(30), one:
        say(one, "/", 4)
        await one.flush()
        wires[0].lose = keep
        await until(lambda: late)
        async with two:
            reader = Heard(two.subscribe())
            say(one, "/")
            await until(lambda: reader.look().events["/"] == 1)
            await until(lambda: two._presence.age > one._presence.age / 2)
            wires[1].host.on_message(encode(late))
            wires[0].lose = lambda part: False
            await beats(one, 5)
            assert (reader.look().lost, two.missed) == ({}, 0)


async def test_a_server_that_has_said_too_much_since_somebody_came_says_that_it_does_not_know(
    monkeypatch: pytest.MonkeyPatch,
):
    """How it was then is remembered for so long only: beyond it losses have no number, and later
    ones have again.
    """
    monkeypatch.setattr(pubsub, "MOMENTS", 4)
    monkeypatch.setattr(pubsub, "MOMENT", 0.0)
    wires: list[Wire] = []
    one, two = pair(wires)
    async with asyncio.timeout(30), one:
        say(one, "/", 2)
        await one.flush()
        wires[0].cut = True
        async with two:
            reader = Heard(two.subscribe())
            for _ in range(6):
                say(one, "/")
                await asyncio.sleep(0.001)
            wires[0].cut = False
            await until(lambda: Gap(None, None, one.node) in reader.look().items)
            await until(lambda: two.missed == 4)
            say(one, "/")
            await until(lambda: reader.look().events["/"] == 1)
            assert two.missed == 4


async def test_a_loss_in_a_servers_last_moment_is_told():
    """Its goodbye has the number; which room it was nobody can say."""
    wires: list[Wire] = []
    one, two = pair(wires)
    async with asyncio.timeout(20), two:
        reader = Heard(two.subscribe())
        async with one:
            say(one, "/", 2)
            await beats(one, 2)
            wires[0].lose = lambda part: isinstance(part, Event | Counts)
            say(one, "/", 3)
        await until(lambda: two.missed == 3)
        gaps = [item for item in reader.look().items if isinstance(item, Gap)]
        assert gaps == [Gap(None, None, one.node)]
