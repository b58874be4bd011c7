"""Forecast: what an account will spend until the end of a month, and when its credit runs out.

Method
------
The last whole days, at most eight weeks of them, from the first day with usage on. The expectation of a day to come
is the mean of its weekday, drawn towards the mean of all days as if that had been seen on two more such weekdays (few
Mondays say little about Mondays). Days scatter around these expectations by their root mean square; the sum of `n`
days scatters by that times √n, and the level itself is known only as well as `m` past days tell, which adds n²/m. The
interval covers the middle 80 % if days scatter like a normal distribution. Spending that is going up or down is
followed with the delay of such a mean. Fewer than seven whole days are not enough data.

All of this is an estimate, so it is reckoned in floating point; no money is booked by it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

LEAST_DAYS: Final = 7
MOST_DAYS: Final = 56
PRIOR_DAYS: Final = 2
"""How many days of a weekday the mean of all days counts for."""
EIGHTY_PERCENT: Final = 1.2815515655446004
"""Standard deviations on either side of the mean that hold the middle 80 % of a normal distribution."""
LONGEST_DAYS: Final = 366
"""Beyond that nobody is told when credit runs out."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is to be expected, in nanodollars; `low` and `high` bound the middle 80 %.

    `runs_out_*` are the days on which nothing would be left: of the expectation, of the dear and of the cheap bound;
    None where that lies beyond a year.
    """

    days_of_data: int
    until: date
    expected_nanos: int
    low_nanos: int
    high_nanos: int
    runs_out: date | None
    runs_out_earliest: date | None
    runs_out_latest: date | None


def forecast(
    daily_nanos: Mapping[date, int], today: date, until: date, spent_nanos: int, available_nanos: int
) -> Forecast | None:
    """Reckon; None where there is not enough data.

    Args:
        daily_nanos: spent by day; days without usage may be missing. What is not before `today` is not looked at.
        until: the last day of the span that is foreseen.
        spent_nanos: what was spent in the span so far, today included.
        available_nanos: what is left.
    """
    days = _whole_days(daily_nanos, today)
    if len(days) < LEAST_DAYS:
        return None
    weekdays, scatter = _fit(days)
    remaining = (until - today).days  # the rest of today is not foreseen: what it has spent is in `spent_nanos`
    ahead = [today + timedelta(days=number) for number in range(1, LONGEST_DAYS + 1)]
    sums = _accumulated(weekdays, scatter, len(days), ahead)
    low, mean, high = sums[remaining - 1] if remaining > 0 else (0.0, 0.0, 0.0)
    return Forecast(
        len(days),
        until,
        spent_nanos + round(mean),
        spent_nanos + round(low),
        spent_nanos + round(high),
        *(_first_beyond(sums, ahead, bound, available_nanos, today) for bound in (1, 2, 0)),
    )


def is_near(runs_out: date | None, today: date, within_days: int, *, was_near: bool) -> bool:
    """Whether credit runs out within so many days.

    What was near stays so until it is half as many days further off again (two at least): forecasts go a little to and
    fro with each day.
    """
    if runs_out is None:
        return False
    return (runs_out - today).days <= within_days + (max(2, within_days // 2) if was_near else 0)


def _whole_days(daily_nanos: Mapping[date, int], today: date) -> list[tuple[date, int]]:
    past = [day for day in daily_nanos if day < today]
    if not past:
        return []
    first = max(min(past), today - timedelta(days=MOST_DAYS))
    days = [first + timedelta(days=number) for number in range((today - first).days)]
    return [(day, daily_nanos.get(day, 0)) for day in days]


def _fit(days: Sequence[tuple[date, int]]) -> tuple[list[float], float]:
    """The expectation of each weekday (Monday first), and how far days lie from it."""
    overall = sum(amount for _, amount in days) / len(days)
    weekdays = []
    for weekday in range(7):
        seen = [amount for day, amount in days if day.weekday() == weekday]
        weekdays.append((sum(seen) + PRIOR_DAYS * overall) / (len(seen) + PRIOR_DAYS))
    squares = sum((amount - weekdays[day.weekday()]) ** 2 for day, amount in days)
    return weekdays, math.sqrt(squares / max(len(days) - 1, 1))


def _accumulated(
    weekdays: Sequence[float], scatter: float, past_days: int, ahead: Sequence[date]
) -> list[tuple[float, float, float]]:
    """Low, mean and high of what is spent up to each of the days ahead."""
    sums, mean, low, high = [], 0.0, 0.0, 0.0
    for number, day in enumerate(ahead, start=1):
        mean += weekdays[day.weekday()]
        margin = EIGHTY_PERCENT * scatter * math.sqrt(number + number * number / past_days)
        low, high = max(low, mean - margin), max(high, mean + margin)  # nobody spends less by waiting
        sums.append((low, mean, high))
    return sums


def _first_beyond(
    sums: Sequence[tuple[float, float, float]], ahead: Sequence[date], bound: int, available: int, today: date
) -> date | None:
    if available <= 0:
        return today
    return next((day for day, spent in zip(ahead, sums, strict=True) if spent[bound] >= available), None)
