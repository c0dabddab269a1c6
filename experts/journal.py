"""What happened in this run, in SQLite (WAL): one process appends, any number read, a kill loses nothing that append returned.

Does not log (logging does) and does not decide: facts that will be quoted are kept here. Order is the number, not the clock.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from experts import durable

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

_BUSY_MS = 15_000
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, kind TEXT NOT NULL, node TEXT, facts TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS events_kind ON events (kind, id);
CREATE INDEX IF NOT EXISTS events_node ON events (node, id);
"""


class JournalError(RuntimeError):
    """The journal can't be written or read; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Event:
    """One entry. id grows with every entry and is never used again; at: UTC, ISO 8601, as the clock said."""

    id: int
    at: str
    kind: str
    node: str | None
    facts: Mapping[str, Any]


class Journal:
    """The journal at path, made by the first append. Threads may share one; close it, or use it in a with-statement.

    read_only: never writes, an absent file has no events; for other processes than the loop.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path, self.read_only = Path(path), read_only
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None  # device and inode of the open file
        self._turn = threading.RLock()

    def append(self, kind: str, *, node: str | None = None, **facts: Any) -> int:
        """Write one event and return its number; on the disk when this returns.

        facts: JSON; numbers that JSON has not (NaN, infinity) become strings, paths too. Raises ValueError for other
        things, OutOfSpace, JournalError.
        """
        if self.read_only:
            raise JournalError(f"the journal {self.path} was opened for reading only; append from the process that holds the run")
        row = (datetime.now(UTC).isoformat(timespec="milliseconds"), kind, node, durable.to_json(_plain(facts)).decode())

        def insert(connection: sqlite3.Connection) -> int:
            number = connection.execute("INSERT INTO events (at, kind, node, facts) VALUES (?, ?, ?, ?)", row).lastrowid
            assert number is not None
            return number

        return self._do(insert)

    def events(self, *, kind: str | None = None, node: str | None = None, after: int = 0, limit: int | None = None) -> list[Event]:
        """Events with a number over `after`, oldest first, of that kind and node where given; at most the first `limit`."""
        if not self.path.exists():
            return []
        wanted = {"kind": kind, "node": node}
        clauses = ["id > ?", *(f"{column} = ?" for column, value in wanted.items() if value is not None)]
        values = [after, *(value for value in wanted.values() if value is not None), -1 if limit is None else limit]
        query = f"SELECT id, at, kind, node, facts FROM events WHERE {' AND '.join(clauses)} ORDER BY id LIMIT ?"

        def select(connection: sqlite3.Connection) -> list[tuple[int, str, str, str | None, str]]:
            if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'events'").fetchone() is None:
                return []  # the writer has made the file and not yet the table, or died between the two
            return connection.execute(query, values).fetchall()

        rows = self._do(select)
        return [Event(number, at, what, who, json.loads(facts)) for number, at, what, who, facts in rows]

    def close(self) -> None:
        """Close the file; the next append or events opens it again."""
        with self._turn:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _do(self, action: Callable[[sqlite3.Connection], Result]) -> Result:
        with self._turn, self._named_errors():
            try:
                return action(self._open())
            except sqlite3.DatabaseError as error:
                if self.read_only or _code(error) not in _DAMAGED:
                    raise
                self._begin_anew(error)
                return action(self._open())

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and self._opened != self._identity():
            self.close()  # the file was set aside or deleted: what went on in the old one would be lost
        if self._connection is None:
            self._connection = self._connect_to_read() if self.read_only else self._connect_to_write()
            self._opened = self._identity()
        return self._connection

    def _identity(self) -> tuple[int, int] | None:
        try:
            facts = self.path.stat()
        except FileNotFoundError:
            return None
        return facts.st_dev, facts.st_ino

    def _connect_to_read(self) -> sqlite3.Connection:
        connection = _connect(f"{self.path.absolute().as_uri()}?mode=ro")
        with _closed_on_failure(connection):
            try:
                connection.execute("SELECT 1 FROM sqlite_master").fetchall()
            except sqlite3.OperationalError as error:
                if _code(error) not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
                    raise
            else:
                return connection
        connection.close()  # a folder that takes no -shm file beside the journal: read what is in the main file
        return _connect(f"{self.path.absolute().as_uri()}?immutable=1")

    def _connect_to_write(self) -> sqlite3.Connection:
        durable.ensure_folder(self.path.parent)
        connection = _connect(self.path.absolute().as_uri())
        with _closed_on_failure(connection):
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")  # an event that was quoted must survive a power cut too
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise _damaged(str(verdict))
            connection.executescript(_SCHEMA)
        return connection

    def _begin_anew(self, error: sqlite3.DatabaseError) -> None:
        self.close()
        try:
            aside = durable.move_aside(self.path, "damaged")
            for suffix in ("-wal", "-shm"):
                side = self.path.with_name(self.path.name + suffix)
                if side.exists():
                    durable.move_file(side, aside.with_name(aside.name + suffix))
        except OSError as refusal:
            raise JournalError(f"the journal {self.path} is damaged ({error}) and can't be set aside: {refusal}; "
                               "close the programs that read it, or move it away by hand") from error
        logger.error("the journal %s is damaged (%s); set aside as %s, a new one is begun", self.path, error, aside.name)

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            self.close()  # so that a passing fault leaves no half-open transaction behind
            code = _code(error)
            if code == sqlite3.SQLITE_FULL:
                raise durable.out_of_space(self.path.parent) from error
            if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
                raise durable.NotWritable(self.path.parent, reason=str(error)) from error
            repair = "another process has held it for long; see which one hangs" if code == sqlite3.SQLITE_BUSY else "see whether the disk is well"
            raise JournalError(f"the journal {self.path} can't be used: {error}; {repair}") from error


def _connect(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, timeout=_BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    return connection


@contextlib.contextmanager
def _closed_on_failure(connection: sqlite3.Connection) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error:
        connection.close()
        raise


def _code(error: sqlite3.Error) -> int:
    """The primary result code; the extended ones carry it in their low byte."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _damaged(verdict: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(verdict)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
