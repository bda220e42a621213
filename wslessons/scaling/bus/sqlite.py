"""A log in an SQLite file: what one server's rooms have kept outlives it, and no broker is needed.

Nothing is delivered, and so nothing acknowledged, before it is on the disk (write-ahead log,
``synchronous=FULL``): neither ``kill -9`` nor a power cut takes what a client was told is said.
What came in meanwhile is one transaction, and the loop never waits for the disk.

A file is for one server at a time. Several servers share a broker.

Source: https://www.sqlite.org/wal.html and https://www.sqlite.org/pragma.html#pragma_synchronous
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from wslessons.errors import UserError
from wslessons.scaling.bus.transport import LogTransport, Unreachable

__all__ = ["File"]

T = TypeVar("T")

SCHEMA = """
CREATE TABLE IF NOT EXISTS life (epoch TEXT, secret BLOB, number INTEGER);
CREATE TABLE IF NOT EXISTS entries (last INTEGER PRIMARY KEY, first INTEGER, data BLOB);
"""
OURS = 0x77736C65
"""The `application_id` of a file of ours (sqlite.org/pragma.html#pragma_application_id)."""


class File(LogTransport):
    """The log in one file.

    Args:
        path: the file; it is made if it is not there.
        max_events: events that are kept, about.
    """

    def __init__(self, path: Path, max_events: int = 100_000) -> None:
        super().__init__(f"the file {path}")
        self._path, self._max_events = path, max_events
        self._thread: ThreadPoolExecutor | None = None
        self._database: sqlite3.Connection | None = None
        self._number = 0
        """The newest number in the file."""
        self._before = 0
        """The newest number that has been delivered of what the file had."""
        self._read = asyncio.Event()
        """Set when what the file had has been delivered."""

    async def append(self, data: bytes, id: str, count: int, last: int) -> None:
        """Write an entry, and deliver it once it is on the disk."""
        await self._read.wait()
        self._check_connected()
        first, number = self._number + 1, self._number + count
        await self._do(lambda database: self._insert(database, number, first, data))
        self._number = number
        self.host.on_entry(first, data)

    async def publish(self, data: bytes) -> None:
        """Tell the other servers: there are none."""

    async def flush(self) -> None:
        """Everything is on the disk when `append` returns."""

    async def _connect(self) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite")
        loop, opened = asyncio.get_running_loop(), self._number > 0 or bool(self._epoch)
        try:
            self._database = await loop.run_in_executor(self._thread, self._open)
            epoch, self.secret, number = await self._do(self._life)
        except sqlite3.OperationalError as exc:
            if "locked" in str(exc):
                raise UserError(
                    f"{self.label} is in use by another server: give each its own, or share rooms"
                    " by a broker."
                ) from None
            raise UserError(f"{self.label} can't be used: {exc}.") from None
        except sqlite3.DatabaseError as exc:
            raise UserError(f"{self.label} is none that a chat has made: {exc}.") from None
        if opened:
            return
        self._epoch, self._number, self.tail = epoch, number, number
        self._before = await self._do(self._number_before)
        self.host.on_opened(epoch, self._before)

    async def _serve(self) -> None:
        if not self._read.is_set():
            while entries := await self._do(lambda database: self._after(database, self._before)):
                for first, last, data in entries:
                    self.host.on_entry(first, data)
                    self._before = last
            self._read.set()
        await asyncio.get_running_loop().create_future()  # a file does not go away

    async def _disconnect(self) -> None:
        database, self._database = self._database, None
        thread, self._thread = self._thread, None
        if thread is not None:
            if database is not None:
                await asyncio.get_running_loop().run_in_executor(thread, database.close)
            thread.shutdown(wait=False)

    async def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do something with the database, in its thread.

        Raises:
            Unreachable: it can't be done now, as on a full disk.
        """
        database, loop = self._database, asyncio.get_running_loop()
        if database is None:
            raise Unreachable("it is closed")
        try:
            return await loop.run_in_executor(self._thread, work, database)
        except sqlite3.OperationalError as exc:
            raise Unreachable(str(exc)) from exc

    # In the thread.

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(
            self._path, timeout=1, isolation_level=None, check_same_thread=False
        )
        try:
            (ours,) = database.execute("PRAGMA application_id").fetchone()
            (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if tables and ours != OURS:
                raise sqlite3.DatabaseError("it has tables of something else")
            # One server at a time: another one finds it locked, from the first write on.
            database.execute("PRAGMA locking_mode=EXCLUSIVE")
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            database.execute(f"PRAGMA application_id={OURS}")
            database.executescript(SCHEMA)
        except BaseException:
            database.close()
            raise
        return database

    @staticmethod
    def _life(database: sqlite3.Connection) -> tuple[str, bytes, int]:
        row = database.execute("SELECT epoch, secret, number FROM life").fetchone()
        if row is None:
            row = secrets.token_hex(8), secrets.token_bytes(32), 0
            database.execute("INSERT INTO life VALUES (?, ?, ?)", row)
        return row

    def _number_before(self, database: sqlite3.Connection) -> int:
        """Return the number after which to begin, to read the newest `history` events."""
        wanted = self._number - self.history
        newer = database.execute("SELECT min(first) FROM entries WHERE last > ?", (wanted,))
        first: int | None = newer.fetchone()[0]
        return self._number if first is None else first - 1

    @staticmethod
    def _after(database: sqlite3.Connection, number: int) -> list[tuple[int, int, bytes]]:
        query = "SELECT first, last, data FROM entries WHERE last > ? ORDER BY last LIMIT 64"
        return database.execute(query, (number,)).fetchall()

    def _insert(self, database: sqlite3.Connection, last: int, first: int, data: bytes) -> None:
        database.execute("BEGIN IMMEDIATE")
        try:
            database.execute("INSERT INTO entries VALUES (?, ?, ?)", (last, first, data))
            database.execute("UPDATE life SET number = ?", (last,))
            database.execute("DELETE FROM entries WHERE last <= ?", (last - self._max_events,))
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise
