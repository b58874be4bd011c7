"""Lost sessions: found only by who may say so, their money kept until somebody proves or abandons them."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from meterproxy.core.key import KeyEntry
from meterproxy.core.lending import Borrow
from meterproxy.errors import ApiError, LendingPaused, SessionOver
from meterproxy.ledger.bring import Brought, bring
from meterproxy.ledger.journal import Journal
from meterproxy.ledger.recover import OpenHoldPolicy
from meterproxy.ledger.worker import WorkerLedger
from meterproxy.store.audit import audit
from meterproxy.store.lost import LostSessions, NotLost
from meterproxy.store.sessions import Sessions
from meterproxy.store.settle import Settlement
from meterproxy.store.upkeep import fold_leases
from tests.ledger.bank import balance, completed, customer, hold_request, ledger_of, pool_of
from tests.ledger.test_journal import kill

SHORT = 0.01
"""A ttl for which any PostgreSQL has been up."""
LONGEST = 3600.0
CREDIT = 10_000_000


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with pool_of(database) as opened:
        yield opened


async def unheard(pool: asyncpg.Pool, seconds: float = 60.0) -> None:
    """The trust of every session ran out so long ago."""
    await pool.execute("UPDATE worker_sessions SET expires_at = now() - make_interval(secs => $1)", seconds)


async def state(pool: asyncpg.Pool, ledger: WorkerLedger) -> str:
    return str(await pool.fetchval("SELECT state FROM worker_sessions WHERE id = $1", ledger.session.session_id))


async def drawn(pool: asyncpg.Pool) -> int:
    return int(await pool.fetchval("SELECT drawn FROM limit_windows"))


async def audited(pool: asyncpg.Pool) -> None:
    assert [result for result in await audit(pool) if not result.ok] == []


async def lost_host(pool: asyncpg.Pool, directory: Path) -> tuple[WorkerLedger, KeyEntry]:
    """A worker that was killed for good: one exchange of 7 tokens unsettled, one hold open of which 50 are sure."""
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, directory)
    await ledger.start()
    ledger.holds.capture(await ledger.holds.place(hold_request(ledger, key, 500_000)), completed(7))
    await ledger.holds.place(hold_request(ledger, key, 200_000, input_estimate=50))
    kill(ledger.journal)
    await unheard(pool)
    assert len(await LostSessions(pool).sweep(SHORT, LONGEST)) == 1
    return ledger, key


async def brought(pool: asyncpg.Pool, directory: Path) -> Brought:
    journal = Journal(directory)
    try:
        return await bring(journal, Sessions(pool), Settlement(pool), OpenHoldPolicy.CHARGE_DELIVERED)
    finally:
        journal.close()


async def test_what_a_lost_worker_was_lent_is_shown_and_lent_to_nobody(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """The money stays out of the pot: who needs all of the account is refused, who needs the rest is not."""
    lost, key = await lost_host(pool, tmp_path / "lost")
    (shown,) = await LostSessions(pool).list()
    assert (shown.state, shown.session_id, shown.trusted) == ("lost", lost.session.session_id, False)
    total = await LostSessions(pool).total()
    assert (total.sessions, total.nanos) == (1, shown.credit_nanos)
    assert shown.credit_nanos == await drawn(pool) >= 700_000
    other = ledger_of(pool, tmp_path / "other", wait_ms=0)
    await other.start()
    await other.holds.place(hold_request(other, key, CREDIT - shown.credit_nanos))
    with pytest.raises(ApiError, match="hold the rest"):
        await other.holds.place(hold_request(other, key, 1))
    assert await pool.fetchval("SELECT action FROM audit_log ORDER BY id DESC LIMIT 1") == "session.lost"
    other.journal.close()


async def test_nobody_is_lost_who_may_just_not_have_come_back(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """Not while the database itself was away within the last ttl, nor in its new life, nor before a ttl is over."""
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    assert not await LostSessions(pool).sweep(SHORT, LONGEST), "it is trusted"
    await unheard(pool, 0.0)
    assert not await LostSessions(pool).sweep(30.0, LONGEST), "it has not been silent for a ttl"
    await unheard(pool, 1e9)
    assert not await LostSessions(pool).sweep(1e8, LONGEST), "the database is not up for a ttl"
    await Sessions(pool).meet(ledger.session.life, 1e6)
    assert not await LostSessions(pool).sweep(SHORT, LONGEST), "the database has just begun a new life"
    assert await state(pool, ledger) == "live"
    ledger.journal.close()


async def test_a_lost_worker_that_was_only_cut_off_lives_on(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """Its money was kept for it, so its next renewal brings it back with all that runs there."""
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    hold = await ledger.holds.place(hold_request(ledger, key, 500_000))
    await unheard(pool)
    await LostSessions(pool).sweep(SHORT, LONGEST)
    assert await state(pool, ledger) == "lost"
    await ledger.session.renew()
    assert await state(pool, ledger) == "live"
    ledger.holds.capture(hold, completed(7))
    await ledger.stop()
    assert (await balance(pool, key.account_id), await drawn(pool)) == (CREDIT - 7_000, 7_000)
    await audited(pool)


async def test_rate_limits_come_back_by_themselves_and_money_does_not(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """After a ttl and the longest exchange nothing runs any more that a rate was lent for; then the session is over."""
    lost, key = await lost_host(pool, tmp_path)
    limit_id = uuid4()
    await pool.execute(
        "INSERT INTO limits (id, account_id, kind, scope, scope_id, measure, window_kind, cap) "
        "VALUES ($1, $2, 'rate', 'account', $2, 'requests', 'minute', 100)",
        limit_id, key.account_id,
    )  # fmt: skip
    await pool.execute(
        "INSERT INTO limit_windows (account_id, limit_id, window_start, cap, drawn) VALUES ($1, $2, now(), 100, 40)",
        key.account_id, limit_id,
    )  # fmt: skip
    await pool.execute(
        "INSERT INTO leases (account_id, limit_id, window_start, session_id, granted, consumed, last_borrow_id, "
        "last_granted) SELECT account_id, limit_id, window_start, $1, 40, 15, $1, 0 FROM limit_windows "
        "WHERE limit_id = $2",
        lost.session.session_id, limit_id,
    )  # fmt: skip
    money = "SELECT drawn FROM limit_windows WHERE limit_id = $1"
    before = await pool.fetchval(money, key.credit.limit_id)
    await LostSessions(pool).sweep(SHORT, LONGEST)
    assert await pool.fetchval(money, limit_id) == 40
    await unheard(pool, LONGEST + 1)
    await LostSessions(pool).sweep(SHORT, LONGEST)
    assert await pool.fetchval(money, limit_id) == 15
    assert await pool.fetchval(money, key.credit.limit_id) == before
    with pytest.raises(SessionOver):
        await lost.session.renew()
    await audited(pool)


async def test_what_is_given_up_returns_and_a_journal_that_turns_up_is_booked_late(
    pool: asyncpg.Pool, tmp_path: Path
) -> None:
    """Somebody else may spend what was abandoned; the journal is booked once all the same, and says that it is late.

    Nor does it matter that the lease it draws from is no row any more.
    """
    lost, key = await lost_host(pool, tmp_path / "lost")
    (given_up,) = await LostSessions(pool, "somebody").abandon(lost.session.session_id)
    assert given_up.returned > 0
    assert await drawn(pool) == 0
    assert await pool.fetchval("SELECT actor FROM audit_log ORDER BY id DESC LIMIT 1") == "somebody"
    with pytest.raises(SessionOver):
        await lost.session.renew()
    other = ledger_of(pool, tmp_path / "other", wait_ms=0)
    await other.start()
    hold = await other.holds.place(hold_request(other, key, CREDIT))
    assert await fold_leases(pool, after_seconds=0) == 1
    for _ in range(2):
        done = await brought(pool, tmp_path / "lost")
    assert (done.records, done.open_holds, done.proved, done.abandoned) == (0, 0, 0, 1)
    assert await pool.fetchval("SELECT late FROM limit_windows") == 57_000
    assert [row["flags"] for row in await pool.fetch("SELECT flags FROM usage_events")] == [["late"], ["late"]]
    other.holds.capture(hold, completed(CREDIT // 1000))
    await other.stop()
    assert await balance(pool, key.account_id) == -57_000
    assert await state(pool, lost) == "abandoned"
    await audited(pool)


async def test_a_worker_that_comes_back_after_it_was_given_up_is_booked_late_too(
    pool: asyncpg.Pool, tmp_path: Path
) -> None:
    """Its host starts again on the same data directory: the same rows, the same flag."""
    _, key = await lost_host(pool, tmp_path)
    lost = LostSessions(pool)
    await lost.abandon((await lost.list())[0].journal_id)
    back = ledger_of(pool, tmp_path)
    await back.start()
    await back.stop()
    assert [row["flags"] for row in await pool.fetch("SELECT flags FROM usage_events")] == [["late"], ["late"]]
    assert await balance(pool, key.account_id) == CREDIT - 57_000
    await audited(pool)


async def test_a_journal_brought_from_another_host_is_settled_and_its_sessions_proved(
    pool: asyncpg.Pool, tmp_path: Path
) -> None:
    """Bringing a copy reads it only; the rest of the leases returns, and bringing it again changes nothing."""
    lost, key = await lost_host(pool, tmp_path / "lost")
    shutil.copytree(tmp_path / "lost", tmp_path / "copy")
    before = {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()}
    done = await brought(pool, tmp_path / "copy")
    assert (done.records, done.open_holds, done.proved, done.abandoned) == (1, 1, 1, 0)
    again = await brought(pool, tmp_path / "copy")
    assert (again.records, again.open_holds, again.proved) == (0, 0, 0)
    assert {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()} == before
    assert (await balance(pool, key.account_id), await drawn(pool)) == (CREDIT - 57_000, 57_000)
    assert await state(pool, lost) == "proved"
    await audited(pool)


async def test_what_a_journal_says_beyond_the_copy_that_was_brought_is_settled_too(
    pool: asyncpg.Pool, tmp_path: Path
) -> None:
    """The original goes on after the copy was made: what ends later is booked once, what was recovered stays so."""
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path / "original")
    await ledger.start()
    ledger.holds.capture(await ledger.holds.place(hold_request(ledger, key, 500_000)), completed(7))
    running = await ledger.holds.place(hold_request(ledger, key, 200_000, input_estimate=50))
    ledger.journal.sync_now()
    shutil.copytree(tmp_path / "original", tmp_path / "copy")
    late = await ledger.holds.place(hold_request(ledger, key, 500_000))
    ledger.holds.capture(late, completed(11))
    ledger.holds.capture(running, completed(100))
    await brought(pool, tmp_path / "copy")
    await ledger.settler.drain()
    assert not ledger.settler.queued
    kill(ledger.journal)
    back = ledger_of(pool, tmp_path / "original")
    await back.start()
    await back.stop()
    assert await balance(pool, key.account_id) == CREDIT - 7_000 - 50_000 - 11_000
    assert await pool.fetchval("SELECT count(*) FROM usage_events") == 3
    await audited(pool)


async def test_who_lives_is_not_given_up(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """Neither a worker that is trusted, nor what is not known or over."""
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    lost = LostSessions(pool)
    for id_ in (ledger.session.session_id, ledger.journal.journal_id):
        with pytest.raises(NotLost, match="lives"):
            await lost.abandon(id_)
    assert await lost.living(ledger.journal.journal_id)
    await ledger.stop()
    for id_ in (ledger.session.session_id, uuid4()):
        with pytest.raises(NotLost, match="no session"):
            await lost.abandon(id_)


async def test_nobody_is_lent_to_while_the_database_begins_a_new_life(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """For one ttl, whoever asks; of all who find something missing in a life the first ends it."""
    key = await customer(pool, CREDIT)
    one, two = ledger_of(pool, tmp_path / "1"), ledger_of(pool, tmp_path / "2")
    await one.start()
    await two.start()
    first = await Sessions(pool).meet(one.session.life, 1e6)
    assert first.paused
    assert await Sessions(pool).meet(two.session.life, 1e6) == first
    with pytest.raises(LendingPaused):
        await Sessions(pool).lend(one.session.session_id, [Borrow(uuid4(), key.credit, 1, 1)])
    await pool.execute("UPDATE fleet_state SET paused_until = now()")
    assert (await Sessions(pool).lend(one.session.session_id, [Borrow(uuid4(), key.credit, 1, 1)]))[0].granted >= 1
    for ledger in (one, two):
        ledger.journal.close()


async def test_another_cluster_or_timeline_is_another_life(pool: asyncpg.Pool, tmp_path: Path) -> None:
    """A promoted replica lends nothing before it was met, whatever its rows say; then each session presents."""
    key = await customer(pool, CREDIT)
    ledger = ledger_of(pool, tmp_path)
    await ledger.start()
    await ledger.holds.place(hold_request(ledger, key, 500_000))
    life, before = ledger.session.life, await drawn(pool)
    await pool.execute("UPDATE fleet_state SET identity = 'another/00000001'")
    with pytest.raises(LendingPaused):
        await Sessions(pool).lend(ledger.session.session_id, [Borrow(uuid4(), key.credit, 1, 1)])
    await pool.execute("DELETE FROM leases")
    await pool.execute("DELETE FROM worker_sessions")
    await pool.execute("UPDATE limit_windows SET drawn = 0")
    await ledger.look()
    assert ledger.session.life != life
    assert await drawn(pool) == before
    assert await state(pool, ledger) == "live"
    assert await pool.fetchval("SELECT identity = database_identity() FROM fleet_state")
    ledger.journal.close()


async def test_an_ordinary_user_can_tell_which_database_this_is(pool: asyncpg.Pool) -> None:
    """Cluster and timeline need no superuser, so a managed PostgreSQL will do."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("CREATE ROLE nobody_special")
        await connection.execute("SET LOCAL SESSION AUTHORIZATION nobody_special")
        assert "/" in await connection.fetchval("SELECT database_identity()")
        await connection.execute("RESET SESSION AUTHORIZATION")
        await connection.execute("DROP ROLE nobody_special")
