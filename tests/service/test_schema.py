"""The schema as a part: what is prepared before any worker starts."""

from pathlib import Path

import pytest

from meterproxy.service.schema import Schema
from meterproxy.store import retention
from tests.ledger.bank import pool_of

MONTHS = "SELECT count(*) - 1 FROM pg_inherits WHERE inhparent = 'usage_events'::regclass"


async def test_a_start_does_not_wait_for_who_reads(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup may take hours; the partitions of coming months are made behind it."""
    monkeypatch.setattr(retention, "LOCK_MS", 20)
    async with pool_of(database) as pool, pool.acquire() as reader:
        async with reader.transaction():
            await reader.fetchval("SELECT count(*) FROM usage_events")
            await Schema(lambda: database, tmp_path, demo=False).start()
            assert await pool.fetchval(MONTHS) == 0
        await Schema(lambda: database, tmp_path, demo=False).start()
        assert await pool.fetchval(MONTHS) > 0
