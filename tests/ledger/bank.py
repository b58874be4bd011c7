"""A worker's ledger as `service` composes it, on a real database, without the proxy around it."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import asyncpg

from meterproxy.core.bound import Bound
from meterproxy.core.hold import HoldRequest
from meterproxy.core.identifier import uuid7
from meterproxy.core.key import KeyEntry, digest_of
from meterproxy.core.record import Ending
from meterproxy.core.usage import Outcome, Usage, UsageSource
from meterproxy.ledger.worker import WorkerLedger
from meterproxy.store.accounts import Accounts
from meterproxy.store.durable import DurableRows
from meterproxy.store.found_keys import find_key
from meterproxy.store.keys import Keys
from meterproxy.store.limits import read_accounts, set_exposure
from meterproxy.store.owners import OwnerRows
from meterproxy.store.pool import open_pool
from meterproxy.store.sessions import Sessions
from meterproxy.store.settle import Settlement
from tests.ledger.prices import NANOS_PER_TOKEN as NANOS_PER_TOKEN  # noqa: PLC0414  for who uses both
from tests.ledger.prices import PRICE as PRICE  # noqa: PLC0414


@asynccontextmanager
async def pool_of(dsn: str) -> AsyncIterator[asyncpg.Pool]:
    pool = await open_pool(dsn)
    try:
        yield pool
    finally:
        await pool.close()


async def customer(pool: asyncpg.Pool, credit_nanos: int) -> KeyEntry:
    """An account with credit and a key."""
    account = await Accounts(pool, "test").create("Acme")
    if credit_nanos:
        await Accounts(pool, "test").credit(account.id, credit_nanos, "grant")
    key = await Keys(pool, "test").create(account.id, "test")
    async with pool.acquire() as connection:
        found = await find_key(connection, digest_of(key.secret.encode()))
        assert found is not None
        entry = found.entry(found.new_account())
        state = (await read_accounts(connection, (account.id,)))[account.id]
    entry.account.change(state.limits, frozen=state.frozen)
    return entry


async def exposed(pool: asyncpg.Pool, key: KeyEntry, nanos: int) -> KeyEntry:
    """Let the account of a key leave so much unheld."""
    await set_exposure(pool, nanos)
    async with pool.acquire() as connection:
        state = (await read_accounts(connection, (key.account_id,)))[key.account_id]
    key.account.change(state.limits, frozen=state.frozen)
    return key


def ledger_of(pool: asyncpg.Pool, directory: Path, **settings: object) -> WorkerLedger:
    values = {
        "wait_ms": 200,
        "segment_bytes": 4 << 20,
        "owner_rows": OwnerRows(pool),
        "durable_rows": DurableRows(pool),
        **settings,
    }
    return WorkerLedger(Sessions(pool), Settlement(pool), directory, **values)  # type: ignore[arg-type]


def hold_request(ledger: WorkerLedger, key: KeyEntry, hold_nanos: int, **members: object) -> HoldRequest:
    now = ledger.clock.now_us()
    values = {
        "request_id": uuid7(now, os.urandom(10)),
        "occurred_us": now,
        "key": key,
        "operation": "chat",
        "provider": "test",
        "model": "test-model",
        "price": PRICE,
        "markup_ppm": 1_000_000,
        "bound": Bound(input_tokens=hold_nanos // NANOS_PER_TOKEN, output_tokens=0),
        "hold_nanos": hold_nanos,
        "stream": False,
        **members,
    }
    return HoldRequest(**values)  # type: ignore[arg-type]


def completed(tokens: int, **members: object) -> Ending:
    values = {
        "outcome": Outcome.COMPLETED,
        "status": 200,
        "usage_source": UsageSource.PROVIDER,
        "usage": Usage(input=tokens),
        **members,
    }
    return Ending(**values)  # type: ignore[arg-type]


REFUSED = Ending(Outcome.PROVIDER_ERROR, 400, UsageSource.PROVIDER, Usage())


async def balance(pool: asyncpg.Pool, account_id: UUID) -> int:
    return (await Accounts(pool).read(account_id)).balance_nanos
