"""The audit log as people read it: who did what to whom, the latest first."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from meterproxy.store.pool import transaction
from meterproxy.store.sqlfiles import queries

_SQL: Final = queries("audit_log")


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """What is looked for; None: anything."""

    actor: str | None = None
    action: str | None = None
    subject_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One thing that somebody did."""

    id: int
    occurred_at: datetime
    actor: str
    actor_name: str | None
    action: str
    subject_kind: str
    subject_id: UUID | None
    detail: dict[str, Any]


class AuditLog:
    """Reads the audit log."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def list(self, wanted: AuditFilter, before: int | None, limit: int) -> Sequence[AuditRow]:
        """Rows before a cursor, the latest first. Raises StoreUnavailable."""
        values = (before, wanted.actor, wanted.action, wanted.subject_id, wanted.since, wanted.until, limit)
        async with transaction(self._pool, readonly=True) as connection:
            rows = await connection.fetch(_SQL["list_audit_log"], *values)
        return [AuditRow(**{**row, "detail": orjson.loads(row["detail"])}) for row in rows]
