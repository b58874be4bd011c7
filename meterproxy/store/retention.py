"""Retention: usage rows older than they are to be kept are dropped by the month; their sums stay.

Rules
-----
- A row keeps its request from being booked again, so before a month goes it refuses new rows, for ever. What settle is
  still told of such a month it books as money alone, and only where the ledger has not charged for it.
- A month is kept as long as anything in it may change: an open durable hold, an undecided replacement, a record that
  waits for a person. What keeps one is told, once by each process.
- Rollups, entries, statements and leases stay. What is gone is kept as one line of sums an account, so that the audit
  still compares to the nanodollar.
- Nobody waits for it: rows are summed up without a lock, and dropping gives up after a moment where somebody reads.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from meterproxy.errors import StoreUnavailable
from meterproxy.store.pool import Connection, transaction
from meterproxy.store.sqlfiles import queries

_SQL: Final = queries("retention")

LOCK_MS: Final = 500
SUM_SECONDS: Final = 3600.0
ROWS_AT_ONCE: Final = 5000
_LOCK: Final = 0x6D657465725F7265
_NOT_NOW: Final = (asyncpg.UndefinedTableError, asyncpg.DependentObjectsStillExistError, asyncpg.DeadlockDetectedError)
"""A person has taken the month away, or hangs something on it (a view); others need not wait for it."""

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Keeping:
    """Why rows are kept that are older than they are to be: so many things that may still change, the oldest since."""

    reason: str
    things: int
    since: datetime


_told: Final[set[tuple[str, datetime]]] = set()


async def drop_old_usage(pool: asyncpg.Pool, days: int) -> int:
    """Drop months that ended more than so many days ago; answers how many rows. Raises StoreUnavailable."""
    async with transaction(pool) as connection:
        if not await connection.fetchval(_SQL["try_lock"], _LOCK):
            return 0
        await wait_shortly(connection)
        await connection.fetchval(_SQL["advance"], days)
    _tell(await kept_by(pool, days))
    async with transaction(pool, readonly=True) as connection:
        over = await connection.fetch(_SQL["months_over"])
    return sum([await _drop_month(pool, month["partition"]) for month in over]) + await _drop_rows(pool)


async def wait_shortly(connection: Connection) -> None:
    """Give up within this transaction where somebody reads: whoever settles waits behind who wants the whole table."""
    await connection.execute(_SQL["wait_shortly"], f"{LOCK_MS}ms")


async def kept_by(pool: asyncpg.Pool, days: int) -> Sequence[Keeping]:
    """What keeps rows of months that ended more than so many days ago, the oldest first. Raises StoreUnavailable."""
    async with transaction(pool, readonly=True) as connection:
        return [Keeping(**row) for row in await connection.fetch(_SQL["kept_by"], days)]


def _tell(keeping: Sequence[Keeping]) -> None:
    """Log what was not told yet."""
    for cause in keeping:
        if (cause.reason, cause.since) not in _told:
            _told.add((cause.reason, cause.since))
            told = {"reason": cause.reason, "things": cause.things, "since": cause.since.isoformat()}
            _log.warning("old rows of usage are kept, as something of then may still change", extra=told)


async def retained_from(pool: asyncpg.Pool) -> datetime | None:
    """The instant from which on usage rows are kept; None: all are."""
    async with transaction(pool, readonly=True) as connection:
        return await read_retained_from(connection)


async def read_retained_from(connection: Connection) -> datetime | None:
    """The same, within a transaction."""
    found: datetime | None = await connection.fetchval(_SQL["retained_from"])
    return found


async def _drop_month(pool: asyncpg.Pool, partition: str) -> int:
    """Sum a month up and drop it, unless another worker does or somebody reads it; answers how many rows it had."""
    try:
        async with transaction(pool) as connection:
            is_summed = await _is_summed(connection, partition)
            if is_summed is False:
                await connection.execute(_SQL["sum_month"], partition, timeout=SUM_SECONDS)
        async with transaction(pool) as connection:
            if not await _is_summed(connection, partition):
                return 0
            await wait_shortly(connection)
            rows = int(await connection.fetchval(_SQL["drop_month"], partition))
    except (StoreUnavailable, *_NOT_NOW) as error:
        _log.warning("a month of usage was not dropped yet", extra={"partition": partition, "error": str(error)})
        return 0
    _log.info("dropped a month of usage rows", extra={"partition": partition, "rows": rows})
    return rows


async def _is_summed(connection: Connection, partition: str) -> bool | None:
    """Whether a month's sums are there; None where it is not ours to drop, by now or at this moment."""
    if not await connection.fetchval(_SQL["try_lock"], _LOCK):
        return None
    months = {row["partition"]: row["is_summed"] for row in await connection.fetch(_SQL["months_over"])}
    return months.get(partition)


async def _drop_rows(pool: asyncpg.Pool) -> int:
    """Delete old rows that have no month of their own; answers how many."""
    total = 0
    while True:
        async with transaction(pool) as connection:
            if not await connection.fetchval(_SQL["try_lock"], _LOCK):
                return total
            deleted = int(await connection.fetchval(_SQL["drop_rows"], ROWS_AT_ONCE))
        total += deleted
        if deleted < ROWS_AT_ONCE:
            return total
