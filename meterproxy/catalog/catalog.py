"""Catalog: the price and the size of a model, as a lookup that a request can afford.

Rules
-----
- The provider's section of the price data is named by configuration, never guessed from a URL or a provider's name.
- A price is chosen by the time the request was accepted.
- A model is priced only if what its operation needs is priced: answers that write need a rate of input and one of
  output, embeddings one of input. Free is what is written as 0; an empty price list is not.
- What a provider bills to nobody (`FREE`) is free whatever model does it, unless the operator has set a price for that
  model: no list names a price for it, which is not the same as unpriced.
- What the operator sets for a model replaces the data's price whole: nothing of it shines through.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeVar

from meterproxy.catalog.compile import FOREVER_US, Compiled, compile_price
from meterproxy.catalog.maxima import Maxima
from meterproxy.core.bound import ModelFacts
from meterproxy.core.price import DEFAULT, Price, RateCard
from meterproxy.core.record import bookable_text
from meterproxy.core.usage import INPUT_KINDS, KINDS, OUTPUT_KINDS

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, Provider

DEFAULT_MAX_OUTPUT_TOKENS: Final = 16_384
UNKNOWN_CONTEXT_TOKENS: Final = 10_000_000
"""The longest context that any model in the data has. It only matters for input that is not in the body: what is in
the body is bounded by its bytes long before."""

_INPUT: Final = frozenset(INPUT_KINDS)
_OUTPUT: Final = frozenset(OUTPUT_KINDS)
_BOTH: Final = (_INPUT, _OUTPUT)
_NEEDS: Final[Mapping[str, tuple[frozenset[str], ...]]] = MappingProxyType(
    {"chat": _BOTH, "completion": _BOTH, "embedding": (_INPUT,), "response": _BOTH}
)
"""Per operation: of each of these sets some kind must have a rate of its own."""

FREE: Final = frozenset({"moderation"})
"""Operations that are billed to nobody. Source: OpenAI's guide "Moderation"."""

_ANY: Final = (frozenset(KINDS),)
_OPERATION_OF_MODE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "chat": "chat",
        "responses": "chat",
        "completion": "completion",
        "embedding": "embedding",
        "moderation": "moderation",
    }
)
"""Models of other modes (speech, pictures, …) are priced if anything of theirs is."""

_ZERO: Final = RateCard.written([(-1, dict.fromkeys(KINDS, 0))])
_WORDS_OF_EMBEDDINGS: Final = ("embed", "bge-", "voyage-")
_REMEMBERED: Final = 4096
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class FactsOverride:
    """What the operator sets for a model's size."""

    max_output_tokens: int | None = None
    context_tokens: int | None = None


class Catalog:
    """Prices and facts by provider section (`prices_id`) and model name.

    `overrides` are rates in nanodollars by kind and model name, `facts_overrides` sizes by model name.
    """

    def __init__(
        self,
        overrides: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
        facts_overrides: Mapping[str, FactsOverride] = MappingProxyType({}),
        *,
        default_max_output_tokens: int = DEFAULT_MAX_OUTPUT_TOKENS,
        maxima: Maxima | None = None,
    ) -> None:
        self._overrides = {model: RateCard.written([(-1, rates)]) for model, rates in overrides.items()}
        self._facts_overrides = facts_overrides
        self._default_max_output_tokens = default_max_output_tokens
        self._maxima = Maxima.shipped() if maxima is None else maxima
        self._compiled: dict[tuple[str, str, str | None], Compiled] = {}
        self._facts: dict[tuple[str | None, str], ModelFacts] = {}

    def price(self, prices_id: str, model: str, at_us: int, operation: str | None = None) -> Price | None:
        """The price that a request accepted at `at_us` is charged by; None: unpriced.

        Without an operation the model's own mode says what must be priced.
        """
        key = (prices_id, model, operation)
        compiled = self._compiled.get(key)
        if compiled is None or not compiled.holds(at_us):
            compiled = self._compile(prices_id, model, at_us, operation)
            _remember(self._compiled, key, compiled)
        return compiled.price

    def load(self) -> None:
        """Import the price data now (about 0.2 s), so that no request has to wait for it; for the start of a worker."""
        _providers_by_id()

    def facts(self, model: str, prices_id: str | None = None) -> ModelFacts:
        """What is known of a model's size, with defaults where nothing is."""
        facts = self._facts.get((prices_id, model))
        if facts is None:
            facts = self._find_facts(model, prices_id)
            _remember(self._facts, (prices_id, model), facts)
        return facts

    def models(self, prices_id: str) -> tuple[str, ...]:
        """The models that have an entry in one section or a price set by the operator, as these name them."""
        provider = _providers_by_id().get(prices_id)
        return tuple(sorted({*self._overrides, *(model.id for model in (provider.models if provider else ()))}))

    def _compile(self, prices_id: str, model: str, at_us: int, operation: str | None) -> Compiled:
        operation = operation or self._operation_of(prices_id, model)
        card = self._overrides.get(model)
        if card is not None:
            compiled = Compiled(Price(prices_id, model, {DEFAULT: card}), -FOREVER_US, FOREVER_US)
        elif operation in FREE:
            return Compiled(Price(prices_id, bookable_text(model), {DEFAULT: _ZERO}), -FOREVER_US, FOREVER_US)
        else:
            compiled = _compile_entry(prices_id, model, at_us)
        needs = _NEEDS.get(operation, _ANY)
        return compiled if _covers(compiled.price, needs) else replace(compiled, price=None)

    def _operation_of(self, prices_id: str, model: str) -> str:
        return _OPERATION_OF_MODE.get(self.facts(model, prices_id).mode or "chat", "other")

    def _find_facts(self, model: str, prices_id: str | None) -> ModelFacts:
        provider = None if prices_id is None else _providers_by_id().get(prices_id)
        entry = _find_entry(provider, model)
        row = self._maxima.find(prices_id, model) or (entry and self._maxima.find(prices_id, entry.id)) or None
        override = self._facts_overrides.get(model, FactsOverride())
        output_tokens = override.max_output_tokens or (row.output_tokens if row else None)
        mode = row.mode if row else None
        return ModelFacts(
            context_tokens=override.context_tokens or _highest_context(row and row.input_tokens, entry),
            max_output_tokens=output_tokens or self._default_max_output_tokens,
            reasoning=bool(row and row.reasoning),
            mode=mode or ("embedding" if any(word in model.lower() for word in _WORDS_OF_EMBEDDINGS) else None),
            certain_output=output_tokens is not None,
        )


def _highest_context(input_tokens: int | None, entry: "ModelInfo | None") -> int:
    """The highest that any source names: one that is too low would let a hold be too small."""
    return max(input_tokens or 0, (entry.context_window if entry else None) or 0) or UNKNOWN_CONTEXT_TOKENS


def _compile_entry(prices_id: str, model: str, at_us: int) -> Compiled:
    provider = _providers_by_id().get(prices_id)
    entry = _find_entry(provider, model)
    if provider is None or entry is None:
        return Compiled(None, -FOREVER_US, FOREVER_US)
    return compile_price(provider, entry, at_us)


def _covers(price: Price | None, needs: tuple[frozenset[str], ...]) -> bool:
    return price is not None and all(price.card_for(None).written_kinds & kinds for kinds in needs)


def _remember(memory: dict[_Key, _Value], key: _Key, value: _Value) -> None:
    """Keep an answer; names come from clients, so the oldest is forgotten once there are too many."""
    if len(memory) >= _REMEMBERED:
        del memory[next(iter(memory))]
    memory[key] = value


def known_prices(prices_id: str) -> str:
    """The name itself, if prices are known under it. Raises ValueError, which names those that are."""
    if prices_id not in _providers_by_id():
        raise ValueError(f"no prices are known under {prices_id!r}; there are {', '.join(_providers_by_id())}")
    return prices_id


@cache
def _providers() -> "list[Provider]":
    """The price data; imported when first asked for (about 0.15 s and 20 MB, most of it the package's own imports)."""
    from genai_prices.data import providers

    return providers


@cache
def _providers_by_id() -> "dict[str, Provider]":
    return {provider.id: provider for provider in _providers()}


def _find_entry(provider: "Provider | None", model: str) -> "ModelInfo | None":
    """The entry that matches a model's name, also among the providers whose models this one sells."""
    return None if provider is None else provider.find_model(model, all_providers=_providers())
