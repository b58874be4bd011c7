"""Spans: from when to when figures are asked for; days are UTC's, and the last one is included."""

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Final, NamedTuple, Self

from pydantic import Field, model_validator

from meterproxy.control.queries import Query
from meterproxy.errors import ApiError, Case

DAYS: Final = 30
MOST_DAYS: Final = 3660
"""Ten years: rollups are read by the day."""


class Days(NamedTuple):
    """A span of days, both of them included."""

    first: date
    last: date


class Span(Query):
    """From which day to which; without, the last thirty days."""

    from_: Annotated[date | None, Field(alias="from")] = None
    to: date | None = None

    def days(self) -> Days:
        """The days that are meant. Raises ApiError MALFORMED."""
        return days_of(self.from_, self.to)


class Backwards(Query):
    """So many days back from today, or from which day to which."""

    days_back: Annotated[int | None, Field(alias="days", ge=1, le=MOST_DAYS)] = None
    start_date: Annotated[date | None, Field(alias="startDate")] = None
    end_date: Annotated[date | None, Field(alias="endDate")] = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.days_back is not None and (self.start_date or self.end_date):
            raise ValueError("either `days` or `startDate` and `endDate`")
        return self

    def days(self) -> Days:
        """The days that are meant. Raises ApiError MALFORMED."""
        if self.days_back is not None:
            last = today()
            return Days(last - timedelta(days=self.days_back - 1), last)
        return days_of(self.start_date, self.end_date)


def days_of(first: date | None, last: date | None) -> Days:
    """A span with its bounds filled in. Raises ApiError MALFORMED where it is none, or longer than ten years."""
    last = last or (max(today(), first) if first else today())
    try:
        first = first or last - timedelta(days=DAYS - 1)
    except OverflowError:
        first = date.min
    if not date(1970, 1, 1) <= first <= last <= date(9000, 1, 1) or (last - first).days >= MOST_DAYS:
        text = f"The span must begin before it ends, in this age, and be {MOST_DAYS} days long at most."
        raise ApiError(Case.MALFORMED, text, param="from")
    return Days(first, last)


def today() -> date:
    """The day that it is in UTC."""
    return datetime.now(UTC).date()
