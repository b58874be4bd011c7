"""A month that an account has behind it, made up and booked."""

import time
from collections.abc import Sequence
from uuid import UUID

import asyncpg

from meterproxy.core.price import Price, RateCard
from meterproxy.core.record import EndRecord
from meterproxy.service.invention import DAY_US, Spender, book_invented, invented
from meterproxy.store.settle import Settlement

BIG = Price("openai", "big", {"default": RateCard.written([(-1, {"input": 5_000_000_003, "output": 15_000_000_007})])})
SMALL = Price("openai", "small", {"default": RateCard.written([(-1, {"input": 150_000_000, "output": 600_000_001})])})
EMBED = Price("openai", "embed", {"default": RateCard.written([(-1, {"input": 20_000_000})])})
PRICES = (BIG, SMALL, EMBED)


async def spender_of(pool: asyncpg.Pool, key_id: UUID) -> Spender:
    row = await pool.fetchrow(
        "SELECT k.account_id, c.id AS credit_limit_id, k.user_id, k.id AS key_id FROM keys k "
        "JOIN limits c ON c.account_id = k.account_id AND c.kind = 'credit' WHERE k.id = $1",
        key_id,
    )
    return Spender(*row)


async def history(pool: asyncpg.Pool, key_ids: Sequence[UUID], rows: int = 400, days: int = 40) -> list[EndRecord]:
    """So many exchanges by these keys in the days before now, in the books."""
    now_us = time.time_ns() // 1000
    spenders = [await spender_of(pool, key_id) for key_id in key_ids]
    records = list(invented(spenders, PRICES, now_us - days * DAY_US, now_us, rows))
    assert await book_invented(Settlement(pool), records, PRICES) == rows
    return records
