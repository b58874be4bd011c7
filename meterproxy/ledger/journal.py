"""The journal: a worker's append-only file of holds and their endings.

A journal is a directory owned by one worker slot. It holds preallocated segments named by the position of their first
byte; positions are byte offsets over all segments and only grow. A record is framed by its length and CRC-32.

Rules
-----
- One owner: the directory's `lock` file is locked for as long as the journal is open.
- A hold is placed only if the room of its ending is there too, so an accepted exchange can always end.
- A short write is undone at once. After a failed fsync the segment is finished and all that was not synced is written
  again into the next one; `healthy` is False until an fsync succeeds.
- A torn tail is cut. A damaged middle is copied to `quarantine/`, reported, and skipped.
- A segment goes when PostgreSQL has confirmed all of it *and* it is older than `retain_seconds`: a failover may take
  confirmed rows away.
"""

import errno
import fcntl
import logging
import os
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID, uuid4

import msgspec

from meterproxy.core.record import EndRecord, PlaceRecord, ProgressRecord, Record, decode_payload, encode_payload
from meterproxy.errors import JournalFailed, JournalFull, MeterproxyError

MAGIC: Final = b"mpjrnl\x00\x01"
HEADER: Final = struct.Struct("<8s16sqI")
HEADER_BYTES: Final = 64
FRAME: Final = struct.Struct("<II")
MAX_RECORD_BYTES: Final = 64 * 1024
SLACK_BYTES: Final = 4 * MAX_RECORD_BYTES
"""Room never promised to anybody: the ragged end of a segment, and what begins the next one."""
ENDING_ROOM_BYTES: Final = 4096
"""Room that an ending may need beyond its subject; `record.fit` keeps endings below it."""

_log: Final = logging.getLogger(__name__)


class JournalLocked(MeterproxyError):
    """Another process owns this journal."""


class Entry(NamedTuple):
    """A record as read back: where it begins, where it ends, and what it says."""

    start: int
    end: int
    record: Record


@dataclass(slots=True)
class Segment:
    """One file of the journal, open for writing."""

    path: Path
    file: int
    base: int
    size: int
    used: int = HEADER_BYTES

    @property
    def end(self) -> int:
        """The position behind the last record."""
        return self.base + self.used

    @property
    def room(self) -> int:
        return self.size - self.used


@dataclass(frozen=True, slots=True)
class Sync:
    """One group fsync: segments to cut to what they hold and close, the current file, and the records covered."""

    finished: list[Segment]
    file: int
    records: int

    def run(self) -> None:
        """Make it durable (in a thread). Raises OSError."""
        for segment in self.finished:
            os.ftruncate(segment.file, segment.used)
            os.fsync(segment.file)
            os.close(segment.file)
        os.fdatasync(self.file)


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
        self._lock = _lock(directory / "lock")
        self.journal_id = _journal_id(directory)
        self._segment: Segment | None = None
        self._spare: Segment | None = None
        self._spare_lock = threading.Lock()
        self._open: dict[UUID, tuple[int, int]] = {}
        self._reserved = 0
        self._unsynced: list[bytes] = []
        self._finishing: list[Segment] = []
        self._confirmed = 0
        self._read_to = 0

    # ── reading back ────────────────────────────────────────────────────────────────────────────────────────────────

    def read(self, position: int = 0) -> Iterator[Entry]:
        """Every record of every segment that reaches beyond `position`, oldest first."""
        segments = self._files()
        for index, (base, path) in enumerate(segments):
            following = segments[index + 1][0] if index + 1 < len(segments) else None
            if following is None or following > position:
                self._read_to = max(self._read_to, base + HEADER_BYTES)
                for entry in _read_segment(path, base, self.journal_id, self.directory / "quarantine"):
                    self._read_to = max(self._read_to, entry.end)
                    yield entry

    def start(self, position: int = 0) -> None:
        """Begin to write, behind everything on disk and not before `position` (what PostgreSQL has confirmed).

        A power cut may have taken records that PostgreSQL already has; positions must grow all the same.
        """
        if not self._read_to:
            for _ in self.read(sys.maxsize):
                pass
        if self._segment:
            self.sync_now()
            os.close(self._segment.file)
        self._confirmed = position
        self._segment = self._make_segment(max(position, self._read_to))
        self.on_segment()
        self.prepare()

    # ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def position(self) -> int:
        """The position behind the last record written."""
        return self._segment.end if self._segment else 0

    @property
    def unsettled_bytes(self) -> int:
        return self.position - self._confirmed

    @property
    def open_from(self) -> int:
        """Where the oldest open hold's place record begins; the end of the journal if none is open."""
        return next(iter(self._open.values()))[0] if self._open else self.position

    def place(self, record: PlaceRecord) -> int:
        """Write that a hold was placed, and keep the room of its ending.

        Raises:
            JournalFull: no room for it and its ending, or more unsettled than `max_bytes`.
            JournalFailed: the volume refused; nothing was written.
        """
        frame = encode(record)
        reserve = len(frame) + ENDING_ROOM_BYTES
        room = self._current.room + (self._spare.room if self._spare else 0) - SLACK_BYTES
        if room < self._reserved + len(frame) + reserve:
            raise JournalFull("the journal's volume has no room left")
        if self.unsettled_bytes > self.max_bytes:
            raise JournalFull("the journal holds more unsettled records than it may")
        start = self._write(frame)
        self._open[record.subject.request_id] = (start, reserve)
        self._reserved += reserve
        return start + len(frame)

    def end(self, record: EndRecord) -> int:
        """Write how a hold ended; its room was kept when it was placed.

        Raises:
            JournalFailed: the volume refused; the caller keeps the record in memory.
        """
        _, reserve = self._open.pop(record.subject.request_id, (0, 0))
        self._reserved -= reserve
        return self.append(record)

    def forget(self, request_id: UUID) -> None:
        """Drop the reservation of a hold whose ending could not be written."""
        _, reserve = self._open.pop(request_id, (0, 0))
        self._reserved -= reserve

    def progress(self, record: ProgressRecord) -> None:
        """Write a stream's progress where there is room to spare; losing one is harmless."""
        if self._spare is not None:
            self.append(record)

    def append(self, record: Record) -> int:
        """Write any record; answers the position behind it. Raises JournalFailed."""
        frame = encode(record)
        return self._write(frame) + len(frame)

    def _write(self, frame: bytes) -> int:
        segment = self._current
        if segment.room < len(frame):
            segment = self._roll()
        try:
            written = os.pwrite(segment.file, frame, segment.used)
        except OSError as error:
            self.healthy = False
            raise JournalFailed(f"the journal cannot be written: {error}") from error
        if written != len(frame):
            self.healthy = False
            os.pwrite(segment.file, bytes(written), segment.used)
            raise JournalFailed("the journal's volume took only a part of a record")
        start = segment.end
        segment.used += len(frame)
        self._unsynced.append(frame)
        return start

    @property
    def _current(self) -> Segment:
        assert self._segment is not None, "the journal was not started"
        return self._segment

    # ── segments ────────────────────────────────────────────────────────────────────────────────────────────────────

    def prepare(self) -> None:
        """Make the next segment's file ahead of need, so that rolling is quick. Safe to call from a thread."""
        with self._spare_lock:
            if self._spare is None:
                try:
                    self._spare = self._make_segment(None)
                except OSError as error:
                    _log.error("the journal cannot make its next segment", extra={"error": str(error)})

    def _roll(self) -> Segment:
        finished = self._current
        spare, self._spare = self._spare, None
        if spare is None:
            raise JournalFailed("the journal has no further segment: its volume is full")
        spare.base = finished.end
        os.pwrite(spare.file, _header(self.journal_id, spare.base), 0)
        path = self.directory / f"{spare.base:020d}.journal"
        spare.path.rename(path)
        spare.path = path
        self._segment = spare
        self._finishing.append(finished)
        self.on_segment()
        return spare

    def _make_segment(self, base: int | None) -> Segment:
        path = self.directory / ("spare" if base is None else f"{base:020d}.journal")
        file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(file, 0, self.segment_bytes)
        except OSError:
            os.close(file)
            path.unlink()
            raise
        os.pwrite(file, _header(self.journal_id, base or 0), 0)
        os.fsync(file)
        _sync_directory(self.directory)
        return Segment(path, file, base or 0, self.segment_bytes)

    def _files(self) -> list[tuple[int, Path]]:
        return sorted((int(path.stem), path) for path in self.directory.glob("*.journal"))

    # ── durability ──────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def dirty(self) -> bool:
        """Whether anything waits for an fsync, or the next segment for being made."""
        return bool(self._unsynced or self._finishing or self._spare is None)

    def begin_sync(self) -> "Sync":
        """What a thread is to make durable now; see `finish_sync`."""
        finished, self._finishing = self._finishing, []
        return Sync(finished, self._current.file, len(self._unsynced))

    def finish_sync(self, sync: "Sync", error: OSError | None) -> None:
        """Take note of how it went; after a failure everything not yet synced is written again elsewhere."""
        if error is None:
            del self._unsynced[: sync.records]
            self.healthy = True
            return
        _log.error("the journal cannot be synced", extra={"error": str(error)})
        self.healthy = False
        frames, self._unsynced = self._unsynced, []
        try:
            self._roll()
            for frame in frames:
                self._write(frame)
        except JournalFailed:
            self._unsynced = frames

    def sync_now(self) -> None:
        """Sync in this thread; used at start, at the end, and by tests."""
        sync = self.begin_sync()
        sync.run()
        self.finish_sync(sync, None)

    def confirm(self, position: int) -> None:
        """PostgreSQL has everything before `position`."""
        self._confirmed = max(self._confirmed, position)

    def sweep(self, open_from: int) -> int:
        """Delete segments that end before `open_from`, are confirmed, and are old enough; answers how many."""
        files = self._files()
        oldest = time.time() - self.retain_seconds
        gone = 0
        for (_, path), (following, _) in pairwise(files):
            if following > min(open_from, self._confirmed) or path.stat().st_mtime > oldest:
                break
            path.unlink()
            gone += 1
        return gone

    def close(self) -> None:
        """Sync, close the files, and let go of the lock."""
        if self._segment:
            self.sync_now()
        for segment in filter(None, (self._segment, self._spare)):
            os.close(segment.file)
        if self._spare:
            self._spare.path.unlink(missing_ok=True)
        self._segment = self._spare = None
        os.close(self._lock)


def read_unowned(directory: Path) -> Iterator[tuple[Path, list[Entry]]]:
    """Every segment with its whole records, oldest first; neither owns the journal nor touches it.

    Between two entries of a segment, what they do not cover is damaged; behind the last one it is torn or unused.
    """
    journal_id = UUID((directory / "id").read_text().strip())
    for path in sorted(directory.glob("*.journal"), key=lambda path: int(path.stem)):
        yield path, list(_read_segment(path, int(path.stem), journal_id, None))


def encode(record: Record) -> bytes:
    """A record in its frame: length, CRC-32 over length and payload, payload."""
    payload = encode_payload(record)
    if len(payload) > MAX_RECORD_BYTES:
        raise JournalFailed(f"a record of {len(payload)} bytes is larger than the journal takes")
    return FRAME.pack(len(payload), _checksum(payload)) + payload


def _checksum(payload: bytes) -> int:
    return zlib.crc32(payload, len(payload))


def _header(journal_id: UUID, base: int) -> bytes:
    packed = HEADER.pack(MAGIC, journal_id.bytes, base, 0)
    return HEADER.pack(MAGIC, journal_id.bytes, base, zlib.crc32(packed[:-4])).ljust(HEADER_BYTES, b"\0")


def _read_segment(path: Path, base: int, journal_id: UUID, quarantine: Path | None) -> Iterator[Entry]:
    data = path.read_bytes()
    if data[:HEADER_BYTES] != _header(journal_id, base):
        _report_damage(path, 0, HEADER_BYTES, quarantine)
    offset = HEADER_BYTES
    while offset < len(data):
        frame = _frame_at(data, offset)
        if frame is None:
            found = _next_frame(data, offset)
            if found is None:
                return
            _report_damage(path, offset, found, quarantine)
            offset = found
            continue
        end, record = frame
        yield Entry(base + offset, base + end, record)
        offset = end


def _frame_at(data: bytes, offset: int) -> tuple[int, Record] | None:
    if len(data) - offset < FRAME.size:
        return None
    length, checksum = FRAME.unpack_from(data, offset)
    start = offset + FRAME.size
    if not 0 < length <= min(MAX_RECORD_BYTES, len(data) - start):
        return None
    payload = data[start : start + length]
    if _checksum(payload) != checksum:
        return None
    try:
        return start + length, decode_payload(payload)
    except msgspec.MsgspecError:
        return None


def _next_frame(data: bytes, offset: int) -> int | None:
    """Where the next whole record begins; None if only zeros or a torn tail follow."""
    used = len(data.rstrip(b"\0"))
    return next((at for at in range(offset + 1, used) if _frame_at(data, at) is not None), None)


def _report_damage(path: Path, start: int, end: int, quarantine: Path | None) -> None:
    if quarantine is None:
        return
    quarantine.mkdir(exist_ok=True, mode=0o700)
    copy = quarantine / f"{path.name}.{start}"
    if not copy.exists():
        copy.write_bytes(path.read_bytes())
    _log.error("the journal is damaged", extra={"segment": path.name, "start": start, "end": end, "copy": str(copy)})


def _lock(path: Path) -> int:
    file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        if error.errno in {errno.EAGAIN, errno.EACCES}:
            raise JournalLocked(f"another process owns the journal {path.parent}") from error
        raise
    return file


def _journal_id(directory: Path) -> UUID:
    path = directory / "id"
    if not path.exists():
        temporary = directory / "id.new"
        temporary.write_text(str(uuid4()))
        temporary.rename(path)
        _sync_directory(directory)
    return UUID(path.read_text().strip())


def _sync_directory(directory: Path) -> None:
    file = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
