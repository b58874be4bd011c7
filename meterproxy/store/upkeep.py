"""Upkeep: what a database needs done now and then, by whichever worker comes first."""

from typing import Final

import asyncpg

from meterproxy.store.migrate import SchemaError, check_schema
from meterproxy.store.pool import transaction
from meterproxy.store.retention import wait_shortly
from meterproxy.store.slices import delete_in_slices
from meterproxy.store.sqlfiles import queries

_UPKEEP: Final = queries("upkeep")

MONTHS_AHEAD: Final = 3
_LOCK: Final = 0x6D657465725F7570


async def make_partitions(pool: asyncpg.Pool) -> int:
    """Make the monthly partitions of the coming months; answers how many were new.

    Raises:
        StoreUnavailable: also where somebody reads the table for longer than a moment: there are months of time.
    """
    async with transaction(pool) as connection:
        if not await connection.fetchval(_UPKEEP["try_lock"], _LOCK):
            return 0
        await wait_shortly(connection)
        return int(await connection.fetchval(_UPKEEP["make_partitions"], MONTHS_AHEAD))


async def living_workers(pool: asyncpg.Pool) -> int:
    """How many workers of the fleet have a session right now. Raises StoreUnavailable."""
    async with transaction(pool) as connection:
        return int(await connection.fetchval(_UPKEEP["living_workers"]))


OWNER_DAYS: Final = 60
"""How long owners of responses and chat completions are kept, and tombstones. Providers keep what is stored for 30
days; twice that, so that it is never us who forget first."""
ITEM_DAYS: Final = 400
"""How long owners of items are kept: those of responses go with them, those of conversations have no end, but hardly
anybody mentions one by its id after a year. Everything else (conversations, files, …) providers keep until it is
deleted, and so do we. To forget an owner too early is no leak: the thing is nobody's then, and 404 to all."""
OWNERS_AT_ONCE: Final = 5000


async def delete_old_owners(pool: asyncpg.Pool) -> int:
    """Delete owners of what providers do not know any more; answers how many. Raises StoreUnavailable."""
    return await delete_in_slices(pool, _UPKEEP["delete_old_owners"], OWNER_DAYS, ITEM_DAYS, at_once=OWNERS_AT_ONCE)


MINUTES_KEPT_SECONDS: Final = 2 * 3600
"""How long windows by the minute are kept: twice the longest exchange, after which nothing of them can be held."""
HOURS_KEPT_SECONDS: Final = 2 * 86400
WINDOWS_AT_ONCE: Final = 5000


async def delete_old_windows(pool: asyncpg.Pool) -> int:
    """Delete windows of rate limits that ended long ago; answers how many. Raises StoreUnavailable."""
    return await delete_in_slices(
        pool, _UPKEEP["delete_old_windows"], MINUTES_KEPT_SECONDS, HOURS_KEPT_SECONDS, at_once=WINDOWS_AT_ONCE
    )


FOLDED_AFTER_SECONDS: Final = 3600.0
"""How long the leases of an ended session are still to be seen one by one; nothing but a person's eyes needs them."""
LEASES_AT_ONCE: Final = 1000
_FOLD_LOCK: Final = 0x6D657465725F666F


async def fold_leases(pool: asyncpg.Pool, after_seconds: float = FOLDED_AFTER_SECONDS) -> int:
    """Make leases of ended sessions a number of their windows; answers how many. Raises StoreUnavailable."""
    total = 0
    while True:
        async with transaction(pool) as connection:
            if not await connection.fetchval(_UPKEEP["try_lock"], _FOLD_LOCK):
                return total
            folded = int(await connection.fetchval(_UPKEEP["fold_leases"], after_seconds, LEASES_AT_ONCE))
        total += folded
        if folded < LEASES_AT_ONCE:
            return total


DURABLE_COMMITS: Final = frozenset({"on", "remote_apply"})
"""Values of `synchronous_commit` under which what was confirmed is there after a power cut, on the standby too."""


async def self_test(pool: asyncpg.Pool) -> list[str]:
    """What about this database is not fit to keep money in. Raises StoreUnavailable."""
    problems = []
    async with transaction(pool) as connection:
        try:
            await check_schema(connection)
        except SchemaError as error:
            problems.append(str(error))
        settings = {name: await connection.fetchval(f"SHOW {name}") for name in ("fsync", "synchronous_commit")}
        version = int(await connection.fetchval("SHOW server_version_num"))
    if settings["fsync"] != "on":
        problems.append("the database runs with fsync off")
    if settings["synchronous_commit"] not in DURABLE_COMMITS:
        problems.append(f"the database runs with synchronous_commit {settings['synchronous_commit']}")
    if version < 150000:
        problems.append("PostgreSQL 15 or newer is needed")
    return problems
