"""Budgets and rate limits beside credit: all or none, in order, to the last unit, and booked in their own measure."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest

from meterproxy.core.bound import Bound
from meterproxy.core.hold import HoldRequest, Rate, Rest
from meterproxy.core.key import KeyEntry
from meterproxy.core.limit import Limit, Measure, Scope
from meterproxy.core.money import MAX_NANOS
from meterproxy.core.record import Ending
from meterproxy.core.resource import Resource
from meterproxy.core.usage import Outcome, Usage, UsageSource
from meterproxy.core.window import WindowKind
from meterproxy.errors import ApiError, Case
from meterproxy.ledger.worker import WorkerLedger
from meterproxy.store.audit import audit
from meterproxy.store.explain import explain
from meterproxy.store.instants import to_us
from meterproxy.store.limits import Limits
from meterproxy.store.upkeep import delete_old_windows, fold_leases
from tests.ledger.bank import NANOS_PER_TOKEN, REFUSED, completed, customer, hold_request, ledger_of, pool_of

CREDIT = 10**9
UNREACHABLE = Ending(Outcome.UNREACHABLE, 502, UsageSource.PROVIDER, Usage())
LATE = Ending(Outcome.TIMED_OUT, 504, UsageSource.ESTIMATED, Usage(input=5))


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


async def limited(pool: asyncpg.Pool, key: KeyEntry, *limits: Limit) -> tuple[Limit, ...]:
    """Give the key's account these limits, in PostgreSQL and in memory."""
    for limit in limits:
        kind = {Measure.AMOUNT: "budget", Measure.EXPOSURE: "exposure"}.get(limit.measure, "rate")
        await pool.execute(
            "INSERT INTO limits (id, account_id, kind, scope, scope_id, measure, window_kind, cap, grace, enforcement,"
            " operation, model_pattern, name) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
            limit.limit_id, key.account_id, kind, limit.scope, limit.scope_id, limit.measure.name.lower(), limit.window,
            limit.cap, limit.grace, "hard" if limit.hard else "soft", limit.operation, limit.model_pattern, limit.name,
        )  # fmt: skip
    key.account.change((*key.account.limits, *limits), frozen=False)
    return limits


def limit(key: KeyEntry, measure: Measure, cap: int | None, **members: Any) -> Limit:
    """A limit of the key by the day, unless something else is said."""
    window = WindowKind.NONE if measure is Measure.CONCURRENT else WindowKind.DAY
    values = {"scope": Scope.KEY, "scope_id": key.key_id, "window": window, "cap": cap, **members}
    return Limit(uuid4(), measure=measure, **values)


def asked(ledger: WorkerLedger, key: KeyEntry, tokens: int, **members: Any) -> HoldRequest:
    bound = Bound(input_tokens=tokens // 2, output_tokens=tokens - tokens // 2)
    return hold_request(ledger, key, tokens * NANOS_PER_TOKEN, bound=bound, **members)


async def refused(ledger: WorkerLedger, key: KeyEntry, tokens: int, **members: Any) -> ApiError:
    with pytest.raises(ApiError) as refusal:
        await ledger.holds.place(asked(ledger, key, tokens, **members))
    return refusal.value


async def window(pool: asyncpg.Pool, limit_id: UUID) -> dict[str, int]:
    row = await pool.fetchrow(
        "SELECT drawn, overrun, late, counted, unspent, folded FROM limit_windows WHERE limit_id = $1", limit_id
    )
    return {} if row is None else {name: amount for name, amount in row.items() if amount}


async def wrong(pool: asyncpg.Pool) -> list[Any]:
    return [result for result in await audit(pool) if not result.ok]


async def test_budgets_on_three_levels_are_used_to_the_last_nanodollar(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """The least budget refuses, by its name; what it did not refuse is drawn from all of them, and no more."""
    key = await customer(pool, CREDIT)
    mine, users, accounts = await limited(
        pool, key,
        limit(key, Measure.AMOUNT, 300 * NANOS_PER_TOKEN, name="mine"),
        limit(key, Measure.AMOUNT, 500 * NANOS_PER_TOKEN, scope=Scope.USER, scope_id=key.user_id),
        limit(key, Measure.AMOUNT, 700 * NANOS_PER_TOKEN, scope=Scope.ACCOUNT, scope_id=key.account_id,
              window=WindowKind.MONTH),
    )  # fmt: skip
    ledger = ledger_of(pool, tmp_path, wait_ms=0)
    await ledger.start()
    hold = await ledger.holds.place(asked(ledger, key, 200))
    held = await refused(ledger, key, 101)
    assert (held.case, "mine" in held.message) == (Case.CREDIT_HELD, True)
    ledger.holds.capture(hold, completed(200))
    spent = await refused(ledger, key, 101)
    assert (spent.case, "mine" in spent.message) == (Case.BUDGET_SPENT, True)
    last = await ledger.holds.place(asked(ledger, key, 100))
    ledger.holds.capture(last, completed(100))
    assert (await refused(ledger, key, 1)).case is Case.BUDGET_SPENT
    await ledger.stop()
    for one in (mine, users, accounts):
        assert await window(pool, one.limit_id) == {"drawn": 300 * NANOS_PER_TOKEN}
    assert await wrong(pool) == []


async def test_requests_tokens_and_concurrency_by_how_exchanges_end(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """A request comes back if it never reached the provider; tokens are what was measured; a place is always free again."""
    key = await customer(pool, CREDIT)
    requests, tokens, places = await limited(
        pool, key,
        limit(key, Measure.REQUESTS, 5), limit(key, Measure.TOKENS, 1000), limit(key, Measure.CONCURRENT, 2),
    )  # fmt: skip
    ledger = ledger_of(pool, tmp_path, wait_ms=0)
    await ledger.start()
    first, second = [await ledger.holds.place(asked(ledger, key, 100)) for _ in range(2)]
    crowded = await refused(ledger, key, 100)
    assert (crowded.case, crowded.headers["Retry-After"]) == (Case.REQUESTS_LIMITED, "1")
    ledger.holds.capture(first, completed(130))
    ledger.holds.release(second, UNREACHABLE)
    for ending in (REFUSED, LATE, completed(40)):
        hold = await ledger.holds.place(asked(ledger, key, 100))
        if ending.outcome == Outcome.COMPLETED:
            ledger.holds.capture(hold, ending)
        else:
            ledger.holds.release(hold, ending)
    much = await refused(ledger, key, 900)
    assert (much.case, "x-should-retry" in much.headers) == (Case.TOKENS_LIMITED, False)
    assert (await refused(ledger, key, 1001)).headers["x-should-retry"] == "false"
    ledger.holds.capture(await ledger.holds.place(asked(ledger, key, 1)), completed(1))
    fifth = await refused(ledger, key, 1)
    assert fifth.case is Case.REQUESTS_LIMITED
    assert 0 < int(fifth.headers["Retry-After"]) <= 86400
    await ledger.stop()
    assert await window(pool, requests.limit_id) == {"drawn": 5}
    assert await window(pool, tokens.limit_id) == {"drawn": 171, "overrun": 30}
    assert await window(pool, places.limit_id) == {}
    assert await pool.fetchval("SELECT drawn FROM limit_windows WHERE limit_id = $1", places.limit_id) == 0
    assert await wrong(pool) == []


async def test_soft_limits_and_those_without_a_cap_only_count(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """Nothing is lent from them and nobody refused; what passed is there, in windows made when it was settled."""
    key = await customer(pool, CREDIT)
    soft, uncapped, other = await limited(
        pool, key,
        limit(key, Measure.AMOUNT, 10, hard=False), limit(key, Measure.TOKENS, None, window=WindowKind.TOTAL),
        limit(key, Measure.REQUESTS, 0, operation="embedding"),
    )  # fmt: skip
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    for tokens in (100, 50):
        ledger.holds.capture(await ledger.holds.place(asked(ledger, key, tokens)), completed(tokens))
    last = ledger.holds.try_place(asked(ledger, key, 1))
    assert last is not None
    ledger.holds.release(last, REFUSED)
    assert (await refused(ledger, key, 1, operation="embedding")).case is Case.REQUESTS_LIMITED
    await ledger.stop()
    amount = 150 * NANOS_PER_TOKEN
    assert await window(pool, soft.limit_id) == {"drawn": amount, "counted": amount}
    assert await window(pool, uncapped.limit_id) == {"drawn": 150, "counted": 150}
    assert await window(pool, other.limit_id) == {}
    assert await wrong(pool) == []


async def test_in_shadow_what_would_be_refused_is_only_counted(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """Everything is served; the books show how far beyond its credit and budget an account has gone."""
    key = await customer(pool, 100 * NANOS_PER_TOKEN)
    (budget,) = await limited(pool, key, limit(key, Measure.AMOUNT, 60 * NANOS_PER_TOKEN))
    ledger = ledger_of(pool, tmp_path, wait_ms=0)
    await ledger.start()
    ledger.holds.shadow = True
    for _ in range(3):
        ledger.holds.capture(await ledger.holds.place(asked(ledger, key, 50)), completed(70))
    assert ledger.holds.shadowed == 2
    await ledger.settler.drain()
    request_id = await pool.fetchval(
        "SELECT id FROM usage_events WHERE packed_draws IS NOT NULL ORDER BY id DESC LIMIT 1"
    )
    told = (await explain(pool, request_id))["limits_drawn"]
    assert {draw["counted"] for draw in told} == {"0.00007"}
    await say_it_as_before(pool)
    assert (await explain(pool, request_id))["limits_drawn"] == told
    await ledger.stop()
    spent = 210 * NANOS_PER_TOKEN
    assert (await window(pool, budget.limit_id))["drawn"] == spent
    assert await window(pool, key.credit.limit_id) == {
        "drawn": spent, "overrun": 20 * NANOS_PER_TOKEN, "counted": 140 * NANOS_PER_TOKEN,
    }  # fmt: skip
    assert await wrong(pool) == []


async def say_it_as_before(pool: asyncpg.Pool) -> None:
    """Rows of earlier releases name their draws in JSON."""
    for row in await pool.fetch("SELECT id, packed_draws FROM usage_events WHERE packed_draws IS NOT NULL"):
        draws = [
            (limit.hex(), start, other and other.hex(), *rest)
            for limit, start, other, *rest in msgspec.msgpack.decode(row["packed_draws"])
        ]
        await pool.execute(
            "UPDATE usage_events SET draws = $2, packed_draws = NULL WHERE id = $1", row["id"], json.dumps(draws)
        )


async def test_in_shadow_no_answer_is_cut_down_to_what_is_left(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """Who moves in has no credit yet: what would be lowered for that is sent as it came."""
    key = await customer(pool, 0)
    ledger = ledger_of(pool, tmp_path, wait_ms=0)
    await ledger.start()
    request = asked(ledger, key, 50)
    assert await ledger.holds.fetch_rest(request) == ledger.holds.rest(request) == Rest(0, None)
    ledger.holds.shadow = True
    assert await ledger.holds.fetch_rest(request) == ledger.holds.rest(request) == Rest(MAX_NANOS, None)
    await ledger.stop()


@pytest.mark.parametrize("settled", [True, False])
async def test_a_durable_hold_draws_in_every_measure(pool: asyncpg.Pool, tmp_path: Path, *, settled: bool) -> None:
    """Its place among concurrent requests is free at once; its tokens and money come back when it has ended."""
    key = await customer(pool, CREDIT)
    requests, tokens, places, soft = await limited(
        pool, key,
        limit(key, Measure.REQUESTS, 5), limit(key, Measure.TOKENS, 1000), limit(key, Measure.CONCURRENT, 1),
        limit(key, Measure.TOKENS, None),
    )  # fmt: skip
    ledger = ledger_of(pool, tmp_path, wait_ms=0)
    await ledger.start()
    hold = await ledger.holds.place(asked(ledger, key, 600))
    ledger.durable.defer(hold, Resource(key.account_id, "response", "resp_1", "test"))
    if settled:
        await ledger.settler.drain()
    ledger.holds.release(await ledger.holds.place(asked(ledger, key, 100)), UNREACHABLE)
    assert (await refused(ledger, key, 700)).case is Case.TOKENS_LIMITED
    ledger.durable.capture(hold, completed(250))
    await ledger.settler.drain()
    ledger.holds.release(await ledger.holds.place(asked(ledger, key, 750)), UNREACHABLE)
    await ledger.stop()
    assert await window(pool, requests.limit_id) == {"drawn": 1}
    assert await window(pool, tokens.limit_id) == {"drawn": 250, "unspent": 350}
    assert await window(pool, soft.limit_id) == {"drawn": 250, "counted": 250}
    assert await pool.fetchval("SELECT drawn FROM limit_windows WHERE limit_id = $1", places.limit_id) == 0
    assert await wrong(pool) == []


async def test_an_exchange_belongs_to_the_window_in_which_it_was_accepted(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """What was accepted before midnight counts before midnight, however late it ends; the new day has its whole cap."""
    key = await customer(pool, CREDIT)
    (requests,) = await limited(pool, key, limit(key, Measure.REQUESTS, 2, window=WindowKind.MINUTE))
    ledger = ledger_of(pool, tmp_path, wait_ms=0)
    await ledger.start()
    minute = ledger.clock.now_us() // 60_000_000 * 60_000_000
    before, after = minute - 1, minute
    old = [await ledger.holds.place(asked(ledger, key, 1, occurred_us=before)) for _ in range(2)]
    new = [await ledger.holds.place(asked(ledger, key, 1, occurred_us=after)) for _ in range(2)]
    for occurred_us in (before, after):
        assert (await refused(ledger, key, 1, occurred_us=occurred_us)).case is Case.REQUESTS_LIMITED
    for hold in (*old, *new):
        ledger.holds.capture(hold, completed(1))
    await ledger.stop()
    drawn = await pool.fetch("SELECT drawn FROM limit_windows WHERE limit_id = $1", requests.limit_id)
    assert [row["drawn"] for row in drawn] == [2, 2]
    assert await wrong(pool) == []


async def test_what_is_logged_belongs_to_the_window_in_which_it_is_told(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """Its row is of the day that it names; that day's window is not touched, and today's refuses."""
    key = await customer(pool, CREDIT)
    (daily,) = await limited(pool, key, limit(key, Measure.TOKENS, 100))
    ledger = ledger_of(pool, tmp_path, wait_ms=0)
    await ledger.start()
    now_us = ledger.clock.now_us()
    then_us = now_us - 3 * 86_400_000_000
    hold = await ledger.holds.place(asked(ledger, key, 80, occurred_us=then_us, accepted_us=now_us))
    ledger.holds.capture(hold, completed(80))
    assert (await refused(ledger, key, 21, occurred_us=then_us, accepted_us=now_us)).case is Case.TOKENS_LIMITED
    await ledger.stop()
    (row,) = await pool.fetch("SELECT window_start, drawn FROM limit_windows WHERE limit_id = $1", daily.limit_id)
    assert (to_us(row["window_start"]) <= now_us < to_us(row["window_start"]) + 86_400_000_000, row["drawn"]) == (
        True,
        80,
    )
    assert to_us(await pool.fetchval("SELECT occurred_at FROM usage_events")) == then_us
    assert await wrong(pool) == []


async def test_leases_of_windows_that_ended_are_forgotten_and_can_still_be_drawn_from(
    pool: asyncpg.Pool, tmp_path: Path
) -> None:
    """Memory keeps nothing of them once all is settled; a request that was accepted then still counts there."""
    key = await customer(pool, CREDIT)
    (requests,) = await limited(pool, key, limit(key, Measure.REQUESTS, 8, window=WindowKind.MINUTE))
    ledger = ledger_of(pool, tmp_path, wait_ms=0)
    await ledger.start()
    past = ledger.clock.now_us() - 600_000_000
    held = [await ledger.holds.place(asked(ledger, key, 1, occurred_us=past)) for _ in range(2)]
    await ledger.borrower.report()
    assert len(ledger.book.leases) == 2
    for hold in held:
        ledger.holds.capture(hold, completed(1))
    await ledger.borrower.report()
    assert len(ledger.book.leases) == 2, "PostgreSQL does not know yet what was used"
    await ledger.settler.drain()
    await ledger.borrower.report()
    assert [*ledger.book.leases] == [key.credit]
    assert await window(pool, requests.limit_id) == {"drawn": 2}
    for _ in range(6):
        ledger.holds.capture(await ledger.holds.place(asked(ledger, key, 1, occurred_us=past)), completed(1))
    assert (await refused(ledger, key, 1, occurred_us=past)).case is Case.REQUESTS_LIMITED
    await ledger.stop()
    assert await window(pool, requests.limit_id) == {"drawn": 8}
    assert await wrong(pool) == []


async def test_a_late_hold_of_nothing_brings_no_forgotten_window_back(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """What draws nothing of it is placed by the lease that was let go of; what is told in the background goes on."""
    key = await customer(pool, CREDIT)
    (tokens,) = await limited(pool, key, limit(key, Measure.TOKENS, 100, window=WindowKind.MINUTE))
    ledger = ledger_of(pool, tmp_path, wait_ms=0)
    await ledger.start()
    past = ledger.clock.now_us() - 600_000_000
    ledger.holds.capture(await ledger.holds.place(asked(ledger, key, 10, occurred_us=past)), completed(10))
    await ledger.settler.drain()
    await ledger.borrower.report()
    assert [*ledger.book.leases] == [key.credit]
    nothing = Bound(input_tokens=0, output_tokens=0)
    late = hold_request(ledger, key, NANOS_PER_TOKEN, bound=nothing, occurred_us=past)
    hold = ledger.holds.try_place(late)
    assert hold is not None
    await ledger.borrower.report()
    ledger.holds.capture(hold, completed(0))
    await ledger.borrower.settle_down()
    await ledger.borrower.report()
    await ledger.stop()
    assert await window(pool, tokens.limit_id) == {"drawn": 10}
    assert await wrong(pool) == []


async def test_what_is_left_of_a_forgotten_window_is_asked_for_anew(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """What was last heard of it was before the rest of its lease went back."""
    key = await customer(pool, CREDIT)
    await limited(pool, key, limit(key, Measure.TOKENS, 100, window=WindowKind.MINUTE))
    ledger = ledger_of(pool, tmp_path, wait_ms=0)
    await ledger.start()
    late = asked(ledger, key, 10, occurred_us=ledger.clock.now_us() - 600_000_000)
    ledger.holds.capture(await ledger.holds.place(late), completed(10))
    told = ledger.holds.rest(late)
    assert told is not None
    assert told.tokens == 90
    await ledger.settler.drain()
    await ledger.borrower.report()
    assert ledger.holds.rest(late) is None
    assert (await ledger.holds.fetch_rest(late)).tokens == 90
    await ledger.stop()


async def test_what_is_left_is_told_of_the_tightest_limits(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """Requests and tokens for the headers; the least money and tokens for a request that names no maximum."""
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    now = ledger.clock.now_us()
    await limited(
        pool, key,
        limit(key, Measure.REQUESTS, 10), limit(key, Measure.REQUESTS, 4, window=WindowKind.MINUTE),
        limit(key, Measure.TOKENS, 1000), limit(key, Measure.AMOUNT, 5_000_000),
    )  # fmt: skip
    request = asked(ledger, key, 100, occurred_us=now)
    assert ledger.holds.rest(request) is None
    assert await ledger.holds.fetch_rest(request) == Rest(5_000_000, 1000)
    ledger.holds.capture(await ledger.holds.place(request), completed(60))
    rates = ledger.holds.rates(key, "chat", "test-model", now)
    assert isinstance(rates.requests, Rate)
    assert isinstance(rates.tokens, Rate)
    assert (rates.requests.limit, rates.requests.remaining, rates.tokens.limit, rates.tokens.remaining) == (
        4, 3, 1000, 940,
    )  # fmt: skip
    assert 0 <= rates.requests.reset_us <= 60_000_000
    assert ledger.holds.rest(request) == Rest(5_000_000 - 60_000, 940)
    await ledger.stop()


async def test_nothing_is_lent_while_lending_is_stopped(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """Who has a lease goes on within it; the others are told to come back, and PostgreSQL is asked once a second."""
    key, other = await customer(pool, CREDIT), await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path, wait_ms=0)
    await ledger.start()
    ledger.holds.release(await ledger.holds.place(asked(ledger, key, 100)), REFUSED)
    for column in ("lending = false", "lending = true, paused_until = now() + interval '1 hour'"):
        await pool.execute(f"UPDATE fleet_state SET {column}")
        ledger.borrower._stopped_until_us = 0
        ledger.holds.release(await ledger.holds.place(asked(ledger, key, 100)), REFUSED)
        stopped = await refused(ledger, other, 100)
        assert (stopped.case, stopped.headers["Retry-After"]) == (Case.UNAVAILABLE, "1")
    await pool.execute("UPDATE fleet_state SET paused_until = NULL")
    assert (await refused(ledger, other, 100)).case is Case.UNAVAILABLE, "for a moment nobody asks again"
    ledger.borrower._stopped_until_us = 0
    ledger.holds.release(await ledger.holds.place(asked(ledger, other, 100)), REFUSED)
    await ledger.stop()


@pytest.mark.parametrize("cap", [1, 7, 40])
async def test_one_worker_alone_can_use_all_requests_of_a_minute(pool: asyncpg.Pool, tmp_path: Path, cap: int) -> None:
    """To the last one, however it borrows them; and never one more."""
    key = await customer(pool, CREDIT)
    await limited(pool, key, limit(key, Measure.REQUESTS, cap, window=WindowKind.MINUTE))
    ledger = ledger_of(pool, tmp_path, wait_ms=0)
    await ledger.start()
    at_us = ledger.clock.now_us()
    for _ in range(cap):
        ledger.holds.capture(await ledger.holds.place(asked(ledger, key, 1, occurred_us=at_us)), completed(1))
    assert (await refused(ledger, key, 1, occurred_us=at_us)).case is Case.REQUESTS_LIMITED
    await ledger.stop()
    assert await wrong(pool) == []


async def test_workers_together_serve_never_one_more(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """Requests, places and a budget under many at once on three workers: each window is used up, none beyond its cap."""
    key = await customer(pool, CREDIT)
    requests, places, budget = await limited(
        pool, key,
        limit(key, Measure.REQUESTS, 60), limit(key, Measure.CONCURRENT, 5),
        limit(key, Measure.AMOUNT, 1000 * NANOS_PER_TOKEN),
    )  # fmt: skip
    ledgers = [ledger_of(pool, tmp_path / name, wait_ms=20) for name in "123"]
    for ledger in ledgers:
        await ledger.start()
    running = most = served = 0

    async def client(ledger: WorkerLedger) -> None:
        nonlocal running, most, served
        for _ in range(10):
            try:
                hold = await ledger.holds.place(asked(ledger, key, 10))
            except ApiError:
                continue
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1
            served += 1
            ledger.holds.capture(hold, completed(10))

    await asyncio.gather(*(client(ledger) for ledger in ledgers for _ in range(3)))
    assert most <= 5
    assert 0 < served <= 60
    for ledger in ledgers:
        await ledger.stop()
    assert await window(pool, requests.limit_id) == {"drawn": served}
    assert await window(pool, budget.limit_id) == {"drawn": served * 10 * NANOS_PER_TOKEN}
    assert await pool.fetchval("SELECT drawn FROM limit_windows WHERE limit_id = $1", places.limit_id) == 0
    assert await wrong(pool) == []


async def test_the_next_minute_is_borrowed_from_before_it_begins(
    pool: asyncpg.Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is in use at the end of a window finds the next one leased; the first request of it asks nobody."""
    key = await customer(pool, CREDIT)
    await limited(pool, key, limit(key, Measure.REQUESTS, 100, window=WindowKind.MINUTE))
    ledger = ledger_of(pool, tmp_path, wait_ms=0)
    await ledger.start()
    minute = ledger.clock.now_us() // 60_000_000 * 60_000_000
    monkeypatch.setattr(ledger.clock, "now_us", lambda: minute + 59_900_000)
    ledger.holds.capture(await ledger.holds.place(asked(ledger, key, 1)), completed(1))
    await ledger.borrower.report()
    await ledger.borrower.settle_down()
    following = asked(ledger, key, 1, occurred_us=minute + 60_000_000)
    hold = ledger.holds.try_place(following)
    assert hold is not None
    ledger.holds.capture(hold, completed(1))
    await ledger.stop()
    assert await wrong(pool) == []


async def test_a_record_that_no_row_holds_still_counts_in_every_limit(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """What settles alone settles in all measures: with minimal columns, and where not even a row has a place."""
    key = await customer(pool, CREDIT)
    requests, tokens, soft = await limited(
        pool, key,
        limit(key, Measure.REQUESTS, 5), limit(key, Measure.TOKENS, 1000), limit(key, Measure.AMOUNT, None),
    )  # fmt: skip
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    for number, trouble in enumerate(("outcome = 'completed'", "true"), 1):
        ledger.holds.capture(await ledger.holds.place(asked(ledger, key, 100)), completed(40, raw_usage=b"{"))
        if number == 2:
            await pool.execute(f"ALTER TABLE usage_events ADD CONSTRAINT trouble CHECK (NOT {trouble}) NOT VALID")
        await ledger.settler.drain()
        assert await window(pool, requests.limit_id) == {"drawn": await leased(pool, requests)}
        assert await counted(pool, soft) == number * 40 * NANOS_PER_TOKEN
    assert ledger.settler.rejected == 2
    await ledger.stop()
    assert await window(pool, requests.limit_id) == {"drawn": 2}
    assert await window(pool, tokens.limit_id) == {"drawn": 80}
    assert [result.name for result in await wrong(pool)] == ["no_record_waits_for_a_person"]


async def leased(pool: asyncpg.Pool, of: Limit) -> int:
    return int(await pool.fetchval("SELECT sum(granted - returned) FROM leases WHERE limit_id = $1", of.limit_id))


async def counted(pool: asyncpg.Pool, of: Limit) -> int:
    return int(await pool.fetchval("SELECT counted FROM limit_windows WHERE limit_id = $1", of.limit_id))


async def test_old_windows_are_deleted_and_made_anew_by_what_comes_late(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """Minutes that nobody holds anything in are gone after two hours, with their leases, budgets too; days and credit stay."""
    key = await customer(pool, CREDIT)
    await limited(
        pool, key,
        limit(key, Measure.REQUESTS, 10, window=WindowKind.MINUTE), limit(key, Measure.TOKENS, 1000),
        limit(key, Measure.AMOUNT, CREDIT, window=WindowKind.MINUTE),
    )  # fmt: skip
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    now = ledger.clock.now_us()
    for ago in (0, 3 * 3600, 4 * 3600):
        at_us = now - ago * 1_000_000
        hold = await ledger.holds.place(asked(ledger, key, 1, occurred_us=at_us))
        if ago < 4 * 3600:
            ledger.holds.capture(hold, completed(1))
    await ledger.settler.drain()
    await ledger.borrower.report()
    assert await delete_old_windows(pool) == 2
    assert await delete_old_windows(pool) == 0
    ledger.holds.release(hold, REFUSED)
    await ledger.stop()
    assert await delete_old_windows(pool) == 2
    assert await wrong(pool) == []


async def test_the_window_of_a_budget_is_kept_while_something_runs_that_outlived_its_exchange(
    pool: asyncpg.Pool, tmp_path: Path
) -> None:
    """What it held and did not use goes back to the minute it came from, however long ago; then that is deleted."""
    key = await customer(pool, CREDIT)
    (minute,) = await limited(pool, key, limit(key, Measure.AMOUNT, CREDIT, window=WindowKind.MINUTE))
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    resource = Resource(key.account_id, "response", "resp_1", "test")
    long_ago = ledger.clock.now_us() - 3 * 3600 * 1_000_000
    ledger.durable.defer(await ledger.holds.place(asked(ledger, key, 100, occurred_us=long_ago)), resource)
    await ledger.settler.drain()
    await ledger.stop()
    assert await fold_leases(pool, after_seconds=0) == 2
    assert await delete_old_windows(pool) == 0
    other = ledger_of(pool, tmp_path / "other")
    await other.start()
    hold = await other.durable.find(resource)
    assert hold is not None
    other.durable.capture(hold, completed(30))
    await other.stop()
    assert await window(pool, minute.limit_id) == {
        "drawn": 30 * NANOS_PER_TOKEN, "folded": 100 * NANOS_PER_TOKEN, "unspent": 70 * NANOS_PER_TOKEN,
    }  # fmt: skip
    assert await delete_old_windows(pool) == 1
    assert await wrong(pool) == []


async def told(pool: asyncpg.Pool, of: Limit) -> tuple[int, int, int | None]:
    """What people see of a limit."""
    status = await Limits(pool, "test").status(of.limit_id)
    return status.used, status.held, status.remaining


async def test_leases_of_the_ended_become_a_number(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """However many workers came and went: nothing that is used, drawn or left changes, and what comes late is late."""
    key = await customer(pool, CREDIT)
    requests, money = await limited(pool, key, limit(key, Measure.REQUESTS, 10), limit(key, Measure.AMOUNT, CREDIT))
    for number in range(3):
        ledger = ledger_of(pool, tmp_path / str(number))
        await ledger.start()
        ledger.holds.capture(await ledger.holds.place(asked(ledger, key, 100)), completed(60))
        await ledger.stop()
    living = ledger_of(pool, tmp_path / "living")
    await living.start()
    living.holds.capture(await living.holds.place(asked(living, key, 100)), completed(60))
    await living.settler.drain()
    before = [await told(pool, of) for of in (requests, money)]
    assert await fold_leases(pool) == 0, "somebody may still want to look at them"
    assert await fold_leases(pool, after_seconds=0) == 9
    assert await fold_leases(pool, after_seconds=0) == 0
    assert [await told(pool, of) for of in (requests, money)] == before
    assert await pool.fetchval("SELECT count(*) FROM leases") == 3
    assert await wrong(pool) == []
    await living.stop()
    assert await window(pool, requests.limit_id) == {"drawn": 4, "folded": 3}
    assert await window(pool, money.limit_id) == {"drawn": 240 * NANOS_PER_TOKEN, "folded": 180 * NANOS_PER_TOKEN}
    assert await wrong(pool) == []


async def test_an_ended_lease_that_still_holds_something_stays_to_be_seen(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """Tidying up hides no mistake."""
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    ledger.holds.capture(await ledger.holds.place(asked(ledger, key, 100)), completed(60))
    await ledger.stop()
    await pool.execute("UPDATE leases SET granted = granted + 1")
    assert await fold_leases(pool, after_seconds=0) == 0
    assert "ended_sessions_hold_nothing" in {result.name for result in await wrong(pool)}


async def test_a_lower_cap_is_in_force_with_the_next_look(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """What a worker was lent under the old cap and has not used goes back at once; a higher cap lets requests pass."""
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path, wait_ms=0)
    await ledger.start()
    (requests,) = await limited(pool, key, limit(key, Measure.REQUESTS, 1000))
    for _ in range(2):
        ledger.holds.capture(await ledger.holds.place(asked(ledger, key, 100)), completed(60))
    limits = Limits(pool, "test")
    await limits.change(requests.limit_id, {"cap": 2})
    await ledger.look()
    assert (await refused(ledger, key, 100)).case is Case.REQUESTS_LIMITED
    await limits.change(requests.limit_id, {"cap": 3})
    await ledger.look()
    ledger.holds.capture(await ledger.holds.place(asked(ledger, key, 100)), completed(60))
    assert (await refused(ledger, key, 100)).case is Case.REQUESTS_LIMITED
    await ledger.stop()
    status = await limits.status(requests.limit_id)
    assert (status.used, status.held, status.remaining) == (3, 0, 0)
    assert await wrong(pool) == []
