"""Instants: microseconds of Unix time inside, `timestamptz` at the database."""

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

EARLIEST: Final = _EPOCH
LATEST: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


def to_datetime(unix_us: int) -> datetime:
    """Microseconds of Unix time as an aware datetime, exactly."""
    return _EPOCH + timedelta(microseconds=unix_us)


def to_us(instant: datetime) -> int:
    """An aware datetime as microseconds of Unix time, exactly."""
    return (instant - _EPOCH) // _MICROSECOND


def storable(instant: datetime) -> datetime:
    """What somebody says of a time, in UTC.

    Raises:
        ValueError: before 1970 or after 9999. To the driver the first and the last instants that there are mean
            "never", and come back without a zone.
    """
    if not EARLIEST <= instant <= LATEST:
        raise ValueError("it is not in the years 1970 to 9999")
    return instant.astimezone(UTC)
