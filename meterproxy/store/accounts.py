"""Accounts: organizations with their credit, the users in them, and the entries that people make."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from meterproxy.core.entry import EntryKind
from meterproxy.core.limit import Scope
from meterproxy.core.limit_terms import LimitTerms
from meterproxy.core.money import MAX_NANOS
from meterproxy.core.role import Role
from meterproxy.errors import ApiError, Case
from meterproxy.store.actor import acting
from meterproxy.store.export import FileFormat, exported
from meterproxy.store.ids import new_id
from meterproxy.store.limits import expose, make_limit
from meterproxy.store.pool import Connection, retried, transaction
from meterproxy.store.sqlfiles import queries

_SQL: Final = queries("accounts")
_PEOPLE: Final = queries("people")

CREDIT_KINDS: Final = ("grant", "purchase", "refund", "adjustment")
"""Kinds of entries that people may make; only an adjustment may be negative."""

MOST_CREDITS_NANOS: Final = MAX_NANOS // 4
"""No account's credits may pass this (about 2.3 billion dollars), so that sums of sums stay within `bigint`."""


ENTRIES_CSV_HEADER: Final = "entry_no,created_at,kind,amount,balance_after,request_id,description\r\n"


@dataclass(frozen=True, slots=True)
class AccountRow:
    """An account as people read it; `held_nanos` is as last reported by the workers, with what durable holds hold."""

    id: UUID
    organization_id: UUID
    organization: str
    balance_nanos: int
    credits_nanos: int
    overdraft_nanos: int
    created_at: datetime
    frozen_at: datetime | None
    leased_nanos: int
    held_nanos: int
    as_of: datetime

    @property
    def available_nanos(self) -> int:
        """What new requests may still take: balance + overdraft − held."""
        return self.balance_nanos + self.overdraft_nanos - self.held_nanos


@dataclass(frozen=True, slots=True)
class EntryRow:
    """One immutable entry of an account's ledger."""

    account_id: UUID
    entry_no: int
    kind: str
    amount_nanos: int
    balance_after_nanos: int
    request_id: UUID | None
    description: str
    actor: str
    idempotency_key: str | None
    idempotency_digest: bytes | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class UserRow:
    """A person or service in an organization."""

    id: UUID
    organization_id: UUID
    name: str
    email: str | None
    is_service: bool
    created_at: datetime


class Accounts:
    """What is done with accounts, by people; each call is one transaction and leaves a line in the audit log.

    `new_limits` are made with each new account, and so is its exposure where holds are adaptive.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        actor: str = "operator",
        new_limits: Sequence[LimitTerms] = (),
        exposure_nanos: int | None = None,
    ) -> None:
        self._exposure_nanos = exposure_nanos
        self._pool = pool
        self._actor = actor
        self._new_limits = new_limits

    async def create(self, name: str, *, overdraft_nanos: int = 0) -> AccountRow:
        """Make an organization with its account, its credit limit and its service user."""
        async with transaction(self._pool) as connection:
            return await self.make(connection, name, overdraft_nanos=overdraft_nanos)

    async def make(self, connection: Connection, name: str, *, overdraft_nanos: int = 0) -> AccountRow:
        """The same within a transaction."""
        account_id, organization_id = new_id(), new_id()
        await connection.execute(_SQL["create_organization"], organization_id, name)
        await connection.execute(_SQL["create_account"], account_id, organization_id, overdraft_nanos)
        await connection.execute(_SQL["create_credit_limit"], new_id(), account_id, overdraft_nanos)
        await connection.fetchrow(_SQL["create_user"], new_id(), organization_id, f"{name} service"[:200], None, True)
        await self._audit(connection, "account.create", account_id, {"name": name})
        for terms in self._new_limits:
            await make_limit(connection, acting(self._actor), account_id, Scope.ACCOUNT, account_id, terms, seed=False)
        if self._exposure_nanos is not None:
            await expose(connection, account_id, self._exposure_nanos)
        return await _read(connection, account_id)

    async def read(self, account_id: UUID) -> AccountRow:
        """One account. Raises ApiError NOT_FOUND."""
        async with transaction(self._pool) as connection:
            return await _read(connection, account_id)

    async def list(self, after: UUID | None = None, limit: int = 50) -> Sequence[AccountRow]:
        """Accounts in the order they were made, after a cursor."""
        async with transaction(self._pool) as connection:
            return [AccountRow(**row) for row in await connection.fetch(_SQL["list_accounts"], after, limit)]

    async def look(self, account_ids: Sequence[UUID]) -> dict[UUID, tuple[int, ...]]:
        """What of some accounts moves when anything is booked or held."""
        async with transaction(self._pool, readonly=True) as connection:
            rows = await connection.fetch(_SQL["look_at_accounts"], account_ids)
        return {row["id"]: tuple(row)[1:] for row in rows}

    async def find(self, name: str) -> UUID | None:
        """The account of the organization with this name."""
        async with transaction(self._pool) as connection:
            found: UUID | None = await connection.fetchval(_SQL["find_account"], name)
            return found

    async def of_organization(self, organization_id: UUID) -> UUID | None:
        """The account of an organization, if there is such an organization."""
        async with transaction(self._pool) as connection:
            found: UUID | None = await connection.fetchval(_SQL["account_of_organization"], organization_id)
            return found

    async def credit(
        self,
        account_id: UUID,
        amount_nanos: int,
        kind: str,
        description: str = "",
        idempotency_key: str | None = None,
        came_at: datetime | None = None,
    ) -> EntryRow:
        """Book a grant, purchase, refund or adjustment; in force fleet-wide with the next look at the change counter.

        Args:
            came_at: where it did not come now, as what is made up.

        Raises:
            ApiError: NOT_FOUND (account), MALFORMED (senseless amount), CONFLICT (the idempotency key was used for
                something else).
        """
        _check_credit(amount_nanos, kind)
        digest = hashlib.sha256(orjson.dumps([amount_nanos, kind, description])).digest()

        async def attempt() -> EntryRow:
            async with transaction(self._pool) as connection:
                account = await have_account(connection, account_id)
                earlier = await _earlier(connection, account_id, idempotency_key, digest)
                if earlier:
                    return earlier
                return await book(
                    connection, acting(self._actor), account, amount_nanos, kind, description, idempotency_key or None,
                    digest if idempotency_key else None, came_at,
                )  # fmt: skip

        return await retried(attempt)

    async def change(
        self,
        account_id: UUID,
        *,
        frozen: bool | None = None,
        overdraft_nanos: int | None = None,
        name: str | None = None,
    ) -> AccountRow:
        """Freeze or unfreeze an account, move its overdraft, or rename its organization; fleet-wide within a second.

        Raises:
            ApiError: NOT_FOUND, MALFORMED (senseless overdraft).
        """
        if overdraft_nanos is not None and not 0 <= overdraft_nanos <= MOST_CREDITS_NANOS:
            raise ApiError(Case.MALFORMED, "The overdraft must not be negative, nor larger than any account holds.")

        async def attempt() -> AccountRow:
            async with transaction(self._pool) as connection:
                await have_account(connection, account_id)
                await connection.execute(_SQL["change_account"], account_id, overdraft_nanos, frozen)
                before = None
                if name is not None:
                    before = await connection.fetchval(_SQL["rename_organization"], account_id, name)
                given = {"frozen": frozen, "overdraft_nanos": overdraft_nanos, "name": name, "name_before": before}
                detail = {member: value for member, value in given.items() if value is not None}
                await self._audit(connection, "account.change", account_id, detail)
                credit_limit = await connection.fetchval(_SQL["credit_limit"], account_id)
                await connection.execute(_SQL["record_account_change"], "limit", credit_limit, account_id)
                return await _read(connection, account_id)

        return await retried(attempt)

    async def entries(
        self, account_id: UUID, before: int | None = None, limit: int = 50, kinds: Sequence[EntryKind] | None = None
    ) -> Sequence[EntryRow]:
        """Ledger entries, newest first, below a cursor; of some kinds only. Raises ApiError NOT_FOUND."""
        async with transaction(self._pool) as connection:
            await _read(connection, account_id)
            rows = await connection.fetch(_SQL["list_entries"], account_id, before or MAX_NANOS, limit, kinds)
        return [EntryRow(**row) for row in rows]

    def exported_entries(
        self, account_id: UUID, kinds: Sequence[EntryKind] | None, format_: FileFormat
    ) -> AsyncIterator[bytes]:
        """All entries, or those of some kinds, as the pieces of a file; raises as `exported`."""
        return exported(
            self._pool,
            _SQL[f"export_entries_{format_}"],
            lambda before, limit: (account_id, before or MAX_NANOS, limit, kinds),
            lambda page: int(page["last_no"]),
            ENTRIES_CSV_HEADER,
            format_,
        )

    async def create_user(
        self, account_id: UUID, name: str, email: str | None = None, role: Role = Role.MEMBER
    ) -> UserRow:
        """Make a user in the account's organization in this role. Raises ApiError NOT_FOUND, CONFLICT (email taken)."""
        async with transaction(self._pool) as connection:
            organization_id = (await _read(connection, account_id)).organization_id
            try:
                row = await connection.fetchrow(_SQL["create_user"], new_id(), organization_id, name, email, False)
            except asyncpg.UniqueViolationError as error:
                raise ApiError(Case.CONFLICT, "A user with this email exists already.", param="email") from error
            assert row is not None
            await connection.execute(_PEOPLE["add_member"], organization_id, row["id"], role)
            await self._audit(connection, "user.create", row["id"], {"name": name, "role": role})
            return UserRow(**row)

    async def _audit(self, connection: Connection, action: str, subject_id: UUID, detail: dict[str, Any]) -> None:
        kind = action.partition(".")[0]
        await connection.execute(
            _SQL["add_audit"], acting(self._actor), action, kind, subject_id, orjson.dumps(detail).decode()
        )


def _check_credit(amount_nanos: int, kind: str) -> None:
    if kind not in CREDIT_KINDS:
        raise ApiError(Case.MALFORMED, f"kind must be one of {', '.join(CREDIT_KINDS)}.", param="kind")
    if abs(amount_nanos) > 2 * MOST_CREDITS_NANOS:
        raise ApiError(Case.MALFORMED, "The amount is larger than any account holds.", param="amount")
    if amount_nanos == 0 or (amount_nanos < 0 and kind != "adjustment"):
        raise ApiError(Case.MALFORMED, f"The amount of a {kind} must be above zero.", param="amount")


async def have_account(connection: Connection, account_id: UUID) -> asyncpg.Record:
    """Lock an account until the transaction ends; what `book` must know of it. Raises ApiError NOT_FOUND."""
    account = await connection.fetchrow(_SQL["lock_account"], account_id)
    if account is None:
        raise ApiError(Case.NOT_FOUND, f"There is no account {account_id}.")
    return account


async def book(
    connection: Connection,
    actor: str,
    account: asyncpg.Record,
    amount_nanos: int,
    kind: str,
    description: str,
    idempotency_key: str | None = None,
    idempotency_digest: bytes | None = None,
    came_at: datetime | None = None,
) -> EntryRow:
    """Book an entry of people's within a transaction that has the account. Raises ApiError MALFORMED (too much)."""
    if not -MOST_CREDITS_NANOS <= account["credits_nanos"] + amount_nanos <= MOST_CREDITS_NANOS:
        raise ApiError(Case.MALFORMED, "The account's credits would become too large.", param="amount")
    row = await connection.fetchrow(
        _SQL["add_entry"], account["id"], kind, amount_nanos, description, actor, idempotency_key, idempotency_digest,
        came_at,
    )  # fmt: skip
    assert row is not None
    entry = EntryRow(**row)
    told = {"entry_no": entry.entry_no, "amount_nanos": amount_nanos}
    detail = orjson.dumps(told | ({"description": description} if description else {})).decode()
    await connection.execute(_SQL["add_audit"], actor, f"credit.{kind}", "account", account["id"], detail)
    await connection.execute(_SQL["lift_credit_marks"], account["id"])
    credit_limit = await connection.fetchval(_SQL["credit_limit"], account["id"])
    await connection.execute(_SQL["record_change"], "limit", credit_limit)
    return entry


async def _read(connection: Connection, account_id: UUID) -> AccountRow:
    row = await connection.fetchrow(_SQL["read_account"], account_id)
    if row is None:
        raise ApiError(Case.NOT_FOUND, f"There is no account {account_id}.")
    return AccountRow(**row)


async def _earlier(connection: Connection, account_id: UUID, key: str | None, digest: bytes) -> EntryRow | None:
    row = await connection.fetchrow(_SQL["find_entry"], account_id, key) if key else None
    if row is None:
        return None
    if row["idempotency_digest"] != digest:
        raise ApiError(Case.CONFLICT, "This idempotency key was used for another entry.", param="idempotency_key")
    return EntryRow(**row)
