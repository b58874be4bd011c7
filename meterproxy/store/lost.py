"""Sessions whose worker does not come back: found, shown, and given up by an operator.

Rules
-----
- A session is lost that was not heard of for a ttl after its trust ran out. Only whoever has been in touch with
  PostgreSQL for all that time may say so, and not after PostgreSQL itself was away: see `sweep`.
- What a lost session was lent stays out of the pot until its journal proves what was used of it, or an operator gives
  it up. Rate limits come back by themselves, when nothing can run any more that they were lent for.
- What is given up returns at once. What a journal tells of it later is booked all the same, as late.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg
import orjson

from meterproxy.errors import MeterproxyError
from meterproxy.store.pool import Connection, retried, transaction
from meterproxy.store.sqlfiles import queries

_SQL: Final = queries("lost")
_UPKEEP: Final = queries("upkeep")
_LOCK: Final = 0x6D657465725F6C6F


class NotLost(MeterproxyError):
    """There is no such session to be given up, or its worker lives."""


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A worker session that has not ended, and the credit that it keeps out of the pot.

    `expires_at` is when its worker stopped being trusted, or will.
    """

    session_id: UUID
    journal_id: UUID
    host: str
    slot: int
    state: str
    started_at: datetime
    expires_at: datetime
    credit_nanos: int
    trusted: bool


@dataclass(frozen=True, slots=True)
class Abandoned:
    """A session that was given up, and what returned of its leases, in the measures of their limits."""

    session_id: UUID
    host: str
    slot: int
    returned: int


@dataclass(frozen=True, slots=True)
class Lost:
    """What the fleet has lost sight of."""

    sessions: int
    nanos: int


class LostSessions:
    """What is done about sessions that do not end by themselves; each call is one transaction."""

    def __init__(self, pool: asyncpg.Pool, actor: str = "operator") -> None:
        self._pool = pool
        self._actor = actor

    async def list(self) -> Sequence[SessionRow]:
        """Sessions that have not ended, lost ones first. Raises StoreUnavailable."""
        async with transaction(self._pool) as connection:
            return [SessionRow(**row) for row in await connection.fetch(_SQL["list_sessions"])]

    async def total(self) -> Lost:
        """How many sessions are lost, with how much credit. Raises StoreUnavailable."""
        async with transaction(self._pool) as connection:
            row = await connection.fetchrow(_SQL["lost_credit"])
        assert row is not None
        return Lost(row["sessions"], row["nanos"])

    async def sweep(self, ttl_seconds: float, longest_seconds: float) -> Sequence[UUID]:
        """Mark what is lost and let rate limits come back; answers which sessions are newly lost.

        One in the fleet does it at a time, who has been in touch with PostgreSQL for a ttl.

        Raises:
            StoreUnavailable
        """

        async def attempt() -> Sequence[UUID]:
            async with transaction(self._pool) as connection:
                if not await connection.fetchval(_UPKEEP["try_lock"], _LOCK):
                    return ()
                lost = [row["id"] for row in await connection.fetch(_SQL["mark_lost"], ttl_seconds)]
                await connection.execute(_SQL["return_rates"], ttl_seconds + longest_seconds)
                return lost

        return await retried(attempt)

    async def living(self, journal_id: UUID) -> bool:
        """Whether a worker lives that writes this journal, as far as its trust goes. Raises StoreUnavailable."""
        async with transaction(self._pool) as connection:
            return any(row["trusted"] for row in await connection.fetch(_SQL["find_sessions"], journal_id))

    async def abandon(self, id_: UUID) -> Sequence[Abandoned]:
        """Give up a session, or all of a journal: their leases return at once. Raises NotLost, StoreUnavailable."""

        async def attempt() -> Sequence[Abandoned]:
            async with transaction(self._pool) as connection:
                found = await connection.fetch(_SQL["find_sessions"], id_)
                if not found:
                    raise NotLost(f"{id_} is no session that could be given up, nor a journal with one")
                if any(row["trusted"] for row in found):
                    raise NotLost(f"the worker of {id_} lives: stop it, or wait until lease.ttl_seconds are over")
                return [await self._abandon(connection, row) for row in found]

        return await retried(attempt)

    async def note_import(self, journal_id: UUID, detail: dict[str, object]) -> None:
        """Leave a line in the audit log about a journal that was brought. Raises StoreUnavailable."""
        async with transaction(self._pool) as connection:
            told = orjson.dumps(detail).decode()
            await connection.execute(_SQL["audit"], self._actor, "journal.import", "journal", journal_id, told)

    async def _abandon(self, connection: Connection, row: asyncpg.Record) -> Abandoned:
        returned = int(await connection.fetchval(_SQL["abandon"], row["id"]))
        told = {"host": row["host"], "slot": row["slot"], "returned": returned}
        await connection.execute(
            _SQL["audit"], self._actor, "session.abandon", "session", row["id"], orjson.dumps(told).decode()
        )
        return Abandoned(row["id"], row["host"], row["slot"], returned)
