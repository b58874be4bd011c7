"""Segments: the files of a journal, as bytes. What a record looks like, and how it is found again.

A segment begins with a header (magic, journal, position of its first byte). A record follows another in a frame: its
length, a CRC-32 over its position and payload, the payload. Behind the last one the file is empty or torn.

Rules
-----
- Bytes that merely look like a record, inside another or left over from earlier, are none: the CRC covers the position.
- What is damaged between two whole records is copied to `quarantine/`, reported, and skipped; a torn tail is cut.
"""

import logging
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

from meterproxy.core.record import Record, decode_payload, encode_payload
from meterproxy.errors import JournalFailed

MAGIC: Final = b"mpjrnl\x00\x01"
HEADER: Final = struct.Struct("<8s16sqI")
HEADER_BYTES: Final = 64
FRAME: Final = struct.Struct("<II")
FRAME_BYTES: Final = FRAME.size
_pack_frame: Final = FRAME.pack
_crc32: Final = zlib.crc32
MAX_RECORD_BYTES: Final = 64 * 1024

_log: Final = logging.getLogger(__name__)


class Entry(NamedTuple):
    """A record as read back: where it begins, where it ends, and what it says."""

    start: int
    end: int
    record: Record


def read_unowned(directory: Path) -> Iterator[tuple[Path, list[Entry]]]:
    """Every segment with its whole records, oldest first; neither owns the journal nor touches it.

    Between two entries of a segment, what they do not cover is damaged; behind the last one it is torn or unused.
    """
    journal_id = UUID((directory / "id").read_text().strip())
    for path in sorted(directory.glob("*.journal"), key=lambda path: int(path.stem)):
        yield path, list(read_segment(path, int(path.stem), journal_id, None))


def encode(record: Record) -> bytes:
    """A record as the journal takes it. Raises JournalFailed where no journal could."""
    try:
        payload = encode_payload(record)
    except (UnicodeError, OverflowError, TypeError, ValueError) as error:
        raise JournalFailed(f"a record cannot be encoded: {error}") from error
    if len(payload) > MAX_RECORD_BYTES:
        raise JournalFailed(f"a record of {len(payload)} bytes is larger than the journal takes")
    return payload


def framed(payload: bytes, position: int) -> bytes:
    """A record in its frame: length, CRC-32 over position, length and payload, payload."""
    size = len(payload)
    return _pack_frame(size, _crc32(payload, (position ^ size << 15) & 0xFFFFFFFF)) + payload


def _checksum(payload: bytes, position: int) -> int:
    return _crc32(payload, (position ^ len(payload) << 15) & 0xFFFFFFFF)


def header(journal_id: UUID, base: int) -> bytes:
    packed = HEADER.pack(MAGIC, journal_id.bytes, base, 0)
    return HEADER.pack(MAGIC, journal_id.bytes, base, zlib.crc32(packed[:-4])).ljust(HEADER_BYTES, b"\0")


def read_segment(path: Path, base: int, journal_id: UUID, quarantine: Path | None) -> Iterator[Entry]:
    data = path.read_bytes()
    if data[:HEADER_BYTES] != header(journal_id, base):
        _report_damage(path, 0, HEADER_BYTES, quarantine)
    offset = HEADER_BYTES
    while offset < len(data):
        found_here = frame_at(data, offset, base)
        if found_here is None:
            found = _next_frame(data, offset, base)
            if found is None:
                return
            _report_damage(path, offset, found, quarantine)
            offset = found
            continue
        end, record = found_here
        yield Entry(base + offset, base + end, record)
        offset = end


def frame_at(data: bytes, offset: int, base: int) -> tuple[int, Record] | None:
    """Where the record ends whose frame begins there, and the record; None where there is no whole one."""
    if len(data) - offset < FRAME.size:
        return None
    length, checksum = FRAME.unpack_from(data, offset)
    start = offset + FRAME.size
    if not 0 < length <= min(MAX_RECORD_BYTES, len(data) - start):
        return None
    payload = data[start : start + length]
    if _checksum(payload, base + offset) != checksum:
        return None
    try:
        return start + length, decode_payload(payload)
    except (msgspec.MsgspecError, ValueError):  # also text that is no Unicode
        return None


def _next_frame(data: bytes, offset: int, base: int) -> int | None:
    """Where the next whole record begins; None if only zeros or a torn tail follow."""
    used = len(data.rstrip(b"\0"))
    return next((at for at in range(offset + 1, used) if frame_at(data, at, base) is not None), None)


def _report_damage(path: Path, start: int, end: int, quarantine: Path | None) -> None:
    if quarantine is None:
        return
    copy = _quarantined(quarantine / f"{path.name}.{start}", path.read_bytes)
    _log.error("the journal is damaged", extra={"segment": path.name, "start": start, "end": end, "copy": str(copy)})


def cut_tail(path: Path, used: int, quarantine: Path) -> None:
    """Cut a segment behind its last whole record; what is torn there is kept aside."""
    with path.open("r+b") as file:
        file.seek(used)
        tail = file.read().rstrip(b"\0")
        if tail:
            copy = _quarantined(quarantine / f"{path.name}.tail", lambda: tail)
            _log.warning("the journal's tail was torn", extra={"segment": path.name, "at": used, "copy": str(copy)})
        file.truncate(used)


def _quarantined(copy: Path, content: Callable[[], bytes]) -> Path | None:
    """Keep damaged bytes for a person, unless the volume is too full even for that."""
    with suppress(OSError):
        copy.parent.mkdir(exist_ok=True, mode=0o700)
        if not copy.exists():
            copy.write_bytes(content())
        return copy
    return None


def sync_directory(directory: Path) -> None:
    file = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
