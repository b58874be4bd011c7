"""Identities: people whom another issuer introduces, by its own name for them.

Rules
-----
- An issuer and a subject are one person for ever, whatever e-mail address he has by then; another subject of the same
  issuer is another person, also where he was given the address of one who has left.
- A verified address makes somebody the user who has it, where nobody can have taken it before without proof: never an
  operator, and one with a password only where registration is closed. An invitation proves nothing of an address:
  whoever invites names it, and has its secret.
- What none of this settles, an operator does by hand: he links and unlinks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

import asyncpg
import orjson

from meterproxy.core.role import Role
from meterproxy.errors import ApiError, Case
from meterproxy.store.accounts import Accounts
from meterproxy.store.actor import acting
from meterproxy.store.ids import new_id
from meterproxy.store.people import MembershipRow, PersonRow
from meterproxy.store.pool import Connection, transaction
from meterproxy.store.sqlfiles import queries

_SQL: Final = queries("identities")
_PEOPLE: Final = queries("people")
_ACCOUNTS: Final = queries("accounts")

Registration = Literal["open", "invitation", "closed"]


class Introduced(NamedTuple):
    """What an issuer says of somebody; `email` only where it has verified it."""

    issuer: str
    subject: str
    name: str
    email: str | None


@dataclass(frozen=True, slots=True)
class IdentityRow:
    """What an issuer calls somebody."""

    issuer: str
    subject: str
    created_at: datetime


class Identities:
    """Knows people by what another issuer calls them."""

    def __init__(self, pool: asyncpg.Pool, accounts: Accounts, registration: Registration) -> None:
        self._pool = pool
        self._accounts = accounts
        self._registration = registration

    async def person(self, who: Introduced) -> PersonRow | None:
        """Who this is here, made or found at first sight; None where he is suspended.

        Raises:
            ApiError: PERMISSION_DENIED where he may not become a user.
        """
        for _ in range(2):
            async with transaction(self._pool, readonly=True) as connection:
                row = await connection.fetchrow(_SQL["find_identity"], who.issuer, who.subject)
                if row is not None:
                    return await _person(connection, row)
            try:
                async with transaction(self._pool) as connection:
                    await self._take_in(connection, who)
            except asyncpg.UniqueViolationError:  # somebody was faster: he is known by now
                continue
        async with transaction(self._pool, readonly=True) as connection:
            row = await connection.fetchrow(_SQL["find_identity"], who.issuer, who.subject)
            return None if row is None else await _person(connection, row)

    async def of(self, user_id: UUID) -> Sequence[IdentityRow]:
        """What issuers call somebody. Raises ApiError NOT_FOUND."""
        async with transaction(self._pool, readonly=True) as connection:
            return await _of(connection, user_id)

    async def link(
        self, user_id: UUID, issuer: str, subject: str, *, forget_password: bool = False
    ) -> Sequence[IdentityRow]:
        """Let whom an issuer calls so be this user, as an operator says; what issuers call him now.

        Args:
            forget_password: whoever signed in by password, or is signed in, is out.

        Raises:
            ApiError: NOT_FOUND, CONFLICT where he is another user already.
        """
        async with transaction(self._pool) as connection:
            before = await _of(connection, user_id)
            if (issuer, subject) not in {(row.issuer, row.subject) for row in before}:
                await _add(connection, user_id, issuer, subject)
            if forget_password:
                await connection.execute(_SQL["forget_password"], user_id)
                await connection.execute(_PEOPLE["end_resets"], user_id)
                await connection.execute(_PEOPLE["end_other_logins"], user_id, None)
            detail = {"issuer": issuer, "subject": subject, "password_forgotten": forget_password}
            await _note(connection, "user.link", user_id, detail, acting("operator"))
            return await _of(connection, user_id)

    async def unlink(self, user_id: UUID, issuer: str, subject: str) -> Sequence[IdentityRow]:
        """Let whom an issuer calls so be this user no more, and end all his log-ins; what issuers still call him.

        Raises:
            ApiError: NOT_FOUND.
        """
        async with transaction(self._pool) as connection:
            await _of(connection, user_id)
            if await connection.fetchval(_SQL["remove_identity"], issuer, subject, user_id) is None:
                raise ApiError(Case.NOT_FOUND, "This user is not known as that.")
            await connection.execute(_PEOPLE["end_other_logins"], user_id, None)
            await _note(connection, "user.unlink", user_id, {"issuer": issuer, "subject": subject}, acting("operator"))
            return await _of(connection, user_id)

    async def _take_in(self, connection: Connection, who: Introduced) -> None:
        known = None if who.email is None else await connection.fetchrow(_SQL["find_known"], who.email, who.issuer)
        if known is None:
            user_id = await self._made(connection, who)
        elif known["is_operator"] or (known["has_password"] and self._registration != "closed"):
            text = "A user with this e-mail address signs in by password here, so this token cannot stand for him."
            raise ApiError(Case.PERMISSION_DENIED, text)
        elif known["is_another"]:
            text = "A user with this e-mail address is known here as somebody else of this issuer."
            raise ApiError(Case.PERMISSION_DENIED, text)
        else:
            user_id = known["id"]
        await connection.execute(_SQL["add_identity"], who.issuer, who.subject, user_id)
        action = "user.register" if known is None else "user.link"
        await _note(connection, action, user_id, {"issuer": who.issuer, "subject": who.subject})

    async def _made(self, connection: Connection, who: Introduced) -> UUID:
        if not await self._may_come(connection, who.email):
            text = (
                "closed" if self._registration == "closed" else "by invitation only, sent to a verified e-mail address"
            )
            raise ApiError(Case.PERMISSION_DENIED, f"Registration is {text}.")
        user_id, account = new_id(), await self._accounts.make(connection, who.name)
        await connection.execute(
            _PEOPLE["create_person"], user_id, account.organization_id, who.name, who.email, None, False
        )
        await connection.execute(_PEOPLE["add_member"], account.organization_id, user_id, Role.OWNER)
        return user_id

    async def _may_come(self, connection: Connection, email: str | None) -> bool:
        if self._registration == "invitation" and email is not None:
            return bool(await connection.fetchval(_SQL["is_address_invited"], email))
        return self._registration == "open"


async def _of(connection: Connection, user_id: UUID) -> Sequence[IdentityRow]:
    if await connection.fetchrow(_PEOPLE["read_user"], user_id) is None:
        raise ApiError(Case.NOT_FOUND, f"There is no user {user_id}.")
    return [IdentityRow(**row) for row in await connection.fetch(_SQL["identities_of"], user_id)]


async def _add(connection: Connection, user_id: UUID, issuer: str, subject: str) -> None:
    try:
        await connection.execute(_SQL["add_identity"], issuer, subject, user_id)
    except asyncpg.UniqueViolationError as error:
        text = "That issuer's subject is another user already: unlink him there first."
        raise ApiError(Case.CONFLICT, text, param="subject") from error


async def _person(connection: Connection, row: asyncpg.Record) -> PersonRow | None:
    if row["suspended_at"] is not None:
        return None
    places = await connection.fetch(_PEOPLE["memberships_of"], row["id"])
    memberships = [MembershipRow(**{**place, "role": Role(place["role"])}) for place in places]
    return PersonRow(row["id"], row["name"], row["email"], row["is_operator"], None, None, memberships)


async def _note(
    connection: Connection, action: str, user_id: UUID, detail: dict[str, Any], by: str | None = None
) -> None:
    told = orjson.dumps(detail).decode()
    await connection.execute(_ACCOUNTS["add_audit"], by or f"user {user_id}", action, "user", user_id, told)
