"""What is to be expected, and what is not said where too little is known."""

from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from meterproxy.core.forecast import LEAST_DAYS, forecast, is_near

TODAY = date(2026, 5, 11)
END = date(2026, 5, 31)


def steady(days: int, nanos: int = 1000) -> dict[date, int]:
    return {TODAY - timedelta(days=number): nanos for number in range(1, days + 1)}


def test_too_few_days_are_not_enough_data() -> None:
    """Six days foresee nothing; today, which is not over, does not count."""
    assert forecast({**steady(LEAST_DAYS - 1), TODAY: 5}, TODAY, END, 5, 100) is None
    assert forecast({}, TODAY, END, 0, 100) is None
    assert forecast(steady(LEAST_DAYS), TODAY, END, 0, 100) is not None


def test_what_is_the_same_every_day_goes_on() -> None:
    """Twenty days at a thousand each, on top of what was spent; nothing is uncertain about it."""
    told = forecast(steady(28), TODAY, END, 10_000, 5000)
    assert told is not None
    assert told.expected_nanos == told.low_nanos == told.high_nanos == 30_000
    assert told.runs_out == told.runs_out_earliest == told.runs_out_latest == TODAY + timedelta(days=5)


def test_days_without_usage_count_as_such() -> None:
    """Whoever spends on one day in seven is not expected to spend every day."""
    told = forecast({TODAY - timedelta(days=number): 7000 for number in range(7, 57, 7)}, TODAY, END, 0, 10**9)
    assert told is not None
    assert 14_000 <= told.expected_nanos <= 26_000


def test_weekdays_differ() -> None:
    """A Saturday is not foreseen as a Monday."""
    daily = {day: 100 if day.weekday() >= 5 else 1000 for day in steady(56)}
    saturday = TODAY + timedelta(days=5)
    until_friday = forecast(daily, TODAY, saturday - timedelta(days=1), 0, 10**9)
    until_saturday = forecast(daily, TODAY, saturday, 0, 10**9)
    assert until_friday is not None
    assert until_saturday is not None
    assert until_saturday.expected_nanos - until_friday.expected_nanos < 350


def test_nothing_left_is_out_today() -> None:
    told = forecast(steady(10), TODAY, END, 0, 0)
    assert told is not None
    assert told.runs_out == TODAY


@given(
    st.dictionaries(st.integers(1, 80), st.integers(0, 10**12), max_size=60),
    st.integers(0, 10**13),
    st.integers(-(10**12), 10**14),
    st.integers(0, 40),
)
def test_bounds_are_in_order(spent_by_age: dict[int, int], spent: int, available: int, ahead: int) -> None:
    """Low is never above the expectation, high never below, nor any of them below what was spent; so are the days."""
    daily = {TODAY - timedelta(days=age): nanos for age, nanos in spent_by_age.items()}
    told = forecast(daily, TODAY, TODAY + timedelta(days=ahead), spent, available)
    if told is None:
        return
    assert spent <= told.low_nanos <= told.expected_nanos <= told.high_nanos
    days = [day or date.max for day in (told.runs_out_earliest, told.runs_out, told.runs_out_latest)]
    assert days == sorted(days)


def test_what_is_near_stays_near_until_it_is_clearly_not() -> None:
    """Half as many days further off, two at least."""

    def days(within: int, *, was_near: bool) -> list[int]:
        return [
            ahead for ahead in range(60) if is_near(TODAY + timedelta(days=ahead), TODAY, within, was_near=was_near)
        ]

    for within, beyond in ((1, 3), (7, 10), (30, 45)):
        assert days(within, was_near=False) == [*range(within + 1)]
        assert days(within, was_near=True) == [*range(beyond + 1)]
    assert not is_near(None, TODAY, 7, was_near=True)
