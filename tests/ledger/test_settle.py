"""Settling on real PostgreSQL: replays, lost answers, failovers, and records that no database wants."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest
from msgspec.structs import replace

from meterproxy.core.key import KeyEntry
from meterproxy.core.lending import UNWRITTEN, Batch, LeaseKey, Settling
from meterproxy.core.path import Draw, Draws
from meterproxy.core.record import EndRecord, decode_payload
from meterproxy.errors import ProgressMoved, StoreUnavailable
from meterproxy.ledger import settle as module
from meterproxy.ledger.worker import WorkerLedger
from meterproxy.store.audit import audit
from meterproxy.store.explain import explain
from meterproxy.store.instants import to_datetime
from meterproxy.store.settle import Settlement
from tests.ledger.bank import PRICE, balance, completed, customer, hold_request, ledger_of, pool_of
from tests.ledger.bank_faults import Faulty, Snapshot
from tests.ledger.records import end

CREDIT = 10_000_000
WAITS = "no_record_waits_for_a_person"


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


async def capture(ledger: WorkerLedger, key: KeyEntry, *tokens: int, hold_nanos: int = 500_000) -> None:
    for count in tokens:
        hold = await ledger.holds.place(hold_request(ledger, key, hold_nanos))
        ledger.holds.capture(hold, completed(count))


async def wrong(pool: asyncpg.Pool) -> set[str]:
    return {result.name for result in await audit(pool) if not result.ok}


async def books(pool: asyncpg.Pool) -> list[Any]:
    """Everything that a batch may change, but for instants."""
    tables = {
        "accounts": "id, balance_nanos, credits_nanos, last_entry_no",
        "ledger_entries": "account_id, entry_no, kind, amount_nanos, balance_after_nanos, request_id",
        "usage_events": "id, amount_nanos, journal_position",
        "leases": "session_id, granted, consumed, returned",
        "limit_windows": "limit_id, cap, drawn, overrun, late",
        "settle_rejected": "request_id, amount_nanos",
        "usage_staging": "id, batch_id",
        "draw_staging": "request_id, batch_id",
        **dict.fromkeys(
            "usage_by_hour usage_by_day latency_by_hour tools_by_day tags_by_day conversations".split(), "*"
        ),
    }
    return [await pool.fetch(f"SELECT {what} FROM {table} ORDER BY 1, 2") for table, what in tables.items()]


def last_batches(ledger: WorkerLedger) -> tuple[list[Batch], Faulty]:
    """From now on, the batches that this ledger books are kept."""
    batches: list[Batch] = []
    store = ledger.settler._store

    class Keeping(Faulty):
        async def book(self, batch: Batch) -> int:
            batches.append(batch)
            booked: int = await store.book(batch)
            return booked

    keeping = Keeping(store)
    ledger.settler._store = keeping  # type: ignore[assignment]
    return batches, keeping


# ── replays ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_batch_replayed_any_number_of_times_changes_nothing(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """Rows, entries, balances, leases and rollups are as after the first time, wherever the journal is said to stand."""
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    batches, _ = last_batches(ledger)
    await capture(ledger, key, 1, 20, 600, 0)
    await ledger.settler.drain()
    await ledger.borrower.settle_down()
    (batch,) = batches
    before = await books(pool)
    settlement = Settlement(pool)
    for _ in range(2):
        with pytest.raises(ProgressMoved) as moved:
            await settlement.book(batch)
        assert moved.value.position == batch.end
        await pool.execute("UPDATE journal_progress SET open_from = 0, position = $1", batch.start)
        assert await settlement.book(batch) == 0
        assert await books(pool) == before
    assert await wrong(pool) == set()
    await ledger.stop()


async def test_an_ending_that_comes_twice_in_one_batch_is_booked_once(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """A journal that was written again after a failed fsync has records twice; leases are drawn once."""
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    batches, _ = last_batches(ledger)
    await capture(ledger, key, 7)
    settler, store = ledger.settler, ledger.settler._store
    twice = settler._batch(
        [settler._queue._front[0], replace(settler._queue._front[0], position=settler._queue._front[0].position + 9)]
    )
    assert await store.book(twice) == 1
    assert await pool.fetchval("SELECT sum(consumed) FROM leases") == 7000
    assert await wrong(pool) == set()
    assert batches
    await ledger.stop()


async def test_a_lost_answer_to_the_commit_books_nothing_twice(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """The next attempt finds progress ahead and counts the batch as confirmed; the book agrees with PostgreSQL."""
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    faulty = Faulty(ledger.settler._store)
    ledger.settler._store = faulty  # type: ignore[assignment]
    await capture(ledger, key, 1, 2)
    faulty.lost.add("book")
    with pytest.raises(StoreUnavailable):
        await ledger.settler.settle_batch()
    (lease,) = ledger.book.leases.values()
    assert lease.unsettled == 3000
    await capture(ledger, key, 3)
    await ledger.settler.drain()
    assert (lease.unsettled, lease.consumed) == (0, 6000)
    assert await balance(pool, key.account_id) == CREDIT - 6000
    assert await pool.fetchval("SELECT consumed FROM leases") == 6000
    assert await wrong(pool) == set()
    await ledger.stop()


@pytest.mark.parametrize("lost", [False, True])
async def test_an_ending_that_the_journal_would_not_take_is_booked_once(
    pool: asyncpg.Pool, tmp_path: Path, lost: bool
) -> None:
    """Only memory has it; with written ones around it and a lost answer it is still booked exactly once."""
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    faulty = Faulty(ledger.settler._store)
    ledger.settler._store = faulty  # type: ignore[assignment]
    await capture(ledger, key, 1, 2, 3)
    settler = ledger.settler
    settler._queue._front[1] = replace(settler._queue._front[1], position=UNWRITTEN)
    if lost:
        faulty.lost.add("book")
        with pytest.raises(StoreUnavailable):
            await settler.settle_batch()
        assert settler.queued == 3
        await settler.settle_batch()
        assert settler.queued == 1
        faulty.lost.add("book")
        with pytest.raises(StoreUnavailable):
            await settler.settle_batch()
    await settler.drain()
    (lease,) = ledger.book.leases.values()
    assert (lease.unsettled, lease.consumed) == (0, 6000)
    assert await balance(pool, key.account_id) == CREDIT - 6000
    assert await pool.fetchval("SELECT count(*) FROM usage_events") == 3
    assert await wrong(pool) == set()
    assert ledger.journal.open_from == ledger.journal.position
    await ledger.stop()


# ── failover ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("again", [False, True])
async def test_what_a_failover_took_away_is_sent_once_more(pool: asyncpg.Pool, tmp_path: Path, again: bool) -> None:
    """Progress behind ours means lost rows: the journal is read again from there, and every sum is right."""
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    await capture(ledger, key, 1, 2)
    await ledger.settler.drain()
    earlier = await Snapshot.of(pool)
    await capture(ledger, key, 30, 40, 600)
    await ledger.settler.drain()
    await capture(ledger, key, 500)
    await earlier.put_back(pool)
    if again:
        ledger.journal._in_doubt = True  # what was not synced yet is written a second time
        ledger.journal.sync_now()
    await ledger.settler.drain()
    (lease,) = ledger.book.leases.values()
    assert lease.adds_up, lease
    assert lease.unsettled == 0
    assert await balance(pool, key.account_id) == CREDIT - 1_173_000
    assert await pool.fetchval("SELECT count(*) FROM usage_events") == 6
    assert await wrong(pool) == set()
    await ledger.stop()
    assert await wrong(pool) == set()


async def test_a_failover_that_forgot_the_journal_altogether(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """A journal unknown to PostgreSQL stands at nothing: everything in it is sent, and settling comes to its end."""
    key = await customer(pool, CREDIT)
    earlier = await Snapshot.of(pool)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    await capture(ledger, key, 1, 2)
    await ledger.settler.drain()
    await earlier.put_back(pool)
    await capture(ledger, key, 3)
    await asyncio.wait_for(ledger.settler.drain(), 20)
    assert await balance(pool, key.account_id) == CREDIT - 6000
    assert await wrong(pool) == set()
    await ledger.stop()
    assert await pool.fetchval("SELECT drawn FROM limit_windows") == 6000
    assert await wrong(pool) == set()


# ── records that no database wants ──────────────────────────────────────────────────────────────────────────────────


def amended(settling: Settling, **members: Any) -> Settling:
    """The ending with other members, wherever they belong."""
    record = settling.record
    parts: dict[str, Any] = {"subject": record.subject, "ending": record.ending}
    for name, part in parts.items():
        own = {member: members.pop(member) for member in list(members) if hasattr(part, member)}
        parts[name] = msgspec.structs.replace(part, **own)
    return replace(settling, record=msgspec.structs.replace(record, **parts, **members))


USAGE = completed(1).usage
POISON: dict[str, dict[str, Any]] = {
    "NUL in a tool": {"tools": ("a\0b",)},
    "lone surrogate": {"served_model": "\ud800"},
    "NUL in a conversation": {"conversation": "\0"},
    "NUL in a model": {"model": "gpt\0"},
    "NUL in an outcome": {"outcome": "comp\0leted"},
    "count beyond every integer": {"usage": USAGE._replace(input=2**64)},
    "count beyond bigint": {"usage": USAGE._replace(output=2**63)},
    "negative count": {"usage": USAGE._replace(input=-5), "latency_us": 2**70},
    "raw usage that is no JSON": {"raw_usage": b"{\xff"},
    "status beyond every status": {"status": 10**6},
    "hold beyond bigint": {"hold_nanos": 2**63, "bound_input_tokens": 2**80},
    "instant beyond every calendar": {"occurred_us": 2**62},
    "ending of an unknown kind": {"how": "guessed"},
}


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON.keys())
async def test_a_poisoned_record_neither_blocks_the_others_nor_loses_its_money(
    pool: asyncpg.Pool, tmp_path: Path, poison: dict[str, Any]
) -> None:
    """Its money is booked, the record waits for a person, everybody else's is booked as if it were not there."""
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    await capture(ledger, key, 1, 20, 300, 4000 // 10, 5)
    queue = ledger.settler._queue._front
    queue[2] = amended(queue[2], **poison)
    await ledger.settler.drain()
    assert await balance(pool, key.account_id) == CREDIT - 726_000
    assert await pool.fetchval("SELECT sum(consumed) FROM leases") == 726_000
    rejected = await pool.fetch("SELECT * FROM settle_rejected")
    assert [row["amount_nanos"] for row in rejected] == [300_000]
    kept = decode_payload(rejected[0]["record"])
    assert isinstance(kept, EndRecord)
    assert kept.amount_nanos == 300_000
    assert ledger.settler.rejected == 1
    assert ledger.settler.queued == 0
    assert await wrong(pool) == {WAITS}
    (lease,) = ledger.book.leases.values()
    assert (lease.unsettled, lease.consumed) == (0, 726_000)
    await ledger.stop()


async def test_a_poisoned_record_that_is_booked_alarms_nobody_again(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """A journal that was copied tells it anew: PostgreSQL refuses it as before, and there is nothing new to look at."""
    key = await customer(pool, CREDIT)
    first, copied = ledger_of(pool, tmp_path / "first"), ledger_of(pool, tmp_path / "copied")
    for ledger in (first, copied):
        await ledger.start()
    await capture(first, key, 300)
    queue = first.settler._queue._front
    queue[0] = amended(queue[0], model="a\0b")
    record = queue[0].record
    assert isinstance(record, EndRecord)
    await first.settler.drain()
    copied.settler.add(Settling(copied.journal.append(record), record))
    await copied.settler.drain()
    assert (first.settler.rejected, copied.settler.rejected) == (1, 0)
    assert await balance(pool, key.account_id) == CREDIT - 300_000
    for ledger in (first, copied):
        await ledger.stop()


async def test_an_amount_beyond_any_ledger_is_clamped_and_kept(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """An amount of 2^63 is booked as far as a ledger goes, once, and what is beyond waits for a person."""
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    await capture(ledger, key, 500)
    queue = ledger.settler._queue._front
    queue[0] = amended(queue[0], amount_nanos=2**63, cost_nanos=2**63, overrun_nanos=2**63 - 500_000)
    await ledger.settler.drain()
    assert await balance(pool, key.account_id) == CREDIT - (2**63 - 1) // 2
    assert await wrong(pool) == {WAITS}
    await ledger.stop()


async def test_what_cannot_be_booked_at_all_is_kept_and_blocks_nothing(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """Where the third impossible amount would break the balance itself, the record is kept with nothing booked."""
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    await capture(ledger, key, *[500] * 3, 1)
    queue = ledger.settler._queue._front
    for index in range(3):
        queue[index] = amended(queue[index], amount_nanos=2**63, overrun_nanos=2**63 - 500_000)
    await ledger.settler.drain()
    assert ledger.settler.queued == 0
    errors = [row["error"] for row in await pool.fetch("SELECT error FROM settle_rejected ORDER BY journal_position")]
    unbooked = [error.startswith("NOT BOOKED") for error in errors]
    assert (unbooked[0], unbooked[-1]) == (False, True)
    assert await pool.fetchval("SELECT count(*) FROM usage_events WHERE amount_nanos = 1000") == 1
    ledger.journal.close()


async def test_an_account_that_does_not_exist_blocks_nobody(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """There is nobody to charge, so the record is kept for a person."""
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    await capture(ledger, key, 1, 2)
    stranger = uuid4()
    position = ledger.journal.append(end(99, account_id=stranger))
    ledger.settler.add(Settling(position, end(99, account_id=stranger)))
    await capture(ledger, key, 3)
    await ledger.settler.drain()
    assert await balance(pool, key.account_id) == CREDIT - 6000
    assert await pool.fetchval("SELECT account_id FROM settle_rejected") == stranger
    await ledger.stop()


async def test_a_missing_partition_costs_the_row_but_not_the_money(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """Without a place for its row a record's money is booked alone; sent again, it is not booked again."""
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    batches, keeping = last_batches(ledger)
    await capture(ledger, key, 1, 600)
    partitions = "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'usage_events'::regclass"
    for row in await pool.fetch(partitions):
        await pool.execute(f"ALTER TABLE usage_events DETACH PARTITION {row['name']}")
    await ledger.settler.drain()
    assert await balance(pool, key.account_id) == CREDIT - 601_000
    window = await pool.fetchrow("SELECT overrun FROM limit_windows")
    assert window["overrun"] == 100_000
    assert await pool.fetchval("SELECT count(*) FROM settle_rejected") == 2
    assert await wrong(pool) == {WAITS}
    await pool.execute("UPDATE journal_progress SET open_from = 0, position = $1", batches[0].start)
    await pool.execute("CREATE TABLE usage_events_rest PARTITION OF usage_events DEFAULT")
    assert await Settlement(pool).book(batches[0]) == 0
    assert await wrong(pool) == {WAITS}
    assert keeping.calls["reject"] == 2
    await ledger.stop()


@pytest.mark.parametrize("document", [None, b"no JSON", b'{"provider": "a\\u0000", "model": "b"}'])
async def test_a_price_that_cannot_be_stored_does_not_keep_its_rows_out(
    pool: asyncpg.Pool, tmp_path: Path, document: bytes | None
) -> None:
    """The money of rows does not hang on their price's document; whichever way it is missing, the audit names it."""
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    await capture(ledger, key, 1, 2)
    ledger.settler._documents[PRICE.id] = document or b""
    if document is None:
        ledger.settler._documents.clear()
    await ledger.settler.drain()
    assert await balance(pool, key.account_id) == CREDIT - 3000
    assert await pool.fetchval("SELECT count(*) FROM usage_events") == 2
    assert await wrong(pool) == ({"each_charged_row_has_its_price"} if document is None else {WAITS})
    await ledger.stop()


async def test_a_draw_of_a_session_that_never_was_is_booked_as_late(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """Money that no lease can pay raises `drawn`, so that it is not lent to anybody."""
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    draws = Draws.of([Draw(key.credit.limit_id, 0, UUID(int=5), 1000)])
    record = end(1, 600, account_id=key.account_id, draws=draws, price_id=PRICE.id)
    ledger.settler.know_price(PRICE.id, PRICE.document())
    ledger.settler.add(Settling(ledger.journal.append(record), record))
    await ledger.settler.drain()
    window = await pool.fetchrow("SELECT drawn, late FROM limit_windows")
    assert (window["drawn"], window["late"]) == (600, 600)
    assert await wrong(pool) == set()
    await ledger.stop()


async def test_a_row_says_what_it_drew_from_which_limits(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """From the credit alone that is what its columns say; from more limits each draw is kept, whatever they become."""
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    await capture(ledger, key, 600)
    session_id = ledger.session.session_id
    request_id = (
        await pool.fetchval("SELECT id FROM usage_events") or ledger.settler._queue._front[0].record.subject.request_id
    )
    budget, start = uuid4(), 1_700_000_000_000_000
    await pool.execute(
        "INSERT INTO limits (id, account_id, kind, scope, scope_id, measure, window_kind, cap)"
        " VALUES ($1, $2, 'budget', 'key', $3, 'amount', 'month', 1000)", budget, key.account_id, key.key_id,
    )  # fmt: skip
    await pool.execute(
        "INSERT INTO limit_windows VALUES ($1, $2, $3, 1000)", key.account_id, budget, to_datetime(start)
    )
    draws = Draws.of([Draw(limit, since, uuid4(), 500) for limit, since in ((budget, start), (key.credit.limit_id, 0))])
    record = end(1, 700, account_id=key.account_id, draws=draws, price_id=PRICE.id)
    record = msgspec.structs.replace(record, overrun_nanos=200)
    ledger.settler.add(Settling(ledger.journal.append(record), record))
    await ledger.settler.drain()
    [credit] = (await explain(pool, request_id))["limits_drawn"]
    assert (credit["limit_id"], credit["window_start"], credit["session_id"], credit["session_state"]) == (
        key.credit.limit_id, None, session_id, "live",
    )  # fmt: skip
    assert (credit["held"], credit["consumed"], credit["overrun"]) == ("0.0005", "0.0005", "0.0001")
    month, credit = (await explain(pool, record.subject.request_id))["limits_drawn"]
    assert (month["kind"], month["scope"], month["window_start"]) == ("budget", "key", to_datetime(start))
    assert (month["held"], month["consumed"], month["overrun"]) == ("0.0000005", "0.0000005", "0.0000002")
    assert (credit["kind"], credit["held"], credit["consumed"], credit["overrun"]) == (
        "credit", "0.0000005", "0.0000005", "0.0000002",
    )  # fmt: skip
    await ledger.stop()


@pytest.mark.parametrize("sqlstate", ["53100", "58030", "55P03", "40001"])
async def test_a_database_in_trouble_is_waited_for(pool: asyncpg.Pool, tmp_path: Path, sqlstate: str) -> None:
    """A full disk or endless conflicts are no fault of a record: nothing is rejected, all is booked later."""
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    await capture(ledger, key, 1, 2)
    await pool.execute(
        f"CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$BEGIN RAISE 'trouble' USING ERRCODE = '{sqlstate}'; END$$; "
        f"CREATE TRIGGER trouble BEFORE INSERT ON ledger_entries EXECUTE FUNCTION trouble()"
    )
    with pytest.raises(StoreUnavailable):
        await ledger.settler.settle_batch()
    await pool.execute("DROP TRIGGER trouble ON ledger_entries")
    await ledger.settler.drain()
    assert ledger.settler.rejected == 0
    assert await balance(pool, key.account_id) == CREDIT - 3000
    await ledger.stop()


# ── several at once ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_two_journals_settling_one_account_chain_its_balance(
    pool: asyncpg.Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entry numbers have no gaps and every balance follows from the one before, whoever writes it."""
    monkeypatch.setattr(module, "BATCH_ENDINGS", 3)
    key, other = await customer(pool, CREDIT), await customer(pool, CREDIT)
    ledgers = [ledger_of(pool, tmp_path / name) for name in "123"]
    for ledger in ledgers:
        await ledger.start()
    for tokens in range(1, 16):
        for index, ledger in enumerate(ledgers):
            await capture(ledger, key if tokens % 3 != index else other, tokens, hold_nanos=10_000)
    await asyncio.gather(*(ledger.settler.drain() for ledger in ledgers))
    assert await wrong(pool) == set()
    spent = 2 * CREDIT - await balance(pool, key.account_id) - await balance(pool, other.account_id)
    assert spent == 3 * 120_000
    await asyncio.gather(*(ledger.stop() for ledger in ledgers))
    assert await wrong(pool) == set()
    assert await pool.fetchval("SELECT sum(drawn) FROM limit_windows") == spent


async def test_what_comes_while_a_batch_is_under_way_waits_for_the_next(
    pool: asyncpg.Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However steadily records come, a batch is all that came within an interval, or as many as one may have."""
    monkeypatch.setattr(module, "BATCH_ENDINGS", 4)
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    sizes: list[int] = []
    meanwhile = [2, 1, 3, 9, 0, 2, 0]
    store = ledger.settler._store

    class Busy(Faulty):
        async def book(self, batch: Batch) -> int:
            sizes.append(len(batch.endings))
            await capture(ledger, key, *[1] * meanwhile.pop(0), hold_nanos=10_000)
            booked: int = await store.book(batch)
            return booked

    ledger.settler._store = Busy(store)  # type: ignore[assignment]
    await capture(ledger, key, 1)
    seen: list[list[int]] = []
    while ledger.settler.queued:
        await ledger.settler.drain()
        seen.append(sizes.copy())
        sizes.clear()
    assert seen == [[1], [2], [1], [3, 4, 4], [3]]
    assert await wrong(pool) == set()
    await ledger.stop()


async def test_a_full_batch_waits_for_no_interval(
    pool: asyncpg.Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many records as one batch may have are settled at once; fewer wait for others."""
    monkeypatch.setattr(module, "BATCH_ENDINGS", 3)
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    ledger.settler._interval_seconds = 3600
    batches, _ = last_batches(ledger)
    settling = asyncio.create_task(ledger.settler.run())
    for _ in range(2):
        await capture(ledger, key, 1, 1, 1)
        await asyncio.wait_for(ledger.settler._progress.wait(), 10)
        ledger.settler._progress.clear()
    assert [len(batch.endings) for batch in batches] == [3, 3]
    settling.cancel()
    await asyncio.wait((settling,))
    await ledger.stop()


@pytest.mark.parametrize(
    ("records", "expected"), [(3, []), (4, [4]), (5, [4, 1]), (8, [4, 4]), (9, [4, 4, 1])], ids=str
)
async def test_batches_around_a_full_one(
    pool: asyncpg.Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: int, expected: list[int]
) -> None:
    """What has come by the time that a batch is full is settled with it; one record less waits for the interval."""
    monkeypatch.setattr(module, "BATCH_ENDINGS", 4)
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path, settle_interval_ms=60_000)
    await ledger.start()
    batches, _ = last_batches(ledger)
    settling = asyncio.create_task(ledger.settler.run())
    await capture(ledger, key, *[1] * records, hold_nanos=10_000)
    while [len(batch.endings) for batch in batches] != expected:
        await asyncio.wait_for(ledger.settler._progress.wait(), 10)
        ledger.settler._progress.clear()
    await asyncio.wait_for(ledger.settler.catch_up(), 10)
    assert sum(len(batch.endings) for batch in batches) == records
    settling.cancel()
    await asyncio.wait((settling,))
    await ledger.stop()


async def test_whatever_ends_a_settler_each_record_is_booked_and_counted_once(
    pool: asyncpg.Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled after any turn of the loop, also between a commit and its answer, another one goes on from there."""
    monkeypatch.setattr(module, "BATCH_ENDINGS", 2)
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    counted: list[UUID] = []
    ledger.settler.observe = lambda endings, _seconds: counted.extend(
        settling.record.subject.request_id for settling in endings
    )
    turns, captured, done = 0, 0, False
    while not done:
        await capture(ledger, key, 1, 1, 1, hold_nanos=10_000)
        captured += 3
        draining = asyncio.create_task(ledger.settler.drain())
        for _ in range(turns):
            await asyncio.sleep(0)
        done = draining.done()
        draining.cancel()
        await asyncio.wait((draining,))
        turns += 1 + turns // 8
        await ledger.settler.drain()
        assert ledger.settler.queued == 0
    await asyncio.sleep(0)
    assert len(counted) == len(set(counted)) == captured
    assert await pool.fetchval("SELECT count(*) FROM usage_events") == captured
    assert await balance(pool, key.account_id) == CREDIT - captured * 1000
    (lease,) = ledger.book.leases.values()
    assert (lease.unsettled, lease.consumed) == (0, captured * 1000)
    assert ledger.journal.open_from == ledger.journal.position
    assert await wrong(pool) == set()
    await ledger.stop()


async def test_who_waits_for_the_books_waits_for_no_interval_when_postgresql_is_back(
    pool: asyncpg.Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was begun while PostgreSQL was away is tried again until it is done, however long an interval is."""
    monkeypatch.setattr(module, "RETRY_SECONDS", 0)
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path, settle_interval_ms=60_000)
    await ledger.start()
    faulty = Faulty(ledger.settler._store)
    ledger.settler._store = faulty  # type: ignore[assignment]
    await capture(ledger, key, 1, 2)
    faulty.away = True
    settling = asyncio.create_task(ledger.settler.run())
    caught_up = asyncio.create_task(ledger.settler.catch_up())
    while faulty.calls["book"] < 3:
        await asyncio.sleep(0)
    assert not caught_up.done()
    faulty.away = False
    await asyncio.wait_for(caught_up, 10)
    assert await balance(pool, key.account_id) == CREDIT - 3000
    settling.cancel()
    await asyncio.wait((settling,))
    await ledger.stop()


async def test_what_a_failover_took_is_told_to_be_back_however_steadily_records_come(
    pool: asyncpg.Pool, tmp_path: Path
) -> None:
    """Earlier sessions are proved as soon as all that was missing is settled, and settling has its pace again."""
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    await capture(ledger, key, 1)
    await ledger.settler.drain()
    earlier = await Snapshot.of(pool)
    await capture(ledger, key, 2, 3)
    await ledger.settler.drain()
    await earlier.put_back(pool)
    store, batches, told = ledger.settler._store, [], []

    class Busy(Faulty):
        async def book(self, batch: Batch) -> int:
            batches.append(len(batch.endings))
            await capture(ledger, key, 1, hold_nanos=10_000)
            booked: int = await store.book(batch)
            return booked

    async def tell() -> None:
        assert await pool.fetchval("SELECT count(*) FROM usage_events") >= 3
        told.append(len(batches))

    ledger.settler._store = Busy(store)  # type: ignore[assignment]
    ledger.settler.on_told_again = tell
    await ledger._present(forgot=True)
    await asyncio.wait_for(ledger.settler.drain(), 20)
    assert told == [1]
    assert batches == [2]
    assert ledger.settler.queued == 1
    ledger.settler._store = store
    await ledger.settler.drain()
    assert await balance(pool, key.account_id) == CREDIT - 7000
    assert await wrong(pool) == set()
    await ledger.stop()


async def test_giving_back_and_settling_one_lease_at_once(
    pool: asyncpg.Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither order of the two breaks the lease; what is left at the end is what was not used."""
    monkeypatch.setattr(module, "BATCH_ENDINGS", 2)
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    for _ in range(8):
        await capture(ledger, key, 10, 600, 30)
        ledger.book.give_back(LeaseKey(key.account_id, key.credit.limit_id, 0))
        ledger.borrower._unreported.update(ledger.book.leases)
        await asyncio.gather(ledger.settler.drain(), ledger.borrower.report(), ledger.borrower.report())
    assert await wrong(pool) == set()
    await ledger.stop()
    assert await wrong(pool) == set()
    assert await pool.fetchval("SELECT drawn FROM limit_windows") == 8 * 640_000


async def test_a_session_ended_by_another_while_it_settles(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """Settling and ending exclude each other: what was not settled in time is late, never lost, never lent twice."""
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    await capture(ledger, key, 10, 20, 30)
    ender = ledger_of(pool, tmp_path / "other")
    await asyncio.gather(
        ledger.settler.drain(), ender._sessions.end_session(ledger.session.session_id, "proved")
    )  # fmt: skip
    assert await balance(pool, key.account_id) == CREDIT - 60_000
    assert await pool.fetchval("SELECT drawn FROM limit_windows") == 60_000
    assert await wrong(pool) == set()
    ledger.journal.close()
    ender.journal.close()


async def test_whoever_waits_for_what_was_captured_waits_no_longer_than_that(
    pool: asyncpg.Pool, tmp_path: Path
) -> None:
    """`catch_up` returns once what was queued at its call is settled, also where an answer got lost in between."""
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    faulty = Faulty(ledger.settler._store)
    ledger.settler._store = faulty  # type: ignore[assignment]
    await capture(ledger, key, 1, 2)
    faulty.lost.add("book")
    settling = asyncio.create_task(ledger.settler.run())
    await asyncio.wait_for(ledger.settler.catch_up(), 10)
    assert await balance(pool, key.account_id) == CREDIT - 3000
    settling.cancel()
    await asyncio.wait((settling,))
    await asyncio.wait_for(ledger.settler.catch_up(), 1)
    await ledger.stop()
