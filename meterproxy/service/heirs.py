"""Heirs: every worker looks after the journals of this host that have no owner, so that what they hold returns soon.

A journal loses its owner when there are fewer workers than before, when a worker was killed while it left, or when its
worker cannot start. Whoever locks it first settles it.

Rules
-----
- A journal is left alone for a moment: the worker that was killed on it is usually started again, and recovers it.
- One that was settled is looked at again from time to time, and after PostgreSQL has lost changes: a failover or a
  restored backup may want it sent again.
- Trouble with one keeps nobody from the others, and is told once.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

from meterproxy.config import Config
from meterproxy.errors import MeterproxyError, StoreUnavailable
from meterproxy.ledger.inherit import inherit
from meterproxy.ledger.journal import Journal
from meterproxy.ledger.journal_files import JournalLocked, is_owned
from meterproxy.ledger.recover import OpenHoldPolicy
from meterproxy.ledger.settle import Observer
from meterproxy.store.pool import Pool
from meterproxy.store.sessions import Sessions
from meterproxy.store.settle import Settlement

LOOK_SECONDS: Final = 1.0
UNOWNED_SECONDS: Final = 3.0
AGAIN_SECONDS: Final = 600.0

_log: Final = logging.getLogger(__name__)


class Heirs:
    """One worker's part in it.

    Args:
        journals: the directory of this host's journals.
        own: this worker's.
        inherit: settles one. Raises JournalLocked, and what keeps it from being settled now.
    """

    def __init__(self, journals: Path, own: Path, inherit: Callable[[Path], Awaitable[object]]) -> None:
        self._journals = journals
        self._own = own
        self._inherit = inherit
        self._due: dict[Path, float] = {}
        self._told: set[Path] = set()

    async def keep_looking(self) -> None:
        """Look after what has no owner, for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look(asyncio.get_running_loop().time())

    def look_again(self) -> None:
        """Believe nothing settled any more."""
        self._due.clear()

    async def look(self, now: float) -> None:
        """One look at every journal; `now` in seconds of a steady clock."""
        for directory in sorted(self._journals.glob("slot-*/")):
            if directory == self._own or is_owned(directory):
                self._due.pop(directory, None)
            elif now >= self._due.setdefault(directory, now + UNOWNED_SECONDS):
                await self._settle(directory, now)

    async def _settle(self, directory: Path, now: float) -> None:
        try:
            await self._inherit(directory)
        except (JournalLocked, StoreUnavailable):
            return
        except (MeterproxyError, OSError) as error:
            if directory not in self._told:
                _log.error("a journal without owner cannot be settled", extra=_said(directory, error))
                self._told.add(directory)
        else:
            self._told.discard(directory)
        self._due[directory] = now + AGAIN_SECONDS


def inheriting(config: Config, pool: Pool, observe: Observer) -> Callable[[Path], Awaitable[object]]:
    """How a worker settles a journal that nobody owns, over connections that its own ledger does not wait for."""

    async def settle(directory: Path) -> object:
        journal = partial(
            Journal,
            directory,
            segment_bytes=config.journal.segment_bytes,
            retain_seconds=config.journal.retain_hours * 3600,
        )
        policy = OpenHoldPolicy(config.recovery.open_hold)
        return await inherit(journal, Sessions(pool), Settlement(pool), policy, observe)

    return settle


def _said(directory: Path, error: Exception) -> dict[str, str]:
    return {"journal": directory.name, "error": str(error)}
