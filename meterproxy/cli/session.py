"""Session: the database of one command, wherever it is.

A configured URL is connected to as it is. Without one the embedded PostgreSQL is used: attached to where `serve` runs
it, else started for the command's duration and brought to this release's schema.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meterproxy.config import Config
from meterproxy.runtime.embedded import EmbeddedPostgres, attach
from meterproxy.store.migrate import migrate
from meterproxy.store.pool import open_pool

if TYPE_CHECKING:
    import asyncpg


@dataclass(frozen=True, slots=True)
class Session:
    """An open database and the configuration that led to it."""

    config: Config
    dsn: str
    pool: "asyncpg.Pool"


@asynccontextmanager
async def open_session(config: Config) -> AsyncIterator[Session]:
    """Open the database, starting it where nobody else runs it.

    Raises:
        StartFailed, StoreUnavailable: it cannot be had.
    """
    async with database(config) as dsn:
        pool = await open_pool(dsn)
        try:
            yield Session(config, dsn, pool)
        finally:
            await pool.close()


@asynccontextmanager
async def database(config: Config) -> AsyncIterator[str]:
    """The URL of a database that is up; one that takes migrations, where the configuration names two."""
    configured = config.database_direct_url or config.database_url
    running = configured.get_secret_value() if configured else await attach(config.data_dir)
    if running is not None:
        yield running
        return
    postgres = EmbeddedPostgres(config.data_dir)
    await postgres.start()
    try:
        await migrate(postgres.dsn)
        yield postgres.dsn
    finally:
        await postgres.stop()
