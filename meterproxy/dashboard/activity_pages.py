"""Activity: the rows behind all figures, by filters, and one of them in detail."""

from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from meterproxy.control import activity_endpoints, forms, own_key_endpoints, queries
from meterproxy.control.access import Permission
from meterproxy.control.activity_endpoints import ActivityFile, ActivityPage
from meterproxy.control.call import Call, Services
from meterproxy.control.route import Route
from meterproxy.core.key import OPERATIONS
from meterproxy.dashboard.pages import may, page, page_route
from meterproxy.errors import ApiError

ROWS: Final = 50


async def _activity(on: Services, call: Call) -> web.Response:
    wanted = {name: value for name, value in call.request.query.items() if value and name != "organization_id"}
    wanted |= {name: forms.instant_of(wanted[name]) for name in ("from", "to") if name in wanted}
    listed, error = None, None
    try:
        query = queries.read(ActivityPage, {**wanted, "limit": str(ROWS)})
        listed = await activity_endpoints.listed(on, call.asking(query=query))
    except ApiError as cannot_be_read:
        error = cannot_be_read
    wanted.pop("cursor", None)
    sees_all = may(call, Permission.READ_ORGANIZATION) and may(call, Permission.READ_USAGE)
    return await page(
        on,
        call,
        "activity.html",
        error=error,
        rows=None if listed is None else listed.data,
        retained_from=await on.activity.retained_from(),
        wanted=wanted,
        operations=OPERATIONS,
        keys=(await own_key_endpoints.listed(on, call.asking(query=queries.Page(limit=queries.MOST_ROWS)))).data,
        members=await on.members.list(call.organization_id, None, queries.MOST_ROWS) if sees_all else (),
        teams=await on.teams.list(call.account_id, None, queries.MOST_ROWS) if sees_all else (),
        following=urlencode({**wanted, "cursor": listed.next_cursor}) if listed and listed.next_cursor else None,
        exported=urlencode(wanted),
    )


async def _exchange(on: Services, call: Call) -> web.Response:
    told: dict[str, Any] = await activity_endpoints.explained(on, call)
    key = await on.keys.read(told["key_id"], call.account_id) if told.get("key_id") else None
    return await page(on, call, "exchange.html", exchange=told, key=key)


ROUTES: Final[tuple[Route, ...]] = (
    page_route("GET", "/activity", Permission.READ_OWN, _activity, queries.AnyQuery),
    page_route("GET", "/activity/export", Permission.READ_OWN, activity_endpoints.exported, ActivityFile),
    page_route("GET", "/activity/{id}", Permission.READ_OWN, _exchange),
)
