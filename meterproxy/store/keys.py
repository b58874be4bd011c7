"""Keys: made, listed, rotated and revoked; and found by digest for the directory."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final
from uuid import UUID

import asyncpg
import orjson

from meterproxy.core.account import AccountEntry
from meterproxy.core.key import KEY_PREFIX, KeyEntry, KeyPolicy, digest_of
from meterproxy.errors import ApiError, Case
from meterproxy.store.ids import new_id
from meterproxy.store.instants import to_us
from meterproxy.store.pool import Connection, transaction
from meterproxy.store.sqlfiles import queries

_SQL: Final = queries("keys")
_ACCOUNTS: Final = queries("accounts")

VISIBLE_CHARACTERS: Final = 11
"""How much of a secret is kept to recognise it: the prefix and eight characters."""


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key as people read it; the secret is not in it."""

    id: UUID
    account_id: UUID
    user_id: UUID
    name: str
    description: str
    prefix: str
    models: list[str] | None
    operations: list[str] | None
    networks: list[IPv4Network | IPv6Network] | None
    highest_request_nanos: int | None
    expires_at: datetime | None
    revoked_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key at the only moment when its secret is known."""

    row: KeyRow
    secret: str


class Keys:
    """What is done with keys; every change takes a number of the change counter, so that workers hear of it."""

    def __init__(self, pool: asyncpg.Pool, actor: str = "operator") -> None:
        self._pool = pool
        self._actor = actor

    async def create(
        self,
        account_id: UUID,
        name: str,
        *,
        user_id: UUID | None = None,
        description: str = "",
        policy: KeyPolicy | None = None,
        expires_at: datetime | None = None,
    ) -> NewKey:
        """Make a key; without `user_id` it acts for the organization's service user.

        Raises:
            ApiError: NOT_FOUND where the account or the user does not exist or they do not belong together.
        """
        async with transaction(self._pool) as connection:
            owner = await _owner(connection, account_id, user_id)
            new = await _insert(connection, account_id, owner, name, description, policy or KeyPolicy(), expires_at)
            await self._note(connection, "key.create", new.row.id, {"name": name})
            return new

    async def list(
        self, account_id: UUID | None = None, after: UUID | None = None, limit: int = 50
    ) -> Sequence[KeyRow]:
        """Keys in the order they were made, after a cursor."""
        async with transaction(self._pool) as connection:
            return [KeyRow(**row) for row in await connection.fetch(_SQL["list_keys"], account_id, after, limit)]

    async def revoke(self, key_id: UUID) -> KeyRow:
        """End a key; in force fleet-wide within a second. Raises ApiError NOT_FOUND."""
        async with transaction(self._pool) as connection:
            row = await connection.fetchrow(_SQL["revoke_key"], key_id)
            if row is None:
                raise ApiError(Case.NOT_FOUND, f"There is no key {key_id}.")
            await self._note(connection, "key.revoke", key_id, {})
            return KeyRow(**row)

    async def rotate(self, key_id: UUID, grace_seconds: float = 0) -> NewKey:
        """Make a new secret under the same name and policy; the old one dies after `grace_seconds`.

        Raises:
            ApiError: NOT_FOUND where there is no such key or it was revoked.
        """
        async with transaction(self._pool) as connection:
            row = await connection.fetchrow(_SQL["read_key"], key_id)
            if row is None or row["revoked_at"] is not None:
                raise ApiError(Case.NOT_FOUND, f"There is no live key {key_id}.")
            old = KeyRow(**row)
            await connection.execute(_SQL["expire_key"], key_id, grace_seconds)
            new = await _insert(
                connection, old.account_id, old.user_id, old.name, old.description, _policy(row), old.expires_at
            )
            await self._note(connection, "key.rotate", key_id, {"successor": str(new.row.id)})
            return new

    async def _note(self, connection: Connection, action: str, key_id: UUID, detail: dict[str, str]) -> None:
        await connection.execute(
            _ACCOUNTS["add_audit"], self._actor, action, "key", key_id, orjson.dumps(detail).decode()
        )
        await connection.execute(_ACCOUNTS["record_change"], "key", key_id)


async def find_key(pool: asyncpg.Pool, digest: bytes) -> KeyEntry | None:
    """The live key with this digest. Raises StoreUnavailable."""
    async with transaction(pool) as connection:
        row = await connection.fetchrow(_SQL["find_key"], digest)
    if row is None:
        return None
    return KeyEntry(
        key_id=row["id"],
        account=AccountEntry(row["account_id"], row["organization_id"], row["credit_limit_id"]),
        user_id=row["user_id"],
        policy=_policy(row),
        expires_us=to_us(row["expires_at"]) if row["expires_at"] else None,
    )


async def _owner(connection: Connection, account_id: UUID, user_id: UUID | None) -> UUID:
    if user_id is None:
        found: UUID | None = await connection.fetchval(_ACCOUNTS["service_user"], account_id)
        if found is None:
            raise ApiError(Case.NOT_FOUND, f"There is no account {account_id}.", param="account_id")
        return found
    if not await connection.fetchval(_ACCOUNTS["user_belongs"], user_id, account_id):
        raise ApiError(Case.NOT_FOUND, "There is no such user in this account's organization.", param="user_id")
    return user_id


async def _insert(
    connection: Connection,
    account_id: UUID,
    user_id: UUID,
    name: str,
    description: str,
    policy: KeyPolicy,
    expires_at: datetime | None,
) -> NewKey:
    secret = KEY_PREFIX + secrets.token_urlsafe(32)
    row = await connection.fetchrow(
        _SQL["create_key"], new_id(), account_id, user_id, name, description, secret[:VISIBLE_CHARACTERS],
        digest_of(secret.encode()), _list(policy.models), _list(policy.operations), _list(policy.networks),
        policy.highest_request_nanos, expires_at,
    )  # fmt: skip
    assert row is not None
    return NewKey(KeyRow(**row), secret)


def _policy(row: asyncpg.Record) -> KeyPolicy:
    networks = row["networks"]
    return KeyPolicy(
        models=tuple(row["models"]) if row["models"] is not None else None,
        operations=tuple(row["operations"]) if row["operations"] is not None else None,
        networks=tuple(ip_network(network) for network in networks) if networks is not None else None,
        highest_request_nanos=row["highest_request_nanos"],
    )


def _list(values: Sequence[object] | None) -> list[object] | None:
    return list(values) if values is not None else None
