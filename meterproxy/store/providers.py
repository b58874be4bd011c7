"""Providers that operators have added, and their keys; each change is a transaction, in the audit log without secrets.

Rules
-----
- A secret is sealed under the master key and bound to its row; nobody is shown more of it than its last four letters.
- Every change takes a number of the change counter, so that workers read all of this again within a second.
- What is removed is forgotten: the row stays for the audit log, the sealed secret does not.
- A provider's name stays: usage, and what was made there, are known by it. Nor does a secret follow it to another host.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import orjson

from meterproxy.core.seal import NONCE_BYTES, Seal, SealBroken
from meterproxy.errors import ApiError, Case
from meterproxy.store.actor import acting
from meterproxy.store.ids import new_id
from meterproxy.store.pool import Connection, transaction
from meterproxy.store.sqlfiles import queries

_SQL: Final = queries("providers")
_ACCOUNTS: Final = queries("accounts")

PURPOSE: Final = b"provider keys"
MOST_PROVIDERS: Final = 100
MOST_KEYS: Final = 20
"""Of one provider."""
VISIBLE: Final = 4

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProviderRow:
    """A provider beside the configured ones."""

    id: UUID
    name: str
    base_url: str
    prices: str
    models: list[str]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ProviderKeyRow:
    """A key of such a provider, without its secret; `master_key_id` names what it is sealed under."""

    id: UUID
    provider_id: UUID
    name: str
    last_four: str
    master_key_id: bytes
    created_at: datetime
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class OpenedProvider:
    """A provider with the secrets of its keys, in the order of their making; what could not be opened is not there."""

    name: str
    base_url: str
    prices: str
    models: tuple[str, ...]
    secrets: tuple[str, ...]


class ProviderRows:
    """What is done with them. `seal` seals and opens; `earlier` only open, while a master key is being replaced."""

    def __init__(self, pool: asyncpg.Pool, seal: Seal, earlier: Sequence[Seal] = (), actor: str = "operator") -> None:
        self._pool = pool
        self._seal = seal
        self._seals = {one.key_id: one for one in (*earlier, seal)}
        self._actor = actor

    async def add(self, name: str, base_url: str, prices: str, models: Sequence[str]) -> ProviderRow:
        """Add a provider; it serves once it has a key. Raises ApiError CONFLICT (name taken, too many)."""
        try:
            async with transaction(self._pool) as connection:
                if len(await connection.fetch(_SQL["list_providers"], MOST_PROVIDERS)) >= MOST_PROVIDERS:
                    raise ApiError(Case.CONFLICT, f"At most {MOST_PROVIDERS} providers may be added.")
                row = await connection.fetchrow(_SQL["add_provider"], new_id(), name, base_url, prices, list(models))
                assert row is not None
                await self._note(connection, "provider.add", "provider", row["id"], {"name": name, "url": base_url})
        except asyncpg.UniqueViolationError as error:
            raise ApiError(Case.CONFLICT, "A provider of this name is there already.", param="name") from error
        return ProviderRow(**row)

    async def list(self) -> Sequence[ProviderRow]:
        """In the order of their making."""
        async with transaction(self._pool, readonly=True) as connection:
            return [ProviderRow(**row) for row in await connection.fetch(_SQL["list_providers"], MOST_PROVIDERS)]

    async def change(
        self,
        provider_id: UUID,
        base_url: str | None = None,
        prices: str | None = None,
        models: Sequence[str] | None = None,
    ) -> ProviderRow:
        """Change where a provider is, whose prices hold, or which models it serves; None: as it is.

        Where nothing is another nothing is written, neither there nor in the audit log.
        Keys are forgotten where the address names another host: each was given for the one that it was tried at.

        Raises:
            ApiError: NOT_FOUND.
        """
        async with transaction(self._pool) as connection:
            old = await _read(connection, provider_id)
            new = replace(old, base_url=base_url or old.base_url, prices=prices or old.prices,
                          models=list(models or old.models))  # fmt: skip
            if new == old:
                return old
            row = await connection.fetchrow(_SQL["change_provider"], provider_id, new.base_url, new.prices, new.models)
            assert row is not None
            moved = _host(old.base_url) != _host(new.base_url)
            forgotten = await connection.fetch(_SQL["forget_keys"], provider_id) if moved else ()
            changed = {
                name: told
                for name in ("base_url", "prices", "models")
                if (told := getattr(new, name)) != getattr(old, name)
            }
            before = {f"{name}_before": getattr(old, name) for name in changed}
            keys = {"keys_forgotten": len(forgotten)} if forgotten else {}
            await self._note(connection, "provider.change", "provider", provider_id, {**changed, **before, **keys})
            return ProviderRow(**row)

    async def remove(self, provider_id: UUID) -> None:
        """Remove a provider with its keys. Raises ApiError NOT_FOUND."""
        async with transaction(self._pool) as connection:
            await _read(connection, provider_id)  # alone with it, so that no key comes in meanwhile
            if await connection.fetchval(_SQL["remove_provider"], provider_id) is None:
                raise ApiError(Case.NOT_FOUND, f"There is no provider {provider_id}.")
            await self._note(connection, "provider.remove", "provider", provider_id, {})

    async def read(self, provider_id: UUID) -> ProviderRow:
        """One of them. Raises ApiError NOT_FOUND."""
        async with transaction(self._pool) as connection:
            return await _read(connection, provider_id)

    async def add_key(
        self, provider_id: UUID, secret: str, name: str = "", tried_at: str | None = None
    ) -> ProviderKeyRow:
        """Add a key to a provider.

        Args:
            tried_at: the address at which it was taken; None: it was not tried.

        Raises:
            ApiError: NOT_FOUND, CONFLICT (too many, or the provider is at another host by now).
        """
        async with transaction(self._pool) as connection:
            provider = await _read(connection, provider_id)
            if tried_at is not None and _host(tried_at) != _host(provider.base_url):
                raise ApiError(Case.CONFLICT, "The provider's address was changed meanwhile: try the key there.")
            if await connection.fetchval(_SQL["count_keys"], provider_id) >= MOST_KEYS:
                raise ApiError(Case.CONFLICT, f"A provider has {MOST_KEYS} keys at most.")
            key_id = new_id()
            row = await connection.fetchrow(
                _SQL["add_key"], key_id, provider_id, name, _last_four(secret), self._sealed(key_id, secret.encode()),
                self._seal.key_id,
            )  # fmt: skip
            assert row is not None
            await self._note(connection, "provider_key.add", "provider_key", key_id, {"provider": str(provider_id)})
            return ProviderKeyRow(**row)

    async def keys(self) -> Sequence[ProviderKeyRow]:
        """All keys, in the order of their making."""
        async with transaction(self._pool, readonly=True) as connection:
            rows = await connection.fetch(_SQL["list_keys"], MOST_PROVIDERS * MOST_KEYS)
        return [ProviderKeyRow(**row) for row in rows]

    async def url_of_key(self, key_id: UUID) -> str:
        """Where a key is used. Raises ApiError NOT_FOUND."""
        async with transaction(self._pool) as connection:
            return str((await _lock_key(connection, key_id))["base_url"])

    async def rotate_key(self, key_id: UUID, secret: str) -> ProviderKeyRow:
        """Put another secret in the place of a key's. Raises ApiError NOT_FOUND."""
        async with transaction(self._pool) as connection:
            await _lock_key(connection, key_id)
            row = await connection.fetchrow(
                _SQL["change_key"], key_id, _last_four(secret), self._sealed(key_id, secret.encode()), self._seal.key_id
            )
            assert row is not None
            await self._note(connection, "provider_key.rotate", "provider_key", key_id, {})
            return ProviderKeyRow(**row)

    async def remove_key(self, key_id: UUID) -> None:
        """Forget a key. Raises ApiError NOT_FOUND."""
        async with transaction(self._pool) as connection:
            if await connection.fetchval(_SQL["remove_key"], key_id) is None:
                raise ApiError(Case.NOT_FOUND, f"There is no provider key {key_id}.")
            await self._note(connection, "provider_key.remove", "provider_key", key_id, {})

    async def opened(self) -> Sequence[OpenedProvider]:
        """All providers that have a key which can be opened. Raises StoreUnavailable."""
        async with transaction(self._pool, readonly=True) as connection:
            rows = await connection.fetch(_SQL["open_all"])
        found: dict[UUID, tuple[asyncpg.Record, list[str]]] = {}
        for row in rows:
            secret = self._opened(row["key_id"], row["sealed"], row["master_key_id"])
            if secret is not None:
                found.setdefault(row["id"], (row, []))[1].append(secret.decode())
        return [
            OpenedProvider(row["name"], row["base_url"], row["prices"], tuple(row["models"]), tuple(secrets))
            for row, secrets in found.values()
        ]

    async def reseal(self) -> tuple[int, int]:
        """Seal under today's master key what is sealed under earlier ones; how many were, and how many cannot be."""
        done = failed = 0
        async with transaction(self._pool) as connection:
            for row in await connection.fetch(_SQL["sealed_under_others"], self._seal.key_id):
                secret = self._opened(row["id"], row["sealed"], row["master_key_id"])
                if secret is None:
                    failed += 1
                    continue
                await connection.fetchrow(
                    _SQL["change_key"], row["id"], _last_four(secret.decode()), self._sealed(row["id"], secret),
                    self._seal.key_id,
                )  # fmt: skip
                done += 1
            if done:
                await self._note(connection, "provider_key.reseal", "provider_key", None, {"keys": done})
        return done, failed

    def _sealed(self, key_id: UUID, secret: bytes) -> bytes:
        return self._seal.seal(secret, key_id.bytes, os.urandom(NONCE_BYTES))

    def _opened(self, key_id: UUID, sealed: bytes, master_key_id: bytes) -> bytes | None:
        seal = self._seals.get(master_key_id)
        if seal is None:
            _log.error("a provider key is sealed under another master_key", extra={"provider_key": str(key_id)})
            return None
        try:
            return seal.open(sealed, key_id.bytes)
        except SealBroken:
            _log.error("a provider key is damaged", extra={"provider_key": str(key_id)})
            return None

    async def _note(
        self, connection: Connection, action: str, kind: str, subject_id: UUID | None, detail: dict[str, Any]
    ) -> None:
        await connection.execute(
            _ACCOUNTS["add_audit"], acting(self._actor), action, kind, subject_id, orjson.dumps(detail).decode()
        )
        await connection.execute(_ACCOUNTS["record_change"], "provider", subject_id)


def _host(url: str) -> tuple[str, str]:
    """Whom a secret is sent to."""
    scheme, host, *_ = urlsplit(url)
    return scheme, host


def _last_four(secret: str) -> str:
    """All that is ever shown of a secret; nothing of one that is so short that it would tell much."""
    return secret[-VISIBLE:] if len(secret) >= 4 * VISIBLE else ""


async def _read(connection: Connection, provider_id: UUID) -> ProviderRow:
    row = await connection.fetchrow(_SQL["read_provider"], provider_id)
    if row is None:
        raise ApiError(Case.NOT_FOUND, f"There is no provider {provider_id}.", param="provider_id")
    return ProviderRow(**row)


async def _lock_key(connection: Connection, key_id: UUID) -> asyncpg.Record:
    row = await connection.fetchrow(_SQL["lock_key"], key_id)
    if row is None:
        raise ApiError(Case.NOT_FOUND, f"There is no provider key {key_id}.")
    return row
