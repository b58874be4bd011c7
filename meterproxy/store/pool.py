"""The connection pool, and the border where the driver's errors become ours."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeVar, cast

import asyncpg
import asyncpg.transaction

from meterproxy.errors import StoreUnavailable
from meterproxy.store.connector import Connector

T = TypeVar("T")

Pool = asyncpg.Pool
Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy

RETRIES: Final = 5
COMMAND_TIMEOUT_SECONDS: Final = 30.0

_TRANSIENT: Final = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
_AWAY: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.PostgresSystemError,
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InternalClientError,  # how the driver now and then takes a server that was killed in mid-sentence
    ConnectionError,
    TimeoutError,
    OSError,
)


async def open_pool(dsn: str, *, pooled: bool = False, size: int = 8) -> asyncpg.Pool:
    """Open a pool on `dsn`; it need not be reachable yet.

    Args:
        dsn: a PostgreSQL URL.
        pooled: a transaction-mode pooler stands in between: no prepared statements are kept, and every statement that
            belongs together must run inside one transaction.
        size: the most connections it opens.

    Raises:
        StoreUnavailable: where the pool cannot even be made.
    """
    with translated():
        return await asyncpg.create_pool(
            dsn,
            connect=cast("Any", Connector(dsn)),
            min_size=0,
            max_size=size,
            statement_cache_size=0 if pooled else 200,
            command_timeout=COMMAND_TIMEOUT_SECONDS,
            timeout=5,
            server_settings=None if pooled else {"application_name": "meterproxy", "jit": "off"},
        )


@contextmanager
def translated() -> Iterator[None]:
    """Turn "PostgreSQL is away" in all its forms into StoreUnavailable.

    The driver's own complaint about an argument is an InterfaceError too, but no outage: it would come again for ever.
    """
    try:
        yield
    except _AWAY as error:
        if isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError):
            raise
        raise StoreUnavailable(f"PostgreSQL is not available: {type(error).__name__}: {error}") from error


@asynccontextmanager
async def transaction(
    pool: asyncpg.Pool, *, isolation: str | None = None, readonly: bool = False
) -> AsyncIterator[Connection]:
    """One transaction on one connection; raises StoreUnavailable where there is none to be had."""
    with translated():
        async with pool.acquire(timeout=5) as connection:
            async with connection.transaction(isolation=isolation, readonly=readonly):  # type: ignore[arg-type]
                yield connection


async def retried(attempt: Callable[[], Awaitable[T]]) -> T:
    """Run a transaction again where PostgreSQL chose it as the victim of a conflict (40001, 40P01).

    Raises:
        StoreUnavailable: it was chosen every time; nothing is wrong with what was asked.
    """
    for retry in range(RETRIES):
        try:
            return await attempt()
        except _TRANSIENT as error:
            victim = error
            await asyncio.sleep(0.01 * retry)
    raise StoreUnavailable(f"PostgreSQL has too many conflicts: {victim}") from victim
