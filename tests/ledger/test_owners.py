"""Owners on real PostgreSQL: claimed here, found anywhere, after kills and failovers, and no flood hurts others."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from meterproxy.core.key import KeyEntry
from meterproxy.core.lending import Noted
from meterproxy.core.record import OwnerRecord
from meterproxy.core.resource import Resource
from meterproxy.errors import JournalFailed, StoreUnavailable
from meterproxy.ledger import journal as journal_module
from meterproxy.ledger import owners as module
from meterproxy.ledger.worker import WorkerLedger
from meterproxy.store.owners import OwnerRows
from meterproxy.store.settle import Settlement
from tests.ledger.bank import completed, customer, hold_request, ledger_of, pool_of
from tests.ledger.bank_faults import Faulty, Snapshot
from tests.ledger.test_journal import kill, raiser

KIND = "response"
NOW_US = 1_700_000_000_000_000


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as pool:
        yield pool


@pytest.fixture
async def key(pool: asyncpg.Pool) -> KeyEntry:
    return await customer(pool, 10_000_000)


async def started(pool: asyncpg.Pool, directory: Path, **settings: Any) -> WorkerLedger:
    ledger = ledger_of(pool, directory, **settings)
    await ledger.start()
    return ledger


def response(key: KeyEntry, name: str) -> Resource:
    return Resource(key.account_id, KIND, name, "openai")


def counted(ledger: WorkerLedger) -> Faulty:
    """The store that this ledger's look-ups go to, from now on one that counts and may fail."""
    store = ledger.owners._rows = Faulty(ledger.owners._rows)
    return store


async def find(ledger: WorkerLedger, key: KeyEntry, name: str) -> Resource | None:
    return await ledger.owners.find(key.account_id, KIND, name)


async def settle(ledger: WorkerLedger) -> None:
    while ledger.settler.queued:
        await ledger.settler.settle_batch()


# ── found ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_was_claimed_is_known_before_and_after_it_is_settled(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path
) -> None:
    """No statement is needed, and none is made for a second claim; it is the account's alone."""
    ledger = await started(pool, tmp_path)
    store = counted(ledger)
    mine = response(key, "resp_1")
    ledger.owners.claim(mine, NOW_US)
    assert ledger.owners.known(key.account_id, KIND, "resp_1") == mine
    await settle(ledger)
    assert ledger.owners.known(key.account_id, KIND, "resp_1") == mine
    ledger.owners.claim(mine, NOW_US)
    assert ledger.settler.queued == 0
    assert not store.calls
    assert await find(ledger, await customer(pool, 0), "resp_1") is None
    assert await ledger.owners.find(key.account_id, "conversation", "resp_1") is None
    await ledger.stop()


async def test_a_claim_survives_its_worker(pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path) -> None:
    """Killed before it was settled; the successor has it in PostgreSQL before it serves, together with what was held."""
    ledger = await started(pool, tmp_path)
    hold = await ledger.holds.place(hold_request(ledger, key, 500_000))
    ledger.owners.claim(response(key, "resp_1"), NOW_US)
    ledger.holds.capture(hold, completed(7))
    ledger.owners.claim(response(key, "resp_2"), NOW_US)
    await ledger.borrower.settle_down()
    kill(ledger.journal)
    successor = await started(pool, tmp_path)
    for name in ("resp_1", "resp_2"):
        assert await find(successor, key, name) == response(key, name)
    assert successor.recovered == 0
    await successor.stop()
    again = await started(pool, tmp_path)
    assert again.settler.queued == 0
    await again.stop()


async def test_another_worker_finds_what_was_claimed_a_moment_ago(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path
) -> None:
    """It asks before the claim is settled, and is answered as soon as it is, which a claim hastens."""
    here, there = await started(pool, tmp_path / "1"), await started(pool, tmp_path / "2", settle_interval_ms=3_600_000)
    there.owners.claim(response(key, "resp_1"), NOW_US)
    here.owners._patience_us = 60_000_000
    store = counted(here)
    finding = asyncio.create_task(find(here, key, "resp_1"))
    while not store.calls["find_owners"]:
        await asyncio.sleep(0)
    settling = asyncio.create_task(there.settler.run())
    assert await finding == response(key, "resp_1")
    settling.cancel()
    await asyncio.wait((settling,))
    await here.stop()
    await there.stop()


async def test_who_claims_it_answers_those_who_wait_for_it(pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path) -> None:
    """A look-up that is under way ends with the claim; a remembered miss as well."""
    here, other = await started(pool, tmp_path / "1"), await started(pool, tmp_path / "2")
    here.owners._patience_us = 60_000_000
    finding = asyncio.create_task(find(here, key, "resp_1"))
    await asyncio.sleep(0)
    here.owners.claim(response(key, "resp_1"), NOW_US)
    assert await finding == response(key, "resp_1")
    here.owners._patience_us = 0
    assert await find(here, key, "resp_2") is None
    assert here.owners.known(key.account_id, KIND, "resp_2") is False
    here.owners.claim(response(key, "resp_2"), NOW_US)
    assert here.owners.known(key.account_id, KIND, "resp_2") == response(key, "resp_2")
    await here.stop()
    await other.stop()


async def test_who_looks_through_others_things_does_not_wait(pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path) -> None:
    """Of what others may be about to claim a first miss will do, and does not spoil it for those who must know."""
    here, there = await started(pool, tmp_path / "1"), await started(pool, tmp_path / "2")
    here.owners._patience_us = 60_000_000
    assert await here.owners.find(key.account_id, KIND, "resp_1", patient=False) is None
    there.owners.claim(response(key, "resp_1"), NOW_US)
    await settle(there)
    assert await find(here, key, "resp_1") == response(key, "resp_1")
    await here.stop()
    await there.stop()


async def test_a_miss_is_final_at_once_only_for_who_is_alone(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another worker about, it is asked again until that one must have settled."""
    monkeypatch.setattr(module, "ASKED_AGAIN_US", 1000)
    here = await started(pool, tmp_path / "1")
    here.owners._patience_us = 50_000
    store = counted(here)
    assert await find(here, key, "resp_1") is None
    assert store.calls["find_owners"] == 1
    other = await started(pool, tmp_path / "2")
    assert await find(here, key, "resp_2") is None
    assert store.calls["find_owners"] > 3
    await here.stop()
    await other.stop()


async def test_a_miss_is_remembered_for_a_moment_only(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it is asked again."""
    ledger = await started(pool, tmp_path)
    store = counted(ledger)
    for _ in range(3):
        assert await find(ledger, key, "resp_1") is None
    assert store.calls["find_owners"] == 1
    monkeypatch.setattr(module, "UNKNOWN_US", -1)
    for _ in range(2):
        assert await find(ledger, key, "resp_2") is None
    assert store.calls["find_owners"] == 3
    await ledger.stop()


# ── forgotten ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_was_forgotten_is_nobodys_here_and_there(pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path) -> None:
    """At once for the worker that was told, with its next look for another; settled or not, and for ever."""
    here, there = await started(pool, tmp_path / "1"), await started(pool, tmp_path / "2")
    mine = response(key, "resp_1")
    here.owners.claim(mine, NOW_US)
    await settle(here)
    assert await find(there, key, "resp_1") == mine
    here.owners.forget(mine, NOW_US)
    assert here.owners.known(key.account_id, KIND, "resp_1") is False
    here.owners.claim(mine, NOW_US)
    assert here.owners.known(key.account_id, KIND, "resp_1") is False
    assert await find(here, key, "resp_1") is None
    await settle(here)
    assert there.owners.known(key.account_id, KIND, "resp_1") == mine
    await there.owners.hear()
    for ledger in (here, there):
        ledger.owners._patience_us = 0
        assert await find(ledger, key, "resp_1") is None
    there.owners.claim(mine, NOW_US)
    await settle(there)
    assert await pool.fetchval("SELECT count(*) FROM owners WHERE forgotten_at IS NULL") == 0
    await here.stop()
    await there.stop()


async def test_who_could_not_hear_for_long_forgets_what_it_knew(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deletions may have come and gone while PostgreSQL was away."""
    monkeypatch.setattr(module, "HEARD_SECONDS", 0.001)
    ledger = await started(pool, tmp_path)
    ledger.owners.claim(response(key, "resp_1"), NOW_US)
    await settle(ledger)
    store = counted(ledger)
    store.away = True
    hearing = asyncio.create_task(ledger.owners.keep_heard())
    while store.calls["forgotten_owners"] < 3:
        await asyncio.sleep(0)
    monkeypatch.setattr(module, "MISSED_US", 0)
    assert ledger.owners.known(key.account_id, KIND, "resp_1") is not True
    store.away = False
    while ledger.owners.known(key.account_id, KIND, "resp_1") is not True:
        await asyncio.sleep(0)
    hearing.cancel()
    await asyncio.wait((hearing,))
    assert await find(ledger, key, "resp_1") == response(key, "resp_1")
    await ledger.stop()


@pytest.mark.parametrize("forgotten", [False, True])
async def test_what_a_failover_took_away_is_told_again(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path, forgotten: bool
) -> None:
    """Claims and deletions behind the lost position are settled once more, and known meanwhile."""
    ledger = await started(pool, tmp_path)
    earlier = await Snapshot.of(pool)
    ledger.owners.claim(response(key, "resp_1"), NOW_US)
    await settle(ledger)
    if forgotten:
        ledger.owners.forget(response(key, "resp_1"), NOW_US)
        await settle(ledger)
    await earlier.put_back(pool)
    ledger.owners._known.clear()
    ledger.owners.claim(response(key, "resp_2"), NOW_US)
    await ledger.settler.settle_batch()
    known = ledger.owners.known(key.account_id, KIND, "resp_1")
    assert known is False if forgotten else known == response(key, "resp_1")
    await settle(ledger)
    assert await find(ledger, key, "resp_2") == response(key, "resp_2")
    found = await find(ledger, key, "resp_1")
    assert found is None if forgotten else found == response(key, "resp_1")
    await ledger.stop()


# ── trouble ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_postgresql_away_is_no_miss(pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path) -> None:
    """The client gets a 503, and the next one asks again."""
    ledger = await started(pool, tmp_path)
    store = counted(ledger)
    store.away = True
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await find(ledger, key, "resp_1")
    assert store.calls["find_owners"] == 2
    store.away = False
    assert await find(ledger, key, "resp_1") is None
    await ledger.stop()


@pytest.mark.parametrize("errno", [5, 28])
async def test_what_the_journal_does_not_take_was_not_claimed(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, errno: int
) -> None:
    """The id must not go out, and nobody owns it; a deletion that is not written down has not happened."""
    ledger = await started(pool, tmp_path)
    ledger.owners.claim(response(key, "resp_1"), NOW_US)
    with monkeypatch.context() as broken:
        broken.setattr(journal_module.os, "pwrite", raiser(errno))
        with pytest.raises(JournalFailed):
            ledger.owners.claim(response(key, "resp_2"), NOW_US)
        with pytest.raises(JournalFailed):
            ledger.owners.forget(response(key, "resp_1"), NOW_US)
    assert await find(ledger, key, "resp_2") is None
    assert await find(ledger, key, "resp_1") == response(key, "resp_1")
    await ledger.stop()


async def test_a_journal_that_is_the_queue_of_too_much_takes_no_claims(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path
) -> None:
    """As it takes no holds: while PostgreSQL is away, what costs nothing does not fill memory either."""
    ledger = await started(pool, tmp_path, max_bytes=2000)
    claimed = 0
    with suppress(JournalFailed):
        while claimed < 1000:
            ledger.owners.claim(response(key, f"resp_{claimed}"), NOW_US)
            claimed += 1
    assert 0 < claimed < 100
    await settle(ledger)
    ledger.owners.claim(response(key, "resp_more"), NOW_US)
    await ledger.stop()


async def test_claims_take_no_room_that_endings_were_promised(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full volume refuses them, and every exchange that was accepted can still end."""
    ledger = await started(pool, tmp_path, segment_bytes=2 * journal_module.SLACK_BYTES)
    monkeypatch.setattr(ledger.journal, "prepare", lambda: None)
    holds = [await ledger.holds.place(hold_request(ledger, key, 1000)) for _ in range(20)]
    claimed = 0
    with suppress(JournalFailed):
        while claimed < 100_000:
            ledger.owners.claim(response(key, f"resp_{claimed}".ljust(250, "x")), NOW_US)
            claimed += 1
    for hold in holds:
        ledger.holds.capture(hold, completed(1))
    await ledger.stop()
    assert await pool.fetchval("SELECT count(*) FROM usage_events") == 20
    assert await pool.fetchval("SELECT count(*) FROM owners") == claimed
    assert 0 < claimed < 100_000


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800", "x" * 257])
async def test_an_id_that_no_provider_would_give_is_nobodys(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path, name: str
) -> None:
    """PostgreSQL is not bothered with it; were it given all the same, it would not go out."""
    ledger = await started(pool, tmp_path)
    store = counted(ledger)
    assert ledger.owners.known(key.account_id, KIND, name) is False
    assert await find(ledger, key, name) is None
    with pytest.raises(JournalFailed):
        ledger.owners.claim(response(key, name), NOW_US)
    assert not store.calls
    await ledger.stop()


async def test_a_note_that_postgresql_refuses_blocks_nothing(pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path) -> None:
    """It is kept for a person, once however often it is sent; what is around it is booked."""
    ledger = await started(pool, tmp_path)
    for number in range(5):
        ledger.holds.capture(await ledger.holds.place(hold_request(ledger, key, 1000)), completed(1))
        ledger.owners.claim(response(key, f"resp_{number}"), NOW_US)
        if number == 2:
            poison = OwnerRecord(response(key, "a\0b"), NOW_US)
            ledger.settler.add(Noted(ledger.journal.append(poison), poison))
    before = ledger.settler._position
    await settle(ledger)
    assert ledger.settler.rejected == 1
    await pool.execute("UPDATE journal_progress SET open_from = 0, position = $1", before)
    ledger.owners.claim(response(key, "resp_5"), NOW_US)
    await settle(ledger)
    assert await pool.fetchval("SELECT count(*) FROM owners") == 6
    assert await pool.fetchval("SELECT count(*) FROM usage_events") == 5
    (kept,) = await pool.fetch("SELECT account_id, amount_nanos, error FROM settle_rejected")
    assert (kept["account_id"], kept["amount_nanos"], kept["error"][:10]) == (key.account_id, 0, "NOT BOOKED")
    await ledger.stop()


async def test_memory_is_bounded(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What PostgreSQL has may be forgotten; what it has not may not."""
    monkeypatch.setattr(module, "KNOWN_KEPT", 2)
    monkeypatch.setattr(module, "UNKNOWN_KEPT", 2)
    ledger = await started(pool, tmp_path)
    for number in range(4):
        ledger.owners.claim(response(key, f"resp_{number}"), NOW_US)
    assert len(ledger.owners._claimed) == 4
    await settle(ledger)
    assert [len(ledger.owners._claimed), len(ledger.owners._known)] == [0, 2]
    for number in range(4):
        assert await find(ledger, key, f"resp_{number}") == response(key, f"resp_{number}")
        assert await find(ledger, key, f"foreign_{number}") is None
    assert [len(ledger.owners._known), len(ledger.owners._unknown)] == [2, 2]
    await ledger.stop()


# ── floods ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_ten_thousand_foreign_ids_cost_a_few_statements(
    pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path
) -> None:
    """Whatever is asked together is one statement; all are told no."""
    victim, ledger = await customer(pool, 0), await started(pool, tmp_path)
    for number in range(1000):
        ledger.owners.claim(response(victim, f"resp_{number}"), NOW_US)
    await settle(ledger)
    store = counted(ledger)
    for begin in range(0, 10_000, module.MOST_WANTED_OF_ACCOUNT):
        probes = range(begin, begin + module.MOST_WANTED_OF_ACCOUNT)
        found = await asyncio.gather(*(find(ledger, key, f"resp_{number}") for number in probes))
        assert set(found) == {None}
    assert store.calls["find_owners"] <= 2 * 10_000 // module.MOST_WANTED_OF_ACCOUNT
    assert await find(ledger, victim, "resp_7") == response(victim, "resp_7")
    await ledger.stop()


async def test_a_flood_keeps_nobody_else_out(pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path) -> None:
    """Ten thousand at once: so many of an account wait, the rest are told "later"; statements come one at a time."""
    victim, other = await customer(pool, 0), await started(pool, tmp_path / "2")
    ledger = await started(pool, tmp_path / "1")
    other.owners.claim(response(victim, "resp_1"), NOW_US)
    await settle(other)
    open_now, most, rows, go_on = 0, 0, ledger.owners._rows, asyncio.Event()

    class Slow(OwnerRows):
        async def find_owners(self, *arguments: Any) -> Any:
            nonlocal open_now, most
            open_now += 1
            most = max(most, open_now)
            await go_on.wait()
            open_now -= 1
            return await rows.find_owners(*arguments)

    ledger.owners._rows = Slow(pool)
    probes = [asyncio.create_task(find(ledger, key, f"foreign_{number}")) for number in range(10_000)]
    mine = asyncio.create_task(find(ledger, victim, "resp_1"))
    await until_settled(probes, 10_000 - module.MOST_WANTED_OF_ACCOUNT)
    go_on.set()
    answers = await asyncio.gather(*probes, return_exceptions=True)
    assert sum(answer is None for answer in answers) == module.MOST_WANTED_OF_ACCOUNT
    assert all(answer is None or isinstance(answer, StoreUnavailable) for answer in answers)
    assert await mine == response(victim, "resp_1")
    assert most == 1
    assert not ledger.owners._wanted
    assert not ledger.owners._wanted_of
    await ledger.stop()
    await other.stop()


async def until_settled(tasks: Sequence["asyncio.Task[Any]"], count: int) -> None:
    while sum(task.done() for task in tasks) < count:
        await asyncio.sleep(0)


async def test_a_stop_ends_what_is_being_looked_up(pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path) -> None:
    """Nobody waits for an answer that does not come."""
    here, other = await started(pool, tmp_path / "1"), await started(pool, tmp_path / "2")
    here.owners._patience_us = 60_000_000
    finding = asyncio.create_task(find(here, key, "resp_1"))
    await asyncio.sleep(0)
    await here.stop()
    assert finding.done(), "also where its question had not been sent yet"
    with suppress(asyncio.CancelledError), pytest.raises(StoreUnavailable):
        await finding
    await other.stop()


async def test_a_batch_of_owners_replayed_changes_nothing(pool: asyncpg.Pool, key: KeyEntry, tmp_path: Path) -> None:
    """The first claim stands; a claim and its end in one batch come to the end, whatever their order."""
    ledger = await started(pool, tmp_path)
    for name in ("resp_1", "resp_2", "resp_1"):
        ledger.owners.claim(response(key, name), NOW_US)
    ledger.owners.forget(response(key, "resp_2"), NOW_US + 5)
    ledger.owners.forget(response(key, "never"), NOW_US + 6)
    batch = ledger.settler._batch(list(ledger.settler._queue._front))
    await settle(ledger)
    before = await pool.fetch("SELECT * FROM owners ORDER BY id")
    assert [(row["id"], row["forgotten_at"] is None) for row in before] == [
        ("never", False), ("resp_1", True), ("resp_2", False),
    ]  # fmt: skip
    await pool.execute("UPDATE journal_progress SET open_from = 0, position = $1", batch.start)
    await Settlement(pool).book(batch)
    assert await pool.fetch("SELECT * FROM owners ORDER BY id") == before
    await ledger.stop()
