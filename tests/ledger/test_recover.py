"""Recovery: a worker is killed at every point that matters; the next start makes the books right, once."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from meterproxy.core.key import KeyEntry
from meterproxy.core.logged import LOGGED
from meterproxy.core.usage import Usage
from meterproxy.errors import JournalFailed, StoreUnavailable
from meterproxy.ledger import journal as journal_module
from meterproxy.ledger.journal import SLACK_BYTES
from meterproxy.ledger.journal_files import JournalLocked
from meterproxy.ledger.recover import OpenHoldPolicy
from meterproxy.ledger.worker import WorkerLedger
from meterproxy.store.audit import audit
from meterproxy.store.sessions import Sessions
from meterproxy.store.settle import Settlement
from tests.ledger.bank import balance, completed, customer, exposed, hold_request, ledger_of, pool_of
from tests.ledger.bank_faults import Faulty, Snapshot
from tests.ledger.test_journal import kill, raiser

CREDIT = 10_000_000
HOLD = 500_000


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


async def place(ledger: WorkerLedger, key: KeyEntry) -> Any:
    hold = await ledger.holds.place(hold_request(ledger, key, HOLD))
    await ledger.borrower.settle_down()
    return hold


async def die(ledger: WorkerLedger) -> None:
    await ledger.borrower.settle_down()
    kill(ledger.journal)


async def spent(pool: asyncpg.Pool, key: KeyEntry) -> int:
    """What the account has paid, after checking that nothing of it is still lent out or wrong."""
    assert {result.name for result in await audit(pool) if not result.ok} == set()
    paid = CREDIT - await balance(pool, key.account_id)
    assert await pool.fetchval("SELECT drawn FROM limit_windows") == paid
    return paid


async def restarted(pool: asyncpg.Pool, directory: Path, **settings: Any) -> int:
    """Start a successor, stop it, start another: answers what the first recovered; the second must change nothing."""
    successor = await started(pool, directory, **settings)
    recovered = successor.recovered
    before = (
        await pool.fetchval("SELECT count(*) FROM usage_events"),
        await pool.fetchval("SELECT drawn FROM limit_windows"),
    )
    await successor.stop()
    again = await started(pool, directory, **settings)
    assert again.recovered == 0
    assert again.settler.queued == 0
    await again.stop()
    assert before == (
        await pool.fetchval("SELECT count(*) FROM usage_events"),
        await pool.fetchval("SELECT drawn FROM limit_windows"),
    )
    assert await pool.fetchval("SELECT count(*) FROM worker_sessions WHERE state = 'live'") == 0
    return recovered


@pytest.mark.parametrize(("policy", "progress", "paid"), [
    (OpenHoldPolicy.CHARGE_DELIVERED, None, 500_000),
    (OpenHoldPolicy.CHARGE_DELIVERED, Usage(input=100, output=20), 120_000),
    (OpenHoldPolicy.CHARGE_DELIVERED, Usage(input=100, output=9000), 500_000),
    (OpenHoldPolicy.RELEASE, Usage(input=100, output=20), 0),
    (OpenHoldPolicy.CHARGE_HOLD, Usage(input=100, output=20), 500_000),
    (OpenHoldPolicy.CHARGE_HOLD, None, 500_000),
])  # fmt: skip
async def test_an_open_hold_is_ended_by_policy(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path, policy: OpenHoldPolicy, progress: Usage | None, paid: int
) -> None:
    """Killed after place, with or without progress: one row `recovered`, at most the hold."""
    ledger = await started(pool, tmp_path)
    hold = await place(ledger, key)
    if progress is not None:
        ledger.holds.progress(hold, Usage(input=1))
        ledger.holds.progress(hold, progress)
    await die(ledger)
    assert await restarted(pool, tmp_path, open_hold=policy) == 1
    assert await spent(pool, key) == paid
    row = await pool.fetchrow("SELECT * FROM usage_events")
    assert (row["ending"], row["outcome"], row["usage_source"]) == ("recovered", "recovered", "recovered")


@pytest.mark.parametrize("policy", list(OpenHoldPolicy))
async def test_what_was_being_logged_is_nothing(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path, policy: OpenHoldPolicy
) -> None:
    """No provider was asked and nobody was answered: no row by any policy, and what it held is back."""
    ledger = await started(pool, tmp_path)
    await ledger.holds.place(hold_request(ledger, key, HOLD, operation=LOGGED))
    await die(ledger)
    assert await restarted(pool, tmp_path, open_hold=policy) == 0
    assert await spent(pool, key) == 0
    assert await pool.fetchval("SELECT count(*) FROM usage_events") == 0


@pytest.mark.parametrize(("policy", "output", "paid"), [
    (OpenHoldPolicy.CHARGE_DELIVERED, 700, 700_000),
    (OpenHoldPolicy.CHARGE_DELIVERED, 9000, 800_000),
    (OpenHoldPolicy.CHARGE_HOLD, 1, 800_000),
])  # fmt: skip
async def test_an_extended_hold_is_recovered_as_it_was_in_the_end(
    pool: asyncpg.Pool, tmp_path: Path, policy: OpenHoldPolicy, output: int, paid: int
) -> None:
    """What was delivered is charged up to what the last extension held, and its exposure is whole again."""
    key = await exposed(pool, await customer(pool, CREDIT), 2 * HOLD)
    ledger = await started(pool, tmp_path)
    hold = await ledger.holds.place(hold_request(ledger, key, HOLD, exposed_nanos=HOLD))
    for _ in range(2):
        assert await ledger.holds.make_room(hold, 150_000)
        assert ledger.holds.extend(hold, 150_000)
    assert hold.subject.hold_nanos == 800_000
    ledger.holds.progress(hold, Usage(output=output))
    await die(ledger)
    successor = await started(pool, tmp_path, open_hold=policy)
    assert successor.recovered == 1
    await successor.stop()
    assert CREDIT - await balance(pool, key.account_id) == paid
    drawn = "SELECT drawn FROM limit_windows w JOIN limits c ON c.id = w.limit_id WHERE c.kind = $1"
    assert await pool.fetchval(drawn, "exposure") == 0
    assert await pool.fetchval(drawn, "credit") == paid
    assert await pool.fetchval("SELECT hold_nanos FROM usage_events") == 800_000
    assert [result for result in await audit(pool) if not result.ok] == []


@pytest.mark.parametrize(("estimate", "progress", "paid"), [
    (120, None, 120_000), (0, None, 0), (9000, None, HOLD), (None, None, HOLD), (120, Usage(input=100, output=20), 120_000),
])  # fmt: skip
async def test_without_progress_the_input_is_charged_as_estimated(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path, estimate: int | None, progress: Usage | None, paid: int
) -> None:
    """Not as its bound, which counts a token for each byte; a journal of an older release has nothing but the bound."""
    ledger = await started(pool, tmp_path)
    hold = await ledger.holds.place(hold_request(ledger, key, HOLD, input_estimate=estimate))
    if progress is not None:
        ledger.holds.progress(hold, progress)
    await die(ledger)
    assert await restarted(pool, tmp_path) == 1
    assert await spent(pool, key) == paid


async def test_killed_after_an_ending_was_written(pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path) -> None:
    """An ending in the journal is charged as what it says, overrun included; a released one costs nothing."""
    ledger = await started(pool, tmp_path)
    for tokens in (7, 600):
        ledger.holds.capture(await place(ledger, key), completed(tokens))
    ledger.holds.release(await place(ledger, key), completed(0))
    await die(ledger)
    assert await restarted(pool, tmp_path) == 0
    assert await spent(pool, key) == 607_000
    assert await pool.fetchval("SELECT count(*) FROM usage_events") == 3


async def test_killed_before_the_answer_of_a_settle(pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path) -> None:
    """PostgreSQL has the batch, the worker never heard: it is not booked again."""
    ledger = await started(pool, tmp_path)
    store = Faulty(ledger.settler._store)
    ledger.settler._store = store  # type: ignore[assignment]
    ledger.holds.capture(await place(ledger, key), completed(7))
    store.lost.add("book")
    with pytest.raises(StoreUnavailable):
        await ledger.settler.settle_batch()
    await place(ledger, key)
    await die(ledger)
    assert await restarted(pool, tmp_path) == 1
    assert await spent(pool, key) == 507_000


@pytest.mark.parametrize("where", ["recovered endings are written", "the first batch is settled", "before the proof"])
async def test_killed_during_recovery(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Recovery that dies halfway is taken up by the next one; every hold has exactly one ending."""
    monkeypatch.setattr("meterproxy.ledger.settle.BATCH_ENDINGS", 2)
    ledger = await started(pool, tmp_path)
    for tokens in (1, 2, 3):
        ledger.holds.capture(await place(ledger, key), completed(tokens))
        await place(ledger, key)
    await die(ledger)
    halfway = ledger_of(pool, tmp_path)
    books, sessions = Faulty(Settlement(pool)), Faulty(Sessions(pool))
    halfway._settlement, halfway._sessions = books, sessions  # type: ignore[assignment]
    match where:
        case "recovered endings are written":
            monkeypatch.setattr(Settlement, "book", raiser(5))
        case "the first batch is settled":
            books.lost.add("book")
        case _:
            monkeypatch.setattr(Sessions, "end_session", raiser(5))
    with pytest.raises((OSError, StoreUnavailable)):
        await halfway.start()
    assert halfway.recovered == 3
    monkeypatch.undo()
    await die(halfway)
    assert await restarted(pool, tmp_path) == 0
    assert await spent(pool, key) == 6000 + 3 * HOLD


@pytest.mark.parametrize(
    "call", ["progress", "book", "change_version", "open_session", "earlier_sessions", "end_session"]
)
async def test_a_start_can_be_tried_again_wherever_postgresql_went_away(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path, call: str
) -> None:
    """The same ledger starts when PostgreSQL is back, whichever answer got lost, and works."""
    ledger = await started(pool, tmp_path)
    ledger.holds.capture(await place(ledger, key), completed(7))
    await place(ledger, key)
    await die(ledger)
    successor = ledger_of(pool, tmp_path)
    books, sessions = Faulty(successor._settlement), Faulty(successor._sessions)
    successor._settlement, successor._sessions = books, sessions  # type: ignore[assignment]
    successor.session._store = successor.borrower._store = sessions  # type: ignore[assignment]
    (books if call in {"progress", "book"} else sessions).lost.add(call)
    with pytest.raises(StoreUnavailable):
        await successor.start()
    await successor.start()
    assert successor.recovered == 1
    assert successor.ready is None
    successor.holds.capture(await place(successor, key), completed(20))
    await successor.stop()
    assert await spent(pool, key) == 527_000
    assert len(list(tmp_path.glob("*.journal"))) <= 4


async def test_a_killed_worker_leaves_no_preallocated_segment_behind(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path
) -> None:
    """A crash loop does not fill the volume: what a dead worker preallocated is cut to what it used."""
    for _ in range(3):
        await die(await started(pool, tmp_path, segment_bytes=1 << 20))
    ledger = await started(pool, tmp_path, segment_bytes=1 << 20)
    sizes = [path.stat().st_size for path in sorted(tmp_path.glob("*.journal"))]
    assert all(size < 4096 for size in sizes[:-1])
    await ledger.stop()


async def test_an_ending_that_a_power_cut_took_is_recovered_from_its_place(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path
) -> None:
    """Settled up to a later ending or not: a hold whose ending is gone is open again, in whatever segment it began."""
    ledger = await started(pool, tmp_path, segment_bytes=2 * SLACK_BYTES)
    early = await place(ledger, key)
    ledger.journal._roll()
    ledger.journal.prepare()
    ledger.holds.capture(await place(ledger, key), completed(7))
    await ledger.settler.settle_batch()
    before = ledger.journal.position
    ledger.holds.capture(await place(ledger, key), completed(8))
    ledger.holds.capture(early, completed(9))
    last = ledger.journal._segment
    assert last is not None
    await ledger.settler._store.book(ledger.settler._batch([ledger.settler._queue._front[0]]))
    await die(ledger)
    with last.path.open("r+b") as file:
        file.truncate(before - last.base)
    assert await restarted(pool, tmp_path) == 1
    assert await spent(pool, key) == 15_000 + HOLD


async def test_postgresql_was_put_back_while_the_worker_was_down(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path
) -> None:
    """What a failover took between two lives is settled again by the next one, from the journal."""
    ledger = await started(pool, tmp_path)
    earlier = await Snapshot.of(pool)
    ledger.holds.capture(await place(ledger, key), completed(7))
    await ledger.settler.drain()
    await place(ledger, key)
    await die(ledger)
    await earlier.put_back(pool)
    assert await restarted(pool, tmp_path) == 1
    assert await spent(pool, key) == 507_000


async def test_a_hold_that_was_refused_for_lack_of_room_costs_nothing(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accept says no where the journal cannot be written; after a kill nothing of it is found."""
    ledger = await started(pool, tmp_path)
    await place(ledger, key)
    monkeypatch.setattr(journal_module.os, "pwrite", raiser(28))
    with pytest.raises(Exception, match="cannot take requests"):
        await place(ledger, key)
    monkeypatch.undo()
    assert ledger.book.open == len(ledger.holds.open) == 1
    await die(ledger)
    assert await restarted(pool, tmp_path, open_hold=OpenHoldPolicy.CHARGE_HOLD) == 1
    assert await spent(pool, key) == HOLD


async def test_an_ending_that_only_memory_had_is_recovered_by_policy(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The volume failed at the ending, later ones were settled, then the worker was killed: its hold is still found."""
    ledger = await started(pool, tmp_path, segment_bytes=2 * SLACK_BYTES)
    hold = await place(ledger, key)
    ledger.journal._roll()
    ledger.journal.prepare()
    ledger.holds.capture(await place(ledger, key), completed(7))
    monkeypatch.setattr(journal_module.os, "pwrite", raiser(5))
    with pytest.raises(JournalFailed):
        ledger.holds.capture(hold, completed(9))
    monkeypatch.undo()
    assert ledger.settler.queued == 2
    batch = ledger.settler._batch([ledger.settler._queue._front[0]])
    await ledger.settler._store.book(batch)
    await die(ledger)
    assert await restarted(pool, tmp_path) == 1
    assert await spent(pool, key) == 7000 + HOLD


async def test_a_journal_that_somebody_owns_is_refused(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """Only the holder of the lock can prove anything."""
    ledger = await started(pool, tmp_path)
    with pytest.raises(JournalLocked):
        ledger_of(pool, tmp_path)
    await ledger.stop()
    successor = await started(pool, tmp_path)
    await successor.stop()
