"""One's keys: the endpoints by which people make, see, rotate and revoke keys of their organization.

Members see and change their own; who manages the organization, everybody's.
"""

from typing import Annotated, Final

from pydantic import Field

from meterproxy.control import answers, bodies, queries
from meterproxy.control.access import Permission, reads_all
from meterproxy.control.call import Call, Services
from meterproxy.control.principal import User
from meterproxy.control.route import Route
from meterproxy.control.usage_endpoints import Stats, StatsQuery, stats
from meterproxy.core.key import KeyPolicy
from meterproxy.core.role import Role
from meterproxy.errors import ApiError, Case
from meterproxy.store.keys import KeyRow
from meterproxy.store.whose import Whose

LONGEST_GRACE_SECONDS: Final = 30 * 86_400


class OwnKey(bodies.KeyBody):
    """A key of one's own."""


class Rotation(bodies.Body):
    """How long the old secret goes on working beside the new one."""

    grace_seconds: Annotated[int, Field(ge=0, le=LONGEST_GRACE_SECONDS, strict=True)] = 0


async def created(on: Services, call: Call) -> answers.NewlyMadeKey:
    """Make a key of one's own."""
    new, principal = call.body_as(OwnKey), call.acting.principal
    _check_reader(call, reads_usage=new.reads_usage)
    user = principal if isinstance(principal, User) and call.acting.role is not None else None
    key = await on.keys.create(
        call.account_id,
        new.name,
        user_id=None if user is None else user.id,
        team_id=new.team_id,
        description=new.description,
        policy=KeyPolicy(new.models, new.operations, new.networks, new.highest_request),
        expires_at=new.expires_at,
        reads_usage=new.reads_usage,
    )
    return answers.NewlyMadeKey.made(key)


async def listed(on: Services, call: Call) -> answers.Page[answers.Key]:
    """One page of keys."""
    page = call.query_as(queries.Page)
    rows = await on.keys.list(call.account_id, page.cursor, page.limit + 1, user_id=call.acting.user_id)
    return answers.Page[answers.Key].of([answers.Key.of(row) for row in rows], page.limit)


async def changed(on: Services, call: Call) -> answers.Key:
    """Change a key's name or policy."""
    key, wish = await visible(on, call, changes=True), call.body_as(bodies.ChangedKey)
    _check_reader(call, reads_usage=wish.reads_usage)
    return answers.Key.of(await on.keys.change(key.id, wish.changes()))


async def revoked(on: Services, call: Call) -> answers.Key:
    """Revoke a key."""
    return answers.Key.of(await on.keys.revoke((await visible(on, call, changes=True)).id))


async def rotated(on: Services, call: Call) -> answers.NewlyMadeKey:
    """Give a key another secret."""
    key = await visible(on, call, changes=True)
    return answers.NewlyMadeKey.made(await on.keys.rotate(key.id, call.body_as(Rotation).grace_seconds))


async def used(on: Services, call: Call) -> Stats:
    """What a key has used."""
    key = await visible(on, call, changes=False)
    return await stats(on, Whose(call.account_id, key_id=key.id), call.query_as(StatsQuery))


async def refreshed(on: Services, call: Call) -> answers.NewlyMadeKey:
    """Another secret for the key that one made last; the old one dies. Who has none gets a key."""
    principal = call.acting.principal
    user_id = principal.id if isinstance(principal, User) and call.acting.role is not None else None
    latest = await on.keys.latest(call.account_id, user_id)
    if latest is None:
        return answers.NewlyMadeKey.made(await on.keys.create(call.account_id, "default", user_id=user_id))
    return answers.NewlyMadeKey.made(await on.keys.rotate(latest))


def _check_reader(call: Call, *, reads_usage: bool) -> None:
    """Nobody lets a key read what he may not read himself."""
    if reads_usage and not reads_all(call.acting.role):
        raise ApiError(Case.PERMISSION_DENIED, "Your role does not allow this.", param="reads_usage")


def shown(row: KeyRow) -> answers.Key:
    """A key as the API tells it."""
    return answers.Key.of(row)


async def visible(on: Services, call: Call, *, changes: bool) -> KeyRow:
    """The key in the path, if it is one of the organization's that this caller may see. Raises ApiError NOT_FOUND."""
    key = await on.keys.read(call.id(), call.account_id)
    acting = call.acting
    own_only = acting.user_id if not changes or acting.role is Role.MEMBER else None
    if key is None or (own_only is not None and key.user_id != own_only):
        raise ApiError(Case.NOT_FOUND, f"There is no key {call.id()}.")
    return key


_ID: Final = "/api/keys/{id}"

ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="GET",
        path="/api/keys",
        permission=Permission.READ_OWN_KEYS,
        endpoint=listed,
        summary="Keys of the organization, or one's own, oldest first",
        query=queries.Page,
        answer=answers.Page[answers.Key],
    ),
    Route(
        method="POST",
        path="/api/keys",
        permission=Permission.WRITE_OWN,
        endpoint=created,
        summary="Make a key of one's own; its secret is told this once",
        body=OwnKey,
        answer=answers.NewlyMadeKey,
        status=201,
        refusals=(Case.CONFLICT,),
    ),
    Route(
        method="PATCH",
        path=_ID,
        permission=Permission.WRITE_OWN,
        endpoint=changed,
        summary="Change a key's name or policy",
        body=bodies.ChangedKey,
        answer=answers.Key,
    ),
    Route(
        method="DELETE",
        path=_ID,
        permission=Permission.WRITE_OWN,
        endpoint=revoked,
        summary="Revoke a key, fleet-wide within a second",
        answer=answers.Key,
    ),
    Route(
        method="GET",
        path="/api/keys/{id}/usage",
        permission=Permission.READ_OWN_KEYS,
        endpoint=used,
        summary="What a key has used: totals, by day and model, peak hours",
        query=StatsQuery,
        answer=Stats,
    ),
    Route(
        method="POST",
        path="/api/auth/refresh-api-key",
        permission=Permission.WRITE_OWN,
        endpoint=refreshed,
        summary="Another secret for the key that one made last; the old one dies at once",
        answer=answers.NewlyMadeKey,
        status=201,
    ),
    Route(
        method="POST",
        path="/api/keys/{id}/rotate",
        permission=Permission.WRITE_OWN,
        endpoint=rotated,
        summary="A new secret under the same name and policy; the old one works on for its grace",
        body=Rotation,
        answer=answers.NewlyMadeKey,
        status=201,
        refusals=(Case.CONFLICT,),
    ),
)
