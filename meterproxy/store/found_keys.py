"""Found keys: what a worker learns from PostgreSQL of a key that it was shown, by the digest of its secret."""

from functools import lru_cache
from ipaddress import ip_network
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg

from meterproxy.core.account import AccountEntry
from meterproxy.core.key import KeyEntry, KeyPolicy
from meterproxy.store.instants import to_us
from meterproxy.store.pool import Connection
from meterproxy.store.sqlfiles import queries

_SQL: Final = queries("keys")

POLICIES_SHARED: Final = 4096


class FoundKey(NamedTuple):
    """What PostgreSQL says of a live key: `entry` makes what workers keep of it, once its account is there."""

    row: asyncpg.Record

    @property
    def account_id(self) -> UUID:
        """Whose credit it spends."""
        account_id: UUID = self.row["account_id"]
        return account_id

    @property
    def policy(self) -> KeyPolicy:
        """What it may do."""
        return policy_of(self.row)

    def new_account(self) -> AccountEntry:
        """Its account, of whose limits nothing is known yet."""
        return AccountEntry(self.account_id, self.row["organization_id"], self.row["credit_limit_id"])

    def entry(self, account: AccountEntry) -> KeyEntry:
        """The key as workers keep it."""
        row = self.row
        return KeyEntry(
            key_id=row["id"],
            account=account,
            user_id=row["user_id"],
            policy=self.policy,
            expires_us=to_us(row["expires_at"]) if row["expires_at"] else None,
            team_id=row["team_id"],
            origin_id=row["origin_id"] if row["origin_id"] != row["id"] else None,
        )


async def find_key(connection: Connection, digest: bytes) -> FoundKey | None:
    """The live key with this digest."""
    row = await connection.fetchrow(_SQL["find_key"], digest)
    return None if row is None else FoundKey(row)


def policy_of(row: asyncpg.Record) -> KeyPolicy:
    """What the key of a row may do."""
    networks = row["networks"]
    return _shared(
        KeyPolicy(
            models=tuple(row["models"]) if row["models"] is not None else None,
            operations=tuple(row["operations"]) if row["operations"] is not None else None,
            networks=tuple(ip_network(network) for network in networks) if networks is not None else None,
            highest_request_nanos=row["highest_request_nanos"],
        )
    )


@lru_cache(maxsize=POLICIES_SHARED)
def _shared(policy: KeyPolicy) -> KeyPolicy:
    """One object for equal policies: most keys of a worker may do the same."""
    return policy
