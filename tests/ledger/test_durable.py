"""Durable holds on real PostgreSQL: exact in money in any order of settling, through kills, replays and failovers."""

import asyncio
from collections.abc import AsyncIterator
from itertools import permutations
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from meterproxy.config.schema import LEAST_RETENTION_DAYS
from meterproxy.core.hold import DurableHold, Rest
from meterproxy.core.key import KeyEntry
from meterproxy.core.resource import Resource
from meterproxy.errors import ApiError, JournalFailed, Unbookable
from meterproxy.ledger import journal as journal_module
from meterproxy.ledger.journal import SLACK_BYTES
from meterproxy.ledger.recover import OpenHoldPolicy
from meterproxy.ledger.worker import WorkerLedger
from meterproxy.store.accounts import Accounts
from meterproxy.store.audit import audit
from meterproxy.store.durable import DurableRows
from meterproxy.store.explain import explain
from meterproxy.store.retention import drop_old_usage
from meterproxy.store.settle import Settlement
from tests.ledger.bank import REFUSED, balance, completed, customer, hold_request, ledger_of, pool_of
from tests.ledger.bank_faults import Snapshot
from tests.ledger.test_journal import kill, raiser

CREDIT = 10_000_000
HOLD = 500_000
WAITS = "no_record_waits_for_a_person"


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


@pytest.fixture
async def key(pool: asyncpg.Pool) -> KeyEntry:
    return await customer(pool, CREDIT)


async def started(pool: asyncpg.Pool, directory: Path, **settings: Any) -> WorkerLedger:
    ledger = ledger_of(pool, directory, **settings)
    await ledger.start()
    return ledger


def resource_of(key: KeyEntry, name: str = "resp_1") -> Resource:
    return Resource(key.account_id, "response", name, "test")


async def place(ledger: WorkerLedger, key: KeyEntry, **members: Any) -> Any:
    hold = await ledger.holds.place(hold_request(ledger, key, HOLD, **members))
    await ledger.borrower.settle_down()
    return hold


async def deferred(ledger: WorkerLedger, key: KeyEntry, name: str = "resp_1", **members: Any) -> DurableHold:
    ledger.durable.defer(await place(ledger, key, **members), resource_of(key, name))
    hold = await ledger.durable.find(resource_of(key, name))
    assert hold is not None
    return hold


async def settle(*ledgers: WorkerLedger) -> None:
    for ledger in ledgers:
        while ledger.settler.queued:
            await ledger.settler.settle_batch()
        for lease in ledger.book.leases.values():
            assert lease.adds_up, lease


async def wrong(pool: asyncpg.Pool) -> set[str]:
    return {result.name for result in await audit(pool) if not result.ok}


async def die(ledger: WorkerLedger) -> None:
    await ledger.borrower.settle_down()
    kill(ledger.journal)


async def spent(pool: asyncpg.Pool, key: KeyEntry) -> int:
    assert await wrong(pool) == set()
    return CREDIT - await balance(pool, key.account_id)


async def drawn(pool: asyncpg.Pool) -> int:
    amount: int = await pool.fetchval("SELECT drawn FROM limit_windows")
    return amount


async def states(pool: asyncpg.Pool) -> list[str]:
    return [row["state"] for row in await pool.fetch("SELECT state FROM durable_holds ORDER BY request_id")]


# ── one hold ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_durable_hold_is_held_and_not_spent(pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path) -> None:
    """Its money is out of reach and shown as held, its worker may end, and nothing is charged yet."""
    ledger = await started(pool, tmp_path)
    hold = await deferred(ledger, key)
    assert not ledger.holds.open
    (lease,) = ledger.book.leases.values()
    assert (lease.held, lease.unsettled) == (0, HOLD)
    await settle(ledger)
    assert (lease.unsettled, lease.consumed) == (0, HOLD)
    await ledger.borrower.report()
    account = await Accounts(pool).read(key.account_id)
    assert (account.balance_nanos, account.held_nanos, account.available_nanos) == (CREDIT, HOLD, CREDIT - HOLD)
    assert await wrong(pool) == set()
    await ledger.stop()
    assert await pool.fetchval("SELECT state FROM worker_sessions") == "closed"
    assert await drawn(pool) == HOLD
    assert await pool.fetchval("SELECT count(*) FROM usage_events") == 0
    told = await explain(pool, hold.subject.request_id)
    assert (told["durable_hold"]["state"], told["durable_hold"]["hold"]) == ("open", "0.0005")
    assert (told["durable_hold"]["resource_id"], told["entries"]) == ("resp_1", [])


@pytest.mark.parametrize(("tokens", "ending"), [(120, "captured"), (500, "captured"), (700, "captured"), (0, "captured"), (None, "released")])  # fmt: skip
@pytest.mark.parametrize("elsewhere", [False, True])
async def test_it_ends_on_whichever_worker_sees_the_end(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path, tokens: int | None, ending: str, elsewhere: bool
) -> None:
    """Charged is what was used, and what was not used comes back; what is above the hold is overrun."""
    ledger = await started(pool, tmp_path / "1")
    await deferred(ledger, key)
    await settle(ledger)
    if elsewhere:
        await ledger.stop()
        ledger = await started(pool, tmp_path / "2")
    found = await ledger.durable.find(resource_of(key))
    assert found is not None
    assert found.price.amounts(completed(7).usage, None, 1_000_000).amount_nanos == 7000
    amount = (tokens or 0) * 1000
    if tokens is None:
        ledger.durable.release(found, REFUSED)
    else:
        receipt = ledger.durable.capture(found, completed(tokens))
        assert receipt.amount_nanos == amount
        assert ledger.durable.capture(found, completed(tokens + 1)) == receipt
    assert await ledger.durable.find(resource_of(key)) is None
    await ledger.stop()
    assert await spent(pool, key) == amount
    assert await drawn(pool) == amount
    window = await pool.fetchrow("SELECT overrun, late, unspent FROM limit_windows")
    assert tuple(window) == (max(amount - HOLD, 0), 0, max(HOLD - amount, 0))
    row = await pool.fetchrow("SELECT * FROM usage_events")
    assert (row["ending"], row["amount_nanos"], row["overrun_nanos"]) == (ending, amount, max(amount - HOLD, 0))
    assert await states(pool) == [ending]
    told = await explain(pool, found.subject.request_id)
    assert (told["durable_hold"]["state"], len(told["entries"])) == (ending, 1 + (amount > HOLD) if amount else 0)


async def test_who_deferred_it_may_end_it_as_the_hold_it_placed(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path
) -> None:
    """A stream that runs in the background ends with the same hold; before anything of it is settled."""
    ledger = await started(pool, tmp_path)
    hold = await place(ledger, key)
    ledger.durable.defer(hold, resource_of(key))
    ledger.durable.capture(hold, completed(70))
    assert await ledger.durable.find(resource_of(key)) is None
    await settle(ledger)
    assert await spent(pool, key) == 70_000
    await ledger.stop()
    assert await drawn(pool) == 70_000


async def test_the_money_that_comes_back_can_be_held_again(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """While it is durable all of it is out of reach; then it is as free as before."""
    key = await customer(pool, HOLD)
    ledger = await started(pool, tmp_path)
    hold = await deferred(ledger, key)
    with pytest.raises(ApiError, match="hold the rest"):
        await ledger.holds.place(hold_request(ledger, key, 1000))
    await settle(ledger)
    with pytest.raises(ApiError, match="hold the rest"):
        await ledger.holds.place(hold_request(ledger, key, 1000))
    assert await ledger.holds.fetch_rest(hold_request(ledger, key, 0)) == Rest(0)
    with pytest.raises(ApiError, match="hold the rest"):
        await ledger.holds.place(hold_request(ledger, key, 1000))
    ledger.durable.capture(hold, completed(100))
    await settle(ledger)
    again = await ledger.holds.place(hold_request(ledger, key, 400_000))
    ledger.holds.capture(again, completed(400))
    await ledger.stop()
    assert await balance(pool, key.account_id) == 0
    assert await wrong(pool) == set()


# ── any order ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("order", list(permutations((0, 1, 2))), ids=lambda order: "".join(map(str, order)))
async def test_whoever_is_settled_first_the_books_are_right(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path, order: tuple[int, ...]
) -> None:
    """A deferral and the endings of two other workers, in every order: the first ending settled is the one that counts."""
    ledgers = [await started(pool, tmp_path / str(number)) for number in range(3)]
    hold = await deferred(ledgers[0], key)
    for tokens, ledger in ((100, ledgers[1]), (600, ledgers[2])):
        ledger.durable.capture(hold, completed(tokens))
    for number in order:
        await settle(ledgers[number])
        assert await wrong(pool) == set()
    expected = 100_000 if order.index(1) < order.index(2) else 600_000
    assert await spent(pool, key) == expected
    for ledger in ledgers:
        await ledger.stop()
    assert await spent(pool, key) == expected
    assert await drawn(pool) == expected
    assert await pool.fetchval("SELECT count(*) FROM usage_events") == 1


async def test_two_workers_that_see_the_end_at_once_charge_it_once(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path
) -> None:
    """Thirty holds, each ended by both workers and settled by all three at the same time."""
    ledgers = [await started(pool, tmp_path / str(number)) for number in range(3)]
    for number in range(30):
        hold = await ledgers[0].holds.place(hold_request(ledgers[0], key, 100_000))
        ledgers[0].durable.defer(hold, resource_of(key, f"resp_{number}"))
        if number % 3 == 0:
            await settle(ledgers[0])
        found = await ledgers[0].durable.find(resource_of(key, f"resp_{number}"))
        assert found is not None
        for ledger in ledgers[1:]:
            ledger.durable.capture(found, completed(number * 5))
    await asyncio.gather(*(ledger.settler.drain() for ledger in ledgers))
    for ledger in ledgers:
        await ledger.stop()
    total = sum(number * 5000 for number in range(30))
    assert await spent(pool, key) == total
    assert await drawn(pool) == total
    assert await states(pool) == ["captured"] * 30


# ── kills, replays, failovers ───────────────────────────────────────────────────────────────────────────────────────

STEPS = ("place", "defer", "settle", "capture", "settle again")


@pytest.mark.parametrize("fatal", range(1, len(STEPS) + 1), ids=STEPS)
async def test_killed_after_any_step(pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path, fatal: int) -> None:
    """What was not deferred is recovered, what was is durable, what was captured is charged; each once, for good."""
    ledger = await started(pool, tmp_path / "1")
    hold: Any = None
    for step in STEPS[:fatal]:
        match step:
            case "place":
                hold = await place(ledger, key, input_estimate=20)
            case "defer":
                ledger.durable.defer(hold, resource_of(key))
            case "capture":
                ledger.durable.capture(hold, completed(300))
            case _:
                await settle(ledger)
    await die(ledger)
    successor = await started(pool, tmp_path / "1")
    assert successor.recovered == (fatal == 1)
    assert await wrong(pool) == set()
    found = await successor.durable.find(resource_of(key))
    assert (found is None) is (fatal not in {2, 3})
    if found is not None:
        assert await drawn(pool) == HOLD
        other = await started(pool, tmp_path / "2")
        other.durable.capture(found, completed(300))
        await die(other)
        await (await started(pool, tmp_path / "2")).stop()
    await successor.stop()
    assert await spent(pool, key) == (20_000 if fatal == 1 else 300_000)
    assert await drawn(pool) == (20_000 if fatal == 1 else 300_000)
    again = await started(pool, tmp_path / "1")
    assert (again.recovered, again.settler.queued) == (0, 0)
    await again.stop()


async def test_batches_replayed_change_nothing(pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path) -> None:
    """Deferrals and endings, in batches of their own or together, in whatever order they are sent again."""
    ledger = await started(pool, tmp_path)
    batches = []
    for number, apart in enumerate((False, True)):
        hold = await deferred(ledger, key, f"resp_{number}")
        if apart:
            batches.append(ledger.settler._batch(list(ledger.settler._queue._front)))
            await settle(ledger)
        ledger.durable.capture(hold, completed(100 + number))
        batches.append(ledger.settler._batch(list(ledger.settler._queue._front)))
        await settle(ledger)
    before = await pool.fetch("SELECT * FROM durable_holds ORDER BY request_id")
    windows = await pool.fetch("SELECT * FROM limit_windows")
    for batch in (*batches, *reversed(batches)):
        await pool.execute("UPDATE journal_progress SET open_from = 0, position = $1", batch.start)
        assert await Settlement(pool).book(batch) == 0
        assert await pool.fetch("SELECT * FROM durable_holds ORDER BY request_id") == before
        assert await pool.fetch("SELECT * FROM limit_windows") == windows
    await pool.execute("UPDATE journal_progress SET position = $1", batches[-1].end)
    await ledger.stop()
    assert await spent(pool, key) == 201_000


@pytest.mark.parametrize("forgotten_after", range(4))
async def test_a_failover_loses_none_of_it(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path, forgotten_after: int
) -> None:
    """Whatever step PostgreSQL was put back to, and whichever journal notices first, the same is in the books."""
    one, two = await started(pool, tmp_path / "1"), await started(pool, tmp_path / "2")
    hold = await deferred(one, key)
    snapshots = [await Snapshot.of(pool)]
    await settle(one)
    snapshots.append(await Snapshot.of(pool))
    two.durable.capture(hold, completed(200))
    await settle(two)
    snapshots.append(await Snapshot.of(pool))
    one.durable.capture(hold, completed(900))
    await settle(one)
    snapshots.append(await Snapshot.of(pool))
    for first, second in ((one, two), (two, one)):
        await snapshots[forgotten_after].put_back(pool)
        for ledger in (first, second):
            ledger.owners.claim(resource_of(key, f"nudge_{id(first)}_{id(ledger)}"), 0)
            await settle(ledger)
            assert await wrong(pool) == set()
        amounts = {(await pool.fetchval("SELECT amount_nanos FROM usage_events"))}
        assert amounts <= {200_000, 900_000}
        assert await states(pool) == ["captured"]
    await one.stop()
    await two.stop()
    assert await wrong(pool) == set()
    assert await drawn(pool) == await spent(pool, key)


async def test_a_recovery_that_does_not_know_of_the_deferral_changes_nothing(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path
) -> None:
    """A power cut took the deferral from the journal and PostgreSQL has it: the hold stays durable."""
    ledger = await started(pool, tmp_path, segment_bytes=2 * SLACK_BYTES)
    hold = await place(ledger, key)
    earlier = await Snapshot.of(pool)
    written = ledger.journal.position
    ledger.durable.defer(hold, resource_of(key))
    await settle(ledger)
    segment = ledger.journal._segment
    assert segment is not None
    await die(ledger)
    with segment.path.open("r+b") as file:
        file.truncate(written - segment.base)
    await pool.execute("UPDATE journal_progress SET open_from = $1", segment.base)
    successor = await started(pool, tmp_path)
    assert successor.recovered == 1
    assert await wrong(pool) == set()
    assert await drawn(pool) == HOLD
    found = await successor.durable.find(resource_of(key))
    assert found is not None
    successor.durable.capture(found, completed(100))
    await settle(successor)
    assert await spent(pool, key) == 100_000
    await earlier.put_back(pool)
    successor.owners.claim(resource_of(key, "nudge"), 0)
    await settle(successor)  # the recovery and the ending, in one batch, and PostgreSQL knows of neither
    await successor.stop()
    assert await wrong(pool) == {"ended_sessions_hold_nothing"}, "what the first worker had been lent came back with it"
    assert await balance(pool, key.account_id) == CREDIT - 100_000
    assert await states(pool) == ["captured"]
    assert await pool.fetchval("SELECT ending FROM usage_events") == "captured"


async def test_what_was_recovered_first_does_not_become_durable(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path
) -> None:
    """The same, where PostgreSQL has lost the deferral too: the recovery stands, and a late ending finds it."""
    ledger = await started(pool, tmp_path / "1", segment_bytes=2 * SLACK_BYTES)
    placed = await place(ledger, key, input_estimate=20)
    written = ledger.journal.position
    hold = msgspec.structs.replace(DurableHold(placed.subject, placed.price, resource_of(key)))
    ledger.durable.defer(placed, resource_of(key))
    segment = ledger.journal._segment
    assert segment is not None
    await die(ledger)
    with segment.path.open("r+b") as file:
        file.truncate(written - segment.base)
    successor, other = await started(pool, tmp_path / "1"), await started(pool, tmp_path / "2")
    other.durable.capture(hold, completed(100))
    await other.stop()
    await successor.stop()
    assert await spent(pool, key) == 20_000
    assert await states(pool) == []


# ── trouble ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_cannot_be_written_has_not_happened(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hold stays open with its room, a durable one too; both end once the volume is back."""
    ledger = await started(pool, tmp_path)
    hold = await place(ledger, key)
    with monkeypatch.context() as broken:
        broken.setattr(journal_module.os, "pwrite", raiser(28))
        with pytest.raises(JournalFailed):
            ledger.durable.defer(hold, resource_of(key))
    assert list(ledger.holds.open) == [hold]
    assert ledger.journal._reserved > 0
    ledger.durable.defer(hold, resource_of(key))
    assert ledger.journal._reserved == 0
    with monkeypatch.context() as broken:
        broken.setattr(journal_module.os, "pwrite", raiser(28))
        with pytest.raises(JournalFailed):
            ledger.durable.capture(hold, completed(7))
    assert await ledger.durable.find(resource_of(key)) is not None
    ledger.durable.capture(hold, completed(7))
    await ledger.stop()
    assert await spent(pool, key) == 7000


@pytest.mark.parametrize("partitions", [True, False])
async def test_an_ending_that_no_row_can_hold_ends_the_hold_all_the_same(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path, partitions: bool
) -> None:
    """Its money is booked, once, what was not used comes back, and the record waits for a person."""
    ledger = await started(pool, tmp_path)
    hold = await deferred(ledger, key)
    await settle(ledger)
    if partitions:
        ledger.durable.capture(hold, completed(600, tools=("a\0b",)))
    else:
        found = "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'usage_events'::regclass"
        for row in await pool.fetch(found):
            await pool.execute(f"ALTER TABLE usage_events DETACH PARTITION {row['name']}")
        ledger.durable.capture(hold, completed(600))
    batch = ledger.settler._batch(list(ledger.settler._queue._front))
    await settle(ledger)
    for _ in range(2):
        assert ledger.settler.rejected == 1
        assert await wrong(pool) == {WAITS}
        assert await balance(pool, key.account_id) == CREDIT - 600_000
        assert await states(pool) == ["captured"]
        await pool.execute("UPDATE journal_progress SET open_from = 0, position = $1", batch.start)
        await Settlement(pool).reject(batch, "again")
    await ledger.stop()
    assert await drawn(pool) == 600_000


@pytest.mark.parametrize("tokens", [600, 0])
@pytest.mark.parametrize("over_after", ["placing", "deferring", "ending"])
async def test_one_whose_month_is_over_is_charged_once_all_the_same(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path, over_after: str, tokens: int
) -> None:
    """Whatever of it was settled before old rows are dropped; an open one keeps its month."""

    async def months_go(at: str) -> None:
        if at == over_after:
            await pool.execute("SELECT advance_retention(now() + interval '40 days')")
            await drop_old_usage(pool, LEAST_RETENTION_DAYS)

    ledger = await started(pool, tmp_path)
    hold = await deferred(ledger, key)
    batches = []
    await months_go("placing")
    batches.append(ledger.settler._batch(list(ledger.settler._queue._front)))
    await settle(ledger)
    await months_go("deferring")
    ledger.durable.capture(hold, completed(tokens))
    batches.append(ledger.settler._batch(list(ledger.settler._queue._front)))
    await settle(ledger)
    await months_go("ending")
    rejected = {"placing": {WAITS}, "deferring": set(), "ending": set()}[over_after]
    assert await wrong(pool) == rejected
    for batch in (*batches, *batches):
        await pool.execute("UPDATE journal_progress SET open_from = 0, position = $1", batch.start)
        try:
            await Settlement(pool).book(batch)
        except Unbookable:
            await Settlement(pool).reject(batch, "again")
        assert await wrong(pool) == rejected
        assert await balance(pool, key.account_id) == CREDIT - tokens * 1000
        assert await states(pool) == ["captured"]
    await pool.execute("UPDATE journal_progress SET position = $1", batches[-1].end)
    await ledger.stop()
    assert await drawn(pool) == tokens * 1000


async def test_a_deferral_that_postgresql_refuses_is_booked_with_what_it_takes(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path
) -> None:
    """The hold is durable and ends as any other; the record waits for a person."""
    ledger = await started(pool, tmp_path)
    await deferred(ledger, key)
    noted = ledger.settler._queue._front[0]
    subject = msgspec.structs.replace(noted.record.subject, model="gpt\0")  # type: ignore[union-attr]
    noted.record = msgspec.structs.replace(noted.record, subject=subject)  # type: ignore[assignment]
    await settle(ledger)
    assert await wrong(pool) == {WAITS}
    found = await ledger.durable.find(resource_of(key))
    assert found is not None
    ledger.durable.capture(found, completed(100))
    await ledger.stop()
    assert await balance(pool, key.account_id) == CREDIT - 100_000
    assert await drawn(pool) == 100_000
    assert await wrong(pool) == {WAITS}


@pytest.mark.parametrize(("policy", "paid"), [
    (OpenHoldPolicy.CHARGE_DELIVERED, 20_000), (OpenHoldPolicy.RELEASE, 0), (OpenHoldPolicy.CHARGE_HOLD, HOLD),
])  # fmt: skip
async def test_one_that_nobody_saw_the_end_of_is_ended_by_policy(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path, policy: OpenHoldPolicy, paid: int
) -> None:
    """As a hold whose worker died, by whichever worker, from what its row says."""
    ledger = await started(pool, tmp_path / "1")
    await deferred(ledger, key, input_estimate=20)
    await ledger.stop()
    other = await started(pool, tmp_path / "2")
    (due,) = await due_after_all(pool)
    other.durable.expire(due, policy)
    await other.stop()
    assert await spent(pool, key) == paid
    assert await drawn(pool) == paid
    row = await pool.fetchrow("SELECT ending, outcome, usage_source FROM usage_events")
    assert tuple(row) == ("recovered", "recovered", "recovered")
    assert await states(pool) == ["recovered"]


async def due_after_all(pool: asyncpg.Pool) -> list[DurableHold]:
    await pool.execute("UPDATE durable_holds SET next_poll_at = now()")
    return [due.hold for due in await DurableRows(pool).take_due(10, 30)]


# ── who asks ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_hold_is_due_for_one_worker_at_a_time(pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path) -> None:
    """Many workers that look at once share what is due, and nobody else gets it within the term."""
    ledger = await started(pool, tmp_path)
    for number in range(8):
        await deferred(ledger, key, f"resp_{number}")
    await settle(ledger)
    rows = DurableRows(pool)
    assert await rows.take_due(10, 30) == []
    await pool.execute("UPDATE durable_holds SET next_poll_at = now() - interval '1 second'")
    taken = await asyncio.gather(*(rows.take_due(3, 30) for _ in range(4)))
    names = sorted(due.hold.resource.id for some in taken for due in some)
    assert names == sorted(set(names))
    while some := await rows.take_due(3, 30):
        names += [due.hold.resource.id for due in some]
    assert sorted(names) == [f"resp_{number}" for number in range(8)]
    (again,) = await pool.fetch("SELECT min(next_poll_at) > now() + interval '20 seconds' AS later FROM durable_holds")
    assert again["later"]
    hold = taken[0][0].hold
    await rows.put_off(hold, -1)
    (due,) = await rows.take_due(10, 30)
    assert due.hold.subject == hold.subject
    assert due.age_seconds >= 0
    assert await rows.count() == (8, pytest.approx(due.age_seconds, abs=30))
    await ledger.stop()
