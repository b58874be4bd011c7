"""The sweeper: notices sessions whose worker does not come back, and shows what credit they keep out of the pot.

Rules
-----
- Only a worker that has been trusted for a whole ttl sweeps: it has been in touch with PostgreSQL all that time, so who
  was not heard of was not just cut off together with it.
- It may be said of a worker that lives but is cut off. Its money stays with it, and its next renewal brings it back.
"""

import asyncio
import logging
from contextlib import suppress
from typing import Final

from prometheus_client import Gauge

from meterproxy.errors import StoreUnavailable
from meterproxy.ledger.session import Session
from meterproxy.store.lost import LostSessions

MOST_SECONDS: Final = 15.0

_log: Final = logging.getLogger(__name__)


class Sweeper:
    """One worker's part in it; `gauge` shows what is lost."""

    def __init__(self, session: Session, lost: LostSessions, longest_seconds: float, gauge: Gauge) -> None:
        self._session = session
        self._lost = lost
        self._longest_seconds = longest_seconds
        self._gauge = gauge

    async def keep_swept(self) -> None:
        """Sweep and look, for ever."""
        while True:
            with suppress(StoreUnavailable):
                await self.sweep()
                self._gauge.set((await self._lost.total()).nanos)
            await asyncio.sleep(min(MOST_SECONDS, self._session.ttl_seconds / 2))

    async def sweep(self) -> None:
        """Mark what is lost, if this worker may say so. Raises StoreUnavailable."""
        if self._session.trusted_seconds >= self._session.ttl_seconds:
            for session_id in await self._lost.sweep(self._session.ttl_seconds, self._longest_seconds):
                _log.error("a worker is lost with what it was lent", extra={"session_id": session_id})
