"""Rejected records: kept whole, counted once, open until a person has seen to them."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from meterproxy.core.lending import Batch, Settling
from meterproxy.core.record import EndRecord
from meterproxy.core.resource import Resource
from meterproxy.errors import ApiError, Unbookable
from meterproxy.store.audit import audit
from meterproxy.store.rejected import RejectedRecords
from meterproxy.store.settle import Settlement
from tests.ledger.bank import balance, completed, customer, hold_request, ledger_of, pool_of
from tests.ledger.test_settle import amended, capture

CREDIT = 10_000_000
WAITS = "no_record_waits_for_a_person"


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


async def wrong(pool: asyncpg.Pool) -> set[str]:
    return {result.name for result in await audit(pool) if not result.ok}


async def rejected(pool: asyncpg.Pool, directory: Path) -> EndRecord:
    """One exchange of 300 tokens whose record PostgreSQL would not take as it is."""
    ledger = ledger_of(pool, directory)
    await ledger.start()
    await capture(ledger, await customer(pool, CREDIT), 300)
    queue = ledger.settler._queue._front
    queue[0] = amended(queue[0], model="a\0b")
    record = queue[0].record
    await ledger.settler.drain()
    assert ledger.settler.rejected == 1
    await ledger.stop()
    assert isinstance(record, EndRecord)
    return record


def batch_of(record: EndRecord) -> Batch:
    return Batch(uuid4(), 0, 1, 1, [Settling(1, record)], {}, None)


async def test_a_record_is_open_until_a_person_has_seen_to_it(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """It is listed, shown whole and named by the audit; seen once, it is neither open nor forgotten nor anybody's money."""
    record = await rejected(pool, tmp_path)
    account_id, request_id = record.subject.account_id, record.subject.request_id
    records = RejectedRecords(pool, "ann")
    (row,) = await records.list(10)
    assert (row.request_id, row.amount_nanos, row.booked, row.seen_at) == (request_id, 300_000, "row", None)
    whole = (await records.read(request_id)).record
    assert isinstance(whole, EndRecord)
    assert whole.subject.model == "a\0b"
    assert await wrong(pool) == {WAITS}
    for _ in range(2):
        await records.see(request_id, "a model with a strange name")
    assert await wrong(pool) == set()
    assert await records.list(10) == []
    (row,) = await records.list(10, seen_too=True)
    assert row.seen_at is not None
    assert await balance(pool, account_id) == CREDIT - 300_000
    logged = await pool.fetch("SELECT actor, subject_id, detail FROM audit_log WHERE action = 'rejected.see'")
    assert [(one["actor"], one["subject_id"]) for one in logged] == [("ann", request_id)]
    assert "strange" in logged[0]["detail"]


async def test_what_was_never_refused_cannot_be_seen_to(pool: asyncpg.Pool) -> None:
    """Nor read; and nothing is written down about it."""
    for asked in (RejectedRecords(pool).see(uuid4(), ""), RejectedRecords(pool).read(uuid4())):
        with pytest.raises(ApiError, match="No record of request"):
            await asked
    assert await pool.fetchval("SELECT count(*) FROM audit_log WHERE action = 'rejected.see'") == 0


@pytest.mark.parametrize("refuses", [(), ("_book_minimal",), ("_book_minimal", "_book_money")])
async def test_a_record_that_the_books_have_is_kept_by_no_way(
    pool: asyncpg.Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: tuple[str, ...]
) -> None:
    """However little PostgreSQL takes the second time: it misses nothing, so no person need look and none is alarmed."""
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    hold = await ledger.holds.place(hold_request(ledger, key, 500_000))
    ledger.holds.capture(hold, completed(300))
    (settling,) = ledger.settler._queue.first(1)
    assert isinstance(settling, Settling)
    await ledger.settler.drain()
    for name in refuses:
        monkeypatch.setattr(Settlement, name, _refuses)
    assert await Settlement(pool).reject(batch_of(settling.record), "refused") is False
    assert await pool.fetchval("SELECT count(*) FROM settle_rejected") == 0
    assert (await balance(pool, key.account_id), await wrong(pool)) == (CREDIT - 300_000, set())
    await ledger.stop()


@pytest.mark.parametrize(("refuses", "booked"), [
    ((), "row"), (("_book_minimal",), "money"), (("_book_minimal", "_book_money"), "nothing"),
])  # fmt: skip
async def test_a_record_says_what_of_it_is_booked_and_is_kept_once(
    pool: asyncpg.Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: tuple[str, ...], booked: str
) -> None:
    """Its row, its money, or nothing; told again, it is not kept again; seen to, the books add up in each case."""
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    ledger.holds.capture(await ledger.holds.place(hold_request(ledger, key, 500_000)), completed(300))
    (settling,) = ledger.settler._queue.first(1)
    assert isinstance(settling, Settling)
    for name in refuses:
        monkeypatch.setattr(Settlement, name, _refuses)
    batch = batch_of(settling.record)
    assert await Settlement(pool).reject(batch, "refused") is True
    assert await Settlement(pool).reject(batch_of(settling.record), "refused") is False
    (row,) = await RejectedRecords(pool).list(10)
    assert row.booked == booked
    assert await balance(pool, key.account_id) == CREDIT - (0 if booked == "nothing" else 300_000)
    assert WAITS in await wrong(pool)
    await RejectedRecords(pool).see(row.request_id, "")
    assert await wrong(pool) == set()
    ledger.journal.close()


async def test_a_durable_hold_whose_ending_was_refused_whole_ends_with_nothing(
    pool: asyncpg.Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sees its end again ends it: what was held comes back, and what it costs is for a person to say."""
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path / "one")
    await ledger.start()
    resource = Resource(key.account_id, "response", "resp_1", "test")
    ledger.durable.defer(await ledger.holds.place(hold_request(ledger, key, 500_000)), resource)
    await ledger.settler.drain()
    hold = await ledger.durable.find(resource)
    assert hold is not None
    with monkeypatch.context() as refusing:
        for name in ("_book_once", "_book_minimal", "_book_money"):
            refusing.setattr(Settlement, name, _refuses)
        ledger.durable.capture(hold, completed(700))
        await ledger.settler.drain()
    await ledger.stop()
    assert await pool.fetchval("SELECT state FROM durable_holds") == "open"
    other = ledger_of(pool, tmp_path / "other")
    await other.start()
    found = await other.durable.find(resource)
    assert found is not None
    other.durable.capture(found, completed(700))
    await other.stop()
    ended = await pool.fetchrow("SELECT state, amount_nanos FROM durable_holds")
    assert tuple(ended) == ("released", 0)
    (row,) = await RejectedRecords(pool).list(10)
    assert (row.amount_nanos, row.booked) == (700_000, "nothing")
    assert await pool.fetchval("SELECT drawn FROM limit_windows") == 0
    assert (await balance(pool, key.account_id), await wrong(pool)) == (CREDIT, {WAITS})


async def _refuses(*_of_anything: object, **_more: object) -> bool:
    raise Unbookable("refused")
