"""Instants: microseconds of Unix time inside, `timestamptz` at the database."""

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def to_datetime(unix_us: int) -> datetime:
    """Microseconds of Unix time as an aware datetime, exactly."""
    return _EPOCH + timedelta(microseconds=unix_us)


def to_us(instant: datetime) -> int:
    """An aware datetime as microseconds of Unix time, exactly."""
    return (instant - _EPOCH) // _MICROSECOND
