"""Operator's pages: organizations and their credit, people, the system, and who did what."""

from typing import Final
from urllib.parse import urlencode
from uuid import uuid4

from aiohttp import web

from meterproxy.control import account_endpoints, admin_endpoints, audit_endpoints, bodies, forms, queries
from meterproxy.control.access import Permission
from meterproxy.control.admin_endpoints import SystemQuery, UserPage
from meterproxy.control.audit_endpoints import AuditPage
from meterproxy.control.call import Call, Services
from meterproxy.control.route import Route
from meterproxy.dashboard.pages import kinds_in_address, page, page_route, redirect
from meterproxy.errors import ApiError

ROWS: Final = 50


class AccountsQuery(queries.Page):
    """One page of organizations, and what has just been done."""

    done: str = ""


class AccountQuery(queries.EntryPage):
    """One page of an account's entries, and what has just been done."""

    done: str = ""


class PeopleQuery(UserPage):
    """One page of people, and what has just been done."""

    done: str = ""


async def _accounts(on: Services, call: Call, error: ApiError | None = None) -> web.Response:
    cursor = call.query.cursor if isinstance(call.query, AccountsQuery) else None
    listed = await account_endpoints.listed(on, call.asking(query=queries.Page(cursor=cursor, limit=ROWS)))
    return await page(
        on, call, "operate_accounts.html", error=error, accounts=listed.data, following=listed.next_cursor
    )


async def _account_made(on: Services, call: Call) -> web.Response:
    try:
        made = await account_endpoints.created(on, call.asking(body=forms.read(bodies.NewAccount, call.form)))
    except ApiError as error:
        return await _accounts(on, call, error)
    return redirect(f"/operate/organizations/{made.id}")


async def _account(on: Services, call: Call, error: ApiError | None = None) -> web.Response:
    account = await account_endpoints.read(on, call.asking(query=queries.Fresh()))
    query = call.query if isinstance(call.query, AccountQuery) else AccountQuery()
    wanted = queries.EntryPage(cursor=query.cursor, limit=ROWS, kind=query.kind)
    entries = await account_endpoints.entries(on, call.asking(query=wanted))
    return await page(
        on,
        call,
        "operate_account.html",
        error=error,
        of=account,
        entries=entries.data,
        following=entries.next_cursor,
        kinds=query.kind,
        kinds_wanted=kinds_in_address(query.kind),
        idempotency_key=str(uuid4()),
    )


async def _credited(on: Services, call: Call) -> web.Response:
    try:
        await account_endpoints.credited(on, call.asking(body=forms.read(bodies.NewCredit, call.form)))
    except ApiError as error:
        return await _account(on, call, error)
    return redirect(f"/operate/organizations/{call.id()}", done="credited")


async def _account_changed(on: Services, call: Call) -> web.Response:
    try:
        await account_endpoints.changed(on, call.asking(body=forms.read(bodies.ChangedAccount, call.form)))
    except ApiError as error:
        return await _account(on, call, error)
    return redirect(f"/operate/organizations/{call.id()}", done="account")


async def _people(on: Services, call: Call, error: ApiError | None = None, reset: str | None = None) -> web.Response:
    given = {name: value for name, value in call.request.query.items() if value and name in {"q", "cursor"}}
    listed = await admin_endpoints.users(on, call.asking(query=queries.read(UserPage, {**given, "limit": str(ROWS)})))
    return await page(
        on,
        call,
        "operate_people.html",
        error=error,
        people=listed.data,
        q=given.get("q", ""),
        following=urlencode({**given, "cursor": listed.next_cursor}) if listed.next_cursor else None,
        reset=reset,
        base_url=call.own_url,
    )


async def _suspended(on: Services, call: Call) -> web.Response:
    try:
        body = forms.read(admin_endpoints.ChangedUser, call.form)
        await admin_endpoints.suspend(on, call.asking(body=body))
    except ApiError as error:
        return await _people(on, call, error)
    return redirect("/operate/people", done="suspended" if body.suspended else "resumed")


async def _reset(on: Services, call: Call) -> web.Response:
    made = await admin_endpoints.reset(on, call)
    return await _people(on, call, reset=made.reset_token)


async def _system(on: Services, call: Call) -> web.Response:
    told = await admin_endpoints.system(on, call)
    return await page(on, call, "operate_system.html", system=told)


async def _audit(on: Services, call: Call) -> web.Response:
    given = {name: value for name, value in call.request.query.items() if value and name != "organization_id"}
    span: dict[str, str] = {name: forms.instant_of(given[name]) for name in ("since", "until") if name in given}
    try:
        query = queries.read(AuditPage, {**given, **span, "limit": str(ROWS)})
        listed = await audit_endpoints.listed(on, call.asking(query=query))
    except ApiError as error:
        return await page(on, call, "operate_audit.html", error=error, entries=(), wanted=given, following=None)
    following = urlencode({**given, "cursor": listed.next_cursor}) if listed.next_cursor else None
    return await page(on, call, "operate_audit.html", entries=listed.data, wanted=given, following=following)


ROUTES: Final[tuple[Route, ...]] = (
    page_route("GET", "/operate/organizations", Permission.OPERATE, _accounts, AccountsQuery),
    page_route("POST", "/operate/organizations", Permission.OPERATE, _account_made),
    page_route("GET", "/operate/organizations/{id}", Permission.OPERATE, _account, AccountQuery),
    page_route("POST", "/operate/organizations/{id}", Permission.OPERATE, _account_changed),
    page_route("POST", "/operate/organizations/{id}/credit", Permission.OPERATE, _credited),
    page_route("GET", "/operate/people", Permission.OPERATE, _people, PeopleQuery),
    page_route("POST", "/operate/people/{id}", Permission.OPERATE, _suspended),
    page_route("POST", "/operate/people/{id}/reset", Permission.OPERATE, _reset),
    page_route("GET", "/operate/system", Permission.OPERATE, _system, SystemQuery),
    page_route("GET", "/operate/audit", Permission.OPERATE, _audit, queries.AnyQuery),
)
