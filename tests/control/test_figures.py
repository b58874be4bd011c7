"""Figures of any span, however they are asked for, against what was booked: added up anew, from the records alone."""

import csv
import io
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace

from meterproxy.core.money import NANOS_PER_USD, format_usd
from meterproxy.core.record import EndRecord
from meterproxy.core.usage import Outcome, Usage
from meterproxy.dashboard.pages import _dollars
from meterproxy.service.invention import book_invented
from meterproxy.store.settle import Settlement
from tests.control.asking import ADMIN_TOKEN
from tests.control.history import PRICES
from tests.control.past import Past, past_of
from tests.dashboard.visitor import Visitor

FIGURES = ("requests", "failures", "input_tokens", "cached_tokens", "output_tokens", "amount_nanos")
BORDERS = [
    datetime(2024, 2, 29, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC),
    datetime(2025, 3, 30, 1, tzinfo=UTC), datetime(2025, 10, 26, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC),
]  # fmt: skip
"""Ends of months, of years, and of what clocks somewhere show; what is booked lies on either side of them."""
MICROSECOND = timedelta(microseconds=1)
Key = Callable[[EndRecord], Any]


class WidePast(Past):
    """The same with what lies about borders, of all kinds, endings and amounts; the owner's key is in a team."""

    team: str


@pytest.fixture
async def past(database: str) -> AsyncIterator[WidePast]:
    async with past_of(database, WidePast()) as past:
        new = {"account_id": str(past.owner.account_id), "name": "ants"}
        past.team = (await past.asking("POST", "/admin/teams", new, token=ADMIN_TOKEN)).body["id"]
        await past.asking("PATCH", f"/api/keys/{past.keys[0]}", {"team_id": past.team}, token=past.owner.token)
        chance = random.Random(11)
        instants = [at + part for at in BORDERS for part in (-MICROSECOND, timedelta(0), MICROSECOND) for _ in range(4)]
        bordering = [
            made(chance, chance.choice(past.records), instant, number) for number, instant in enumerate(instants)
        ]
        assert await book_invented(Settlement(past.asking.pool), bordering, PRICES) == len(instants)
        past.records += bordering
        yield past


def made(chance: random.Random, like: EndRecord, instant: datetime, number: int) -> EndRecord:
    """One as another, at an instant: with every kind of usage, whatever its ending and its amount."""
    usage = Usage(*(chance.choice((0, chance.randrange(10_000))) for _ in Usage._fields))
    amount = chance.choice((0, 1, chance.randrange(10**10)))
    outcome = chance.choice((Outcome.COMPLETED, Outcome.CLIENT_LEFT, Outcome.STOPPED_BY_LIMIT))
    return replace(
        like,
        how="captured",
        subject=replace(
            like.subject,
            request_id=UUID(int=number + 1),
            occurred_us=round(instant.timestamp() * 1e6),
            hold_nanos=amount,
        ),
        ending=replace(like.ending, usage=usage, outcome=outcome),
        cost_nanos=amount // 2,
        amount_nanos=amount,
        overrun_nanos=chance.choice((0, amount // 3)),
    )


def instant_of(record: EndRecord) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=record.subject.occurred_us)


def day_of(record: EndRecord) -> date:
    return instant_of(record).date()


def figures(records: Iterable[EndRecord]) -> tuple[int, ...]:
    """What some exchanges come to, in the order of `FIGURES`."""
    sums = [0] * len(FIGURES)
    for record in records:
        usage = record.ending.usage
        cached = usage.cache_read + usage.cache_read_audio + usage.cache_read_image
        told = (
            1, record.ending.outcome != "completed", usage.input_tokens - cached, cached, usage.output_tokens,
            record.amount_nanos,
        )  # fmt: skip
        sums = [one + other for one, other in zip(sums, told, strict=True)]
    return tuple(sums)


def by(records: Sequence[EndRecord], of: Key) -> dict[Any, tuple[int, ...]]:
    groups: dict[Any, list[EndRecord]] = {}
    for record in records:
        groups.setdefault(of(record), []).append(record)
    return {value: figures(group) for value, group in groups.items()}


def spans(past: Past) -> list[tuple[date, date]]:
    """Between any two of the days about borders, the first ones there are and now; of one day, too."""
    days = sorted({(at + part).date() for at in BORDERS for part in (-MICROSECOND, timedelta(0))})
    days += [day_of(past.records[0]), datetime.now(UTC).date()]
    chance = random.Random(5)
    chosen = [sorted(chance.choices(days, k=2)) for _ in range(12)]
    return [(first, last) for first, last in chosen] + [(days[0], days[-1]), (days[2], days[2])]


def within(past: Past, first: date, last: date) -> list[EndRecord]:
    return [record for record in past.records if first <= day_of(record) <= last]


def told_by(row: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(row[name] for name in FIGURES)


async def test_groups_of_any_span_are_sums_of_its_rows(past: WidePast) -> None:
    """By whatever they are grouped, as JSON, as CSV, in the statistics and on the page; to the microsecond at midnight."""
    dimensions: dict[str, Key] = {
        "day": lambda record: str(day_of(record)),
        "model": lambda record: record.subject.model,
        "operation": lambda record: record.subject.operation,
        "provider": lambda record: record.subject.provider,
        "key": lambda record: str(record.subject.key_id),
        "user": lambda record: str(record.subject.user_id),
        "team": lambda record: past.team if record.subject.key_id == past.keys[0] else "none",
    }
    owner = await Visitor.of(past.asking, past.owner)
    for first, last in spans(past):
        records, span = within(past, first, last), f"from={first}&to={last}"
        stats = await past.get(f"/api/usage/stats?startDate={first}&endDate={last}")
        assert told_by(stats["totals"]) == figures(records), span
        for name, of in dimensions.items():
            told = await past.get(f"/api/credits/usage?{span}&group_by={name}")
            expected = by(records, of)
            assert told_by(told["totals"]) == figures(records)
            assert {group["value"]: told_by(group) for group in told["groups"]} == expected, (span, name)
            if name != "team":
                assert {group["value"]: told_by(group) for group in stats[f"by_{name}"]} == expected
            heard = await past.asking(
                "GET", f"/api/credits/usage?{span}&group_by={name}&format=csv", token=past.owner.token
            )
            rows = list(csv.DictReader(io.StringIO(heard.body.decode(), newline="")))
            amounts = {value: format_usd(sums[-1]) for value, sums in expected.items()}
            assert {row["value"]: row["amount"] for row in rows} == amounts
            assert {row["value"]: int(row["requests"]) for row in rows} == {
                value: sums[0] for value, sums in expected.items()
            }
        page = (await owner.get(f"/reports?{span}&group_by=model")).body.decode()
        requests, *_, nanos = figures(records)
        assert f'<p>{requests:,} requests, <span class="usd">{_dollars(format_usd(nanos))}</span></p>' in page


async def test_statements_of_any_span_go_on_from_one_another(past: WidePast) -> None:
    """Line by line, by days, weeks and months; what is left at the end is what the next one begins with."""
    starts: dict[str, Callable[[date], date]] = {
        "daily": lambda day: day,
        "weekly": lambda day: day - timedelta(days=day.weekday()),
        "monthly": lambda day: day.replace(day=1),
    }
    today = datetime.now(UTC).date()
    for first, last in spans(past):
        records = within(past, first, last)
        used_before = figures(record for record in past.records if day_of(record) < first)[-1]
        used = figures(records)[-1]
        granted = 50 * NANOS_PER_USD if first <= today <= last else 0
        for period, start_of in starts.items():
            path = f"/api/credits/report?from={first}&to={last}&period={period}"
            told = await past.get(path)
            assert told["opening_nanos"] == -used_before
            assert (told["used_nanos"], told["credited_nanos"], told["other_nanos"]) == (used, granted, 0)
            assert told["closing_nanos"] == granted - used_before - used
            expected = by(
                records,
                lambda record, start_of=start_of: (  # type: ignore[misc]
                    str(start_of(day_of(record))), record.subject.provider, record.subject.model, record.subject.operation,
                ),
            )  # fmt: skip
            names = ("start", "provider", "model", "operation")
            assert {tuple(line[name] for name in names): told_by(line) for line in told["lines"]} == expected
            heard = await past.asking("GET", f"{path}&format=csv", token=past.owner.token)
            rows = list(csv.DictReader(io.StringIO(heard.body.decode(), newline="")))
            assert {tuple(row[name] for name in names): row["amount"] for row in rows} == {
                value: format_usd(sums[-1]) for value, sums in expected.items()
            }
    whole = await past.get(f"/api/credits/report?from={day_of(min(past.records, key=instant_of))}&to={today}")
    assert whole["closing_nanos"] == (await past.get("/api/credits/balance"))["balance_nanos"]


async def test_openais_shapes_and_rows_say_the_same_of_any_span(past: WidePast) -> None:
    """Costs by day, usage by day and hour, and all rows one by one."""
    chats = ("chat", "completion", "response")
    for first, last in spans(past):
        records = within(past, first, last)
        since, until = (
            int(datetime.combine(day, time(), UTC).timestamp()) for day in (first, last + timedelta(days=1))
        )
        span = f"start_time={since}&end_time={until}"
        costs: Counter[tuple[Any, ...]] = Counter()
        async for bucket, row in buckets(
            past, f"/v1/organization/costs?{span}&limit=180&group_by=line_item&group_by=user_id"
        ):
            costs[bucket, row["line_item"], row["user_id"]] += round(row["amount"]["value"] * NANOS_PER_USD)
        expected = by(records, lambda record: (midnight(record), record.subject.model, str(record.subject.user_id)))
        assert costs == Counter({value: sums[-1] for value, sums in expected.items()})
        for width, limit, start_of in (("1d", 31, midnight), ("1h", 168, hour)):
            if (last - first).days > (1000 if width == "1d" else 40):
                continue
            used: dict[tuple[Any, ...], tuple[int, ...]] = {}
            path = f"/v1/organization/usage/completions?{span}&bucket_width={width}&limit={limit}&group_by=model"
            async for bucket, row in buckets(past, path):
                names = ("num_model_requests", "input_tokens", "input_cached_tokens", "output_tokens")
                used[bucket, row["model"]] = tuple(row[name] for name in names)
            chatted = [record for record in records if record.subject.operation in chats]
            assert used == {
                value: (requests, input_tokens + cached, cached, output)
                for value, (requests, _, input_tokens, cached, output, _) in by(
                    chatted,
                    lambda record, start_of=start_of: (start_of(record), record.subject.model),  # type: ignore[misc]
                ).items()
            }
        listed = await rows_of(past, f"from={first}T00:00:00Z&to={last + timedelta(days=1)}T00:00:00Z")
        ordered = sorted(records, key=lambda record: (instant_of(record), record.subject.request_id), reverse=True)
        assert listed == [(str(record.subject.request_id), record.amount_nanos) for record in ordered]


def midnight(record: EndRecord) -> int:
    return record.subject.occurred_us // 86_400_000_000 * 86_400


def hour(record: EndRecord) -> int:
    return record.subject.occurred_us // 3_600_000_000 * 3600


async def buckets(past: Past, path: str) -> AsyncIterator[tuple[int, dict[str, Any]]]:
    """Each result with the beginning of its bucket, page by page."""
    page = ""
    while True:
        told = await past.get(path + page)
        for bucket in told["data"]:
            for result in bucket["results"]:
                yield bucket["start_time"], result
        if not told["has_more"]:
            return
        page = f"&page={told['next_page']}"


async def rows_of(past: Past, span: str) -> list[tuple[str, int]]:
    found, cursor = [], ""
    while True:
        page = await past.get(f"/api/user/activity?limit=97&{span}{cursor}")
        found += [(row["id"], row["amount_nanos"]) for row in page["data"]]
        if page["next_cursor"] is None:
            return found
        cursor = f"&cursor={page['next_cursor']}"
