"""Usage: what an account has used, in figures; read from rollups, so that it takes as long whatever there is of rows.

Rules
-----
- Days and hours are UTC's. A span of days includes its last one.
- Only buckets of minutes are read from rows, of one day at most.
- What rollups do not tell apart by user or key (latency, tools, tags, conversations) is read of whole accounts only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Final, Literal
from uuid import UUID

import asyncpg

from meterproxy.errors import ApiError, Case
from meterproxy.store.pool import transaction
from meterproxy.store.sqlfiles import queries
from meterproxy.store.whose import Whose

_SQL: Final = queries("usage")

MOST_LINES: Final = 100_000
"""Of one statement, or of one answer in buckets."""
_HOUR: Final = timedelta(hours=1)
MOST_GROUPS: Final = 1000
"""Groups that are told apart of what clients name (tags, tools, conversations)."""
MOST_TOLD: Final = 10_000
"""Groups of a span of days in one answer; where there are more, `MODELS_TOLD` models are told by their names."""
MODELS_TOLD: Final = 100
OTHER: Final = "(other)"
"""What is called so that is not told apart: models beyond these, tags of a day that has a thousand already."""
DIMENSIONS: Final = ("day", "model", "provider", "operation", "key", "user")
"""What usage may be grouped by, as `totals` counts its bits."""
_COLUMNS: Final = ("day", "model", "provider", "operation", "key_id", "user_id")


@dataclass(frozen=True, slots=True)
class Counts:
    """What a group of requests used."""

    requests: int = 0
    failures: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    amount_nanos: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Group:
    """One value that usage is grouped by; `name` says what it is called today, where `value` is an id."""

    value: str
    counts: Counts
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """A span of days: all of it, by each dimension, and the days once more by model."""

    whole: Counts = Counts()
    by: Mapping[str, Sequence[Group]] = field(default_factory=dict)
    days_by_model: Sequence[tuple[date, str, Counts]] = ()


@dataclass(frozen=True, slots=True)
class PeakHour:
    """An hour of the week; Monday is 1."""

    weekday: int
    hour: int
    requests: int
    amount_nanos: int


@dataclass(frozen=True, slots=True)
class ToolCount:
    tool: str
    requests: int


@dataclass(frozen=True, slots=True)
class TagCount:
    tag: str
    value: str
    requests: int
    amount_nanos: int


@dataclass(frozen=True, slots=True)
class ConversationRow:
    """A conversation, with all that it has cost."""

    conversation: str
    requests: int
    amount_nanos: int
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True, slots=True)
class Running:
    """What was spent lately."""

    today_nanos: int
    month_nanos: int
    per_hour_nanos: int
    per_day_nanos: int


@dataclass(frozen=True, slots=True)
class ReportLine:
    """Usage of one period for one thing; a period is named by its first day."""

    start: date
    provider: str
    model: str
    operation: str
    counts: Counts


@dataclass(frozen=True, slots=True)
class Report:
    """What came into an account and went out of it, so that it adds up.

    `opening` + credits − usage − `other_nanos` = `closing`, where `other_nanos` are charges that have no usage row, on
    the day on which they were booked. What happened after the span is in neither.
    """

    organization: str
    opening_nanos: int
    credits: Sequence[tuple[str, int, int]]
    used_nanos: int
    other_nanos: int
    closing_nanos: int
    lines: Sequence[ReportLine]


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketQuery:
    """Buckets of time that are asked for; None: anything, an empty `by`: nothing is told apart."""

    since: datetime
    until: datetime
    width: timedelta
    by: frozenset[str] = frozenset()
    operations: Sequence[str] | None = None
    models: Sequence[str] | None = None
    key_ids: Sequence[UUID] | None = None
    user_ids: Sequence[UUID] | None = None


@dataclass(frozen=True, slots=True)
class BucketRow:
    """What was used within a bucket; what is not grouped by is None."""

    start: datetime
    model: str | None
    key_id: UUID | None
    user_id: UUID | None
    requests: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    amount_nanos: int


@dataclass(frozen=True, slots=True)
class SearchRow:
    """The searches that providers ran within a bucket, and the requests that had any."""

    start: datetime
    model: str | None
    key_id: UUID | None
    user_id: UUID | None
    requests: int
    searches: int


class UsageFigures:
    """Reads rollups."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def totals(self, whose: Whose, first: date, last: date) -> Totals:
        """A span of days by everything that rollups tell apart."""
        async with transaction(self._pool, readonly=True) as connection:
            wanted = whose.account_id, first, last, whose.user_id, whose.key_id
            rows = await connection.fetch(_SQL["totals"], *wanted, MOST_TOLD + 1)
            if len(rows) > MOST_TOLD:
                rows = await connection.fetch(_SQL["totals_of_many_models"], *wanted, MODELS_TOLD)
            ids = {row[name] for row in rows for name in ("key_id", "user_id") if row[name] is not None}
            names = {row["id"]: row["name"] for row in await connection.fetch(_SQL["names"], list(ids))}
        return _totals(rows, names)

    async def teams_of_keys(self, key_ids: Sequence[UUID]) -> dict[UUID, tuple[UUID, str]]:
        """The team that each of these keys is in today, with its name."""
        async with transaction(self._pool, readonly=True) as connection:
            rows = await connection.fetch(_SQL["teams_of_keys"], key_ids)
        return {row["key_id"]: (row["team_id"], row["name"]) for row in rows}

    async def peak_hours(self, whose: Whose, first: date, last: date) -> Sequence[PeakHour]:
        """The hours of the week in which anything was used."""
        async with transaction(self._pool, readonly=True) as connection:
            rows = await connection.fetch(
                _SQL["peak_hours"], whose.account_id, first, last, whose.user_id, whose.key_id
            )
        return [PeakHour(**row) for row in rows]

    async def latencies(self, account_id: UUID, first: date, last: date) -> dict[int, int]:
        """How many requests took [2^(b-1), 2^b) ms, by b."""
        async with transaction(self._pool, readonly=True) as connection:
            rows = await connection.fetch(_SQL["latencies"], account_id, first, last)
        return {row["bucket"]: row["requests"] for row in rows}

    async def tools(self, account_id: UUID, first: date, last: date) -> Sequence[ToolCount]:
        """How many requests used which tool, the most used first; beyond `MOST_GROUPS` together as `OTHER`."""
        async with transaction(self._pool, readonly=True) as connection:
            rows = await connection.fetch(_SQL["tools"], account_id, first, last, MOST_GROUPS)
        return [ToolCount(**row) for row in rows]

    async def tags(self, account_id: UUID, first: date, last: date) -> Sequence[TagCount]:
        """What was used under which tag, the dearest first; beyond `MOST_GROUPS` together as `OTHER`."""
        async with transaction(self._pool, readonly=True) as connection:
            rows = await connection.fetch(_SQL["tags"], account_id, first, last, MOST_GROUPS)
        return [TagCount(**row) for row in rows]

    async def conversations(
        self, account_id: UUID, first: date, last: date, limit: int = MOST_GROUPS
    ) -> Sequence[ConversationRow]:
        """Conversations that were going on in a span of days, the latest first; so many at most."""
        async with transaction(self._pool, readonly=True) as connection:
            rows = await connection.fetch(_SQL["conversations"], account_id, first, last, limit)
        return [ConversationRow(**row) for row in rows]

    async def running(self, whose: Whose) -> Running:
        """What was spent lately."""
        async with transaction(self._pool, readonly=True) as connection:
            row = await connection.fetchrow(_SQL["running"], whose.account_id, whose.user_id, whose.key_id)
        assert row is not None
        return Running(**row)

    async def daily(self, whose: Whose, first: date, last: date, *, with_rotated: bool = False) -> dict[date, int]:
        """Nanodollars by day, of a key perhaps `with_rotated` ones; days without usage are not there."""
        subject = whose.account_id, first, last, whose.user_id, whose.key_id
        async with transaction(self._pool, readonly=True) as connection:
            rows = await connection.fetch(_SQL["daily"], *subject, with_rotated)
        return {row["day"]: row["amount_nanos"] for row in rows}

    async def login_began(self, login_id: UUID) -> datetime | None:
        """When somebody signed in."""
        async with transaction(self._pool, readonly=True) as connection:
            began: datetime | None = await connection.fetchval(_SQL["login_began"], login_id)
            return began

    async def report(self, account_id: UUID, period: str | None, first: date, last: date) -> Report:
        """A statement of an account, with lines by "day", "week" or "month", or without.

        Raises:
            ApiError: NOT_FOUND; MALFORMED where it would have more than `MOST_LINES` lines.
        """
        async with transaction(self._pool, isolation="repeatable_read", readonly=True) as connection:
            sums = await connection.fetchrow(_SQL["report_sums"], account_id, first, last)
            if sums is None:
                raise ApiError(Case.NOT_FOUND, f"There is no account {account_id}.")
            credited = await connection.fetch(_SQL["report_credits"], account_id, first, last)
            lines: Sequence[asyncpg.Record] = ()
            if period is not None:
                lines = await connection.fetch(_SQL["report_lines"], account_id, first, last, period, MOST_LINES + 1)
        if len(lines) > MOST_LINES:
            text = f"The statement has more than {MOST_LINES} lines: ask for longer periods, or for fewer days."
            raise ApiError(Case.MALFORMED, text, param="period")
        opening = sums["credited_before"] - sums["used_before"] - sums["rowless_before"]
        return Report(
            sums["organization"],
            opening,
            [(row["kind"], row["entries"], row["amount_nanos"]) for row in credited],
            sums["used"],
            sums["rowless"],
            opening + sum(row["amount_nanos"] for row in credited) - sums["used"] - sums["rowless"],
            [ReportLine(row["start"], row["provider"], row["model"], row["operation"], _counts(row)) for row in lines],
        )

    async def buckets(self, account_id: UUID, query: BucketQuery) -> Sequence[BucketRow]:
        """Usage in buckets of time, the earliest first; buckets without usage are not there.

        Raises:
            ApiError: MALFORMED where there would be more than `MOST_LINES`.
        """
        statement = _SQL["buckets" if query.width >= _HOUR else "short_buckets"]
        async with transaction(self._pool, readonly=True) as connection:
            rows = await connection.fetch(
                statement, account_id, query.since, query.until, query.width, query.operations, query.models,
                query.key_ids, query.user_ids, "model" in query.by, "key" in query.by, "user" in query.by,
                MOST_LINES + 1,
            )  # fmt: skip
        return [BucketRow(**row) for row in _few(rows)]

    async def searches(
        self, account_id: UUID, query: BucketQuery, kind: Literal["web_searches", "file_searches"]
    ) -> Sequence[SearchRow]:
        """Searches in buckets of time, as far as their rows are kept; raises as `buckets`."""
        async with transaction(self._pool, readonly=True) as connection:
            rows = await connection.fetch(
                _SQL["searches"], account_id, query.since, query.until, query.width, query.models, query.key_ids,
                query.user_ids, "model" in query.by, "key" in query.by, "user" in query.by, MOST_LINES + 1, kind,
            )  # fmt: skip
        return [SearchRow(**row) for row in _few(rows)]


def _few(rows: Sequence[asyncpg.Record]) -> Sequence[asyncpg.Record]:
    if len(rows) > MOST_LINES:
        raise ApiError(Case.MALFORMED, f"More than {MOST_LINES} results: ask for fewer buckets.", param="limit")
    return rows


def _counts(row: asyncpg.Record) -> Counts:
    return Counts(**{name: row[name] for name in Counts.__slots__})


def _totals(rows: Sequence[asyncpg.Record], names: Mapping[UUID, str]) -> Totals:
    whole = Counts()
    by: dict[str, list[Group]] = {dimension: [] for dimension in DIMENSIONS}
    days_by_model: list[tuple[date, str, Counts]] = []
    for row in rows:
        grouped = [place for place in range(len(DIMENSIONS)) if not row["grouped"] >> (len(DIMENSIONS) - 1 - place) & 1]
        if not grouped:
            whole = _counts(row) if row["requests"] is not None else whole
        elif len(grouped) == 1:
            value = row[_COLUMNS[grouped[0]]]
            by[DIMENSIONS[grouped[0]]].append(Group(str(value), _counts(row), names.get(value)))
        else:
            days_by_model.append((row["day"], row["model"], _counts(row)))
    return Totals(whole, by, days_by_model)
