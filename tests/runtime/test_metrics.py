"""Metrics without a service: labels stay bounded, and nothing is lost between two scrapes."""

import asyncio
from typing import Any

from meterproxy.proxy.ports import Finished
from meterproxy.runtime.metrics import COUNTED_AT_ONCE, MODELS_NAMED, OTHER, Metrics
from meterproxy.runtime.snapshot import exposition


def finished(**changes: Any) -> Finished:
    """A finished exchange that differs from the usual one."""
    usual = {
        "route": "/v1/chat/completions",
        "model": "gpt-4o-mini",
        "provider": "openai",
        "status": 200,
        "stream": False,
        "total_us": 1000,
        "upstream_us": 900,
        "first_byte_us": None,
        "ending": None,
        "receipt": None,
    }
    return Finished(**{**usual, **changes})


def text_of(metrics: Metrics) -> str:
    """What Prometheus would be told of one worker alone."""
    return b"".join(map(exposition, asyncio.run(metrics.snapshot()).families)).decode()


def requests(metrics: Metrics) -> dict[str, float]:
    """Counted requests by model."""
    asyncio.run(metrics.snapshot())
    found: dict[str, float] = {}
    for family in metrics.requests.collect():
        for sample in family.samples:
            found[sample.labels["model"]] = found.get(sample.labels["model"], 0) + sample.value
    return found


def test_models_beyond_the_thirtieth_are_other() -> None:
    """Thirty names get a label, however many are asked for; those keep theirs."""
    metrics = Metrics()
    for _ in range(2):
        for number in range(MODELS_NAMED + 20):
            metrics.finished(finished(model=f"m{number}"))
    counted = requests(metrics)
    assert len(counted) == MODELS_NAMED + 1
    assert counted[OTHER] == 40
    assert set(counted.values()) == {2, 40}


def test_what_waits_for_a_scrape_is_bounded() -> None:
    """A service that nobody scrapes does not collect names or times for ever."""
    metrics = Metrics()
    for number in range(3 * COUNTED_AT_ONCE + 1):
        metrics.finished(finished(model=f"m{number}"))
    assert len(metrics._finished) == 1
    counted = requests(metrics)
    assert len(counted) == MODELS_NAMED + 1
    assert sum(counted.values()) == 3 * COUNTED_AT_ONCE + 1


def test_status_classes() -> None:
    """Statuses are counted by class; an exchange whose client left before an answer has none."""
    metrics = Metrics()
    for status in (200, 201, 402, 429, 502, 0):
        metrics.finished(finished(status=status))
    asyncio.run(metrics.snapshot())
    classes = {
        sample.labels["status"]: sample.value for family in metrics.requests.collect() for sample in family.samples
    }
    assert classes == {"2xx": 2, "4xx": 2, "5xx": 1, "none": 1}


def test_times_are_what_was_measured() -> None:
    """Total, our own part of it, and the first byte where there was one."""
    metrics = Metrics()
    metrics.finished(finished(total_us=3_000_000, upstream_us=2_900_000, first_byte_us=500_000))
    metrics.finished(finished(total_us=1_000_000, upstream_us=0, first_byte_us=None))
    text = text_of(metrics)
    assert 'meterproxy_request_seconds_sum{route="/v1/chat/completions"} 4.0' in text
    assert 'meterproxy_overhead_seconds_sum{route="/v1/chat/completions"} 1.1' in text
    assert 'meterproxy_first_byte_seconds_sum{route="/v1/chat/completions"} 0.5' in text
    assert 'meterproxy_first_byte_seconds_count{route="/v1/chat/completions"} 1.0' in text


def test_rejected_records_are_counted_from_a_running_total() -> None:
    """The settler tells a total; the counter follows it."""
    metrics = Metrics()
    for total in (0, 2, 2, 5):
        metrics.rejected_to(total)
    assert "meterproxy_settle_rejected_total 5.0" in text_of(metrics)
