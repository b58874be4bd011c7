"""Upkeep: what is not fit to keep money in is named, one reason each."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from meterproxy.errors import StoreUnavailable
from meterproxy.store import retention
from meterproxy.store.upkeep import make_partitions, self_test
from tests.ledger.bank import pool_of

DATABASE = "ALTER DATABASE {} SET synchronous_commit = '{}'"


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


@pytest.mark.parametrize(("setting", "fit"), [
    ("on", True), ("remote_apply", True), ("remote_write", False), ("local", False), ("off", False),
])  # fmt: skip
async def test_commits_must_survive(pool: asyncpg.Pool, setting: str, fit: bool) -> None:
    """What is confirmed is on disk, here and on a standby that is waited for."""
    name = await pool.fetchval("SELECT current_database()")
    await pool.execute(DATABASE.format(name, setting))
    await pool.expire_connections()
    problems = await self_test(pool)
    assert (f"the database runs with synchronous_commit {setting}" in problems) is not fit
    assert "the database runs with fsync off" in problems, "as that of a test run does"


async def test_a_schema_of_another_release_is_named(pool: asyncpg.Pool) -> None:
    """A worker does not keep money in tables that it does not know."""
    assert not [problem for problem in await self_test(pool) if "migration" in problem]
    await pool.execute("INSERT INTO schema_migrations VALUES (9999, '9999_future', 'x')")
    assert [problem for problem in await self_test(pool) if "9999_future" in problem]


async def test_partitions_are_made_once(pool: asyncpg.Pool) -> None:
    """The second worker that comes by finds nothing to do."""
    assert await make_partitions(pool) > 0
    assert await make_partitions(pool) == 0


async def test_who_reads_is_not_waited_for_when_partitions_are_made(
    pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settling would wait behind it; there is time to come again."""
    monkeypatch.setattr(retention, "LOCK_MS", 20)
    async with pool.acquire() as reader, reader.transaction():
        await reader.fetchval("SELECT count(*) FROM usage_events")
        with pytest.raises(StoreUnavailable, match="lock timeout"):
            await make_partitions(pool)
    assert await make_partitions(pool) > 0
