"""Organizations: the endpoints for who belongs to them, and who is invited to."""

import hashlib
import secrets
from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import Final
from uuid import UUID

from meterproxy.control import answers, queries
from meterproxy.control.access import Permission
from meterproxy.control.answers import Answer
from meterproxy.control.auth_endpoints import Email, RenewalToken
from meterproxy.control.bodies import Body, Name, Renamed
from meterproxy.control.call import Call, Services
from meterproxy.control.letters import invitation_letter
from meterproxy.control.principal import User
from meterproxy.control.route import Route
from meterproxy.core.role import Role
from meterproxy.errors import Case
from meterproxy.store.members import InvitationRow


class Organization(Answer):
    """An organization that one belongs to."""

    id: UUID
    name: str
    account_id: UUID
    role: Role
    created_at: datetime


class Member(Answer):
    """Somebody in an organization; `created_at` is when he joined."""

    id: UUID
    name: str
    email: str | None
    role: Role
    suspended_at: datetime | None
    created_at: datetime


class Invitation(Answer):
    """An invitation, without its secret."""

    id: UUID
    organization_id: UUID
    email: str
    role: Role
    created_at: datetime
    expires_at: datetime
    accepted_at: datetime | None
    withdrawn_at: datetime | None


class NewlyMadeInvitation(Invitation):
    """An invitation with its secret, this once: it goes to whom it is for, by mail too where `mailed`."""

    invitation_token: str
    mailed: bool


class Joined(Answer):
    """The organization that one belongs to now."""

    organization_id: UUID


class ChangedMember(Body):
    role: Role


class NewInvitation(Body):
    email: Email
    role: Role = Role.MEMBER


class NewTeam(Body):
    name: Name


class Acceptance(Body):
    invitation_token: RenewalToken


async def organizations(on: Services, call: Call) -> answers.Page[Organization]:
    """The organizations that one belongs to."""
    page = call.query_as(queries.Page)
    rows = await on.members.organizations(_user(call).id, page.cursor, page.limit + 1)
    return answers.Page[Organization].of([Organization(**asdict(row)) for row in rows], page.limit)


async def renamed(on: Services, call: Call) -> answers.OrganizationName:
    """Give the organization another name."""
    row = await on.accounts.change(call.account_id, name=call.body_as(Renamed).name)
    return answers.OrganizationName(id=row.organization_id, name=row.organization)


async def members(on: Services, call: Call) -> answers.Page[Member]:
    """One page of members."""
    page = call.query_as(queries.Page)
    rows = await on.members.list(call.organization_id, page.cursor, page.limit + 1)
    return answers.Page[Member].of([Member(**asdict(row)) for row in rows], page.limit)


async def changed(on: Services, call: Call) -> Member:
    """Give a member another role."""
    role = call.body_as(ChangedMember).role
    row = await on.members.change(call.organization_id, call.id(1), role, by_owner=_is_owner(call))
    return Member(**asdict(row))


async def removed(on: Services, call: Call) -> None:
    """End a membership."""
    await on.members.remove(call.organization_id, call.id(1), by_owner=_is_owner(call))


async def invited(on: Services, call: Call) -> NewlyMadeInvitation:
    """Invite somebody."""
    new, secret, principal = call.body_as(NewInvitation), secrets.token_urlsafe(32), call.acting.principal
    row = await on.members.invite(
        call.organization_id,
        new.email,
        new.role,
        invitation_digest(secret),
        by_owner=_is_owner(call),
        inviter=principal.id if isinstance(principal, User) else None,
    )
    return NewlyMadeInvitation(invitation_token=secret, mailed=await _mailed(on, call, row, secret), **asdict(row))


async def _mailed(on: Services, call: Call, row: InvitationRow, secret: str) -> bool:
    """Whether an invitation is on its way by mail too."""
    mailer = on.mailer
    if mailer is None or not await on.sign_in.may_mail_invitation(call.organization_id, row.email, call.address):
        return False
    closed = on.sign_in.registration == "closed"
    return mailer.post(partial(invitation_letter, mailer, on.accounts, call.account_id, row, secret, closed=closed))


async def invitations(on: Services, call: Call) -> answers.Page[Invitation]:
    """One page of invitations."""
    page = call.query_as(queries.Page)
    rows = await on.members.invitations(call.organization_id, page.cursor, page.limit + 1)
    return answers.Page[Invitation].of([Invitation(**asdict(row)) for row in rows], page.limit)


async def withdrawn(on: Services, call: Call) -> Invitation:
    """Withdraw an invitation."""
    return Invitation(**asdict(await on.members.withdraw(call.organization_id, call.id(1))))


async def accepted(on: Services, call: Call) -> Joined:
    """Join by an invitation."""
    digest = invitation_digest(call.body_as(Acceptance).invitation_token)
    return Joined(organization_id=await on.members.join(digest, _user(call).id))


def invitation_digest(secret: str) -> bytes:
    """By what an invitation's secret is known."""
    return hashlib.sha256(secret.encode()).digest()


def _is_owner(call: Call) -> bool:
    """Whether a caller may do what owners may: an owner, or an operator, who has no role."""
    return call.acting.role in {None, Role.OWNER}


def _user(call: Call) -> User:
    principal = call.acting.principal
    assert isinstance(principal, User), "its permission says so"
    return principal


_MEMBERS: Final = "/api/organizations/{id}/members"
_INVITATIONS: Final = "/api/organizations/{id}/invitations"


async def teams(on: Services, call: Call) -> answers.Page[answers.Team]:
    """One page of teams."""
    page = call.query_as(queries.Page)
    rows = await on.teams.list(call.account_id, page.cursor, page.limit + 1)
    return answers.Page[answers.Team].of([answers.Team.of(row) for row in rows], page.limit)


async def team_made(on: Services, call: Call) -> answers.Team:
    """Make a team."""
    return answers.Team.of(await on.teams.create(call.account_id, call.body_as(NewTeam).name))


async def team_renamed(on: Services, call: Call) -> answers.Team:
    """Give a team another name."""
    row = await on.teams.rename(call.id(1), call.body_as(Renamed).name, call.account_id)
    return answers.Team.of(row)


async def team_removed(on: Services, call: Call) -> None:
    """End a team and its limits."""
    await on.teams.remove(call.id(1), call.account_id)


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="GET",
        path="/api/organizations",
        permission=Permission.SIGNED_IN,
        endpoint=organizations,
        summary="The organizations that one belongs to, oldest first",
        query=queries.Page,
        answer=answers.Page[Organization],
    ),
    Route(
        method="PATCH",
        path="/api/organizations/{id}",
        permission=Permission.MANAGE,
        endpoint=renamed,
        summary="Rename an organization",
        body=Renamed,
        answer=answers.OrganizationName,
        names_organization=True,
    ),
    Route(
        method="GET",
        path=_MEMBERS,
        permission=Permission.READ_ORGANIZATION,
        endpoint=members,
        summary="Who belongs to an organization",
        query=queries.Page,
        answer=answers.Page[Member],
        names_organization=True,
    ),
    Route(
        method="PATCH",
        path=f"{_MEMBERS}/{{user_id}}",
        permission=Permission.MANAGE,
        endpoint=changed,
        summary="Give a member another role",
        body=ChangedMember,
        answer=Member,
        refusals=(Case.CONFLICT,),
        names_organization=True,
    ),
    Route(
        method="DELETE",
        path=f"{_MEMBERS}/{{user_id}}",
        permission=Permission.MANAGE,
        endpoint=removed,
        summary="End a membership, and the keys that went with it",
        status=204,
        refusals=(Case.CONFLICT,),
        names_organization=True,
    ),
    Route(
        method="GET",
        path=_INVITATIONS,
        permission=Permission.READ_ORGANIZATION,
        endpoint=invitations,
        summary="Invitations, oldest first, also those that are over",
        query=queries.Page,
        answer=answers.Page[Invitation],
        names_organization=True,
    ),
    Route(
        method="POST",
        path=_INVITATIONS,
        permission=Permission.MANAGE,
        endpoint=invited,
        summary="Invite somebody; the secret is told this once",
        body=NewInvitation,
        answer=NewlyMadeInvitation,
        status=201,
        refusals=(Case.CONFLICT,),
        names_organization=True,
    ),
    Route(
        method="DELETE",
        path=f"{_INVITATIONS}/{{invitation_id}}",
        permission=Permission.MANAGE,
        endpoint=withdrawn,
        summary="Withdraw an invitation",
        answer=Invitation,
        names_organization=True,
    ),
    Route(
        method="GET",
        path="/api/organizations/{id}/teams",
        permission=Permission.READ_ORGANIZATION,
        endpoint=teams,
        summary="Teams, oldest first; the keys of a team share its limits",
        query=queries.Page,
        answer=answers.Page[answers.Team],
        names_organization=True,
    ),
    Route(
        method="POST",
        path="/api/organizations/{id}/teams",
        permission=Permission.MANAGE,
        endpoint=team_made,
        summary="Make a team",
        body=NewTeam,
        answer=answers.Team,
        status=201,
        refusals=(Case.CONFLICT,),
        names_organization=True,
    ),
    Route(
        method="PATCH",
        path="/api/organizations/{id}/teams/{team_id}",
        permission=Permission.MANAGE,
        endpoint=team_renamed,
        summary="Rename a team",
        body=Renamed,
        answer=answers.Team,
        refusals=(Case.CONFLICT,),
        names_organization=True,
    ),
    Route(
        method="DELETE",
        path="/api/organizations/{id}/teams/{team_id}",
        permission=Permission.MANAGE,
        endpoint=team_removed,
        summary="Remove a team with its budgets; its keys go on without them",
        status=204,
        names_organization=True,
    ),
    Route(
        method="POST",
        path="/api/invitations/accept",
        permission=Permission.SIGNED_IN,
        endpoint=accepted,
        summary="Accept an invitation that was sent to one's e-mail address",
        body=Acceptance,
        answer=Joined,
        refusals=(Case.NOT_FOUND,),
    ),
)
