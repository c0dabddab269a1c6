"""Events: order, filters, readers beside a writer, damage, full disk."""

from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import sys
import threading
from datetime import datetime
from pathlib import Path

import pytest

from experts import durable, journal
from experts.journal import Journal, JournalError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def log(tmp_path):
    with Journal(tmp_path / "journal.db") as opened:
        yield opened


def test_append_returns_growing_numbers_and_events_come_back_in_order(log):
    assert [log.append("step", node="math", loss=1.5, step=n) for n in range(3)] == [1, 2, 3]
    events = log.events()
    assert [(event.id, event.kind, event.node, event.facts) for event in events] == [(n + 1, "step", "math", {"loss": 1.5, "step": n}) for n in range(3)]


def test_append_time_is_utc_iso(log):
    log.append("started")
    at = datetime.fromisoformat(log.events()[0].at)
    assert at.utcoffset() is not None
    assert at.utcoffset().total_seconds() == 0
    assert abs((datetime.now(at.tzinfo) - at).total_seconds()) < 60


def test_events_filters_are_joined_by_and(log):
    for node, kind in [("math", "step"), ("code", "step"), ("math", "promoted"), (None, "step"), ("math", "step")]:
        log.append(kind, node=node)
    assert [event.id for event in log.events(kind="step")] == [1, 2, 4, 5]
    assert [event.id for event in log.events(node="math")] == [1, 3, 5]
    assert [event.id for event in log.events(kind="step", node="math", after=1)] == [5]
    assert [event.id for event in log.events(after=1, limit=2)] == [2, 3]
    assert log.events(limit=0) == []


def test_append_numbers_that_json_has_not_become_strings(log):
    log.append("nan", loss=float("nan"), bounds=(float("-inf"), 1), where={"path": Path("a")})
    assert log.events()[0].facts == {"loss": "nan", "bounds": ["-inf", 1], "where": {"path": "a"}}


def test_append_fact_that_is_not_json_is_refused_and_nothing_is_written(log):
    with pytest.raises(ValueError, match="type object is not JSON serializable"):
        log.append("bad", thing=object())
    assert log.events() == []


def test_append_number_is_never_used_again_even_after_deletion(log):
    log.append("a")
    last = log.append("b")
    with sqlite3.connect(log.path) as connection:
        connection.execute("DELETE FROM events")
    connection.close()
    assert log.append("c") == last + 1


def test_append_clock_goes_backwards_order_stays(log, monkeypatch):
    times = [datetime.fromisoformat("2026-01-02T00:00:00+00:00"), datetime.fromisoformat("2020-01-01T00:00:00+00:00")]

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return times.pop(0)
    monkeypatch.setattr(journal, "datetime", Clock)
    log.append("first")
    log.append("second")
    assert [(event.kind, event.at[:4]) for event in log.events()] == [("first", "2026"), ("second", "2020")]


def test_events_of_an_absent_journal_are_none_and_make_no_file(tmp_path):
    assert Journal(tmp_path / "no" / "journal.db", read_only=True).events() == []
    assert not (tmp_path / "no").exists()


def test_events_of_a_writer_that_died_before_its_table_are_none(tmp_path):
    sqlite3.connect(tmp_path / "journal.db").executescript("PRAGMA journal_mode = WAL").connection.close()
    with Journal(tmp_path / "journal.db", read_only=True) as reader:
        assert reader.events() == []


def test_reader_sees_what_the_writer_appended_while_both_are_open(log):
    with Journal(log.path, read_only=True) as reader:
        for number in range(1, 4):
            log.append("step")
            assert [event.id for event in reader.events()] == list(range(1, number + 1))


def test_reader_may_not_append(log):
    with Journal(log.path, read_only=True) as reader, pytest.raises(JournalError, match="opened for reading only"):
        reader.append("step")


def test_append_from_several_threads_loses_none(log):
    def work(node: str) -> None:
        for number in range(25):
            log.append("step", node=node, number=number)
    threads = [threading.Thread(target=work, args=(f"n{index}",)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [event.id for event in log.events()] == list(range(1, 101))
    assert [event.facts["number"] for event in log.events(node="n2")] == list(range(25))


def test_journal_is_in_wal_mode_and_syncs_every_append(log):
    log.append("a")
    assert log._open().execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert log._open().execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


@pytest.mark.parametrize("damage", [b"this is no database, but it is long enough to be looked at by SQLite" * 20, None])
def test_damaged_journal_is_set_aside_and_a_new_one_begun(tmp_path, caplog, damage):
    path = tmp_path / "journal.db"
    with Journal(path) as first:
        for number in range(200):
            first.append("step", number=number)
    data = path.read_bytes()
    path.write_bytes(damage or data[:4096] + b"\xff" * 4096 + data[8192:])
    with caplog.at_level(logging.ERROR), Journal(path) as second:
        assert second.append("after") == 1
        assert [event.kind for event in second.events()] == ["after"]
    assert "is damaged" in caplog.text
    assert "set aside as journal.db.damaged-1, a new one is begun" in caplog.text
    assert (tmp_path / "journal.db.damaged-1").stat().st_size > 1000


def test_damaged_journal_reader_gets_a_clear_error_and_moves_nothing(tmp_path):
    path = tmp_path / "journal.db"
    path.write_bytes(b"this is no database, but it is long enough to be looked at by SQLite" * 20)
    with Journal(path, read_only=True) as reader, pytest.raises(JournalError, match="file is not a database; see whether the disk is well"):
        reader.events()
    assert [file.name for file in tmp_path.iterdir()] == ["journal.db"]


def test_damaged_journal_that_cannot_be_set_aside_says_so(tmp_path, monkeypatch):
    path = tmp_path / "journal.db"
    path.write_bytes(b"this is no database, but it is long enough to be looked at by SQLite" * 20)

    def refuse(path, label):
        raise PermissionError("in use")
    monkeypatch.setattr(durable, "move_aside", refuse)
    with Journal(path) as log, pytest.raises(JournalError, match="can't be set aside: in use; close the programs"):
        log.append("a")


@pytest.mark.skipif(os.name == "nt", reason="Windows doesn't rename an open file")
def test_reader_follows_when_the_journal_was_set_aside(log):
    log.append("old")
    with Journal(log.path, read_only=True) as reader:
        assert [event.kind for event in reader.events()] == ["old"]
        log.close()
        durable.move_aside(log.path, "damaged")
        log.append("new")
        assert [event.kind for event in reader.events()] == ["new"]


def test_append_writer_busy_for_too_long_is_a_clear_error(log, monkeypatch):
    monkeypatch.setattr(journal, "_BUSY_MS", 50)
    log.append("a")
    log.close()
    other = sqlite3.connect(log.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(JournalError, match="database is locked; another process has held it"):
            log.append("b")
    finally:
        other.close()
    assert log.append("c") == 2


KILLED = """
import os, sys
from pathlib import Path
from experts.journal import Journal
log = Journal(Path(sys.argv[1]))
while True:
    print(log.append("step", text="x" * 3000), flush=True)
"""


def test_writer_killed_while_appending_every_returned_event_is_there(tmp_path):
    path = tmp_path / "journal.db"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert process.stdout is not None
    for _ in range(30):
        process.stdout.readline()
    process.kill()
    rest = process.communicate()[0].split()
    returned = int(rest[-1]) if rest else 30
    with Journal(path) as log:
        ids = [event.id for event in log.events()]
        assert ids == list(range(1, len(ids) + 1))
        assert len(ids) in (returned, returned + 1)
        assert log.append("after") == len(ids) + 1
