"""Braking: what an operator has said of the fleet and of this host, brought to the parts that obey it."""

import asyncio
import logging
from typing import Final

from meterproxy.errors import StoreUnavailable
from meterproxy.ledger.worker import WorkerLedger
from meterproxy.proxy.brakes import Brakes
from meterproxy.store.fleet import read_brakes
from meterproxy.store.pool import Pool

RETRY_SECONDS: Final = 0.25

_log: Final = logging.getLogger(__name__)


class Braking:
    """Keeps one worker's brakes as PostgreSQL says; while that is away they stay as they were."""

    def __init__(self, pool: Pool, ledger: WorkerLedger, brakes: Brakes, host: str) -> None:
        self.brakes = brakes
        self._pool = pool
        self._ledger = ledger
        self._host = host
        self._changed = asyncio.Event()

    @property
    def unready(self) -> str | None:
        """Why this worker should get no requests, if it should not."""
        return f"the host {self._host} is drained" if self.brakes.drained else None

    def look_again(self) -> None:
        """Something about the fleet has changed, or may have."""
        self._changed.set()

    async def keep_told(self) -> None:
        """Look again whenever there is a reason to."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self.look()
            except StoreUnavailable:
                self._changed.set()
                await asyncio.sleep(RETRY_SECONDS)

    async def look(self) -> None:
        """Do as PostgreSQL says. Raises StoreUnavailable."""
        fleet, drained = await read_brakes(self._pool, self._host)
        brakes = self.brakes
        if (fleet.read_only, drained) != (brakes.read_only, brakes.drained):
            _log.warning("an operator's brakes", extra={"read_only": fleet.read_only, "drained": drained})
        brakes.read_only, brakes.drained = fleet.read_only, drained
        self._ledger.holds.shadow = fleet.shadow
        if drained:
            await self._ledger.borrower.hand_back()
