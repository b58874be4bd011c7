"""Teams: made and listed; the keys of a team share its limits."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg
import orjson

from meterproxy.errors import ApiError, Case
from meterproxy.store.actor import acting
from meterproxy.store.ids import new_id
from meterproxy.store.pool import transaction
from meterproxy.store.sqlfiles import queries

_SQL: Final = queries("teams")
_ACCOUNTS: Final = queries("accounts")


@dataclass(frozen=True, slots=True)
class TeamRow:
    """A team of an organization."""

    id: UUID
    organization_id: UUID
    name: str
    created_at: datetime


class Teams:
    """What is done with teams, by people."""

    def __init__(self, pool: asyncpg.Pool, actor: str = "operator") -> None:
        self._pool = pool
        self._actor = actor

    async def create(self, account_id: UUID, name: str) -> TeamRow:
        """Make a team in the account's organization. Raises ApiError NOT_FOUND, CONFLICT (name taken)."""
        async with transaction(self._pool) as connection:
            try:
                row = await connection.fetchrow(_SQL["create_team"], new_id(), account_id, name)
            except asyncpg.UniqueViolationError as error:
                raise ApiError(Case.CONFLICT, "A team with this name exists already.", param="name") from error
            if row is None:
                raise ApiError(Case.NOT_FOUND, f"There is no account {account_id}.", param="account_id")
            detail = orjson.dumps({"name": name}).decode()
            await connection.execute(
                _ACCOUNTS["add_audit"], acting(self._actor), "team.create", "team", row["id"], detail
            )
            return TeamRow(**row)

    async def list(
        self, account_id: UUID | None = None, after: UUID | None = None, limit: int = 50
    ) -> Sequence[TeamRow]:
        """Teams in the order they were made, after a cursor."""
        async with transaction(self._pool) as connection:
            return [TeamRow(**row) for row in await connection.fetch(_SQL["list_teams"], account_id, after, limit)]
