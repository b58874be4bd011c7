"""What was spent since an instant is exact, whenever it was settled, and is read from few rows."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from meterproxy.core.record import EndRecord
from meterproxy.service.invention import HOUR_US, book_invented, invented
from meterproxy.store import since
from meterproxy.store.accounts import Accounts
from meterproxy.store.instants import to_datetime, to_us
from meterproxy.store.keys import Keys
from meterproxy.store.retention import drop_old_usage
from meterproxy.store.settle import Settlement
from meterproxy.store.since import SpentSince
from meterproxy.store.whose import Whose
from tests.control.history import PRICES, spender_of
from tests.ledger.bank import pool_of

ROWS = 300


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


async def busy_hours(pool: asyncpg.Pool, first: datetime) -> list[EndRecord]:
    """Three hours of requests by two keys of an account, none of them in the books yet."""
    account = await Accounts(pool, "test").create("Acme")
    keys = [await Keys(pool, "test").create(account.id, name) for name in ("one", "two")]
    spenders = [await spender_of(pool, key.row.id) for key in keys]
    return list(invented(spenders, PRICES, to_us(first), to_us(first) + 3 * HOUR_US, ROWS))


async def book(pool: asyncpg.Pool, records: Sequence[EndRecord]) -> None:
    assert await book_invented(Settlement(pool), records, PRICES) == len(records)


def spent(records: Sequence[EndRecord], instant: datetime, key_id: UUID | None = None) -> int:
    return sum(
        record.amount_nanos
        for record in records
        if record.subject.occurred_us >= to_us(instant) and key_id in {None, record.subject.key_id}
    )


def this_hour() -> datetime:
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0)


async def test_it_is_exact_whatever_is_settled_when(pool: asyncpg.Pool) -> None:
    """To the microsecond, in either half of an hour, of an account and of a key; what comes late counts where it was asked."""
    first = this_hour() - timedelta(hours=5)
    records = await busy_hours(pool, first)
    account_id, key_id = records[0].subject.account_id, records[0].subject.key_id
    asked = [first, first + timedelta(minutes=30), first + timedelta(hours=3)]
    asked += [
        to_datetime(record.subject.occurred_us) + timedelta(microseconds=more)
        for record in records[::20]
        for more in (0, 1)
    ]
    reader = SpentSince(pool)
    booked: list[EndRecord] = []
    for part in (records[::3], records[1::3], records[2::3]):
        await book(pool, part)
        booked += part
        for instant in asked:
            for whose in (Whose(account_id), Whose(account_id, key_id=key_id)):
                told = await reader.read(whose, instant)
                assert told == spent(booked, instant, whose.key_id), (instant, whose)
    assert await reader.read(Whose(account_id, user_id=uuid4()), first) == 0
    assert await reader.read(Whose(uuid4()), first) == 0


async def test_an_hour_that_is_over_is_read_once(pool: asyncpg.Pool) -> None:
    """Until something is booked in it late."""
    first = this_hour() - timedelta(hours=5)
    *records, late = await busy_hours(pool, first)
    await book(pool, records)
    whose, instant = Whose(late.subject.account_id), first + timedelta(hours=2, minutes=10)
    reader = SpentSince(pool)
    assert await reader.read(whose, instant) == spent(records, instant)
    await pool.execute("ALTER TABLE usage_events RENAME TO usage_away")
    assert await reader.read(whose, instant) == spent(records, instant)
    await pool.execute("ALTER TABLE usage_away RENAME TO usage_events")
    await book(pool, [late])
    assert late.amount_nanos
    assert await reader.read(whose, instant) == spent([*records, late], instant)


async def test_what_is_remembered_has_a_maximum(pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was asked for last stays."""
    monkeypatch.setattr(since, "PARTS_KEPT", 3)
    reader, first = SpentSince(pool), this_hour()
    accounts = [Whose(UUID(int=number)) for number in range(5)]
    for whose in (*accounts[:3], accounts[0], *accounts[3:]):
        await reader.read(whose, first)
    assert [whose for whose, _ in reader._parts] == [accounts[0], *accounts[3:]]


async def test_where_rows_are_gone_the_whole_hour_counts(pool: asyncpg.Pool) -> None:
    """Nobody knows any more what of it was before."""
    first = this_hour() - timedelta(days=90)
    records = await busy_hours(pool, first)
    await book(pool, records)
    whose = Whose(records[0].subject.account_id)
    instants = [first + timedelta(hours=1, minutes=minutes) for minutes in (10, 50)]
    assert [await SpentSince(pool).read(whose, one) for one in instants] == [spent(records, one) for one in instants]
    assert await drop_old_usage(pool, 35) == len(records)
    hour = spent(records, first + timedelta(hours=1))
    assert hour > spent(records, instants[0])
    assert [await SpentSince(pool).read(whose, one) for one in instants] == [hour, hour]
