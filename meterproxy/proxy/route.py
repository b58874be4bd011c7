"""Route: from a model's name to the provider that serves it and the price it is charged at.

Rules
-----
- The first provider in the configuration's order that matches wins; a price is chosen by the accept time.
- A model that no provider serves, or that the key may not use, does not exist: 404 `model_not_found`.
- A model without a price is refused, unless the operator has declared such models free.
"""

from functools import lru_cache
from typing import Final

import msgspec

from meterproxy.core.bound import ModelFacts
from meterproxy.core.key import KeyEntry
from meterproxy.core.price import Price, RateCard, Rates, RateTier
from meterproxy.core.record import bookable_text
from meterproxy.errors import ApiError, Case
from meterproxy.proxy.authenticate import may_use_model
from meterproxy.proxy.ports import Catalog
from meterproxy.proxy.provider import Provider, provider_of

_FREE: Final = {"default": RateCard((RateTier(-1, Rates()),))}
MODELS_REMEMBERED: Final = 4096


class Route(msgspec.Struct, frozen=True):
    """Where a request goes and what it costs there."""

    provider: Provider
    model: str
    price: Price
    facts: ModelFacts


class Router:
    """Knows the providers and their prices."""

    def __init__(self, providers: tuple[Provider, ...], catalog: Catalog, *, unpriced_free: bool = False) -> None:
        self.providers = providers
        self._catalog = catalog
        self._unpriced_free = unpriced_free
        self._serving: dict[str, Provider | None] = {}

    def route(self, model: str, operation: str, key: KeyEntry, at_us: int) -> Route:
        """Find where a model's requests go.

        Raises:
            ApiError: MODEL_NOT_FOUND, MODEL_NOT_PRICED, UPSTREAM_ACCOUNT while its provider rests.
        """
        provider = self.provider_of(model)
        if provider is None or not may_use_model(key, model):
            raise not_found(model)
        price = self.price(provider, model, at_us, operation)
        if price is None:
            raise ApiError(
                Case.MODEL_NOT_PRICED, f"The model '{shown(model)}' has no price and cannot be used.", param="model"
            )
        provider = provider.awake(key.account_id, operation, model, at_us)
        return Route(provider, model, price, self._catalog.facts(model, provider.prices))

    def free_route(self, model: str, owner: str | None, operation: str, key: KeyEntry, at_us: int) -> Route | None:
        """Find where a request goes that costs nothing; None where its resource's provider is no longer configured.

        What it mentions decides, then its model, then the configuration's order.

        Raises:
            ApiError: MODEL_NOT_FOUND, UPSTREAM_ACCOUNT while the provider rests.
        """
        provider = self.named(owner) if owner is not None else self.providers[0] if self.providers else None
        if model:
            serving = self.provider_of(model)
            if serving is None or not may_use_model(key, model):
                raise not_found(model)
            provider = serving if owner is None else provider
        if provider is None:
            return None
        provider = provider.awake(key.account_id, operation, model, at_us)
        return Route(provider, model, _free_price(provider.prices, model), self._catalog.facts(model, provider.prices))

    def replace(self, providers: tuple[Provider, ...]) -> None:
        """Serve by these from now on; what runs goes on with what it began with."""
        self.providers = providers
        self._serving.clear()

    def named(self, name: str) -> Provider | None:
        """The provider of that name, None where none is configured."""
        return next((provider for provider in self.providers if provider.name == name), None)

    def provider_of(self, model: str) -> Provider | None:
        """The provider that serves a model, None where none does."""
        try:
            return self._serving[model]
        except KeyError:
            if len(self._serving) >= MODELS_REMEMBERED:
                self._serving.clear()
        provider = self._serving[model] = provider_of(model, self.providers)
        return provider

    def price(self, provider: Provider, model: str, at_us: int, operation: str | None = None) -> Price | None:
        """A model's price at a provider; all zeros where the operator has declared unpriced models free."""
        price = self._catalog.price(provider.prices, model, at_us, operation)
        if price is None and self._unpriced_free:
            return _free_price(provider.prices, model)
        return price

    def facts(self, provider: Provider, model: str) -> ModelFacts:
        """What is known of a model's size at a provider."""
        return self._catalog.facts(model, provider.prices)


@lru_cache(maxsize=MODELS_REMEMBERED)
def _free_price(prices_id: str, model: str) -> Price:
    return Price(prices_id, bookable_text(model), _FREE)


def not_found(model: str) -> ApiError:
    """What OpenAI says of a model that does not exist."""
    message = f"The model `{shown(model)}` does not exist or you do not have access to it."
    return ApiError(Case.MODEL_NOT_FOUND, message, param="model")


def shown(model: str) -> str:
    """A model's name as it may stand in an error."""
    return "".join(letter for letter in model[:80] if letter.isprintable())
