"""Refusing: remembers what limits refuse, and has it written down every few seconds, so that people see why."""

import asyncio
from contextlib import suppress
from itertools import islice
from typing import Final

from meterproxy.core.hold import HoldRequest
from meterproxy.core.lending import LeaseKey
from meterproxy.core.plan import Planned
from meterproxy.errors import StoreUnavailable
from meterproxy.store.refusals import Refusals, Refused

NOTE_SECONDS: Final = 3.0
"""An empty key in a tight loop costs the database no more than this."""
MOST_REMEMBERED: Final = 10_000
"""Limit windows; what others refuse is not counted until these are told."""
AT_ONCE: Final = 1000
MOST_TOLD: Final = 2**63 - 1
"""What PostgreSQL can keep; a request may ask for more than any limit has."""


class Refusing:
    """Counts refusals by limit window; `refused` is called on a request's way and does nothing else."""

    def __init__(self, rows: Refusals) -> None:
        self._rows = rows
        self._refused: dict[LeaseKey, Refused] = {}

    def refused(self, planned: Planned, request: HoldRequest, amount: int) -> None:
        """A limit has refused a request that asked for so much of it, however much that is."""
        at_us, told = request.accepted_us or request.occurred_us, min(amount, MOST_TOLD)
        known = self._refused.get(planned.key)
        if known is not None:
            known.count += 1
            known.last_us, known.key_id, known.amount = at_us, request.key.key_id, told
        elif len(self._refused) < MOST_REMEMBERED:
            self._refused[planned.key] = Refused(1, at_us, request.key.key_id, told)

    async def keep_noted(self) -> None:
        """Tell PostgreSQL again and again; while it is away what was refused is remembered."""
        while True:
            await asyncio.sleep(NOTE_SECONDS)
            with suppress(StoreUnavailable):
                await self.note()

    async def note(self) -> None:
        """Tell PostgreSQL of what is remembered. Raises StoreUnavailable."""
        while self._refused:
            told = list(islice(self._refused.items(), AT_ONCE))
            for key, _ in told:
                del self._refused[key]
            try:
                await self._rows.note(told)
            except BaseException:
                self._take_back(told)
                raise

    def _take_back(self, told: list[tuple[LeaseKey, Refused]]) -> None:
        for key, each in told:
            newer = self._refused.get(key)
            if newer is None:
                self._refused[key] = each
            else:
                newer.count += each.count
