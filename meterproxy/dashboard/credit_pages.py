"""Credits and budgets: what there is, and what may be spent."""

from collections.abc import Iterable
from typing import Final, TypeVar
from uuid import UUID, uuid4

from aiohttp import web

from meterproxy.control import (
    budget_endpoints,
    credit_endpoints,
    forms,
    limit_bodies,
    notification_endpoints,
    purchase_endpoints,
    queries,
    usage_endpoints,
)
from meterproxy.control.access import Permission
from meterproxy.control.budget_endpoints import NewBudget
from meterproxy.control.call import Call, Services
from meterproxy.control.credit_endpoints import EntriesFile
from meterproxy.control.limit_answers import Limit
from meterproxy.control.purchase_endpoints import PurchasePage
from meterproxy.control.route import Route
from meterproxy.core.key import OPERATIONS
from meterproxy.core.zone import zone_names
from meterproxy.dashboard.overview_page import refused
from meterproxy.dashboard.pages import kinds_in_address, may, page, page_route, redirect
from meterproxy.errors import ApiError
from meterproxy.store.keys import KeyRow
from meterproxy.store.members import MemberRow
from meterproxy.store.teams import TeamRow

ROWS: Final = 50
PURCHASES: Final = 20
BUDGETS: Final = 20
"""On one page; each of them is looked up."""
_CLEARED: Final = {"name": "", "grace": None}
"""What of a budget is taken away by leaving its field empty."""
T = TypeVar("T", NewBudget, limit_bodies.ChangedLimit)


class CreditsQuery(queries.EntryPage):
    """One page of transactions, and what has just been done."""

    done: str = ""


class BudgetsQuery(queries.Page):
    """One page of budgets, and what has just been done. `first`: the page that begins with this one."""

    first: UUID | None = None
    done: str = ""

    @property
    def after(self) -> UUID | None:
        return self.cursor if self.first is None else UUID(int=max(self.first.int - 1, 0))


async def credits_page(on: Services, call: Call, error: ApiError | None = None) -> web.Response:
    """What there is, how it came to that, and how to get more."""
    cursor, kinds = (call.query.cursor, call.query.kind) if isinstance(call.query, CreditsQuery) else (None, None)
    entries = purchases = mark = None
    if may(call, Permission.READ_USAGE):
        entries = await credit_endpoints.transactions(
            on, call.asking(query=queries.EntryPage(cursor=cursor, limit=ROWS, kind=kinds))
        )
        mark = await notification_endpoints.mark(on, call)
    if may(call, Permission.READ_BILLING):
        purchases = (await purchase_endpoints.listed(on, call.asking(query=PurchasePage(limit=PURCHASES)))).data
    return await page(
        on,
        call,
        "credits.html",
        error=error,
        purchases=purchases,
        mark=mark,
        terms=on.purchases.terms,
        idempotency_key=str(uuid4()),
        balance=await credit_endpoints.balance(on, call.asking(query=queries.Fresh())),
        outlook=await usage_endpoints.outlook(on, call),
        entries=None if entries is None else entries.data,
        following=None if entries is None else entries.next_cursor,
        kinds=kinds,
        kinds_wanted=kinds_in_address(kinds),
    )


async def _budgets(on: Services, call: Call, error: ApiError | None = None) -> web.Response:
    after = call.query.after if isinstance(call.query, BudgetsQuery) else None
    rows = await on.limits.list(call.account_id, None, after, BUDGETS + 1)
    told = [(Limit.of(row), await budget_endpoints.status_of(on, row)) for row in rows[:BUDGETS]]
    members = await on.members.list(call.organization_id, None, queries.MOST_ROWS)
    keys = await on.keys.list(call.account_id, None, queries.MOST_ROWS)
    teams = await on.teams.list(call.account_id, None, queries.MOST_ROWS)
    return await page(
        on,
        call,
        "budgets.html",
        error=error,
        budgets=told,
        refusals=await refused(on, call),
        following=rows[BUDGETS - 1].id if len(rows) > BUDGETS else None,
        members=members,
        keys=keys,
        teams=teams,
        operations=OPERATIONS,
        zones=sorted(zone_names()),
        names={**_names(members), **_names(keys), **_names(teams)},
    )


def _names(rows: Iterable[MemberRow | KeyRow | TeamRow]) -> dict[UUID, str]:
    return {row.id: row.name for row in rows}


async def _budget_made(on: Services, call: Call) -> web.Response:
    try:
        given = dict(call.form)
        scope, _, scope_id = given.pop("whose", "account").partition(" ")
        given |= {"scope": scope, **({"scope_id": scope_id} if scope_id else {})}
        if given.get("measure") == "concurrent":
            given.pop("window", None)  # what runs at once has none
        new = forms.read(NewBudget, given)
        await budget_endpoints.created(on, call.asking(body=_in_its_unit(new, new.measure)))
    except ApiError as error:
        return await _budgets(on, call, error)
    return redirect("/budgets", done="budget-made")


async def _budget_changed(on: Services, call: Call) -> web.Response:
    try:
        row = await on.limits.read(call.id())
        given = forms.read(limit_bodies.ChangedLimit, call.form)
        cleared = {name: value for name, value in _CLEARED.items() if call.form.get(name) == ""}
        given = given.model_copy(update=cleared)
        await budget_endpoints.changed(on, call.asking(body=_in_its_unit(given, row.measure)))
    except ApiError as error:
        return await _budgets(on, call, error)
    return redirect("/budgets", done="budget-changed")


async def _budget_retired(on: Services, call: Call) -> web.Response:
    await budget_endpoints.retired(on, call)
    return redirect("/budgets", done="budget-retired")


def _in_its_unit(given: T, measure: str) -> T:
    """A form knows texts only; what is no money is a whole number."""
    read = forms.amount_of if measure == "amount" else forms.number_of
    texts = {name: text for name in ("cap", "grace") if isinstance(text := getattr(given, name), str)}
    return given.model_copy(update={name: read(text) for name, text in texts.items()})


ROUTES: Final[tuple[Route, ...]] = (
    page_route("GET", "/credits", Permission.READ_OWN, credits_page, CreditsQuery),
    page_route("GET", "/credits/export", Permission.READ_USAGE, credit_endpoints.exported, EntriesFile),
    page_route("GET", "/budgets", Permission.READ_ORGANIZATION, _budgets, BudgetsQuery),
    page_route("POST", "/budgets", Permission.MANAGE, _budget_made),
    page_route("POST", "/budgets/{id}", Permission.MANAGE, _budget_changed),
    page_route("POST", "/budgets/{id}/retire", Permission.MANAGE, _budget_retired),
)
