"""Reports: where the money went in some days, by what people ask for, and statements that add up."""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from aiohttp import web

from meterproxy.control import credit_endpoints, usage_endpoints
from meterproxy.control.access import Permission
from meterproxy.control.call import Call, Services
from meterproxy.control.credit_endpoints import Period, ReportQuery
from meterproxy.control.route import Route
from meterproxy.control.usage_answers import UsageGroup
from meterproxy.control.usage_endpoints import GroupedUsage, GroupQuery
from meterproxy.core.money import NANOS_PER_USD, format_usd
from meterproxy.dashboard.pages import activity_of, page, page_route
from meterproxy.errors import ApiError
from meterproxy.store.usage import MOST_GROUPS, OTHER

GROUPINGS: Final = (
    "day", "model", "operation", "provider", "key", "user", "team", "conversation", "tag", "tool",
)  # fmt: skip
MOST_ROWS: Final = 100
"""Of a table; all of them are in its file."""
FILTERS: Final = {
    "model": "model", "operation": "operation", "provider": "provider", "key": "key_id", "user": "user_id",
    "team": "team_id",
}  # fmt: skip
"""By which filter of activity the requests of a group are found."""


class ReportsQuery(GroupQuery):
    """What a report is about."""

    period: Period = "daily"


class LeftOut(NamedTuple):
    """What a table does not show; `amount` is None where nothing of money is told.

    All of it is in the file, but of conversations, of which the file has no more than `in_file`.
    """

    rows: int
    requests: int
    amount: str | None
    in_file: int | None


async def _reports(on: Services, call: Call) -> web.Response:
    query = call.query_as(ReportsQuery)
    error = None
    try:
        grouped = await usage_endpoints.grouped(on, call)
    except ApiError as no_such_span:
        error = no_such_span
        grouped = await usage_endpoints.grouped(on, call.asking(query=ReportsQuery(group_by=query.group_by)))
    span = {"from": str(grouped.first_day), "to": str(grouped.last_day)}
    statement = await credit_endpoints.summary_of(on, call.asking(query=ReportQuery.model_validate(span)))
    rows: Sequence[Any] = grouped.groups or grouped.conversations or grouped.tags or grouped.tools
    latest = grouped.group_by == "day"
    shown, left = (rows[-MOST_ROWS:], rows[:-MOST_ROWS]) if latest else (rows[:MOST_ROWS], rows[MOST_ROWS:])
    charted: Sequence[UsageGroup] = grouped.groups if latest else grouped.groups[:MOST_ROWS]
    return await page(
        on,
        call,
        "reports.html",
        error=error,
        grouped=grouped,
        rows=[(row, _requests_of(grouped, row)) for row in shown],
        left_out=_left_out(left, MOST_GROUPS if len(grouped.conversations) == MOST_GROUPS else None),
        which={"day": "latest", "conversation": "latest", "tool": "most used"}.get(grouped.group_by, "dearest"),
        statement=statement,
        groupings=GROUPINGS,
        chart=[(group.name or group.value, group.amount_nanos / NANOS_PER_USD) for group in charted],
        period=query.period,
        span=urlencode({**span, "period": query.period}),
        usage_file=urlencode({**span, "group_by": grouped.group_by, "format": "csv"}),
        tokens=urlencode(grouped.totals.model_dump(include={"input_tokens", "cached_tokens", "output_tokens"})),
    )


def _requests_of(grouped: GroupedUsage, row: Any) -> str | None:
    """Where the requests of a row are listed; None for what is told together."""
    span = {"from_": grouped.first_day, "to": grouped.last_day + timedelta(days=1)}
    match grouped.group_by:
        case "day":
            return activity_of(from_=row.value, to=date.fromisoformat(row.value) + timedelta(days=1))
        case "conversation":  # it is told with all that it has cost
            return activity_of(conversation_id=row.conversation)
        case "tag":
            return None if row.value == OTHER else activity_of(tag=f"{row.tag}={row.value}", **span)
        case "tool":
            return None if row.tool == OTHER else activity_of(tool=row.tool, **span)
        case "model" if row.value == OTHER:
            return None
        case by:
            return activity_of(**{FILTERS[by]: row.value}, **span)


def _left_out(rows: Sequence[Any], in_file: int | None) -> LeftOut | None:
    if not rows:
        return None
    nanos = [row.amount_nanos for row in rows if hasattr(row, "amount_nanos")]
    return LeftOut(len(rows), sum(row.requests for row in rows), format_usd(sum(nanos)) if nanos else None, in_file)


ROUTES: Final[tuple[Route, ...]] = (
    page_route("GET", "/reports", Permission.READ_USAGE, _reports, ReportsQuery),
    page_route("GET", "/reports/usage", Permission.READ_USAGE, usage_endpoints.usage, GroupQuery),
    page_route("GET", "/reports/statement", Permission.READ_USAGE, credit_endpoints.report, ReportQuery),
)
