"""Migrations: each once, by one process at a time, never changed afterwards, never newer than the release."""

import asyncio

import asyncpg
import pytest

from meterproxy.store.migrate import SchemaError, check_schema, migrate
from meterproxy.store.pool import transaction
from meterproxy.store.sqlfiles import migrations
from tests.ledger.bank import pool_of

NAMES = [name for _, name, _ in migrations()]


async def test_all_are_applied_once(empty_database: str) -> None:
    """The second run finds nothing to do."""
    assert await migrate(empty_database) == NAMES
    assert await migrate(empty_database) == []


async def test_processes_that_migrate_at_once_take_turns(empty_database: str) -> None:
    """One of them applies everything, the others nothing, none fails."""
    applied = await asyncio.gather(*(migrate(empty_database) for _ in range(4)))
    assert sorted(map(len, applied)) == [0, 0, 0, len(NAMES)]


async def test_numbers_ascend_and_names_begin_with_them() -> None:
    """So that the order of files is the order of numbers."""
    numbers = [number for number, _, _ in migrations()]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(("tampering", "message"), [
    ("UPDATE schema_migrations SET checksum = 'x' WHERE number = 2", "was changed after it ran"),
    ("UPDATE schema_migrations SET name = 'x' WHERE number = 2", "was changed after it ran"),
    ("INSERT INTO schema_migrations VALUES (9999, '9999_future', 'x')", "use a newer release"),
])  # fmt: skip
async def test_a_schema_that_is_not_ours_is_refused(database: str, tampering: str, message: str) -> None:
    """Changed migrations and schemas of later releases are errors, for migrating and for serving."""
    async with pool_of(database) as pool:
        await pool.execute(tampering)
        with pytest.raises(SchemaError, match=message):
            await migrate(database)
        async with transaction(pool) as connection:
            with pytest.raises(SchemaError, match=message):
                await check_schema(connection)


async def test_a_schema_that_lacks_something_is_refused_for_serving(empty_database: str) -> None:
    """The error names what is missing and says what to do."""
    connection = await asyncpg.connect(empty_database)
    with pytest.raises(SchemaError, match=f"{NAMES[0]}.*run `meterproxy migrate`"):
        await check_schema(connection)
    await migrate(empty_database)
    await check_schema(connection)
    await connection.close()
