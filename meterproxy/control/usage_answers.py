"""Figures of usage as the API promises them."""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, Self

from meterproxy.control.answers import Answer, Nanos, Usd, money
from meterproxy.core.forecast import Forecast as ForecastFigures
from meterproxy.store.usage import ConversationRow, Counts, Group, PeakHour, TagCount, ToolCount


class Figures(Answer):
    """What a group of requests used; `input_tokens` are without those read from a cache."""

    requests: int
    failures: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    amount: Usd
    amount_nanos: Nanos

    @classmethod
    def of(cls, counts: Counts) -> Self:
        return cls(**figures(counts))


class UsageGroup(Figures):
    """One value that usage is grouped by, with its name where the value is an id."""

    value: str
    name: str | None

    @classmethod
    def of_group(cls, group: Group) -> Self:
        return cls(value=group.value, name=group.name, **figures(group.counts))


class DayOfModel(Answer):
    """What a model cost on a day."""

    day: date
    model: str
    requests: int
    amount: Usd
    amount_nanos: Nanos


class Peak(Answer):
    """An hour of the week (UTC); Monday is 1."""

    weekday: int
    hour: int
    requests: int
    amount: Usd
    amount_nanos: Nanos

    @classmethod
    def of(cls, row: PeakHour) -> Self:
        return cls(weekday=row.weekday, hour=row.hour, requests=row.requests, **money(amount=row.amount_nanos))


class Tool(Answer):
    """How many requests used a tool."""

    tool: str
    requests: int

    @classmethod
    def of(cls, row: ToolCount) -> Self:
        return cls(tool=row.tool, requests=row.requests)


class Tag(Answer):
    """What was used under a tag."""

    tag: str
    value: str
    requests: int
    amount: Usd
    amount_nanos: Nanos

    @classmethod
    def of(cls, row: TagCount) -> Self:
        return cls(tag=row.tag, value=row.value, requests=row.requests, **money(amount=row.amount_nanos))


class Conversation(Answer):
    """A conversation, with all that it has cost."""

    conversation: str
    requests: int
    amount: Usd
    amount_nanos: Nanos
    first_at: datetime
    last_at: datetime

    @classmethod
    def of(cls, row: ConversationRow) -> Self:
        return cls(
            conversation=row.conversation,
            requests=row.requests,
            **money(amount=row.amount_nanos),
            first_at=row.first_at,
            last_at=row.last_at,
        )


class Latency(Answer):
    """How long requests took, in milliseconds: so many percent took no longer."""

    p50: float
    p90: float
    p95: float
    p99: float

    @classmethod
    def of(cls, buckets: Mapping[int, int]) -> Self | None:
        """From counts by powers of two of a millisecond; None where there are none."""
        if not any(buckets.values()):
            return None
        return cls(**{f"p{percent}": percentile_ms(buckets, percent) for percent in (50, 90, 95, 99)})


class Forecast(Answer):
    """What is to be expected; `low` and `high` bound the middle 80 %. Days that lie beyond a year are null.

    Days on which the credit runs out are by what everybody spends who is paid from it, whoever asks.
    """

    days_of_data: int
    until: date
    expected: Usd
    expected_nanos: Nanos
    low: Usd
    low_nanos: Nanos
    high: Usd
    high_nanos: Nanos
    runs_out: date | None
    runs_out_earliest: date | None
    runs_out_latest: date | None

    @classmethod
    def of(cls, told: ForecastFigures, everybodys: ForecastFigures | None = None) -> Self:
        everybodys = everybodys or told
        return cls(
            days_of_data=told.days_of_data,
            until=told.until,
            **money(expected=told.expected_nanos, low=told.low_nanos, high=told.high_nanos),
            runs_out=everybodys.runs_out,
            runs_out_earliest=everybodys.runs_out_earliest,
            runs_out_latest=everybodys.runs_out_latest,
        )


def figures(counts: Counts) -> dict[str, Any]:
    """The members of `Figures`."""
    return {
        "requests": counts.requests,
        "failures": counts.failures,
        "input_tokens": counts.input_tokens,
        "cached_tokens": counts.cached_tokens,
        "output_tokens": counts.output_tokens,
        **money(amount=counts.amount_nanos),
    }


def percentile_ms(buckets: Mapping[int, int], percent: int) -> float:
    """A percentile of counts in buckets [2^(b-1), 2^b) ms, evenly spread within each of them."""
    wanted = sum(buckets.values()) * percent / 100
    passed, upper = 0, 0.0
    for bucket in sorted(buckets):
        count = buckets[bucket]
        lower, upper = (2.0 ** (bucket - 1) if bucket else 0.0), 2.0**bucket
        if count and passed + count >= wanted:
            return round(lower + (upper - lower) * (wanted - passed) / count, 3)
        passed += count
    return upper
