"""Audit: clean where the books are right, also under traffic, and each invariant is named when it is broken."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from meterproxy.core.key import KeyEntry
from meterproxy.core.resource import Resource
from meterproxy.core.usage import Usage
from meterproxy.store.accounts import Accounts
from meterproxy.store.audit import INVARIANTS, audit
from meterproxy.store.sessions import Sessions
from meterproxy.store.sqlfiles import queries
from tests.ledger.bank import completed, customer, hold_request, ledger_of, pool_of

QUERIES = queries("audit")
REFUSED = (
    "INSERT INTO settle_rejected (request_id, account_id, amount_nanos, overrun_nanos, journal_id, journal_position, error, "
    "record, booked) VALUES ("
)
BREAKS = {
    "balance_is_the_sum_of_its_entries": "UPDATE accounts SET balance_nanos = balance_nanos - 1",
    "credits_are_the_sum_of_what_people_booked": "UPDATE accounts SET credits_nanos = credits_nanos + 1",
    "entry_numbers_have_no_gaps": "UPDATE accounts SET last_entry_no = last_entry_no + 1",
    "balance_after_chains":
        "UPDATE ledger_entries SET balance_after_nanos = balance_after_nanos + 1 WHERE entry_no = 2",
    "each_charged_row_has_its_entries": "DELETE FROM ledger_entries WHERE entry_no = 2",
    "each_charge_has_its_row": "DELETE FROM usage_events WHERE amount_nanos = 7000",
    "drawn_is_what_was_lent_and_not_returned": "UPDATE limit_windows SET drawn = drawn + 1",
    "credit_used_is_what_leases_consumed": "UPDATE limit_windows SET late = late + 1",
    "unspent_is_what_durable_holds_gave_back": "UPDATE durable_draws SET consumed = consumed - 1",
    "durable_holds_end_with_their_rows":
        "UPDATE durable_holds SET state = 'open', amount_nanos = NULL, ended_at = NULL",
    "credit_cap_is_credits_and_overdraft": "UPDATE limit_windows SET cap = cap + 1",
    "ended_sessions_hold_nothing": "UPDATE leases SET granted = granted + 1",
    "hours_are_the_sum_of_their_rows": "UPDATE usage_by_hour SET output_tokens = output_tokens + 1",
    "days_are_the_sum_of_their_rows": "UPDATE usage_by_day SET amount_nanos = amount_nanos - 1",
    "rollups_know_what_was_dropped":
        "INSERT INTO usage_dropped VALUES (now(), gen_random_uuid(), 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)",
    "dropped_days_are_the_sum_of_their_hours":
        "UPDATE usage_retention SET retained_from = date_trunc('month', now() + interval '32 days', 'UTC'); "
        "UPDATE usage_by_day SET key_id = gen_random_uuid()",
    "counts_know_what_was_dropped":
        "INSERT INTO usage_dropped VALUES (now(), gen_random_uuid(), 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0)",
    "refused_records_are_charged_as_they_are_kept":
        f"{REFUSED} gen_random_uuid(), gen_random_uuid(), 1, 0, gen_random_uuid(), 0, 'x', '', 'money')",
    "latencies_count_every_row": "DELETE FROM latency_by_hour",
    "tools_count_their_rows": "UPDATE tools_by_day SET requests = requests + 1",
    "tags_count_their_rows": "UPDATE tags_by_day SET amount_nanos = amount_nanos + 1",
    "conversations_are_the_sum_of_their_rows": "UPDATE conversations SET last_at = last_at + interval '1 second'",
    "each_charged_row_has_its_price": "DELETE FROM prices",
    "reversals_undo_their_charges":
        "INSERT INTO replaced_requests VALUES (gen_random_uuid(), gen_random_uuid(), now(), gen_random_uuid(), "
        "gen_random_uuid(), now(), gen_random_uuid(), 'reversed', now(), now(), now())",
    "no_key_is_charged_twice":
        "INSERT INTO replaced_requests VALUES (gen_random_uuid(), gen_random_uuid(), now(), gen_random_uuid(), "
        "gen_random_uuid(), now(), gen_random_uuid(), 'pending', now(), now() - interval '1 hour', NULL)",
    "confirmed_purchases_are_booked":
        "INSERT INTO purchases (id, account_id, method, code, amount_nanos, reference, state, ended_at, booked_nanos, "
        "entry_no) SELECT id, id, 'transfer', 'x', 10000000, '', 'confirmed', now(), 10000000, 1 FROM accounts",
    "audit_log_is_a_chain": "UPDATE audit_log SET actor = 'nobody' WHERE id = (SELECT min(id) FROM audit_log)",
    "kept_answers_are_counted": "INSERT INTO kept_answers VALUES (gen_random_uuid(), 5)",
    "no_record_waits_for_a_person":
        f"{REFUSED} gen_random_uuid(), gen_random_uuid(), 1, 0, gen_random_uuid(), 0, 'x', '', 'nothing')",
}  # fmt: skip


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


async def spend(pool: asyncpg.Pool, key: KeyEntry, directory: Path, *tokens: int) -> None:
    ledger = ledger_of(pool, directory)
    await ledger.start()
    for count in tokens:
        told = hold_request(ledger, key, 50_000, conversation="c", tags=(("team", str(count % 2)), ("a", "b")))
        hold = await ledger.holds.place(told)
        ledger.holds.capture(hold, completed(count, tools=("search",)))
        await ledger.settler.settle_batch()
    hold = await ledger.holds.place(hold_request(ledger, key, 50_000))
    ledger.durable.defer(hold, Resource(key.account_id, "response", "resp_1", "test"))
    ledger.durable.capture(hold, completed(0))
    await ledger.stop()


def test_every_invariant_is_broken_once() -> None:
    """Nobody adds an invariant without showing that it can fail."""
    assert set(INVARIANTS) == set(BREAKS)


@pytest.mark.parametrize("name", BREAKS)
async def test_a_broken_invariant_is_named(pool: asyncpg.Pool, tmp_path: Path, name: str) -> None:
    """Clean before; afterwards this one fails, and says where."""
    await spend(pool, await customer(pool, 10_000_000), tmp_path, 7, 60)
    assert [result for result in await audit(pool) if not result.ok] == []
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(BREAKS[name])
    results = {result.name: result for result in await audit(pool)}
    assert not results[name].ok
    assert results[name].detail


ROLLUPS = {
    f"{table}.{column}": (name, f"UPDATE {table} SET {column} = {change}")
    for name, table in (("hours_are_the_sum_of_their_rows", "usage_by_hour"), ("days_are_the_sum_of_their_rows", "usage_by_day"))
    for column, change in {
        **{what: f"{what} + 1" for what in "requests failures input_tokens cached_tokens output_tokens cost_nanos".split()},
        "key_id": "gen_random_uuid()", "user_id": "gen_random_uuid()", "model": "'another'", "operation": "'another'",
    }.items()
}  # fmt: skip


async def test_a_rollup_is_wrong_in_each_of_its_columns(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """Sums that are right for an account but stand under another key, user or model are wrong, too."""
    await spend(pool, await customer(pool, 10_000_000), tmp_path, 7, 60)
    for column, (name, breaking) in ROLLUPS.items():
        async with pool.acquire() as connection:
            undone = connection.transaction()
            await undone.start()
            await connection.execute(breaking)
            assert await connection.fetch(QUERIES[name]), column
            await undone.rollback()


async def test_every_kind_of_token_is_in_one_total(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """Rollups count all tokens of a row, also of kinds without a column of their own."""
    key = await customer(pool, 10**15)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    sent = Usage(*(10**number for number in range(12)))
    ledger.holds.capture(await ledger.holds.place(hold_request(ledger, key, 10**14)), completed(0, usage=sent))
    ledger.holds.capture(await ledger.holds.place(hold_request(ledger, key, 10**9)), completed(3))
    await ledger.stop()
    kinds = sent._asdict()
    cached = sum(kinds[kind] for kind in kinds if kind.startswith("cache_read"))
    for table in ("usage_by_hour", "usage_by_day"):
        row = await pool.fetchrow(f"SELECT sum(input_tokens), sum(cached_tokens), sum(output_tokens) FROM {table}")
        assert tuple(row) == (sent.input_tokens - cached + 3, cached, sent.output_tokens)
    assert [result for result in await audit(pool) if not result.ok] == []


async def test_it_is_right_under_traffic(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """Whatever is going on at the moment, one snapshot of the books adds up."""
    key = await customer(pool, 10_000_000)
    traffic = asyncio.gather(
        *(spend(pool, key, tmp_path / str(number), *range(1, 60, 3)) for number in range(2)),
        *(Accounts(pool, "test").credit(key.account_id, amount, "grant") for amount in range(1, 10)),
    )
    audits = 0
    while not traffic.done() or not audits:
        assert [result for result in await audit(pool) if not result.ok] == []
        audits += 1
    await traffic
    assert await Sessions(pool).change_version() >= 9
