"""Reading at size: `python -m bench.size [--rows 2000000] [--accounts 2000]`.

Fills a database of its own with a year of made-up usage rows and their rollups (no ledger entries: nothing that is
measured reads those of usage), then measures what pages and people read, through the same stores, of the biggest
account (about three rows in a hundred of all). Each figure is the median of its repetitions.
"""

import argparse
import asyncio
import resource
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg

from bench.clusters import USER, nodes
from meterproxy.store.accounts import Accounts
from meterproxy.store.activity import Activity, ActivityFilter, Place
from meterproxy.store.migrate import migrate
from meterproxy.store.pool import open_pool
from meterproxy.store.usage import UsageFigures
from meterproxy.store.whose import Whose
from tests.postgres import reachable_directory

MONTHS: Final = 12
CHUNK: Final = 500_000
FILLERS: Final = 2
PAGE: Final = 51
LATEST: Final = 9
DEEP_PAGES: Final = 1000
EXPORT_ROWS: Final = 500_000
REPEATED: Final = 7
SETTINGS: Final = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "work_mem": "64MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}

FILL: Final = """
INSERT INTO usage_events (account_id, occurred_at, id, user_id, key_id, operation, provider, model, is_stream, ending,
    outcome, status, usage_source, input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
    price_id, markup_ppm, bound_input_tokens, bound_output_tokens, hold_nanos, cost_nanos, amount_nanos, overrun_nanos,
    latency_us, tags, tools, journal_id, journal_position)
SELECT w.account_id, r.at, gen_random_uuid(), w.user_id, w.keys[1 + floor(r.k * 4)], 'chat', 'openai',
    (ARRAY['gpt-4o-mini', 'gpt-4o', 'gpt-4.1', 'gpt-4.1-mini', 'o4-mini'])[1 + floor(power(r.m, 2) * 5)], r.k < 0.6,
    'captured', CASE WHEN r.f < 0.02 THEN 'provider_error' ELSE 'completed' END,
    CASE WHEN r.f < 0.02 THEN 500 ELSE 200 END, 'provider', 100 + floor(r.m * 2000), 0, 0, 50 + floor(r.k * 500), 0,
    $3, 1000000, 3000, 16384, 10000000, 1000 + floor(r.m * 900000), 1000 + floor(r.m * 900000), 0,
    1000 * floor(exp(5 + r.k * 4)),
    CASE WHEN r.m < 0.5 THEN jsonb_build_object('feature', CASE WHEN r.k < 0.0005 THEN 'rare' ELSE 'search' END) END,
    CASE WHEN r.f > 0.9 THEN ARRAY['search', 'browser'] END, $3, 0
FROM (
    SELECT CASE WHEN random() < 0.01 THEN 1 ELSE 1 + floor(power(random(), 2) * $2)::int END AS who,
        now() - random() * interval '364 days' AS at, random() AS k, random() AS m, random() AS f
    FROM generate_series(1, $1)
) r JOIN bench_accounts w ON w.number = r.who
"""
ROLL_UP: Final = (
    """INSERT INTO usage_by_hour (account_id, hour, user_id, key_id, provider, model, operation, requests, failures,
    input_tokens, cached_tokens, output_tokens, cost_nanos, amount_nanos)
    SELECT account_id, date_trunc('hour', occurred_at, 'UTC'), user_id, key_id, provider, model, operation, count(*),
        count(*) FILTER (WHERE outcome <> 'completed'), sum(input_tokens), 0, sum(output_tokens), sum(cost_nanos),
        sum(amount_nanos) FROM usage_events GROUP BY 1, 2, 3, 4, 5, 6, 7""",
    """INSERT INTO usage_by_day (account_id, day, user_id, key_id, provider, model, operation, requests, failures,
    input_tokens, cached_tokens, output_tokens, cost_nanos, amount_nanos)
    SELECT account_id, (hour AT TIME ZONE 'UTC')::date, user_id, key_id, provider, model, operation, sum(requests),
        sum(failures), sum(input_tokens), 0, sum(output_tokens), sum(cost_nanos), sum(amount_nanos)
    FROM usage_by_hour GROUP BY 1, 2, 3, 4, 5, 6, 7""",
    """INSERT INTO latency_by_hour (account_id, hour, model, bucket, requests)
    SELECT account_id, date_trunc('hour', occurred_at, 'UTC'), model,
        ceil(ln(greatest(latency_us / 1000, 1)::float8) / ln(2.0::float8))::int, count(*)
    FROM usage_events GROUP BY 1, 2, 3, 4""",
    """INSERT INTO tags_by_day (account_id, day, tag, value, requests, amount_nanos)
    SELECT account_id, (occurred_at AT TIME ZONE 'UTC')::date, t.key, t.value, count(*), sum(amount_nanos)
    FROM usage_events, jsonb_each_text(tags) t GROUP BY 1, 2, 3, 4""",
    """INSERT INTO tools_by_day (account_id, day, tool, requests)
    SELECT account_id, (occurred_at AT TIME ZONE 'UTC')::date, tool, count(*)
    FROM usage_events, unnest(tools) AS tool GROUP BY 1, 2, 3""",
    "VACUUM ANALYZE",
)


def say(text: str) -> None:
    sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S} {text}\n")
    sys.stderr.flush()


async def fill(dsn: str, rows: int, accounts: int) -> UUID:
    """Make it all; the biggest account."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("SET synchronous_commit = off")
        await connection.execute(
            "CREATE TABLE bench_accounts (number int PRIMARY KEY, account_id uuid, user_id uuid, keys uuid[])"
        )
        pool = await open_pool(dsn, size=2)
        made = Accounts(pool, "bench")
        for number in range(1, accounts + 1):
            account = await made.create(f"Account {number}")
            user = await connection.fetchval("SELECT id FROM users WHERE organization_id = $1", account.organization_id)
            await connection.execute(
                "INSERT INTO bench_accounts VALUES ($1, $2, $3, $4)",
                number,
                account.id,
                user,
                [uuid4() for _ in "1234"],
            )
        await pool.close()
        await connection.execute("SELECT make_usage_partitions(now() - interval '12 months', 14)")
        starts = iter(range(0, rows, CHUNK))
        await asyncio.gather(*(_fill_some(dsn, starts, rows, accounts) for _ in range(FILLERS)))
        for statement in ROLL_UP:
            await connection.execute(statement, timeout=1200)
            say(statement.split("(")[0].strip())
        big: UUID = await connection.fetchval("SELECT account_id FROM bench_accounts WHERE number = 1")
        return big
    finally:
        await connection.close()


async def _fill_some(dsn: str, starts: Iterator[int], rows: int, accounts: int) -> None:
    """Fill in one chunk after the other, beside others who do the same."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("SET synchronous_commit = off")
    for start in starts:
        await connection.execute(FILL, min(CHUNK, rows - start), accounts, uuid4(), timeout=600)
        say(f"{start:,} rows and more")
    await connection.close()


async def median_ms(work: Callable[[], Awaitable[Any]]) -> float:
    """How long it takes, after once for warming up."""
    await work()
    times = []
    for _ in range(REPEATED):
        begun = time.perf_counter()
        await work()
        times.append((time.perf_counter() - begun) * 1000)
    return statistics.median(times)


async def overview(pool: asyncpg.Pool, whose: Whose) -> None:
    """Read what the first page of the dashboard shows."""
    figures, last = UsageFigures(pool), datetime.now(UTC).date()
    first = last - timedelta(days=29)
    await figures.totals(whose, first, last)
    await figures.tools(whose.account_id, first, last)
    await figures.peak_hours(whose, first, last)
    await figures.latencies(whose.account_id, first, last)
    await figures.running(whose)
    await figures.daily(whose, last - timedelta(days=56), last)
    await Accounts(pool).read(whose.account_id)
    await Activity(pool).list(whose, ActivityFilter(), None, LATEST)


async def measure(dsn: str, account_id: UUID) -> dict[str, float]:
    """The figures, in milliseconds but for the last ones."""
    pool = await open_pool(dsn, size=4)
    figures, activity = UsageFigures(pool), Activity(pool)
    whose, last = Whose(account_id), datetime.now(UTC).date()
    key_id = await pool.fetchval("SELECT key_id FROM usage_by_day WHERE account_id = $1 LIMIT 1", account_id)

    async def page(wanted: ActivityFilter, before: Place | None = None) -> None:
        await activity.list(whose, wanted, before, PAGE)

    place: Place | None = None
    for _ in range(DEEP_PAGES):
        rows = await activity.list(whose, ActivityFilter(), place, PAGE)
        if len(rows) < PAGE:
            break
        place = rows[-1].occurred_at, rows[-1].id

    told = {
        "rows of the account": float(
            await pool.fetchval("SELECT sum(requests) FROM usage_by_day WHERE account_id = $1", account_id)
        ),
        "overview ms": await median_ms(lambda: overview(pool, whose)),
        "activity, first page ms": await median_ms(lambda: page(ActivityFilter())),
        "activity, thousandth page ms": await median_ms(lambda: page(ActivityFilter(), place)),
        "by key ms": await median_ms(lambda: page(ActivityFilter(key_id=key_id))),
        "by model ms": await median_ms(lambda: page(ActivityFilter(model="o4-mini"))),
        "by tag ms": await median_ms(lambda: page(ActivityFilter(tag="feature", tag_value="search"))),
        "by rare tag ms": await median_ms(lambda: page(ActivityFilter(tag="feature", tag_value="rare"))),
        "by tool ms": await median_ms(lambda: page(ActivityFilter(tool="browser"))),
        "failed ms": await median_ms(lambda: page(ActivityFilter(completed=False))),
        "month's statement ms": await median_ms(lambda: figures.report(account_id, "day", *_month_before(last))),
        "year's statement ms": await median_ms(
            lambda: figures.report(account_id, "month", last - timedelta(days=364), last)
        ),
    }
    told |= await exported(activity, whose)
    await pool.close()
    return told


async def exported(activity: Activity, whose: Whose) -> dict[str, float]:
    """How fast a file is made, and what it takes of memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun, rows = time.perf_counter(), 0
    async for piece in activity.exported(whose, ActivityFilter(), "csv"):
        rows += piece.count(b"\r\n")
        if rows >= EXPORT_ROWS:
            break
    seconds = time.perf_counter() - begun
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"CSV rows/s": (rows - 1) / seconds, "CSV memory MiB": grown / 1024}


def _month_before(day: date) -> tuple[date, date]:
    last = day.replace(day=1) - timedelta(days=1)
    return last.replace(day=1), last


async def run(rows: int, accounts: int) -> dict[str, float]:
    """Fill a server of its own and measure; nothing of it is left."""
    with reachable_directory() as directory, nodes(directory, "size") as (node,):
        node.make()
        await node.start(**SETTINGS)
        await node.ask(f"CREATE DATABASE {USER}", database="postgres")
        await migrate(node.dsn())
        big = await fill(node.dsn(), rows, accounts)
        return await measure(node.dsn(), big)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.size", description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--accounts", type=int, default=2000)
    given = parser.parse_args(arguments)
    told = asyncio.run(run(given.rows, given.accounts))
    print(f"{given.rows:,} rows of {given.accounts:,} accounts")
    for name, figure in told.items():
        print(f"{name:32} {figure:14,.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
