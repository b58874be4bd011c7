"""Notifications: what happened in an account that its people should hear of, and what each of them has read.

Rules
-----
- Whoever causes something to be told writes it down in the transaction in which it happened; here it is only read.
- A notification says how things were then and never changes. It is kept for some months.
- Who may see what is said by `Reader`, which the access decision makes; every statement takes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from meterproxy.errors import ApiError, Case
from meterproxy.store.pool import transaction
from meterproxy.store.slices import delete_in_slices
from meterproxy.store.sqlfiles import queries

_SQL: Final = queries("notifications")

DAYS_KEPT: Final = 90
DELETED_AT_ONCE: Final = 5000
MOST_COUNTED: Final = 100


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads, and what he may see.

    Args:
        user_id: only what is this user's; None: what concerns the whole account, too.
        pays: he may see purchases.
        reader_id: whose marks of what was read; None: nobody's, so all is unread.
    """

    account_id: UUID
    user_id: UUID | None
    pays: bool
    reader_id: UUID | None


@dataclass(frozen=True, slots=True)
class NotificationRow:
    """Something that happened; `detail` is as it was then, by its kind."""

    id: int
    kind: str
    subject_id: UUID
    detail: dict[str, Any]
    occurred_at: datetime
    read_at: datetime | None


class Notifications:
    """What people hear of; each call is one transaction."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def list(
        self, reader: Reader, before: int | None = None, limit: int = 50, *, unread: bool = False
    ) -> Sequence[NotificationRow]:
        """What somebody may see, the latest first, below a cursor; or only what he has not read."""
        async with transaction(self._pool, readonly=True) as connection:
            rows = await connection.fetch(
                _SQL["list_notifications"], *_who(reader), reader.reader_id, before, unread, limit
            )
        return [NotificationRow(**{**row, "detail": orjson.loads(row["detail"])}) for row in rows]

    async def unread(self, reader: Reader) -> int:
        """How many he has not read, as far as anybody counts."""
        async with transaction(self._pool, readonly=True) as connection:
            return int(await connection.fetchval(_SQL["count_unread"], *_who(reader), reader.reader_id, MOST_COUNTED))

    async def mark_read(self, reader: Reader, notification_id: int | None = None) -> None:
        """Have one be read, or all that there are. Raises ApiError NOT_FOUND, CONFLICT (nobody reads)."""
        if reader.reader_id is None:
            raise ApiError(Case.CONFLICT, "Only somebody who has signed in reads notifications.")
        async with transaction(self._pool) as connection:
            if notification_id is not None and not await connection.fetchval(
                _SQL["is_seen"], *_who(reader), notification_id
            ):
                raise ApiError(Case.NOT_FOUND, f"There is no notification {notification_id}.")
            await connection.execute(_SQL["mark_read"], *_who(reader), reader.reader_id, notification_id)


def _who(reader: Reader) -> tuple[UUID, UUID | None, bool]:
    return reader.account_id, reader.user_id, reader.pays


async def delete_old_notifications(pool: asyncpg.Pool) -> int:
    """Delete what nobody reads any more; answers how many. Raises StoreUnavailable."""
    return await delete_in_slices(pool, _SQL["delete_old_notifications"], DAYS_KEPT, at_once=DELETED_AT_ONCE)
