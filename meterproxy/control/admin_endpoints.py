"""Administration: users, organizations, credit and the system, for operators who have signed in.

`/admin` does the same with the admin token, for machines.
"""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

from pydantic import Field, StrictBool

from meterproxy.control import account_endpoints, answers, bodies, queries
from meterproxy.control.access import Permission
from meterproxy.control.answers import Answer, Nanos
from meterproxy.control.call import Call, Services
from meterproxy.control.fleet_endpoints import Fleet, Host
from meterproxy.control.route import Route
from meterproxy.errors import ApiError, Case


class User(Answer):
    """Somebody as operators see him."""

    id: UUID
    organization_id: UUID
    name: str
    email: str | None
    is_operator: bool
    suspended_at: datetime | None
    has_password: bool
    created_at: datetime


class UserPage(queries.Page):
    """One page of people; `q` is a part of a name or e-mail."""

    q: Annotated[str | None, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")] = None


class ChangedUser(bodies.Body):
    suspended: StrictBool


class Reset(Answer):
    """A secret with which somebody sets his password, once, within a day."""

    reset_token: str


class Session(Answer):
    """A worker session that has not ended, and the credit that it keeps out of the pot."""

    session_id: UUID
    host: str
    slot: int
    state: str
    started_at: datetime
    expires_at: datetime
    credit_nanos: Nanos


class Invariant(Answer):
    """One thing that is always true of the books; `detail` says where it is not."""

    name: str
    ok: bool
    detail: str


class System(Answer):
    """How the fleet is; the invariants are looked at only if that is asked for, because it reads all of the books."""

    ready: bool
    reason: str | None
    fleet: Fleet
    hosts: list[Host]
    sessions: list[Session]
    lost_nanos: Nanos
    invariants: list[Invariant] | None


class SystemQuery(queries.Query):
    """Whether to look at the invariants, too."""

    audit: queries.Switch = "0"


async def users(on: Services, call: Call) -> answers.Page[User]:
    """One page of people."""
    page = call.query_as(UserPage)
    rows = await on.people.list(page.q, page.cursor, page.limit + 1)
    return answers.Page[User].of([User(**asdict(row)) for row in rows], page.limit)


async def suspend(on: Services, call: Call) -> User:
    """Suspend somebody, or let him again."""
    suspended = call.body_as(ChangedUser).suspended
    if suspended and getattr(call.acting.principal, "id", None) == call.id():
        raise ApiError(Case.CONFLICT, "Nobody suspends himself.")
    return User(**asdict(await on.people.suspend(call.id(), suspended=suspended)))


async def reset(on: Services, call: Call) -> Reset:
    """Make the secret of a reset."""
    return Reset(reset_token=await on.sign_in.allow_reset(call.id()))


async def system(on: Services, call: Call) -> System:
    """How the fleet is."""
    reason = on.machine.unready()
    invariants = await on.audit() if call.query_as(SystemQuery).audit == "1" else None
    return System(
        ready=reason is None,
        reason=reason,
        fleet=Fleet(**asdict(await on.fleet.read())),
        hosts=[Host(**asdict(host)) for host in await on.fleet.hosts()],
        sessions=[
            Session(
                session_id=row.session_id,
                host=row.host,
                slot=row.slot,
                state=row.state,
                started_at=row.started_at,
                expires_at=row.expires_at,
                credit_nanos=row.credit_nanos,
            )
            for row in await on.lost_sessions.list()
        ],
        lost_nanos=(await on.lost_sessions.total()).nanos,
        invariants=None
        if invariants is None
        else [Invariant(name=one.name, ok=one.ok, detail=one.detail) for one in invariants],
    )


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="GET",
        path="/api/admin/users",
        permission=Permission.OPERATE,
        endpoint=users,
        summary="People, in the order in which they came",
        query=UserPage,
        answer=answers.Page[User],
    ),
    Route(
        method="PATCH",
        path="/api/admin/users/{id}",
        permission=Permission.OPERATE,
        endpoint=suspend,
        summary="Suspend somebody with all his keys, or let him again; in force fleet-wide within a second",
        body=ChangedUser,
        answer=User,
        refusals=(Case.CONFLICT,),
    ),
    Route(
        method="POST",
        path="/api/admin/users/{id}/reset",
        permission=Permission.OPERATE,
        endpoint=reset,
        summary="Let somebody set his password anew, by a secret that is told this once",
        answer=Reset,
        status=201,
    ),
    *account_endpoints.shared("/api/admin", Permission.OPERATE),
    Route(
        method="GET",
        path="/api/admin/organizations",
        permission=Permission.OPERATE,
        endpoint=account_endpoints.listed,
        summary="The same as /api/admin/accounts: an organization has one account",
        query=queries.Page,
        answer=answers.Page[answers.Account],
    ),
    Route(
        method="GET",
        path="/api/admin/system",
        permission=Permission.OPERATE,
        endpoint=system,
        summary="How the fleet is: brakes, hosts, sessions, and with audit=1 the invariants of the books",
        query=SystemQuery,
        answer=System,
    ),
)
