"""Auto-recharge: credit is ordered by itself when what is left falls below the mark that people have set.

Rules
-----
- At most once for each fall, and not while one that was ordered so is pending: the mark's row decides, whoever looks.
- What is ordered so is a purchase like any other: nothing is booked before somebody has seen the money.
- Lock order: the account, then its mark. So it is another transaction than the one that finds out, which has the marks.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg
import orjson

from meterproxy.store.accounts import have_account
from meterproxy.store.pool import Connection, retried, transaction
from meterproxy.store.purchases import MOST_PENDING, make_purchase
from meterproxy.store.sqlfiles import queries

_SQL: Final = queries("recharge")
_ACCOUNTS: Final = queries("accounts")
_PURCHASES: Final = queries("purchases")

ACTOR: Final = "auto-recharge"


class Recharge(NamedTuple):
    """A purchase that was ordered by itself."""

    account_id: UUID
    purchase_id: UUID
    amount_nanos: int


async def recharge(pool: asyncpg.Pool, account_ids: Sequence[UUID] | None = None) -> list[Recharge]:
    """Order what is due in these accounts, or in all. Raises StoreUnavailable: what is left is due the next time."""
    async with transaction(pool, readonly=True) as connection:
        due = [row["account_id"] for row in await connection.fetch(_SQL["due"], account_ids)]
    made = [await _recharged(pool, account_id) for account_id in due]
    return [each for each in made if each is not None]


async def _recharged(pool: asyncpg.Pool, account_id: UUID) -> Recharge | None:
    async def attempt() -> Recharge | None:
        async with transaction(pool) as connection:
            await have_account(connection, account_id)
            amount_nanos: int | None = await connection.fetchval(_SQL["take_up"], account_id)
            if amount_nanos is None or not await _has_room(connection, account_id):
                return None
            made = await make_purchase(connection, account_id, amount_nanos, automatic=True)
            told = orjson.dumps({"amount_nanos": amount_nanos}).decode()
            await connection.execute(_ACCOUNTS["add_audit"], ACTOR, "purchase.order", "purchase", made, told)
            await connection.execute(_SQL["tell"], made)
            return Recharge(account_id, made, amount_nanos)

    return await retried(attempt)


async def _has_room(connection: Connection, account_id: UUID) -> bool:
    if await connection.fetchval(_SQL["is_pending"], account_id):
        return False
    return bool(await connection.fetchval(_PURCHASES["count_pending"], account_id) < MOST_PENDING)
