"""Limits: the operator's endpoints for budgets and rate limits."""

from typing import Final
from uuid import UUID

from meterproxy.control import answers, limit_answers, limit_bodies, queries
from meterproxy.control.access import Permission
from meterproxy.control.call import Call, Services
from meterproxy.control.route import Route


class LimitPage(queries.AccountPage):
    """One page of limits: of one account, of one scope, with those that are retired or without."""

    scope_id: UUID | None = None
    retired: queries.Switch = "0"


async def _create(on: Services, call: Call) -> limit_answers.Limit:
    new = call.body_as(limit_bodies.NewLimit)
    return limit_answers.Limit.of(await on.limits.create(*new.whose, new.terms(), seed=new.seed))


async def _list(on: Services, call: Call) -> answers.Page[limit_answers.Limit]:
    page = call.query_as(LimitPage)
    rows = await on.limits.list(
        page.account_id, page.scope_id, page.cursor, page.limit + 1, retired=page.retired == "1"
    )
    return answers.Page[limit_answers.Limit].of([limit_answers.Limit.of(row) for row in rows], page.limit)


async def _read(on: Services, call: Call) -> limit_answers.Limit:
    return limit_answers.Limit.of(await on.limits.read(call.id()))


async def _change(on: Services, call: Call) -> limit_answers.Limit:
    changed = call.body_as(limit_bodies.ChangedLimit)
    row = await on.limits.read(call.id())
    return limit_answers.Limit.of(await on.limits.change(row.id, changed.changes(row.limit.measure)))


async def _retire(on: Services, call: Call) -> limit_answers.Limit:
    return limit_answers.Limit.of(await on.limits.retire(call.id()))


async def _status(on: Services, call: Call) -> limit_answers.LimitStatus:
    if call.query_as(queries.Fresh).fresh == "1":
        await on.machine.settle_now()
    return limit_answers.LimitStatus.of(await on.limits.status(call.id()))


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="GET",
        path="/admin/limits",
        permission=Permission.ADMIN_TOKEN,
        endpoint=_list,
        summary="Limits, oldest first",
        query=LimitPage,
        answer=answers.Page[limit_answers.Limit],
    ),
    Route(
        method="POST",
        path="/admin/limits",
        permission=Permission.ADMIN_TOKEN,
        endpoint=_create,
        summary="Make a budget or a rate limit",
        body=limit_bodies.NewLimit,
        answer=limit_answers.Limit,
        status=201,
    ),
    Route(
        method="GET",
        path="/admin/limits/{id}",
        permission=Permission.ADMIN_TOKEN,
        endpoint=_read,
        summary="A limit",
        answer=limit_answers.Limit,
    ),
    Route(
        method="PATCH",
        path="/admin/limits/{id}",
        permission=Permission.ADMIN_TOKEN,
        endpoint=_change,
        summary="Change a limit's cap, grace, enforcement, name or marks",
        body=limit_bodies.ChangedLimit,
        answer=limit_answers.Limit,
    ),
    Route(
        method="DELETE",
        path="/admin/limits/{id}",
        permission=Permission.ADMIN_TOKEN,
        endpoint=_retire,
        summary="Retire a limit; what it has counted stays readable",
        answer=limit_answers.Limit,
    ),
    Route(
        method="GET",
        path="/admin/limits/{id}/status",
        permission=Permission.ADMIN_TOKEN,
        endpoint=_status,
        summary="How far a limit's current window has been used",
        query=queries.Fresh,
        answer=limit_answers.LimitStatus,
    ),
)
