"""The ledger of a worker on real PostgreSQL: place, capture, settle, restart."""

import asyncio
from pathlib import Path

import pytest

from meterproxy.core.lending import Batch, LeaseKey
from meterproxy.errors import ApiError, Case, JournalFailed
from meterproxy.ledger.journal_files import Sync
from meterproxy.store.audit import audit
from tests.ledger.bank import REFUSED, balance, completed, customer, hold_request, ledger_of, pool_of
from tests.ledger.bank_faults import Faulty


async def test_three_exchanges_lower_the_balance_by_exactly_their_sum(database: str, tmp_path: Path) -> None:
    """What was captured is what the balance lost."""
    async with pool_of(database) as pool:
        key = await customer(pool, 10_000_000)
        ledger = ledger_of(pool, tmp_path)
        await ledger.start()
        for tokens in (1, 20, 300):
            hold = await ledger.holds.place(hold_request(ledger, key, 500_000))
            ledger.holds.capture(hold, completed(tokens))
        await ledger.settler.drain()
        assert await balance(pool, key.account_id) == 10_000_000 - 321_000
        await ledger.stop()


async def test_a_released_hold_costs_nothing_and_its_money_can_be_held_again(database: str, tmp_path: Path) -> None:
    """Release gives back all of it."""
    async with pool_of(database) as pool:
        key = await customer(pool, 1_000_000)
        ledger = ledger_of(pool, tmp_path)
        await ledger.start()
        hold = await ledger.holds.place(hold_request(ledger, key, 1_000_000))
        with pytest.raises(ApiError) as refused:
            await ledger.holds.place(hold_request(ledger, key, 1))
        assert refused.value.case is Case.CREDIT_HELD
        ledger.holds.release(hold, REFUSED)
        hold = await ledger.holds.place(hold_request(ledger, key, 1_000_000))
        ledger.holds.capture(hold, completed(1000))
        with pytest.raises(ApiError) as refused:
            await ledger.holds.place(hold_request(ledger, key, 1))
        assert refused.value.case is Case.CREDIT_SPENT
        await ledger.stop()
        assert await balance(pool, key.account_id) == 0


async def test_two_borrowers_share_a_credit_without_overspending(database: str, tmp_path: Path) -> None:
    """What one worker has leased the other cannot spend; what it does not use comes back on request."""
    async with pool_of(database) as pool:
        key = await customer(pool, 1_000_000)
        one, two = ledger_of(pool, tmp_path / "1"), ledger_of(pool, tmp_path / "2", wait_ms=2000)
        await one.start()
        await two.start()
        hold = await one.holds.place(hold_request(one, key, 400_000))
        other = await two.holds.place(hold_request(two, key, 600_000))
        with pytest.raises(ApiError) as refused:
            await two.holds.place(hold_request(two, key, 1_000))
        assert refused.value.case is Case.CREDIT_HELD
        one.holds.capture(hold, completed(100))
        await one.look()
        await one.borrower.report()
        third = await two.holds.place(hold_request(two, key, 300_000))
        two.holds.capture(other, completed(600))
        two.holds.capture(third, completed(300))
        await one.stop()
        await two.stop()
        assert await balance(pool, key.account_id) == 0
        window = await pool.fetchrow("SELECT cap, drawn FROM limit_windows")
        assert (window["cap"], window["drawn"]) == (1_000_000, 1_000_000)


async def test_a_killed_workers_journal_is_settled_and_its_leases_come_back(database: str, tmp_path: Path) -> None:
    """After a kill the next start books what was captured and recovers what was open."""
    async with pool_of(database) as pool:
        key = await customer(pool, 10_000_000)
        killed = ledger_of(pool, tmp_path)
        await killed.start()
        captured = await killed.holds.place(hold_request(killed, key, 500_000))
        killed.holds.capture(captured, completed(7))
        await killed.holds.place(hold_request(killed, key, 200_000))
        killed.journal.close()

        successor, counted = ledger_of(pool, tmp_path), asyncio.Queue[int]()
        successor.observe = lambda endings, _seconds: counted.put_nowait(len(endings))
        await successor.start()
        assert successor.recovered == 1
        assert await asyncio.wait_for(counted.get(), 10) == 2
        assert await balance(pool, key.account_id) == 10_000_000 - 7_000 - 200_000
        window = await pool.fetchrow("SELECT drawn FROM limit_windows")
        assert window["drawn"] == 207_000
        await successor.stop()
        assert await pool.fetchval("SELECT count(*) FROM usage_events") == 2
        assert LeaseKey(key.account_id, key.credit.limit_id, 0) not in successor.book.leases


async def test_a_stop_with_an_open_hold_leaves_its_session_to_be_proved(database: str, tmp_path: Path) -> None:
    """What a hold has drawn is not returned behind its back; the next start ends the hold and proves the session."""
    async with pool_of(database) as pool:
        key = await customer(pool, 10_000_000)
        ledger = ledger_of(pool, tmp_path)
        await ledger.start()
        ledger.holds.capture(await ledger.holds.place(hold_request(ledger, key, 500_000)), completed(7))
        await ledger.holds.place(hold_request(ledger, key, 200_000, input_estimate=50))
        await ledger.stop()
        assert await pool.fetchval("SELECT state FROM worker_sessions") == "live"
        assert await pool.fetchval("SELECT sum(granted - consumed - returned) FROM leases") >= 200_000

        successor = ledger_of(pool, tmp_path)
        await successor.start()
        assert successor.recovered == 1
        assert await pool.fetchval("SELECT state FROM worker_sessions ORDER BY started_at LIMIT 1") == "proved"
        assert await balance(pool, key.account_id) == 10_000_000 - 7_000 - 50_000
        assert await pool.fetchval("SELECT drawn FROM limit_windows") == 57_000
        await successor.stop()
        assert [result for result in await audit(pool) if not result.ok] == []


async def test_an_ending_that_cannot_be_encoded_is_booked_all_the_same(database: str, tmp_path: Path) -> None:
    """The client is told, the money is booked with minimal columns, and nothing stays held."""
    async with pool_of(database) as pool:
        key = await customer(pool, 1_000_000)
        ledger = ledger_of(pool, tmp_path)
        await ledger.start()
        hold = await ledger.holds.place(hold_request(ledger, key, 500_000))
        with pytest.raises(JournalFailed):
            ledger.holds.capture(hold, completed(7, served_model="\ud800"))
        assert not ledger.holds.open
        await ledger.stop()
        assert await balance(pool, key.account_id) == 1_000_000 - 7_000
        assert await pool.fetchval("SELECT count(*) FROM settle_rejected") == 1


async def test_a_place_that_fails_of_whatever_holds_nothing(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease is whole again, so that the next request may have it."""
    async with pool_of(database) as pool:
        key = await customer(pool, 1_000_000)
        ledger = ledger_of(pool, tmp_path)
        await ledger.start()
        with monkeypatch.context() as broken:
            broken.setattr(ledger.journal, "place", lambda _record, _growth: 1 // 0)
            with pytest.raises(ZeroDivisionError):
                await ledger.holds.place(hold_request(ledger, key, 1_000_000))
        hold = await ledger.holds.place(hold_request(ledger, key, 1_000_000))
        ledger.holds.release(hold, REFUSED)
        await ledger.stop()


async def test_a_second_ending_that_differs_is_counted_and_the_first_is_kept(database: str, tmp_path: Path) -> None:
    """In service nothing breaks of it: the first ending is booked, the anomaly is there to be seen."""
    async with pool_of(database) as pool:
        key = await customer(pool, 1_000_000)
        ledger = ledger_of(pool, tmp_path)
        await ledger.start()
        hold = await ledger.holds.place(hold_request(ledger, key, 500_000))
        first = ledger.holds.capture(hold, completed(7))
        assert ledger.holds.capture(hold, completed(7)) == first
        assert not ledger.holds.anomalies
        assert ledger.holds.capture(hold, completed(8)) == first
        assert ledger.holds.anomalies == {"differs": 1}
        await ledger.stop()
        assert await balance(pool, key.account_id) == 1_000_000 - 7_000


async def test_what_ends_last_is_durable_however_long_a_stop_waits_for_postgresql(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut takes no more from a worker that is being stopped than from any other; a sync that fails is repeated."""
    async with pool_of(database) as pool:
        key = await customer(pool, 10_000_000)
        ledger = ledger_of(pool, tmp_path)
        await ledger.start()
        asked, answering, heard = asyncio.Event(), asyncio.Event(), asyncio.Queue[None]()

        class Slow(Faulty):
            async def book(self, batch: Batch) -> int:
                asked.set()
                await answering.wait()
                booked: int = await self._store.book(batch)
                return booked

        def finish(sync: Sync, error: OSError | None) -> None:
            finish_sync(sync, failures.pop() if failures else error)
            heard.put_nowait(None)

        finish_sync, failures = ledger.journal.finish_sync, [OSError("the volume refuses")]
        monkeypatch.setattr(ledger.journal, "finish_sync", finish)
        ledger.settler._store = Slow(ledger.settler._store)  # type: ignore[assignment]
        hold = await ledger.holds.place(hold_request(ledger, key, 500_000))
        ledger.holds.capture(hold, completed(7))
        written = ledger.journal.position
        stopping = asyncio.create_task(ledger.stop())
        await asyncio.wait_for(asked.wait(), 10)
        while ledger.journal.synced < written:
            await asyncio.wait_for(heard.get(), 10)
        assert ledger.journal.healthy
        answering.set()
        await stopping
        assert await balance(pool, key.account_id) == 10_000_000 - 7_000
