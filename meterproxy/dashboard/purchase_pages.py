"""Purchases: credit ordered and taken back on the credits page, confirmed and declined on the operator's."""

from typing import Final
from urllib.parse import urlencode

from aiohttp import web

from meterproxy.control import forms, purchase_endpoints, queries
from meterproxy.control.access import Permission
from meterproxy.control.call import Call, Services
from meterproxy.control.purchase_endpoints import Confirmation, EveryPurchasePage, NewPurchase, Refusal
from meterproxy.control.route import Route
from meterproxy.dashboard.credit_pages import credits_page
from meterproxy.dashboard.pages import page, page_route, redirect
from meterproxy.errors import ApiError

ROWS: Final = 50
_FILTERS: Final = frozenset({"state", "code", "cursor"})


async def _ordered(on: Services, call: Call) -> web.Response:
    try:
        await purchase_endpoints.ordered(on, call.asking(body=forms.read(NewPurchase, call.form)))
    except ApiError as error:
        return await credits_page(on, call, error)
    return redirect("/credits", done="ordered")


async def _cancelled(on: Services, call: Call) -> web.Response:
    try:
        await purchase_endpoints.cancelled(on, call)
    except ApiError as error:
        return await credits_page(on, call, error)
    return redirect("/credits", done="cancelled")


async def _all(on: Services, call: Call, error: ApiError | None = None) -> web.Response:
    given = {name: value for name, value in call.request.query.items() if value and name in _FILTERS}
    query = queries.read(EveryPurchasePage, {**given, "limit": str(ROWS)})
    listed = await purchase_endpoints.all_listed(on, call.asking(query=query))
    return await page(
        on,
        call,
        "operate_purchases.html",
        error=error,
        purchases=listed.data,
        wanted=given,
        following=urlencode({**given, "cursor": listed.next_cursor}) if listed.next_cursor else None,
    )


async def _confirmed(on: Services, call: Call) -> web.Response:
    try:
        await purchase_endpoints.confirmed(on, call.asking(body=forms.read(Confirmation, call.form)))
    except ApiError as error:
        return await _all(on, call, error)
    return redirect("/operate/purchases", done="confirmed")


async def _declined(on: Services, call: Call) -> web.Response:
    try:
        await purchase_endpoints.declined(on, call.asking(body=forms.read(Refusal, call.form)))
    except ApiError as error:
        return await _all(on, call, error)
    return redirect("/operate/purchases", done="declined")


ROUTES: Final[tuple[Route, ...]] = (
    page_route("POST", "/credits/purchase", Permission.BILL, _ordered),
    page_route("POST", "/credits/purchases/{id}/cancel", Permission.BILL, _cancelled),
    page_route("GET", "/operate/purchases", Permission.OPERATE, _all, queries.AnyQuery),
    page_route("POST", "/operate/purchases/{id}/confirm", Permission.OPERATE, _confirmed),
    page_route("POST", "/operate/purchases/{id}/decline", Permission.OPERATE, _declined),
)
