"""Members: who belongs to an organization, in which role, and who is invited to.

Rules
-----
- An organization has an owner at any time. Only owners (and operators) make, change or remove owners.
- Who is removed loses the keys that are his there, in the same transaction.
- An invitation is for one e-mail address, works once, and not for ever; its secret is known by its SHA-256 only. It is
  worth nothing any more when whoever made it may not invite so himself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from meterproxy.core.role import Role
from meterproxy.errors import ApiError, Case
from meterproxy.store.actor import acting
from meterproxy.store.ids import new_id
from meterproxy.store.pool import Connection, transaction
from meterproxy.store.sqlfiles import queries

_SQL: Final = queries("members")
_ACCOUNTS: Final = queries("accounts")

INVITATION_SECONDS: Final = 7 * 86_400
MOST_INVITATIONS: Final = 1000
"""How many of an organization may be open at a time."""


@dataclass(frozen=True, slots=True)
class OrganizationRow:
    """An organization as one of its members sees it."""

    id: UUID
    name: str
    account_id: UUID
    role: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class MemberRow:
    """Somebody in an organization; `created_at` is when he joined."""

    id: UUID
    name: str
    email: str | None
    role: str
    suspended_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class InvitationRow:
    """An invitation, without its secret."""

    id: UUID
    organization_id: UUID
    email: str
    role: str
    created_at: datetime
    expires_at: datetime
    accepted_at: datetime | None
    withdrawn_at: datetime | None


class Members:
    """What is done with members, by people; each call is one transaction and leaves a line in the audit log."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def organizations(self, user_id: UUID, after: UUID | None, limit: int) -> Sequence[OrganizationRow]:
        """The organizations that somebody belongs to, oldest first."""
        async with transaction(self._pool, readonly=True) as connection:
            rows = await connection.fetch(_SQL["list_organizations"], user_id, after, limit)
        return [OrganizationRow(**row) for row in rows]

    async def list(self, organization_id: UUID, after: UUID | None, limit: int) -> Sequence[MemberRow]:
        """Members in the order in which they became users."""
        async with transaction(self._pool, readonly=True) as connection:
            rows = await connection.fetch(_SQL["list_members"], organization_id, after, limit)
        return [MemberRow(**row) for row in rows]

    async def change(self, organization_id: UUID, user_id: UUID, role: Role, *, by_owner: bool) -> MemberRow:
        """Give a member another role. Raises ApiError NOT_FOUND, PERMISSION_DENIED, CONFLICT (the last owner)."""
        async with transaction(self._pool) as connection:
            await _check_change(connection, organization_id, user_id, role, by_owner=by_owner)
            await connection.execute(_SQL["change_role"], organization_id, user_id, role)
            detail = {"organization": str(organization_id), "role": role}
            await _note(connection, "member.change", "user", user_id, detail)
            row = await connection.fetchrow(_SQL["read_member"], organization_id, user_id)
        assert row is not None
        return MemberRow(**row)

    async def remove(self, organization_id: UUID, user_id: UUID, *, by_owner: bool) -> None:
        """End a membership, and the keys that went with it. Raises ApiError as `change`."""
        async with transaction(self._pool) as connection:
            await _check_change(connection, organization_id, user_id, None, by_owner=by_owner)
            await connection.execute(_SQL["remove_member"], organization_id, user_id)
            revoked = await connection.fetch(_SQL["revoke_keys_of_member"], organization_id, user_id)
            detail = {"organization": str(organization_id), "keys": [str(row["id"]) for row in revoked]}
            await _note(connection, "member.remove", "user", user_id, detail)
            for row in revoked:
                await connection.execute(_ACCOUNTS["record_change"], "key", row["id"])

    # ── invitations ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def invite(
        self, organization_id: UUID, email: str, role: Role, digest: bytes, *, by_owner: bool, inviter: UUID | None
    ) -> InvitationRow:
        """Let whoever has this e-mail address and this secret join. Raises ApiError PERMISSION_DENIED, CONFLICT.

        Args:
            inviter: who invites; None: the operator, by his token.
        """
        if role is Role.OWNER and not by_owner:
            raise ApiError(Case.PERMISSION_DENIED, "Only an owner makes owners.", param="role")
        async with transaction(self._pool) as connection:
            if await connection.fetchval(_SQL["open_invitations"], organization_id) >= MOST_INVITATIONS:
                raise ApiError(Case.CONFLICT, f"At most {MOST_INVITATIONS} invitations may be open at a time.")
            row = await connection.fetchrow(
                _SQL["invite"], new_id(), organization_id, email, role, digest, INVITATION_SECONDS, inviter
            )
            assert row is not None
            detail = {"organization": str(organization_id), "email": email, "role": role}
            await _note(connection, "invitation.create", "invitation", row["id"], detail)
        return InvitationRow(**row)

    async def invitations(self, organization_id: UUID, after: UUID | None, limit: int) -> Sequence[InvitationRow]:
        """Invitations, oldest first, also those that are over."""
        async with transaction(self._pool, readonly=True) as connection:
            rows = await connection.fetch(_SQL["list_invitations"], organization_id, after, limit)
        return [InvitationRow(**row) for row in rows]

    async def withdraw(self, organization_id: UUID, invitation_id: UUID) -> InvitationRow:
        """Let an invitation be worth nothing any more. Raises ApiError NOT_FOUND."""
        async with transaction(self._pool) as connection:
            row = await connection.fetchrow(_SQL["withdraw_invitation"], invitation_id, organization_id)
            if row is None:
                raise ApiError(Case.NOT_FOUND, f"There is no open invitation {invitation_id}.")
            detail = {"organization": str(organization_id)}
            await _note(connection, "invitation.withdraw", "invitation", invitation_id, detail)
        return InvitationRow(**row)

    async def is_invited(self, digest: bytes, email: str) -> bool:
        """Whether somebody with this e-mail address and this secret may join."""
        async with transaction(self._pool, readonly=True) as connection:
            return bool(await connection.fetchval(_SQL["is_invited"], digest, email))

    async def join(self, digest: bytes, user_id: UUID) -> UUID:
        """Accept an invitation; the organization. Raises ApiError NOT_FOUND."""
        async with transaction(self._pool) as connection:
            row = await connection.fetchrow(_SQL["accept_invitation"], digest, user_id)
            if row is None:
                raise ApiError(Case.NOT_FOUND, "This invitation is not for you, was used, or is over.")
            organization_id: UUID = row["organization_id"]
            await connection.execute(_SQL["join"], organization_id, user_id, row["role"])
            detail = {"organization": str(organization_id), "role": row["role"]}
            await _note(connection, "member.join", "user", user_id, detail)
        return organization_id


async def _check_change(
    connection: Connection, organization_id: UUID, user_id: UUID, role: Role | None, *, by_owner: bool
) -> None:
    members = {row["user_id"]: row["role"] for row in await connection.fetch(_SQL["lock_members"], organization_id)}
    if user_id not in members:
        raise ApiError(Case.NOT_FOUND, f"There is no member {user_id}.")
    was_owner = members[user_id] == Role.OWNER
    if (was_owner or role is Role.OWNER) and not by_owner:
        raise ApiError(Case.PERMISSION_DENIED, "Only an owner changes owners.")
    if was_owner and role is not Role.OWNER and list(members.values()).count(Role.OWNER) == 1:
        raise ApiError(Case.CONFLICT, "An organization needs an owner: make somebody else one first.")


async def _note(connection: Connection, action: str, kind: str, subject_id: UUID, detail: dict[str, Any]) -> None:
    told = orjson.dumps(detail).decode()
    await connection.execute(_ACCOUNTS["add_audit"], acting("operator"), action, kind, subject_id, told)
