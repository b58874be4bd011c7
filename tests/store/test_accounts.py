"""Accounts: what people book is exact, idempotent, bounded, and in force at once."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from meterproxy.errors import ApiError, Case
from meterproxy.store.accounts import MOST_CREDITS_NANOS, AccountRow, Accounts
from meterproxy.store.audit import audit
from tests.ledger.bank import pool_of


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


@pytest.fixture
def accounts(pool: asyncpg.Pool) -> Accounts:
    return Accounts(pool, "test")


@pytest.fixture
async def account(accounts: Accounts) -> AccountRow:
    return await accounts.create("Acme", overdraft_nanos=7)


async def refused(work: object) -> Case:
    with pytest.raises(ApiError) as error:
        await work  # type: ignore[misc]
    return error.value.case


async def test_entries_chain_and_move_the_cap(accounts: Accounts, account: AccountRow, pool: asyncpg.Pool) -> None:
    """Grants, refunds and negative adjustments add up; the cap of the credit is credits and overdraft."""
    for amount, kind in ((1000, "grant"), (500, "purchase"), (-2000, "adjustment"), (3, "refund")):
        await accounts.credit(account.id, amount, kind)
    row = await accounts.read(account.id)
    assert (row.balance_nanos, row.credits_nanos, row.available_nanos) == (-497, -497, -490)
    assert await pool.fetchval("SELECT cap FROM limit_windows") == -490
    entries = await accounts.entries(account.id)
    assert [(entry.entry_no, entry.balance_after_nanos) for entry in entries] == [
        (4, -497),
        (3, -500),
        (2, 1500),
        (1, 1000),
    ]
    assert [entry.entry_no for entry in await accounts.entries(account.id, before=3, limit=1)] == [2]
    assert all(result.ok for result in await audit(pool))


async def test_an_idempotency_key_books_once(accounts: Accounts, account: AccountRow) -> None:
    """The same key with the same body gets the first entry again, at once or later; another body is a conflict."""
    again = await asyncio.gather(*(accounts.credit(account.id, 100, "grant", "x", "k") for _ in range(5)))
    assert {entry.entry_no for entry in again} == {1}
    for amount, kind, description in ((101, "grant", "x"), (100, "purchase", "x"), (100, "grant", "y")):
        assert await refused(accounts.credit(account.id, amount, kind, description, "k")) is Case.CONFLICT
    other = await accounts.create("Other")
    await accounts.credit(other.id, 5, "grant", "", "k")
    await accounts.credit(account.id, 100, "grant", "x")
    assert (await accounts.read(account.id)).balance_nanos == 200
    assert (await accounts.read(other.id)).balance_nanos == 5


@pytest.mark.parametrize(("amount", "kind"), [
    (0, "grant"), (0, "adjustment"), (-1, "grant"), (-1, "purchase"), (-1, "refund"), (1, "deduction"), (1, "overrun"),
    (1, ""), (MOST_CREDITS_NANOS + 1, "grant"), (2**63, "grant"), (-(2**80), "adjustment"),
])  # fmt: skip
async def test_senseless_amounts_are_refused(
    accounts: Accounts, account: AccountRow, pool: asyncpg.Pool, amount: int, kind: str
) -> None:
    """Nothing is booked, and the refusal says what is wrong."""
    assert await refused(accounts.credit(account.id, amount, kind)) is Case.MALFORMED
    assert await pool.fetchval("SELECT count(*) FROM ledger_entries") == 0


async def test_credits_end_where_sums_of_sums_would_not_fit(accounts: Accounts, account: AccountRow) -> None:
    """The highest credit fits, one nanodollar more does not."""
    await accounts.credit(account.id, MOST_CREDITS_NANOS, "grant")
    assert await refused(accounts.credit(account.id, 1, "grant")) is Case.MALFORMED
    await accounts.credit(account.id, -1, "adjustment")
    await accounts.credit(account.id, 1, "grant")


async def test_what_does_not_exist_is_not_found(accounts: Accounts) -> None:
    """Strangers' ids find nothing."""
    nobody = uuid4()
    for work in (
        accounts.read(nobody),
        accounts.entries(nobody),
        accounts.credit(nobody, 1, "grant"),
        accounts.create_user(nobody, "x"),
    ):
        assert await refused(work) is Case.NOT_FOUND
    assert await accounts.find("nobody") is None


async def test_a_ledger_cannot_be_rewritten(accounts: Accounts, account: AccountRow, pool: asyncpg.Pool) -> None:
    """Entries, prices and the audit log are append-only, whoever asks."""
    await accounts.credit(account.id, 1, "grant")
    for table in ("ledger_entries", "audit_log"):
        for statement in (f"DELETE FROM {table}", f"TRUNCATE {table}", f"UPDATE {table} SET actor = 'me'"):
            with pytest.raises(asyncpg.RestrictViolationError):
                await pool.execute(statement)


async def test_concurrent_credits_have_numbers_without_gaps(
    accounts: Accounts, account: AccountRow, pool: asyncpg.Pool
) -> None:
    """Twenty at once: twenty entries, a chain, and twenty steps of the change counter."""
    before = await pool.fetchval("SELECT version FROM change_counter")
    await asyncio.gather(*(accounts.credit(account.id, amount, "grant") for amount in range(1, 21)))
    assert (await accounts.read(account.id)).balance_nanos == 210
    assert await pool.fetchval("SELECT version FROM change_counter") == before + 20
    assert all(result.ok for result in await audit(pool))


async def test_users_and_lists(accounts: Accounts, account: AccountRow) -> None:
    """An e-mail address belongs to one user, whatever its case; accounts are listed by cursor."""
    await accounts.create_user(account.id, "Ada", "ada@example.org")
    assert await refused(accounts.create_user(account.id, "Ada", "ADA@example.org")) is Case.CONFLICT
    named = {name: (await accounts.create(name)).id for name in ("B", "C")}
    every = sorted([account.id, *named.values()])  # in one millisecond ids have no order
    assert [row.id for row in await accounts.list(limit=2)] == every[:2]
    assert [row.id for row in await accounts.list(after=every[1])] == every[2:]
    assert await accounts.find("C") == named["C"]
