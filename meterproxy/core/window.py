"""Windows: the half-open intervals that a limit counts in, as instants in microseconds since the Unix epoch.

Rules
-----
- A window is known by its start; nothing is ever reset, the next window simply begins.
- Days, weeks and months begin at midnight of the limit's own time zone; weeks on Monday. Where that midnight does not
  exist, they begin at the first instant of the new date.
- Minutes and hours have their length whatever the clocks on the wall do.
- What has no end (`total`, and limits without a window) starts at 0.
"""

from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple, assert_never

from meterproxy.core.zone import zone

US: Final = 1_000_000
FOREVER_US: Final = 2**62


class WindowKind(StrEnum):
    """How long a limit counts before it begins anew."""

    NONE = "none"
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    TOTAL = "total"


class Window(NamedTuple):
    """[start, end) in microseconds; `end_us` is FOREVER_US where there is none."""

    start_us: int
    end_us: int


ENDLESS: Final = Window(0, FOREVER_US)


def window_at(kind: WindowKind, time_zone: str, at_us: int) -> Window:
    """The window of a limit that an instant belongs to.

    Raises:
        zoneinfo.ZoneInfoNotFoundError: there is no such time zone.
    """
    match kind:
        case WindowKind.NONE | WindowKind.TOTAL:
            return ENDLESS
        case WindowKind.MINUTE:
            return _even(at_us, 60 * US, 0)
        case WindowKind.HOUR:
            return _even(at_us, 3600 * US, _offset_us(time_zone, at_us))
        case WindowKind.DAY | WindowKind.WEEK | WindowKind.MONTH:
            return _of_dates(kind, time_zone, _local(time_zone, at_us).date())
        case _:
            assert_never(kind)


def _even(at_us: int, length_us: int, offset_us: int) -> Window:
    start_us = (at_us + offset_us) // length_us * length_us - offset_us
    return Window(start_us, start_us + length_us)


@lru_cache(maxsize=1024)
def _of_dates(kind: WindowKind, time_zone: str, day: date) -> Window:
    first = _first_day(kind, day)
    return Window(_begins_us(time_zone, first), _begins_us(time_zone, _next_first(kind, first)))


def _first_day(kind: WindowKind, day: date) -> date:
    if kind is WindowKind.WEEK:
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if kind is WindowKind.MONTH else day


def _next_first(kind: WindowKind, first: date) -> date:
    if kind is WindowKind.MONTH:
        return (first + timedelta(days=31)).replace(day=1)
    return first + timedelta(days=7 if kind is WindowKind.WEEK else 1)


def _begins_us(time_zone: str, day: date) -> int:
    """The first instant of a date: the earlier of two midnights.

    A midnight that the clocks skip is read with the offset before it, which makes it the instant at which they do.
    """
    return int(datetime.combine(day, time(), zone(time_zone)).astimezone(UTC).timestamp()) * US


def _local(time_zone: str, at_us: int) -> datetime:
    return datetime.fromtimestamp(at_us // US, zone(time_zone))


def _offset_us(time_zone: str, at_us: int) -> int:
    offset = _local(time_zone, at_us).utcoffset()
    assert offset is not None
    return int(offset.total_seconds()) * US
