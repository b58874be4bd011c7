"""Budgets: the limits of an organization, as its people see and make them.

They see all limits that hold for them; those that the operator has set are not theirs to change.
"""

from datetime import timedelta
from typing import Final, Literal
from uuid import UUID

from meterproxy.control import answers, limit_bodies, queries
from meterproxy.control.access import Permission, is_operator
from meterproxy.control.call import Call, Services
from meterproxy.control.limit_answers import Limit, LimitStatus
from meterproxy.control.route import Route
from meterproxy.control.spans import today
from meterproxy.control.usage_answers import Forecast
from meterproxy.core.forecast import MOST_DAYS, forecast
from meterproxy.errors import ApiError, Case
from meterproxy.store.limits import LimitRow
from meterproxy.store.limits import LimitStatus as StatusRow
from meterproxy.store.whose import Whose

_FORESEEN: Final = frozenset({"week", "month"})


class NewBudget(limit_bodies.NewLimit):
    """A limit of the organization; without a scope it holds for all of it."""

    scope: Literal["account", "organization", "team", "user", "key"] = "account"
    scope_id: UUID | None = None  # type: ignore[assignment]


class BudgetPage(queries.Page):
    """One page of limits, with those that are retired or without."""

    retired: queries.Switch = "0"


class BudgetStatus(LimitStatus):
    """How far a limit's window has been used, and what is to be expected until its end, where that can be said."""

    forecast: Forecast | None


async def created(on: Services, call: Call) -> Limit:
    """Make a limit."""
    new = call.body_as(NewBudget)
    own = {"account": call.account_id, "organization": call.organization_id}
    scope_id = new.scope_id or own.get(new.scope)
    if scope_id is None:
        raise ApiError(Case.MALFORMED, f"scope_id: say which {new.scope}.", param="scope_id")
    row = await on.limits.create(
        new.whose[0], scope_id, new.terms(), seed=new.seed, account_id=call.account_id, is_own=True
    )
    return Limit.of(row)


async def listed(on: Services, call: Call) -> answers.Page[Limit]:
    """One page of limits."""
    page = call.query_as(BudgetPage)
    rows = await on.limits.list(call.account_id, None, page.cursor, page.limit + 1, retired=page.retired == "1")
    return answers.Page[Limit].of([Limit.of(row) for row in rows], page.limit)


async def changed(on: Services, call: Call) -> Limit:
    """Change a limit."""
    row = await _theirs(on, call)
    changes = call.body_as(limit_bodies.ChangedLimit).changes(row.limit.measure)
    return Limit.of(await on.limits.change(row.id, changes))


async def retired(on: Services, call: Call) -> Limit:
    """End a limit."""
    return Limit.of(await on.limits.retire((await _theirs(on, call)).id))


async def status(on: Services, call: Call) -> BudgetStatus:
    """How far a limit has been used."""
    if call.query_as(queries.Fresh).fresh == "1":
        await on.machine.settle_now()
    return await status_of(on, await _visible(on, call))


async def status_of(on: Services, row: LimitRow) -> BudgetStatus:
    """The same of a limit that the caller may see."""
    told = await on.limits.status(row.id)
    expected = await _expected(on, told)
    return BudgetStatus(**LimitStatus.of(told).model_dump(), forecast=expected)


async def _expected(on: Services, told: StatusRow) -> Forecast | None:
    """What is to be expected of an amount by week or month that counts all models and operations."""
    row, end = told.limit, told.window_end
    foreseen = row.measure == "amount" and row.window_kind in _FORESEEN and row.model_pattern is None
    if not foreseen or row.operation is not None or row.scope == "team" or end is None:
        return None
    day = today()
    whose = Whose(
        row.account_id,
        row.scope_id if row.scope == "user" else None,
        row.scope_id if row.scope == "key" else None,
    )
    daily = await on.usage.daily(whose, day - timedelta(days=MOST_DAYS), day, with_rotated=True)
    last = (end - timedelta(microseconds=1)).date()
    remaining = told.remaining if told.remaining is not None else 2**62
    figures = forecast(daily, day, last, told.used, remaining)
    return None if figures is None else Forecast.of(figures)


async def _visible(on: Services, call: Call) -> LimitRow:
    row = await on.limits.read(call.id())
    if row.account_id != call.account_id:
        raise ApiError(Case.NOT_FOUND, f"There is no limit {call.id()}.")
    return row


async def _theirs(on: Services, call: Call) -> LimitRow:
    row = await _visible(on, call)
    if not row.is_own and not is_operator(call.acting.principal):
        raise ApiError(Case.PERMISSION_DENIED, "This limit was set by the operator.")
    return row


_ID: Final = "/api/budgets/{id}"

ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="GET",
        path="/api/budgets",
        permission=Permission.READ_ORGANIZATION,
        endpoint=listed,
        summary="Limits that hold for the organization, oldest first",
        query=BudgetPage,
        answer=answers.Page[Limit],
    ),
    Route(
        method="POST",
        path="/api/budgets",
        permission=Permission.MANAGE,
        endpoint=created,
        summary="Make a budget or a rate limit",
        body=NewBudget,
        answer=Limit,
        status=201,
    ),
    Route(
        method="PATCH",
        path=_ID,
        permission=Permission.MANAGE,
        endpoint=changed,
        summary="Change a limit's cap, grace, enforcement, name or marks",
        body=limit_bodies.ChangedLimit,
        answer=Limit,
        refusals=(Case.CONFLICT,),
    ),
    Route(
        method="DELETE",
        path=_ID,
        permission=Permission.MANAGE,
        endpoint=retired,
        summary="Retire a limit; what it has counted stays readable",
        answer=Limit,
    ),
    Route(
        method="GET",
        path="/api/budgets/{id}/status",
        permission=Permission.READ_ORGANIZATION,
        endpoint=status,
        summary="How far a limit's current window has been used, and what to expect",
        query=queries.Fresh,
        answer=BudgetStatus,
    ),
)
