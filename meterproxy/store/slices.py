"""Slices: much is deleted a little at a time, each in a transaction of its own, so that nobody waits for it."""

import asyncpg

from meterproxy.store.pool import transaction


async def delete_in_slices(pool: asyncpg.Pool, statement: str, *arguments: object, at_once: int) -> int:
    """Delete until a slice is not full any more; answers how many rows.

    Args:
        statement: one DELETE, whose last parameter is how many rows at most; it takes what `arguments` has before it.

    Raises:
        StoreUnavailable: what was deleted before stays deleted.
    """
    total = 0
    while True:
        async with transaction(pool) as connection:
            done = await connection.execute(statement, *arguments, at_once)
        deleted = int(done.split()[-1])
        total += deleted
        if deleted < at_once:
            return total
