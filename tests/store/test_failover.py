"""A real standby that lags behind is promoted: what it never had is presented and sent again, and lent to nobody twice."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.clusters import Node, nodes
from meterproxy.errors import ApiError
from meterproxy.store.audit import audit
from meterproxy.store.migrate import migrate
from tests.ledger.bank import balance, completed, customer, hold_request, ledger_of, pool_of

CREDIT = 1_000_000


@pytest.fixture
def servers(reachable_dir: Path) -> Iterator[list[Node]]:
    with nodes(reachable_dir, "primary", "standby") as made:
        yield made


async def test_a_lagging_standby_lends_nothing_twice_and_learns_what_it_missed(
    servers: list[Node], tmp_path: Path
) -> None:
    """Confirmed rows, leases and a whole session are gone with the primary; the URL names both servers."""
    primary, standby = servers
    primary.make()
    await primary.start(fsync="off")
    await primary.ask("CREATE DATABASE meterproxy", database="postgres")
    await migrate(primary.dsn())
    standby.follow(primary)
    await standby.start(fsync="off")
    both = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
    async with pool_of(f"postgresql://meterproxy@{both}/meterproxy?target_session_attrs=read-write") as pool:
        key = await customer(pool, CREDIT)
        one = ledger_of(pool, tmp_path / "1", wait_ms=0)
        await one.start()
        await _cut_off(primary, standby)
        two = ledger_of(pool, tmp_path / "2", wait_ms=0)
        await two.start()
        held = await one.holds.place(hold_request(one, key, 600_000))
        two.holds.capture(await two.holds.place(hold_request(two, key, 100_000)), completed(100))
        await two.settler.drain()
        assert await balance(pool, key.account_id) == CREDIT - 100_000

        primary.kill()
        await standby.promote()
        assert await balance(pool, key.account_id) == CREDIT, "the standby knows nothing of it"
        with pytest.raises(ApiError):
            await two.holds.place(hold_request(two, key, 900_000))
        for ledger in (one, two):
            await ledger.look()
            await ledger.settler.drain()
        assert one.session.life == two.session.life
        assert await balance(pool, key.account_id) == CREDIT - 100_000
        assert await pool.fetchval("SELECT array_agg(DISTINCT state) FROM worker_sessions") == ["live"]
        await pool.execute("UPDATE fleet_state SET paused_until = now()")
        with pytest.raises(ApiError):
            await two.holds.place(hold_request(two, key, 900_000))
        one.holds.capture(held, completed(600))
        await one.stop()
        await two.stop()
        window = await pool.fetchrow("SELECT drawn, late, overrun FROM limit_windows")
        assert tuple(window) == (700_000, 0, 0)
        assert [result for result in await audit(pool) if not result.ok] == []


async def _cut_off(primary: Node, standby: Node) -> None:
    """From here on the standby learns nothing any more, once it has learned everything so far."""
    (written,) = await primary.ask("SELECT pg_current_wal_lsn()::text AS at")
    while not (await standby.ask(f"SELECT pg_last_wal_replay_lsn() >= '{written['at']}' AS there"))[0]["there"]:
        pass
    await standby.ask("ALTER SYSTEM SET primary_conninfo = ''")
    await standby.ask("SELECT pg_reload_conf()")
    while await primary.ask("SELECT 1 FROM pg_stat_replication"):
        pass
