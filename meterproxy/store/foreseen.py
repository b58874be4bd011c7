"""Foreseen: people are told once when their credit is expected to be used up within the days that they set.

Rules
-----
- All accounts are looked at four times an hour, by whichever worker comes first. A forecast is by whole days, so it
  changes with the day, and with what is left.
- What was told is told again only after the forecast has gone clearly back: see `core.forecast.is_near`.
- Where there is not enough data for a forecast, nothing is told and nothing taken back; credit that is used up already
  is told by `credit_marks`.
"""

import asyncio
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg
import orjson

from meterproxy.core.forecast import MOST_DAYS, Forecast, forecast, is_near
from meterproxy.store.pool import Connection, transaction
from meterproxy.store.sqlfiles import queries

_SQL: Final = queries("foreseen")

LOOK_SECONDS: Final = 900
ACCOUNTS_AT_ONCE: Final = 100
USED_UP_NANOS: Final = 10_000_000
"""Below one cent credit counts as used up."""
_BEFORE_ALL: Final = UUID(int=0)


class Foreseen(NamedTuple):
    """An account whose credit will be used up, and in how many days."""

    account_id: UUID
    days: int


async def look_ahead(pool: asyncpg.Pool, every_seconds: float = LOOK_SECONDS) -> list[Foreseen]:
    """Look at the forecasts of all accounts, unless somebody has lately; answers what was told.

    Raises:
        StoreUnavailable: what was not looked at is looked at the next time.
    """
    told: list[Foreseen] = []
    async with transaction(pool) as connection:
        after: UUID | None = _BEFORE_ALL if await connection.fetchval(_SQL["take_turn"], every_seconds) else None
    while after is not None:
        async with transaction(pool) as connection:
            rows = await connection.fetch(_SQL["accounts_to_foresee"], after, ACCOUNTS_AT_ONCE, MOST_DAYS)
            looked = [await _looked(connection, row) for row in rows if row["days"]]
        told += [each for each in looked if each is not None]
        after = rows[-1]["account_id"] if rows else None
    return told


async def _looked(connection: Connection, row: asyncpg.Record) -> Foreseen | None:
    """Tell what is near, and take back what is near no more."""
    await asyncio.sleep(0)  # a forecast takes a millisecond, and requests are served by the same loop
    today, left = row["today"], row["left_nanos"]
    expected = forecast(dict(zip(row["days"], row["nanos"], strict=True)), today, today, 0, left)
    if expected is None:
        return None
    near = is_near(expected.runs_out, today, row["runs_out_days"], was_near=row["is_told"])
    if row["is_told"] and not near:
        await connection.execute(_SQL["take_back"], row["account_id"], row["runs_out_days"])
    if row["is_told"] or not near or left < USED_UP_NANOS:
        return None
    assert expected.runs_out is not None
    detail = orjson.dumps(_detail(expected, row)).decode()
    if not await connection.fetchval(_SQL["tell"], row["account_id"], row["runs_out_days"], detail):
        return None
    return Foreseen(row["account_id"], (expected.runs_out - today).days)


def _detail(expected: Forecast, row: asyncpg.Record) -> dict[str, object]:
    """How things are; days that lie beyond a year are null."""
    return {
        "runs_out": expected.runs_out,
        "runs_out_earliest": expected.runs_out_earliest,
        "runs_out_latest": expected.runs_out_latest,
        "days": row["runs_out_days"],
        "left_nanos": row["left_nanos"],
    }
