"""Identifiers of rows: in the order in which they were made, so that lists are."""

import time

import pytest

from meterproxy.store import ids
from meterproxy.store.ids import new_id


def test_identifiers_sort_as_they_were_made_also_within_a_millisecond(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of one transaction are made microseconds apart."""
    begin = time.time_ns() // 1_000_000 * 1_000_000
    instants = [begin + microseconds * 1000 for microseconds in range(0, 3000, 7)]
    clock = iter(instants)
    monkeypatch.setattr(ids.time, "time_ns", lambda: next(clock))
    made = [new_id() for _ in instants]
    assert made == sorted(made)
    assert {(one.version, one.variant) for one in made} == {(7, "specified in RFC 4122")}
    assert [one.int >> 80 for one in made] == [instant // 1_000_000 for instant in instants]
