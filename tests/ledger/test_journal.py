"""The journal under attack: torn at every byte, damaged, full, failing, owned twice, behind its own confirmation."""

import errno
import itertools
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterproxy.core.record import EndRecord, PlaceRecord, PriceRecord, Record, SessionRecord
from meterproxy.errors import JournalFailed, JournalFull
from meterproxy.ledger import journal as module
from meterproxy.ledger import journal_files
from meterproxy.ledger.journal import SLACK_BYTES, Journal
from meterproxy.ledger.journal_files import JournalLocked
from meterproxy.ledger.segment import HEADER_BYTES, read_unowned
from tests.environment import VOLUME
from tests.ledger.records import SESSION, end, place, progress, records

SMALL = SLACK_BYTES + 64 * 1024
"""A segment that takes a few dozen records beyond the slack."""


@contextmanager
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=VOLUME) as name:
        yield Path(name)


@contextmanager
def opened(path: Path, position: int = 0, **settings: Any) -> Iterator[Journal]:
    """A journal as after its start; the block's end is a kill: nothing is synced, cut or confirmed."""
    journal = Journal(path, **{"segment_bytes": SMALL, **settings})
    journal.start(position)
    try:
        yield journal
    finally:
        kill(journal)


def kill(journal: Journal) -> None:
    """End as a killed process does: every file is closed by the kernel, nothing else happens."""
    for segment in filter(None, [*journal._finishing, journal._segment, journal._spare]):
        os.close(segment.file)
    os.close(journal._lock)


def read(path: Path) -> list[Record]:
    journal = Journal(path, segment_bytes=SMALL)
    try:
        return [entry.record for entry in journal.read()]
    finally:
        os.close(journal._lock)


def numbers_in(path: Path) -> list[int]:
    """The requests of a journal that holds nothing but holds, in the order of their records."""
    return [record.subject.request_id.int for record in read(path) if isinstance(record, PlaceRecord | EndRecord)]


def segments(path: Path) -> list[Path]:
    return sorted(path.glob("*.journal"))


def written_after(path: Path, numbers: range) -> list[int]:
    """Where each of these places begins and ends in the newest segment's file."""
    (entries,) = [entries for segment, entries in read_unowned(path) if segment == segments(path)[-1]]
    base = int(segments(path)[-1].stem)
    return [entry.start - base for entry in entries[: len(numbers)]] + [entries[-1].end - base]


@settings(max_examples=40)
@given(st.lists(st.lists(records, max_size=12), min_size=1, max_size=3))
def test_what_is_written_is_read_back_over_any_number_of_lives(lives: list[list[Record]]) -> None:
    """Every record of every life, in order; positions only grow, and each says where its record ends."""
    with directory() as path:
        ends: list[int] = []
        for life in lives:
            with opened(path) as journal:
                ends += [journal.append(record) for record in life]
        assert read(path) == [record for life in lives for record in life]
        journal = Journal(path, segment_bytes=SMALL)
        assert [entry.end for entry in journal.read()] == ends == sorted(set(ends))
        os.close(journal._lock)


def test_cut_at_any_byte_all_whole_records_before_it_come_back(tmp_path: Path) -> None:
    """Truncation anywhere in the last records loses the torn one and those behind it, and invents nothing."""
    with opened(tmp_path / "whole") as journal:
        for number in range(4):
            journal.place(place(number))
            journal.append(progress(number))
    bounds = written_after(tmp_path / "whole", range(8))
    whole = read(tmp_path / "whole")
    for size in range(bounds[3], bounds[-1] + 1):
        torn = tmp_path / "torn"
        shutil.copytree(tmp_path / "whole", torn)
        os.truncate(segments(torn)[-1], size)
        survivors = sum(size >= bound for bound in bounds[1:])
        assert read(torn) == whole[:survivors]
        shutil.rmtree(torn)


def test_a_torn_tail_is_cut_at_the_next_start_and_positions_go_on(tmp_path: Path) -> None:
    """A new life begins behind the last whole record; the torn bytes are kept aside, not read again."""
    with opened(tmp_path) as journal:
        for number in range(3):
            journal.append(place(number))
        kept = journal.position
        journal.append(place(3))
    torn = segments(tmp_path)[-1]
    os.truncate(torn, torn.stat().st_size)
    with torn.open("r+b") as file:
        file.seek(kept - int(torn.stem) + 40)
        file.write(b"\xff" * 30)
    with opened(tmp_path) as journal:
        assert int(segments(tmp_path)[-1].stem) == kept
        journal.append(place(4))
    assert numbers_in(tmp_path) == [0, 1, 2, 4]
    assert torn.stat().st_size == kept - int(torn.stem)
    assert len(list((tmp_path / "quarantine").iterdir())) == 1


@pytest.mark.parametrize("garbage", ["zeros", "noise", "ones", "old records"])
def test_whatever_lies_behind_the_last_record_is_not_read(tmp_path: Path, garbage: str) -> None:
    """Zero pages, noise, or records that were written elsewhere: none of it is a record of this place."""
    with opened(tmp_path) as journal:
        for number in range(5):
            journal.append(place(number))
    last = segments(tmp_path)[-1]
    content = last.read_bytes()
    used = len(content.rstrip(b"\0"))
    noise = random.Random(5).randbytes(9000)
    behind = {"zeros": bytes(9000), "noise": noise, "ones": b"\xff" * 9000, "old records": content[HEADER_BYTES:used]}
    last.write_bytes(content[:used] + behind[garbage] + bytes(4096))
    assert numbers_in(tmp_path) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("damage", ["zero page", "one bit", "length", "header"])
def test_a_damaged_middle_is_kept_aside_and_the_rest_is_read(tmp_path: Path, damage: str) -> None:
    """What a damaged stretch covered is lost, reported and copied; everything around it comes back."""
    with opened(tmp_path) as journal:
        for number in range(60):
            journal.append(place(number))
    last = segments(tmp_path)[-1]
    starts = written_after(tmp_path, range(60))
    content = bytearray(last.read_bytes())
    match damage:
        case "zero page":
            content[4096:8192] = bytes(4096)
        case "one bit":
            content[starts[20] + 30] ^= 4
        case "length":
            content[starts[20]] ^= 0x80
        case "header":
            content[3] ^= 1
    last.write_bytes(content)
    numbers = numbers_in(tmp_path)
    lost = sorted(set(range(60)) - set(numbers))
    whole = {"zero page": [n for n in range(60) if starts[n + 1] > 4096 and starts[n] < 8192], "header": []}
    assert lost == whole.get(damage, [20])
    assert numbers == sorted(numbers)
    assert len(list((tmp_path / "quarantine").iterdir())) == 1


def test_a_client_cannot_smuggle_a_record_into_another(tmp_path: Path) -> None:
    """A tag that contains a whole record is not taken for one when the record around it is damaged."""
    with opened(tmp_path) as journal:
        journal.append(place(1))
    content = segments(tmp_path)[-1].read_bytes()
    forged = content[HEADER_BYTES:].rstrip(b"\0")
    with opened(tmp_path) as journal:
        journal.append(PriceRecord(UUID(int=1), b"{" + forged + b"}"))
        journal.append(place(2))
    last = segments(tmp_path)[-1]
    damaged = bytearray(last.read_bytes())
    damaged[HEADER_BYTES + 10] ^= 1
    last.write_bytes(damaged)
    assert numbers_in(tmp_path) == [1, 2]


def test_the_volume_need_not_have_room_for_what_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeping damaged bytes aside is for people; a full volume does not keep a worker from starting."""
    with opened(tmp_path) as journal:
        for number in range(3):
            journal.append(place(number))
    last = segments(tmp_path)[-1]
    damaged = bytearray(last.read_bytes())
    damaged[HEADER_BYTES + 10] ^= 1
    last.write_bytes(damaged)
    monkeypatch.setattr(Path, "write_bytes", raiser(errno.ENOSPC))
    assert len(read(tmp_path)) == 2


# ── segments ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_many_small_segments_are_one_journal(tmp_path: Path) -> None:
    """Rolling over loses nothing, every segment says its session first, and holds keep their room."""
    with opened(tmp_path) as journal:
        journal.on_segment = lambda: journal.append(SessionRecord(SESSION, 1))  # type: ignore[assignment, return-value]
        padding = (("tag", "x" * 200),) * 10
        for number in range(600):
            journal.end(end(number, tags=padding), journal.place(place(number, tags=padding)))
            journal.sync_now()
            journal.prepare()
        assert journal._reserved == 0
    found = list(read_unowned(tmp_path))
    assert len(found) > 5
    assert all(isinstance(entries[0].record, SessionRecord) for _, entries in found[1:])
    ended = [r.subject.request_id.int for r in read(tmp_path) if isinstance(r, EndRecord)]
    assert ended == list(range(600))
    assert all(path.stat().st_size == entries[-1].end - int(path.stem) for path, entries in found[:-1])


def test_room_is_made_so_that_a_price_and_its_first_hold_lie_in_one_segment(tmp_path: Path) -> None:
    """After `make_room` neither the price nor the place record begins another segment."""
    with opened(tmp_path) as journal:
        began: list[int] = []
        journal.on_segment = lambda: began.append(journal.position)
        for number in range(100):
            journal.prepare()
            journal.make_room()
            before = len(began)
            journal.describe(PriceRecord(UUID(int=number), bytes(60_000)))
            journal.end(end(number), journal.place(place(number)))
            assert len(began) == before
        assert len(began) > 10


def test_a_renamed_segment_is_durable_before_its_records_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sync after a roll covers the directory: records of a file whose new name is lost would be lost with it."""
    with opened(tmp_path) as journal:
        synced: list[Path] = []
        monkeypatch.setattr(journal_files, "sync_directory", synced.append)
        journal.sync_now()
        assert synced == []
        journal._roll()
        journal.append(place(1))
        journal.sync_now()
        assert synced == [tmp_path]


# ── a volume that fails ─────────────────────────────────────────────────────────────────────────────────────────────


def raiser(number: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


def fill(journal: Journal) -> dict[int, int]:
    """Place holds until the journal takes no more; where each was placed."""
    placed: dict[int, int] = {}
    with suppress(JournalFull):
        for number in itertools.count(1):
            placed[number] = journal.place(place(number))
    return placed


@pytest.mark.parametrize("has_spare", [True, False])
def test_an_accepted_hold_can_end_when_the_volume_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_spare: bool
) -> None:
    """With no further segment to be had, no hold is placed any more; every open one ends, at its largest."""
    with opened(tmp_path) as journal:
        monkeypatch.setattr(module.os, "posix_fallocate", raiser(errno.ENOSPC))
        if not has_spare:
            journal._roll()
        placed = fill(journal)
        assert len(placed) > 5
        large = bytes(3300)
        for number, placed_at in placed.items():
            journal.prepare()
            journal.progress(progress(number))
            record = end(number)
            journal.end(EndRecord("captured", record.subject, _raw(record, large), 1, 1, 0), placed_at)
        assert journal._reserved == 0
    ended = [record.subject.request_id.int for record in read(tmp_path) if isinstance(record, EndRecord)]
    assert ended == list(placed)


def _raw(record: EndRecord, raw: bytes) -> Any:
    return msgspec.structs.replace(record.ending, raw_usage=raw)


def test_progress_and_prices_never_take_the_room_of_an_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams may report and models may be many: what was promised to open holds stays."""
    with opened(tmp_path) as journal:
        monkeypatch.setattr(module.os, "posix_fallocate", raiser(errno.ENOSPC))
        placed = fill(journal)
        for number in range(3000):
            journal.progress(progress(number))
        for number in range(100):
            with pytest.raises(JournalFull):
                journal.describe(PriceRecord(UUID(int=number), bytes(30_000)))
        for number, placed_at in placed.items():
            record = end(number)
            journal.end(EndRecord("captured", record.subject, _raw(record, bytes(3300)), 1, 1, 0), placed_at)
    assert sum(isinstance(record, EndRecord) for record in read(tmp_path)) == len(placed)


def test_too_much_unsettled_places_nothing_until_it_is_settled(tmp_path: Path) -> None:
    """The journal is the queue: above its configured size accept is refused."""
    with opened(tmp_path, max_bytes=2000) as journal:
        journal.on_segment = lambda: None
        placed = fill(journal)
        assert 0 < len(placed) < 30
        for number, placed_at in placed.items():
            journal.end(end(number), placed_at)
        journal.confirm(journal.position)
        journal.place(place(0))


@pytest.mark.parametrize("short", [0, 1, 7, 8, 9, 100])
def test_a_short_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: int) -> None:
    """The torn record is undone at once; the next one takes its place."""
    with opened(tmp_path) as journal:
        journal.append(place(1))
        whole = os.pwrite
        monkeypatch.setattr(module.os, "pwrite", lambda file, data, at: whole(file, data[:short], at))
        with pytest.raises(JournalFailed):
            journal.append(place(2))
        monkeypatch.undo()
        assert not journal.healthy
        assert journal.dirty
        journal.append(place(3))
        journal.sync_now()
        assert journal.healthy
    assert numbers_in(tmp_path) == [1, 3]
    assert not (tmp_path / "quarantine").exists()


def test_a_refused_write_that_reached_the_disk_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hold that was refused does not come back as one that was placed."""
    with opened(tmp_path) as journal:
        whole = os.pwrite

        def lie(file: int, data: bytes, at: int) -> int:
            whole(file, data, at)
            raise OSError(errno.EIO, "after all")

        monkeypatch.setattr(module.os, "pwrite", lie)
        with pytest.raises(JournalFailed):
            journal.place(place(1))
        monkeypatch.undo()
    with opened(tmp_path):
        pass
    with opened(tmp_path) as journal:
        monkeypatch.setattr(module.os, "pwrite", raiser(errno.EIO))
        with pytest.raises(JournalFailed):
            journal.place(place(1))
        monkeypatch.undo()
        assert journal._reserved == 0
        assert journal.open_from == journal.position
    assert [r for r in read(tmp_path) if isinstance(r, PlaceRecord) and r.subject.request_id.int == 2] == []


@pytest.mark.parametrize("call", ["pwrite", "rename"])
def test_a_roll_that_fails_is_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Nothing but JournalFailed comes out of a volume that fails while a segment begins; later it can still roll."""
    with opened(tmp_path) as journal:
        while journal._segment.room >= 2000:  # type: ignore[union-attr]
            journal.append(PriceRecord(UUID(int=1), bytes(1000)))
        target = module.os if call == "pwrite" else Path
        monkeypatch.setattr(target, call, raiser(errno.EIO))
        with pytest.raises(JournalFailed):
            journal.append(PriceRecord(UUID(int=2), bytes(3000)))
        monkeypatch.undo()
        assert not journal.healthy
        journal.append(PriceRecord(UUID(int=3), bytes(3000)))
        assert len(segments(tmp_path)) == 2
    found = [record.price_id.int for record in read(tmp_path) if isinstance(record, PriceRecord)]
    assert 2 not in found
    assert found[-1] == 3


def test_what_cannot_be_encoded_is_refused_as_a_failed_write(tmp_path: Path) -> None:
    """A lone surrogate or a count beyond any integer raises nothing that a caller does not expect."""
    with opened(tmp_path) as journal:
        for record in (place(1, model="\ud800"), place(1, hold_nanos=2**64)):
            with pytest.raises(JournalFailed):
                journal.place(record)
        assert journal.position == HEADER_BYTES


# ── fsync that fails ────────────────────────────────────────────────────────────────────────────────────────────────


def failing_sync(journal: Journal) -> None:
    sync = journal.begin_sync()
    error = OSError(errno.EIO, "disk")
    with pytest.raises(OSError, match="disk"):
        sync.run()
    journal.finish_sync(sync, error)


class Disk:
    """What really survives: the content of each file as of the last fsync of it that succeeded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.durable: dict[int, bytes] = {}
        self.fails = False
        monkeypatch.setattr(module.os, "fdatasync", self.sync)
        monkeypatch.setattr(module.os, "fsync", self.sync)

    def sync(self, file: int) -> None:
        if self.fails:
            raise OSError(errno.EIO, "disk")
        opened = Path(f"/proc/self/fd/{file}")
        if not opened.is_dir():
            self.durable[os.fstat(file).st_ino] = opened.read_bytes()

    def cut_power(self, path: Path) -> None:
        for segment in segments(path):
            segment.write_bytes(self.durable.get(segment.stat().st_ino, b""))


def test_after_a_failed_fsync_what_was_not_synced_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel may have thrown the pages away; the next segment has them, and a power cut finds them."""
    disk = Disk(monkeypatch)
    with opened(tmp_path) as journal:
        journal.append(place(1))
        journal.sync_now()
        journal.append(place(2))
        disk.fails = True
        failing_sync(journal)
        journal.append(place(3))
        assert not journal.healthy
        disk.fails = False
        journal.sync_now()
        assert journal.healthy
    disk.cut_power(tmp_path)
    assert set(numbers_in(tmp_path)) == {1, 2, 3}


def test_a_later_fsync_that_succeeds_is_not_believed_without_writing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there was no room to write again, the records stay in memory until there is; until then it is not ready."""
    disk = Disk(monkeypatch)
    with opened(tmp_path) as journal:
        journal._roll()
        journal.append(place(1))
        disk.fails = True
        failing_sync(journal)
        disk.fails = False
        os.ftruncate(journal._segment.file, HEADER_BYTES)  # type: ignore[union-attr]
        journal.sync_now()
        assert not journal.healthy
        assert journal.dirty
        journal.prepare()
        journal.sync_now()
        assert journal.healthy
    disk.cut_power(tmp_path)
    assert numbers_in(tmp_path) == [1]


def test_a_disk_that_fails_for_long_is_one_stretch_of_doubt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered of it does not grow with each attempt; what was durable before and after stays believed."""
    disk = Disk(monkeypatch)
    with opened(tmp_path) as journal:
        before = journal.append(place(1))
        journal.sync_now()
        during = journal.append(place(2))
        disk.fails = True
        for _ in range(5):
            failing_sync(journal)
        disk.fails = False
        journal.prepare()
        journal.sync_now()
        after = journal.append(place(3))
        journal.sync_now()
        assert [journal.has_durable(end) for end in (before, during, after)] == [True, False, True]
        assert len(journal._doubtful) == 1


def test_a_failed_sync_of_a_finished_segment_leaks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file is closed, its records are written again, and syncing goes on."""
    disk = Disk(monkeypatch)
    with opened(tmp_path) as journal:
        journal.append(place(1))
        finished = journal._segment
        assert finished is not None
        journal._roll()
        journal.prepare()
        journal.append(place(2))
        disk.fails = True
        failing_sync(journal)
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(finished.file)
        disk.fails = False
        journal.sync_now()
    disk.cut_power(tmp_path)
    assert set(numbers_in(tmp_path)) == {1, 2}


def test_a_journal_that_cannot_sync_at_its_end_still_lets_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing never leaves the lock behind."""
    journal = Journal(tmp_path, segment_bytes=SMALL)
    journal.start()
    journal.append(place(1))
    monkeypatch.setattr(module.os, "fdatasync", raiser(errno.EIO))
    journal.close()
    monkeypatch.undo()
    assert len(read(tmp_path)) == 2  # once where it failed, once where it was written again


def test_a_start_on_a_full_volume_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It raises JournalFailed, which the worker waits on, and can be tried again."""
    journal = Journal(tmp_path, segment_bytes=SMALL)
    monkeypatch.setattr(module.os, "posix_fallocate", raiser(errno.ENOSPC))
    with pytest.raises(JournalFailed):
        journal.start()
    monkeypatch.undo()
    journal.start()
    journal.append(place(1))
    journal.start()
    journal.append(place(2))
    kill(journal)
    assert numbers_in(tmp_path) == [1, 2]


# ── ownership, positions, sweeping ──────────────────────────────────────────────────────────────────────────────────


def test_a_second_owner_is_refused(tmp_path: Path) -> None:
    """One journal, one process; after it has gone, the next may have it, and it is the same journal."""
    with opened(tmp_path) as journal:
        with pytest.raises(JournalLocked):
            Journal(tmp_path)
        journal_id = journal.journal_id
    with opened(tmp_path) as journal:
        assert journal.journal_id == journal_id


def test_positions_grow_beyond_what_postgresql_has_confirmed(tmp_path: Path) -> None:
    """After a power cut took records that were settled already, new ones do not take their positions."""
    with opened(tmp_path) as journal:
        journal.append(place(1))
        behind = journal.position
    with opened(tmp_path, position=behind + 50_000) as journal:
        assert journal.append(place(2)) > behind + 50_000
        last = journal.position
    with opened(tmp_path, position=behind) as journal:
        assert journal.append(place(3)) > last


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3000)), min_size=1, max_size=6))
def test_positions_only_grow_over_restarts(lives: list[tuple[int, int]]) -> None:
    """Whatever was confirmed, however little was written."""
    with directory() as path:
        last = 0
        for count, confirmed in lives:
            with opened(path, position=confirmed) as journal:
                for number in range(count):
                    position = journal.append(place(number))
                    assert position > last
                    last = position


def test_sweeping_keeps_what_may_be_needed_again(tmp_path: Path) -> None:
    """A segment goes only when it is confirmed, no open hold begins in it, it is old enough, and is not the last."""
    with opened(tmp_path, retain_seconds=3600) as journal:
        placed = []
        for number in range(4):
            placed.append(journal.place(place(number)))
            journal.end(end(number), placed[-1])
            journal.prepare()
            journal._roll()
        bases = [int(path.stem) for path in segments(tmp_path)]
        assert len(bases) == 5
        assert journal.open_from < bases[1]
        for path in segments(tmp_path):
            os.utime(path, (0, 0))
        assert journal.sweep(journal.position) == 0
        journal.confirm(bases[3])
        assert journal.sweep(journal.open_from) == 0
        journal.confirm(bases[3], placed[:2])
        os.utime(segments(tmp_path)[1])
        assert journal.sweep(journal.open_from) == 1
        os.utime(segments(tmp_path)[0], (0, 0))
        journal.rewind(bases[1])
        assert journal.sweep(journal.open_from) == 0
        journal.confirm(journal.position, placed[2:])
        assert journal.sweep(journal.open_from) == 3
        assert [int(path.stem) for path in segments(tmp_path)] == bases[4:]


def test_replay_starts_where_the_oldest_unsettled_hold_was_placed(tmp_path: Path) -> None:
    """An ending that PostgreSQL does not have keeps its place record needed: a power cut may take the ending."""
    with opened(tmp_path) as journal:
        start = journal.position
        first, second = journal.place(place(1)), journal.place(place(2))
        journal.end(end(2), second)
        journal.end(end(1), first)
        assert journal.open_from == first == start
        journal.confirm(journal.position, [first])
        assert journal.open_from == second
        journal.confirm(journal.position, [second])
        assert journal.open_from == journal.position
