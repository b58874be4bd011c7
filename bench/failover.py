"""Take PostgreSQL away under load, or have a standby take over: `python -m bench.failover --mode asynchronous`.

Two hosts serve the same customers from one PostgreSQL, reached by a URL with both servers in it. Modes:

`outage`        the server is killed and comes back after `--seconds`;
`synchronous`   it is killed for good, and its standby, which has everything that was confirmed, is promoted;
`asynchronous`  the same with a standby that has long been lagging: confirmed rows and leases are really gone.

In between, what was lent goes on being spent until trust runs out; then clients are told to come again. At the end each
whole answer must have its row and deduction, nobody may have been lent more than there was, and audit must be clean.
"""

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from bench.clusters import STANDBY, Node, nodes
from bench.reckoning import during, reckon, settled, show
from meterproxy.core.money import NANOS_PER_USD
from tests.postgres import reachable_directory
from tests.service.load import Customer, Load, customer
from tests.service.running import Service, service, until

MODES: Final = ("outage", "synchronous", "asynchronous")
RICH: Final = 4
POOR: Final = 2
POOR_NANOS: Final = NANOS_PER_USD // 250
"""So little that it is spent in the course of the campaign: whoever is lent the same money twice would show."""
BEFORE_SECONDS: Final = 5.0
LAG_SECONDS: Final = 5.0
AFTER_SECONDS: Final = 8.0


@asynccontextmanager
async def hosts(directory: Path, dsn: str, count: int, ttl_seconds: float) -> AsyncIterator[list[Service]]:
    """Services on directories of their own that share a database."""
    async with AsyncExitStack() as stack:
        running = []
        for number in range(count):
            place = directory / f"host-{number}"
            place.mkdir(mode=0o711)
            environment = {
                "METERPROXY_DATABASE_URL": dsn,
                "METERPROXY_LEASE__TTL_SECONDS": str(ttl_seconds),
                "METERPROXY_JOURNAL__SEGMENT_BYTES": "4MiB",
            }
            running.append(await stack.enter_async_context(service(place, environment=environment)))
        yield running


async def take_away(mode: str, primary: Node, standby: Node, loads: Sequence[Load], options: argparse.Namespace) -> Any:
    """Let it fail, and come back; answers what was seen meanwhile."""
    facts: dict[str, Any] = {}
    if mode == "asynchronous":
        await standby.ask("ALTER SYSTEM SET primary_conninfo = ''")
        await standby.ask("SELECT pg_reload_conf()")
        await during(loads, LAG_SECONDS)
    confirmed = await _rows(primary)
    primary.kill()
    began = time.monotonic()
    inside, _ = await during(loads, min(1.0, options.seconds))
    later, refused = await during(loads, max(options.seconds - 1.0, 0.0))
    facts["answers within the first second without PostgreSQL"] = inside
    facts["answers and refusals in the rest of the time"] = f"{later} and {refused}"
    if mode == "outage":
        await primary.start()
    else:
        left = await _rows(standby)
        facts["rows confirmed that the standby never had"] = len(confirmed - left)
        await standby.promote()
    back = time.monotonic()
    await until(loads[0].more(10), "answers after it")
    await until(loads[-1].more(10), "answers after it")
    facts["away for"] = f"{back - began:.1f} s"
    facts["ten more answers on every host after"] = f"{time.monotonic() - back:.1f} s"
    return facts


async def _rows(node: Node) -> set[str]:
    return {row["id"] for row in await node.ask("SELECT id::text FROM usage_events")}


async def campaign(mode: str, options: argparse.Namespace, directory: Path) -> bool:
    with nodes(directory, "primary", "standby") as (primary, standby):
        primary.make()
        await primary.start()
        await primary.ask("CREATE DATABASE meterproxy", database="postgres")
        if mode != "outage":
            standby.follow(primary)
            await standby.start()
        if mode == "synchronous":
            await primary.ask(f"ALTER SYSTEM SET synchronous_standby_names = '{STANDBY}'")
            await primary.ask("SELECT pg_reload_conf()")
        both = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
        dsn = f"postgresql://meterproxy@{both}/meterproxy?target_session_attrs=read-write"
        async with hosts(directory, dsn, 2, options.ttl) as services:
            return await _under_load(mode, options, services, primary, standby)


async def _under_load(
    mode: str, options: argparse.Namespace, services: list[Service], primary: Node, standby: Node
) -> bool:
    customers = [await customer(services[0]) for _ in range(RICH)]
    customers += [await customer(services[0], POOR_NANOS) for _ in range(POOR)]
    loads = [Load(running, customers, seed) for seed, running in enumerate(services)]
    async with contextlib.AsyncExitStack() as stack:
        for load in loads:
            await stack.enter_async_context(load.running(options.clients))
        await during(loads, BEFORE_SECONDS)
        facts = await take_away(mode, primary, standby, loads, options)
        await during(loads, options.ttl + AFTER_SECONDS)
    await settled(services, customers)
    told = await reckon(services[0], customers, loads)
    facts |= await _lives(services[0])
    facts["credit left of customers who spent theirs"] = await _poor_rest(services[0], customers)
    return show(
        f"PostgreSQL {TITLES[mode]}, 2 hosts, {options.clients} clients each, ttl {options.ttl:g} s", facts, told
    )


TITLES: Final = {
    "outage": "away and back",
    "synchronous": "killed, synchronous standby promoted",
    "asynchronous": "killed, lagging standby promoted",
}


async def _lives(running: Service) -> dict[str, Any]:
    (row,) = await running.rows("SELECT count(*) AS lives FROM audit_log WHERE action = 'database.new_life'")
    return {"new lives of the database": row["lives"]}


async def _poor_rest(running: Service, customers: Sequence[Customer]) -> str:
    rests = [await running.balance_nanos(who.account_id) for who in customers if who.credit_nanos == POOR_NANOS]
    return f"{', '.join(map(str, rests))} nanodollars of {POOR_NANOS}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.failover", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mode", choices=(*MODES, "all"), default="all")
    parser.add_argument("--seconds", type=float, default=15.0, help="how long PostgreSQL is away (default 15)")
    parser.add_argument("--ttl", type=float, default=6.0, help="lease.ttl_seconds (default 6)")
    parser.add_argument("--clients", type=int, default=4, help="clients of each host (default 4)")
    options = parser.parse_args()
    right = True
    for mode in MODES if options.mode == "all" else (options.mode,):
        with reachable_directory() as directory:
            right = asyncio.run(campaign(mode, options, directory)) and right
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
