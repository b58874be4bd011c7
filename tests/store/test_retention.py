"""Retention: old months go, and nothing is booked twice, lost or out of balance by it."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import asyncpg
import pytest
from msgspec.structs import replace

from meterproxy.config.schema import LEAST_RETENTION_DAYS
from meterproxy.control import log_endpoints
from meterproxy.core.lending import Batch, Noted, Settling
from meterproxy.core.money import NANOS_PER_USD
from meterproxy.core.record import DeferRecord, EndRecord
from meterproxy.core.resource import Resource
from meterproxy.errors import ApiError, StoreUnavailable, Unbookable
from meterproxy.service.invention import DAY_US, invented
from meterproxy.service.upkeep import keep_tidy
from meterproxy.store import retention
from meterproxy.store.accounts import Accounts
from meterproxy.store.activity import Activity, ActivityFilter
from meterproxy.store.audit import audit
from meterproxy.store.explain import explain
from meterproxy.store.idempotency import reverse_replaced
from meterproxy.store.keys import Keys
from meterproxy.store.logged import Booked, Claimed, LoggedEvents
from meterproxy.store.rejected import RejectedRecords
from meterproxy.store.retention import drop_old_usage, kept_by, retained_from
from meterproxy.store.settle import Settlement
from meterproxy.store.sqlfiles import migrations
from meterproxy.store.usage import UsageFigures
from meterproxy.store.whose import Whose
from tests.control.asking import Asking
from tests.control.history import PRICES, spender_of
from tests.dashboard.visitor import Visitor
from tests.ledger.bank import pool_of

DAYS = 150
KEPT_DAYS = 40
MONTHLY = 32
"""The migration from which on what was dropped is known by the month."""
CREDITS = 100 * NANOS_PER_USD


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


class Past(NamedTuple):
    """An account with half a year of exchanges, none of which is booked yet."""

    account_id: UUID
    records: list[EndRecord]

    @property
    def amount(self) -> int:
        return sum(record.amount_nanos for record in self.records)


async def past_of(pool: asyncpg.Pool, rows: int = 90, seed: int = 1) -> Past:
    account = await Accounts(pool).create("Acme")
    await Accounts(pool).credit(account.id, CREDITS, "grant", "", "first")
    key = await Keys(pool).create(account.id, "k")
    now_us = time.time_ns() // 1000
    await pool.execute("SELECT make_usage_partitions(now() - make_interval(days => $1), 5)", DAYS // 2)
    spender = await spender_of(pool, key.row.id)
    return Past(account.id, list(invented([spender], PRICES, now_us - DAYS * DAY_US, now_us, rows, seed)))


async def settle(pool: asyncpg.Pool, records: Sequence[EndRecord], at_once: int = 16) -> None:
    """What a journal with these records has booked: batches are divided where PostgreSQL refuses one of their records."""
    settlement, journal_id = Settlement(pool), uuid4()
    await settlement.progress(journal_id)
    documents = {price.id: price.document() for price in PRICES}

    async def book(start: int, part: Sequence[EndRecord]) -> None:
        endings = [Settling(start + place, record) for place, record in enumerate(part, start=1)]
        batch = Batch(journal_id, start, start + len(part), start + len(part), endings, documents, None)
        try:
            await settlement.book(batch)
        except Unbookable as error:
            if len(part) == 1:
                await settlement.reject(batch, str(error))
            else:
                middle = len(part) // 2
                await book(start, part[:middle])
                await book(start + middle, part[middle:])

    for start in range(0, len(records), at_once):
        await book(start, records[start : start + at_once])


async def broken(pool: asyncpg.Pool) -> list[str]:
    return [f"{result.name}: {result.detail}" for result in await audit(pool) if not result.ok]


async def balance(pool: asyncpg.Pool, past: Past) -> int:
    return (await Accounts(pool).read(past.account_id)).balance_nanos


@pytest.mark.parametrize("seed", range(2))
async def test_whatever_is_told_again_after_its_month_is_gone_is_charged_once(pool: asyncpg.Pool, seed: int) -> None:
    """Journals come back in any order, before and after: each request is charged once, and the books add up."""
    chance = random.Random(seed)
    past = await past_of(pool, rows=60, seed=seed)
    known = [record for record in past.records if chance.random() < 0.7]
    await settle(pool, known)
    assert await drop_old_usage(pool, KEPT_DAYS) > 0
    assert await broken(pool) == []
    for _ in range(2):
        told = list(past.records)
        chance.shuffle(told)
        await settle(pool, told, at_once=chance.randint(1, 40))
        await drop_old_usage(pool, KEPT_DAYS)
        assert await balance(pool, past) == CREDITS - past.amount
    mark = await retained_from(pool)
    assert mark is not None
    late = {
        record.subject.request_id
        for record in past.records
        if record not in known and record.amount_nanos and record.subject.occurred_us < mark.timestamp() * 1_000_000
    }
    assert late, "else this shows nothing"
    waiting = {row["request_id"] for row in await pool.fetch("SELECT request_id FROM settle_rejected")}
    assert waiting == late, "what came too late for a row waits for a person, with its money booked"
    named = [told.partition(":")[0] for told in await broken(pool)]
    assert named == ["no_record_waits_for_a_person"]
    for request_id in waiting:
        await RejectedRecords(pool).see(request_id, "found on a disk")
    assert await broken(pool) == []
    await settle(pool, past.records)
    assert (await balance(pool, past), await broken(pool)) == (CREDITS - past.amount, [])


async def test_sums_and_statements_stay_as_they_were(pool: asyncpg.Pool) -> None:
    """Only lists end where rows do."""
    past = await past_of(pool)
    await settle(pool, past.records)
    whose, figures, today = Whose(past.account_id), UsageFigures(pool), datetime.now(UTC).date()
    span = today - timedelta(days=DAYS), today

    async def told() -> list[Any]:
        return [
            await figures.report(past.account_id, "month", *span),
            await figures.totals(whose, *span),
            await figures.peak_hours(whose, *span),
        ]

    async def listed() -> int:
        return len(await Activity(pool).list(whose, ActivityFilter(), None, 500))

    before, rows = await told(), await listed()
    assert rows == len(past.records)
    dropped = await drop_old_usage(pool, KEPT_DAYS)
    assert await told() == before
    assert (await listed(), dropped > 0) == (rows - dropped, True)
    assert await Activity(pool).list(whose, ActivityFilter(completed=False), None, 500) == [
        row for row in await Activity(pool).list(whose, ActivityFilter(), None, 500) if row.outcome != "completed"
    ]
    mark = await retained_from(pool)
    assert mark is not None
    assert (mark.day, mark.hour, mark.minute) == (1, 0, 0)
    assert mark <= datetime.now(UTC) - timedelta(days=KEPT_DAYS) < mark + timedelta(days=31)
    with pytest.raises(ApiError, match=f"kept from {mark:%Y-%m-%d} on"):
        await explain(pool, past.records[0].subject.request_id)
    assert await drop_old_usage(pool, KEPT_DAYS) == 0
    assert await drop_old_usage(pool, 10_000) == 0, "it never goes back"
    assert await retained_from(pool) == mark


async def test_rows_that_no_month_has_go_as_well(pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the default partition, a slice at a time."""
    monkeypatch.setattr(retention, "ROWS_AT_ONCE", 7)
    past = await past_of(pool)
    await pool.execute("ALTER TABLE usage_events DETACH PARTITION " + await oldest_month(pool))
    await settle(pool, past.records)
    in_default = await pool.fetchval("SELECT count(*) FROM usage_events_default")
    assert in_default > 7
    assert await drop_old_usage(pool, KEPT_DAYS) >= in_default
    assert await pool.fetchval("SELECT count(*) FROM usage_events_default") == 0
    assert await broken(pool) == []


async def oldest_month(pool: asyncpg.Pool) -> str:
    oldest: str = await pool.fetchval(
        "SELECT min(c.relname) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
        "WHERE i.inhparent = 'usage_events'::regclass AND c.relname ~ '[0-9]$'"
    )
    return oldest


KEEPING = {
    "open durable holds": """
        INSERT INTO durable_holds (account_id, request_id, placed_at, resource_kind, resource_id, provider, operation, model,
            price_id, hold_nanos, subject, input_estimate)
        VALUES ($1, $2, $3, 'response', 'r', 'openai', 'response', 'm', $2, 0, '', 0)""",
    "replaced requests that are not decided": """
        INSERT INTO replaced_requests
        VALUES ($1, $2, $3, $2, gen_random_uuid(), $3, $2, 'pending', now(), now(), NULL)""",
    "refused records that nobody has seen to": """
        INSERT INTO settle_rejected (request_id, account_id, amount_nanos, overrun_nanos, journal_id, journal_position, error,
            record, booked)
        SELECT id, account_id, amount_nanos, 0, $2, 0, 'x', '', 'row' FROM usage_events
        WHERE account_id = $1 AND occurred_at >= $3 ORDER BY occurred_at LIMIT 1""",
}


@pytest.mark.parametrize("keeping", KEEPING)
async def test_a_month_in_which_something_may_still_change_is_kept(
    pool: asyncpg.Pool, caplog: pytest.LogCaptureFixture, keeping: str
) -> None:
    """Its row, or that it has none, is still needed; what keeps it is told, in the log once."""
    past = await past_of(pool)
    await settle(pool, past.records)
    at = datetime.now(UTC) - timedelta(days=100)
    await pool.execute(KEEPING[keeping], past.account_id, uuid4(), at)
    for _ in range(2):
        await drop_old_usage(pool, KEPT_DAYS)
    mark = await retained_from(pool)
    assert mark is not None
    assert mark <= at < mark + timedelta(days=62)
    (cause,) = await kept_by(pool, KEPT_DAYS)
    assert (cause.reason, cause.things, cause.since >= mark) == (keeping, 1, True)
    assert [record.reason for record in caplog.records if hasattr(record, "reason")] == [keeping]
    assert await kept_by(pool, DAYS) == [], "what is younger than rows are kept keeps nothing"


async def test_a_record_that_was_seen_to_keeps_no_month(pool: asyncpg.Pool) -> None:
    """Its row goes with the others, and the books say the same with and without it."""
    past = await past_of(pool)
    await settle(pool, past.records)
    await pool.execute(
        KEEPING["refused records that nobody has seen to"],
        past.account_id,
        uuid4(),
        datetime.now(UTC) - timedelta(days=100),
    )
    await drop_old_usage(pool, KEPT_DAYS)
    assert [told.partition(":")[0] for told in await broken(pool)] == ["no_record_waits_for_a_person"]
    (waiting,) = await RejectedRecords(pool).list(10)
    await RejectedRecords(pool).see(waiting.request_id, "")
    assert await drop_old_usage(pool, KEPT_DAYS) > 0
    assert await pool.fetchval("SELECT count(*) FROM usage_events WHERE id = $1", waiting.request_id) == 0
    assert await broken(pool) == []


LATE = ["the first, which answered nobody", "the second, which took its place"]


@pytest.mark.parametrize("abandoned", LATE)
async def test_a_host_that_was_given_up_keeps_no_month(pool: asyncpg.Pool, abandoned: str) -> None:
    """What its journal tells when the month is gone decides all the same which of two charges under a key stays."""
    past = await past_of(pool)
    first, second = past.records[:2]
    lost, known = (first, second) if abandoned == LATE[0] else (second, first)
    await settle(pool, [record for record in past.records if record is not lost])
    sessions = {id(lost): uuid4(), id(known): uuid4()}
    for record, state in ((lost, "abandoned"), (known, "closed")):
        await pool.execute(
            "INSERT INTO worker_sessions (id, journal_id, host, slot, state, expires_at, ended_at) "
            "VALUES ($1, gen_random_uuid(), 'h', 0, $2, now(), now())", sessions[id(record)], state,
        )  # fmt: skip
    await pool.execute(
        "INSERT INTO replaced_requests VALUES ($1, $2, $3, $4, $5, $6, $7, 'pending', now(), now(), NULL)",
        past.account_id, first.subject.request_id, instant(first), sessions[id(first)],
        second.subject.request_id, instant(second), sessions[id(second)],
    )  # fmt: skip
    assert await reverse_replaced(pool) == 0
    assert await drop_old_usage(pool, KEPT_DAYS) > 0
    assert await kept_by(pool, KEPT_DAYS) == []
    assert await broken(pool) == []
    await settle(pool, [lost])
    await pool.execute("UPDATE replaced_requests SET next_look_at = now()")
    assert await reverse_replaced(pool) == 1
    assert await balance(pool, past) == CREDITS - past.amount + first.amount_nanos
    assert [told.partition(":")[0] for told in await broken(pool)] == ["no_record_waits_for_a_person"]


def instant(record: EndRecord) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=record.subject.occurred_us)


async def test_who_reads_is_not_waited_for(pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """While somebody reads the table, months stay, whoever settles goes on, and the next time they go."""
    monkeypatch.setattr(retention, "LOCK_MS", 20)
    past = await past_of(pool)
    await settle(pool, past.records)
    async with pool.acquire() as reader:
        reading = reader.transaction(isolation="repeatable_read", readonly=True)
        await reading.start()
        rows = await reader.fetchval("SELECT count(*) FROM usage_events")
        with pytest.raises(StoreUnavailable, match="lock timeout"):
            await drop_old_usage(pool, KEPT_DAYS)
        assert await retained_from(pool) is None
        await settle(pool, past.records[-1:])
        assert await reader.fetchval("SELECT count(*) FROM usage_events") == rows
        await reading.rollback()
    assert await drop_old_usage(pool, KEPT_DAYS) > 0
    assert await broken(pool) == []


async def test_between_summing_up_and_dropping_the_books_balance(
    pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that dies there leaves a month that refuses rows and is dropped by the next."""
    past = await past_of(pool)
    await settle(pool, past.records)
    with monkeypatch.context() as patch:
        patch.setitem(retention._SQL, "drop_month", "SELECT 1 / (length($1::text) * 0)")
        with pytest.raises(asyncpg.DivisionByZeroError):
            await drop_old_usage(pool, KEPT_DAYS)
    assert await pool.fetchval("SELECT count(*) FROM usage_dropping") > 0
    assert await broken(pool) == []
    await settle(pool, past.records)
    assert await broken(pool) == []
    assert await balance(pool, past) == CREDITS - past.amount
    assert await drop_old_usage(pool, KEPT_DAYS) > 0
    assert await broken(pool) == []


@pytest.mark.parametrize("summed", [False, True])
async def test_a_month_that_somebody_has_taken_out_is_not_dropped(
    pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch, summed: bool
) -> None:
    """What is detached to be kept stays, whenever it was, and the other months go all the same."""
    past = await past_of(pool)
    await settle(pool, past.records)
    with monkeypatch.context() as patch:
        patch.setitem(retention._SQL, "drop_month" if summed else "sum_month", "SELECT 1 / (length($1::text) * 0)")
        with pytest.raises(asyncpg.DivisionByZeroError):
            await drop_old_usage(pool, KEPT_DAYS)
    kept = await oldest_month(pool)
    await pool.execute(f"ALTER TABLE usage_events DETACH PARTITION {kept}")
    rows = await pool.fetchval(f"SELECT count(*) FROM {kept}")
    assert await drop_old_usage(pool, KEPT_DAYS) > 0
    assert await pool.fetchval(f"SELECT count(*) FROM {kept}") == rows > 0
    assert [row["partition"] for row in await pool.fetch("SELECT partition FROM usage_months_over")] == [kept]


async def test_a_month_that_something_hangs_on_keeps_no_other(
    pool: asyncpg.Pool, caplog: pytest.LogCaptureFixture
) -> None:
    """A view of a person's, say: it is told of, and goes when that is gone."""
    past = await past_of(pool)
    await settle(pool, past.records)
    kept = await oldest_month(pool)
    await pool.execute(f"CREATE VIEW reading AS SELECT * FROM {kept}")
    assert await drop_old_usage(pool, KEPT_DAYS) > 0
    assert [row["partition"] for row in await pool.fetch("SELECT partition FROM usage_months_over")] == [kept]
    assert "view reading depends" in next(record.error for record in caplog.records if hasattr(record, "error"))
    assert await broken(pool) == []
    await pool.execute("DROP VIEW reading")
    assert await drop_old_usage(pool, KEPT_DAYS) > 0
    assert await broken(pool) == []


ROLLED = {
    "usage_by_hour": ("hour", "amount_nanos", "rollups_know_what_was_dropped"),
    "usage_by_day": ("day", "requests", "rollups_know_what_was_dropped"),
    "latency_by_hour": ("hour", "requests", "counts_know_what_was_dropped"),
    "tools_by_day": ("day", "requests", "counts_know_what_was_dropped"),
    "tags_by_day": ("day", "amount_nanos", "counts_know_what_was_dropped"),
}


async def test_errors_that_cancel_each_other_are_found_in_what_was_dropped(pool: asyncpg.Pool) -> None:
    """One too much in a month and one too little in another, of each rollup; two keys that have changed places."""
    past = await past_of(pool, rows=200)
    await settle(pool, past.records)
    assert await drop_old_usage(pool, KEPT_DAYS) > 0
    assert await broken(pool) == []
    for table, (at, column, name) in ROLLED.items():
        for change, which, order in (("+ 1", "min", "DESC"), ("- 1", "max", "ASC")):  # so that the same are found again
            await pool.execute(
                f"UPDATE {table} SET {column} = {column} {change} WHERE ctid = (SELECT ctid FROM {table} WHERE {at} = "
                f"(SELECT {which}({at}) FROM {table} WHERE {at} < retained_day()) ORDER BY {column} {order} LIMIT 1)"
            )
        found = [told for told in await broken(pool) if told.startswith(name)]
        assert found, table
        await pool.execute(
            f"UPDATE {table} SET {column} = {column} - 1 WHERE ctid = (SELECT ctid FROM {table} WHERE {at} = "
            f"(SELECT min({at}) FROM {table}) ORDER BY {column} DESC LIMIT 1)"
        )
        await pool.execute(
            f"UPDATE {table} SET {column} = {column} + 1 WHERE ctid = (SELECT ctid FROM {table} WHERE {at} = "
            f"(SELECT max({at}) FROM {table} WHERE {at} < retained_day()) ORDER BY {column} ASC LIMIT 1)"
        )
    await pool.execute("UPDATE conversations SET amount_nanos = amount_nanos + 1 WHERE first_at < retained_from()")
    assert [told.partition(":")[0] for told in await broken(pool)] == ["counts_know_what_was_dropped"]
    await pool.execute("UPDATE conversations SET amount_nanos = amount_nanos - 1 WHERE first_at < retained_from()")
    await pool.execute("UPDATE usage_by_day SET key_id = gen_random_uuid() WHERE day < retained_day()")
    assert [told.partition(":")[0] for told in await broken(pool)] == ["dropped_days_are_the_sum_of_their_hours"]


@pytest.mark.parametrize("is_right", [True, False])
async def test_what_an_earlier_release_has_dropped_is_known_by_the_month(empty_database: str, is_right: bool) -> None:
    """Its sums by account become sums by month; where they are not what rollups say, the audit goes on saying so."""
    connection = await asyncpg.connect(empty_database)
    for number, _, migration in migrations():
        if number < MONTHLY:
            await connection.execute(migration)
    async with pool_of(empty_database) as pool:
        past = await past_of(pool)
        await settle(pool, past.records)
        await pool.execute("SELECT advance_retention(now() - make_interval(days => $1))", KEPT_DAYS)
        over = [row["partition"] for row in await pool.fetch("SELECT partition FROM usage_months_over ORDER BY month")]
        for partition in over[:-1]:
            await pool.execute("SELECT sum_month($1)", partition)
            await pool.execute("SELECT drop_month($1)", partition)
        await pool.execute("SELECT sum_month($1)", over[-1])
        if not is_right:
            await pool.execute("UPDATE usage_dropped SET input_tokens = input_tokens + 1")
        for number, _, migration in migrations():
            if number >= MONTHLY:
                await connection.execute(migration)
        await connection.close()
        assert await pool.fetchval("SELECT count(DISTINCT month) FROM usage_dropped") == len(over) - 1 + (not is_right)
        named = [] if is_right else ["rollups_know_what_was_dropped"]
        assert [told.partition(":")[0] for told in await broken(pool)] == named
        assert await drop_old_usage(pool, KEPT_DAYS) > 0
        assert [told.partition(":")[0] for told in await broken(pool)] == named


async def test_an_audit_sees_a_month_or_its_sums_never_neither(pool: asyncpg.Pool) -> None:
    """However both run into each other."""
    past = await past_of(pool)
    await settle(pool, past.records)
    audits = [asyncio.create_task(broken(pool)) for _ in range(3)]
    dropping = asyncio.create_task(drop_old_usage(pool, KEPT_DAYS))
    audits += [asyncio.create_task(broken(pool)) for _ in range(3)]
    assert await asyncio.gather(*audits) == [[]] * 6
    await asyncio.wait([dropping])
    dropping.exception()
    await drop_old_usage(pool, KEPT_DAYS)
    assert await broken(pool) == []


@pytest.mark.parametrize("charged", [True, False])
@pytest.mark.parametrize("in_its_month", [True, False])
async def test_a_logged_event_is_still_known_when_its_row_is_gone(
    pool: asyncpg.Pool, charged: bool, in_its_month: bool
) -> None:
    """Told again, it is answered as it was booked, not booked again; none can be told first for a month that is gone."""
    assert timedelta(days=LEAST_RETENTION_DAYS) > log_endpoints.OLDEST
    past = await past_of(pool)
    record = past.records[0]
    amount = record.amount_nanos if charged else 0
    if not in_its_month:
        await pool.execute("ALTER TABLE usage_events DETACH PARTITION " + await oldest_month(pool))
    await settle(pool, [record if charged else replace(record, cost_nanos=0, amount_nanos=0), *past.records[1:]])
    await claimed(pool, record)
    assert await drop_old_usage(pool, KEPT_DAYS) > 0
    found = await LoggedEvents(pool).claim(past.account_id, "e", bytes(32), datetime.now(UTC))
    assert found == Booked(record.subject.request_id, instant(record), amount)


async def claimed(pool: asyncpg.Pool, record: EndRecord) -> None:
    """The event `e` was claimed for this record, by a call that has ended."""
    await pool.execute(
        "INSERT INTO logged_events (account_id, event_id, digest, request_id, occurred_at, claimed_until) "
        "VALUES ($1, 'e', $4, $2, $3, now())",
        record.subject.account_id, record.subject.request_id, instant(record), bytes(32),
    )  # fmt: skip


async def test_a_logged_event_that_was_never_booked_is_not_told_as_booked(pool: asyncpg.Pool) -> None:
    """It was claimed by a worker that died; when its month is gone it can be booked no more, and that is said."""
    past = await past_of(pool)
    await settle(pool, past.records[1:])
    await claimed(pool, past.records[0])
    assert await drop_old_usage(pool, KEPT_DAYS) > 0
    with pytest.raises(ApiError, match="not in the books"):
        await LoggedEvents(pool).claim(past.account_id, "e", bytes(32), datetime.now(UTC))
    assert await balance(pool, past) == CREDITS - past.amount + past.records[0].amount_nanos


async def test_claiming_an_event_does_not_wait_for_who_settles(pool: asyncpg.Pool) -> None:
    """Who books for its account has that locked for a whole batch."""
    account = await Accounts(pool).create("Acme")
    async with pool.acquire() as settling, settling.transaction():
        await settling.fetchrow("SELECT FROM accounts WHERE id = $1 FOR UPDATE", account.id)
        async with asyncio.timeout(20):
            found = await LoggedEvents(pool).claim(account.id, "e", bytes(32), datetime.now(UTC))
    assert isinstance(found, Claimed)


async def test_the_page_of_requests_says_from_when_they_are_kept(pool: asyncpg.Pool) -> None:
    """And where to look for what was used before."""
    asking = Asking(pool)
    visitor = await Visitor.of(asking, await asking.person("ann"))
    assert b"are kept from" not in (await visitor.get("/activity")).body
    await drop_old_usage(pool, KEPT_DAYS)
    mark = await retained_from(pool)
    assert mark is not None
    assert f"kept from {mark:%Y-%m-%d} on".encode() in (await visitor.get("/activity")).body


async def test_what_upkeep_cannot_do_keeps_nothing_else_from_being_done(
    pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told of, and old months go all the same."""
    monkeypatch.setattr("meterproxy.service.upkeep.FIRST_SECONDS", 0)
    dropped = asyncio.Event()

    async def fails(_pool: asyncpg.Pool) -> None:
        raise StoreUnavailable("a statement took too long")

    async def drops(_pool: asyncpg.Pool, days: int) -> None:
        dropped.set()

    monkeypatch.setattr("meterproxy.service.upkeep.fold_leases", fails)
    monkeypatch.setattr("meterproxy.service.upkeep.drop_old_usage", drops)
    task = asyncio.create_task(keep_tidy(pool, KEPT_DAYS))
    await dropped.wait()
    task.cancel()
    assert [record.error for record in caplog.records if hasattr(record, "error")] == ["a statement took too long"]


async def test_a_part_of_upkeep_that_was_the_victim_of_a_conflict_is_done_again(
    pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, not an hour later; and nothing ends for it."""
    monkeypatch.setattr("meterproxy.service.upkeep.FIRST_SECONDS", 0)
    victims = [asyncpg.DeadlockDetectedError("deadlock detected"), asyncpg.SerializationError("serialize")]
    dropped = asyncio.Event()

    async def folds(_pool: asyncpg.Pool) -> None:
        if victims:
            raise victims.pop()

    async def drops(_pool: asyncpg.Pool, days: int) -> None:
        dropped.set()

    monkeypatch.setattr("meterproxy.service.upkeep.fold_leases", folds)
    monkeypatch.setattr("meterproxy.service.upkeep.drop_old_usage", drops)
    task = asyncio.create_task(keep_tidy(pool, KEPT_DAYS))
    waiting = asyncio.create_task(dropped.wait())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    assert (task.done(), victims) == (False, [])
    task.cancel()


async def test_upkeep_drops_what_the_configuration_says(pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset, it keeps all."""
    monkeypatch.setattr("meterproxy.service.upkeep.FIRST_SECONDS", 0)
    dropped: asyncio.Queue[int] = asyncio.Queue()

    async def told(pool: asyncpg.Pool, days: int) -> int:
        dropped.put_nowait(await drop_old_usage(pool, days))
        return 0

    monkeypatch.setattr("meterproxy.service.upkeep.drop_old_usage", told)
    past = await past_of(pool)
    await settle(pool, past.records)
    task = asyncio.create_task(keep_tidy(pool, KEPT_DAYS))
    assert await dropped.get() > 0
    task.cancel()


async def tell(pool: asyncpg.Pool, record: EndRecord | DeferRecord, *, refused: bool = False) -> None:
    """What a journal with this record alone has booked; `refused`: PostgreSQL would not take it a moment ago."""
    settlement, journal_id = Settlement(pool), uuid4()
    await settlement.progress(journal_id)
    endings = [Settling(1, record)] if isinstance(record, EndRecord) else []
    notes = [Noted(1, record)] if isinstance(record, DeferRecord) else []
    batch = Batch(journal_id, 0, 1, 1, endings, {price.id: price.document() for price in PRICES}, None, notes)
    if refused:
        await settlement.reject(batch, "refused")
        return
    try:
        await settlement.book(batch)
    except Unbookable as error:
        await settlement.reject(batch, str(error))


def as_durable(record: EndRecord) -> tuple[DeferRecord, EndRecord]:
    """The same exchange as one that went on at its provider."""
    resource = Resource(record.subject.account_id, "response", "resp_1", "openai")
    return DeferRecord(record.subject, resource), replace(record, resource=resource)


async def test_a_durable_hold_that_has_ended_at_nothing_is_not_charged_when_its_row_is_gone(pool: asyncpg.Pool) -> None:
    """Another ending of it, which comes after its month, changes nothing: what it had drawn has returned."""
    past = await past_of(pool)
    deferral, captured = as_durable(past.records[0])
    for record in (deferral, replace(captured, how="released", cost_nanos=0, amount_nanos=0)):
        await tell(pool, record)
    assert await drop_old_usage(pool, KEPT_DAYS) == 1
    await tell(pool, captured)
    assert (await balance(pool, past), await broken(pool)) == (CREDITS, [])


async def test_a_record_that_was_charged_before_its_month_went_waits_for_nobody(
    pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where PostgreSQL takes nothing at all of it any more: the ledger has it."""
    past = await past_of(pool)
    await settle(pool, past.records[:1])
    assert await drop_old_usage(pool, KEPT_DAYS) == 1
    monkeypatch.setattr(Settlement, "_book_minimal", _refuses)
    monkeypatch.setattr(Settlement, "_book_money", _refuses)
    await tell(pool, past.records[0], refused=True)
    assert await broken(pool) == []


async def test_what_cost_nothing_is_charged_once_by_an_ending_that_comes_when_its_row_is_gone(
    pool: asyncpg.Pool,
) -> None:
    """As was decided: the ledger knows nothing of it. A person is told, and may give it back."""
    past = await past_of(pool)
    captured = past.records[0]
    await tell(pool, replace(captured, how="released", cost_nanos=0, amount_nanos=0))
    assert await drop_old_usage(pool, KEPT_DAYS) == 1
    for _ in range(2):
        await tell(pool, replace(captured, how="recovered"))
        await tell(pool, captured)
    assert await balance(pool, past) == CREDITS - captured.amount_nanos
    assert [told.partition(":")[0] for told in await broken(pool)] == ["no_record_waits_for_a_person"]


@pytest.mark.parametrize("month_is_over", [False, True])
async def test_a_recovery_that_is_refused_takes_nothing_from_a_hold_that_became_durable(
    pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch, month_is_over: bool
) -> None:
    """Be it between the refusal and the booking: the durable hold stands, and its ending is what is charged."""
    past = await past_of(pool)
    deferral, captured = as_durable(past.records[0])
    if month_is_over:
        await drop_old_usage(pool, KEPT_DAYS)
    await tell(pool, deferral)
    with monkeypatch.context() as patch:
        if month_is_over:
            patch.setattr(Settlement, "_book_minimal", _refuses)
        await tell(pool, replace(captured, how="recovered", resource=None), refused=True)
    assert await broken(pool) == []
    await tell(pool, captured)
    assert await balance(pool, past) == CREDITS - captured.amount_nanos
    assert [told.partition(":")[0] for told in await broken(pool)] == ["no_record_waits_for_a_person"] * month_is_over


async def _refuses(*_of_anything: object) -> None:
    raise Unbookable("refused")
