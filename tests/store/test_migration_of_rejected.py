"""Records that an earlier release has refused: the upgrade finds out what the books have of each."""

from collections.abc import Mapping
from uuid import UUID, uuid4

import asyncpg
import pytest

from meterproxy.core.lending import Batch, Settling
from meterproxy.core.record import EndRecord
from meterproxy.errors import Unbookable
from meterproxy.service.invention import HOUR_US, invented
from meterproxy.store.accounts import Accounts
from meterproxy.store.audit import audit
from meterproxy.store.keys import Keys
from meterproxy.store.rejected import RejectedRecords
from meterproxy.store.settle import Settlement
from meterproxy.store.sqlfiles import migrations
from tests.control.history import PRICES, spender_of
from tests.ledger.bank import pool_of

SEEN = 32
"""The migration since which a refused record says what is booked of it, and whether somebody has seen to it."""
REFUSING: Mapping[str, tuple[str, ...]] = {
    "row": (), "money": ("_book_minimal",), "nothing": ("_book_minimal", "_book_money"),
}  # fmt: skip
"""What must go wrong for so much of a record to be booked."""
WAITS = "no_record_waits_for_a_person"


async def _refuses(*_arguments: object) -> None:
    raise Unbookable("refused")


async def migrated(connection: asyncpg.Connection, first: int, behind: int) -> None:
    for number, _, migration in migrations():
        if first <= number < behind:
            await connection.execute(migration)


async def wrong(pool: asyncpg.Pool) -> set[str]:
    return {result.name for result in await audit(pool) if not result.ok}


async def refused_before(pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch) -> dict[UUID, str]:
    """What the earlier release has refused, with what of it the books have: charged and free records of each kind."""
    account = await Accounts(pool).create("Acme")
    await Accounts(pool).credit(account.id, 10**12, "grant")
    key = await Keys(pool).create(account.id, "k")
    now_us = await pool.fetchval("SELECT (extract(epoch FROM now()) * 1000000)::bigint")
    records = list(invented([await spender_of(pool, key.row.id)], PRICES, now_us - 9 * HOUR_US, now_us, 200))
    charged = [record for record in records if record.amount_nanos]
    free = [record for record in records if not record.amount_nanos]
    kept: dict[UUID, str] = {}
    # What refuses now says what is booked. The columns for that are lent to the earlier schema, and taken away again.
    await pool.execute("ALTER TABLE settle_rejected ADD COLUMN booked text, ADD COLUMN seen_at timestamptz")
    for booked, refusing in REFUSING.items():
        with monkeypatch.context() as patch:
            for name in refusing:
                patch.setattr(Settlement, name, _refuses)
            for record in (charged.pop(), charged.pop(), free.pop()):
                await reject(pool, record)
                kept[record.subject.request_id] = booked
    told = {row["request_id"]: row["booked"] for row in await pool.fetch("SELECT * FROM settle_rejected")}
    assert told == kept
    await pool.execute("ALTER TABLE settle_rejected DROP COLUMN booked, DROP COLUMN seen_at")
    return kept


async def reject(pool: asyncpg.Pool, record: EndRecord) -> None:
    journal_id, prices = uuid4(), {price.id: price.document() for price in PRICES}
    await Settlement(pool).progress(journal_id)
    await Settlement(pool).reject(Batch(journal_id, 0, 1, 1, [Settling(1, record)], prices, None), "a strange record")


@pytest.mark.parametrize("by_the_first_release", [False, True])
async def test_what_was_refused_before_says_what_is_booked_of_it(
    empty_database: str, monkeypatch: pytest.MonkeyPatch, by_the_first_release: bool
) -> None:
    """Its row, its money or nothing, also where the error does not say that it was nothing; seen to, the books are whole."""
    connection = await asyncpg.connect(empty_database)
    await migrated(connection, 0, SEEN)
    async with pool_of(empty_database) as pool:
        kept = await refused_before(pool, monkeypatch)
        if by_the_first_release:
            await pool.execute("UPDATE settle_rejected SET error = 'a strange record' WHERE amount_nanos > 0")
        await migrated(connection, SEEN, 10_000)
        await connection.close()
        records = RejectedRecords(pool, "ann")
        rows = await records.list(100)
        assert {row.request_id: row.booked for row in rows} == kept
        assert {row.seen_at for row in rows} == {None}
        assert await wrong(pool) == {WAITS}
        for row in rows:
            await records.see(row.request_id, "from before")
        assert await wrong(pool) == set()
