"""Crossings: each mark of each window once, whoever looks and however often."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from meterproxy.core.lending import LeaseKey
from meterproxy.core.limit import Measure, Scope
from meterproxy.core.limit_terms import LimitTerms
from meterproxy.core.window import WindowKind
from meterproxy.store import crossings as module
from meterproxy.store.accounts import Accounts
from meterproxy.store.crossings import Crossed, look_through, mark_crossings
from meterproxy.store.limits import LimitRow, Limits
from meterproxy.store.pool import transaction
from tests.ledger.bank import pool_of


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


@pytest.fixture
async def limit(pool: asyncpg.Pool) -> LimitRow:
    account = await Accounts(pool, "test").create("Acme")
    terms = LimitTerms(measure=Measure.TOKENS, window=WindowKind.TOTAL, cap=1000)
    return await Limits(pool, "test").create(Scope.ACCOUNT, account.id, terms)


async def count(pool: asyncpg.Pool, limit: LimitRow, counted: int) -> None:
    """So much has been used of it."""
    await pool.execute(
        "INSERT INTO limit_windows (account_id, limit_id, window_start, cap, drawn, counted)"
        " VALUES ($1, $2, 'epoch', 1000, $3, $3) ON CONFLICT (account_id, limit_id, window_start)"
        " DO UPDATE SET drawn = $3, counted = $3",
        limit.account_id, limit.id, counted,
    )  # fmt: skip


async def marked(pool: asyncpg.Pool, limit: LimitRow) -> list[int]:
    async with transaction(pool) as connection:
        crossed = await mark_crossings(connection, (LeaseKey(limit.account_id, limit.id, 0),))
    return [crossing.mark for crossing in crossed]


async def test_each_mark_is_crossed_once(pool: asyncpg.Pool, limit: LimitRow) -> None:
    """At exactly its share of the cap; what is given back later does not make it be crossed again."""
    assert await marked(pool, limit) == []
    for counted, new in ((749, []), (750, [75]), (899, []), (1200, [90, 100]), (100, []), (800, [])):
        await count(pool, limit, counted)
        assert await marked(pool, limit) == new
    status = await Limits(pool, "test").status(limit.id)
    assert [(crossing.mark, crossing.used, crossing.cap) for crossing in status.crossings] == [
        (75, 750, 1000), (90, 1200, 1000), (100, 1200, 1000),
    ]  # fmt: skip


async def test_several_who_look_at_once_write_it_down_once(pool: asyncpg.Pool, limit: LimitRow) -> None:
    """The primary key decides; nobody fails."""
    await count(pool, limit, 1000)
    found = await asyncio.gather(*(marked(pool, limit) for _ in range(5)))
    assert sorted(mark for marks in found for mark in marks) == [75, 90, 100]


async def test_a_lower_cap_and_a_seed_cross_marks_at_once(pool: asyncpg.Pool, limit: LimitRow) -> None:
    """Nobody has to make a request first; other marks are other crossings."""
    await count(pool, limit, 500)
    limits = Limits(pool, "test")
    await limits.change(limit.id, {"cap": 600})
    assert [crossing.mark for crossing in (await limits.status(limit.id)).crossings] == [75]
    await limits.change(limit.id, {"marks": (10, 80)})
    assert [crossing.mark for crossing in (await limits.status(limit.id)).crossings] == [10, 75, 80]
    await limits.change(limit.id, {"cap": 0})
    assert len((await limits.status(limit.id)).crossings) == 3


async def test_what_a_killed_worker_missed_is_made_up_for(
    pool: asyncpg.Pool, limit: LimitRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at the latest windows of all limits, page by page, by one at a time; retired ones have no say."""
    monkeypatch.setattr(module, "WINDOWS_AT_ONCE", 1)
    terms = LimitTerms(measure=Measure.TOKENS, window=WindowKind.TOTAL, cap=1000)
    limits = Limits(pool, "test")
    others = [await limits.create(Scope.ACCOUNT, limit.account_id, terms) for _ in range(2)]
    for each in (limit, *others):
        await count(pool, each, 760)
    await limits.retire(others[0].id)
    async with transaction(pool) as connection:
        await connection.fetchval("SELECT pg_advisory_xact_lock($1)", module.LOCK)
        assert await look_through(pool) == []
    crossed = await look_through(pool)
    assert crossed == [Crossed(each.account_id, each.id, 0, 75, 760, 1000) for each in (limit, others[1])]
    assert await look_through(pool) == []


async def test_crossings_by_the_minute_are_not_kept_for_ever(
    pool: asyncpg.Pool, limit: LimitRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come again and again; those of budgets and longer windows stay."""
    monkeypatch.setattr(module, "DELETED_AT_ONCE", 2)
    terms = LimitTerms(measure=Measure.REQUESTS, window=WindowKind.MINUTE, cap=5)
    minute = await Limits(pool, "test").create(Scope.ACCOUNT, limit.account_id, terms)
    for each in (limit, minute):
        await pool.execute(
            "INSERT INTO limit_crossings (account_id, limit_id, window_start, mark, used, cap)"
            " SELECT $1, $2, now() - days * interval '1 day', 75, 5, 5 FROM generate_series(1, 12) AS days",
            each.account_id, each.id,
        )  # fmt: skip
    assert await module.delete_old_crossings(pool) == 6
    assert await pool.fetchval("SELECT count(*) FROM limit_crossings") == 12 + 6
