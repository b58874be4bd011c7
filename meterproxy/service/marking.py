"""Marking: has crossings of limits and of credit marks written down soon after what was settled made them.

Where credit has fallen below its mark and is to be recharged, it is ordered. Where it will soon be used up, people are
told.
"""

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Final, TypeVar
from uuid import UUID

from meterproxy.core.lending import LeaseKey, Settling
from meterproxy.errors import StoreUnavailable
from meterproxy.store.credit_marks import ACCOUNTS_AT_ONCE, Fallen, look_through_credit, mark_credit
from meterproxy.store.crossings import WINDOWS_AT_ONCE, Crossed, look_through, mark_crossings
from meterproxy.store.foreseen import look_ahead
from meterproxy.store.pool import Pool, transaction
from meterproxy.store.recharge import Recharge, recharge

T = TypeVar("T")

LOOK_SECONDS: Final = 1.0
TURN_SECONDS: Final = 60.0
"""How often a worker looks whether it is its turn to look at forecasts."""

_log: Final = logging.getLogger(__name__)


class Marking:
    """Remembers the windows and accounts in which something was settled, and looks at each of them once a second."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._touched: dict[LeaseKey, None] = {}
        self._charged: dict[UUID, None] = {}
        self._fallen: dict[UUID, None] = {}

    def settled(self, endings: Sequence[Settling]) -> None:
        """A batch is in PostgreSQL; who draws from nothing but credit has no windows to look at."""
        subjects = [settling.record.subject for settling in endings]
        paths = {(subject.account_id.int, subject.draws.path): subject.account_id for subject in subjects}
        for (_, path), account_id in paths.items():
            self._charged[account_id] = None
            if len(path.sources) > 1:
                for source in path.sources:
                    self._touched[LeaseKey(account_id, source.limit_id, source.window_start_us)] = None

    async def keep_marked(self) -> None:
        """Make up for workers that were killed, then look at what is settled."""
        looked_through = False
        while True:
            try:
                if not looked_through:
                    _tell(await look_through(self._pool))
                    _tell_fallen(await look_through_credit(self._pool))
                    _tell_ordered(await recharge(self._pool))
                    looked_through = True
                await self.look()
            except StoreUnavailable:
                pass  # what was touched is still remembered
            await asyncio.sleep(LOOK_SECONDS)

    async def keep_foreseen(self) -> None:
        """Look at the forecasts of all accounts, in turn with other workers."""
        while True:
            with suppress(StoreUnavailable):
                for each in await look_ahead(self._pool):
                    told = {"account_id": str(each.account_id), "days": each.days}
                    _log.info("credit will be used up soon", extra=told)
            await asyncio.sleep(TURN_SECONDS)

    async def look(self) -> None:
        """Write down what was passed in the windows and accounts that were touched. Raises StoreUnavailable."""
        while self._touched:
            with _taken(self._touched, WINDOWS_AT_ONCE) as keys:
                async with transaction(self._pool) as connection:
                    crossed = await mark_crossings(connection, keys)
            _tell(crossed)
        while self._charged:
            with _taken(self._charged, ACCOUNTS_AT_ONCE) as account_ids:
                async with transaction(self._pool) as connection:
                    fallen = await mark_credit(connection, account_ids)
            _tell_fallen(fallen)
            self._fallen.update(dict.fromkeys([each.account_id for each in fallen]))
        while self._fallen:
            with _taken(self._fallen, ACCOUNTS_AT_ONCE) as account_ids:
                ordered = await recharge(self._pool, account_ids)
            _tell_ordered(ordered)


@contextmanager
def _taken(waiting: dict[T, None], most: int) -> Iterator[list[T]]:
    """The first of what waits; where looking at it fails it waits again."""
    taken = list(islice(waiting, most))
    for each in taken:
        del waiting[each]
    try:
        yield taken
    except BaseException:
        waiting.update(dict.fromkeys(taken))
        raise


def _tell_fallen(fallen: Iterable[Fallen]) -> None:
    for each in fallen:
        _log.info("credit has fallen below its mark", extra={"account_id": str(each.account_id), "kind": each.kind})


def _tell_ordered(ordered: Iterable[Recharge]) -> None:
    for each in ordered:
        _log.info("credit was ordered by itself", extra={name: str(value) for name, value in each._asdict().items()})


def _tell(crossed: Iterable[Crossed]) -> None:
    for crossing in crossed:
        _log.info("a limit has passed a mark", extra={name: str(value) for name, value in crossing._asdict().items()})
