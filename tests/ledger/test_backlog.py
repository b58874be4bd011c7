"""The backlog: whatever waits for PostgreSQL, memory has only the ends of the line, and nothing is lost or doubled."""

import errno
import os
from collections import deque
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterproxy.core.lending import UNWRITTEN, Noted, Settling
from meterproxy.core.record import identity
from meterproxy.ledger.backlog import Backlog, Item, item_of
from meterproxy.ledger.journal import Journal
from tests.ledger.records import end, place, progress
from tests.ledger.test_journal import directory, opened, raiser


class Line:
    """A backlog with a bound, and beside it a plain line that has everything in memory."""

    def __init__(self, journal: Journal, in_memory: int = 2) -> None:
        self.journal = journal
        self.backlog = Backlog(journal, in_memory)
        self.plain: deque[Item] = deque()
        self.number = 0

    def add(self, *, written: bool = True) -> None:
        self.number += 1
        placed_at = self.journal.place(place(self.number))
        if self.number % 3 == 0:
            self.journal.progress(progress(self.number))
        position = self.journal.end(end(self.number), placed_at) if written else UNWRITTEN
        for line in (self.backlog, self.plain):
            line.append(Settling(position, end(self.number), placed_at, self.number % 2 == 0))

    def take(self, count: int) -> None:
        first = self.backlog.first(count)
        assert [told(item) for item in first] == [told(item) for item in list(self.plain)[:count]]
        for item in first:
            assert self.backlog.pop_first() is item
            self.plain.popleft()
        assert len(self.backlog) == len(self.plain)


def told(item: Item) -> tuple[object, ...]:
    return item.position, identity(item.record), item.placed_at, item.accounted


STEPS = st.lists(
    st.sampled_from(["add", "add", "add", "unwritten", "sync", "roll", "fail", "take", "take 3"]), max_size=60
)


@settings(max_examples=60)
@given(steps=STEPS)
def test_gives_back_what_it_let_go_of(steps: list[str]) -> None:
    """Order, places and accounts are those of a line in memory, over segments, failed writes and failed fsyncs."""
    with directory() as path, opened(path) as journal:
        line = Line(journal)
        for step in steps:
            if step in {"add", "unwritten"}:
                line.add(written=step == "add")
            elif step == "sync":
                journal.sync_now()
                journal.prepare()
            elif step == "roll" and journal._spare is not None:
                journal._roll()
            elif step == "fail" and journal._spare is not None:
                journal.finish_sync(journal.begin_sync(), OSError(errno.EIO, "gone"))
                journal.prepare()
            elif step.startswith("take"):
                line.take(int(step[5:] or 1))
        line.take(len(line.plain))


def test_memory_has_the_ends_only(tmp_path: Path) -> None:
    """A thousand endings that wait take the memory of a few, once they are durable, and 16 bytes each."""
    with opened(tmp_path, segment_bytes=4 << 20) as journal:
        line = Line(journal, 10)
        for number in range(1000):
            line.add()
            if number % 5 == 0:
                journal.sync_now()
        assert line.backlog.in_memory <= 26
        assert len(line.backlog) == 1000
        assert line.backlog.last_position == journal.position
        assert len(journal._unsettled) < 10
        line.take(1000)


def test_what_is_not_durable_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the journal cannot be synced, memory is the only safe place."""
    with opened(tmp_path, segment_bytes=4 << 20) as journal:
        monkeypatch.setattr(os, "fdatasync", raiser(errno.EIO))
        line = Line(journal, 1)
        for _ in range(50):
            line.add()
        journal.finish_sync(journal.begin_sync(), OSError(errno.EIO, "gone"))
        assert line.backlog.in_memory == 50
        monkeypatch.undo()
        journal.sync_now()  # all was written again: what the old segment had may be gone
        line.add()
        assert line.backlog.in_memory == 51
        line.take(51)


def test_a_record_that_is_gone_is_reported_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A disk that loses a record while PostgreSQL is away stops nothing else."""
    with opened(tmp_path, segment_bytes=4 << 20) as journal:
        line = Line(journal, 1)
        for _ in range(10):
            line.add()
            journal.sync_now()
        segment = journal._segment
        assert segment is not None
        lost = line.plain[4]
        os.pwrite(segment.file, bytes(100), lost.position - segment.base - 100)
        del line.plain[4]
        assert [told(item) for item in line.backlog.first(9)] == [told(item) for item in line.plain]
        assert "cannot be read back" in caplog.text


@pytest.mark.parametrize("waiting", [0, 3, 9])
def test_all_is_sent_again_once(tmp_path: Path, waiting: int) -> None:
    """When PostgreSQL has lost rows, what it had and what still waits are in line once, in order, each as it was."""
    with opened(tmp_path, segment_bytes=4 << 20) as journal:
        line = Line(journal, 2)
        for _ in range(12):
            line.add()
            journal.sync_now()
        line.add(written=False)
        line.take(12 - waiting)
        notes: list[Noted] = []
        found = (item for entry in journal.read() if (item := item_of(entry.end, entry.record)) is not None)
        line.backlog.send_again(found, notes.append)
        again = line.backlog.first(100)
        assert [identity(item.record) for item in again] == [identity(end(number)) for number in range(1, 14)]
        assert [item.accounted for item in again[: 12 - waiting]] == [True] * (12 - waiting)
        assert [told(item) for item in again[12 - waiting :]] == [told(item) for item in line.plain]
        assert notes == []
