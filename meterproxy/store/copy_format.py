"""PostgreSQL's binary COPY format: values as bytes with their length in front, rows with their number of fields.

The driver encodes a row value by value; a worker writes thousands of rows of forty columns a second, for which packing
all that has a fixed size at once costs a third.

Source: PostgreSQL's manual on COPY ("Binary Format"), and the receive functions of the types.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER: Final = b"\xff\xff"
NULL: Final = b"\xff\xff\xff\xff"

_LONGEST_US: Final = 253_402_300_800_000_000
"""The first instant of the year 10000, which neither datetime nor anything that reads rows knows."""
_POSTGRES_EPOCH_US: Final = 946_684_800_000_000
_TEXT_OID: Final = 25
_length: Final = struct.Struct(">i").pack
_bigint: Final = struct.Struct(">iq").pack
_uuid: Final = struct.Struct(">i16s").pack
_array_head: Final = struct.Struct(">iiiii").pack


def instant(unix_us: int) -> int:
    """Unix time as a `timestamptz` counts it. Raises OverflowError beyond any calendar."""
    if not 0 <= unix_us < _LONGEST_US:
        raise OverflowError(f"no instant: {unix_us}")
    return unix_us - _POSTGRES_EPOCH_US


def text(value: str | None) -> bytes:
    """A `text`, or NULL. Raises UnicodeEncodeError."""
    if value is None:
        return NULL
    data = value.encode()
    return _length(len(data)) + data


word: Final = lru_cache(maxsize=4096)(text)
"""The same for what rows say again and again: names of models, operations, outcomes."""


def bigint(value: int | None) -> bytes:
    """A `bigint`, or NULL. Raises struct.error out of range."""
    return NULL if value is None else _bigint(8, value)


def uuid(value: bytes | None) -> bytes:
    """A `uuid`, or NULL."""
    return NULL if value is None else _uuid(16, value)


def jsonb(value: bytes | None) -> bytes:
    """A `jsonb`, or NULL; PostgreSQL judges whether it is JSON."""
    return NULL if value is None else _length(len(value) + 1) + b"\x01" + value


def binary(value: bytes | None) -> bytes:
    """A `bytea`, or NULL."""
    return NULL if value is None else _length(len(value)) + value


def text_array(values: Sequence[str]) -> bytes:
    """A `text[]`; NULL where there is nothing in it."""
    if not values:
        return NULL
    body = _array_head(1, 0, _TEXT_OID, len(values), 1) + b"".join(map(text, values))
    return _length(len(body)) + body
