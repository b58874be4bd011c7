"""How much memory keys take: `python -m bench.keys [--keys 100000] [--active 10000] [--accounts 1000] [--limits]`.

Makes so many keys of so many accounts, lets every one of them list models once (so that the worker knows it) and the
active ones be answered, and reads the worker's resident memory before and after.
"""

import argparse
import asyncio
import secrets
import sys
from pathlib import Path
from typing import Final
from uuid import UUID

import aiohttp
import asyncpg

from bench.processes import tree
from meterproxy.core.key import digest_of
from meterproxy.core.limit import Measure
from meterproxy.core.limit_terms import LimitTerms
from meterproxy.core.window import WindowKind
from meterproxy.store.accounts import Accounts
from meterproxy.store.ids import new_id
from meterproxy.store.pool import open_pool
from tests.postgres import reachable_directory
from tests.service.running import Service, service

AT_ONCE: Final = 64
GOAL_BYTES: Final = 120 << 20
GOAL_BYTES_A_KEY: Final = 1000
CREDIT_NANOS: Final = 10**9
LIMITS: Final = (
    LimitTerms(measure=Measure.REQUESTS, window=WindowKind.MINUTE, cap=10**6),
    LimitTerms(measure=Measure.TOKENS, window=WindowKind.MINUTE, cap=10**9),
    LimitTerms(measure=Measure.AMOUNT, window=WindowKind.MONTH, cap=10**12),
)
BODY: Final = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Say it."}], "max_tokens": 5}


async def make_keys(pool: asyncpg.Pool, accounts: int, keys: int, *, limits: bool) -> list[str]:
    """The secrets of so many keys, of all accounts in turn."""
    made = Accounts(pool, "bench", LIMITS if limits else ())
    owners: list[tuple[UUID, UUID]] = []
    for number in range(accounts):
        account = await made.create(f"Account {number}")
        await made.credit(account.id, CREDIT_NANOS, "grant")
        user = await pool.fetchval("SELECT id FROM users WHERE organization_id = $1", account.organization_id)
        owners.append((account.id, user))
    told = [f"mp-{secrets.token_hex(24)}" for _ in range(keys)]
    rows = []
    for number, secret in enumerate(told):
        account_id, user_id = owners[number % accounts]
        key_id = new_id()
        rows.append((key_id, key_id, account_id, user_id, f"key {number}", secret[:11], digest_of(secret.encode())))
    await pool.copy_records_to_table(
        "keys", records=rows, columns="id origin_id account_id user_id name prefix digest".split()
    )
    return told


async def ask_all(running: Service, told: list[str], active: int) -> None:
    """Every key once: the first of them to be answered, the others to list models."""
    waiting = iter(enumerate(told))

    async def client(session: aiohttp.ClientSession) -> None:
        for number, secret in waiting:
            headers = {"Authorization": f"Bearer {secret}"}
            if number < active:
                asked = session.post(f"{running.base_url}/chat/completions", json=BODY, headers=headers)
            else:
                asked = session.get(f"{running.base_url}/models/gpt-4o-mini", headers=headers)
            async with asked as answer:
                await answer.read()
                assert answer.status == 200, await answer.text()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(client(session) for _ in range(AT_ONCE)))


def _resident_bytes(worker: int) -> int:
    return next(process.rss_bytes for process in tree(worker) if process.pid == worker)


async def run(options: argparse.Namespace, directory: Path) -> bool:
    async with service(directory) as running:
        pool = await open_pool(running.dsn(), pooled=False, size=2)
        try:
            told = await make_keys(pool, options.accounts, options.keys, limits=options.limits)
        finally:
            await pool.close()
        account, secret = await running.customer("1.00")
        await ask_all(running, [secret] * 2000, 2000)
        await running.balance_nanos(account)
        worker = running.worker()
        before = _resident_bytes(worker)
        await ask_all(running, told, options.active)
        await running.balance_nanos(account)
        after = _resident_bytes(worker)
        await running.audit()
    allowed = GOAL_BYTES + options.keys * GOAL_BYTES_A_KEY
    print("\n| what | figure |\n|---|---|")
    print(f"| keys, of which active, accounts | {options.keys}, {options.active}, {options.accounts} |")
    print(f"| limits of each account | {len(LIMITS) if options.limits else 0} |")
    print(f"| resident before, after | {before / 2**20:.0f}, {after / 2**20:.0f} MiB |")
    print(f"| more per key | {(after - before) / options.keys:.0f} bytes |")
    print(f"| allowed | {allowed / 2**20:.0f} MiB |")
    return after <= allowed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.keys", description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--active", type=int, default=10_000)
    parser.add_argument("--accounts", type=int, default=1000)
    parser.add_argument("--limits", action="store_true", help="three limits on each account")
    with reachable_directory() as directory:
        return 0 if asyncio.run(run(parser.parse_args(), directory)) else 1


if __name__ == "__main__":
    sys.exit(main())
