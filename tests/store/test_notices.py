"""Notices: a change is heard of at once, and a connection that was lost is made again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from meterproxy.core.lending import Change
from meterproxy.store import notices as module
from meterproxy.store.keys import Keys
from meterproxy.store.notices import Notices
from tests.ledger.bank import customer, ledger_of, pool_of

LISTENING = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"
NEVER = 1e6
"""Nobody looks by himself within a test."""


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


@asynccontextmanager
async def heard(dsn: str) -> AsyncIterator[Notices]:
    """Notices that are listened for; the first says that the connection is there."""
    notices = Notices(dsn)
    listening = asyncio.create_task(notices.keep_heard())
    await notices.pause(NEVER)
    yield notices
    listening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listening


async def test_a_revoked_key_is_heard_of_without_a_look_at_the_clock(
    database: str, pool: asyncpg.Pool, tmp_path: Path
) -> None:
    """A worker that would look once in eleven days learns of the change when it is made."""
    key = await customer(pool, 0)
    changes: asyncio.Queue[Change | None] = asyncio.Queue()
    ledger = ledger_of(pool, tmp_path, on_change=changes.put_nowait)
    await ledger.start()
    async with heard(database) as notices:
        ledger.pause = lambda _seconds: notices.pause(NEVER)
        informed = asyncio.create_task(ledger.keep_informed())
        await Keys(pool, "test").revoke(key.key_id)
        change = await changes.get()
        assert change is not None
        assert (change.kind, change.subject_id) == ("key", key.key_id)
        informed.cancel()
    await ledger.stop()


async def test_who_lost_the_connection_listens_again(
    database: str, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And looks at once, since what was changed meanwhile was not heard; then it hears of the next change."""
    monkeypatch.setattr(module, "FIRST_RETRY_SECONDS", 0.01)
    async with heard(database) as notices:
        (lost,) = await pool.fetch(LISTENING)
        await pool.execute("SELECT pg_terminate_backend($1)", lost["pid"])
        await notices.pause(NEVER)
        (again,) = await pool.fetch(LISTENING)
        assert again != lost
        await customer(pool, 1)
        await notices.pause(NEVER)


async def test_without_a_database_it_is_tried_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for news looks by the clock meanwhile, as if nobody listened."""
    tries = asyncio.Semaphore(0)
    monkeypatch.setattr(module, "FIRST_RETRY_SECONDS", 0.001)
    monkeypatch.setattr(module, "LONGEST_RETRY_SECONDS", 0.002)
    notices = Notices(f"postgresql://x@/x?host={tmp_path}")
    connect = notices._connect

    async def counted(**options: Any) -> asyncpg.Connection:
        tries.release()
        return await connect(**options)

    monkeypatch.setattr(notices, "_connect", counted)
    listening = asyncio.create_task(notices.keep_heard())
    for _ in range(5):
        await tries.acquire()
    await notices.pause(0.1)
    assert not listening.done()
    listening.cancel()
