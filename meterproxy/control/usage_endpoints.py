"""Usage: what an organization, or oneself, has used, in figures; what is to be expected."""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Annotated, Final, Literal
from uuid import UUID

from aiohttp import web
from pydantic import Field

from meterproxy.control import spreadsheet
from meterproxy.control.access import Permission
from meterproxy.control.activity_endpoints import Exchange
from meterproxy.control.answers import Answer, Nanos, Usd, each, money
from meterproxy.control.call import Call, Services
from meterproxy.control.route import Route
from meterproxy.control.spans import Backwards, Days, Span, today
from meterproxy.control.usage_answers import (
    Conversation,
    DayOfModel,
    Figures,
    Forecast,
    Latency,
    Peak,
    Tag,
    Tool,
    UsageGroup,
)
from meterproxy.core.forecast import MOST_DAYS, forecast
from meterproxy.core.forecast import Forecast as ForecastFigures
from meterproxy.errors import ApiError, Case
from meterproxy.store.activity import ActivityFilter
from meterproxy.store.usage import Counts, Group, Running, Totals
from meterproxy.store.whose import Whose

RECENT: Final = 10

GroupBy = Literal["day", "model", "operation", "provider", "key", "user", "team", "conversation", "tag", "tool"]
OF_WHOLE_ACCOUNTS: Final = frozenset({"conversation", "tag", "tool"})


class StatsQuery(Backwards):
    """Of which days, and of which user only."""

    user_id: Annotated[UUID | None, Field(alias="userId")] = None


class Stats(Answer):
    """Usage of some days; what is not told apart by user or key is empty where only a part of an account is seen."""

    first_day: date
    last_day: date
    totals: Figures
    by_day: list[UsageGroup]
    by_model: list[UsageGroup]
    by_provider: list[UsageGroup]
    by_operation: list[UsageGroup]
    by_key: list[UsageGroup]
    by_user: list[UsageGroup]
    by_day_and_model: list[DayOfModel]
    by_tool: list[Tool]
    peak_hours: list[Peak]
    latency_ms: Latency | None
    recent: list[Exchange]


_NAMING: Final = ("value", "name", "conversation", "tag", "tool")
"""Members that say what a row of usage is about."""


class GroupQuery(Span):
    """What usage is grouped by."""

    group_by: GroupBy = "day"
    format: Literal["json", "csv"] = "json"


class GroupedUsage(Answer):
    """Usage of some days by one thing; which of the lists there is, `group_by` says."""

    group_by: GroupBy
    first_day: date
    last_day: date
    totals: Figures
    groups: list[UsageGroup]
    conversations: list[Conversation]
    tags: list[Tag]
    tools: list[Tool]


class Outlook(Answer):
    """What was spent so far, and what is to be expected until the end of the month; null: not enough data."""

    today: Usd
    today_nanos: Nanos
    month: Usd
    month_nanos: Nanos
    forecast: Forecast | None
    reason: str | None


async def stats(on: Services, whose: Whose, query: StatsQuery) -> Stats:
    """All figures of some days."""
    days = query.days()
    totals = await on.usage.totals(whose, *days)
    whole = whose.is_whole
    return Stats(
        first_day=days.first,
        last_day=days.last,
        totals=Figures.of(totals.whole),
        **{f"by_{name}": await each(UsageGroup.of_group, groups) for name, groups in totals.by.items()},
        by_day_and_model=await each(_day_of_model, totals.days_by_model),
        by_tool=[Tool.of(row) for row in await on.usage.tools(whose.account_id, *days)] if whole else [],
        peak_hours=[Peak.of(row) for row in await on.usage.peak_hours(whose, *days)],
        latency_ms=Latency.of(await on.usage.latencies(whose.account_id, *days)) if whole else None,
        recent=[Exchange.of(row) for row in await on.activity.list(whose, ActivityFilter(), None, RECENT)],
    )


def _day_of_model(told: tuple[date, str, Counts]) -> DayOfModel:
    day, model, counts = told
    return DayOfModel(day=day, model=model, requests=counts.requests, **money(amount=counts.amount_nanos))


async def _stats(on: Services, call: Call) -> Stats:
    query = call.query_as(StatsQuery)
    return await stats(on, call.whose(query.user_id), query)


async def grouped(on: Services, call: Call) -> GroupedUsage:
    """Usage of some days by one thing."""
    query, whose = call.query_as(GroupQuery), call.whose()
    by, days = query.group_by, query.days()
    if by in OF_WHOLE_ACCOUNTS and not whose.is_whole:
        text = f"Usage by {by} is seen by those who may see everybody's."
        raise ApiError(Case.PERMISSION_DENIED, text, param="group_by")
    totals = await on.usage.totals(whose, *days)
    account_id = whose.account_id
    return GroupedUsage(
        group_by=by,
        first_day=days.first,
        last_day=days.last,
        totals=Figures.of(totals.whole),
        groups=await each(UsageGroup.of_group, await _groups(on, totals, by)),
        conversations=[Conversation.of(row) for row in await on.usage.conversations(account_id, *days)]
        if by == "conversation"
        else [],
        tags=[Tag.of(row) for row in await on.usage.tags(account_id, *days)] if by == "tag" else [],
        tools=[Tool.of(row) for row in await on.usage.tools(account_id, *days)] if by == "tool" else [],
    )


async def usage(on: Services, call: Call) -> GroupedUsage | web.Response:
    """The same in the format that is asked for."""
    told = await grouped(on, call)
    if call.query_as(GroupQuery).format == "json":
        return told
    kind, rows = _rows(told)
    columns = [name for name in kind.model_fields if not name.endswith("_nanos")]
    columns.sort(key=lambda name: name not in _NAMING)  # what a row is about comes first
    name = f"usage-by-{told.group_by}-{told.first_day}-{told.last_day}.csv"
    return web.Response(
        text=await spreadsheet.as_csv(columns, rows),
        headers={
            "Content-Type": "text/csv; charset=utf-8",
            "Content-Disposition": f'attachment; filename="{name}"',
            "Cache-Control": "no-store",
        },
    )


def _rows(told: GroupedUsage) -> tuple[type[Answer], Sequence[Answer]]:
    """The rows of what usage is grouped by, and what each of them is."""
    match told.group_by:
        case "conversation":
            return Conversation, told.conversations
        case "tag":
            return Tag, told.tags
        case "tool":
            return Tool, told.tools
        case _:
            return UsageGroup, told.groups


async def _groups(on: Services, totals: Totals, by: GroupBy) -> list[Group]:
    if by != "team":
        return list(totals.by.get(by, ()))
    keys = totals.by["key"]
    teams = await on.usage.teams_of_keys([UUID(key.value) for key in keys])
    sums: dict[tuple[str, str | None], Counts] = {}
    for key in keys:
        team_id, name = teams.get(UUID(key.value), ("none", None))
        team = str(team_id), name
        sums[team] = sums.get(team, Counts()) + key.counts
    groups = [Group(value, counts, name) for (value, name), counts in sums.items()]
    return sorted(groups, key=lambda group: -group.counts.amount_nanos)


async def _expected(on: Services, whose: Whose, running: Running) -> ForecastFigures | None:
    day = today()
    daily = await on.usage.daily(whose, day - timedelta(days=MOST_DAYS), day)
    available = (await on.accounts.read(whose.account_id)).available_nanos
    until = Days(day, (day.replace(day=1) + timedelta(days=32)).replace(day=1) - timedelta(days=1)).last
    return forecast(daily, day, until, running.month_nanos, available)


async def outlook(on: Services, call: Call) -> Outlook:
    """What is to be expected until the end of the month; the credit runs out by what everybody spends."""
    whose = call.whose()
    running = await on.usage.running(whose)
    told = everybodys = await _expected(on, whose, running)
    if not whose.is_whole:
        everybody = Whose(whose.account_id)
        everybodys = await _expected(on, everybody, await on.usage.running(everybody))
    return Outlook(
        **money(today=running.today_nanos, month=running.month_nanos),
        forecast=None if told is None else Forecast.of(told, everybodys),
        reason="There is not enough data: seven whole days are needed." if told is None else None,
    )


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="GET",
        path="/api/usage/stats",
        permission=Permission.READ_OWN,
        endpoint=_stats,
        summary="Usage of some days in figures: totals, groups, daily trend, peak hours, latency, latest exchanges",
        query=StatsQuery,
        answer=Stats,
    ),
    Route(
        method="GET",
        path="/api/usage/forecast",
        permission=Permission.READ_OWN,
        endpoint=outlook,
        summary="What was spent this month, what to expect, and when the credit runs out",
        answer=Outlook,
    ),
    Route(
        method="GET",
        path="/api/credits/usage",
        permission=Permission.READ_OWN,
        endpoint=usage,
        summary="What was spent, by day, model, operation, key, user, team, conversation, tag or tool",
        query=GroupQuery,
        answer=GroupedUsage,
        media=("text/csv",),
    ),
)
