"""Idempotency as a worker runs it: where answers are kept, who gives charges back, and what is told at the end.

Rules
-----
- The worker tells how its requests ended before it closes its session: what it has not told by then may be asked anew.
- Every worker looks for charges to give back; who comes first decides.
"""

import asyncio
import base64
import logging
from typing import Final
from uuid import UUID

from meterproxy.config import Config
from meterproxy.core.seal import Seal
from meterproxy.errors import StoreUnavailable
from meterproxy.proxy.idempotency import Idempotency
from meterproxy.store.idempotency import PURPOSE, IdempotencyRows, reverse_replaced
from meterproxy.store.pool import Pool

LOOK_SECONDS: Final = 5.0
TELL_SECONDS: Final = 5.0
SPARE_SECONDS: Final = 60.0
"""How much longer than an exchange a claim is believed: waiting for PostgreSQL comes before and after it."""

_log: Final = logging.getLogger(__name__)


def idempotency_rows(config: Config, pool: Pool, session_id: UUID) -> IdempotencyRows:
    """Where the answers of this worker's requests are kept."""
    assert config.master_key is not None, "the supervisor has made what was not set"
    seal = Seal(base64.b64decode(config.master_key.get_secret_value()), PURPOSE)
    return IdempotencyRows(pool, seal, session_id, config.exchange.max_seconds + SPARE_SECONDS)


async def keep_reversed(pool: Pool) -> None:
    """Give back, again and again, what was charged to requests whose place another one has taken."""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            await reverse_replaced(pool)
        except StoreUnavailable:
            continue


async def finish_telling(idempotency: Idempotency) -> None:
    """Tell how the last requests ended, before the session ends."""
    try:
        async with asyncio.timeout(TELL_SECONDS):
            await idempotency.tell()
    except (StoreUnavailable, TimeoutError) as error:
        _log.warning("answers were not kept", extra={"error": str(error)})
