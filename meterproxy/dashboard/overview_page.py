"""The first page: what there is, how fast it goes, what to expect, and what was asked last."""

from datetime import date, timedelta
from typing import Any, Final
from uuid import UUID

from aiohttp import web

from meterproxy.control import (
    activity_endpoints,
    budget_endpoints,
    credit_endpoints,
    queries,
    refusal_endpoints,
    usage_endpoints,
)
from meterproxy.control.access import Permission
from meterproxy.control.activity_endpoints import ActivityPage
from meterproxy.control.call import Call, Services
from meterproxy.control.refusal_endpoints import Refusal
from meterproxy.control.route import Route
from meterproxy.control.usage_endpoints import StatsQuery
from meterproxy.core.money import NANOS_PER_USD
from meterproxy.dashboard.pages import may, page, page_route

LATEST: Final = 8
BUDGETS_SHOWN: Final = 6


async def _overview(on: Services, call: Call) -> web.Response:
    figures = await usage_endpoints.stats(on, call.whose(), StatsQuery())
    return await page(
        on,
        call,
        "overview.html",
        stats=figures,
        chart_rows=[(str(row.day), row.model, row.amount_nanos / NANOS_PER_USD) for row in figures.by_day_and_model],
        peaks=[(peak.weekday, peak.hour, peak.requests) for peak in figures.peak_hours],
        next_day=_next_day,
        budgets=await _budgets(on, call) if may(call, Permission.READ_ORGANIZATION) else [],
        refusals=await refused(on, call),
        **await _live(on, call),
    )


def _next_day(day: str) -> date:
    return date.fromisoformat(day) + timedelta(days=1)


async def _latest(on: Services, call: Call) -> web.Response:
    """What of the first page changes by itself."""
    return await page(on, call, "latest.html", **await _live(on, call))


async def _live(on: Services, call: Call) -> dict[str, Any]:
    return {
        "outlook": await usage_endpoints.outlook(on, call),
        "balance": await credit_endpoints.balance(on, call.asking(query=queries.Fresh())),
        "latest": (await activity_endpoints.listed(on, call.asking(query=ActivityPage(limit=LATEST)))).data,
    }


async def refused(on: Services, call: Call) -> dict[UUID, Refusal]:
    """What was refused in the last day, by limit, for those who may see budgets."""
    told = (await refusal_endpoints.listed(on, call)).data if may(call, Permission.READ_ORGANIZATION) else []
    return {refusal.limit_id: refusal for refusal in told}


async def _budgets(on: Services, call: Call) -> list[Any]:
    limits = await on.limits.list(call.account_id, None, None, BUDGETS_SHOWN)
    return [(row, await budget_endpoints.status_of(on, row)) for row in limits]


ROUTES: Final[tuple[Route, ...]] = (
    page_route("GET", "/", Permission.READ_OWN, _overview),
    page_route("GET", "/latest", Permission.READ_OWN, _latest),
)
