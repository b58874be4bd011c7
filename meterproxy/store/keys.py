"""Keys: made, listed, changed, rotated and revoked, by people.

Rules
-----
- A key that another one was rotated to goes on under the limits of the first of the chain, `origin_id`. The old one
  may come to its end sooner than it was given then, not later.
- Every change takes a number of the change counter, so that workers hear of it.
- A key is somebody's as long as he belongs to its organization; his membership is held while one is made.
- Locks are taken in one order: the membership, the account before its keys and limits, the change counter last.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg
import orjson

from meterproxy.core.key import KEY_PREFIX, KeyPolicy, digest_of
from meterproxy.core.limit import Scope
from meterproxy.core.limit_terms import LimitTerms
from meterproxy.errors import ApiError, Case
from meterproxy.store.actor import acting
from meterproxy.store.found_keys import FoundKey, find_key, policy_of
from meterproxy.store.ids import new_id
from meterproxy.store.limits import lock_account, make_limit
from meterproxy.store.pool import Connection, transaction
from meterproxy.store.sqlfiles import queries

_SQL: Final = queries("keys")
_ACCOUNTS: Final = queries("accounts")
_TEAMS: Final = queries("teams")

VISIBLE_CHARACTERS: Final = 11
"""How much of a secret is kept to recognise it: the prefix and eight characters."""

MOST_OF_USER: Final = 500
"""How many live keys a user may have in an organization."""
MOST_OF_ACCOUNT: Final = 100_000
"""How many live keys an organization may have: workers keep each that is in use."""


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key as people read it; the secret is not in it. `origin_id`: the first key of its chain of rotations."""

    id: UUID
    account_id: UUID
    user_id: UUID
    team_id: UUID | None
    origin_id: UUID
    name: str
    description: str
    prefix: str
    models: list[str] | None
    operations: list[str] | None
    networks: list[IPv4Network | IPv6Network] | None
    highest_request_nanos: int | None
    reads_usage: bool
    expires_at: datetime | None
    revoked_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key at the only moment when its secret is known."""

    row: KeyRow
    secret: str


class Keys:
    """What is done with keys, by people. `new_limits` are made with each new key; a rotated one keeps what it has."""

    def __init__(self, pool: asyncpg.Pool, actor: str = "operator", new_limits: Sequence[LimitTerms] = ()) -> None:
        self._pool = pool
        self._actor = actor
        self._new_limits = new_limits

    async def create(
        self,
        account_id: UUID,
        name: str,
        *,
        user_id: UUID | None = None,
        team_id: UUID | None = None,
        description: str = "",
        policy: KeyPolicy | None = None,
        expires_at: datetime | None = None,
        reads_usage: bool = False,
    ) -> NewKey:
        """Make a key; without `user_id` it acts for the organization's service user.

        `reads_usage`: whoever has it may read everybody's usage in the organization.

        Raises:
            ApiError: NOT_FOUND where the account, user or team does not exist or they do not belong together; MALFORMED
                where it would end before it begins; CONFLICT where there are as many live ones as there may be.
        """
        if expires_at is not None and expires_at <= datetime.now(UTC):
            raise ApiError(Case.MALFORMED, "expires_at: is over already.", param="expires_at")
        async with transaction(self._pool) as connection:
            owner = await _owner(connection, account_id, user_id)
            await _check_team(connection, account_id, team_id)
            wish = _Wish(
                account_id, owner, team_id, None, name, description, policy or KeyPolicy(), expires_at,
                reads_usage,
            )  # fmt: skip
            await lock_account(connection, account_id)
            await _check_room(connection, account_id, owner, is_service=user_id is None)
            new = await _insert(connection, wish)
            await self._limit(connection, account_id, new.row.id)
            await self._note(connection, "key.create", new.row.id, {"name": name})
            return new

    async def list(
        self, account_id: UUID | None = None, after: UUID | None = None, limit: int = 50, *, user_id: UUID | None = None
    ) -> Sequence[KeyRow]:
        """Keys in the order they were made, after a cursor; of one account, of one user."""
        async with transaction(self._pool) as connection:
            rows = await connection.fetch(_SQL["list_keys"], account_id, after, limit, user_id)
            return [KeyRow(**row) for row in rows]

    async def read(self, key_id: UUID, account_id: UUID) -> KeyRow | None:
        """One key, if it is of this account."""
        async with transaction(self._pool, readonly=True) as connection:
            row = await connection.fetchrow(_SQL["read_key"], key_id, account_id)
        return None if row is None else KeyRow(**row)

    async def latest(self, account_id: UUID, user_id: UUID | None) -> UUID | None:
        """The live key that a user made last; without one, the organization's service user's."""
        async with transaction(self._pool, readonly=True) as connection:
            found: UUID | None = await connection.fetchval(_SQL["latest_key"], account_id, user_id)
            return found

    async def credit_limit(self, account_id: UUID) -> UUID:
        """The limit that an account's credit is. Raises ApiError NOT_FOUND."""
        async with transaction(self._pool, readonly=True) as connection:
            found: UUID | None = await connection.fetchval(_ACCOUNTS["credit_limit"], account_id)
        if found is None:
            raise ApiError(Case.NOT_FOUND, f"There is no account {account_id}.")
        return found

    async def find(self, digest: bytes) -> "FoundKey | None":
        """The live key with this digest."""
        async with transaction(self._pool, readonly=True) as connection:
            return await find_key(connection, digest)

    async def change(self, key_id: UUID, changes: Mapping[str, Any]) -> KeyRow:
        """Change some of a key's name, description, team, policy and expiry; in force fleet-wide within a second.

        Raises:
            ApiError: NOT_FOUND where there is no such key, it was revoked, or the team is not of its organization;
                CONFLICT where it was rotated and would live longer, or has come to its end and there are as many live
                ones as there may be.
        """
        async with transaction(self._pool) as connection:
            if "expires_at" in changes:
                await _lock_account_of(connection, key_id)
            row = await connection.fetchrow(_SQL["lock_key"], key_id)
            if row is None or row["revoked_at"] is not None:
                raise ApiError(Case.NOT_FOUND, f"There is no live key {key_id}.")
            old = KeyRow(**row)
            new = replace(old, **changes)
            if old.expires_at is not None and (new.expires_at is None or new.expires_at > old.expires_at):
                end = await connection.fetchrow(_SQL["read_end"], key_id)
                _check_latest(key_id, end)
                if end is not None and end["has_ended"]:
                    await _check_room(connection, old.account_id, old.user_id)
            if new.team_id != old.team_id:  # whose own was removed may stay in it
                await _check_team(connection, new.account_id, new.team_id)
            changed = await connection.fetchrow(
                _SQL["change_key"], key_id, new.name, new.description, _list(new.models), _list(new.operations),
                _list(new.networks), new.highest_request_nanos, new.expires_at, new.team_id, new.reads_usage,
            )  # fmt: skip
            assert changed is not None
            await self._note(connection, "key.change", key_id, {name: str(value) for name, value in changes.items()})
            return KeyRow(**changed)

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
            ApiError: NOT_FOUND where there is no such key or it was revoked; CONFLICT where it has come to its end or
                was rotated already, so that its end would be the new one's too, or where there are as many live ones
                as there may be and this one would live on beside them.
        """
        async with transaction(self._pool) as connection:
            if (whose := await connection.fetchrow(_SQL["whose_key"], key_id)) is not None:
                await _owner(connection, whose["account_id"], whose["user_id"])
            if grace_seconds > 0:
                await _lock_account_of(connection, key_id)
            row = await connection.fetchrow(_SQL["lock_key"], key_id)
            if row is None or row["revoked_at"] is not None:
                raise ApiError(Case.NOT_FOUND, f"There is no live key {key_id}.")
            old = KeyRow(**row)
            _check_going_on(key_id, await connection.fetchrow(_SQL["read_end"], key_id))
            if grace_seconds > 0:
                await _check_room(connection, old.account_id, old.user_id)
            await connection.execute(_SQL["expire_key"], key_id, grace_seconds)
            wish = _Wish(
                old.account_id, old.user_id, old.team_id, old.origin_id, old.name, old.description, policy_of(row),
                old.expires_at, old.reads_usage,
            )  # fmt: skip
            new = await _insert(connection, wish)
            await self._note(connection, "key.rotate", key_id, {"successor": str(new.row.id)})
            return new

    async def chat_secret(self, account_id: UUID, user_id: UUID | None, secret_of: Callable[[UUID], str]) -> str:
        """The secret by which a user chats on an account's credit; his key is made where there is none yet.

        Args:
            user_id: None: the organization's service user.
            secret_of: derives a key's secret from its id, so that nobody has to keep it. Where it derives another one
                than before, or the key has come to its end, the key is replaced.

        Raises:
            ApiError: NOT_FOUND where the user does not belong to the account's organization.
        """

        async def attempt() -> str:
            async with transaction(self._pool) as connection:
                owner = await _owner(connection, account_id, user_id)
                found = await connection.fetchrow(_SQL["find_chat_key"], account_id, owner)
                kept = None if found is None or not found["is_live"] else secret_of(found["id"])
                if found is not None and kept is not None and found["digest"] == digest_of(kept.encode()):
                    return kept
                await self._hold_account(connection, account_id)
                if found is not None:
                    await connection.execute(_SQL["revoke_key"], found["id"])
                    await self._note(connection, "key.revoke", found["id"], {})
                key_id = new_id()
                secret = secret_of(key_id)
                await connection.execute(
                    _SQL["create_chat_key"], key_id, account_id, owner, secret[:VISIBLE_CHARACTERS],
                    digest_of(secret.encode()),
                )  # fmt: skip
                await self._limit(connection, account_id, key_id)
                await self._note(connection, "key.create", key_id, {"name": "chat"})
                return secret

        try:
            return await attempt()
        except asyncpg.UniqueViolationError:  # somebody was faster
            return await attempt()

    async def _hold_account(self, connection: Connection, account_id: UUID) -> None:
        if self._new_limits:
            await lock_account(connection, account_id)

    async def _limit(self, connection: Connection, account_id: UUID, key_id: UUID) -> None:
        for terms in self._new_limits:
            await make_limit(connection, acting(self._actor), account_id, Scope.KEY, key_id, terms, seed=False)

    async def _note(self, connection: Connection, action: str, key_id: UUID, detail: dict[str, str]) -> None:
        await connection.execute(
            _ACCOUNTS["add_audit"], acting(self._actor), action, "key", key_id, orjson.dumps(detail).decode()
        )
        await connection.execute(_ACCOUNTS["record_change"], "key", key_id)


class _Wish(NamedTuple):
    """A key to be made; `origin_id` is None for the first of its chain."""

    account_id: UUID
    user_id: UUID
    team_id: UUID | None
    origin_id: UUID | None
    name: str
    description: str
    policy: KeyPolicy
    expires_at: datetime | None
    reads_usage: bool


async def _owner(connection: Connection, account_id: UUID, user_id: UUID | None) -> UUID:
    if user_id is None:
        found: UUID | None = await connection.fetchval(_ACCOUNTS["service_user"], account_id)
        if found is None:
            raise ApiError(Case.NOT_FOUND, f"There is no account {account_id}.", param="account_id")
        return found
    belongs = await connection.fetchval(_SQL["hold_membership"], user_id, account_id)
    if not belongs and not await connection.fetchval(_ACCOUNTS["is_service_of"], user_id, account_id):
        raise ApiError(Case.NOT_FOUND, "There is no such user in this account's organization.", param="user_id")
    return user_id


async def _lock_account_of(connection: Connection, key_id: UUID) -> None:
    """Have its account to oneself, so that no other key comes to life meanwhile; before the key is locked."""
    if (whose := await connection.fetchrow(_SQL["whose_key"], key_id)) is not None:
        await lock_account(connection, whose["account_id"])


async def _check_room(connection: Connection, account_id: UUID, user_id: UUID, *, is_service: bool = False) -> None:
    """Whether one more key may live, with the account locked.

    Services hand out keys to whomever they serve, and may have all of them.
    """
    live = await connection.fetchrow(_SQL["count_live_keys"], account_id, user_id, MOST_OF_ACCOUNT, MOST_OF_USER)
    assert live is not None
    if live["of_account"] >= MOST_OF_ACCOUNT:
        raise ApiError(Case.CONFLICT, f"An organization has {MOST_OF_ACCOUNT:,} live keys at most: revoke some first.")
    is_service = is_service or await connection.fetchval(_ACCOUNTS["is_service_of"], user_id, account_id)
    if live["of_user"] >= MOST_OF_USER and not is_service:
        raise ApiError(Case.CONFLICT, f"A user has {MOST_OF_USER} live keys at most: revoke some first.")


async def _check_team(connection: Connection, account_id: UUID, team_id: UUID | None) -> None:
    if team_id is not None and not await connection.fetchval(_TEAMS["hold_team"], team_id, account_id):
        raise ApiError(Case.NOT_FOUND, "There is no such team in this account's organization.", param="team_id")


def _check_latest(key_id: UUID, end: asyncpg.Record | None) -> None:
    if end is not None and end["successor_id"] is not None:
        raise ApiError(Case.CONFLICT, f"Key {key_id} was rotated already, to {end['successor_id']}.")


def _check_going_on(key_id: UUID, end: asyncpg.Record | None) -> None:
    _check_latest(key_id, end)
    if end is not None and end["has_ended"]:
        raise ApiError(Case.CONFLICT, f"Key {key_id} has expired: make a new one, or change its end first.")


async def _insert(connection: Connection, wish: _Wish) -> NewKey:
    secret = KEY_PREFIX + secrets.token_urlsafe(32)
    key_id, policy = new_id(), wish.policy
    row = await connection.fetchrow(
        _SQL["create_key"], key_id, wish.account_id, wish.user_id, wish.name, wish.description,
        secret[:VISIBLE_CHARACTERS], digest_of(secret.encode()), _list(policy.models), _list(policy.operations),
        _list(policy.networks), policy.highest_request_nanos, wish.expires_at, wish.team_id, wish.origin_id or key_id,
        wish.reads_usage,
    )  # fmt: skip
    assert row is not None
    return NewKey(KeyRow(**row), secret)


def _list(values: Sequence[object] | None) -> list[object] | None:
    return list(values) if values is not None else None
