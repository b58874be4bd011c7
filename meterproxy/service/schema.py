"""The schema as a part: brought up to date when the database serves, before any worker starts."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from meterproxy.errors import StartFailed, StoreUnavailable
from meterproxy.service.demo import ensure_demo
from meterproxy.service.first_operator import FirstOperator, ensure_operator
from meterproxy.store.migrate import SchemaError, migrate
from meterproxy.store.pool import Pool, open_pool, translated
from meterproxy.store.upkeep import make_partitions

_log: Final = logging.getLogger(__name__)

RETRY_SECONDS: Final = 1.0


class Schema:
    """Migrates, makes partitions, the first operator and, on a database of our own, the demo.

    Then there is nothing left to watch.

    Args:
        direct_dsn: asked when its turn comes; a URL that takes migrations.
        data_dir: where the first operator's password is kept, and the demo's key.
        demo: whether there is to be a demo.
    """

    name = "schema"

    def __init__(self, direct_dsn: Callable[[], str], data_dir: Path, *, demo: bool) -> None:
        self._direct_dsn = direct_dsn
        self._data_dir = data_dir
        self._demo_dir = data_dir if demo else None
        self.first_operator: FirstOperator | None = None

    async def start(self) -> None:
        """Raises StartFailed where the database has a schema that is not ours; waits where it is away."""
        told = False
        while True:
            try:
                await self._prepare(self._direct_dsn())
            except SchemaError as error:
                raise StartFailed(str(error)) from error
            except StoreUnavailable as error:
                if not told:
                    _log.warning("waiting for the database", extra={"error": str(error)})
                    told = True
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    async def _prepare(self, dsn: str) -> None:
        with translated():
            applied = await migrate(dsn)
        if applied:
            _log.info("migrated the database", extra={"applied": ", ".join(applied)})
        pool = await open_pool(dsn, size=1)
        try:
            await _make_partitions(pool)
            if self._demo_dir is not None:
                await ensure_demo(pool, self._demo_dir)
            self.first_operator = await ensure_operator(pool, self._data_dir)
        finally:
            await pool.close()

    async def ended(self) -> str:
        """Never: a schema does not end."""
        never: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        return await never

    async def stop(self) -> None:
        """Nothing runs."""

    def hasten(self) -> None:
        """Nothing runs."""


async def _make_partitions(pool: Pool) -> None:
    """Where somebody reads the table (a backup may take hours), nobody waits for it: upkeep comes again and again."""
    try:
        await make_partitions(pool)
    except StoreUnavailable as error:
        _log.warning("coming months have no partitions yet", extra={"error": str(error)})
