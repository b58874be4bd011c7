"""Crossings: marks of limits that were passed, each written down once per window, for those who are to be notified.

Rules
-----
- Whoever settles looks at the windows it settled in; that several do so at a time changes nothing.
- A worker that was killed in between is made up for by a look at the latest windows of all limits, which one worker
  takes at a time.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg

from meterproxy.core.lending import LeaseKey
from meterproxy.store.instants import to_datetime, to_us
from meterproxy.store.pool import Connection, transaction
from meterproxy.store.slices import delete_in_slices
from meterproxy.store.sqlfiles import queries

_SQL: Final = queries("crossings")
_UPKEEP: Final = queries("upkeep")

LOCK: Final = 0x6D657465725F6D6B
WINDOWS_AT_ONCE: Final = 1000
"""How many windows are looked at in one statement, or the latest ones of how many limits."""
DAYS_KEPT: Final = 7
"""How long crossings of windows by the minute and the hour are kept."""
DELETED_AT_ONCE: Final = 5000
_BEFORE_ALL: Final = UUID(int=0)


class Crossed(NamedTuple):
    """A mark that a window of a limit has just passed."""

    account_id: UUID
    limit_id: UUID
    window_start_us: int
    mark: int
    used: int
    cap: int


async def mark_crossings(connection: Connection, windows: Iterable[LeaseKey]) -> list[Crossed]:
    """Write down which marks of these windows have been passed; answers those that are new."""
    keys = list(windows)
    rows = await connection.fetch(
        _SQL["mark_crossings"],
        [key.account_id for key in keys],
        [key.limit_id for key in keys],
        [to_datetime(key.window_start_us) for key in keys],
    )
    return [
        Crossed(row["account_id"], row["limit_id"], to_us(row["window_start"]), row["mark"], row["used"], row["cap"])
        for row in rows
    ]


async def look_through(pool: asyncpg.Pool) -> list[Crossed]:
    """Look at the latest windows of all limits, unless somebody else does. Raises StoreUnavailable."""
    crossed: list[Crossed] = []
    after: UUID | None = _BEFORE_ALL
    while after is not None:
        async with transaction(pool) as connection:
            if not await connection.fetchval(_UPKEEP["try_lock"], LOCK):
                return crossed
            rows = await connection.fetch(_SQL["latest_windows"], after, WINDOWS_AT_ONCE)
            crossed += await mark_crossings(connection, [_key(row) for row in rows if row["window_start"] is not None])
            after = rows[-1]["limit_id"] if rows else None
    return crossed


async def delete_old_crossings(pool: asyncpg.Pool) -> int:
    """Delete crossings that nobody is interested in any more; answers how many. Raises StoreUnavailable."""
    return await delete_in_slices(pool, _SQL["delete_old_crossings"], DAYS_KEPT, at_once=DELETED_AT_ONCE)


def _key(row: asyncpg.Record) -> LeaseKey:
    return LeaseKey(row["account_id"], row["limit_id"], to_us(row["window_start"]))
