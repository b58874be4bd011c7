"""Refusals: which limits have refused requests lately, so that people see why.

Rules
-----
- Workers tell them in sums, every few seconds, whatever is refused how often. They are no books: a worker that is
  killed takes with it what it had not told.
- A limit has one row, of its latest window. The first refusal of a window is a notification.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from meterproxy.core.lending import LeaseKey
from meterproxy.store.instants import to_datetime
from meterproxy.store.pool import retried, transaction
from meterproxy.store.sqlfiles import queries

_SQL: Final = queries("refusals")


@dataclass(slots=True)
class Refused:
    """What one limit window has refused: how often, and of the last one when, to which key, how much it asked for."""

    count: int
    last_us: int
    key_id: UUID
    amount: int


@dataclass(frozen=True, slots=True)
class RefusalRow:
    """The same as people read it; `kind` is `credit`, `budget` or `rate`, `last_amount` in the limit's own measure."""

    limit_id: UUID
    kind: str
    name: str
    measure: str
    scope: str
    window_start: datetime
    refused: int
    last_at: datetime
    last_key_id: UUID
    last_key: str | None
    last_amount: int


class Refusals:
    """What is known of refusals; each call is one transaction."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def note(self, refused: Sequence[tuple[LeaseKey, Refused]]) -> None:
        """Add what a worker has refused. Raises StoreUnavailable."""
        columns = (
            [key.account_id for key, _ in refused],
            [key.limit_id for key, _ in refused],
            [to_datetime(key.window_start_us) for key, _ in refused],
            [each.count for _, each in refused],
            [to_datetime(each.last_us) for _, each in refused],
            [each.key_id for _, each in refused],
            [each.amount for _, each in refused],
        )

        async def attempt() -> None:
            async with transaction(self._pool) as connection:
                await connection.execute(_SQL["note_refusals"], *columns)

        await retried(attempt)

    async def list(self, account_id: UUID, limit: int) -> Sequence[RefusalRow]:
        """What the limits of an account have refused in the last day, the latest first."""
        async with transaction(self._pool, readonly=True) as connection:
            rows = await connection.fetch(_SQL["read_refusals"], account_id, limit)
        return [RefusalRow(**row) for row in rows]
