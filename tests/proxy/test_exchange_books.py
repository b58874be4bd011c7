"""Requests that no provider would mind, but that a ledger might: free, huge, and with names that no database takes."""

from pathlib import Path
from typing import Any

import asyncpg
import pytest

from meterproxy.proxy.settings import ExchangeSettings
from meterproxy.store.audit import audit
from tests.ledger.bank import customer, ledger_of, pool_of
from tests.proxy.house import built, chat
from tests.service.test_endings import Books

DEAR = ExchangeSettings(markup_ppm=10**12)
FREE = ExchangeSettings(unpriced="free")


async def wrong(pool: asyncpg.Pool) -> list[str]:
    return [result.name for result in await audit(pool) if not result.ok]


@pytest.mark.parametrize(("model", "booked"), [
    ("sim-unpriced-1", "sim-unpriced-1"),
    ("nobody\0knows", "nobodyknows"),
    ("\0", ""),
    ("m" * 300, "m" * 256),
    ("é\0" * 50, "é" * 50),
])  # fmt: skip
async def test_a_free_model_is_served_without_credit_and_booked(
    database: str, tmp_path: Path, model: str, booked: str
) -> None:
    """On an account that never had a cent or a lease, whatever the model is called: a row, and no record for a person."""
    async with pool_of(database) as pool:
        key = await customer(pool, 0)
        worker = ledger_of(pool, tmp_path)
        await worker.start()
        async with built(FREE, ledger=Books(worker), key=key) as house:
            for _ in range(2):
                answer = await house.ask(body=chat(model=model))
                assert answer.status in {200, 404}, "what the provider says of this model"
        await worker.stop()
        rows = await pool.fetch("SELECT model, amount_nanos FROM usage_events")
        assert [tuple(row) for row in rows] == [(booked, 0)] * 2
        assert await wrong(pool) == []


async def test_a_request_beyond_all_numbers_is_refused_and_harms_nobody(database: str, tmp_path: Path) -> None:
    """A bound that PostgreSQL cannot count is more than the account has; the next request is served as ever."""
    huge: dict[str, Any] = {
        "model": "gpt-3.5-turbo-instruct",
        "prompt": [""] * 2048,
        "max_tokens": 2**31 - 1,
        "n": 128,
    }
    async with pool_of(database) as pool:
        key = await customer(pool, 10**15)
        worker = ledger_of(pool, tmp_path)
        await worker.start()
        async with built(DEAR, ledger=Books(worker), key=key) as house:
            for _ in range(2):
                answer = await house.ask("/v1/completions", huge)
                assert (answer.status, answer.error["code"]) == (429, "insufficient_quota"), answer.body
                assert (await house.ask(body=chat())).status == 200
        await worker.stop()
        assert await pool.fetchval("SELECT count(*) FROM usage_events") == 2
        assert await wrong(pool) == []
