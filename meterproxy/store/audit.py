"""Audit: every invariant of the books, recomputed in one snapshot, so that it is right under traffic."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from meterproxy.store.pool import transaction
from meterproxy.store.sqlfiles import queries

_SQL: Final = queries("audit")

INVARIANTS: Final = tuple(_SQL)
AUDIT_SECONDS: Final = 3600.0


@dataclass(frozen=True, slots=True)
class InvariantResult:
    """One invariant: whether it holds, and where it does not."""

    name: str
    ok: bool
    detail: str


async def audit(pool: asyncpg.Pool) -> Sequence[InvariantResult]:
    """Recompute every invariant. Raises StoreUnavailable."""
    async with transaction(pool, isolation="repeatable_read", readonly=True) as connection:
        # Before the snapshot is taken: a month that is dropped within it would be neither there nor among the sums.
        await connection.execute("LOCK TABLE usage_events IN ACCESS SHARE MODE")
        results = []
        for name, query in _SQL.items():
            rows = await connection.fetch(query, timeout=AUDIT_SECONDS)
            results.append(InvariantResult(name, not rows, _told(rows)))
        return results


def _told(rows: Sequence[asyncpg.Record]) -> str:
    shown = "; ".join(f"{row['subject']}: {row['detail']}" for row in rows[:3])
    return f"{shown}; and more" if len(rows) > 3 else shown
