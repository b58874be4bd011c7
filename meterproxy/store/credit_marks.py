"""Credit marks: people are told once when what is left of their credit falls below the mark that they have set.

What is ordered by itself then is `recharge`'s, what is told ahead `foreseen`'s.

Rules
-----
- Whoever settles looks at the accounts that it settled in; that several do so at a time changes nothing.
- What was told is told again only after the credit was above the mark in between.
"""

from collections.abc import Collection, Iterable
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg
import orjson

from meterproxy.errors import ApiError, Case
from meterproxy.store.actor import acting
from meterproxy.store.pool import Connection, transaction
from meterproxy.store.sqlfiles import queries

_SQL: Final = queries("notifications")
_ACCOUNTS: Final = queries("accounts")
_UPKEEP: Final = queries("upkeep")

LOCK: Final = 0x6D657465725F636D
ACCOUNTS_AT_ONCE: Final = 1000
_BEFORE_ALL: Final = UUID(int=0)


class Fallen(NamedTuple):
    """An account whose credit has just fallen below its mark, or is used up."""

    account_id: UUID
    kind: str


class Mark(NamedTuple):
    """Below what an account's people are told, and what is ordered by itself then; None: never, and nothing.

    `runs_out_days`: within how many days it must be expected to be used up for them to be told of that; None: never.
    """

    below_nanos: int | None
    recharge_nanos: int | None
    runs_out_days: int | None


async def mark_credit(connection: Connection, account_ids: Iterable[UUID]) -> list[Fallen]:
    """Tell which of these accounts have fallen below their marks; answers those that are new."""
    rows = await connection.fetch(_SQL["mark_credit"], list(account_ids))
    return [Fallen(row["account_id"], row["kind"]) for row in rows]


async def look_through_credit(pool: asyncpg.Pool) -> list[Fallen]:
    """Look at all accounts, page by page, unless somebody else does. Raises StoreUnavailable."""
    fallen: list[Fallen] = []
    after: UUID | None = _BEFORE_ALL
    while after is not None:
        async with transaction(pool) as connection:
            if not await connection.fetchval(_UPKEEP["try_lock"], LOCK):
                return fallen
            rows = await connection.fetch(_SQL["accounts_with_marks"], after, ACCOUNTS_AT_ONCE)
            fallen += await mark_credit(connection, [row["account_id"] for row in rows])
            after = rows[-1]["account_id"] if rows else None
    return fallen


class CreditMarks:
    """What is done with marks, by people; each call is one transaction and leaves a line in the audit log."""

    def __init__(self, pool: asyncpg.Pool, actor: str = "operator") -> None:
        self._pool = pool
        self._actor = actor

    async def read(self, account_id: UUID) -> Mark:
        """The mark of an account."""
        async with transaction(self._pool, readonly=True) as connection:
            row = await connection.fetchrow(_SQL["read_mark"], account_id)
        return Mark(None, None, None) if row is None else Mark(*row)

    async def set(self, account_id: UUID, wanted: Mark, keep: Collection[str] = ()) -> Mark:
        """Move the marks of an account; what `keep` names stays as it is, `recharge_nanos` only if there is a mark.

        Raises:
            ApiError: MALFORMED.
        """
        below_nanos, recharge_nanos, _ = wanted
        if below_nanos is not None and below_nanos <= 0:
            raise ApiError(Case.MALFORMED, "below: must be above zero.", param="below")
        if below_nanos is None and recharge_nanos is not None:
            raise ApiError(Case.MALFORMED, "recharge: needs a mark below which it is ordered.", param="recharge")
        async with transaction(self._pool) as connection:
            row = await connection.fetchrow(_SQL["set_mark"], account_id, *wanted, list(keep))
            assert row is not None
            await connection.execute(_ACCOUNTS["lift_credit_marks"], account_id)
            detail = orjson.dumps(dict(row)).decode()
            await connection.execute(
                _ACCOUNTS["add_audit"], acting(self._actor), "credit.mark", "account", account_id, detail
            )
            return Mark(*row)
