"""A warm request asks PostgreSQL nothing: counted on a real pool, with everything on that a request passes through."""

from pathlib import Path
from typing import Any

import asyncpg
import pytest

from meterproxy.core.key import digest_of
from meterproxy.store.directory import KeyDirectory
from meterproxy.store.keys import Keys
from tests.ledger.bank import customer, ledger_of, pool_of
from tests.proxy.house import built, chat, request

REQUESTS = 25
BODIES = (
    ("/v1/chat/completions", chat()),
    ("/v1/chat/completions", chat(stream=True)),
    ("/v1/embeddings", {"model": "text-embedding-3-small", "input": "one"}),
    ("/v1/responses", {"model": "gpt-4o", "input": "Say hello.", "max_output_tokens": 30, "store": False}),
    ("/v1/moderations", {"input": "Is this fine?"}),
)


async def test_warm_requests_make_no_statement(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of requests of every kind take no connection from the pool; settling them afterwards takes a few."""
    async with pool_of(database) as pool:
        entry = await customer(pool, 10**12)
        secret = (await Keys(pool, "test").create(entry.account_id, "warm")).secret
        worker = ledger_of(pool, tmp_path)
        await worker.start()
        await worker.borrower.borrow(entry.account.plan, [10**9])
        directory = KeyDirectory(pool)
        assert await directory.find(digest_of(secret.encode())) is not None
        taken = counted_acquires(monkeypatch)
        async with built(ledger=worker.holds, clock=worker.clock) as house:
            object.__setattr__(house.exchanges.house.ports, "directory", directory)
            object.__setattr__(house.exchanges.house.ports, "owners", worker.owners)
            for path, body in BODIES:
                async with house.client() as client:
                    for _ in range(REQUESTS):
                        client.send(request(path, body, secret=secret))
                        assert (await client.answer()).status == 200, path
            await house.ended()
        assert taken == []
        await worker.stop()
        assert taken
        assert await pool.fetchval("SELECT count(*) FROM usage_events") == REQUESTS * len(BODIES)


def counted_acquires(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that grows by one for each connection that anybody takes from any pool."""
    taken: list[str] = []
    acquire = asyncpg.Pool.acquire

    def noted(self: asyncpg.Pool, **settings: Any) -> Any:
        taken.append("connection")
        return acquire(self, **settings)

    monkeypatch.setattr(asyncpg.Pool, "acquire", noted)
    return taken
