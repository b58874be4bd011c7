"""Inheritance: whatever a killed worker left is settled by somebody else, once, and what was lent to it returns."""

from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from meterproxy.core.key import KeyEntry
from meterproxy.errors import StoreUnavailable
from meterproxy.ledger.inherit import Estate, inherit
from meterproxy.ledger.journal import Journal
from meterproxy.ledger.journal_files import JournalLocked, is_owned
from meterproxy.ledger.recover import OpenHoldPolicy
from meterproxy.store.sessions import Sessions
from meterproxy.store.settle import Settlement
from tests.ledger.bank import completed
from tests.ledger.bank_faults import Faulty
from tests.ledger.test_recover import HOLD, die, key, place, pool, spent, started

__all__ = ["key", "pool"]


async def inherited(pool: asyncpg.Pool, directory: Path, settlement: Any = None) -> Estate:
    journal = partial(Journal, directory, segment_bytes=4 << 20)
    return await inherit(journal, Sessions(pool), settlement or Settlement(pool), OpenHoldPolicy.CHARGE_DELIVERED)


async def test_what_a_dead_worker_left_is_settled_and_its_lease_returns(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path
) -> None:
    """An ending that was not settled, an open hold, an idle lease: all of it once, though it is inherited twice."""
    ledger = await started(pool, tmp_path)
    first, _ = await place(ledger, key), await place(ledger, key)
    ledger.holds.capture(first, completed(100))
    await die(ledger)
    assert not is_owned(tmp_path)
    assert await inherited(pool, tmp_path) == Estate(records=1, open_holds=1, sessions=1)
    paid = await spent(pool, key)
    assert paid == 100_000 + HOLD
    assert await inherited(pool, tmp_path) == Estate(0, 0, 0)
    assert await spent(pool, key) == paid
    states = await pool.fetch("SELECT state FROM worker_sessions")
    assert [row["state"] for row in states] == ["proved"]


async def test_the_journal_of_a_living_worker_is_not_inherited(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path
) -> None:
    """Its lock says so; when it has ended in order there is nothing left to do."""
    ledger = await started(pool, tmp_path)
    ledger.holds.capture(await place(ledger, key), completed(100))
    assert is_owned(tmp_path)
    with pytest.raises(JournalLocked):
        await inherited(pool, tmp_path)
    await ledger.stop()
    assert await inherited(pool, tmp_path) == Estate(0, 0, 0)


@pytest.mark.parametrize("lost", [set(), {"progress"}, {"book"}])
async def test_an_heir_that_fails_leaves_it_to_the_next(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path, lost: set[str]
) -> None:
    """PostgreSQL is away, or its answer is lost, before or after it booked: the next heir, a worker even, completes it."""
    ledger = await started(pool, tmp_path)
    ledger.holds.capture(await place(ledger, key), completed(100))
    await place(ledger, key)
    await die(ledger)
    faulty = Faulty(Settlement(pool))
    faulty.lost, faulty.away = lost, not lost
    with pytest.raises(StoreUnavailable):
        await inherited(pool, tmp_path, faulty)
    assert not is_owned(tmp_path)
    successor = await started(pool, tmp_path)
    await successor.stop()
    assert await pool.fetchval("SELECT count(*) FROM usage_events") == 2
    assert await spent(pool, key) > 0
