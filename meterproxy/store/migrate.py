"""Migrations: forward only, each once, with the checksum it had when it ran.

Rules
-----
- One process migrates at a time (a lock held by the transaction); all pending migrations are one transaction.
- A migration that has run and then changed is an error, and so is a schema newer than this release.
"""

import hashlib
from typing import Final

import asyncpg

from meterproxy.errors import MeterproxyError
from meterproxy.store.sqlfiles import migrations

_LOCK: Final = 0x6D657465725F6D69

_CREATE: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    number integer PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)"""


class SchemaError(MeterproxyError):
    """The database's schema is not one that this release can use."""


async def migrate(dsn: str) -> list[str]:
    """Bring the database at `dsn` to this release's schema; answers the names of what was applied.

    Raises:
        SchemaError: an applied migration differs from ours, or the schema is newer than this release.
    """
    connection = await asyncpg.connect(dsn, statement_cache_size=0)
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            await connection.execute("SET LOCAL client_min_messages = warning")
            await connection.execute(_CREATE)
            return await _apply_pending(connection)
    finally:
        await connection.close()


async def check_schema(connection: "asyncpg.Connection | asyncpg.pool.PoolConnectionProxy") -> None:
    """Raise SchemaError unless exactly this release's migrations have been applied."""
    exists = await connection.fetchval("SELECT to_regclass('schema_migrations') IS NOT NULL")
    applied = await _applied(connection) if exists else {}
    _compare(applied)
    missing = [name for number, name, _ in migrations() if number not in applied]
    if missing:
        raise SchemaError(f"the database lacks {', '.join(missing)}: run `meterproxy migrate`")


async def _apply_pending(connection: asyncpg.Connection) -> list[str]:
    applied = await _applied(connection)
    _compare(applied)
    pending = [migration for migration in migrations() if migration[0] not in applied]
    for number, name, sql in pending:
        await connection.execute(sql)
        await connection.execute(
            "INSERT INTO schema_migrations (number, name, checksum) VALUES ($1, $2, $3)", number, name, _checksum(sql)
        )
    return [name for _, name, _ in pending]


async def _applied(connection: "asyncpg.Connection | asyncpg.pool.PoolConnectionProxy") -> dict[int, tuple[str, str]]:
    rows = await connection.fetch("SELECT number, name, checksum FROM schema_migrations")
    return {row["number"]: (row["name"], row["checksum"]) for row in rows}


def _compare(applied: dict[int, tuple[str, str]]) -> None:
    ours = {number: (name, _checksum(sql)) for number, name, sql in migrations()}
    for number, (name, checksum) in sorted(applied.items()):
        if number not in ours:
            raise SchemaError(
                f"the database has migration {name}, which this release does not know: use a newer release"
            )
        if ours[number] != (name, checksum):
            raise SchemaError(f"migration {name} was changed after it ran on this database")


def _checksum(sql: str) -> str:
    return hashlib.sha256(sql.encode()).hexdigest()
