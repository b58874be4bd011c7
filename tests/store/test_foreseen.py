"""Credit that will soon be used up is told once, by whoever looks, and again after it clearly was not."""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from meterproxy.core.forecast import forecast
from meterproxy.core.money import NANOS_PER_USD
from meterproxy.store import foreseen
from meterproxy.store.accounts import AccountRow, Accounts
from meterproxy.store.credit_marks import CreditMarks, Mark
from meterproxy.store.foreseen import Foreseen, look_ahead
from tests.ledger.bank import pool_of

USD = NANOS_PER_USD
ALWAYS = -60
"""After how many seconds everybody may look, whoever else does."""


def today() -> date:
    return datetime.now(UTC).date()


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


async def account_with(pool: asyncpg.Pool, left: int, spent: Mapping[date, int]) -> AccountRow:
    """An account that has spent so much by day, and has so much left."""
    accounts = Accounts(pool, "test")
    account = await accounts.create("Acme")
    if left:
        await accounts.credit(account.id, left, "grant")
    await pool.executemany(
        "INSERT INTO usage_by_day (account_id, day, user_id, key_id, provider, model, operation, requests, failures,"
        " input_tokens, cached_tokens, output_tokens, cost_nanos, amount_nanos)"
        " VALUES ($1, $2, $1, $3, 'p', 'm', 'chat', 1, 0, 0, 0, 0, 0, $4)",
        [
            (account.id, day, UUID(int=part), nanos // 2 + (nanos % 2) * part)
            for day, nanos in spent.items()
            for part in range(2)
        ],
    )
    return account


def steady(days: int) -> dict[date, int]:
    """A dollar a day."""
    return {today() - timedelta(days=number): USD for number in range(1, days + 1)}


async def book(pool: asyncpg.Pool, account: AccountRow, nanos: int) -> None:
    await Accounts(pool, "test").credit(account.id, nanos, "adjustment")


async def looked(pool: asyncpg.Pool) -> list[Foreseen]:
    """Four workers look at a time, each as if it were its turn."""
    told = await asyncio.gather(*(look_ahead(pool, ALWAYS) for _ in range(4)))
    return [each for one in told for each in one]


async def test_it_is_told_once_for_each_time_that_it_comes_near(pool: asyncpg.Pool) -> None:
    """Seven days ahead where nobody has said otherwise; what goes back a little is not told again, what goes back far is."""
    account = await account_with(pool, 8 * USD, steady(20))
    for booked, days in (
        (0, None), (-USD, 7), (0, None), (-USD, None), (4 * USD, None), (-3 * USD, None), (4 * USD, None), (-4 * USD, 7),
        (-5 * USD, None),
    ):  # fmt: skip
        if booked:
            await book(pool, account, booked)
        assert await looked(pool) == ([] if days is None else [Foreseen(account.id, days)]), booked
    rows = await pool.fetch("SELECT * FROM notifications ORDER BY id")
    assert [(row["kind"], row["account_id"], row["user_id"], row["for_payers"]) for row in rows] == [
        ("credit.runs_out", account.id, None, False)
    ] * 2
    day = str(today() + timedelta(days=7))
    assert orjson.loads(rows[0]["detail"]) == {
        "runs_out": day, "runs_out_earliest": day, "runs_out_latest": day, "days": 7, "left_nanos": 7 * USD,
    }  # fmt: skip


async def test_who_wants_to_hear_earlier_does(pool: asyncpg.Pool) -> None:
    """By other days anew, by the same days not; and not at all."""
    account = await account_with(pool, 20 * USD, steady(20))
    marks = CreditMarks(pool, "test")
    for days, told in ((10, 0), (20, 1), (20, 0), (21, 1), (None, 0), (20, 1)):
        await marks.set(account.id, Mark(None, None, days))
        assert len(await looked(pool)) == told, days
    await marks.set(account.id, Mark(None, None, None), ("runs_out_days",))
    assert (await marks.read(account.id)).runs_out_days == 20
    assert await looked(pool) == []


async def test_nothing_is_told_of_what_nobody_can_foresee(pool: asyncpg.Pool) -> None:
    """Six days are not enough data; where nothing is left, that is told otherwise; who spends nothing has enough."""
    await account_with(pool, USD, steady(6))
    await account_with(pool, 0, steady(20))
    await account_with(pool, USD // 100 - 1, steady(20))
    await account_with(pool, USD, {})
    await account_with(pool, USD, {today() - timedelta(days=number): USD for number in range(60, 80)})
    assert await looked(pool) == []
    enough = await account_with(pool, USD, steady(7))
    assert await looked(pool) == [Foreseen(enough.id, 1)]


async def test_it_is_told_of_whom_the_forecast_says_it_of(pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any history, page by page, however much is left: nobody is left out for having much."""
    monkeypatch.setattr(foreseen, "ACCOUNTS_AT_ONCE", 7)
    chance = random.Random(7)
    expected = {}
    for _ in range(40):
        numbers = chance.sample(range(1, 57), chance.randint(3, 50))
        spent = {today() - timedelta(days=number): int(chance.lognormvariate(20, 2)) for number in numbers}
        left = int(chance.uniform(0.2, 1.6) * 7 * sum(spent.values()) / max(numbers)) + USD
        account = await account_with(pool, left, spent)
        told = forecast(spent, today(), today(), 0, left)
        if told is not None and told.runs_out is not None and told.runs_out <= today() + timedelta(days=7):
            expected[account.id] = (told.runs_out - today()).days
    assert {each.account_id: each.days for each in await look_ahead(pool, ALWAYS)} == expected
    assert 5 < len(expected) < 35


async def test_one_worker_looks_in_a_quarter_of_an_hour(pool: asyncpg.Pool) -> None:
    """Whichever comes first; the others have nothing to do until then."""
    assert await look_ahead(pool) == []
    account = await account_with(pool, USD, steady(20))
    assert await asyncio.gather(*(look_ahead(pool) for _ in range(3))) == [[], [], []]
    await pool.execute("UPDATE forecast_looks SET looked_at = looked_at - interval '16 minutes'")
    told = await asyncio.gather(*(look_ahead(pool) for _ in range(3)))
    assert sorted(told, key=len) == [[], [], [Foreseen(account.id, 1)]]


async def test_others_have_a_turn_between_two_forecasts(pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many accounts there are, no request waits for more than one of them."""
    for _ in range(20):
        await account_with(pool, 12 * USD, steady(20) | {today() - timedelta(days=3): 2 * USD})
    turns, seen = 0, []

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def seen_forecast(*given: Any) -> Any:
        seen.append(turns)
        return forecast(*given)

    monkeypatch.setattr(foreseen, "forecast", seen_forecast)
    counting = asyncio.create_task(count_turns())
    assert await look_ahead(pool, ALWAYS) == []
    counting.cancel()
    assert len(seen) == len(set(seen)) == 20
