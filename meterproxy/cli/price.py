"""`price`: what a model is charged at, today, with this configuration."""

import time
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import click

from meterproxy.cli.invocation import Invocation, invoked
from meterproxy.errors import MeterproxyError

if TYPE_CHECKING:
    from meterproxy.catalog.catalog import Catalog
    from meterproxy.config import Config
    from meterproxy.core.price import Price, RateCard

PER = {
    "requests": "1,000",
    "images": "1",
    "audio_ms": "hour",
    "web_searches": "1,000",
    "file_searches": "1,000",
}
"""What a rate is for, where it is not a million."""


class NoPrice(MeterproxyError):
    """The model cannot be charged for."""


@click.group()
def command() -> None:
    """Prices: what a model is charged at."""


@command.command("list")
@click.option("--prices", "prices_id", metavar="ID", help="Whose prices: a provider's id in genai-prices.")
@invoked
def list_(invocation: Invocation, prices_id: str | None) -> None:
    """List the models that have a price, with their main rates in USD."""
    from meterproxy.catalog.catalog import known_prices

    config = invocation.load()
    chosen = prices_id or next((provider.prices for provider in config.providers.values()), "openai")
    catalog = _catalog(config)
    try:
        known_prices(chosen)
    except ValueError as error:
        raise NoPrice(str(error)) from None
    now_us = time.time_ns() // 1000
    priced = ((model, catalog.price(chosen, model, now_us)) for model in catalog.models(chosen))
    rows = [_summary(model, price) for model, price in priced if price is not None]
    invocation.show_all(rows, ("model", "input", "cache_read", "output"))


@command.command()
@click.argument("model")
@click.option("--prices", "prices_id", metavar="ID", help="Whose prices: a provider's id in genai-prices.")
@invoked
def show(invocation: Invocation, model: str, prices_id: str | None) -> None:
    """Show every rate of a model in USD, and how much it reads and writes."""
    config = invocation.load()
    chosen = prices_id or _serving(config, model)
    catalog = _catalog(config)
    price = catalog.price(chosen, model, time.time_ns() // 1000)
    if price is None:
        raise NoPrice(f"{model} has no price under {chosen!r}: set models.{model}.price, or try --prices")
    facts = catalog.facts(model, chosen)
    rates = [row for name, card in price.cards.items() for row in _rates(name, card)]
    if invocation.as_json:
        invocation.show(
            {
                "provider": price.provider,
                "model": price.model,
                "price_id": price.id,
                "context_tokens": facts.context_tokens,
                "max_output_tokens": facts.max_output_tokens,
                "reasoning": facts.reasoning,
                "rates": rates,
            }
        )
        return
    print(
        f"{price.model} of {price.provider}: reads {facts.context_tokens:,}, writes {facts.max_output_tokens:,} tokens"
    )
    invocation.show_all(rates, ("card", "above_input_tokens", "kind", "rate", "per", "source"))


def _catalog(config: "Config") -> "Catalog":
    from meterproxy.catalog.catalog import Catalog, FactsOverride

    return Catalog(
        {name: model.price for name, model in config.models.items() if model.price is not None},
        {name: FactsOverride(model.max_output_tokens, model.context_tokens) for name, model in config.models.items()},
        default_max_output_tokens=config.default_max_output_tokens,
    )


def _serving(config: "Config", model: str) -> str:
    """Whose prices hold for a model: those of the first provider that serves it."""
    for provider in config.providers.values():
        if any(fnmatchcase(model, pattern) for pattern in provider.models):
            return provider.prices
    return "openai"


def _summary(model: str, price: "Price") -> dict[str, object]:
    rates = price.card_for(None).tiers[0].rates
    return {
        "model": model,
        "input_nanos": rates.input,
        "cache_read_nanos": rates.cache_read,
        "output_nanos": rates.output,
    }


def _rates(name: str, card: "RateCard") -> Iterator[dict[str, object]]:
    """One row per tier and kind; kinds that nobody priced and that cost nothing are left out."""
    for tier in card.tiers:
        for kind, nanos in tier.rates._asdict().items():
            if kind in card.written_kinds or nanos:
                yield {
                    "card": name,
                    "above_input_tokens": max(tier.above_input_tokens, 0),
                    "kind": kind,
                    "rate_nanos": nanos,
                    "per": PER.get(kind, "1,000,000"),
                    "source": _source(card, kind),
                }


def _source(card: "RateCard", kind: str) -> str:
    if kind in card.substituted:
        return "as its parent"
    return "dearest of its direction" if kind in card.unpriced else "own"
