"""Providers and their keys: the operator's endpoints. A secret goes in and never comes out."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Final, Self
from uuid import UUID

from pydantic import AfterValidator, Field, SecretStr, StrictBool

from meterproxy.catalog.catalog import known_prices
from meterproxy.control import answers, bodies
from meterproxy.control.access import Permission
from meterproxy.control.answers import Answer
from meterproxy.control.call import Call, Services
from meterproxy.control.route import Route
from meterproxy.errors import Case, ConfigError
from meterproxy.proxy.probe import probe
from meterproxy.proxy.upstream import Origin
from meterproxy.store.providers import ProviderKeyRow


def _address(text: str) -> str:
    try:
        Origin.from_base_url(text)
    except ConfigError as error:
        raise ValueError(str(error).removeprefix("base_url ")) from error
    return text


def _printable(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("must be printable ASCII without spaces")
    return secret


Secret = Annotated[SecretStr, Field(min_length=1, max_length=1000), AfterValidator(_printable)]
ProviderName = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


Address = Annotated[str, Field(max_length=500), AfterValidator(_address)]
Prices = Annotated[bodies.Name, AfterValidator(known_prices)]


class NewProvider(bodies.Body):
    """A provider that speaks OpenAI's dialect; it serves once it has a key. `models` are patterns."""

    name: ProviderName
    base_url: Address
    prices: Prices = "openai"
    models: Annotated[tuple[bodies.Name, ...], Field(min_length=1, max_length=100)] = ("*",)


class ChangedProvider(bodies.Body):
    """What may change of a provider; what is not named stays. At another host it begins without keys."""

    base_url: Address | None = None
    prices: Prices | None = None
    models: Annotated[tuple[bodies.Name, ...], Field(min_length=1, max_length=100)] | None = None


class NewProviderKey(bodies.Body):
    """A key of a provider; unless `test` is false it is kept only if the provider takes it."""

    provider_id: UUID
    secret: Secret
    name: Annotated[str, Field(max_length=200), bodies.Text] = ""
    test: StrictBool = True


class ChangedProviderKey(bodies.Body):
    """Another secret in the place of a key's."""

    secret: Secret
    test: StrictBool = True


class StoredProvider(Answer):
    """A provider beside the configured ones."""

    id: UUID
    name: str
    base_url: str
    prices: str
    models: list[str]
    created_at: datetime


class ConfiguredProvider(Answer):
    """A provider of the configuration: it comes before stored ones, and is changed there."""

    name: str
    base_url: str
    prices: str
    models: list[str]
    has_key: bool


class Providers(answers.Page[StoredProvider]):
    """All providers: those that are stored, and those of the configuration."""

    configured: list[ConfiguredProvider]


class ProviderKey(Answer):
    """A key of a provider: the last four characters are all that is told of its secret."""

    id: UUID
    provider_id: UUID
    name: str
    last_four: str
    created_at: datetime
    changed_at: datetime

    @classmethod
    def of(cls, row: ProviderKeyRow) -> Self:
        return cls(
            id=row.id,
            provider_id=row.provider_id,
            name=row.name,
            last_four=row.last_four,
            created_at=row.created_at,
            changed_at=row.changed_at,
        )


async def listed(on: Services, _call: Call) -> Providers:
    """Providers, in the order in which they are looked through for a model."""
    configured = [
        ConfiguredProvider(
            name=name,
            base_url=provider.base_url,
            prices=provider.prices,
            models=list(provider.models),
            has_key=provider.api_key is not None,
        )
        for name, provider in on.configured.items()
    ]
    stored = [StoredProvider(**asdict(row)) for row in await on.providers.list()]
    return Providers(data=stored, next_cursor=None, configured=configured)


async def added(on: Services, call: Call) -> StoredProvider:
    """Add a provider."""
    new = call.body_as(NewProvider)
    return StoredProvider(**asdict(await on.providers.add(new.name, new.base_url, new.prices, new.models)))


async def changed(on: Services, call: Call) -> StoredProvider:
    """Change a provider."""
    wish = call.body_as(ChangedProvider)
    return StoredProvider(**asdict(await on.providers.change(call.id(), wish.base_url, wish.prices, wish.models)))


async def removed(on: Services, call: Call) -> None:
    """Remove a provider with its keys."""
    await on.providers.remove(call.id())


async def keys(on: Services, _call: Call) -> answers.Page[ProviderKey]:
    """Keys of all providers, in the order of their making."""
    return answers.Page[ProviderKey](data=[ProviderKey.of(row) for row in await on.providers.keys()], next_cursor=None)


async def key_added(on: Services, call: Call) -> ProviderKey:
    """Add a key."""
    new = call.body_as(NewProviderKey)
    secret = new.secret.get_secret_value()
    tried_at = None
    if new.test:
        tried_at = (await on.providers.read(new.provider_id)).base_url
        await probe(tried_at, secret)
    return ProviderKey.of(await on.providers.add_key(new.provider_id, secret, new.name, tried_at))


async def key_rotated(on: Services, call: Call) -> ProviderKey:
    """Put another secret in the place of a key's."""
    changed = call.body_as(ChangedProviderKey)
    secret = changed.secret.get_secret_value()
    if changed.test:
        await probe(await on.providers.url_of_key(call.id()), secret)
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
        summary="Change a provider's address, prices or models; at another host it begins without keys",
        body=ChangedProvider,
        answer=StoredProvider,
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
