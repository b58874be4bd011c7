"""Teams: made, listed, renamed and removed; the keys of a team share its limits.

A team that was removed is nobody's choice any more, but its row stays: its keys still name it, and so do figures of
what they have used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from meterproxy.errors import ApiError, Case
from meterproxy.store.actor import acting
from meterproxy.store.ids import new_id
from meterproxy.store.limits import retire_limit
from meterproxy.store.pool import Connection, transaction
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
            await self._note(connection, "team.create", row["id"], {"name": name})
            return TeamRow(**row)

    async def rename(self, team_id: UUID, name: str, account_id: UUID | None = None) -> TeamRow:
        """Give a team, of this account's organization or of any, another name.

        Raises:
            ApiError: NOT_FOUND, CONFLICT (name taken).
        """
        async with transaction(self._pool) as connection:
            before = await _lock(connection, team_id, account_id)
            try:
                row = await connection.fetchrow(_SQL["rename_team"], team_id, name)
            except asyncpg.UniqueViolationError as error:
                raise ApiError(Case.CONFLICT, "A team with this name exists already.", param="name") from error
            assert row is not None
            await self._note(connection, "team.rename", team_id, {"name": name, "name_before": before["name"]})
            return TeamRow(**row)

    async def remove(self, team_id: UUID, account_id: UUID | None = None) -> None:
        """End a team and its limits. Its keys go on without them, and what they have used stays the team's.

        Raises:
            ApiError: NOT_FOUND.
        """
        async with transaction(self._pool) as connection:
            team = await _lock(connection, team_id, account_id)
            await connection.execute(_SQL["remove_team"], team_id)
            limits = [row["id"] for row in await connection.fetch(_SQL["limits_of_team"], team["account_id"], team_id)]
            for limit_id in limits:
                await retire_limit(connection, acting(self._actor), limit_id)
            await self._note(
                connection, "team.remove", team_id, {"name": team["name"], "limits": [str(limit) for limit in limits]}
            )

    async def list(
        self, account_id: UUID | None = None, after: UUID | None = None, limit: int = 50
    ) -> Sequence[TeamRow]:
        """Teams in the order they were made, after a cursor."""
        async with transaction(self._pool) as connection:
            return [TeamRow(**row) for row in await connection.fetch(_SQL["list_teams"], account_id, after, limit)]

    async def _note(self, connection: Connection, action: str, team_id: UUID, detail: dict[str, Any]) -> None:
        told = orjson.dumps(detail).decode()
        await connection.execute(_ACCOUNTS["add_audit"], acting(self._actor), action, "team", team_id, told)


async def _lock(connection: Connection, team_id: UUID, account_id: UUID | None) -> asyncpg.Record:
    row = await connection.fetchrow(_SQL["lock_team"], team_id, account_id)
    if row is None:
        raise ApiError(Case.NOT_FOUND, f"There is no team {team_id}.")
    return row
