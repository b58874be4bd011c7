"""Providers and their keys: the operator's endpoints. A secret goes in and never comes out."""

from datetime import datetime
from typing import Final, Self
from uuid import UUID

from meterproxy.control import answers
from meterproxy.control.access import Permission
from meterproxy.control.answers import Answer
from meterproxy.control.call import Call, Services
from meterproxy.control.provider_bodies import ChangedProvider, ChangedProviderKey, NewProvider, NewProviderKey
from meterproxy.control.route import Route
from meterproxy.errors import Case
from meterproxy.proxy.probe import probe
from meterproxy.store.providers import OpenedProvider, ProviderKeyRow, ProviderRow


class Timeouts(Answer):
    """How long a provider is waited for."""

    connect_seconds: float
    first_byte_seconds: float
    between_bytes_seconds: float

    @classmethod
    def of(cls, patient: object) -> Self:
        return cls.model_validate(patient, from_attributes=True)


class StoredProvider(Answer):
    """A provider beside the configured ones; of its headers the names are told, never the values."""

    id: UUID
    name: str
    base_url: str
    prices: str
    models: list[str]
    header_names: list[str]
    tls_ca: str | None
    timeouts: Timeouts
    created_at: datetime

    @classmethod
    def of(cls, row: ProviderRow) -> Self:
        return cls(
            id=row.id,
            name=row.name,
            base_url=row.terms.base_url,
            prices=row.terms.prices,
            models=list(row.terms.models),
            header_names=list(row.header_names),
            tls_ca=row.terms.tls_ca,
            timeouts=Timeouts.of(row.terms),
            created_at=row.created_at,
        )


class ConfiguredProvider(Answer):
    """A provider of the configuration: it comes before stored ones, and is changed there."""

    name: str
    base_url: str
    prices: str
    models: list[str]
    header_names: list[str]
    tls_ca_file: str | None
    timeouts: Timeouts
    has_key: bool


class Providers(answers.Page[StoredProvider]):
    """All providers: those that are stored, and those of the configuration."""

    configured: list[ConfiguredProvider]


class ProviderKey(Answer):
    """A key of a provider: the last four characters are all that is told of its secret.

    One that is not `usable` cannot be opened: it was sealed under another master key than those that are configured, or
    for another server than its provider's.
    """

    id: UUID
    provider_id: UUID
    name: str
    last_four: str
    created_at: datetime
    changed_at: datetime
    usable: bool

    @classmethod
    def of(cls, row: ProviderKeyRow) -> Self:
        return cls(
            id=row.id,
            provider_id=row.provider_id,
            name=row.name,
            last_four=row.last_four,
            created_at=row.created_at,
            changed_at=row.changed_at,
            usable=row.usable,
        )


async def listed(on: Services, _call: Call) -> Providers:
    """Providers, in the order in which they are looked through for a model."""
    configured = [
        ConfiguredProvider(
            name=name,
            base_url=provider.base_url,
            prices=provider.prices,
            models=list(provider.models),
            header_names=list(provider.headers),
            tls_ca_file=None if provider.tls_ca_file is None else str(provider.tls_ca_file),
            timeouts=Timeouts.of(provider.timeouts),
            has_key=provider.api_key is not None,
        )
        for name, provider in on.configured.items()
    ]
    stored = [StoredProvider.of(row) for row in await on.providers.list()]
    return Providers(data=stored, next_cursor=None, configured=configured)


async def added(on: Services, call: Call) -> StoredProvider:
    """Add a provider."""
    new = call.body_as(NewProvider)
    return StoredProvider.of(await on.providers.add(new.name, new.terms(), new.header_values()))


async def changed(on: Services, call: Call) -> StoredProvider:
    """Change a provider."""
    wish = call.body_as(ChangedProvider)
    return StoredProvider.of(await on.providers.change(call.id(), wish.changes(), wish.header_values()))


async def removed(on: Services, call: Call) -> None:
    """Remove a provider with its keys."""
    await on.providers.remove(call.id())


async def keys(on: Services, _call: Call) -> answers.Page[ProviderKey]:
    """Keys of all providers, in the order of their making."""
    return answers.Page[ProviderKey](data=[ProviderKey.of(row) for row in await on.providers.keys()], next_cursor=None)


async def tried(place: OpenedProvider, secret: str) -> int:
    """How many models a provider lists for a key. Raises ApiError MALFORMED where it does not take it."""
    return await probe(place.terms, secret, place.headers)


async def key_added(on: Services, call: Call) -> ProviderKey:
    """Add a key."""
    new = call.body_as(NewProviderKey)
    secret = new.secret.get_secret_value()
    tried_at = None
    if new.test:
        place = await on.providers.reached(new.provider_id)
        await tried(place, secret)
        tried_at = place.terms
    return ProviderKey.of(await on.providers.add_key(new.provider_id, secret, new.name, tried_at))


async def key_rotated(on: Services, call: Call) -> ProviderKey:
    """Put another secret in the place of a key's."""
    changed = call.body_as(ChangedProviderKey)
    secret = changed.secret.get_secret_value()
    if changed.test:
        await tried(await on.providers.reached(await on.providers.provider_of_key(call.id())), secret)
    return ProviderKey.of(await on.providers.rotate_key(call.id(), secret))


async def key_removed(on: Services, call: Call) -> None:
    """Forget a key."""
    await on.providers.remove_key(call.id())


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="GET",
        path="/api/admin/providers",
        permission=Permission.OPERATE,
        endpoint=listed,
        summary="Providers that were added, and those of the configuration, which come first",
        answer=Providers,
    ),
    Route(
        method="POST",
        path="/api/admin/providers",
        permission=Permission.OPERATE,
        endpoint=added,
        summary="Add a provider; it serves once it has a key",
        body=NewProvider,
        answer=StoredProvider,
        status=201,
        refusals=(Case.CONFLICT,),
    ),
    Route(
        method="PATCH",
        path="/api/admin/providers/{id}",
        permission=Permission.OPERATE,
        endpoint=changed,
        summary="Change a provider; at another host, or trusting others, it begins without keys and headers",
        body=ChangedProvider,
        answer=StoredProvider,
        refusals=(Case.CONFLICT,),
    ),
    Route(
        method="DELETE",
        path="/api/admin/providers/{id}",
        permission=Permission.OPERATE,
        endpoint=removed,
        summary="Remove a provider with its keys",
        status=204,
    ),
    Route(
        method="GET",
        path="/api/admin/provider-keys",
        permission=Permission.OPERATE,
        endpoint=keys,
        summary="Keys of providers, without their secrets",
        answer=answers.Page[ProviderKey],
    ),
    Route(
        method="POST",
        path="/api/admin/provider-keys",
        permission=Permission.OPERATE,
        endpoint=key_added,
        summary="Add a key, if the provider takes it; in force fleet-wide within a second",
        body=NewProviderKey,
        answer=ProviderKey,
        status=201,
        refusals=(Case.CONFLICT,),
    ),
    Route(
        method="POST",
        path="/api/admin/provider-keys/{id}/rotate",
        permission=Permission.OPERATE,
        endpoint=key_rotated,
        summary="Put another secret in the place of a key's",
        body=ChangedProviderKey,
        answer=ProviderKey,
        refusals=(Case.CONFLICT,),
    ),
    Route(
        method="DELETE",
        path="/api/admin/provider-keys/{id}",
        permission=Permission.OPERATE,
        endpoint=key_removed,
        summary="Forget a key",
        status=204,
    ),
)
