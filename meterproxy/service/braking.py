"""Braking: what an operator has said of the fleet and of this host, brought to the parts that obey it."""

import logging
from typing import Final

from meterproxy.ledger.worker import WorkerLedger
from meterproxy.proxy.brakes import Brakes
from meterproxy.service.looking import Looking
from meterproxy.store.fleet import read_brakes
from meterproxy.store.pool import Pool

_log: Final = logging.getLogger(__name__)


class Braking(Looking):
    """Keeps one worker's brakes as PostgreSQL says; while that is away they stay as they were."""

    def __init__(self, pool: Pool, ledger: WorkerLedger, brakes: Brakes, host: str) -> None:
        super().__init__()
        self.brakes = brakes
        self._pool = pool
        self._ledger = ledger
        self._host = host

    @property
    def unready(self) -> str | None:
        """Why this worker should get no requests, if it should not."""
        return f"the host {self._host} is drained" if self.brakes.drained else None

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
