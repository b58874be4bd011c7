"""Leases under several borrowers: never above the cap, no answer needed twice, nothing lost, nobody told wrong."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from meterproxy.core.key import KeyEntry
from meterproxy.core.lending import Borrow, LeaseKey, Lent
from meterproxy.errors import ApiError, Case, SessionOver, StoreUnavailable
from meterproxy.ledger import lease as module
from meterproxy.ledger import session as session_module
from meterproxy.ledger.clock import elapsed_us
from meterproxy.ledger.worker import WorkerLedger
from meterproxy.store.accounts import Accounts
from meterproxy.store.audit import audit
from meterproxy.store.sessions import Sessions
from tests.ledger.bank import REFUSED, balance, completed, customer, hold_request, ledger_of, pool_of
from tests.ledger.bank_faults import Faulty


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """This machine's steady clock, to be moved by hand: microseconds ahead of the real one."""
    ahead = [0]
    for place in (module, session_module):
        monkeypatch.setattr(place, "elapsed_us", lambda: elapsed_us() + ahead[0])
    return ahead


def faulty(ledger: WorkerLedger) -> Faulty:
    """Put faults between this worker and PostgreSQL."""
    store = Faulty(ledger._sessions)
    ledger._sessions = ledger.borrower._store = ledger.session._store = store  # type: ignore[assignment]
    return store


def key_of(key: KeyEntry) -> LeaseKey:
    return LeaseKey(key.account_id, key.credit.limit_id, 0)


async def wrong(pool: asyncpg.Pool) -> set[str]:
    return {result.name for result in await audit(pool) if not result.ok}


async def informed(*ledgers: WorkerLedger) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(ledger.keep_informed()) for ledger in ledgers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


responsive = contextlib.asynccontextmanager(informed)


class Watched(Sessions):
    """PostgreSQL's lending, with the cap looked at in the same instant that something was lent."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        super().__init__(pool)
        self.above: list[Any] = []
        self._watch = pool

    async def lend(self, *arguments: Any) -> Sequence[Lent]:
        answers = await super().lend(*arguments)
        self.above += [lent for lent in answers if lent.granted and lent.rest < 0]
        return answers


@pytest.mark.parametrize("workers", [2, 4])
async def test_no_number_of_workers_lends_above_the_cap(pool: asyncpg.Pool, tmp_path: Path, workers: int) -> None:
    """Concurrent requests, grants and adjustments: what was lent always fitted, what was spent is what was booked."""
    chance = random.Random(workers)
    key = await customer(pool, 3_000_000)
    ledgers = [ledger_of(pool, tmp_path / str(number), wait_ms=50) for number in range(workers)]
    watched = Watched(pool)
    captured = 0
    for ledger in ledgers:
        ledger._sessions = ledger.borrower._store = watched
        await ledger.start()

    async def customer_of(ledger: WorkerLedger) -> None:
        nonlocal captured
        for _ in range(12):
            with contextlib.suppress(ApiError):
                hold = await ledger.holds.place(hold_request(ledger, key, chance.randrange(1, 200_000)))
                await asyncio.sleep(0)
                if chance.random() < 0.3:
                    ledger.holds.release(hold, REFUSED)
                else:
                    tokens = chance.randrange(250)
                    ledger.holds.capture(hold, completed(tokens))
                    captured += tokens * 1000

    async def operator() -> None:
        accounts = Accounts(pool, "test")
        while not captured:  # the cap falls below what is drawn while customers are at work, not before
            await asyncio.sleep(0)
        for amount in (500_000, -4_000_000, 1_000_000, -100, 2_000_000):
            await accounts.credit(key.account_id, amount, "adjustment")

    async with responsive(*ledgers):
        await asyncio.gather(operator(), *(customer_of(ledger) for ledger in ledgers for _ in range(3)))
        await asyncio.gather(*(ledger.settler.drain() for ledger in ledgers))
    assert watched.above == []
    for ledger in ledgers:
        for lease in ledger.book.leases.values():
            assert lease.adds_up, lease
        await ledger.stop()
    window = await pool.fetchrow("SELECT drawn, cap FROM limit_windows")
    assert window["drawn"] == captured > 0
    assert await balance(pool, key.account_id) == window["cap"] - captured
    assert await wrong(pool) == set()


async def test_a_cap_below_what_was_drawn_only_stops_lending(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """The remainder may be negative: nobody is asked for what he holds, and nobody gets more."""
    key = await customer(pool, 1_000_000)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    hold = await ledger.holds.place(hold_request(ledger, key, 600_000))
    await Accounts(pool, "test").credit(key.account_id, -900_000, "adjustment")
    with pytest.raises(ApiError) as refused:
        await ledger.holds.place(hold_request(ledger, key, 500_000))
    assert refused.value.case is Case.CREDIT_SPENT
    ledger.holds.capture(hold, completed(600))
    await ledger.stop()
    assert await balance(pool, key.account_id) == -500_000
    assert await wrong(pool) == set()


@pytest.mark.parametrize(("need", "want", "granted"), [
    (10, 10, 10), (10, 1000, 250), (10, 100, 100), (300, 10**18, 300), (1000, 10**18, 1000), (1001, 10**18, 0),
    (2**62, 2**62, 0), (0, 100, 0), (1, 2**63 - 1, 250),
])  # fmt: skip
async def test_what_is_lent_is_what_is_needed_and_at_most_a_quarter_more(
    pool: asyncpg.Pool, tmp_path: Path, need: int, want: int, granted: int
) -> None:
    """Of a rest of 1 000: at least the need, or nothing; beyond the need at most a quarter of the rest."""
    key = await customer(pool, 1000)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    [lent] = await Sessions(pool).lend(ledger.session.session_id, [Borrow(key.key_id, key_of(key), need, want)])
    assert (lent.granted, lent.total_granted, lent.rest, lent.outstanding) == (
        granted, granted, 1000 - granted, granted,
    )  # fmt: skip
    await ledger.stop()
    assert await wrong(pool) == set()


async def test_a_lost_answer_to_a_borrow_is_made_up_for(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """The borrow is repeated under its own id: lent once, and known here in full."""
    key = await customer(pool, 1_000_000)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    store = faulty(ledger)
    store.lost.add("lend")
    with pytest.raises(ApiError) as refused:
        await ledger.holds.place(hold_request(ledger, key, 100_000))
    assert refused.value.case is Case.UNAVAILABLE
    lent = await pool.fetchval("SELECT granted FROM leases")
    hold = await ledger.holds.place(hold_request(ledger, key, 100_000))
    assert await pool.fetchval("SELECT granted FROM leases") == lent == ledger.book.leases[key_of(key)].granted
    ledger.holds.release(hold, REFUSED)
    await ledger.stop()
    assert await pool.fetchval("SELECT drawn FROM limit_windows") == 0


async def test_a_lost_answer_to_a_return_returns_once(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """Returns are cumulative: told again, they change nothing."""
    key = await customer(pool, 1_000_000)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    store = faulty(ledger)
    hold = await ledger.holds.place(hold_request(ledger, key, 400_000))
    ledger.holds.release(hold, REFUSED)
    ledger.book.give_back(key_of(key), keep=100_000)
    ledger.borrower._unreported.add(key_of(key))
    store.lost.add("give_back")
    with pytest.raises(StoreUnavailable):
        await ledger.borrower.report()
    await ledger.borrower.report()
    assert await pool.fetchval("SELECT drawn FROM limit_windows") == 100_000
    await ledger.stop()
    assert await wrong(pool) == set()


async def test_a_return_during_a_report_is_told_with_the_next(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """What is given back while an earlier total is on its way is not forgotten."""
    key = await customer(pool, 1_000_000)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    hold = await ledger.holds.place(hold_request(ledger, key, 400_000))
    ledger.holds.release(hold, REFUSED)
    ledger.book.give_back(key_of(key), keep=100_000)
    ledger.borrower._unreported.add(key_of(key))
    reporting = asyncio.create_task(ledger.borrower.report())
    await asyncio.sleep(0)
    ledger.book.give_back(key_of(key))
    ledger.borrower._unreported.add(key_of(key))
    await reporting
    await ledger.borrower.report()
    assert await pool.fetchval("SELECT drawn FROM limit_windows") == 0
    await ledger.stop()


async def test_an_empty_account_in_a_retry_loop_does_not_reach_postgresql(
    pool: asyncpg.Pool, tmp_path: Path, now: list[int]
) -> None:
    """At most one look a second, however many requests; new credit is noticed at once."""
    key = await customer(pool, 1000)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    store = faulty(ledger)
    for second in range(3):
        now[0] = second * 1_000_001
        for _ in range(300):
            with pytest.raises(ApiError) as refused:
                await ledger.holds.place(hold_request(ledger, key, 5000))
            assert refused.value.case is Case.CREDIT_SPENT
        assert store.calls.total() <= second + 2
    await Accounts(pool, "test").credit(key.account_id, 4000, "grant")
    await ledger.look()
    ledger.holds.release(await ledger.holds.place(hold_request(ledger, key, 5000)), REFUSED)
    await ledger.stop()


async def test_what_responsive_workers_do_not_use_is_lent_within_a_second(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """All of the credit lies free in other workers' leases; a hold of all of it is placed, not refused."""
    key = await customer(pool, 1_200_000)
    ledgers = [ledger_of(pool, tmp_path / name, wait_ms=1000) for name in "123"]
    for ledger in ledgers:
        await ledger.start()
    asking, *others = ledgers
    for other in others:
        hold = await other.holds.place(hold_request(other, key, 600_000))
        other.holds.release(hold, REFUSED)
    assert await pool.fetchval("SELECT cap - drawn FROM limit_windows") == 0
    async with responsive(*ledgers):
        hold = await asking.holds.place(hold_request(asking, key, 1_200_000))
    assert await pool.fetchval("SELECT count(*) FROM reclaims") == 0
    asking.holds.release(hold, REFUSED)
    for ledger in ledgers:
        await ledger.stop()
    assert await wrong(pool) == set()


async def test_held_is_not_spent(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """What other requests merely hold makes a request wait; what was captured, also elsewhere, is gone."""
    key = await customer(pool, 1_000_000)
    one, two = ledger_of(pool, tmp_path / "1"), ledger_of(pool, tmp_path / "2")
    await one.start()
    await two.start()
    hold = await one.holds.place(hold_request(one, key, 900_000))
    for ledger in (one, two):
        with pytest.raises(ApiError) as refused:
            await ledger.holds.place(hold_request(ledger, key, 1_000_000))
        assert refused.value.case is Case.CREDIT_HELD
    one.holds.capture(hold, completed(500))
    with pytest.raises(ApiError) as refused:
        await one.holds.place(hold_request(one, key, 500_001))
    assert refused.value.case is Case.CREDIT_SPENT
    await one.settler.drain()
    with pytest.raises(ApiError) as refused:
        await two.holds.place(hold_request(two, key, 500_001))
    assert refused.value.case is Case.CREDIT_SPENT
    await one.stop()
    await two.stop()


async def test_credit_is_not_called_spent_while_a_settle_is_on_its_way(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """PostgreSQL has booked a capture, its answer is not here yet: that money is not subtracted twice."""
    key = await customer(pool, 1_000_000)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    store = Faulty(ledger.settler._store)
    ledger.settler._store = store  # type: ignore[assignment]
    hold = await ledger.holds.place(hold_request(ledger, key, 400_000))
    held = await ledger.holds.place(hold_request(ledger, key, 600_000))
    ledger.holds.capture(hold, completed(400))
    store.lost.add("book")
    with pytest.raises(StoreUnavailable):
        await ledger.settler.settle_batch()
    with pytest.raises(ApiError) as refused:
        await ledger.holds.place(hold_request(ledger, key, 600_000))
    assert refused.value.case is Case.CREDIT_HELD
    ledger.holds.release(held, REFUSED)
    await ledger.stop()


async def test_waiters_that_give_up_leave_the_others_alone(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """Of many requests waiting for one borrow some are cancelled; the borrow goes on, the rest are placed."""
    key, other = await customer(pool, 1_000_000), await customer(pool, 1_000_000)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    requests = [hold_request(ledger, key if number % 2 else other, 50_000) for number in range(12)]
    waiting = [asyncio.create_task(ledger.holds.place(request)) for request in requests]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for task in waiting[:6]:
        task.cancel()
    await asyncio.wait(waiting)
    placed = [task.result() for task in waiting[6:]]
    assert len(placed) == 6
    assert ledger.borrower._waiting == {}
    assert ledger.book.leases[key_of(key)].held == ledger.book.leases[key_of(other)].held == 150_000
    for hold in placed:
        ledger.holds.release(hold, REFUSED)
    await ledger.stop()
    assert await wrong(pool) == set()


async def test_a_hold_that_ends_wakes_whoever_waits_for_it(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """A place under way goes on with what a release has freed."""
    key = await customer(pool, 100_000)
    ledger = ledger_of(pool, tmp_path, wait_ms=30_000)
    await ledger.start()
    hold = await ledger.holds.place(hold_request(ledger, key, 100_000))
    waiting = asyncio.create_task(ledger.holds.place(hold_request(ledger, key, 100_000)))
    while key_of(key) not in ledger.borrower._changed:
        await asyncio.sleep(0)
    ledger.holds.release(hold, REFUSED)
    ledger.holds.release(await asyncio.wait_for(waiting, 10), REFUSED)
    await ledger.stop()


async def test_a_session_that_somebody_ended_spends_no_more(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """After the next renewal or borrow nothing is placed or sent; what was captured is still booked, as late."""
    key = await customer(pool, 1_000_000)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    hold = await ledger.holds.place(hold_request(ledger, key, 100_000))
    await Sessions(pool).end_session(ledger.session.session_id, "proved")
    with pytest.raises(ApiError) as refused:
        await ledger.holds.place(hold_request(ledger, key, 900_000))
    assert refused.value.case is Case.UNAVAILABLE
    with pytest.raises(SessionOver):
        await ledger.session.renew()
    for attempt in (lambda: ledger.holds.confirm(hold), lambda: ledger.holds.try_place(hold_request(ledger, key, 1))):
        with pytest.raises(ApiError) as refused:
            attempt()
        assert refused.value.case is Case.UNAVAILABLE
    assert ledger.ready is not None
    ledger.holds.capture(hold, completed(60))
    await ledger.borrower.report()
    await ledger.settler.drain()
    assert await balance(pool, key.account_id) == 940_000
    assert await pool.fetchval("SELECT late FROM limit_windows") == 60_000
    assert (await Accounts(pool).read(key.account_id)).held_nanos == 0
    await ledger.stop()
    assert await wrong(pool) == set()


async def test_trust_runs_out_while_postgresql_is_away(pool: asyncpg.Pool, tmp_path: Path, now: list[int]) -> None:
    """Within its ttl a worker goes on; behind it nothing is placed and nothing is sent, until a renewal succeeds."""
    key = await customer(pool, 1_000_000)
    ledger = ledger_of(pool, tmp_path, ttl_seconds=30)
    await ledger.start()
    store = faulty(ledger)
    hold = await ledger.holds.place(hold_request(ledger, key, 100_000))
    store.away = True
    now[0] = 29_000_000
    ledger.holds.confirm(hold)
    with pytest.raises(StoreUnavailable):
        await ledger.session.renew()
    now[0] = 30_000_001
    assert ledger.ready is not None
    for attempt in (lambda: ledger.holds.confirm(hold), lambda: ledger.holds.try_place(hold_request(ledger, key, 1))):
        with pytest.raises(ApiError) as refused:
            attempt()
        assert refused.value.case is Case.UNAVAILABLE
    ledger.holds.capture(hold, completed(1))
    store.away = False
    await ledger.session.renew()
    assert ledger.ready is None
    await ledger.stop()
    assert await balance(pool, key.account_id) == 999_000


async def test_what_is_held_is_told(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """Balances show holds as last reported, and nothing of a worker that has gone."""
    key = await customer(pool, 1_000_000)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    hold = await ledger.holds.place(hold_request(ledger, key, 100_000))
    await ledger.borrower.report()
    account = await Accounts(pool).read(key.account_id)
    assert (account.held_nanos, account.available_nanos) == (100_000, 900_000)
    ledger.holds.release(hold, REFUSED)
    await ledger.stop()
    await Sessions(pool).report_held(ledger.session.session_id, {key_of(key): 5})
    assert (await Accounts(pool).read(key.account_id)).held_nanos == 0


async def test_a_lost_answer_to_what_is_held_shows_no_hold_for_ever(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """PostgreSQL heard of a hold, the worker never heard that it did; the hold's end is told all the same."""
    key = await customer(pool, 1_000_000)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    store = faulty(ledger)
    hold = await ledger.holds.place(hold_request(ledger, key, 100_000))
    store.lost.add("report_held")
    with pytest.raises(StoreUnavailable):
        await ledger.borrower.report()
    ledger.holds.release(hold, REFUSED)
    await ledger.borrower.report()
    assert (await Accounts(pool).read(key.account_id)).held_nanos == 0
    await ledger.stop()


async def test_idle_leases_go_back(pool: asyncpg.Pool, tmp_path: Path, now: list[int]) -> None:
    """A lease that nobody has used for ten seconds returns with the next report."""
    key = await customer(pool, 1_000_000)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    ledger.holds.release(await ledger.holds.place(hold_request(ledger, key, 100_000)), REFUSED)
    await ledger.borrower.report()
    assert await pool.fetchval("SELECT drawn FROM limit_windows") > 0
    now[0] = 10_500_000
    await ledger.borrower.report()
    assert await pool.fetchval("SELECT drawn FROM limit_windows") == 0
    await ledger.stop()


async def test_borrowing_ahead_is_for_steady_use_and_leaves_the_last_to_others(
    pool: asyncpg.Pool, tmp_path: Path
) -> None:
    """One hold borrows nothing ahead; many in a row reach PostgreSQL a few times only."""
    key, busy = await customer(pool, 1_000_000), await customer(pool, 10**12)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    store = faulty(ledger)
    hold = await ledger.holds.place(hold_request(ledger, key, 400_000))
    await ledger.borrower.settle_down()
    assert await pool.fetchval("SELECT drawn FROM limit_windows WHERE account_id = $1", key.account_id) == 400_000
    ledger.holds.release(hold, REFUSED)
    store.calls.clear()
    for _ in range(500):
        ledger.holds.release(await ledger.holds.place(hold_request(ledger, busy, 1_000_000)), REFUSED)
    for _ in range(500):
        ledger.holds.capture(await ledger.holds.place(hold_request(ledger, busy, 1_000_000)), completed(1000))
    assert store.calls["lend"] <= 20
    await ledger.stop()


# ── what a review found ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_hold_of_nothing_needs_no_lease(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """A free request on an account without lease, credit or window is placed at once and asks PostgreSQL nothing."""
    key = await customer(pool, 0)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    store = faulty(ledger)
    for end in (
        lambda hold: ledger.holds.capture(hold, completed(0)),
        lambda hold: ledger.holds.release(hold, REFUSED),
    ):
        hold = ledger.holds.try_place(hold_request(ledger, key, 0))
        assert hold is not None
        end(hold)
    hold = await asyncio.wait_for(ledger.holds.place(hold_request(ledger, key, 0)), 10)
    assert not store.calls
    await ledger.borrower.report()
    ledger.holds.capture(hold, completed(0))
    await ledger.stop()
    assert await pool.fetchval("SELECT count(*) FROM usage_events WHERE amount_nanos = 0") == 3
    assert await wrong(pool) == set()


async def test_what_a_hold_of_nothing_costs_all_the_same_is_an_overrun(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """Its lease never held anything, so that all of it is booked above."""
    key = await customer(pool, 1_000_000)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    ledger.holds.capture(await ledger.holds.place(hold_request(ledger, key, 0)), completed(7))
    await ledger.stop()
    assert await balance(pool, key.account_id) == 993_000
    assert await pool.fetchval("SELECT overrun FROM limit_windows") == 7000
    assert await wrong(pool) == set()


@pytest.mark.parametrize("hold_nanos", [2**62, 2**63 - 1, 2**63, 2**90])
async def test_a_hold_that_no_account_can_pay_is_spent_and_harms_nobody(
    pool: asyncpg.Pool, tmp_path: Path, hold_nanos: int
) -> None:
    """However large, also beyond what PostgreSQL can count: refused as spent, and the next one is placed."""
    key = await customer(pool, 1_000_000)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    huge = [ledger.holds.place(hold_request(ledger, key, hold_nanos)) for _ in range(2)]
    usual = ledger.holds.place(hold_request(ledger, key, 100_000))
    *refusals, hold = await asyncio.gather(*huge, usual, return_exceptions=True)
    assert [refusal.case for refusal in refusals if isinstance(refusal, ApiError)] == [Case.CREDIT_SPENT] * 2
    if isinstance(hold, BaseException):  # it was in line behind one borrow with the huge ones, whose answer was no
        hold = await ledger.holds.place(hold_request(ledger, key, 100_000))
    ledger.holds.release(hold, REFUSED)
    ledger.holds.release(await ledger.holds.place(hold_request(ledger, key, 300_000)), REFUSED)
    await ledger.stop()
    assert await wrong(pool) == set()


async def test_a_borrow_that_postgresql_refuses_is_not_repeated(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """Whatever it cannot take, the next borrow of the same limit is one of its own."""
    key = await customer(pool, 1_000_000)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    lend, ids = ledger.borrower._store.lend, []

    async def refusing(session_id: UUID, borrows: Sequence[Borrow]) -> Sequence[Lent]:
        ids.extend(borrow.borrow_id for borrow in borrows)
        if len(ids) == 1:
            raise asyncpg.DataError("out of range")
        return await lend(session_id, borrows)

    ledger.borrower._store.lend = refusing  # type: ignore[method-assign]
    with pytest.raises(asyncpg.DataError):
        await ledger.holds.place(hold_request(ledger, key, 100_000))
    ledger.holds.release(await ledger.holds.place(hold_request(ledger, key, 100_000)), REFUSED)
    assert len(set(ids)) == 2
    await ledger.stop()


async def test_what_was_lent_unheard_is_given_back_when_another_worker_asks(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """The answer to a borrow got lost; the other worker's request for all of the credit is placed within its wait."""
    key = await customer(pool, 1_000_000)
    one, two = ledger_of(pool, tmp_path / "1"), ledger_of(pool, tmp_path / "2", wait_ms=10_000)
    await one.start()
    await two.start()
    faulty(one).lost.add("lend")
    with pytest.raises(ApiError) as refused:
        await one.holds.place(hold_request(one, key, 900_000))
    assert refused.value.case is Case.UNAVAILABLE
    assert await pool.fetchval("SELECT drawn FROM limit_windows") == 900_000
    async with responsive(one, two):
        hold = await two.holds.place(hold_request(two, key, 1_000_000))
    two.holds.release(hold, REFUSED)
    await one.stop()
    await two.stop()
    assert await wrong(pool) == set()


async def test_what_was_lent_unheard_goes_back_when_nobody_asks(
    pool: asyncpg.Pool, tmp_path: Path, now: list[int]
) -> None:
    """The worker hears of it with its next report, and returns it when it was idle long enough."""
    key = await customer(pool, 1_000_000)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    faulty(ledger).lost.add("lend")
    with pytest.raises(ApiError):
        await ledger.holds.place(hold_request(ledger, key, 900_000))
    await ledger.borrower.report()
    assert ledger.book.leases[key_of(key)].free == 900_000
    now[0] = 10_500_000
    await ledger.borrower.report()
    assert await pool.fetchval("SELECT drawn FROM limit_windows") == 0
    await ledger.stop()


async def test_revocations_are_heard_after_a_failover_set_the_change_counter_back(
    pool: asyncpg.Pool, tmp_path: Path
) -> None:
    """Changes whose numbers were taken a second time are noticed: everything known is forgotten, then news are news."""
    told: list[object] = []
    ledger = ledger_of(pool, tmp_path, on_change=lambda change: told.append(change and change.version))
    for _ in range(9):
        await pool.fetchval("SELECT record_change('key', NULL)")
    await ledger.start()
    for _ in range(2):
        await pool.fetchval("SELECT record_change('key', NULL)")
    await ledger.look()
    assert told == [10, 11]
    told.clear()
    await pool.execute("DELETE FROM changes WHERE version > 7")
    await pool.execute("UPDATE change_counter SET version = 7")
    await pool.fetchval("SELECT record_change('key', NULL)")
    await ledger.look()
    assert told == [None]
    await pool.fetchval("SELECT record_change('key', NULL)")
    await ledger.look()
    await ledger.look()
    assert told == [None, 9]
    await ledger.stop()


# ── in line for what others have ────────────────────────────────────────────────────────────────────────────────────


async def waiting_for(ledger: WorkerLedger, pool: asyncpg.Pool, count: int) -> None:
    while await pool.fetchval("SELECT count(*) FROM reclaims") != count or not ledger.borrower._changed:
        await asyncio.sleep(0.001)


async def test_who_gives_up_asks_no_more(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """The last one in line takes the request back, whether it gave up or was served by a hold that ended here."""
    key = await customer(pool, 1_000_000)
    one, two = ledger_of(pool, tmp_path / "1"), ledger_of(pool, tmp_path / "2", wait_ms=60_000)
    await one.start()
    await two.start()
    theirs = await one.holds.place(hold_request(one, key, 500_000))
    ours = await two.holds.place(hold_request(two, key, 500_000))
    waiting = [asyncio.create_task(two.holds.place(hold_request(two, key, 500_000))) for _ in range(2)]
    await waiting_for(two, pool, 1)
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    await two.look()
    assert await pool.fetchval("SELECT count(*) FROM reclaims") == 1
    two.holds.release(ours, REFUSED)
    two.holds.release(await waiting[1], REFUSED)
    await two.look()
    assert await pool.fetchval("SELECT count(*) FROM reclaims") == 0
    one.holds.release(theirs, REFUSED)
    assert not (await Sessions(pool).poll(one.session.session_id, 10**9)).reclaims
    await one.stop()
    await two.stop()


async def test_who_is_still_in_line_when_another_was_served_asks_again(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """Lending strikes a worker off the list; the second in line gets what the holder frees later."""
    key = await customer(pool, 1_000_000)
    one, two = ledger_of(pool, tmp_path / "1"), ledger_of(pool, tmp_path / "2", wait_ms=6000)
    await one.start()
    await two.start()
    theirs = [await one.holds.place(hold_request(one, key, 500_000)) for _ in range(2)]
    waiting = [asyncio.create_task(two.holds.place(hold_request(two, key, 500_000))) for _ in range(2)]
    await waiting_for(two, pool, 1)
    async with responsive(one, two):
        for hold in theirs:
            one.holds.release(hold, REFUSED)
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            waiting = [task for task in waiting if not task.done()]
    assert not waiting
    for hold in list(two.holds.open.values()):
        two.holds.release(hold, REFUSED)
    await one.stop()
    await two.stop()
    assert await wrong(pool) == set()


async def test_leases_at_rest_are_not_walked(pool: asyncpg.Pool, tmp_path: Path, now: list[int]) -> None:
    """Of accounts that were served long ago nothing is looked at any more, and they are served again all the same."""
    keys = [await customer(pool, 1_000_000) for _ in range(5)]
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    for key in keys:
        ledger.holds.capture(await ledger.holds.place(hold_request(ledger, key, 100_000)), completed(1))
    await ledger.borrower.report()
    assert len(ledger.borrower._active) == 5
    now[0] = 10_500_000
    held = await ledger.holds.place(hold_request(ledger, keys[0], 100_000))
    for _ in range(2):
        await ledger.borrower.report()
    assert [*ledger.borrower._active] == [key_of(keys[0])]
    assert (await Accounts(pool).read(keys[0].account_id)).held_nanos == 100_000
    ledger.holds.release(held, REFUSED)
    ledger.holds.capture(await ledger.holds.place(hold_request(ledger, keys[1], 100_000)), completed(2))
    await ledger.stop()
    assert await pool.fetchval("SELECT sum(drawn) FROM limit_windows") == 7000
    assert await wrong(pool) == set()


async def test_what_comes_back_is_set_aside_for_whoever_asked_first(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """A large wish is not starved by small ones that came later; a wish that nobody repeats is forgotten."""
    key = await customer(pool, 1000)
    ledgers = [ledger_of(pool, tmp_path / name) for name in "123"]
    for ledger in ledgers:
        await ledger.start()
    holder, first, second = (ledger.session.session_id for ledger in ledgers)
    sessions, credit = Sessions(pool), key_of(key)

    async def lent(session_id: UUID, need: int) -> int:
        [answer] = await sessions.lend(session_id, [Borrow(uuid4(), credit, need, need)])
        return answer.granted

    async def served(session_id: UUID) -> bool:
        return credit in (await sessions.poll(session_id, 10**9)).served

    assert await lent(holder, 1000) == 1000
    await sessions.ask_reclaim(first, credit, 500)
    await sessions.ask_reclaim(second, credit, 100)
    await sessions.ask_reclaim(first, credit, 500)
    await sessions.give_back(holder, {credit: 400})
    assert (await lent(second, 100), await lent(holder, 1)) == (0, 0)
    assert (await served(first), await served(second)) == (False, False)
    await sessions.give_back(holder, {credit: 550})
    assert (await served(first), await served(second)) == (True, False)
    assert (await lent(second, 100), await lent(first, 500)) == (0, 500)
    assert await lent(holder, 1) == 0, "the second one in line is the first now"
    await pool.execute("UPDATE reclaims SET asked_at = asked_at - interval '4 seconds'")
    assert await lent(holder, 1) == 1
    for ledger in ledgers:
        await ledger.stop()


async def test_a_retry_loop_on_what_is_held_hardly_reaches_postgresql(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """Credit that another worker's running request holds is asked for once a second, however many requests want it."""
    key = await customer(pool, 1_000_000)
    one, two = ledger_of(pool, tmp_path / "1"), ledger_of(pool, tmp_path / "2", wait_ms=20)
    await one.start()
    await two.start()
    hold = await one.holds.place(hold_request(one, key, 900_000))
    store = faulty(two)
    for _ in range(10):
        refusals = await asyncio.gather(
            *(two.holds.place(hold_request(two, key, 500_000)) for _ in range(5)), return_exceptions=True
        )
        assert {refusal.case for refusal in refusals if isinstance(refusal, ApiError)} == {Case.CREDIT_HELD}
    assert store.calls.total() <= 4
    one.holds.release(hold, REFUSED)
    await one.stop()
    await two.stop()


async def test_while_lending_is_stopped_what_is_free_goes_back_all_the_same(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """Who was refused because nobody is lent to has nothing to ask about again, and drains and reports as ever."""
    key = await customer(pool, 10_000_000)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    ledger.holds.release(await ledger.holds.place(hold_request(ledger, key, 100_000)), REFUSED)
    await pool.execute("UPDATE fleet_state SET lending = false")
    with pytest.raises(ApiError) as refused:
        await ledger.holds.place(hold_request(ledger, key, 9_000_000))
    assert refused.value.case is Case.UNAVAILABLE
    await ledger.borrower.report()
    await ledger.borrower.hand_back()
    assert await pool.fetchval("SELECT drawn FROM limit_windows") == 0
    await ledger.stop()
    assert await wrong(pool) == set()


async def test_a_borrow_that_got_lost_waits_for_lending_to_go_on(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """It may have been lent, so it is asked about again; until then everything else is given back."""
    key = await customer(pool, 10_000_000)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    ledger.holds.release(await ledger.holds.place(hold_request(ledger, key, 100_000)), REFUSED)
    store = faulty(ledger)
    store.away = True
    with pytest.raises(ApiError):
        await ledger.holds.place(hold_request(ledger, key, 9_000_000))
    store.away = False
    await pool.execute("UPDATE fleet_state SET lending = false")
    await ledger.borrower.hand_back()
    assert await pool.fetchval("SELECT drawn FROM limit_windows") == 0
    assert ledger.borrower._views[key_of(key)].repeat is not None
    await ledger.stop()
    assert await wrong(pool) == set()


async def test_what_is_free_passes_where_nothing_is_left(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """A request that costs nothing needs no lease, even of an account whose credit was asked for and is spent."""
    key = await customer(pool, 0)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    with pytest.raises(ApiError):
        await ledger.holds.place(hold_request(ledger, key, 100_000))
    ledger.holds.capture(await ledger.holds.place(hold_request(ledger, key, 0)), completed(0))
    await ledger.settler.drain()
    assert await pool.fetchval("SELECT count(*) FROM usage_events") == 1
    await ledger.stop()
    assert await wrong(pool) == set()


async def test_who_waits_behind_somebody_is_served_when_that_one_leaves(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """What is set aside for others is lent to nobody else; once they want it no more, the next one has it at once."""
    key = await customer(pool, 90_000)
    first, second = ledger_of(pool, tmp_path / "1"), ledger_of(pool, tmp_path / "2", wait_ms=900)
    for ledger in (first, second):
        await ledger.start()
    await Sessions(pool).ask_reclaim(first.session.session_id, key_of(key), 50_000)
    async with responsive(second):
        placing = asyncio.create_task(second.holds.place(hold_request(second, key, 50_000)))
        while not second.borrower.line._asked:
            assert not placing.done()
            await asyncio.sleep(0.01)
        await Sessions(pool).end_reclaim(first.session.session_id, key_of(key))
        second.holds.release(await placing, REFUSED)
    for ledger in (first, second):
        await ledger.stop()
    assert await wrong(pool) == set()
