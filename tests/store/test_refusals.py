"""Refusals: what limits have refused is summed up by window, and told to people once for each."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import pytest

from meterproxy.core.lending import LeaseKey
from meterproxy.core.limit import Measure, Scope
from meterproxy.core.limit_terms import LimitTerms
from meterproxy.core.window import WindowKind
from meterproxy.store.accounts import AccountRow, Accounts
from meterproxy.store.instants import to_us
from meterproxy.store.keys import Keys
from meterproxy.store.limits import Limits
from meterproxy.store.refusals import RefusalRow, Refusals, Refused
from tests.ledger.bank import pool_of

DAY_US = 86_400_000_000


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


@pytest.fixture
async def account(pool: asyncpg.Pool) -> AccountRow:
    return await Accounts(pool, "test").create("a")


async def limit(pool: asyncpg.Pool, account: AccountRow, window: WindowKind) -> UUID:
    terms = LimitTerms(measure=Measure.REQUESTS, window=window, cap=10, name=f"by {window}")
    return (await Limits(pool, "test").create(Scope.ACCOUNT, account.id, terms, seed=False)).id


def now_us() -> int:
    return to_us(datetime.now(UTC))


async def seen(refusals: Refusals, account: AccountRow) -> dict[UUID, RefusalRow]:
    return {row.limit_id: row for row in await refusals.list(account.id, 10)}


async def kinds(pool: asyncpg.Pool) -> list[str]:
    return [row["kind"] for row in await pool.fetch("SELECT kind FROM notifications ORDER BY id")]


async def test_refusals_of_a_window_are_summed_up_and_told_once(pool: asyncpg.Pool, account: AccountRow) -> None:
    """By several workers; a new window begins at nothing and is told again, one that is over changes nothing."""
    refusals, key = Refusals(pool), await Keys(pool, "test").create(account.id, "loop")
    limit_id, now = await limit(pool, account, WindowKind.DAY), now_us()
    today, yesterday = (LeaseKey(account.id, limit_id, now // DAY_US * DAY_US - ago * DAY_US) for ago in (0, 1))

    await refusals.note([(yesterday, Refused(3, now - 2, key.row.id, 5))])
    await refusals.note([(yesterday, Refused(4, now - 1, key.row.id, 6))])
    assert (await seen(refusals, account))[limit_id].refused == 7
    assert await kinds(pool) == ["limit.refused"]

    await refusals.note([(yesterday, Refused(1, now, key.row.id, 9)), (today, Refused(2, now, key.row.id, 8))])
    await refusals.note([(yesterday, Refused(5, now, key.row.id, 9))])
    row = (await seen(refusals, account))[limit_id]
    assert (row.refused, row.last_amount, row.last_key, row.name) == (2, 8, "loop", "by day")
    assert await kinds(pool) == ["limit.refused", "limit.refused"]


async def test_credit_is_told_again_after_a_day_without_refusals(pool: asyncpg.Pool, account: AccountRow) -> None:
    """It has no windows; people see of the last day only."""
    refusals, now = Refusals(pool), now_us()
    key = await Keys(pool, "test").create(account.id, "k")
    credit = LeaseKey(account.id, await Keys(pool).credit_limit(account.id), 0)
    await refusals.note([(credit, Refused(3, now - 2 * DAY_US, key.row.id, 5))])
    assert await seen(refusals, account) == {}
    for count in (1, 1):
        await refusals.note([(credit, Refused(count, now, key.row.id, 5))])
    (row,) = (await seen(refusals, account)).values()
    assert (row.kind, row.refused) == ("credit", 2)
    assert await kinds(pool) == ["credit.refused", "credit.refused"]


async def test_limits_by_the_minute_refuse_without_a_word(pool: asyncpg.Pool, account: AccountRow) -> None:
    """They would tell it every minute; that they refused is seen all the same."""
    refusals, now = Refusals(pool), now_us()
    limit_id = await limit(pool, account, WindowKind.MINUTE)
    await refusals.note(
        [(LeaseKey(account.id, limit_id, now // 60_000_000 * 60_000_000), Refused(1, now, account.id, 1))]
    )
    assert (await seen(refusals, account))[limit_id].last_key is None
    assert await kinds(pool) == []
