"""Marking: has crossings written down soon after what was settled made them."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

from meterproxy.core.lending import LeaseKey, Settling
from meterproxy.errors import StoreUnavailable
from meterproxy.store.crossings import WINDOWS_AT_ONCE, Crossed, look_through, mark_crossings
from meterproxy.store.pool import Pool, transaction

LOOK_SECONDS: Final = 1.0

_log: Final = logging.getLogger(__name__)


class Marking:
    """Remembers the windows of limits in which something was settled, and looks at each of them once a second."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._touched: dict[LeaseKey, None] = {}

    def settled(self, endings: Sequence[Settling]) -> None:
        """A batch is in PostgreSQL; who draws from nothing but credit, which has no marks, is passed over."""
        for settling in endings:
            subject = settling.record.subject
            if len(subject.draws) > 1:
                for draw in subject.draws:
                    self._touched[LeaseKey(subject.account_id, draw.limit_id, draw.window_start_us)] = None

    async def keep_marked(self) -> None:
        """Make up for workers that were killed, then look at what is settled."""
        looked_through = False
        while True:
            try:
                if not looked_through:
                    _tell(await look_through(self._pool))
                    looked_through = True
                await self.look()
            except StoreUnavailable:
                pass  # what was touched is still remembered
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Write down what was passed in the windows that were touched. Raises StoreUnavailable."""
        while self._touched:
            keys = list(islice(self._touched, WINDOWS_AT_ONCE))
            for key in keys:
                del self._touched[key]
            try:
                async with transaction(self._pool) as connection:
                    crossed = await mark_crossings(connection, keys)
            except BaseException:
                self._touched.update(dict.fromkeys(keys))
                raise
            _tell(crossed)


def _tell(crossed: Iterable[Crossed]) -> None:
    for crossing in crossed:
        _log.info("a limit has passed a mark", extra={name: str(value) for name, value in crossing._asdict().items()})
