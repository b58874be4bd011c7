"""The fleet: what holds for all workers at once, and hosts that an operator has told to serve nothing more.

Rules
-----
- Every change takes a number of the change counter: it is in force on each worker that reaches PostgreSQL within a
  second, and stays as it was on one that does not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg
import orjson

from meterproxy.errors import ApiError, Case
from meterproxy.store.actor import acting
from meterproxy.store.pool import Connection, transaction
from meterproxy.store.sqlfiles import queries

_SQL: Final = queries("fleet")
_ACCOUNTS: Final = queries("accounts")


@dataclass(frozen=True, slots=True)
class FleetRow:
    """What holds for the whole fleet.

    `lending`: whether anything is lent to workers; `read_only`: nothing that costs is served; `shadow`: limits and
    credit count and refuse nothing; `paused_until`: when lending goes on after a failover.
    """

    lending: bool
    read_only: bool
    shadow: bool
    paused_until: datetime | None


@dataclass(frozen=True, slots=True)
class HostRow:
    """A host of the fleet: how many workers live on it, until when they are trusted, and what is lent to them."""

    host: str
    drained_at: datetime | None
    workers: int
    trusted_until: datetime | None
    leased_nanos: int


class Fleet:
    """What is done with the fleet, by people."""

    def __init__(self, pool: asyncpg.Pool, actor: str = "operator") -> None:
        self._pool = pool
        self._actor = actor

    async def read(self) -> FleetRow:
        """What holds now."""
        async with transaction(self._pool) as connection:
            return await _read(connection)

    async def change(self, changes: Mapping[str, bool]) -> FleetRow:
        """Change `lending`, `read_only` or `shadow`; what is not named stays."""
        async with transaction(self._pool) as connection:
            values = [changes.get(name) for name in ("lending", "read_only", "shadow")]
            row = await connection.fetchrow(_SQL["change_fleet"], *values)
            assert row is not None
            await self._note(connection, "fleet.change", "fleet", changes)
            return FleetRow(**row)

    async def hosts(self) -> Sequence[HostRow]:
        """Hosts that serve or are drained, by name."""
        async with transaction(self._pool) as connection:
            return [HostRow(**row) for row in await connection.fetch(_SQL["list_hosts"])]

    async def drain(self, host: str) -> None:
        """Have a host give back what it has and serve nothing that costs. Raises ApiError NOT_FOUND."""
        await self._set_drained(host, "drain_host", "host.drain")

    async def undrain(self, host: str) -> None:
        """Let a host serve again. Raises ApiError NOT_FOUND."""
        await self._set_drained(host, "undrain_host", "host.undrain")

    async def _set_drained(self, host: str, query: str, action: str) -> None:
        async with transaction(self._pool) as connection:
            if "\0" in host or not await connection.fetchval(_SQL["knows_host"], host):
                raise ApiError(Case.NOT_FOUND, f"No worker has ever run on a host {host[:100]!r}.")
            await connection.execute(_SQL[query], host)
            await self._note(connection, action, "host", {"host": host})

    async def _note(self, connection: Connection, action: str, kind: str, detail: Mapping[str, Any]) -> None:
        await connection.execute(
            _ACCOUNTS["add_audit"], acting(self._actor), action, kind, None, orjson.dumps(dict(detail)).decode()
        )
        await connection.execute(_ACCOUNTS["record_change"], "fleet", None)


async def read_brakes(pool: asyncpg.Pool, host: str) -> tuple[FleetRow, bool]:
    """What holds for a worker on this host: the fleet's state, and whether the host is drained."""
    async with transaction(pool) as connection:
        return await _read(connection), bool(await connection.fetchval(_SQL["is_drained"], host))


async def _read(connection: Connection) -> FleetRow:
    row = await connection.fetchrow(_SQL["read_fleet"])
    assert row is not None, "the fleet has one row"
    return FleetRow(**row)
