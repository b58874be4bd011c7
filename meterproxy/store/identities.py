"""Identities: people whom another issuer introduces, by its own name for them.

Rules
-----
- An issuer and a subject are one person for ever, whatever e-mail address he has by then; another subject of the same
  issuer is another person, also where he was given the address of one who has left.
- A verified address makes somebody the user who has it, where nobody can have taken it before without proof: never an
  operator, and one with a password only where registration is closed. An invitation proves nothing of an address:
  whoever invites names it, and has its secret.
"""

from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

import asyncpg
import orjson

from meterproxy.core.role import Role
from meterproxy.errors import ApiError, Case
from meterproxy.store.accounts import Accounts
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


async def _person(connection: Connection, row: asyncpg.Record) -> PersonRow | None:
    if row["suspended_at"] is not None:
        return None
    places = await connection.fetch(_PEOPLE["memberships_of"], row["id"])
    memberships = [MembershipRow(**{**place, "role": Role(place["role"])}) for place in places]
    return PersonRow(row["id"], row["name"], row["email"], row["is_operator"], None, None, memberships)


async def _note(connection: Connection, action: str, user_id: UUID, detail: dict[str, Any]) -> None:
    told = orjson.dumps(detail).decode()
    await connection.execute(_ACCOUNTS["add_audit"], f"user {user_id}", action, "user", user_id, told)
