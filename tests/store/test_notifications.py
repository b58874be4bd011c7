"""Notifications: who sees what, what each has read, and credit that falls."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID

import asyncpg
import pytest

from meterproxy.core.lending import LeaseKey
from meterproxy.core.limit import Measure, Scope
from meterproxy.core.limit_terms import LimitTerms
from meterproxy.core.money import NANOS_PER_USD
from meterproxy.core.purchase import PurchaseTerms
from meterproxy.core.window import WindowKind
from meterproxy.errors import ApiError, Case
from meterproxy.store import credit_marks, notifications
from meterproxy.store.accounts import AccountRow, Accounts
from meterproxy.store.credit_marks import CreditMarks, Fallen, Mark, look_through_credit, mark_credit
from meterproxy.store.crossings import mark_crossings
from meterproxy.store.keys import Keys
from meterproxy.store.limits import LimitRow, Limits
from meterproxy.store.notifications import Notifications, Reader
from meterproxy.store.pool import transaction
from meterproxy.store.purchases import Purchases
from tests.ledger.bank import pool_of

USD = NANOS_PER_USD


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


@pytest.fixture
async def account(pool: asyncpg.Pool) -> AccountRow:
    return await Accounts(pool, "test").create("Acme")


async def looked(pool: asyncpg.Pool, account: AccountRow) -> list[str]:
    async with transaction(pool) as connection:
        return [fallen.kind for fallen in await mark_credit(connection, [account.id])]


async def test_credit_that_falls_is_told_once_until_it_was_above(pool: asyncpg.Pool, account: AccountRow) -> None:
    """Below a dollar where nobody has set another mark, and when it is used up; several who look tell it once."""
    accounts = Accounts(pool, "test")
    assert await looked(pool, account) == []
    for amount, told in (
        (5 * USD, []), (-4 * USD, []), (-1, ["credit.low"]), (-1, []), (-USD, ["credit.exhausted"]), (-USD, []),
        (USD // 2 * 5, []), (2 * USD, []), (-3 * USD, ["credit.low"]),
    ):  # fmt: skip
        await accounts.credit(account.id, amount, "adjustment")
        at_once = await asyncio.gather(*(looked(pool, account) for _ in range(3)))
        assert [kind for kinds in at_once for kind in kinds] == told, amount
    marks = CreditMarks(pool, "test")
    assert await marks.read(account.id) == Mark(USD, None, 7)
    await marks.set(account.id, Mark(USD // 10, None, None))
    assert await looked(pool, account) == []
    await marks.set(account.id, Mark(USD, None, None))
    assert await looked(pool, account) == ["credit.low"]
    await marks.set(account.id, Mark(None, None, None))
    assert (await marks.read(account.id), await looked(pool, account)) == (Mark(None, None, None), [])
    with pytest.raises(ApiError):
        await marks.set(account.id, Mark(0, None, None))


async def test_what_a_killed_worker_did_not_look_at_is_looked_at_by_the_next(
    pool: asyncpg.Pool, account: AccountRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All accounts, page by page, by one at a time; nobody hears of an account that nothing was booked in."""
    monkeypatch.setattr(credit_marks, "ACCOUNTS_AT_ONCE", 1)
    other = await Accounts(pool, "test").create("Other")
    await Accounts(pool, "test").credit(other.id, USD - 1, "grant")
    async with transaction(pool) as connection:
        await connection.fetchval("SELECT pg_advisory_xact_lock($1)", credit_marks.LOCK)
        assert await look_through_credit(pool) == []
    assert await look_through_credit(pool) == [Fallen(other.id, "credit.low")]
    assert await look_through_credit(pool) == []


async def passed(pool: asyncpg.Pool, limit: LimitRow, used: int) -> None:
    """So much of a limit has been used, and somebody looks."""
    await pool.execute(
        "INSERT INTO limit_windows (account_id, limit_id, window_start, cap, drawn, counted)"
        " VALUES ($1, $2, 'epoch', 1000, $3, $3)",
        limit.account_id, limit.id, used,
    )  # fmt: skip
    async with transaction(pool) as connection:
        await mark_crossings(connection, (LeaseKey(limit.account_id, limit.id, 0),))


async def test_a_limit_is_told_to_whom_it_is_about(pool: asyncpg.Pool, account: AccountRow) -> None:
    """The highest mark of a window at a time; to those who see the account, and to whoever has the key; no rate limits."""
    limits = Limits(pool, "test")
    terms = LimitTerms(measure=Measure.TOKENS, window=WindowKind.TOTAL, cap=1000, name="all")
    key = (await Keys(pool, "test").create(account.id, "k")).row
    whole = await limits.create(Scope.ACCOUNT, account.id, terms)
    of_key = await limits.create(Scope.KEY, key.id, replace(terms, name="key's"))
    by_hour = await limits.create(Scope.ACCOUNT, account.id, replace(terms, window=WindowKind.HOUR))
    for limit, used in ((whole, 920), (of_key, 1000), (by_hour, 1000)):
        await passed(pool, limit, used)
    await Purchases(pool, PurchaseTerms()).decline(
        (await Purchases(pool, PurchaseTerms()).order(account.id, 5 * USD)).id, "nothing came"
    )
    told = Notifications(pool)
    everything = Reader(account.id, None, pays=True, reader_id=key.user_id)
    shown = [(row.kind, row.detail.get("mark"), row.subject_id) for row in await told.list(everything)]
    assert shown[1:] == [("limit.passed", 100, of_key.id), ("limit.passed", 90, whole.id)]
    assert shown[0][0] == "purchase.declined"
    assert [row.kind for row in await told.list(replace(everything, pays=False))] == ["limit.passed"] * 2
    (own,) = await told.list(Reader(account.id, key.user_id, pays=False, reader_id=key.user_id))
    assert (own.detail["name"], own.detail["used"], own.detail["cap"]) == ("key's", 1000, 1000)
    assert await told.list(Reader(UUID(int=1), None, pays=True, reader_id=key.user_id)) == []


async def test_each_has_read_what_he_has_read(
    pool: asyncpg.Pool, account: AccountRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by one or all at once, of what he may see; others have not; in time all is forgotten."""
    monkeypatch.setattr(notifications, "DELETED_AT_ONCE", 2)
    accounts, told = Accounts(pool, "test"), Notifications(pool)
    ann, bob = [(await accounts.create_user(account.id, name)).id for name in ("ann", "bob")]
    await pool.execute(
        "INSERT INTO notifications (account_id, kind, user_id, subject_id, detail, occurred_at)"
        " SELECT $1, 'credit.low', CASE number WHEN 2 THEN $2::uuid END, $1, '{}', now() - number * interval '40 days'"
        " FROM generate_series(1, 5) AS number",
        account.id, ann,
    )  # fmt: skip
    owner, member = (
        Reader(account.id, None, pays=True, reader_id=bob),
        Reader(account.id, ann, pays=False, reader_id=ann),
    )
    rows = await told.list(owner)
    assert [row.id for row in await told.list(owner, before=rows[1].id, limit=2)] == [rows[2].id, rows[3].id]
    (own,) = await told.list(member)
    assert (await told.unread(owner), await told.unread(member)) == (5, 1)
    for _ in range(2):
        await told.mark_read(owner, own.id)
    assert (await told.unread(owner), await told.unread(member)) == (4, 1)
    assert own.id not in [row.id for row in await told.list(owner, unread=True)]
    with pytest.raises(ApiError) as refused:
        await told.mark_read(member, rows[0].id)
    assert refused.value.case is Case.NOT_FOUND
    with pytest.raises(ApiError) as refused:
        await told.mark_read(replace(owner, reader_id=None))
    assert refused.value.case is Case.CONFLICT
    await told.mark_read(owner)
    assert (await told.unread(owner), (await told.list(owner))[0].read_at is None) == (0, False)
    assert await notifications.delete_old_notifications(pool) == 3
    assert len(await told.list(owner)) == 2
