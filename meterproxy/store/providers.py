"""Providers that operators have added, and their keys; each change is a transaction, in the audit log without secrets.

Rules
-----
- A secret (a key, a header's value) is sealed under the master key and bound to its row and its provider's server.
  Nobody is shown more of a key than its last four letters, and nothing of a header but its name.
- Every change takes a number of the change counter, so that workers read all of this again within a second.
- What is removed is forgotten: a key's row stays for the audit log, the sealed secret does not.
- A provider's name stays: usage, and what was made there, are known by it. Nor do secrets follow it to another server.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from meterproxy.core.provider import ProviderTerms
from meterproxy.core.seal import Seal
from meterproxy.errors import ApiError, Case
from meterproxy.store.actor import acting
from meterproxy.store.ids import new_id
from meterproxy.store.pool import Connection, transaction
from meterproxy.store.sealing import Sealing
from meterproxy.store.sqlfiles import queries

_SQL: Final = queries("providers")
_ACCOUNTS: Final = queries("accounts")
_TERMS: Final = tuple(one.name for one in fields(ProviderTerms))

PURPOSE: Final = b"provider keys"
MOST_PROVIDERS: Final = 100
MOST_KEYS: Final = 20
"""Of one provider."""
MOST_HEADERS: Final = 20
"""Of one provider."""
VISIBLE: Final = 4

Headers = tuple[tuple[str, str], ...]
"""Names and values, which are secrets."""


@dataclass(frozen=True, slots=True)
class ProviderRow:
    """A provider beside the configured ones; of its headers the names."""

    id: UUID
    name: str
    terms: ProviderTerms
    header_names: tuple[str, ...]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ProviderKeyRow:
    """A key of such a provider, without its secret; not `usable` where it cannot be opened here, or for its server."""

    id: UUID
    provider_id: UUID
    name: str
    last_four: str
    created_at: datetime
    changed_at: datetime
    usable: bool


@dataclass(frozen=True, slots=True)
class OpenedProvider:
    """A provider with its secrets, keys in the order of their making; keys that could not be opened are not there."""

    name: str
    terms: ProviderTerms
    headers: Headers = field(default=(), repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)


class ProviderRows:
    """What is done with them. `seal` seals and opens; `earlier` only open, while a master key is being replaced."""

    def __init__(self, pool: asyncpg.Pool, seal: Seal, earlier: Sequence[Seal] = (), actor: str = "operator") -> None:
        self._pool = pool
        self._sealing = Sealing(seal, earlier)
        self._actor = actor

    async def add(self, name: str, terms: ProviderTerms, headers: Mapping[str, str] | None = None) -> ProviderRow:
        """Add a provider; it serves once it has a key. Raises ApiError CONFLICT (name taken, too many)."""
        provider_id = new_id()
        try:
            async with transaction(self._pool) as connection:
                if len(await connection.fetch(_SQL["list_providers"], MOST_PROVIDERS, None)) >= MOST_PROVIDERS:
                    raise ApiError(Case.CONFLICT, f"At most {MOST_PROVIDERS} providers may be added.")
                await connection.execute(_SQL["add_provider"], provider_id, name, *_columns(terms))
                await self._set_headers(connection, provider_id, terms, headers or {})
                told = {"name": name, "url": terms.base_url, **({"headers": sorted(headers)} if headers else {})}
                await self._note(connection, "provider.add", "provider", provider_id, told)
                return await _read(connection, provider_id)
        except asyncpg.UniqueViolationError as error:
            raise ApiError(Case.CONFLICT, "A provider of this name is there already.", param="name") from error

    async def list(self) -> Sequence[ProviderRow]:
        """In the order of their making."""
        async with transaction(self._pool, readonly=True) as connection:
            return [_row(row) for row in await connection.fetch(_SQL["list_providers"], MOST_PROVIDERS, None)]

    async def change(
        self, provider_id: UUID, changes: Mapping[str, Any], headers: Mapping[str, str | None] | None = None
    ) -> ProviderRow:
        """Change some of a provider's terms, and set some of its headers or, with None, forget them.

        Where nothing is another nothing is written, neither there nor in the audit log. Keys and headers are forgotten
        where they might be sent to somebody else than whom they were given for.

        Raises:
            ApiError: NOT_FOUND, CONFLICT (too many headers).
        """
        async with transaction(self._pool) as connection:
            old = await _lock(connection, provider_id)
            terms = replace(old.terms, **changes)
            known = {name.lower() for name in old.header_names}
            wish = {name: text for name, text in (headers or {}).items() if text is not None or name.lower() in known}
            if terms == old.terms and not wish:
                return old
            await connection.execute(_SQL["change_provider"], provider_id, *_columns(terms))
            told = _told_changes(old.terms, terms)
            if not terms.may_keep_secrets_of(old.terms):
                told |= await _forget_secrets(connection, provider_id)
            told |= await self._set_headers(connection, provider_id, terms, wish)
            await self._note(connection, "provider.change", "provider", provider_id, told)
            return await _read(connection, provider_id)

    async def remove(self, provider_id: UUID) -> None:
        """Remove a provider with its keys. Raises ApiError NOT_FOUND."""
        async with transaction(self._pool) as connection:
            await _lock(connection, provider_id)  # alone with it, so that no key comes in meanwhile
            await _forget_secrets(connection, provider_id)
            await connection.execute(_SQL["remove_provider"], provider_id)
            await self._note(connection, "provider.remove", "provider", provider_id, {})

    async def reached(self, provider_id: UUID) -> OpenedProvider:
        """One of them without its keys, to try one there. Raises ApiError NOT_FOUND, CONFLICT (no opened header)."""
        async with transaction(self._pool) as connection:
            row = await _lock(connection, provider_id)
            headers = await self._headers(connection, {provider_id: row}, provider_id)
        if provider_id not in headers:
            raise ApiError(Case.CONFLICT, "A header of this provider cannot be opened: set it again.")
        return OpenedProvider(row.name, row.terms, headers[provider_id])

    async def provider_of_key(self, key_id: UUID) -> UUID:
        """Whose key it is. Raises ApiError NOT_FOUND."""
        async with transaction(self._pool) as connection:
            return UUID(str((await _lock_key(connection, key_id))["provider_id"]))

    async def add_key(
        self, provider_id: UUID, secret: str, name: str = "", tried_at: ProviderTerms | None = None
    ) -> ProviderKeyRow:
        """Add a key to a provider.

        Args:
            tried_at: the terms on which it was taken; None: it was not tried.

        Raises:
            ApiError: NOT_FOUND, CONFLICT (too many, or the provider is somewhere else by now).
        """
        async with transaction(self._pool) as connection:
            provider = await _lock(connection, provider_id)
            if tried_at is not None and not provider.terms.may_keep_secrets_of(tried_at):
                raise ApiError(Case.CONFLICT, "The provider's address was changed meanwhile: try the key there.")
            if await connection.fetchval(_SQL["count_keys"], provider_id) >= MOST_KEYS:
                raise ApiError(Case.CONFLICT, f"A provider has {MOST_KEYS} keys at most.")
            key_id = new_id()
            row = await connection.fetchrow(
                _SQL["add_key"], key_id, provider_id, name, _last_four(secret),
                self._sealing.sealed(secret, _bound(key_id, provider.terms.base_url)), self._sealing.key_id,
            )  # fmt: skip
            assert row is not None
            await self._note(connection, "provider_key.add", "provider_key", key_id, {"provider": str(provider_id)})
            return ProviderKeyRow(**row, usable=True)

    async def keys(self) -> Sequence[ProviderKeyRow]:
        """All keys, in the order of their making."""
        async with transaction(self._pool, readonly=True) as connection:
            rows = await connection.fetch(_SQL["list_keys"], MOST_PROVIDERS * MOST_KEYS)
        return [self._key_row(row) for row in rows]

    async def rotate_key(self, key_id: UUID, secret: str) -> ProviderKeyRow:
        """Put another secret in the place of a key's. Raises ApiError NOT_FOUND."""
        async with transaction(self._pool) as connection:
            old = await _lock_key(connection, key_id)
            sealed = self._sealing.sealed(secret, _bound(key_id, old["base_url"]))
            row = await connection.fetchrow(
                _SQL["change_key"], key_id, _last_four(secret), sealed, self._sealing.key_id
            )
            assert row is not None
            await self._note(connection, "provider_key.rotate", "provider_key", key_id, {})
            return ProviderKeyRow(**row, usable=True)

    async def remove_key(self, key_id: UUID) -> None:
        """Forget a key. Raises ApiError NOT_FOUND."""
        async with transaction(self._pool) as connection:
            if await connection.fetchval(_SQL["remove_key"], key_id) is None:
                raise ApiError(Case.NOT_FOUND, f"There is no provider key {key_id}.")
            await self._note(connection, "provider_key.remove", "provider_key", key_id, {})

    async def opened(self) -> Sequence[OpenedProvider]:
        """All providers that have a key which can be opened, and no header that cannot. Raises StoreUnavailable."""
        # of one moment: a key must not meet the address that its provider had before it was given
        async with transaction(self._pool, isolation="repeatable_read", readonly=True) as connection:
            rows = {
                row["id"]: _row(row) for row in await connection.fetch(_SQL["list_providers"], MOST_PROVIDERS, None)
            }
            headers = await self._headers(connection, rows, None)
            keys = await connection.fetch(_SQL["open_keys"])
        secrets: dict[UUID, list[str]] = defaultdict(list)
        for key in keys:
            secret = self._opened(key, "key")
            if secret is not None:
                secrets[key["provider_id"]].append(secret)
        return [
            OpenedProvider(row.name, row.terms, headers[row.id], tuple(secrets[row.id]))
            for row in rows.values()
            if row.id in headers and row.id in secrets
        ]

    async def reseal(self) -> tuple[int, int]:
        """Seal under today's master key what is sealed under earlier ones; how many were, and how many cannot be."""
        done = failed = 0
        async with transaction(self._pool) as connection:
            for what in ("key", "header"):
                for row in await connection.fetch(_SQL[f"{what}s_under_others"], self._sealing.key_id):
                    secret = self._opened(row, what)
                    if secret is None:
                        failed += 1
                        continue
                    sealed = self._sealing.sealed(secret, _bound(row["id"], row["base_url"]))
                    await connection.execute(_SQL[f"reseal_{what}"], row["id"], sealed, self._sealing.key_id)
                    done += 1
            if done:
                await self._note(connection, "provider_key.reseal", "provider_key", None, {"secrets": done})
        return done, failed

    async def _set_headers(
        self, connection: Connection, provider_id: UUID, terms: ProviderTerms, headers: Mapping[str, str | None]
    ) -> dict[str, Any]:
        """Put headers in the place of those of their names, or nothing; what the audit log is told of it."""
        if not headers:
            return {}
        await connection.fetch(_SQL["forget_headers"], provider_id, [name.lower() for name in headers])
        for name, text in headers.items():
            if text is not None:
                header_id = new_id()
                sealed = self._sealing.sealed(text, _bound(header_id, terms.base_url))
                await connection.execute(_SQL["add_header"], header_id, provider_id, name, sealed, self._sealing.key_id)
        if len((await _read(connection, provider_id)).header_names) > MOST_HEADERS:
            raise ApiError(Case.CONFLICT, f"A provider has {MOST_HEADERS} headers at most.", param="headers")
        kept = sorted(name for name, text in headers.items() if text is not None)
        gone = sorted(name for name, text in headers.items() if text is None)
        return {**({"headers_set": kept} if kept else {}), **({"headers_removed": gone} if gone else {})}

    async def _headers(
        self, connection: Connection, rows: Mapping[UUID, ProviderRow], provider_id: UUID | None
    ) -> dict[UUID, Headers]:
        """The headers of one provider or of all; whoever has one that cannot be opened is not there."""
        found: dict[UUID, list[tuple[str, str]]] = {one: [] for one in rows}
        for row in await connection.fetch(_SQL["open_headers"], provider_id):
            text = self._opened(row, "header")
            if text is None:
                found.pop(row["provider_id"], None)
            elif row["provider_id"] in found:
                found[row["provider_id"]].append((row["name"], text))
        return {one: tuple(headers) for one, headers in found.items()}

    def _key_row(self, row: asyncpg.Record) -> ProviderKeyRow:
        """A key that is listed, as it is kept."""
        told = dict(row)
        sealed, master_key_id, base_url = (told.pop(name) for name in ("sealed", "master_key_id", "base_url"))
        usable = self._sealing.opens(sealed, _bound(row["id"], base_url), master_key_id)
        return ProviderKeyRow(**told, usable=usable)

    def _opened(self, row: asyncpg.Record, what: str) -> str | None:
        bound_to = _bound(row["id"], row["base_url"])
        return self._sealing.opened(row["sealed"], bound_to, row["master_key_id"], {f"provider_{what}": str(row["id"])})

    async def _note(
        self, connection: Connection, action: str, kind: str, subject_id: UUID | None, detail: dict[str, Any]
    ) -> None:
        await connection.execute(
            _ACCOUNTS["add_audit"], acting(self._actor), action, kind, subject_id, orjson.dumps(detail).decode()
        )
        await connection.execute(_ACCOUNTS["record_change"], "provider", subject_id)


def _last_four(secret: str) -> str:
    """All that is ever shown of a secret; nothing of one that is so short that it would tell much."""
    return secret[-VISIBLE:] if len(secret) >= 4 * VISIBLE else ""


def _bound(row_id: UUID, base_url: str) -> bytes:
    """What a secret is sealed for: its row, and the server that it is sent to."""
    return row_id.bytes + ProviderTerms(base_url).server.encode()


def _columns(terms: ProviderTerms) -> tuple[Any, ...]:
    """Terms as a row has them, in the order of its columns."""
    return tuple(getattr(terms, name) for name in _TERMS)


def _row(row: asyncpg.Record) -> ProviderRow:
    terms = {name: row[name] for name in _TERMS} | {"models": tuple(row["models"])}
    return ProviderRow(row["id"], row["name"], ProviderTerms(**terms), tuple(row["header_names"]), row["created_at"])


def _told_changes(old: ProviderTerms, new: ProviderTerms) -> dict[str, Any]:
    """What is another, as the audit log is told: before and after, certificates by their digest."""
    changed = [name for name in _TERMS if getattr(old, name) != getattr(new, name)]
    told = {name: _told(name, getattr(new, name)) for name in changed}
    return told | {f"{name}_before": _told(name, getattr(old, name)) for name in changed}


def _told(name: str, value: Any) -> Any:
    return f"sha256:{sha256(value.encode()).hexdigest()}" if name == "tls_ca" and value is not None else value


async def _forget_secrets(connection: Connection, provider_id: UUID) -> dict[str, Any]:
    """Forget a provider's keys and headers; what the audit log is told of it."""
    keys = len(await connection.fetch(_SQL["forget_keys"], provider_id))
    headers = [row["name"] for row in await connection.fetch(_SQL["forget_headers"], provider_id, None)]
    return {**({"keys_forgotten": keys} if keys else {}), **({"headers_forgotten": headers} if headers else {})}


async def _read(connection: Connection, provider_id: UUID) -> ProviderRow:
    row = await connection.fetchrow(_SQL["list_providers"], 1, provider_id)
    if row is None:
        raise ApiError(Case.NOT_FOUND, f"There is no provider {provider_id}.", param="provider_id")
    return _row(row)


async def _lock(connection: Connection, provider_id: UUID) -> ProviderRow:
    """A provider that nobody else changes meanwhile."""
    await connection.execute(_SQL["lock_provider"], provider_id)
    return await _read(connection, provider_id)


async def _lock_key(connection: Connection, key_id: UUID) -> asyncpg.Record:
    row = await connection.fetchrow(_SQL["lock_key"], key_id)
    if row is None:
        raise ApiError(Case.NOT_FOUND, f"There is no provider key {key_id}.")
    return row
