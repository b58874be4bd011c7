"""Owners: whose the resources are that requests mention, as PostgreSQL knows it.

Rules
-----
- Owners are only ever written by settle, inside its transaction: a claim by its journal's record, a deletion as a
  tombstone that no replay undoes.
- Looking up costs one statement for any number of resources.
"""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import asyncpg

from meterproxy.core.lending import Noted, Ownership
from meterproxy.core.record import DeferRecord, ForgetRecord
from meterproxy.core.resource import Resource, ResourceKey, key_of
from meterproxy.store.instants import to_datetime
from meterproxy.store.pool import Connection, transaction
from meterproxy.store.sqlfiles import queries

_SQL: Final = queries("owners")

FORGOTTEN_SECONDS: Final = 15.0
"""How long a deletion is shown to workers; whoever has not looked for longer has missed some."""


class OwnerRows:
    """Fulfils `ledger.ports.OwnerStore`."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def find_owners(self, session_id: UUID, keys: Sequence[ResourceKey]) -> Ownership:
        """Which of these resources exist, and whether this session is the only one. Raises StoreUnavailable."""
        columns = [list(column) for column in zip(*keys, strict=True)]
        async with transaction(self._pool) as connection:
            rows = await connection.fetch(_SQL["find_owners"], session_id, *columns)
        found = [Resource(*row) for row in rows if row["id"] is not None]
        return Ownership({key_of(resource): resource for resource in found}, alone=len(found) == len(rows))

    async def forgotten_owners(self) -> Sequence[ResourceKey]:
        """What was forgotten in the last `FORGOTTEN_SECONDS`, by whichever worker. Raises StoreUnavailable."""
        async with transaction(self._pool) as connection:
            rows = await connection.fetch(_SQL["forgotten_owners"], FORGOTTEN_SECONDS)
        return [(row["account_id"], row["kind"], row["id"]) for row in rows]


async def book_owners(connection: Connection, notes: Sequence[Noted]) -> None:
    """Write down what a batch says of owners; part of settle's transaction."""
    told: dict[ResourceKey, tuple[str, int, bool]] = {}
    for noted in notes:
        record = noted.record
        if not isinstance(record, DeferRecord):
            key = key_of(record.resource)
            provider, occurred_us, forgotten = told.get(key, (record.resource.provider, record.occurred_us, False))
            told[key] = provider, occurred_us, forgotten or isinstance(record, ForgetRecord)
    if not told:
        return
    rows = [
        (*key, provider, to_datetime(occurred_us), forgotten)
        for key, (provider, occurred_us, forgotten) in sorted(told.items())
    ]
    await connection.execute(_SQL["book_owners"], *(list(column) for column in zip(*rows, strict=True)))
