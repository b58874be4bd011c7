"""Session: the database of one command, wherever it is.

A configured URL is connected to as it is. Without one the embedded PostgreSQL is used: attached to where `serve` runs
it, else started for the command's duration and brought to this release's schema.

Rules
-----
- Commands on the embedded PostgreSQL take turns: one that started it may end it without asking who else is using it.
- Who starts it holds the data directory, so `serve` and a command never start it both.
"""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from meterproxy.config import Config, ensure_secrets
from meterproxy.errors import StartFailed
from meterproxy.runtime.data_dir import DataDirLock
from meterproxy.runtime.embedded import EmbeddedPostgres, attach
from meterproxy.store.migrate import migrate
from meterproxy.store.pool import Pool, open_pool

_POLL_SECONDS: Final = 0.05
_START_SECONDS: Final = 30.0
"""How long a `serve` that holds the data directory may take until its PostgreSQL is up."""


@dataclass(frozen=True, slots=True)
class Session:
    """An open database and the configuration that led to it."""

    config: Config
    dsn: str
    pool: Pool

    def secured(self) -> Config:
        """The configuration with the secrets that a start has made. Raises ConfigError."""
        return ensure_secrets(self.config)


@asynccontextmanager
async def open_session(config: Config) -> AsyncIterator[Session]:
    """Open the database, starting it where nobody else runs it.

    Raises:
        StartFailed, StoreUnavailable: it cannot be had.
    """
    async with database(config) as dsn:
        pool = await open_pool(dsn, pooled=True, size=2)
        try:
            yield Session(config, dsn, pool)
        finally:
            await pool.close()


@asynccontextmanager
async def database(config: Config) -> AsyncIterator[str]:
    """The URL of a database that is up; one that takes migrations, where the configuration names two."""
    configured = config.database_direct_url or config.database_url
    if configured is not None:
        yield configured.get_secret_value()
        return
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(_turn(config.data_dir))
        yield await _embedded(stack, config.data_dir)


@asynccontextmanager
async def _turn(data_dir: Path) -> AsyncIterator[None]:
    """Wait until no other command uses this data directory's PostgreSQL."""
    descriptor = _lock_file(data_dir)
    try:
        while not _locked(descriptor):  # noqa: ASYNC110 - another process lets go of it, which sets no event here
            await asyncio.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _lock_file(data_dir: Path) -> int:
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(data_dir / "command.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _embedded(stack: AsyncExitStack, data_dir: Path) -> str:
    """The URL of the embedded PostgreSQL: of `serve`'s, up or about to be, else of one that ends with us."""
    deadline = asyncio.get_running_loop().time() + _START_SECONDS
    while True:
        running = await attach(data_dir)
        if running is not None:
            return running
        try:
            stack.enter_context(DataDirLock(data_dir))
        except StartFailed:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(_POLL_SECONDS)
        else:
            return await _started(stack, data_dir)


async def _started(stack: AsyncExitStack, data_dir: Path) -> str:
    postgres = EmbeddedPostgres(data_dir)
    await postgres.start()
    stack.push_async_callback(postgres.stop)
    await migrate(postgres.dsn)
    return postgres.dsn
