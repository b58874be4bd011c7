"""Prices: what the models cost that can be had, as this service charges them; and a given usage over all of them."""

from decimal import Decimal
from typing import Annotated, Final, Self

from pydantic import Field

from meterproxy.control.access import Permission
from meterproxy.control.answers import Answer, Nanos, Usd, money
from meterproxy.control.call import Call, Services
from meterproxy.control.queries import Query
from meterproxy.control.route import Route
from meterproxy.core.money import PPM, format_usd
from meterproxy.core.price import DEFAULT, SIZES, RateCard
from meterproxy.core.usage import KINDS, MAX_COUNT, Usage
from meterproxy.errors import Case
from meterproxy.proxy.models import Offer

Tokens = Annotated[int, Field(ge=0, le=MAX_COUNT)]


class RateOfKind(Answer):
    """What so many units of a kind cost, with more tokens of input than `above_input_tokens`."""

    kind: str
    above_input_tokens: int
    per: int
    usd: Usd


class Card(Answer):
    """The rates of one service tier."""

    service_tier: str
    rates: list[RateOfKind]


class ModelPrice(Answer):
    """A model that can be had, its size, and what it costs; `mode` is what it is made for, where that is known."""

    id: str
    provider: str
    mode: str | None
    context_tokens: int
    max_output_tokens: int
    cards: list[Card]

    @classmethod
    def of(cls, offer: Offer, markup_ppm: int) -> Self:
        return cls(
            id=offer.model,
            provider=offer.provider,
            mode=offer.facts.mode,
            context_tokens=offer.facts.context_tokens,
            max_output_tokens=offer.facts.max_output_tokens,
            cards=[Card(service_tier=name, rates=_rates(card, markup_ppm)) for name, card in offer.price.cards.items()],
        )

    @property
    def chats(self) -> bool:
        """Whether it answers chat completions: it is made for that, or nobody says what for, and it writes."""
        return self.mode == "chat" or (self.mode is None and self.rate("output") is not None)

    def rate(self, kind: str) -> str | None:
        """What a unit size of a kind costs on the first card, with little input."""
        return next((rate.usd for rate in self.cards[0].rates if rate.kind == kind), None)


class Prices(Answer):
    """All models that can be had."""

    data: list[ModelPrice]


class Comparison(Query):
    """A usage; tokens of input are without those read from a cache."""

    input_tokens: Tokens = 0
    cached_tokens: Tokens = 0
    output_tokens: Tokens = 0


class Compared(Answer):
    """What a usage would cost with a model."""

    model: str
    provider: str
    amount: Usd
    amount_nanos: Nanos


class Comparisons(Answer):
    """The same usage over all models, the cheapest first."""

    data: list[Compared]


class Costs(Answer):
    """All models that can be had, at what their providers charge us; `markup` times that is what is charged here."""

    markup: str
    data: list[ModelPrice]


async def costs(on: Services, _call: Call) -> Costs:
    """What the operator pays."""
    offers = await on.machine.offers()
    markup = format(Decimal(on.machine.markup_ppm) / PPM, "f")
    return Costs(markup=markup, data=[ModelPrice.of(offer, PPM) for offer in offers])


async def prices(on: Services, _call: Call) -> Prices:
    """All models that can be had, with their prices."""
    offers = await on.machine.offers()
    return Prices(data=[ModelPrice.of(offer, on.machine.markup_ppm) for offer in offers])


async def compared(on: Services, call: Call) -> Comparisons:
    """What a usage would cost with each model that writes."""
    asked = call.query_as(Comparison)
    usage = Usage(input=asked.input_tokens, cache_read=asked.cached_tokens, output=asked.output_tokens)
    told = [
        Compared(
            model=offer.model,
            provider=offer.provider,
            **money(amount=offer.price.amounts(usage, None, on.machine.markup_ppm).amount_nanos),
        )
        for offer in await on.machine.offers()
        if _writes(offer) or not asked.output_tokens
    ]
    return Comparisons(data=sorted(told, key=lambda one: (one.amount_nanos, one.model)))


def _writes(offer: Offer) -> bool:
    """A price list may have a rate for what a model never does: one that judges texts writes none."""
    return "output" in offer.price.cards[DEFAULT].written_kinds and offer.facts.mode != "moderation"


def _rates(card: RateCard, markup_ppm: int) -> list[RateOfKind]:
    return [
        RateOfKind(
            kind=kind,
            above_input_tokens=max(tier.above_input_tokens, 0),
            per=SIZES[KINDS.index(kind)],
            usd=format_usd(round(nanos * markup_ppm / PPM)),
        )
        for tier in card.tiers
        for kind, nanos in tier.rates._asdict().items()
        if kind in card.written_kinds
    ]


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="GET",
        path="/api/prices",
        permission=Permission.READ_OWN,
        endpoint=prices,
        summary="Models that can be had, with their prices",
        answer=Prices,
        refusals=(Case.UPSTREAM_ACCOUNT, Case.UPSTREAM_UNREACHABLE, Case.UPSTREAM_TIMEOUT),
    ),
    Route(
        method="GET",
        path="/api/ai/models",
        permission=Permission.READ_OWN,
        endpoint=prices,
        summary="The same as /api/prices",
        answer=Prices,
        refusals=(Case.UPSTREAM_ACCOUNT, Case.UPSTREAM_UNREACHABLE, Case.UPSTREAM_TIMEOUT),
    ),
    Route(
        method="GET",
        path="/api/admin/prices",
        permission=Permission.OPERATE,
        endpoint=costs,
        summary="Models that can be had, at what their providers charge us",
        answer=Costs,
        refusals=(Case.UPSTREAM_ACCOUNT, Case.UPSTREAM_UNREACHABLE, Case.UPSTREAM_TIMEOUT),
    ),
    Route(
        method="GET",
        path="/api/prices/compare",
        permission=Permission.READ_OWN,
        endpoint=compared,
        summary="What a usage would cost with each model, the cheapest first",
        query=Comparison,
        answer=Comparisons,
        refusals=(Case.UPSTREAM_ACCOUNT, Case.UPSTREAM_UNREACHABLE, Case.UPSTREAM_TIMEOUT),
    ),
)
