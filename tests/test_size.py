"""Size: what pages read does not grow with the usage that is kept. `bench.size` measures the same at millions of rows."""

from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg

from bench.size import LATEST, MONTHS, PAGE, fill, overview
from meterproxy.store.activity import Activity, ActivityFilter, Place
from meterproxy.store.pool import open_pool
from meterproxy.store.usage import UsageFigures
from meterproxy.store.whose import Whose

ROWS: Final = 30_000
ACCOUNTS: Final = 10
PARTITIONS: Final = MONTHS + 2
"""Of each month one row is looked at to see whether it is the next."""
FEW: Final = """
SELECT COALESCE(sum(rows), 0)::bigint FROM (
    SELECT count(*) AS rows FROM usage_events GROUP BY date_trunc('month', occurred_at, 'UTC')
) AS months WHERE rows < 500
"""
"""Rows of months that had only begun or were nearly over when it began: PostgreSQL reads such a month whole."""
TOUCHED: Final = """
SELECT sum(seq_tup_read + COALESCE(idx_tup_fetch, 0))::bigint FROM pg_stat_user_tables WHERE relname LIKE 'usage_events%'
"""


async def usage_rows_touched(pool: asyncpg.Pool) -> int:
    """How many usage rows this server has looked at so far; `pool` has one connection, so it has told all of it."""
    await pool.execute("SELECT pg_stat_force_next_flush()")
    await pool.execute("SELECT 1")
    touched: int = await pool.fetchval(TOUCHED)
    return touched


async def test_pages_touch_as_many_usage_rows_as_they_show(database: str) -> None:
    """The overview and statements read sums; a page of the list reads its own rows, however deep it is."""
    account_id = await fill(database, ROWS, ACCOUNTS)
    pool = await open_pool(database, size=1)
    try:
        activity, whose, today = Activity(pool), Whose(account_id), datetime.now(UTC).date()
        few: int = await pool.fetchval(FEW)
        before = await usage_rows_touched(pool)
        await overview(pool, whose)
        shown = await usage_rows_touched(pool)
        assert shown - before <= LATEST + PARTITIONS + few, "the latest requests and nothing else"
        await UsageFigures(pool).report(account_id, "month", today - timedelta(days=364), today)
        assert await usage_rows_touched(pool) == shown
        place: Place | None = None
        seen = []
        while True:
            reached = await usage_rows_touched(pool)
            rows = await activity.list(whose, ActivityFilter(), place, PAGE)
            assert await usage_rows_touched(pool) - reached <= PAGE + PARTITIONS + few
            seen += [row.id for row in rows]
            if len(rows) < PAGE:
                break
            place = rows[-1].occurred_at, rows[-1].id
        kept = await pool.fetch(
            "SELECT id FROM usage_events WHERE account_id = $1 ORDER BY occurred_at DESC, id DESC", account_id
        )
        assert len(seen) > 20 * PAGE
        assert seen == [row["id"] for row in kept], "each row once, in its order"
        exported = b"".join([piece async for piece in activity.exported(whose, ActivityFilter(), "csv")])
        assert exported.count(b"\r\n") == len(kept) + 1
        report = await UsageFigures(pool).report(account_id, "month", today - timedelta(days=365), today)
        charged = await pool.fetchval("SELECT sum(amount_nanos) FROM usage_events WHERE account_id = $1", account_id)
        assert sum(line.counts.amount_nanos for line in report.lines) == charged
    finally:
        await pool.close()
