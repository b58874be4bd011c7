"""Keys: the operator's endpoints for the secrets that clients present."""

from typing import Final

from meterproxy.control import answers, bodies, queries
from meterproxy.control.access import Permission
from meterproxy.control.call import Call, Services
from meterproxy.control.route import Route
from meterproxy.errors import Case


async def _create(on: Services, call: Call) -> answers.NewlyMadeKey:
    new = call.body_as(bodies.NewKeyBody)
    key = await on.keys.create(
        new.account_id,
        new.name,
        user_id=new.user_id,
        team_id=new.team_id,
        description=new.description,
        policy=new.policy,
        expires_at=new.expiry,
        reads_usage=new.reads_usage,
    )
    return answers.NewlyMadeKey.made(key)


async def _list(on: Services, call: Call) -> answers.Page[answers.Key]:
    page = call.query_as(queries.AccountPage)
    rows = await on.keys.list(page.account_id, page.cursor, page.limit + 1)
    return answers.Page[answers.Key].of([answers.Key.of(row) for row in rows], page.limit)


async def _revoke(on: Services, call: Call) -> answers.Key:
    return answers.Key.of(await on.keys.revoke(call.id()))


async def _change(on: Services, call: Call) -> answers.Key:
    return answers.Key.of(await on.keys.change(call.id(), call.body_as(bodies.ChangedKey).changes()))


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="GET",
        path="/admin/keys",
        permission=Permission.ADMIN_TOKEN,
        endpoint=_list,
        summary="Keys, oldest first",
        query=queries.AccountPage,
        answer=answers.Page[answers.Key],
    ),
    Route(
        method="POST",
        path="/admin/keys",
        permission=Permission.ADMIN_TOKEN,
        endpoint=_create,
        summary="Make a key; its secret is told this once",
        body=bodies.NewKeyBody,
        answer=answers.NewlyMadeKey,
        status=201,
        refusals=(Case.CONFLICT,),
    ),
    Route(
        method="PATCH",
        path="/admin/keys/{id}",
        permission=Permission.ADMIN_TOKEN,
        endpoint=_change,
        summary="Change a key's name or policy",
        body=bodies.ChangedKey,
        answer=answers.Key,
    ),
    Route(
        method="DELETE",
        path="/admin/keys/{id}",
        permission=Permission.ADMIN_TOKEN,
        endpoint=_revoke,
        summary="Revoke a key, fleet-wide within a second",
        answer=answers.Key,
    ),
)
