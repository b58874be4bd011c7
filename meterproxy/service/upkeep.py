"""Upkeep: what is done by the hour so that rows find their place, and counted for the fleet as a whole."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from meterproxy.errors import StoreUnavailable
from meterproxy.runtime.metrics import Metrics
from meterproxy.store.crossings import delete_old_crossings
from meterproxy.store.durable import DurableRows
from meterproxy.store.idempotency import delete_expired
from meterproxy.store.logged import tidy_logged
from meterproxy.store.notifications import delete_old_notifications
from meterproxy.store.people import tidy_people
from meterproxy.store.pool import Pool, retried
from meterproxy.store.retention import drop_old_usage
from meterproxy.store.upkeep import delete_old_owners, delete_old_windows, fold_leases, make_partitions

FIRST_SECONDS: Final = 60.0
"""After a start: a fleet that is restarted every hour must be tidied too."""
UPKEEP_SECONDS: Final = 3600.0
FLEET_SECONDS: Final = 15.0

_log: Final = logging.getLogger(__name__)


async def keep_tidy(pool: Pool, retention_days: int | None) -> None:
    """Make room for rows to come, and let go of what providers have forgotten, of what has ended, and of old rows."""
    await asyncio.sleep(FIRST_SECONDS)
    while True:
        for step in _steps(retention_days):
            try:
                await retried(partial(step, pool))
            except StoreUnavailable as error:  # it comes again; what follows must not wait for it
                _log.warning("a part of upkeep was put off", extra={"error": str(error)})
        await asyncio.sleep(UPKEEP_SECONDS)


def _steps(retention_days: int | None) -> Sequence[Callable[[Pool], Awaitable[object]]]:
    steps: list[Callable[[Pool], Awaitable[object]]] = [
        make_partitions, delete_old_owners, fold_leases, delete_old_windows, delete_old_crossings,
        delete_old_notifications, delete_expired, tidy_people, tidy_logged,
    ]  # fmt: skip
    if retention_days is not None:
        steps.append(partial(drop_old_usage, days=retention_days))
    return steps


async def keep_fleet_counted(pool: Pool, metrics: Metrics) -> None:
    """What only PostgreSQL knows: holds that outlived their exchange."""
    while True:
        with contextlib.suppress(StoreUnavailable):
            holds, oldest_seconds = await DurableRows(pool).count()
            metrics.durable_holds_open.set(holds)
            metrics.durable_hold_oldest_seconds.set(oldest_seconds)
        await asyncio.sleep(FLEET_SECONDS)
