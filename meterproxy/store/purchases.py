"""Purchases: ordered by those who pay, and ended by them or by whoever sees whether the money came.

Rules
-----
- Nothing is booked but by `confirm`, and that books what arrived: the entry and the purchase's ending are one
  transaction, so that a purchase has one entry whoever confirms it how often, and none where it ended otherwise.
- Whoever orders or ends a purchase has the account locked. The same ending again is the first one's answer; another one
  is a conflict.
- How a purchase is paid is its `method`. There is one, a transfer that an operator confirms.
- What nobody has ordered but the account's own mark is `automatic`: see `recharge`.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from meterproxy.core.money import dollars
from meterproxy.core.purchase import CODE_BYTES, PurchaseState, PurchaseTerms, code_as_written, code_of
from meterproxy.errors import ApiError, Case
from meterproxy.store.accounts import book, have_account
from meterproxy.store.actor import acting
from meterproxy.store.ids import new_id
from meterproxy.store.pool import Connection, retried, transaction
from meterproxy.store.sqlfiles import queries

_SQL: Final = queries("purchases")
_ACCOUNTS: Final = queries("accounts")

TRANSFER: Final = "transfer"
MOST_PENDING: Final = 10
"""How many of an account may be pending at a time."""
MOST_COUNTED: Final = 100


@dataclass(frozen=True, slots=True)
class PurchaseRow:
    """A purchase; `booked_nanos` is what arrived, which may be another amount than was ordered."""

    id: UUID
    account_id: UUID
    organization_id: UUID
    organization: str
    method: str
    code: str
    amount_nanos: int
    reference: str
    state: str
    ordered_by: str | None
    automatic: bool
    created_at: datetime
    ended_at: datetime | None
    reason: str
    booked_nanos: int | None
    entry_no: int | None


class Purchases:
    """What is done with purchases, by people; each call is one transaction and leaves a line in the audit log."""

    def __init__(self, pool: asyncpg.Pool, terms: PurchaseTerms, actor: str = "operator") -> None:
        self._pool = pool
        self._actor = actor
        self.terms: Final = terms

    async def order(
        self,
        account_id: UUID,
        amount_nanos: int,
        reference: str = "",
        idempotency_key: str | None = None,
        user_id: UUID | None = None,
    ) -> PurchaseRow:
        """Order credit; it is pending until somebody confirms that it was paid.

        Raises:
            ApiError: NOT_FOUND (account), MALFORMED (out of bounds), CONFLICT (too many are pending, or the idempotency
                key was used for something else).
        """
        self.check(amount_nanos)
        digest = hashlib.sha256(orjson.dumps([amount_nanos, reference])).digest()

        async def attempt() -> PurchaseRow:
            async with transaction(self._pool) as connection:
                await have_account(connection, account_id)
                earlier = await _earlier(connection, account_id, idempotency_key, digest)
                if earlier:
                    return await _read(connection, earlier)
                if await connection.fetchval(_SQL["count_pending"], account_id) >= MOST_PENDING:
                    text = f"At most {MOST_PENDING} purchases may be pending at a time: cancel what nobody will pay."
                    raise ApiError(Case.CONFLICT, text)
                key = (idempotency_key, digest) if idempotency_key else (None, None)
                made = await make_purchase(connection, account_id, amount_nanos, reference, user_id, *key)
                await self._note(connection, "order", made, {"amount_nanos": amount_nanos})
                return await _read(connection, made)

        return await retried(attempt)

    async def read(self, purchase_id: UUID) -> PurchaseRow:
        """One purchase. Raises ApiError NOT_FOUND."""
        async with transaction(self._pool, readonly=True) as connection:
            return await _read(connection, purchase_id)

    async def list(
        self,
        account_id: UUID | None = None,
        state: PurchaseState | None = None,
        code: str | None = None,
        before: UUID | None = None,
        limit: int = 50,
    ) -> Sequence[PurchaseRow]:
        """Purchases, the latest first, before a cursor."""
        as_written = None if code is None else code_as_written(code)
        async with transaction(self._pool, readonly=True) as connection:
            rows = await connection.fetch(_SQL["list"], account_id, state, as_written, before, limit)
        return [PurchaseRow(**row) for row in rows]

    async def pending(self) -> int:
        """How many wait for an operator, as far as anybody counts."""
        async with transaction(self._pool, readonly=True) as connection:
            return int(await connection.fetchval(_SQL["count_all_pending"], MOST_COUNTED))

    async def cancel(self, account_id: UUID, purchase_id: UUID) -> PurchaseRow:
        """Have a purchase of this account not be paid after all. Raises ApiError NOT_FOUND, CONFLICT (it has ended)."""
        if (await self.read(purchase_id)).account_id != account_id:
            raise _not_there(purchase_id)
        return await self._end(purchase_id, PurchaseState.CANCELLED)

    async def decline(self, purchase_id: UUID, reason: str = "") -> PurchaseRow:
        """Say that a purchase was not paid. Raises ApiError NOT_FOUND, CONFLICT (it has ended otherwise)."""
        return await self._end(purchase_id, PurchaseState.DECLINED, reason=reason)

    async def confirm(self, purchase_id: UUID, amount_nanos: int | None = None) -> PurchaseRow:
        """Book what was paid: what was ordered, or another amount that arrived.

        Raises:
            ApiError: NOT_FOUND, MALFORMED (nothing, or more than any account holds), CONFLICT (it has ended otherwise,
                or was confirmed with another amount).
        """
        if amount_nanos is not None and amount_nanos <= 0:
            raise ApiError(Case.MALFORMED, "amount: must be above zero.", param="amount")
        return await self._end(purchase_id, PurchaseState.CONFIRMED, amount_nanos)

    async def _end(
        self, purchase_id: UUID, state: PurchaseState, amount_nanos: int | None = None, reason: str = ""
    ) -> PurchaseRow:
        async def attempt() -> PurchaseRow:
            async with transaction(self._pool) as connection:
                account = await have_account(connection, (await _read(connection, purchase_id)).account_id)
                purchase = await _read(connection, purchase_id)
                if purchase.state != PurchaseState.PENDING:
                    return _ended_alike(purchase, state, amount_nanos)
                booked: tuple[int | None, int | None] = (None, None)
                if state is PurchaseState.CONFIRMED:
                    booked = await self._book(connection, account, purchase, amount_nanos or purchase.amount_nanos)
                await connection.execute(_SQL["end"], purchase_id, state, reason, *booked)
                told: dict[str, Any] = {"reason": reason} if reason else {}
                told |= {"booked_nanos": booked[0], "entry_no": booked[1]} if booked[0] else {}
                await self._note(connection, _VERBS[state], purchase_id, {"code": purchase.code, **told})
                if state is not PurchaseState.CANCELLED:
                    await connection.execute(_SQL["tell"], purchase_id)
                return await _read(connection, purchase_id)

        return await retried(attempt)

    async def _book(
        self, connection: Connection, account: asyncpg.Record, purchase: PurchaseRow, amount_nanos: int
    ) -> tuple[int, int]:
        text = f"Purchase {purchase.code}" + (f": {purchase.reference}" if purchase.reference else "")
        entry = await book(connection, acting(self._actor), account, amount_nanos, "purchase", text)
        return amount_nanos, entry.entry_no

    async def _note(self, connection: Connection, verb: str, purchase_id: UUID, detail: dict[str, Any]) -> None:
        told = orjson.dumps(detail).decode()
        await connection.execute(
            _ACCOUNTS["add_audit"], acting(self._actor), f"purchase.{verb}", "purchase", purchase_id, told
        )

    def check(self, amount_nanos: int, param: str = "amount") -> None:
        """Whether so much may be bought at a time. Raises ApiError MALFORMED."""
        if not self.terms.least_nanos <= amount_nanos <= self.terms.highest_nanos:
            least, highest = dollars(self.terms.least_nanos), dollars(self.terms.highest_nanos)
            raise ApiError(Case.MALFORMED, f"{param}: must be from {least} to {highest}.", param=param)


_VERBS: Final = {
    PurchaseState.CONFIRMED: "confirm",
    PurchaseState.DECLINED: "decline",
    PurchaseState.CANCELLED: "cancel",
}


def _ended_alike(purchase: PurchaseRow, state: PurchaseState, amount_nanos: int | None) -> PurchaseRow:
    """The first ending, where this one says the same."""
    if purchase.state != state:
        raise ApiError(Case.CONFLICT, f"The purchase {purchase.code} is {purchase.state} already.")
    if amount_nanos is not None and amount_nanos != purchase.booked_nanos:
        text = f"The purchase {purchase.code} was confirmed with another amount."
        raise ApiError(Case.CONFLICT, text, param="amount")
    return purchase


def _not_there(purchase_id: UUID) -> ApiError:
    return ApiError(Case.NOT_FOUND, f"There is no purchase {purchase_id}.")


async def _read(connection: Connection, purchase_id: UUID) -> PurchaseRow:
    row = await connection.fetchrow(_SQL["read"], purchase_id)
    if row is None:
        raise _not_there(purchase_id)
    return PurchaseRow(**row)


async def _earlier(connection: Connection, account_id: UUID, key: str | None, digest: bytes) -> UUID | None:
    row = await connection.fetchrow(_SQL["ordered"], account_id, key) if key else None
    if row is None:
        return None
    if row["idempotency_digest"] != digest:
        raise ApiError(Case.CONFLICT, "This idempotency key was used for another purchase.", param="idempotency_key")
    purchase_id: UUID = row["id"]
    return purchase_id


async def make_purchase(
    connection: Connection, account_id: UUID, amount_nanos: int, reference: str = "", user_id: UUID | None = None,
    idempotency_key: str | None = None, digest: bytes | None = None, *, automatic: bool = False,
) -> UUID:  # fmt: skip
    """Make a pending purchase, under a code that nobody has; the caller has the account locked."""
    while True:
        made: UUID | None = await connection.fetchval(
            _SQL["order"], new_id(), account_id, TRANSFER, code_of(os.urandom(CODE_BYTES)), amount_nanos, reference,
            user_id, idempotency_key, digest, automatic,
        )  # fmt: skip
        if made is not None:
            return made
