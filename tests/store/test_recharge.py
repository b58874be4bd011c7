"""Auto-recharge: one order for each fall below the mark, whoever looks, and nothing booked by it."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from meterproxy.core.purchase import PurchaseTerms
from meterproxy.store.accounts import AccountRow, Accounts
from meterproxy.store.credit_marks import CreditMarks, Mark, mark_credit
from meterproxy.store.pool import transaction
from meterproxy.store.purchases import MOST_PENDING, Purchases
from meterproxy.store.recharge import recharge
from tests.ledger.bank import pool_of

USD = 1_000_000_000
NO_MARK, KEPT = Mark(None, None, None), ("recharge_nanos",)


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


@pytest.fixture
async def account(pool: asyncpg.Pool) -> AccountRow:
    """Ten dollars; below five, twenty are ordered."""
    accounts = Accounts(pool, "test")
    account = await accounts.create("a")
    await accounts.credit(account.id, 10 * USD, "grant")
    await CreditMarks(pool, "test").set(account.id, Mark(5 * USD, 20 * USD, None))
    return account


async def book(pool: asyncpg.Pool, account: AccountRow, usd: int) -> None:
    await Accounts(pool, "test").credit(account.id, usd * USD, "adjustment")


async def looked(pool: asyncpg.Pool, account: AccountRow) -> int:
    """Somebody looks as after a batch; how many orders that made."""
    async with transaction(pool) as connection:
        await mark_credit(connection, [account.id])
    return len(await recharge(pool, [account.id]))


async def test_each_fall_below_the_mark_orders_once(pool: asyncpg.Pool, account: AccountRow) -> None:
    """However many look at a time; the order is pending, says that nobody made it, is told, and books nothing."""
    assert await looked(pool, account) == 0
    await book(pool, account, -6)
    assert sum(await asyncio.gather(*(looked(pool, account) for _ in range(8)))) == 1
    purchases = Purchases(pool, PurchaseTerms(), "test")
    (order,) = await purchases.list(account.id)
    assert (order.automatic, order.amount_nanos, order.state, order.ordered_by) == (True, 20 * USD, "pending", None)
    assert await pool.fetchval("SELECT balance_nanos FROM accounts WHERE id = $1", account.id) == 4 * USD
    told = await pool.fetch("SELECT kind FROM notifications ORDER BY id")
    assert [row["kind"] for row in told] == ["credit.low", "purchase.ordered"]
    audited = await pool.fetch("SELECT actor FROM audit_log WHERE action = 'purchase.order'")
    assert [row["actor"] for row in audited] == ["auto-recharge"]

    await purchases.confirm(order.id)
    await book(pool, account, -20)
    assert await looked(pool, account) == 1
    assert await looked(pool, account) == 0


async def test_nothing_is_ordered_while_an_order_waits(pool: asyncpg.Pool, account: AccountRow) -> None:
    """Neither at the next fall while the last one's order is pending, nor beyond as many as may be pending."""
    await book(pool, account, -6)
    assert await looked(pool, account) == 1
    await book(pool, account, 6)
    await book(pool, account, -6)
    assert await looked(pool, account) == 0
    purchases = Purchases(pool, PurchaseTerms(), "test")
    (order,) = await purchases.list(account.id)
    await purchases.decline(order.id)
    assert await looked(pool, account) == 0
    for _ in range(MOST_PENDING):
        await purchases.order(account.id, 5 * USD)
    await book(pool, account, 6)
    await book(pool, account, -6)
    assert await looked(pool, account) == 0


async def test_what_a_killed_worker_has_not_ordered_is_found(pool: asyncpg.Pool, account: AccountRow) -> None:
    """It had told of the fall and died; whoever looks through all accounts orders."""
    await book(pool, account, -6)
    async with transaction(pool) as connection:
        await mark_credit(connection, [account.id])
    (made,) = await recharge(pool)
    assert (made.account_id, made.amount_nanos) == (account.id, 20 * USD)
    assert await recharge(pool) == []


async def test_without_a_mark_nothing_is_ordered(pool: asyncpg.Pool, account: AccountRow) -> None:
    """Taking the mark away takes the order with it; moving the mark leaves it."""
    marks = CreditMarks(pool, "test")
    assert await marks.set(account.id, Mark(6 * USD, None, None), KEPT) == Mark(6 * USD, 20 * USD, None)
    assert await marks.set(account.id, NO_MARK, KEPT) == await marks.read(account.id) == NO_MARK
    await book(pool, account, -9)
    assert await looked(pool, account) == 0
    assert await marks.set(account.id, Mark(6 * USD, None, None), KEPT) == Mark(6 * USD, None, None)
