"""People: made, found by their e-mail, signed in and out; each change is one transaction, in the audit log."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from meterproxy.core.role import Role
from meterproxy.errors import ApiError, Case
from meterproxy.store.accounts import Accounts
from meterproxy.store.actor import acting
from meterproxy.store.ids import new_id
from meterproxy.store.pool import Connection, transaction
from meterproxy.store.sqlfiles import queries

_SQL: Final = queries("people")
_ACCOUNTS: Final = queries("accounts")

FREE_FAILURES: Final = 5
"""How often somebody may be wrong before he has to wait."""
LONGEST_WAIT_SECONDS: Final = 300.0
SHORTEST_WAIT_SECONDS: Final = 0.001


@dataclass(frozen=True, slots=True)
class MembershipRow:
    """Somebody's place in one organization."""

    organization_id: UUID
    account_id: UUID
    role: Role
    name: str


@dataclass(frozen=True, slots=True)
class PersonRow:
    """Somebody who is signed in, and where he belongs; `login_id` is None for the token of another issuer."""

    id: UUID
    name: str
    email: str | None
    is_operator: bool
    login_id: UUID | None
    organization_id: UUID | None
    memberships: Sequence[MembershipRow]


@dataclass(frozen=True, slots=True)
class UserRow:
    """Somebody as operators see him."""

    id: UUID
    organization_id: UUID
    name: str
    email: str | None
    is_operator: bool
    suspended_at: datetime | None
    has_password: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Secret:
    """Who has an e-mail address, the hash of his password, if he has one, and the address as he has given it."""

    user_id: UUID
    password_hash: str | None
    email: str


class People:
    """What is done with people and their log-ins."""

    def __init__(self, pool: asyncpg.Pool, accounts: Accounts) -> None:
        self._pool = pool
        self._accounts = accounts

    async def register(self, name: str, email: str, password_hash: str, *, is_operator: bool = False) -> UUID:
        """Make a user with an organization of his own, which he owns. Raises ApiError CONFLICT (e-mail taken)."""
        user_id = new_id()
        try:
            async with transaction(self._pool) as connection:
                account = await self._accounts.make(connection, name)
                organization_id = account.organization_id
                await connection.execute(
                    _SQL["create_person"], user_id, organization_id, name, email, password_hash, is_operator
                )
                await connection.execute(_SQL["add_member"], organization_id, user_id, Role.OWNER)
                await _note(connection, f"user {user_id}", "user.register", user_id, {"name": name})
        except asyncpg.UniqueViolationError as error:
            raise ApiError(Case.CONFLICT, "A user with this email exists already.", param="email") from error
        return user_id

    async def has_operator(self) -> bool:
        """Whether anybody may do what the operator may."""
        async with transaction(self._pool) as connection:
            return bool(await connection.fetchval(_SQL["has_operator"]))

    async def make_operator(self, name: str, email: str, password_hash: str, organization: str) -> None:
        """Make the first operator, who owns the first organization, or one of this name; once, whoever else does so."""
        user_id = new_id()
        async with transaction(self._pool) as connection:
            await connection.execute(_SQL["lock_people"])
            if await connection.fetchval(_SQL["has_operator"]):
                return
            organization_id = await connection.fetchval(_SQL["first_organization"])
            if organization_id is None:
                organization_id = (await self._accounts.make(connection, organization)).organization_id
            await connection.execute(_SQL["create_person"], user_id, organization_id, name, email, password_hash, True)
            await connection.execute(_SQL["add_member"], organization_id, user_id, Role.OWNER)
            await _note(connection, "first start", "user.operator", user_id, {"name": name})

    async def find(self, email: str) -> Secret | None:
        """Who has this e-mail address and may sign in."""
        async with transaction(self._pool) as connection:
            row = await connection.fetchrow(_SQL["find_by_email"], email)
        return None if row is None else Secret(*row)

    async def password_hash(self, user_id: UUID) -> str | None:
        async with transaction(self._pool) as connection:
            found: str | None = await connection.fetchval(_SQL["password_hash"], user_id)
            return found

    async def set_password(self, user_id: UUID, password_hash: str) -> None:
        """Give somebody a password, whatever he had; it ends all his log-ins, and what else would set one."""
        async with transaction(self._pool) as connection:
            await connection.execute(_SQL["set_password"], user_id, password_hash)
            await _changed(connection, user_id, None, {})

    async def change_password(
        self, user_id: UUID, old_hash: str | None, password_hash: str, login_id: UUID | None
    ) -> str | None:
        """Set it where it is still the one that was checked, and end all log-ins but this one.

        Returns:
            His address, if he has one; None where it was not.
        """
        async with transaction(self._pool) as connection:
            email: str | None = await connection.fetchval(_SQL["change_password"], user_id, old_hash, password_hash)
            if email is not None:
                await _changed(connection, user_id, login_id, {})
            return email

    async def set_password_by(self, digest: bytes, password_hash: str) -> str | None:
        """Set somebody's password who has the secret of a reset, and end all his log-ins.

        Returns:
            His address, if he has one; None where it is no such secret.
        """
        async with transaction(self._pool) as connection:
            user_id = await connection.fetchval(_SQL["use_reset"], digest)
            if user_id is None:
                return None
            email: str = await connection.fetchval(_SQL["set_password"], user_id, password_hash)
            await _changed(connection, user_id, None, {"reset": True})
            return email

    # ── people as operators see them ────────────────────────────────────────────────────────────────────────────────

    async def list(self, looked_for: str | None, after: UUID | None, limit: int) -> Sequence[UserRow]:
        """People in the order in which they came, by a part of their name or e-mail."""
        async with transaction(self._pool, readonly=True) as connection:
            rows = await connection.fetch(_SQL["list_users"], looked_for, after, limit)
        return [UserRow(**row) for row in rows]

    async def suspend(self, user_id: UUID, *, suspended: bool) -> UserRow:
        """Let somebody, and whoever has a key of his, do nothing any more, or let him again.

        Raises:
            ApiError: NOT_FOUND.
        """
        async with transaction(self._pool) as connection:
            row = await connection.fetchrow(_SQL["suspend"], user_id, suspended)
            if row is None:
                raise ApiError(Case.NOT_FOUND, f"There is no user {user_id}.")
            if suspended:
                await connection.execute(_SQL["end_resets"], user_id)
                await connection.execute(_SQL["end_other_logins"], user_id, None)
            action = "user.suspend" if suspended else "user.resume"
            await _note(connection, acting("operator"), action, user_id, {})
            for key in await connection.fetch(_SQL["live_keys"], user_id):
                await connection.execute(_ACCOUNTS["record_change"], "key", key["id"])
            return UserRow(**row)

    async def add_reset(self, user_id: UUID, digest: bytes, seconds: float) -> None:
        """Let whoever has this secret set somebody's password, once. Raises ApiError NOT_FOUND."""
        async with transaction(self._pool) as connection:
            if await connection.fetchrow(_SQL["read_user"], user_id) is None:
                raise ApiError(Case.NOT_FOUND, f"There is no user {user_id}.")
            await connection.execute(_SQL["add_reset"], digest, user_id, seconds)
            await _note(connection, acting("operator"), "user.reset", user_id, {})

    async def add_mailed_reset(self, email: str, digest: bytes, seconds: float, at_most: int) -> str | None:
        """The same for whoever signs in by this address and a password; his address as he has given it.

        None where nobody does, or so many secrets of his work already.
        """
        async with transaction(self._pool) as connection:
            person = await connection.fetchrow(_SQL["lock_by_email"], email)
            if person is None or await connection.fetchval(_SQL["open_resets"], person["id"]) >= at_most:
                return None
            await connection.execute(_SQL["add_reset"], digest, person["id"], seconds)
            await _note(connection, acting("operator"), "user.reset", person["id"], {})
            return str(person["email"])

    async def end_reset(self, digest: bytes) -> None:
        """Let nobody set a password by this secret any more."""
        async with transaction(self._pool) as connection:
            await connection.execute(_SQL["end_reset"], digest)

    # ── log-ins ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def read(self, user_id: UUID, login_id: UUID) -> PersonRow | None:
        """Who is signed in by this log-in; None where that is over."""
        async with transaction(self._pool, readonly=True) as connection:
            row = await connection.fetchrow(_SQL["read_person"], user_id, login_id)
            if row is None:
                return None
            places = await connection.fetch(_SQL["memberships_of"], user_id)
        memberships = [MembershipRow(**{**place, "role": Role(place["role"])}) for place in places]
        return PersonRow(**row, memberships=memberships)

    async def begin_login(self, login_id: UUID, whom: Secret, digest: bytes, seconds: float) -> bool:
        """Sign somebody in; `digest` is of the secret that renews it. False where his password has changed."""
        begun = (login_id, whom.user_id, digest, seconds, whom.password_hash)
        async with transaction(self._pool) as connection:
            return await connection.fetchval(_SQL["begin_login"], *begun) is not None

    async def begin_login_of(self, login_id: UUID, user_id: UUID, digest: bytes, seconds: float) -> bool:
        """The same for whom somebody else vouches. False where he is suspended."""
        async with transaction(self._pool) as connection:
            return await connection.fetchval(_SQL["begin_login_of"], login_id, user_id, digest, seconds) is not None

    async def renew_login(self, digest: bytes, new_digest: bytes, seconds: float) -> tuple[UUID, UUID] | None:
        """Go on with a log-in under another secret; its user and id, None where there is nothing to go on with."""
        async with transaction(self._pool) as connection:
            row = await connection.fetchrow(_SQL["renew_login"], digest, new_digest, seconds)
        return None if row is None else (row["user_id"], row["id"])

    async def set_organization(self, login_id: UUID, organization_id: UUID) -> None:
        """Let a log-in be about another organization, where none is named. Raises ApiError NOT_FOUND."""
        async with transaction(self._pool) as connection:
            if await connection.fetchval(_SQL["set_organization"], login_id, organization_id) is None:
                raise ApiError(Case.NOT_FOUND, "There is no such organization.")

    async def end_login_unless_renewed(self, login_id: UUID, seconds: float) -> None:
        """End a log-in that would go on for less than so long, as it was not renewed just now."""
        async with transaction(self._pool) as connection:
            await connection.execute(_SQL["end_login_unless_renewed"], login_id, seconds)

    async def end_login(self, login_id: UUID) -> None:
        async with transaction(self._pool) as connection:
            await connection.execute(_SQL["end_login"], login_id)

    # ── attempts ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def begin_attempt(
        self, free_failures: Mapping[str, int], longest_wait_seconds: float = LONGEST_WAIT_SECONDS
    ) -> float:
        """Count an attempt to sign in as, or from, each of these as failed, or say for how long it must wait first.

        Args:
            free_failures: by subject, how many failures in a row nobody has to wait for.
        """
        async with transaction(self._pool) as connection:
            subjects = [_digest(subject) for subject in free_failures]
            attempt = connection.transaction()
            await attempt.start()
            for subject, free in zip(subjects, free_failures.values(), strict=True):
                if await connection.fetchval(_SQL["begin_attempt"], subject, free, longest_wait_seconds) is None:
                    await attempt.rollback()
                    seconds = await connection.fetchval(_SQL["blocked_seconds"], subjects)
                    return max(float(seconds), SHORTEST_WAIT_SECONDS)
            await attempt.commit()
        return 0.0

    async def undo_attempts(self, subjects: Collection[str]) -> None:
        """Take attempts back that did not fail; in the order in which they were counted, so that none waits in turn."""
        async with transaction(self._pool) as connection:
            await connection.executemany(_SQL["undo_attempt"], [(_digest(subject),) for subject in subjects])

    async def forget_failures(self, subject: str) -> None:
        async with transaction(self._pool) as connection:
            await connection.execute(_SQL["forget_failures"], _digest(subject))


async def tidy_people(pool: asyncpg.Pool) -> None:
    """Forget log-ins and failures that are long over. Raises StoreUnavailable."""
    async with transaction(pool) as connection:
        await connection.execute(_SQL["tidy_logins"])
        await connection.execute(_SQL["tidy_failures"])
        await connection.execute(_SQL["tidy_resets"])


def _digest(subject: str) -> bytes:
    return hashlib.sha256(subject.encode("utf-8", "surrogatepass")).digest()


async def _changed(connection: Connection, user_id: UUID, login_id: UUID | None, detail: dict[str, Any]) -> None:
    """What a new password brings with it: whoever could do without it can do nothing any more, but by this log-in."""
    await connection.execute(_SQL["end_resets"], user_id)
    await connection.execute(_SQL["end_other_logins"], user_id, login_id)
    await _note(connection, f"user {user_id}", "user.password", user_id, detail)


async def _note(connection: Connection, actor: str, action: str, user_id: UUID, detail: dict[str, Any]) -> None:
    await connection.execute(_ACCOUNTS["add_audit"], actor, action, "user", user_id, orjson.dumps(detail).decode())
