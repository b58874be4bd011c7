"""The files of a journal: its lock, its id, its segments on the way from being made to being deleted.

Rules
-----
- One owner: the directory's `lock` file is locked for as long as the journal is open.
- A segment is allocated and durable, its name too, before anything is written into it.
- A finished segment is cut to what it holds before the next one's records count as durable.
"""

import errno
import fcntl
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from uuid import UUID, uuid4

from meterproxy.errors import MeterproxyError
from meterproxy.ledger.segment import HEADER_BYTES, cut_tail, header, sync_directory


class JournalLocked(MeterproxyError):
    """Another process owns this journal."""


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
    """One group fsync: segments to cut to what they hold and close, the current file, and the records covered.

    `position` is the one behind these records; `over` are the holds that have ended in them.

    `in_doubt`: an earlier fsync of this file has failed, after which the kernel's word for it is worth nothing.
    """

    directory: Path
    finished: list[Segment]
    file: int
    records: int
    in_doubt: bool
    position: int
    over: list[int]

    def run(self) -> None:
        """Make it durable (in a thread). Raises OSError."""
        try:
            for segment in self.finished:
                os.ftruncate(segment.file, segment.used)
                os.fsync(segment.file)
            if self.finished:
                sync_directory(self.directory)  # the current segment's name is not on disk before
            os.fdatasync(self.file)
        finally:
            for segment in self.finished:
                os.close(segment.file)


def segment_files(directory: Path) -> list[tuple[int, Path]]:
    """The segments with the positions of their first bytes, oldest first."""
    return sorted((int(path.stem), path) for path in directory.glob("*.journal"))


def new_segment(directory: Path, size: int, journal_id: UUID, base: int | None) -> Segment:
    """Make a segment's file; the spare one, whose place is not known yet, where `base` is None. Raises OSError."""
    path = directory / ("spare" if base is None else f"{base:020d}.journal")
    file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(file, 0, size)
    except OSError:
        os.close(file)
        path.unlink()
        raise
    os.pwrite(file, header(journal_id, base or 0), 0)
    os.fsync(file)
    sync_directory(directory)
    return Segment(path, file, base or 0, size)


def finish_files(directory: Path, read_to: int) -> None:
    """Cut the last segment to what it holds and make durable what a killed process had only written. Raises OSError."""
    files = segment_files(directory)
    if files:
        cut_tail(files[-1][1], read_to - files[-1][0], directory / "quarantine")
    for _, path in files:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def delete_segments(directory: Path, before: int, older_than: float) -> int:
    """Delete segments that end before a position and were last written before an instant; answers how many."""
    gone = 0
    for (_, path), (following, _) in pairwise(segment_files(directory)):
        if following > before or path.stat().st_mtime > older_than:
            break
        path.unlink()
        gone += 1
    return gone


def is_owned(directory: Path) -> bool:
    """Whether somebody has this journal open; what is no journal yet is left to whoever makes it one."""
    try:
        file = os.open(directory / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(file)
    return False


def lock(path: Path) -> int:
    """Own the journal of this lock file. Raises JournalLocked."""
    file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        if error.errno in {errno.EAGAIN, errno.EACCES}:
            raise JournalLocked(f"another process owns the journal {path.parent}") from error
        raise
    return file


def journal_id_of(directory: Path) -> UUID:
    """The journal's id, made where there is none yet."""
    path = directory / "id"
    if not path.exists():
        temporary = directory / "id.new"
        with temporary.open("w") as file:
            file.write(str(uuid4()))
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        sync_directory(directory)
    return UUID(path.read_text().strip())
