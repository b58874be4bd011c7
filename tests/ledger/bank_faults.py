"""Faults for the bank: stores whose answers get lost, a PostgreSQL that is away, and one that lost its last hours."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import asyncpg

from meterproxy.errors import StoreUnavailable

MONEY_TABLES = (
    "ledger_entries usage_events settle_rejected usage_by_hour usage_by_day latency_by_hour tools_by_day tags_by_day "
    "conversations leases limit_windows accounts journal_progress prices owners "
    "durable_holds durable_draws"
).split()


class Faulty:
    """Any store, with what goes wrong at its calls: `lost` answers come after the work was done, `away` before it."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.lost: set[str] = set()
        self.away = False
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        async def call(*arguments: Any) -> Any:
            self.calls[name] += 1
            if self.away:
                raise StoreUnavailable("away")
            answer = await method(*arguments)
            if name in self.lost:
                self.lost.remove(name)
                raise StoreUnavailable(f"the answer to {name} got lost")
            return answer

        return call


class Snapshot:
    """The books at one instant, to be put back as a failover to a standby that lagged behind would."""

    def __init__(self, rows: dict[str, list[asyncpg.Record]]) -> None:
        self._rows = rows

    @classmethod
    async def of(cls, pool: asyncpg.Pool, tables: Sequence[str] = MONEY_TABLES) -> "Snapshot":
        async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read"):
            return cls({table: await connection.fetch(f"SELECT * FROM {table}") for table in tables})

    async def put_back(self, pool: asyncpg.Pool) -> None:
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("SET LOCAL session_replication_role = replica")
            await connection.execute(f"LOCK TABLE worker_sessions, {', '.join(self._rows)} IN ACCESS EXCLUSIVE MODE")
            for table, rows in self._rows.items():
                await connection.execute(f"DELETE FROM {table}")
                if rows:
                    await connection.copy_records_to_table(
                        table, records=[tuple(r) for r in rows], columns=[*rows[0].keys()]
                    )
