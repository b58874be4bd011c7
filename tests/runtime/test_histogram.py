"""Histograms that are told of many durations at once say what prometheus-client's own would."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics, generate_latest

from meterproxy.runtime.histogram import DurationHistogram

THRESHOLDS = (0.005, 0.25, 1, 2.5, 600)


@given(
    st.lists(st.tuples(st.sampled_from(["/a", "/b"]), st.lists(st.integers(0, 700_000_000), max_size=20)), max_size=8)
)
def test_it_says_what_the_librarys_own_says(told: list[tuple[str, list[int]]]) -> None:
    """Whatever is told in whatever portions, both expositions are equal."""
    disable_created_metrics()
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    many = DurationHistogram("x_seconds", "Some.", "route", THRESHOLDS, ours)
    one = Histogram("x_seconds", "Some.", ["route"], registry=theirs, buckets=THRESHOLDS)
    for route, durations in told:
        many.observe(route, durations)
        by_route = one.labels(route)
        for duration in durations:
            by_route.observe(duration / 1_000_000)
    assert _samples(ours) == pytest.approx(_samples(theirs))


def test_a_duration_equal_to_a_threshold_is_within_it() -> None:
    """The upper ends belong to their buckets."""
    registry = CollectorRegistry()
    DurationHistogram("x_seconds", "Some.", "route", THRESHOLDS, registry).observe("/a", [5000, 5001])
    assert 'x_seconds_bucket{le="0.005",route="/a"} 1.0' in generate_latest(registry).decode()


def _samples(registry: CollectorRegistry) -> dict[str, float]:
    lines = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
