"""The bounded broadcast channel, against a plain list."""

from __future__ import annotations

import asyncio
import gc

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from wslessons.chat.channel import Channel, Closed, Empty, Lagged, Receiver


class ChannelModel(RuleBasedStateMachine):
    """Compare a channel with a list that never forgets.

    Each reader is modelled by the offset it should read next from; what it reads and what `Lagged`
    reports must together be exactly the list, in order, without a repeat.
    """

    max_bytes: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.capacity = 3
        self.channel: Channel[int] = Channel(self.capacity, self.max_bytes)
        self.sent: list[int] = []
        self.sizes: list[int] = []
        self.kept = 0
        self.at: dict[Receiver[int], int] = {}

    readers = Bundle("readers")

    @rule(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=8))
    def send(self, sizes: list[int]) -> None:
        """Send a few items; each call returns the number of readers."""
        for size in sizes:
            item = 1000 + len(self.sent)
            self.sent.append(item)
            self.sizes.append(size)
            assert self.channel.send(item, size) == len(self.at)
            self.kept = min(self.kept + 1, self.capacity)
            while self.max_bytes is not None and self.kept > 1:
                if sum(self.sizes[-self.kept :]) <= self.max_bytes:
                    break
                self.kept -= 1

    @rule(target=readers)
    def subscribe(self) -> Receiver[int]:
        """A late reader begins with what is sent from now on."""
        reader = self.channel.subscribe()
        self.at[reader] = len(self.sent)
        return reader

    @rule(target=readers, data=st.data())
    def resume(self, data: st.DataObject) -> Receiver[int]:
        """A reader may begin after any offset that was ever given out."""
        since = data.draw(st.integers(0, len(self.sent)))
        reader = self.channel.subscribe(since)
        self.at[reader] = since
        return reader

    def lost(self, reader: Receiver[int]) -> int:
        """How many items the model says are gone for this reader."""
        return max(0, len(self.sent) - self.kept - self.at[reader])

    @rule(reader=readers)
    def receive_one(self, reader: Receiver[int]) -> None:
        """One item: the next one, or the exact number lost, or nothing."""
        if lost := self.lost(reader):
            with pytest.raises(Lagged) as caught:
                reader.recv_nowait()
            assert caught.value.skipped == lost
            self.at[reader] += lost
        elif self.at[reader] == len(self.sent):
            with pytest.raises(Empty):
                reader.recv_nowait()
        else:
            assert reader.recv_nowait() == self.sent[self.at[reader]]
            self.at[reader] += 1

    @rule(reader=readers)
    def receive_all(self, reader: Receiver[int]) -> None:
        """All that is ready, after the loss has been reported once."""
        if lost := self.lost(reader):
            with pytest.raises(Lagged) as caught:
                reader.take_ready()
            assert caught.value.skipped == lost
            self.at[reader] += lost
        assert reader.take_ready() == self.sent[self.at[reader] :]
        self.at[reader] = len(self.sent)

    @rule(reader=consumes(readers))
    def leave(self, reader: Receiver[int]) -> None:
        """A reader that closes is no longer counted and reads nothing more."""
        reader.close()
        reader.close()
        del self.at[reader]
        with pytest.raises(Closed):
            reader.take_ready()

    @invariant()
    def keeps_the_newest(self) -> None:
        """The log is the tail of the list, and no longer than its capacity."""
        assert list(self.channel) == self.sent[len(self.sent) - self.kept :]
        assert len(self.channel) == self.kept
        assert self.channel.offset == len(self.sent)
        assert self.channel.oldest == len(self.sent) - self.kept + 1
        for reader, at in self.at.items():
            assert (reader.offset, reader.behind) == (at, len(self.sent) - at)


ChannelModel.TestCase.settings = settings(max_examples=150, deadline=None)
TestChannelModel = ChannelModel.TestCase


class BytesModel(ChannelModel):
    """The same with a bound on the bytes of what is kept, which is not above the number."""

    max_bytes = 12


BytesModel.TestCase.settings = settings(max_examples=150, deadline=None)
TestBytesModel = BytesModel.TestCase


@pytest.fixture
async def channel() -> Channel[str]:
    """A channel that keeps two items."""
    return Channel(capacity=2)


async def test_lagged_reader_is_told_once_and_goes_on(channel: Channel[str]) -> None:
    """A reader more than `capacity` behind learns what it missed, then reads the oldest kept."""
    reader = channel.subscribe()
    for item in "abcde":
        channel.send(item)
    with pytest.raises(Lagged, match="skipped 3 items") as caught:
        await reader.recv()
    assert caught.value.skipped == 3
    assert [await reader.recv(), await reader.recv()] == ["d", "e"]
    channel.send("f")
    assert await reader.recv() == "f"


async def test_reader_exactly_capacity_behind_has_lost_nothing(channel: Channel[str]) -> None:
    """The ring holds exactly `capacity` items: being that far behind is no loss."""
    reader = channel.subscribe()
    channel.send("a")
    channel.send("b")
    assert reader.take_ready() == ["a", "b"]


async def test_send_wakes_every_waiting_reader(channel: Channel[str]) -> None:
    """All readers that wait get the item, each its own."""
    async with asyncio.timeout(50):
        readers = [channel.subscribe() for _ in range(3)]
        waiting = [asyncio.create_task(reader.recv()) for reader in readers]
        await asyncio.sleep(0)
        assert channel.send("a") == 3
        assert await asyncio.gather(*waiting) == ["a", "a", "a"]


async def test_cancelled_recv_loses_nothing_and_harms_nobody(channel: Channel[str]) -> None:
    """A reader cancelled while it waits keeps its place, and the other readers still wake."""
    async with asyncio.timeout(50):
        first, second = channel.subscribe(), channel.subscribe()
        cancelled = asyncio.create_task(first.recv())
        other = asyncio.create_task(second.recv())
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        assert channel._waiting
        channel.send("a")
        assert await other == "a"
        assert await first.recv() == "a"


async def test_many_cancelled_waits_leave_nothing_behind(channel: Channel[str]) -> None:
    """Waiting with a timeout, again and again, does not fill the channel with dead futures."""
    reader = channel.subscribe()
    for _ in range(20):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await reader.recv()
    assert channel._waiting == {}


async def test_lag_while_waiting_for_the_loop_is_told(channel: Channel[str]) -> None:
    """A reader woken by the first of many items is lapped before it runs, and is told."""
    async with asyncio.timeout(50):
        reader = channel.subscribe()
        waiting = asyncio.create_task(reader.recv())
        await asyncio.sleep(0)
        for item in "abcd":
            channel.send(item)
        with pytest.raises(Lagged) as caught:
            await waiting
        assert caught.value.skipped == 2
        assert await reader.recv() == "c"


async def test_close_ends_readers_after_what_they_still_have(channel: Channel[str]) -> None:
    """After close, a reader drains the log, then `async for` ends and `recv` raises Closed."""
    async with asyncio.timeout(50):
        reader, idle = channel.subscribe(), channel.subscribe()
        assert await asyncio.gather(anext(idle), _send(channel, "a")) == ["a", 1 + 1]
        waiting = asyncio.create_task(idle.recv())
        await asyncio.sleep(0)
        channel.close()
        with pytest.raises(Closed):
            await waiting
        assert await _collect(reader) == ["a"]
        with pytest.raises(Closed):
            await reader.recv()
        with pytest.raises(Closed):
            channel.send("b")


async def _send(channel: Channel[str], item: str) -> int:
    return channel.send(item)


async def test_closing_a_receiver_ends_its_own_wait(channel: Channel[str]) -> None:
    """A receiver closed by another task wakes up and raises Closed."""
    async with asyncio.timeout(50):
        with channel.subscribe() as reader:
            waiting = asyncio.create_task(reader.recv())
            await asyncio.sleep(0)
        with pytest.raises(Closed):
            await waiting


async def test_async_for_goes_on_after_a_gap(channel: Channel[str]) -> None:
    """Lagged leaves the loop as an exception; a second loop reads on."""
    reader = channel.subscribe()
    for item in "abc":
        channel.send(item)
    channel.close()
    with pytest.raises(Lagged):
        await _collect(reader)
    assert await _collect(reader) == ["b", "c"]


async def _collect(reader: Receiver[str]) -> list[str]:
    return [item async for item in reader]


async def test_forgotten_reader_is_not_counted(channel: Channel[str]) -> None:
    """A receiver that is dropped without close does not count as a subscriber."""
    reader = channel.subscribe()
    assert channel.send("a") == 1
    assert channel.receivers == [reader]
    del reader
    gc.collect()
    assert channel.send("b") == 0


async def test_offsets_from_the_future_are_refused(channel: Channel[str]) -> None:
    """Nobody can have seen an item that was never sent."""
    with pytest.raises(ValueError, match="offset 1 yet"):
        channel.subscribe(since=1)
    with pytest.raises(ValueError, match="at least one"):
        Channel(capacity=0)


async def test_a_reader_that_closes_or_is_cancelled_wakes_nobody_else() -> None:
    """The others go on waiting, untouched, and get what is sent next."""
    channel: Channel[str] = Channel()
    readers = [channel.subscribe() for _ in range(4)]
    tasks = [asyncio.create_task(reader.recv()) for reader in readers]
    async with asyncio.timeout(50):
        await asyncio.sleep(0)  # one turn of the loop: all four have begun to wait
        assert len(channel._waiting) == 4
        untouched = {reader: list(channel._waiting[reader]) for reader in readers[2:]}
        readers[0].close()
        tasks[1].cancel()
        await asyncio.wait(tasks[:2])
        assert isinstance(tasks[0].exception(), Closed)
        assert tasks[1].cancelled()
        assert channel._waiting == untouched
        assert not any(each.done() for futures in untouched.values() for each in futures)
        assert channel.send("a") == 3
        assert await asyncio.gather(*tasks[2:]) == ["a", "a"]
