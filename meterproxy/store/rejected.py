"""Rejected records: what PostgreSQL refused and settle has kept whole, until a person has seen to it.

Rules
-----
- A record is never deleted: that its money was booked without a row is known by it alone. A person says that it was
  seen to; then it is no open matter any more, and keeps no month of usage.
- Seeing books nothing. What is to be charged or given back for it is an entry of its own (`credit`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg
import orjson

from meterproxy.core.record import Record, decode_payload
from meterproxy.errors import ApiError, Case
from meterproxy.store.actor import acting
from meterproxy.store.pool import transaction
from meterproxy.store.sqlfiles import queries

_SQL: Final = queries("rejected")
_ACCOUNTS: Final = queries("accounts")


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A record that was refused; `booked`: its `row` with minimal columns, its `money` alone, or `nothing`."""

    request_id: UUID
    account_id: UUID
    amount_nanos: int
    booked: str
    rejected_at: datetime
    seen_at: datetime | None
    error: str


@dataclass(frozen=True, slots=True)
class RejectedRecord:
    """One of them whole, as its journal has it."""

    request_id: UUID
    account_id: UUID
    amount_nanos: int
    overrun_nanos: int
    booked: str
    rejected_at: datetime
    seen_at: datetime | None
    error: str
    journal_id: UUID
    journal_position: int
    record: Record


class RejectedRecords:
    """What is done about records that were refused, by people."""

    def __init__(self, pool: asyncpg.Pool, actor: str = "operator") -> None:
        self._pool = pool
        self._actor = actor

    async def list(self, limit: int, *, seen_too: bool = False) -> Sequence[RejectedRow]:
        """Those that wait for a person, or all; the latest first. Raises StoreUnavailable."""
        async with transaction(self._pool, readonly=True) as connection:
            return [RejectedRow(**row) for row in await connection.fetch(_SQL["list"], seen_too, limit)]

    async def read(self, request_id: UUID) -> RejectedRecord:
        """One of them. Raises ApiError NOT_FOUND, StoreUnavailable."""
        async with transaction(self._pool, readonly=True) as connection:
            row = await connection.fetchrow(_SQL["read"], request_id)
        if row is None:
            raise _not_found(request_id)
        return RejectedRecord(**{**row, "record": decode_payload(row["record"])})

    async def see(self, request_id: UUID, reason: str) -> None:
        """A person has seen to it, for good. Raises ApiError NOT_FOUND, StoreUnavailable."""
        async with transaction(self._pool) as connection:
            if await connection.fetchval(_SQL["see"], request_id):
                told = orjson.dumps({"reason": reason}).decode()
                await connection.execute(
                    _ACCOUNTS["add_audit"], acting(self._actor), "rejected.see", "request", request_id, told
                )
            elif not await connection.fetchrow(_SQL["read"], request_id):
                raise _not_found(request_id)


def _not_found(request_id: UUID) -> ApiError:
    return ApiError(Case.NOT_FOUND, f"No record of request {request_id} was refused.")
