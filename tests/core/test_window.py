"""Windows: half-open, without gaps, in every time zone there is, whatever its clocks have done."""

from datetime import datetime
from zoneinfo import ZoneInfoNotFoundError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterproxy.core.window import ENDLESS, FOREVER_US, US, WindowKind, window_at
from meterproxy.core.zone import zone as zone_of
from meterproxy.core.zone import zone_names

ZONES = sorted(zone_names())
COUNTED = [kind for kind in WindowKind if kind not in {WindowKind.NONE, WindowKind.TOTAL}]
HOUR_US = 3600 * US


def at(text: str, zone: str = "UTC") -> int:
    """An instant as a wall clock in a zone shows it."""
    moment = datetime.fromisoformat(text)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=zone_of(zone))).timestamp() * US)


def shown(us: int, zone: str) -> str:
    return datetime.fromtimestamp(us / US, zone_of(zone)).isoformat(timespec="minutes")


INSTANTS = st.integers(at("1980-01-01T00:00+00:00"), at("2037-12-31T00:00+00:00"))


@settings(max_examples=300)
@given(st.sampled_from(ZONES), st.sampled_from(COUNTED), INSTANTS)
def test_windows_meet_without_gaps(zone: str, kind: WindowKind, now_us: int) -> None:
    """Each instant belongs to one window: what comes before its start and at its end belongs to the neighbours."""
    window = window_at(kind, zone, now_us)
    assert window.start_us <= now_us < window.end_us
    assert window_at(kind, zone, window.start_us) == window
    assert window_at(kind, zone, window.end_us - 1) == window
    assert window_at(kind, zone, window.end_us).start_us == window.end_us
    assert window_at(kind, zone, window.start_us - 1).end_us == window.start_us


@settings(max_examples=200)
@given(st.sampled_from(ZONES), INSTANTS)
def test_a_day_has_one_date(zone: str, now_us: int) -> None:
    """All of a day's window is on one date of its zone, and begins with it."""
    window = window_at(WindowKind.DAY, zone, now_us)
    dates = {shown(us, zone)[:10] for us in (window.start_us, now_us, window.end_us - US)}
    assert len(dates) == 1
    assert shown(window.start_us - US, zone)[:10] not in dates


@settings(max_examples=100)
@given(st.sampled_from(ZONES), INSTANTS)
def test_hours_and_minutes_keep_their_length(zone: str, now_us: int) -> None:
    """Whatever the clocks on the wall do, nobody gets a double hour or a half one."""
    hour, minute = window_at(WindowKind.HOUR, zone, now_us), window_at(WindowKind.MINUTE, zone, now_us)
    assert (hour.end_us - hour.start_us, minute.end_us - minute.start_us) == (HOUR_US, 60 * US)


@pytest.mark.parametrize(
    ("zone", "instant", "kind", "start", "end"),
    [
        ("UTC", "2026-11-26T12:34:56", "day", "2026-11-26T00:00+00:00", "2026-11-27T00:00+00:00"),
        ("UTC", "2026-11-26T12:34:56", "week", "2026-11-23T00:00+00:00", "2026-11-30T00:00+00:00"),
        ("UTC", "2026-12-31T23:59:59", "month", "2026-12-01T00:00+00:00", "2027-01-01T00:00+00:00"),
        ("UTC", "2024-02-29T10:00:00", "month", "2024-02-01T00:00+00:00", "2024-03-01T00:00+00:00"),
        ("Asia/Kolkata", "2026-11-26T12:34:56", "hour", "2026-11-26T12:00+05:30", "2026-11-26T13:00+05:30"),
        # 23 and 25 hours where the clocks change
        ("Europe/Berlin", "2024-03-31T12:00:00", "day", "2024-03-31T00:00+01:00", "2024-04-01T00:00+02:00"),
        ("Europe/Berlin", "2024-10-27T12:00:00", "day", "2024-10-27T00:00+02:00", "2024-10-28T00:00+01:00"),
        # midnight itself is skipped: the day begins at one
        ("America/Sao_Paulo", "2018-11-04T12:00:00", "day", "2018-11-04T01:00-02:00", "2018-11-05T00:00-02:00"),
        # midnight comes twice: the day begins with the first
        ("America/Havana", "2018-11-04T12:00:00", "day", "2018-11-04T00:00-04:00", "2018-11-05T00:00-05:00"),
        # a whole day is skipped: the one before meets the one after
        ("Pacific/Apia", "2011-12-29T12:00:00", "day", "2011-12-29T00:00-10:00", "2011-12-31T00:00+14:00"),
        ("Pacific/Apia", "2011-12-29T12:00:00", "week", "2011-12-26T00:00-10:00", "2012-01-02T00:00+14:00"),
    ],
)
def test_when_windows_begin_and_end(zone: str, instant: str, kind: str, start: str, end: str) -> None:
    """Days, weeks from Monday and months begin at midnight of the limit's zone, where there is one."""
    window = window_at(WindowKind(kind), zone, at(instant, zone))
    assert (shown(window.start_us, zone), shown(window.end_us, zone)) == (start, end)


@pytest.mark.parametrize("kind", [WindowKind.NONE, WindowKind.TOTAL])
def test_what_has_no_end_starts_at_nothing(kind: WindowKind) -> None:
    """So that it is one row for ever."""
    assert window_at(kind, "UTC", at("2026-11-26T00:00")) == ENDLESS == (0, FOREVER_US)


def test_a_zone_that_does_not_exist_is_an_error() -> None:
    """Never UTC in silence."""
    with pytest.raises(ZoneInfoNotFoundError):
        window_at(WindowKind.DAY, "Europe/Atlantis", at("2026-11-26T00:00+00:00"))


def test_before_the_epoch_too() -> None:
    """Rounding goes down, not towards nothing."""
    assert window_at(WindowKind.MINUTE, "UTC", -US) == (-60 * US, 0)
