"""Accounts and teams: the operator's endpoints for whose credit is spent."""

from typing import Final

from meterproxy.control import answers, bodies, queries
from meterproxy.control.access import Permission
from meterproxy.control.call import Call, Services
from meterproxy.control.route import Route
from meterproxy.errors import Case


async def created(on: Services, call: Call) -> answers.Account:
    """Make an organization with its account."""
    return answers.Account.of(await on.accounts.create(call.body_as(bodies.NewAccount).name))


async def listed(on: Services, call: Call) -> answers.Page[answers.Account]:
    """One page of accounts with their organizations."""
    page = call.query_as(queries.Page)
    rows = await on.accounts.list(page.cursor, page.limit + 1)
    return answers.Page[answers.Account].of([answers.Account.of(row) for row in rows], page.limit)


async def read(on: Services, call: Call) -> answers.Account:
    """One account."""
    if call.query_as(queries.Fresh).fresh == "1":
        await on.machine.settle_now()
    return answers.Account.of(await on.accounts.read(call.id()))


async def changed(on: Services, call: Call) -> answers.Account:
    """Freeze an account, move its overdraft, or rename its organization."""
    wish = call.body_as(bodies.ChangedAccount)
    row = await on.accounts.change(call.id(), frozen=wish.frozen, overdraft_nanos=wish.overdraft, name=wish.name)
    return answers.Account.of(row)


async def credited(on: Services, call: Call) -> answers.Entry:
    """Book a grant, purchase, refund or adjustment."""
    new = call.body_as(bodies.NewCredit)
    row = await on.accounts.credit(call.id(), new.amount, new.kind, new.description, new.idempotency_key)
    return answers.Entry.of(row)


async def entries(on: Services, call: Call) -> answers.Page[answers.Entry]:
    """One page of an account's ledger entries."""
    page = call.query_as(queries.EntryPage)
    rows = await on.accounts.entries(call.id(), page.cursor, page.limit + 1, page.kind)
    return answers.Page[answers.Entry].of([answers.Entry.of(row) for row in rows], page.limit, "entry_no")


async def _create_team(on: Services, call: Call) -> answers.Team:
    new = call.body_as(bodies.NewTeamOfAccount)
    return answers.Team.of(await on.teams.create(new.account_id, new.name))


async def _rename_team(on: Services, call: Call) -> answers.Team:
    return answers.Team.of(await on.teams.rename(call.id(), call.body_as(bodies.Renamed).name))


async def _remove_team(on: Services, call: Call) -> None:
    await on.teams.remove(call.id())


async def _list_teams(on: Services, call: Call) -> answers.Page[answers.Team]:
    page = call.query_as(queries.AccountPage)
    rows = await on.teams.list(page.account_id, page.cursor, page.limit + 1)
    return answers.Page[answers.Team].of([answers.Team.of(row) for row in rows], page.limit)


def shared(root: str, permission: Permission) -> tuple[Route, ...]:
    """What operators do with accounts, by whichever way they have come: below `/admin` or `/api/admin`."""
    return (
        Route(
            method="GET",
            path=f"{root}/accounts",
            permission=permission,
            endpoint=listed,
            summary="Accounts with their organizations, oldest first",
            query=queries.Page,
            answer=answers.Page[answers.Account],
        ),
        Route(
            method="GET",
            path=f"{root}/accounts/{{id}}",
            permission=permission,
            endpoint=read,
            summary="An account with its balance",
            query=queries.Fresh,
            answer=answers.Account,
        ),
        Route(
            method="PATCH",
            path=f"{root}/accounts/{{id}}",
            permission=permission,
            endpoint=changed,
            summary="Freeze or thaw an account, change its overdraft, or rename its organization",
            body=bodies.ChangedAccount,
            answer=answers.Account,
        ),
        Route(
            method="POST",
            path=f"{root}/accounts/{{id}}/credits",
            permission=permission,
            endpoint=credited,
            summary="Grant credit, or book a purchase, a refund or an adjustment",
            body=bodies.NewCredit,
            answer=answers.Entry,
            status=201,
            refusals=(Case.CONFLICT,),
        ),
    )


ROUTES: Final[tuple[Route, ...]] = (
    *shared("/admin", Permission.ADMIN_TOKEN),
    Route(
        method="POST",
        path="/admin/accounts",
        permission=Permission.ADMIN_TOKEN,
        endpoint=created,
        summary="Make an organization with its account",
        body=bodies.NewAccount,
        answer=answers.Account,
        status=201,
    ),
    Route(
        method="GET",
        path="/admin/accounts/{id}/transactions",
        permission=Permission.ADMIN_TOKEN,
        endpoint=entries,
        summary="An account's ledger entries, the latest first",
        query=queries.EntryPage,
        answer=answers.Page[answers.Entry],
    ),
    Route(
        method="GET",
        path="/admin/teams",
        permission=Permission.ADMIN_TOKEN,
        endpoint=_list_teams,
        summary="Teams, oldest first",
        query=queries.AccountPage,
        answer=answers.Page[answers.Team],
    ),
    Route(
        method="POST",
        path="/admin/teams",
        permission=Permission.ADMIN_TOKEN,
        endpoint=_create_team,
        summary="Make a team",
        body=bodies.NewTeamOfAccount,
        answer=answers.Team,
        status=201,
        refusals=(Case.CONFLICT,),
    ),
    Route(
        method="PATCH",
        path="/admin/teams/{id}",
        permission=Permission.ADMIN_TOKEN,
        endpoint=_rename_team,
        summary="Rename a team",
        body=bodies.Renamed,
        answer=answers.Team,
        refusals=(Case.CONFLICT,),
    ),
    Route(
        method="DELETE",
        path="/admin/teams/{id}",
        permission=Permission.ADMIN_TOKEN,
        endpoint=_remove_team,
        summary="Remove a team with its limits; its keys go on without them",
        status=204,
    ),
)
