"""Logged events in PostgreSQL: each belongs to one call at a time, and to one row of usage for ever.

Rules
-----
- The row's key follows from the event: its account, its instant and an id made of both and of the event's own. Whoever
  books it again, by whatever worker and after whatever outage, finds that key taken.
- An event that was told with other contents is a conflict, as long as it may have been booked.
"""

import hashlib
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg

from meterproxy.core.identifier import uuid7
from meterproxy.errors import ApiError, Case
from meterproxy.store.instants import to_us
from meterproxy.store.pool import Connection, transaction
from meterproxy.store.slices import delete_in_slices
from meterproxy.store.sqlfiles import queries

_SQL: Final = queries("logged")

CLAIM_SECONDS: Final = 60.0
"""For how long one call may take; who asks meanwhile is told to come again."""
DAYS_KEPT: Final = 90
"""How long an event is known: longer than one may be logged after it was."""
DELETED_AT_ONCE: Final = 5000


class Claimed(NamedTuple):
    """An event that is this call's; `is_new`: nobody had it before, else it may be on its way into the books."""

    event_id: str
    request_id: UUID
    occurred_at: datetime
    is_new: bool


class LoggedEvents:
    """Knows which events were logged."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def claim(self, account_id: UUID, event_id: str, digest: bytes, occurred_at: datetime) -> "Claimed | Booked":
        """Take an event, which occurred then if nobody has told of it yet; what the books say of one that they have.

        Raises:
            ApiError: CONFLICT (told before with other contents, or refused by the books), KEY_RUNNING (another call has
                it), MALFORMED (it is not in the books, and its month is over).
        """
        async with transaction(self._pool) as connection:
            request_id = _request_id(account_id, event_id, occurred_at)
            row = await connection.fetchrow(
                _SQL["claim_event"], account_id, event_id, digest, request_id, occurred_at, CLAIM_SECONDS
            )
            if row is not None:
                return Claimed(event_id, row["request_id"], row["occurred_at"], is_new=True)
            known = await connection.fetchrow(_SQL["lock_event"], account_id, event_id)
            if known is None:
                raise ApiError(Case.KEY_RUNNING, "This event is being given back right now.", param="event_id")
            if known["digest"] != digest:
                text = "This event was logged before with other contents."
                raise ApiError(Case.CONFLICT, text, param="event_id")
            booked = await _booked(connection, account_id, event_id, known["request_id"], known["occurred_at"])
            if booked is not None:
                return booked
            if known["is_running"]:
                raise ApiError(Case.KEY_RUNNING, "This event is being logged right now.", param="event_id")
            if await connection.fetchval(_SQL["is_over"], known["occurred_at"]):
                text = "This event is not in the books, and it is too old to be booked now."
                raise ApiError(Case.MALFORMED, text, param="event_id")
            await connection.execute(_SQL["take_event"], account_id, event_id, CLAIM_SECONDS)
            return Claimed(event_id, known["request_id"], known["occurred_at"], is_new=False)

    async def give_back(self, account_id: UUID, event_id: str, *, is_new: bool) -> None:
        """This call has booked nothing."""
        async with transaction(self._pool) as connection:
            await connection.execute(_SQL["give_event_back"], account_id, event_id, is_new)

    async def booked(self, account_id: UUID, claimed: Claimed) -> "Booked | None":
        """What the books say of an event, if they have it. Raises ApiError CONFLICT: they have refused it."""
        event_id, request_id, occurred_at, _ = claimed
        async with transaction(self._pool, readonly=True) as connection:
            return await _booked(connection, account_id, event_id, request_id, occurred_at)


class Booked(NamedTuple):
    """An event that is in the books."""

    request_id: UUID
    occurred_at: datetime
    amount_nanos: int


async def tidy_logged(pool: asyncpg.Pool) -> None:
    """Forget events that are too old to be told of again. Raises StoreUnavailable."""
    await delete_in_slices(pool, _SQL["tidy_events"], DAYS_KEPT, at_once=DELETED_AT_ONCE)


async def _booked(
    connection: Connection, account_id: UUID, event_id: str, request_id: UUID, occurred_at: datetime
) -> Booked | None:
    row = await connection.fetchrow(_SQL["read_event"], account_id, occurred_at, request_id, event_id)
    if row is None:
        return None
    if not row["is_booked"]:
        text = "This event could not be booked, and nothing was charged for it. The operator has its record."
        raise ApiError(Case.CONFLICT, text, param="event_id")
    return Booked(request_id, occurred_at, row["amount_nanos"])


def _request_id(account_id: UUID, event_id: str, occurred_at: datetime) -> UUID:
    return uuid7(to_us(occurred_at), hashlib.sha256(account_id.bytes + event_id.encode()).digest()[:10])
