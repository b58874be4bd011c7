"""The whole service on a database of the operator's: shared by two hosts, and behind a pooler."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from meterproxy.runtime.child import Spawned
from meterproxy.runtime.embedded import EmbeddedPostgres
from meterproxy.runtime.unprivileged import other_user
from tests.service.load import Load, check_books, check_closed, customer
from tests.service.running import Service, free_port, service, until
from tests.tools import required

SMALL_CREDIT_NANOS = 4_000_000
"""What some hundred requests cost, each holding many times of what it costs in the end."""


@asynccontextmanager
async def _two_hosts(directory: Path, database: str) -> AsyncIterator[tuple[Service, Service]]:
    async with AsyncExitStack() as stack:
        hosts = []
        for name in ("one", "two"):
            (directory / name).mkdir()
            environment = {"METERPROXY_DATABASE_URL": database}
            hosts.append(await stack.enter_async_context(service(directory / name, environment=environment)))
        yield hosts[0], hosts[1]


async def test_two_hosts_together_never_spend_more_than_an_account_has(
    reachable_dir: Path, own_postgres: EmbeddedPostgres, record_testsuite_property: Callable[[str, object], None]
) -> None:
    """To the last token under load on both; a grant by command line is heard by both at once."""
    async with _two_hosts(reachable_dir, own_postgres.dsn) as hosts:
        who = await customer(hosts[0], SMALL_CREDIT_NANOS)
        loads = [Load(host, [who], seed) for seed, host in enumerate(hosts)]
        async with loads[0].running(4), loads[1].running(4):
            await until(lambda: all(load.spent for load in loads), "the end of the credit on both hosts")
            for host in hosts:
                assert await host.balance_nanos(who.account_id) >= 0
            assert sum(answer.amount_nanos for load in loads for answer in load.whole) <= SMALL_CREDIT_NANOS
            done = await asyncio.to_thread(
                hosts[0].command, "credit", "grant", "--account", who.account_id, "--amount", "1.00"
            )
            granted_at = asyncio.get_running_loop().time()
            assert done.returncode == 0, done.stderr
            progress = [load.more(3) for load in loads]
            await until(lambda: all(more() for more in progress), "answers after the grant")
        record_testsuite_property("grant_heard_seconds", round(asyncio.get_running_loop().time() - granted_at, 2))
        whole = [answer for load in loads for answer in load.whole]
        await hosts[1].balance_nanos(who.account_id)
        richer = who._replace(credit_nanos=who.credit_nanos + 10**9)
        endings = await check_books(hosts[0], [richer], whole)
        assert endings == {"captured": len(whole)}
        assert {refused.status for load in loads for refused in load.refused} == {429}
        assert sum(load.broken.total() for load in loads) == 0
        for host in hosts:
            assert await host.stop() == 0
        await check_closed(hosts[0])


@asynccontextmanager
async def _pooler(directory: Path, database: str) -> AsyncIterator[str]:
    """The URL of a pgbouncer in transaction mode before this database."""
    program = required("pgbouncer")
    dsn = urlsplit(database)
    place = parse_qs(dsn.query)
    port = free_port()
    settings = directory / "pgbouncer.ini"
    settings.write_text(
        f"""
[databases]
* = host={place["host"][0]} port={place["port"][0]} user={dsn.username} password={unquote(dsn.password or "")}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 4
logfile = {directory}/pgbouncer.log
"""
    )
    user = other_user()
    if user is not None:
        for path in (directory, settings):
            os.chown(path, user.uid, user.gid)
    pooler = Spawned((program, "-q", str(settings)), run_as=user, directory=directory)
    try:
        yield f"postgresql://anybody@127.0.0.1:{port}{dsn.path}"
    finally:
        pooler.send(signal.SIGKILL)
        await pooler.ended()


async def test_a_pooler_in_transaction_mode_may_stand_before_the_database(
    reachable_dir: Path, own_postgres: EmbeddedPostgres
) -> None:
    """Everything but migrations goes through pgbouncer, which gives each transaction another connection."""
    (reachable_dir / "host").mkdir()
    (reachable_dir / "pooler").mkdir()
    async with _pooler(reachable_dir / "pooler", own_postgres.dsn) as pooled:
        environment = {"METERPROXY_DATABASE_URL": pooled, "METERPROXY_DATABASE_DIRECT_URL": own_postgres.dsn}
        async with service(reachable_dir / "host", environment=environment) as host:
            customers = [await customer(host) for _ in range(3)]
            async with Load(host, customers).running(6) as load:
                await until(load.more(150), "answers")
            endings = await check_books(host, customers, load.whole)
            assert endings == {"captured": len(load.whole)}
            assert not load.refused
            await host.audit()
            assert await host.stop() == 0
            await check_closed(host)
