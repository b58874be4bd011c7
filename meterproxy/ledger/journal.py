"""The journal: a worker's append-only file of holds and their endings.

A journal is a directory owned by one worker slot. It holds preallocated segments named by the position of their first
byte; positions are byte offsets over all segments and only grow. `segment` knows what the bytes in them mean.

Rules
-----
- One owner: the directory's `lock` file is locked for as long as the journal is open.
- A hold is placed only if the room of its ending is there too, so an accepted exchange can always end. Everything else
  (prices, progress) only takes room that is promised to nobody.
- A write that failed is undone at once. After a failed fsync the segment is finished and all that was not synced is
  written again into the next one, so a record may be read back twice; `healthy` is False until an fsync succeeds.
- Replay starts at the place record of the oldest hold whose ending PostgreSQL does not have and no fsync has made
  durable; endings that are durable are found where they are, behind what PostgreSQL has.
- A segment goes when PostgreSQL has confirmed all of it *and* it is older than `retain_seconds`: a failover may take
  confirmed rows away.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from meterproxy.core.record import DeferRecord, EndRecord, PlaceRecord, ProgressRecord, Record
from meterproxy.errors import JournalFailed, JournalFull
from meterproxy.ledger.journal_files import (
    Segment,
    Sync,
    delete_segments,
    finish_files,
    journal_id_of,
    lock,
    new_segment,
    segment_files,
)
from meterproxy.ledger.reread import Rereader
from meterproxy.ledger.segment import (
    FRAME_BYTES,
    HEADER_BYTES,
    MAX_RECORD_BYTES,
    Entry,
    encode,
    framed,
    header,
    read_segment,
)

TOGETHER_BYTES: Final = 2 * (FRAME_BYTES + MAX_RECORD_BYTES)
"""Room for a price and the first place record that names it, which belong into one segment."""
SLACK_BYTES: Final = 4 * MAX_RECORD_BYTES
"""Room never promised to anybody: the ragged end of a segment, and what begins the next one."""
ENDING_ROOM_BYTES: Final = 4096
"""Room that an ending may need beyond its subject; `record.fit` keeps endings below it."""

_log: Final = logging.getLogger(__name__)


class Journal:
    """The open journal of one worker slot; `append` and what builds on it are synchronous and called on the loop.

    Args:
        directory: made if absent; one per worker slot.
        segment_bytes: size of a segment's preallocated file.
        max_bytes: unsettled bytes above which no hold is placed any more.
        retain_seconds: how long confirmed segments are kept.
    """

    def __init__(
        self, directory: Path, *, segment_bytes: int = 64 << 20, max_bytes: int = 8 << 30, retain_seconds: float = 86400
    ) -> None:
        self.directory = directory
        self.segment_bytes = segment_bytes
        self.max_bytes = max_bytes
        self.retain_seconds = retain_seconds
        self.healthy = True
        self.on_segment: Callable[[], None] = lambda: None
        """Called when a new segment begins, to write what its records need (session, prices)."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = lock(directory / "lock")
        self.journal_id = journal_id_of(directory)
        self._segment: Segment | None = None
        self._spare: Segment | None = None
        self._spare_lock = threading.Lock()
        self._spare_failed = False
        self._unsettled: dict[int, int] = {}
        """Where the holds were placed whose endings are not durable: the room that each ending may need."""
        self._reserved = 0
        self._unsynced: list[bytes] = []
        self._in_doubt = False
        self._finishing: list[Segment] = []
        self._confirmed = 0
        self._read_to = 0
        self.synced = 0
        """What ends up to here is durable, but for what an fsync that failed may have taken."""
        self._doubtful: list[tuple[int, int]] = []
        self._rereader = Rereader(directory, self.journal_id)

    # ── reading back ────────────────────────────────────────────────────────────────────────────────────────────────

    def read(self, position: int = 0) -> Iterator[Entry]:
        """Every record of every segment that reaches beyond `position`, oldest first."""
        segments = segment_files(self.directory)
        for index, (base, path) in enumerate(segments):
            following = segments[index + 1][0] if index + 1 < len(segments) else None
            if following is None or following > position:
                self._read_to = max(self._read_to, base + HEADER_BYTES)
                for entry in read_segment(path, base, self.journal_id, self.directory / "quarantine"):
                    self._read_to = max(self._read_to, entry.end)
                    yield entry

    def has_durable(self, position: int) -> bool:
        """Whether the record that ends there is durable at that very place."""
        return position <= self.synced and not any(start < position <= end for start, end in self._doubtful)

    def reread(self, position: int) -> Record | None:
        """The record that ends there, None where it cannot be read any more."""
        return self._rereader.read(position)

    def start(self, position: int = 0) -> None:
        """Begin to write, behind everything on disk and not before `position` (what PostgreSQL has confirmed).

        A power cut may have taken records that PostgreSQL already has; positions must grow all the same.

        Raises:
            JournalFailed: the volume has no room for a segment, or cannot be synced.
        """
        if not self._read_to:
            for _ in self.read(sys.maxsize):
                pass
        if self._segment:
            self._read_to = max(self._read_to, self._segment.end)
            self.sync_now()
            os.close(self._segment.file)
            self._segment = None
        self._confirmed = position
        try:
            finish_files(self.directory, self._read_to)
            base = max(position, self._read_to)
            self._segment = new_segment(self.directory, self.segment_bytes, self.journal_id, base)
        except OSError as error:
            raise JournalFailed(f"the journal cannot be begun: {error}") from error
        self.synced = self._segment.base
        self.on_segment()
        self.prepare()

    # ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def position(self) -> int:
        """The position behind the last record written, or read where nothing is written yet."""
        return self._segment.end if self._segment else self._read_to

    @property
    def unsettled_bytes(self) -> int:
        return self.position - self._confirmed

    @property
    def open_from(self) -> int:
        """Where the place record begins of the oldest hold whose ending a power cut could take; else the end."""
        return next(iter(self._unsettled), self.position)

    def make_room(self) -> None:
        """Begin the next segment where this one might not take a price and its place record together.

        Raises:
            JournalFailed: the volume refused.
        """
        if self._current.room < TOGETHER_BYTES and self._spare is not None:
            self._roll()

    @property
    def has_room(self) -> bool:
        """Whether a usual hold could be placed."""
        return self._spare_room > 2 * ENDING_ROOM_BYTES and self.unsettled_bytes <= self.max_bytes

    def place(self, record: PlaceRecord, growth: int = 0) -> int:
        """Write that a hold was placed, and keep the room of its ending; answers where the record begins.

        `growth` is by how many bytes its subject may be longer by then.

        Raises:
            JournalFull: no room for it and its ending, or more unsettled than `max_bytes`.
            JournalFailed: the volume refused; nothing was written.
        """
        payload = encode(record)
        size = FRAME_BYTES + len(payload)
        reserve = size + ENDING_ROOM_BYTES + growth
        if self._spare_room < size + reserve:
            raise JournalFull("the journal's volume has no room left")
        if self.unsettled_bytes > self.max_bytes:
            raise JournalFull("the journal holds more unsettled records than it may")
        placed_at = self._write(payload) - size
        self._unsettled[placed_at] = reserve
        self._reserved += reserve
        return placed_at

    def end(self, record: EndRecord, placed_at: int) -> int:
        """Write how the hold ended that was placed there; its room was kept for this.

        Raises:
            JournalFailed: the volume refused; the caller keeps the record in memory.
        """
        self._reserved -= self._unsettled[placed_at]
        self._unsettled[placed_at] = 0
        return self._write(encode(record))

    def defer(self, record: DeferRecord, placed_at: int) -> int:
        """Write that the hold has become durable that was placed there, in the room that was kept for its ending.

        Raises:
            JournalFailed: the volume refused; the hold is as open as before, and its room still kept.
        """
        end = self._write(encode(record))
        self._reserved -= self._unsettled[placed_at]
        self._unsettled[placed_at] = 0
        return end

    def describe(self, record: Record) -> int:
        """Write what nobody has kept room for, where there is room that is promised to nobody.

        Raises:
            JournalFull: there is none.
            JournalFailed: the volume refused; nothing was written.
        """
        payload = encode(record)
        if self._spare_room < FRAME_BYTES + len(payload):
            raise JournalFull("the journal's volume has no room left")
        return self._write(payload)

    def progress(self, record: ProgressRecord) -> None:
        """Write a stream's progress where there is room to spare; losing one is harmless."""
        with suppress(JournalFull):
            self.describe(record)

    def append(self, record: Record) -> int:
        """Write any record; answers the position behind it. Raises JournalFailed."""
        return self._write(encode(record))

    def _write(self, payload: bytes) -> int:
        """Write a record where the last one ended; answers the position behind it."""
        segment = self._current
        size = FRAME_BYTES + len(payload)
        if segment.size - segment.used < size:
            segment = self._roll()
        used = segment.used
        position = segment.base + used
        try:
            written = os.pwrite(segment.file, framed(payload, position), used)
        except OSError as error:
            self._undo(segment, size)
            raise JournalFailed(f"the journal cannot be written: {error}") from error
        if written != size:
            self._undo(segment, size)
            raise JournalFailed("the journal's volume took only a part of a record")
        segment.used = used + size
        self._unsynced.append(payload)
        return position + size

    def _undo(self, segment: Segment, size: int) -> None:
        self.healthy = False
        with suppress(OSError):
            os.pwrite(segment.file, bytes(size), segment.used)

    @property
    def _spare_room(self) -> int:
        """Room that is promised to nobody."""
        segment, spare = self._current, self._spare
        room = segment.size - segment.used - SLACK_BYTES - self._reserved
        return room if spare is None else room + spare.size - spare.used

    @property
    def _current(self) -> Segment:
        assert self._segment is not None, "the journal was not started"
        return self._segment

    # ── segments ────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def prepared(self) -> bool:
        """Whether the next segment is there already."""
        return self._spare is not None

    def prepare(self) -> None:
        """Make the next segment's file ahead of need, so that rolling is quick. Safe to call from a thread."""
        with self._spare_lock:
            if self._spare is not None or self._segment is None:
                return
            try:
                self._spare = new_segment(self.directory, self.segment_bytes, self.journal_id, None)
                self._spare_failed = False
            except OSError as error:
                if not self._spare_failed:
                    _log.error("the journal cannot make its next segment", extra={"error": str(error)})
                self._spare_failed = True

    def _roll(self) -> Segment:
        finished, spare = self._current, self._spare
        if spare is None:
            raise JournalFailed("the journal has no further segment: its volume is full")
        path = self.directory / f"{finished.end:020d}.journal"
        try:
            os.pwrite(spare.file, header(self.journal_id, finished.end), 0)
            spare.path.rename(path)
        except OSError as error:
            self.healthy = False
            raise JournalFailed(f"the journal cannot begin its next segment: {error}") from error
        spare.base, spare.path = finished.end, path
        self._segment, self._spare = spare, None
        self._finishing.append(finished)
        self.on_segment()
        return spare

    # ── durability ──────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def dirty(self) -> bool:
        """Whether anything waits for an fsync, or the next segment for being made, or a failure for being over."""
        return bool(self._unsynced or self._finishing or not self.prepared or not self.healthy)

    def begin_sync(self) -> Sync:
        """What a thread is to make durable now; see `finish_sync`."""
        if self._in_doubt:
            self._write_again()
        finished, self._finishing = self._finishing, []
        over = [placed_at for placed_at, room in self._unsettled.items() if not room]
        records = len(self._unsynced)
        return Sync(self.directory, finished, self._current.file, records, self._in_doubt, self.position, over)

    def finish_sync(self, sync: Sync, error: OSError | None) -> None:
        """Take note of how it went; after a failure everything not yet synced is written again elsewhere."""
        if error is not None:
            _log.error("the journal cannot be synced", extra={"error": str(error)})
            self.healthy = False
            self._in_doubt = True
            self._write_again()
        elif not sync.in_doubt:
            del self._unsynced[: sync.records]
            self.synced = max(self.synced, sync.position)
            for placed_at in sync.over:
                self._unsettled.pop(placed_at, None)
            self.healthy = True

    def _write_again(self) -> None:
        payloads, self._unsynced = self._unsynced, []
        self._doubt_all_since(self.synced)
        try:
            self._roll()
            for payload in payloads:
                self._write(payload)
        except JournalFailed as error:
            _log.error("the journal cannot be written again", extra={"error": str(error)})
            self._unsynced = payloads
        else:
            self._in_doubt = False

    def _doubt_all_since(self, start: int) -> None:
        """Nothing behind there is durable where it is; told again and again while a disk fails, it is one stretch."""
        if self._doubtful and self._doubtful[-1][0] == start:
            self._doubtful.pop()
        self._doubtful.append((start, self.position))

    def sync_now(self) -> None:
        """Sync in this thread; used at start, at the end, and by tests. Raises JournalFailed."""
        sync = self.begin_sync()
        try:
            sync.run()
        except OSError as error:
            self.finish_sync(sync, error)
            raise JournalFailed(f"the journal cannot be synced: {error}") from error
        self.finish_sync(sync, None)

    def confirm(self, position: int, settled: Iterable[int] = ()) -> None:
        """PostgreSQL has everything before `position`, and the endings of the holds that were placed there."""
        self._confirmed = max(self._confirmed, position)
        for placed_at in settled:
            self._unsettled.pop(placed_at, None)

    def rewind(self, position: int) -> None:
        """PostgreSQL has lost what it had confirmed behind `position`."""
        self._confirmed = min(self._confirmed, position)

    def sweep(self, open_from: int) -> int:
        """Delete segments that end before `open_from`, are confirmed, and are old enough; answers how many."""
        return delete_segments(self.directory, min(open_from, self._confirmed), time.time() - self.retain_seconds)

    def close(self) -> None:
        """Sync as far as that is possible, close the files, and let go of the lock."""
        try:
            if self._segment:
                self.sync_now()
        except JournalFailed as error:
            _log.error("the journal was closed without its last records being synced", extra={"error": str(error)})
        finally:
            segments = [*self._finishing, self._segment, self._spare]
            for segment in filter(None, segments):
                with suppress(OSError):
                    os.ftruncate(segment.file, segment.used)  # nobody may come back for years
                os.close(segment.file)
            if self._spare:
                self._spare.path.unlink(missing_ok=True)
            self._segment = self._spare = None
            self._finishing = []
            os.close(self._lock)
