"""A log in a file: kept over restarts, bounded, one server's, and honest about a disk that is full.

That `kill -9` takes nothing from it stands in `test_failover`.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from wslessons.chat import ChatServer
from wslessons.client import ChatClient
from wslessons.errors import UserError
from wslessons.scaling.bus import Event, Log, Status, from_url
from wslessons.scaling.bus.sqlite import File
from wslessons.serving import urls


async def written(path: Path, *texts: str, **options: Any) -> tuple[str, list[int]]:
    """Publish texts to the log at `path`; return its epoch, and the number each event got."""
    async with asyncio.timeout(20), from_url(f"sqlite:{path}", **options) as bus:
        numbers: list[int] = []
        bus.listen(lambda item: numbers.append(item.offset) if isinstance(item, Event) else None)
        for text in texts:
            bus.publish(Event("/", text))
            await bus.flush()
        return bus.epoch, numbers


async def kept(path: Path, **options: Any) -> list[Any]:
    """Return what a server that starts reads from the log at `path`."""
    async with asyncio.timeout(20), from_url(f"sqlite:{path}", **options) as bus:
        return [item.data for _, item in bus.items() if isinstance(item, Event)]


async def test_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    """One life, one numbering, over any number of starts; the newest are read at the start."""
    path = tmp_path / "chat.db"
    epoch, numbers = await written(path, "a", "b")
    assert numbers == [1, 2]
    assert await written(path, "c") == (epoch, [3])
    assert await kept(path) == ["a", "b", "c"]
    assert await kept(path, keep=2) == ["b", "c"]


async def test_the_file_is_bounded(tmp_path: Path) -> None:
    """Of more events than that, the newest are there."""
    path = tmp_path / "chat.db"
    texts = [str(n) for n in range(30)]
    async with asyncio.timeout(20), Log(File(path, max_events=10)) as bus:
        for text in texts:
            bus.publish(Event("/", text))
            await bus.flush()
    assert await kept(path) == texts[-10:]


async def test_what_is_said_together_is_one_transaction(tmp_path: Path) -> None:
    """A burst costs few writes to the disk, and comes in its order."""
    path = tmp_path / "chat.db"
    texts = [str(n) for n in range(2000)]
    async with asyncio.timeout(30), from_url(f"sqlite:{path}") as bus:
        for text in texts:
            bus.publish(Event("/", text))
        await bus.flush()
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM entries").fetchone()[0] < 20
    assert await kept(path) == texts


async def test_a_second_server_is_told_that_the_file_is_in_use(tmp_path: Path) -> None:
    """And the first goes on; when it has stopped, the second may have the file."""
    path = tmp_path / "chat.db"
    async with asyncio.timeout(20), from_url(f"sqlite:{path}") as bus:
        with pytest.raises(UserError, match="in use by another server"):
            await written(path, "no")
        bus.publish(Event("/", "yes"))
        await bus.flush()
    assert await kept(path) == ["yes"]


@pytest.mark.parametrize("content", [b"no database at all" * 100, None])
async def test_a_file_of_something_else_is_left_alone(
    tmp_path: Path, content: bytes | None
) -> None:
    """It is refused in a sentence, and not changed."""
    path = tmp_path / "other.db"
    if content is None:
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TABLE mine (x)")
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"is none that a chat has made: .*\.$"):
        await written(path, "no")
    assert path.read_bytes() == before


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """It is said at the start."""
    with pytest.raises(UserError, match=r"can't be used: unable to open database file\.$"):
        await written(tmp_path / "nowhere" / "chat.db", "no")


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:",
        "sqlite://host/x",
        "sqlite:x?max_events=0",
        "sqlite:x?wal=1",
        "sqlite:?max_events=1",
    ],
)
def test_urls_that_name_no_file(url: str) -> None:
    """They are refused with an example of one that does."""
    with pytest.raises(UserError, match=r"give sqlite:PATH, such as sqlite:chat\.db"):
        from_url(url)


async def test_a_full_disk_says_so_and_recovers(tmp_path: Path) -> None:
    """What can't be kept is not delivered; when there is room, all of it is, once."""
    transport = File(tmp_path / "chat.db")
    async with asyncio.timeout(30), Log(transport) as bus:
        heard: list[Any] = []
        bus.listen(lambda item: heard.append(item.data) if isinstance(item, Event) else None)
        await transport._do(lambda database: database.execute("PRAGMA max_page_count=1").fetchall())
        bus.publish(Event("/", "x" * 50_000))
        while bus.status == Status("connected"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert "full" in bus.status.why
        assert heard == []
        pages = "PRAGMA max_page_count=1000000"
        await transport._do(lambda database: database.execute(pages).fetchall())
        await bus.flush()
        assert [len(text) for text in heard] == [50_000]
        assert bus.status == Status("connected")


async def test_a_client_resumes_over_a_restart(tmp_path: Path) -> None:
    """The file keeps what signs proofs, so a client need not be given all or nothing."""
    url = f"sqlite:{tmp_path / 'chat.db'}"
    async with asyncio.timeout(30):
        async with (
            from_url(url) as bus,
            ChatServer(bus=bus).serve() as server,
            ChatClient(urls(server)[0], "ann") as ann,
        ):
            await ann.send("before")
            where = ann.offset, ann.epoch
        async with from_url(url) as bus, ChatServer(bus=bus).serve() as server:
            async with ChatClient(urls(server)[0], "bob") as bob:
                await bob.send("while ann was away")
            since, epoch = where
            async with ChatClient(urls(server)[0], "ann", since=since, epoch=epoch) as ann:
                events = []
                async for event in ann:
                    events.append(event)
                    if getattr(event, "text", "") == "while ann was away":
                        break
    assert not [event for event in events if type(event).__name__ == "Missed"]
