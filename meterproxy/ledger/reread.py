"""Reread: single records of a living journal, read back by where they end.

Rules
-----
- Records are asked for in the order of the journal, so that each is found a step behind the last; any other order
  works, and takes longer.
- Only what is durable is asked for. A record in a damaged place is looked for as at a start, in the whole segment.
"""

import os
from pathlib import Path
from typing import Final
from uuid import UUID

from meterproxy.core.record import Record
from meterproxy.ledger.journal_files import segment_files
from meterproxy.ledger.segment import FRAME, FRAME_BYTES, HEADER_BYTES, MAX_RECORD_BYTES, frame_at, read_segment

BUFFER_BYTES: Final = 1 << 18


class Rereader:
    """Reads records back; remembers where it was."""

    __slots__ = ("_base", "_buffer", "_buffer_at", "_directory", "_following", "_journal_id", "_path", "_position")

    def __init__(self, directory: Path, journal_id: UUID) -> None:
        self._directory = directory
        self._journal_id = journal_id
        self._position = 0
        """Where a record begins, behind the last one that was read."""
        self._path: Path | None = None
        self._base = 0
        self._following: int | None = None
        """The base of the next segment, None where there was none."""
        self._buffer = b""
        self._buffer_at = 0

    def read(self, end: int) -> Record | None:
        """The record that ends there, None where none can be read."""
        return self._read(end) or self._afresh(end) or self._sought(end)

    def _afresh(self, end: int) -> Record | None:
        """As it is on disk now; what is remembered of segments and bytes may be older than the record."""
        self._find(end)
        return self._read(end)

    def _sought(self, end: int) -> Record | None:
        if self._path is None:
            return None
        entries = read_segment(self._path, self._base, self._journal_id, None)
        return next((entry.record for entry in entries if entry.end == end), None)

    def _read(self, end: int) -> Record | None:
        if self._path is None or not self._base < end <= (self._following or end):
            self._find(end)
        if self._path is None:
            return None
        if not self._base < self._position < end:
            self._position = self._base + HEADER_BYTES
        while (following := self._position + FRAME_BYTES + self._length()) < end:
            self._position = following
        found = frame_at(self._bytes(end - self._position), 0, self._position) if following == end else None
        if found is None:
            return None
        self._position = end
        return found[1]

    def _find(self, end: int) -> None:
        """Find the segment that has this place."""
        files = segment_files(self._directory)
        index = sum(base < end for base, _ in files) - 1
        self._path = files[index][1] if index >= 0 else None
        self._base = files[index][0] if index >= 0 else 0
        self._following = files[index + 1][0] if index + 1 < len(files) else None
        self._buffer = b""

    def _length(self) -> int:
        """Bytes of the record that begins at the position; too many where none does."""
        length: int = FRAME.unpack(self._bytes(FRAME_BYTES))[0]
        return length or MAX_RECORD_BYTES

    def _bytes(self, size: int) -> bytes:
        """So many bytes from the position on."""
        at = self._position - self._buffer_at
        if at < 0 or at + size > len(self._buffer):
            assert self._path is not None, "a segment was found"
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._buffer = os.pread(file, max(BUFFER_BYTES, size), self._position - self._base)
            finally:
                os.close(file)
            self._buffer_at, at = self._position, 0
        return self._buffer[at : at + size].ljust(size, b"\0")
